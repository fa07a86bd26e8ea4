/* args: payloads as views. Encoded google.protobuf.Struct values, and metadata.
 *
 * 1. What is here was checked at the door (size, depth, UTF-8); bytes that are malformed all the same end the reading.
 * 2. null is nil, in a list false, so that the list keeps its length. A zero byte in a text is shown as '?', and a text
 *    that is longer than a policy could make it is cut.
 * 3. Callers build views (internal.h): nothing here fails.
 */
#include "script/internal.h"

#include <math.h>
#include <string.h>

#include "base/wire.h"

enum { DEPTH_MAX = 100, FIELDS_MAX = 1 << 16, VALUES_MAX = 4096 };

void tci_push_text(lua_State *L, tci_str text) {
  static const tci_str dots = {"...", 3};
  size_t most = (size_t)tci_script_of(L)->limits.policy_string_bytes_max, len = text.len;
  if (len > most)
    for (len = most > dots.len ? most - dots.len : 0; len && ((uint8_t)text.ptr[len] & 0xc0) == 0x80;) len--;
  if (len == text.len && (!len || !memchr(text.ptr, 0, len))) {
    lua_pushlstring(L, len ? text.ptr : "", len);
    return;
  }
  tci_buf copy = {0};
  tci_buf_add(&copy, (tci_str){text.ptr, len});
  if (len < text.len) tci_buf_add(&copy, dots);
  for (size_t i = 0; i < copy.len; i++)
    if (!copy.ptr[i]) copy.ptr[i] = '?';
  lua_pushlstring(L, copy.ptr, copy.len);
  tci_buf_deinit(&copy);
}

static void push_value(lua_State *L, tci_str bytes, int depth);

static int count(tci_str bytes) {
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field field;
  int n = 0;
  while (n < FIELDS_MAX && tci_wire_next(&reader, &field)) n++;
  return n;
}

static void push_struct(lua_State *L, tci_str bytes, int depth) {
  tci_view_new(L, TCI_VIEW_ARGS, 0, count(bytes));
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field entry, part;
  while (tci_wire_next(&reader, &entry)) {
    if (entry.number != 1 || entry.type != TCI_WIRE_LEN) continue;
    tci_str key = {0}, value = {0};
    tci_wire_reader inner = tci_wire_read(entry.bytes);
    while (tci_wire_next(&inner, &part)) {
      if (part.type != TCI_WIRE_LEN) continue;
      if (part.number == 1) key = part.bytes;
      if (part.number == 2) value = part.bytes;
    }
    tci_push_text(L, key);
    push_value(L, value, depth);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

static void push_list(lua_State *L, tci_str bytes, int depth) {
  tci_view_new(L, TCI_VIEW_ARGS, count(bytes), 0);
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field item;
  for (lua_Integer n = 0; tci_wire_next(&reader, &item);) {
    if (item.number != 1 || item.type != TCI_WIRE_LEN) continue;
    push_value(L, item.bytes, depth);
    if (lua_isnil(L, -1)) { /* invariant 2 */
      lua_pop(L, 1);
      lua_pushboolean(L, false);
    }
    lua_rawseti(L, -2, ++n);
  }
  lua_pop(L, 1);
}

/* Whole numbers are integers, as they were written. */
static void push_number(lua_State *L, uint64_t bits) {
  double number;
  memcpy(&number, &bits, sizeof number);
  if (fabs(number) <= 0x1p53 && floor(number) == number)
    lua_pushinteger(L, (lua_Integer)number);
  else
    lua_pushnumber(L, number);
}

static void push_value(lua_State *L, tci_str bytes, int depth) {
  luaL_checkstack(L, 20, NULL);
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field field, kind = {0};
  while (tci_wire_next(&reader, &field)) kind = field;
  bool is_bytes = kind.type == TCI_WIRE_LEN;
  if (kind.number == 2 && kind.type == TCI_WIRE_I64)
    push_number(L, kind.value);
  else if (kind.number == 3 && is_bytes)
    tci_push_text(L, kind.bytes);
  else if (kind.number == 4 && kind.type == TCI_WIRE_VARINT)
    lua_pushboolean(L, kind.value != 0);
  else if (kind.number == 5 && is_bytes && depth < DEPTH_MAX)
    push_struct(L, kind.bytes, depth + 1);
  else if (kind.number == 6 && is_bytes && depth < DEPTH_MAX)
    push_list(L, kind.bytes, depth + 1);
  else
    lua_pushnil(L);
}

/* Of a struct (true) or a list. */
static void count_values(tci_str bytes, bool is_struct, int depth, int64_t max, int64_t *n) {
  tci_wire_reader reader = tci_wire_read(bytes), inner;
  tci_wire_field entry, part;
  while (*n <= max && tci_wire_next(&reader, &entry)) {
    if (entry.number != 1 || entry.type != TCI_WIRE_LEN) continue;
    ++*n;
    tci_str value = is_struct ? (tci_str){0} : entry.bytes;
    inner = tci_wire_read(entry.bytes);
    while (is_struct && tci_wire_next(&inner, &part))
      if (part.number == 2 && part.type == TCI_WIRE_LEN) value = part.bytes;
    inner = tci_wire_read(value);
    part = (tci_wire_field){0};
    while (tci_wire_next(&inner, &part)) continue;
    bool nested = (part.number == 5 || part.number == 6) && part.type == TCI_WIRE_LEN && depth < DEPTH_MAX;
    if (nested) count_values(part.bytes, part.number == 5, depth + 1, max, n);
  }
}

/* How many values there are, counted up to `max` + 1. */
static int64_t count_all(tci_str encoded, int64_t max) {
  int64_t n = 0;
  count_values(encoded, true, 0, max, &n);
  return n;
}

/* __index of the stage's data: args, or args_omitted, whichever is there. */
int tci_args_read(lua_State *L) {
  tci_script *s = tci_script_of(L);
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  bool is_args = strcmp(key, "args") == 0;
  if (!s->question || !(is_args || strcmp(key, "args_omitted") == 0)) return 0;
  tci_str args = s->question->stage->args;
  if (s->args_values < 0) { /* not counted yet */
    bool fits = args.len <= (size_t)s->limits.policy_view_bytes_max;
    s->args_values = fits ? count_all(args, VALUES_MAX) : VALUES_MAX + 1;
    s->view_cost += 20 + (fits ? (int64_t)args.len / 16 + s->args_values : 0);
  }
  bool shown = s->args_values <= VALUES_MAX;
  if (shown != is_args) return 0;
  luaL_checkstack(L, 20, NULL);
  s->building = true;
  if (shown) {
    s->view_cost += 64 * s->args_values;
    push_struct(L, args, 0);
  } else {
    lua_pushboolean(L, true);
  }
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  s->building = false;
  if (args.len > 1024) tci_sandbox_look(L);
  return 1;
}

/* ---- metadata ---- */

void tci_view_metadata(lua_State *L, tci_pairs metadata) {
  tci_view_new(L, TCI_VIEW_METADATA, 0, (int)metadata.len);
  for (size_t i = 0; i < metadata.len; i++) {
    tci_push_text(L, metadata.items[i].key);
    tci_push_text(L, metadata.items[i].value);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

static bool starts_with(const tci_buf *seen, size_t *at, tci_str part) {
  size_t left = seen->len - *at;
  if (left < sizeof part.len + part.len) return false;
  if (memcmp(seen->ptr + *at, &part.len, sizeof part.len) != 0) return false;
  *at += sizeof part.len;
  if (part.len && memcmp(seen->ptr + *at, part.ptr, part.len) != 0) return false;
  *at += part.len;
  return true;
}

bool tci_metadata_differs(tci_buf *seen, tci_pairs metadata) {
  size_t at = 0, i = 0;
  while (i < metadata.len && starts_with(seen, &at, metadata.items[i].key) &&
         starts_with(seen, &at, metadata.items[i].value))
    i++;
  if (i == metadata.len && at == seen->len) return false;
  tci_buf_clear(seen);
  for (i = 0; i < metadata.len; i++) {
    const tci_str parts[] = {metadata.items[i].key, metadata.items[i].value};
    for (int p = 0; p < 2; p++) {
      tci_buf_add(seen, (tci_str){(const char *)&parts[p].len, sizeof parts[p].len});
      tci_buf_add(seen, parts[p]);
    }
  }
  return true;
}
