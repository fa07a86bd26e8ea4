/* encode: a Lua value as protobuf bytes.
 *
 * 1. The same value gives the same bytes, whatever the order of its tables: fields go in the order of their numbers,
 *    map and Struct entries in the order of their keys. So does which mistake is told when there are several.
 * 2. Tables are read raw: no metamethod runs, and nothing raises but lack of memory.
 * 3. Nothing is dropped or rounded silently: an unknown key, a number that does not fit, text that is not UTF-8 are
 *    refused with the path to them.
 *
 * A message's length stands before it: it is written behind where the length will be, then moved. A message moves
 * once for each level around it.
 */
#include "lua/message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  lua_State *L;
  tci_buf *buf;
} encoder;

static bool put_body(encoder *e, const ProtobufCMessageDescriptor *message, const tci_message_path *path, int depth);
static bool put_field(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path, int depth);
static bool put_value(encoder *e, const tci_message_path *path, int depth);

bool tci_message_encode(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        tci_buf *buf) {
  encoder e = {L, buf};
  return put_body(&e, message, path, 0);
}

/* ---- bytes ---- */

/* Opens a length-delimited field; `open_len` closes it. */
static size_t open_len(encoder *e, uint32_t number) {
  tci_wire_put_varint(e->buf, (uint64_t)number << 3 | TCI_WIRE_LEN);
  return e->buf->len;
}

static void close_len(encoder *e, size_t start) {
  size_t len = e->buf->len - start, prefix = 1;
  for (size_t rest = len >> 7; rest; rest >>= 7) prefix++;
  tci_buf_reserve(e->buf, prefix);
  memmove(e->buf->ptr + start + prefix, e->buf->ptr + start, len);
  e->buf->len = start;
  tci_wire_put_varint(e->buf, len);
  e->buf->len += len;
}

static void put_number(encoder *e, uint32_t number, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  tci_wire_put_varint(e->buf, (uint64_t)number << 3 | TCI_WIRE_I64);
  for (int i = 0; i < 8; i++) tci_buf_byte(e->buf, (uint8_t)(bits >> 8 * i));
}

/* ---- values: each takes the one on top of the stack ---- */

/* What was got instead: "1.5", "a string", "null". Borrowed from the stack. */
static const char *got(lua_State *L) {
  switch (lua_type(L, -1)) {
    case LUA_TNUMBER: lua_pushvalue(L, -1); return lua_tostring(L, -1);
    case LUA_TLIGHTUSERDATA: return lua_touserdata(L, -1) == NULL ? "null" : "a light userdata";
    case LUA_TNIL: return "nil";
    default: return lua_pushfstring(L, "a %s", luaL_typename(L, -1));
  }
}

/* Room on the stack, and an end to tables that contain themselves. */
static bool descend(encoder *e, const tci_message_path *path, int depth) {
  luaL_checkstack(e->L, LUA_MINSTACK, NULL);
  return depth < TCI_MESSAGE_DEPTH_MAX ||
         tci_message_fail(e->L, path, "nested deeper than %d tables", TCI_MESSAGE_DEPTH_MAX);
}

static bool get_text(encoder *e, const tci_message_path *path, tci_str *out) {
  if (lua_type(e->L, -1) != LUA_TSTRING) return tci_message_fail(e->L, path, "expected a string, got %s", got(e->L));
  out->ptr = lua_tolstring(e->L, -1, &out->len);
  return tci_str_is_utf8(*out) || tci_message_fail(e->L, path, "not UTF-8");
}

static bool get_integer(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path,
                        uint64_t *out) {
  lua_State *L = e->L;
  int exact = 0;
  lua_Integer value = lua_type(L, -1) == LUA_TNUMBER ? lua_tointegerx(L, -1, &exact) : 0;
  if (!exact) return tci_message_fail(L, path, "expected an integer, got %s", got(L));
  lua_Integer min = INT64_MIN, max = INT64_MAX;
  if (field->type == PROTOBUF_C_TYPE_UINT32 || field->type == PROTOBUF_C_TYPE_UINT64) min = 0;
  if (field->type == PROTOBUF_C_TYPE_UINT32) max = UINT32_MAX;
  if (field->type == PROTOBUF_C_TYPE_INT32 || field->type == PROTOBUF_C_TYPE_ENUM) min = INT32_MIN, max = INT32_MAX;
  if (value < min || value > max) return tci_message_fail(L, path, "%I is out of range (%I to %I)", value, min, max);
  *out = (uint64_t)value;
  return true;
}

static bool get_enum(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path, uint64_t *out) {
  const ProtobufCEnumDescriptor *type = field->descriptor;
  if (lua_type(e->L, -1) == LUA_TNUMBER) return get_integer(e, field, path, out);
  tci_str name = {NULL, 0};
  if (!get_text(e, path, &name)) return false;
  tci_guess guess = tci_guess_start(name);
  for (unsigned i = 0; i < type->n_values; i++) {
    const ProtobufCEnumValue *value = &type->values[i];
    const char *brief = tci_message_enum_short(type, value->name);
    if (tci_str_eq(name, tci_str_from(brief)) || tci_str_eq(name, tci_str_from(value->name))) {
      *out = (uint64_t)(int64_t)value->value;
      return true;
    }
    tci_guess_offer(&guess, tci_str_from(brief));
  }
  return tci_message_fail(e->L, path, "no %s is called '%s'%s", type->short_name, name.ptr,
                          tci_lua_push_guess(e->L, &guess));
}

/* A varint field's value. */
static bool get_scalar(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path, uint64_t *out) {
  if (field->type == PROTOBUF_C_TYPE_ENUM) return get_enum(e, field, path, out);
  if (field->type != PROTOBUF_C_TYPE_BOOL) return get_integer(e, field, path, out);
  if (!lua_isboolean(e->L, -1)) return tci_message_fail(e->L, path, "expected true or false, got %s", got(e->L));
  *out = (uint64_t)lua_toboolean(e->L, -1);
  return true;
}

/* ---- fields of messages ---- */

/* Every key is a field; of several that are not, the least is told. */
static bool check_keys(encoder *e, const ProtobufCMessageDescriptor *message, const tci_message_path *path) {
  lua_State *L = e->L;
  tci_str wrong = {NULL, 0};
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      return tci_message_fail(L, path, "the keys of a %s are field names, not a %s", message->short_name,
                              luaL_typename(L, -2));
    tci_str key = {NULL, 0};
    key.ptr = lua_tolstring(L, -2, &key.len);
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(message, key.ptr);
    if (field && strlen(field->name) == key.len) continue;
    if (!wrong.ptr || tci_str_cmp(key, wrong) < 0) wrong = key;
  }
  if (!wrong.ptr) return true;
  tci_guess guess = tci_guess_start(wrong);
  for (unsigned i = 0; i < message->n_fields; i++) tci_guess_offer(&guess, tci_str_from(message->fields[i].name));
  tci_message_path at = {path, wrong, 0};
  return tci_message_fail(L, &at, "no such field%s", tci_lua_push_guess(L, &guess));
}

/* At most one member of each oneof. */
static bool check_oneof(encoder *e, const ProtobufCMessageDescriptor *message, const ProtobufCFieldDescriptor *field,
                        const tci_message_path *path) {
  if (!(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)) return true;
  for (const ProtobufCFieldDescriptor *other = message->fields; other < field; other++) {
    if (!(other->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) || other->quantifier_offset != field->quantifier_offset) continue;
    lua_pushstring(e->L, other->name);
    bool set = lua_rawget(e->L, -3) != LUA_TNIL; /* below: the field's value, the table */
    lua_pop(e->L, 1);
    if (set) return tci_message_fail(e->L, path, "'%s' and '%s' exclude each other", other->name, field->name);
  }
  return true;
}

static bool put_message(encoder *e, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        int depth) {
  lua_State *L = e->L;
  if (!lua_istable(L, -1)) return tci_message_fail(L, path, "expected a table, got %s", got(L));
  if (!descend(e, path, depth) || !check_keys(e, message, path)) return false;
  for (unsigned i = 0; i < message->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->fields[i];
    tci_message_path at = {path, tci_str_from(field->name), 0};
    lua_pushstring(L, field->name);
    if (lua_rawget(L, -2) != LUA_TNIL)
      if (!check_oneof(e, message, field, path) || !put_field(e, field, &at, depth)) return false;
    lua_pop(L, 1);
  }
  return true;
}

/* One value with its tag; `always`: the default too. */
static bool put_single(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path, int depth,
                       bool always) {
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
    size_t start = open_len(e, field->id);
    if (!put_body(e, field->descriptor, path, depth + 1)) return false;
    close_len(e, start);
    return true;
  }
  if (field->type == PROTOBUF_C_TYPE_STRING) {
    tci_str text = {NULL, 0};
    if (!get_text(e, path, &text)) return false;
    if (text.len || always) tci_wire_put_bytes(e->buf, field->id, text);
    return true;
  }
  uint64_t value = 0;
  if (!get_scalar(e, field, path, &value)) return false;
  if (value || always) tci_wire_put_uint(e->buf, field->id, value);
  return true;
}

static bool put_repeated(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path, int depth) {
  lua_State *L = e->L;
  if (!lua_istable(L, -1)) return tci_message_fail(L, path, "expected a list, got %s", got(L));
  if (!tci_message_is_list(L, -1)) return tci_message_fail(L, path, "expected a list, got a table with other keys");
  lua_Integer len = (lua_Integer)lua_rawlen(L, -1);
  bool packed = field->flags & PROTOBUF_C_FIELD_FLAG_PACKED;
  size_t start = packed && len ? open_len(e, field->id) : 0;
  for (lua_Integer i = 1; i <= len; i++) {
    tci_message_path at = {path, {NULL, 0}, i};
    lua_rawgeti(L, -1, i);
    uint64_t value = 0;
    if (!(packed ? get_scalar(e, field, &at, &value) : put_single(e, field, &at, depth, true))) return false;
    if (packed) tci_wire_put_varint(e->buf, value);
    lua_pop(L, 1);
  }
  if (packed && len) close_len(e, start);
  return true;
}

static int by_bytes(const void *a, const void *b) { return tci_str_cmp(*(const tci_str *)a, *(const tci_str *)b); }

/* The keys of the table on top, sorted, in a userdata that is pushed. NULL: failed. */
static tci_str *push_sorted_keys(encoder *e, const tci_message_path *path, size_t *out_len) {
  lua_State *L = e->L;
  size_t len = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      tci_message_fail(L, path,
                       lua_isinteger(L, -2) ? "mixes a list with named values, or has holes (use core.null)"
                                            : "keys are strings, or 1 to n");
      return NULL;
    }
    len++;
  }
  tci_str *keys = lua_newuserdatauv(L, len * sizeof *keys + 1, 0);
  size_t i = 0;
  for (lua_pushnil(L); lua_next(L, -3); lua_pop(L, 1), i++) keys[i].ptr = lua_tolstring(L, -2, &keys[i].len);
  qsort(keys, len, sizeof *keys, by_bytes);
  for (i = 0; i < len; i++) {
    tci_message_path at = {path, keys[i], 0};
    if (tci_str_is_utf8(keys[i])) continue;
    tci_message_fail(L, &at, "this key is not UTF-8");
    return NULL;
  }
  *out_len = len;
  return keys;
}

/* The entries of a map, and of a Struct (value == NULL: entries with Values). */
static bool put_entries(encoder *e, uint32_t number, const ProtobufCFieldDescriptor *value,
                        const tci_message_path *path, int depth) {
  lua_State *L = e->L;
  size_t len = 0;
  const tci_str *keys = push_sorted_keys(e, path, &len);
  if (!keys) return false;
  for (size_t i = 0; i < len; i++) {
    tci_message_path at = {path, keys[i], 0};
    tci_lua_push_str(L, keys[i]);
    lua_rawget(L, -3);
    size_t entry = open_len(e, number);
    tci_wire_put_bytes(e->buf, 1, keys[i]);
    size_t start = value ? 0 : open_len(e, 2);
    if (!(value ? put_single(e, value, &at, depth, true) : put_value(e, &at, depth))) return false;
    if (!value) close_len(e, start);
    close_len(e, entry);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return true;
}

static bool put_field(encoder *e, const ProtobufCFieldDescriptor *field, const tci_message_path *path, int depth) {
  if (!tci_message_is_map(field))
    return field->label == PROTOBUF_C_LABEL_REPEATED
               ? put_repeated(e, field, path, depth)
               : put_single(e, field, path, depth, field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
  if (!lua_istable(e->L, -1)) return tci_message_fail(e->L, path, "expected a table, got %s", got(e->L));
  const ProtobufCMessageDescriptor *entry = field->descriptor;
  return put_entries(e, field->id, &entry->fields[1], path, depth);
}

/* ---- the messages with a form of their own ---- */

static bool put_timestamp(encoder *e, const tci_message_path *path) {
  lua_State *L = e->L;
  if (lua_type(L, -1) != LUA_TNUMBER)
    return tci_message_fail(L, path, "expected a time (seconds since 1970), got %s", got(L));
  lua_Number time = lua_tonumber(L, -1);
  if (!(time >= -62135596800.0 && time < 253402300800.0)) /* the years 1 to 9999; NaN is in none */
    return tci_message_fail(L, path, "%s is not a time between the years 1 and 9999", got(L));
  int64_t us = llround(time * 1e6), seconds = us / 1000000, rest = us % 1000000;
  if (rest < 0) seconds--, rest += 1000000;
  if (seconds) tci_wire_put_uint(e->buf, 1, (uint64_t)seconds);
  if (rest) tci_wire_put_uint(e->buf, 2, (uint64_t)rest * 1000);
  return true;
}

static bool put_struct(encoder *e, const tci_message_path *path, int depth) {
  lua_State *L = e->L;
  if (!lua_istable(L, -1)) return tci_message_fail(L, path, "expected a table, got %s", got(L));
  if (tci_message_is_marked(L, -1) || (lua_rawlen(L, -1) > 0 && tci_message_is_list(L, -1)))
    return tci_message_fail(L, path, "expected named values, got a list");
  return descend(e, path, depth) && put_entries(e, 1, NULL, path, depth);
}

static bool put_list(encoder *e, const tci_message_path *path, int depth) {
  lua_State *L = e->L;
  if (!lua_istable(L, -1)) return tci_message_fail(L, path, "expected a list, got %s", got(L));
  if (!descend(e, path, depth)) return false;
  if (!tci_message_is_list(L, -1)) return tci_message_fail(L, path, "expected a list, got a table with other keys");
  lua_Integer len = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= len; i++) {
    tci_message_path at = {path, {NULL, 0}, i};
    lua_rawgeti(L, -1, i);
    size_t start = open_len(e, 1);
    if (!put_value(e, &at, depth)) return false;
    close_len(e, start);
    lua_pop(L, 1);
  }
  return true;
}

static bool put_table(encoder *e, const tci_message_path *path, int depth) {
  lua_State *L = e->L;
  bool list = tci_message_is_marked(L, -1) || (lua_rawlen(L, -1) > 0 && tci_message_is_list(L, -1));
  size_t start = open_len(e, list ? 6 : 5);
  if (!(list ? put_list(e, path, depth + 1) : put_struct(e, path, depth + 1))) return false;
  close_len(e, start);
  return true;
}

/* A google.protobuf.Value. */
static bool put_value(encoder *e, const tci_message_path *path, int depth) {
  lua_State *L = e->L;
  tci_str text = {NULL, 0};
  switch (lua_type(L, -1)) {
    case LUA_TBOOLEAN: tci_wire_put_uint(e->buf, 4, (uint64_t)lua_toboolean(L, -1)); return true;
    case LUA_TNUMBER: {
      lua_Number number = lua_tonumber(L, -1);
      if (!isfinite(number)) return tci_message_fail(L, path, "%s is not a JSON number", got(L));
      if (lua_isinteger(L, -1) && (number >= 0x1p63 || (lua_Integer)number != lua_tointeger(L, -1)))
        return tci_message_fail(L, path, "%s has too many digits for a JSON number: send it as a string", got(L));
      put_number(e, 2, number);
      return true;
    }
    case LUA_TSTRING:
      if (!get_text(e, path, &text)) return false;
      tci_wire_put_bytes(e->buf, 3, text);
      return true;
    case LUA_TTABLE: return put_table(e, path, depth);
    case LUA_TLIGHTUSERDATA:
      if (lua_touserdata(L, -1) == NULL) {
        tci_wire_put_uint(e->buf, 1, 0);
        return true;
      } /* fall through */
    default: return tci_message_fail(L, path, "JSON has nothing for %s", got(L));
  }
}

static bool put_body(encoder *e, const ProtobufCMessageDescriptor *message, const tci_message_path *path, int depth) {
  switch (tci_message_shape(message)) {
    case TCI_SHAPE_TIMESTAMP: return put_timestamp(e, path);
    case TCI_SHAPE_STRUCT: return put_struct(e, path, depth);
    case TCI_SHAPE_VALUE: return put_value(e, path, depth);
    case TCI_SHAPE_LIST: return put_list(e, path, depth);
    case TCI_SHAPE_FIELDS: break;
  }
  return put_message(e, message, path, depth);
}
