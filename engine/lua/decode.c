/* decode: protobuf bytes as a Lua value.
 *
 * 1. As protobuf reads: unknown fields and fields of a wrong wire type are skipped, of a scalar that stands twice the
 *    last one counts, messages that stand twice are merged, repeated numbers come packed or not, enums are open.
 * 2. Bytes that are no message, text that is not UTF-8 and nesting deeper than TCI_MESSAGE_DEPTH_MAX are refused with
 *    the path to them.
 */
#include "lua/message.h"

#include <math.h>
#include <string.h>

static bool get_message(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        tci_str bytes, int depth);
static bool get_value(lua_State *L, const tci_message_path *path, tci_str bytes, int depth);

/* ---- values: each pushes one ---- */

static bool malformed(lua_State *L, const tci_message_path *path) {
  return tci_message_fail(L, path, "malformed: not a protobuf message");
}

static bool descend(lua_State *L, const tci_message_path *path, int depth) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  return depth < TCI_MESSAGE_DEPTH_MAX ||
         tci_message_fail(L, path, "nested deeper than %d tables", TCI_MESSAGE_DEPTH_MAX);
}

static bool push_text(lua_State *L, const tci_message_path *path, tci_str text) {
  if (!tci_str_is_utf8(text)) return tci_message_fail(L, path, "not UTF-8");
  tci_lua_push_str(L, text);
  return true;
}

static bool push_scalar(lua_State *L, const ProtobufCFieldDescriptor *field, const tci_message_path *path,
                        uint64_t value) {
  switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL: lua_pushboolean(L, value != 0); return true;
    case PROTOBUF_C_TYPE_INT32: lua_pushinteger(L, (int32_t)(uint32_t)value); return true;
    case PROTOBUF_C_TYPE_UINT32: lua_pushinteger(L, (uint32_t)value); return true;
    case PROTOBUF_C_TYPE_ENUM: {
      const ProtobufCEnumDescriptor *type = field->descriptor;
      const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(type, (int32_t)(uint32_t)value);
      if (known)
        lua_pushstring(L, tci_message_enum_short(type, known->name));
      else
        lua_pushinteger(L, (int32_t)(uint32_t)value);
      return true;
    }
    case PROTOBUF_C_TYPE_UINT64:
      if (value > INT64_MAX) return tci_message_fail(L, path, "does not fit an integer of Lua");
      break;
    default: break;
  }
  lua_pushinteger(L, (lua_Integer)value);
  return true;
}

/* What an absent field is; nothing (false) for messages. */
static bool push_default(lua_State *L, const ProtobufCFieldDescriptor *field) {
  if (field->label == PROTOBUF_C_LABEL_REPEATED) {
    lua_newtable(L);
    if (!tci_message_is_map(field)) tci_message_mark_list(L); /* an empty one is a list in JSON, too */
  } else if (field->type == PROTOBUF_C_TYPE_MESSAGE || field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
    return false;
  } else if (field->type == PROTOBUF_C_TYPE_STRING) {
    lua_pushliteral(L, "");
  } else {
    return push_scalar(L, field, NULL, 0);
  }
  return true;
}

static bool push_timestamp(lua_State *L, const tci_message_path *path, tci_str bytes) {
  int64_t seconds = 0, nanos = 0;
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.type != TCI_WIRE_VARINT) continue;
    if (wire.number == 1) seconds = (int64_t)wire.value;
    if (wire.number == 2) nanos = (int32_t)(uint32_t)wire.value;
  }
  if (reader.at != reader.end) return malformed(L, path);
  if (seconds < -62135596800 || seconds > 253402300799 || nanos < 0 || nanos > 999999999)
    return tci_message_fail(L, path, "not a time between the years 1 and 9999");
  lua_pushnumber(L, (lua_Number)(seconds * 1000000 + nanos / 1000) / 1e6);
  return true;
}

/* Whole numbers come as integers: they print as they were written. */
static void push_number(lua_State *L, uint64_t bits) {
  double number;
  memcpy(&number, &bits, sizeof number);
  bool whole = fabs(number) <= 0x1p53 && floor(number) == number && !(number == 0 && signbit(number));
  if (whole)
    lua_pushinteger(L, (lua_Integer)number);
  else
    lua_pushnumber(L, number);
}

/* ---- Struct: adds to the table on top ---- */

static bool get_struct_entry(lua_State *L, const tci_message_path *path, tci_str bytes, int depth) {
  tci_str key = {"", 0}, value = {"", 0};
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.type != TCI_WIRE_LEN) continue;
    if (wire.number == 1) key = wire.bytes;
    if (wire.number == 2) value = wire.bytes;
  }
  if (reader.at != reader.end) return malformed(L, path);
  tci_message_path at = {path, key, 0};
  if (!push_text(L, &at, key) || !get_value(L, &at, value, depth)) return false;
  lua_rawset(L, -3);
  return true;
}

static bool get_struct(lua_State *L, const tci_message_path *path, tci_str bytes, int depth) {
  if (!descend(L, path, depth)) return false;
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire))
    if (wire.number == 1 && wire.type == TCI_WIRE_LEN && !get_struct_entry(L, path, wire.bytes, depth)) return false;
  return reader.at == reader.end || malformed(L, path);
}

static bool get_list(lua_State *L, const tci_message_path *path, tci_str bytes, int depth) {
  if (!descend(L, path, depth)) return false;
  lua_Integer len = (lua_Integer)lua_rawlen(L, -1);
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.number != 1 || wire.type != TCI_WIRE_LEN) continue;
    tci_message_path at = {path, {NULL, 0}, ++len};
    if (!get_value(L, &at, wire.bytes, depth)) return false;
    lua_rawseti(L, -2, len);
  }
  return reader.at == reader.end || malformed(L, path);
}

/* Pushes a google.protobuf.Value: of several kinds the last one, of none null. */
static bool get_value(lua_State *L, const tci_message_path *path, tci_str bytes, int depth) {
  static const tci_wire_type types[] = {
      0, TCI_WIRE_VARINT, TCI_WIRE_I64, TCI_WIRE_LEN, TCI_WIRE_VARINT, TCI_WIRE_LEN, TCI_WIRE_LEN};
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire, kind = {.number = 1};
  while (tci_wire_next(&reader, &wire))
    if (wire.number <= 6 && wire.type == types[wire.number]) kind = wire;
  if (reader.at != reader.end) return malformed(L, path);
  switch (kind.number) {
    case 2: push_number(L, kind.value); return true;
    case 3: return push_text(L, path, kind.bytes);
    case 4: lua_pushboolean(L, kind.value != 0); return true;
    case 5: lua_newtable(L); return get_struct(L, path, kind.bytes, depth + 1);
    case 6:
      lua_newtable(L);
      tci_message_mark_list(L);
      return get_list(L, path, kind.bytes, depth + 1);
    default: lua_pushlightuserdata(L, NULL); return true;
  }
}

/* ---- fields of messages: the message's table is on top ---- */

/* Pushes a sub-message; `merge`: into the table already on top, which stays. */
static bool get_body(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                     tci_str bytes, int depth, bool merge) {
  tci_shape shape = tci_message_shape(message);
  if (shape == TCI_SHAPE_TIMESTAMP || shape == TCI_SHAPE_VALUE) {
    if (merge) lua_pop(L, 1);
    return shape == TCI_SHAPE_VALUE ? get_value(L, path, bytes, depth) : push_timestamp(L, path, bytes);
  }
  if (!merge) {
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    lua_createtable(L, 0, shape == TCI_SHAPE_FIELDS ? (int)message->n_fields : 0);
    if (shape == TCI_SHAPE_LIST) tci_message_mark_list(L);
    for (unsigned i = 0; shape == TCI_SHAPE_FIELDS && i < message->n_fields; i++)
      if (push_default(L, &message->fields[i])) lua_setfield(L, -2, message->fields[i].name);
  }
  if (shape == TCI_SHAPE_STRUCT) return get_struct(L, path, bytes, depth);
  if (shape == TCI_SHAPE_LIST) return get_list(L, path, bytes, depth);
  return get_message(L, message, path, bytes, depth);
}

static bool push_single(lua_State *L, const ProtobufCFieldDescriptor *field, const tci_message_path *path,
                        const tci_wire_field *wire, int depth) {
  if (field->type == PROTOBUF_C_TYPE_STRING) return push_text(L, path, wire->bytes);
  if (field->type != PROTOBUF_C_TYPE_MESSAGE) return push_scalar(L, field, path, wire->value);
  return get_body(L, field->descriptor, path, wire->bytes, depth + 1, false);
}

static tci_wire_type wire_type(const ProtobufCFieldDescriptor *field) {
  return field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE ? TCI_WIRE_LEN
                                                                                         : TCI_WIRE_VARINT;
}

static bool get_map_entry(lua_State *L, const ProtobufCFieldDescriptor *field, const tci_message_path *path,
                          tci_str bytes, int depth) {
  const ProtobufCMessageDescriptor *entry = field->descriptor;
  const ProtobufCFieldDescriptor *value_field = &entry->fields[1];
  tci_str key = {"", 0};
  tci_wire_field value = {.number = 2, .bytes = {"", 0}}, wire;
  tci_wire_reader reader = tci_wire_read(bytes);
  while (tci_wire_next(&reader, &wire)) {
    if (wire.number == 1 && wire.type == TCI_WIRE_LEN) key = wire.bytes;
    if (wire.number == 2 && wire.type == wire_type(value_field)) value = wire;
  }
  if (reader.at != reader.end) return malformed(L, path);
  tci_message_path at = {path, key, 0};
  if (!push_text(L, &at, key) || !push_single(L, value_field, &at, &value, depth)) return false;
  lua_rawset(L, -3);
  return true;
}

/* One occurrence of a repeated field; its list (or map) is on top. */
static bool get_repeated(lua_State *L, const ProtobufCFieldDescriptor *field, const tci_message_path *path,
                         const tci_wire_field *wire, int depth) {
  lua_Integer len = (lua_Integer)lua_rawlen(L, -1);
  tci_message_path at = {path, {NULL, 0}, len + 1};
  if (wire->type == wire_type(field)) {
    if (tci_message_is_map(field)) return get_map_entry(L, field, path, wire->bytes, depth);
    if (!push_single(L, field, &at, wire, depth)) return false;
    lua_rawseti(L, -2, len + 1);
    return true;
  }
  if (wire->type != TCI_WIRE_LEN) return true; /* invariant 1 */
  tci_wire_reader reader = tci_wire_read(wire->bytes);
  for (uint64_t value; reader.at != reader.end; at.index++) {
    if (!tci_wire_varint(&reader, &value)) return malformed(L, path);
    if (!push_scalar(L, field, &at, value)) return false;
    lua_rawseti(L, -2, at.index);
  }
  return true;
}

/* A member of a oneof unsets the others. */
static void unset_others(lua_State *L, const ProtobufCMessageDescriptor *message,
                         const ProtobufCFieldDescriptor *field) {
  for (unsigned i = 0; i < message->n_fields; i++) {
    const ProtobufCFieldDescriptor *other = &message->fields[i];
    if (other == field || !(other->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
        other->quantifier_offset != field->quantifier_offset)
      continue;
    lua_pushnil(L);
    lua_setfield(L, -2, other->name);
  }
}

static bool get_field(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                      const tci_wire_field *wire, int depth) {
  const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(message, wire->number);
  if (!field) return true;
  tci_message_path at = {path, tci_str_from(field->name), 0};
  if (field->label == PROTOBUF_C_LABEL_REPEATED) {
    lua_getfield(L, -1, field->name);
    if (!get_repeated(L, field, &at, wire, depth)) return false;
    lua_pop(L, 1);
    return true;
  }
  if (wire->type != wire_type(field)) return true;
  if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) unset_others(L, message, field);
  bool merge = field->type == PROTOBUF_C_TYPE_MESSAGE && lua_getfield(L, -1, field->name) != LUA_TNIL;
  if (merge) {
    if (!get_body(L, field->descriptor, &at, wire->bytes, depth + 1, true)) return false;
  } else {
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) lua_pop(L, 1);
    if (!push_single(L, field, &at, wire, depth)) return false;
  }
  lua_setfield(L, -2, field->name);
  return true;
}

static bool get_message(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        tci_str bytes, int depth) {
  if (!descend(L, path, depth)) return false;
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire))
    if (!get_field(L, message, path, &wire, depth)) return false;
  return reader.at == reader.end || malformed(L, path);
}

bool tci_message_decode(lua_State *L, const ProtobufCMessageDescriptor *message, const tci_message_path *path,
                        tci_str bytes) {
  return get_body(L, message, path, bytes, 0, false);
}
