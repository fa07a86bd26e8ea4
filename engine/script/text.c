/* text: the C functions of `string`.
 *
 * 1. No string that a policy makes is longer than policy_string_bytes_max or holds a zero byte: comparing those takes
 *    Lua a library call for each of them.
 * 2. No patterns: `find` looks for plain text. The result is made in the script's scratch buffer; nothing here runs
 *    script code while it is in use.
 */
#define _GNU_SOURCE 1
#include "script/internal.h"

#include <stdio.h>
#include <string.h>

enum { BYTES_MAX = 250 };

static tci_str text_at(lua_State *L, int at) {
  tci_str text;
  text.ptr = luaL_checklstring(L, at, &text.len);
  return text;
}

/* From the end when negative; 1-based. */
static size_t position(lua_Integer i, size_t len) {
  if (i >= 0) return (size_t)i;
  return (size_t)0 - (size_t)i > len ? 0 : len - ((size_t)0 - (size_t)i) + 1;
}

/* The part [*from, *last] of `text` that the arguments 2 and 3 name; false: it is empty. */
static bool part_of(lua_State *L, tci_str text, bool single, size_t *from, size_t *last) {
  lua_Integer i = lua_isnoneornil(L, 2) ? 1 : tci_check_integer(L, 2);
  lua_Integer j = lua_isnoneornil(L, 3) ? (single ? i : -1) : tci_check_integer(L, 3);
  *from = position(i, text.len);
  if (*from < 1) *from = 1;
  *last = position(j, text.len);
  if (*last > text.len) *last = text.len;
  return *from <= *last;
}

static int text_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)text_at(L, 1).len);
  return 1;
}

static int text_sub(lua_State *L) {
  tci_str text = text_at(L, 1);
  size_t from, last;
  if (!part_of(L, text, false, &from, &last)) {
    lua_pushliteral(L, "");
    return 1;
  }
  tci_sandbox_string(L, last - from + 1);
  lua_pushlstring(L, text.ptr + from - 1, last - from + 1);
  return 1;
}

static int text_byte(lua_State *L) {
  tci_str text = text_at(L, 1);
  size_t from, last;
  if (!part_of(L, text, true, &from, &last)) return 0;
  if (last - from >= BYTES_MAX) return luaL_error(L, "string.byte: at most %d at once", BYTES_MAX);
  tci_sandbox_charge(L, (last - from) / 8);
  luaL_checkstack(L, (int)(last - from) + 1, NULL);
  for (size_t i = from; i <= last; i++) lua_pushinteger(L, (uint8_t)text.ptr[i - 1]);
  return (int)(last - from) + 1;
}

static char *scratch(lua_State *L, size_t bytes) {
  tci_buf *buf = &tci_script_of(L)->scratch;
  tci_buf_clear(buf);
  return tci_buf_reserve(buf, bytes);
}

static int text_char(lua_State *L) {
  int n = lua_gettop(L);
  tci_sandbox_string(L, (size_t)n);
  tci_sandbox_charge(L, (size_t)n / 8);
  char *out = scratch(L, (size_t)n + 1);
  for (int i = 1; i <= n; i++) {
    lua_Integer byte = tci_check_integer(L, i);
    luaL_argcheck(L, byte != 0, i, "texts of a policy hold no zero bytes");
    luaL_argcheck(L, byte > 0 && byte < 256, i, "value out of range");
    out[i - 1] = (char)byte;
  }
  lua_pushlstring(L, out, (size_t)n);
  return 1;
}

static int text_find(lua_State *L) {
  tci_str text = text_at(L, 1), what = text_at(L, 2);
  size_t from = position(lua_isnoneornil(L, 3) ? 1 : tci_check_integer(L, 3), text.len);
  if (from < 1) from = 1;
  tci_sandbox_charge(L, (text.len + what.len) / 16);
  const char *found = NULL;
  if (from <= text.len + 1) found = memmem(text.ptr + from - 1, text.len - from + 1, what.ptr, what.len);
  if (!found) {
    lua_pushnil(L);
    return 1;
  }
  lua_pushinteger(L, found - text.ptr + 1);
  lua_pushinteger(L, found - text.ptr + (lua_Integer)what.len);
  return 2;
}

/* Upvalue: what is done, 'u'pper, 'l'ower, 'r'everse. */
static int text_map(lua_State *L) {
  tci_str text = text_at(L, 1);
  tci_sandbox_string(L, text.len);
  tci_sandbox_charge(L, text.len / 16);
  int how = (int)lua_tointeger(L, lua_upvalueindex(1));
  char *out = scratch(L, text.len + 1);
  for (size_t i = 0; i < text.len; i++) {
    char c = text.ptr[how == 'r' ? text.len - 1 - i : i];
    if (how == 'u' && c >= 'a' && c <= 'z') c = (char)(c - 'a' + 'A');
    if (how == 'l' && c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
    out[i] = c;
  }
  lua_pushlstring(L, out, text.len);
  return 1;
}

static int text_rep(lua_State *L) {
  tci_str text = text_at(L, 1), between = {"", 0};
  lua_Integer n = tci_check_integer(L, 2);
  if (!lua_isnoneornil(L, 3)) between = text_at(L, 3);
  if (n <= 0 || text.len + between.len == 0) {
    lua_pushliteral(L, "");
    return 1;
  }
  size_t each = text.len + between.len;
  size_t whole = (size_t)n > SIZE_MAX / 2 / each ? SIZE_MAX / 2 : each * (size_t)n - between.len;
  tci_sandbox_string(L, whole);
  char *out = scratch(L, each + whole);
  memcpy(out, text.ptr, text.len);
  memcpy(out + text.len, between.ptr, between.len);
  for (size_t done = each; done < whole; done *= 2) memcpy(out + done, out, done < whole - done ? done : whole - done);
  lua_pushlstring(L, out, whole);
  return 1;
}

/* ---- format ---- */

/* "%-08.3" and a conversion; *at is behind the '%'. Returns the conversion; `spec` gets the text, with `length` before
 * it. */
static char read_spec(lua_State *L, const char **at, const char *end, char spec[24]) {
  const char *from = *at, *p = from;
  while (p < end && *p && strchr("-+ #0", *p)) p++;
  bool good = p - from <= 5;
  const char *digits = p;
  while (p < end && *p >= '0' && *p <= '9') p++;
  good = good && p - digits <= 2;
  if (p < end && *p == '.') {
    digits = ++p;
    while (p < end && *p >= '0' && *p <= '9') p++;
    good = good && p - digits <= 2;
  }
  if (p >= end) luaL_error(L, "string.format: the conversion at the end of the format is not valid");
  if (!good) luaL_error(L, "string.format: the conversion that begins with '%%%c' is not valid", from[0]);
  size_t len = (size_t)(p - from);
  spec[0] = '%';
  memcpy(spec + 1, from, len);
  spec[1 + len] = '\0';
  *at = p + 1;
  return *p;
}

static void add_integer(lua_State *L, tci_buf *out, char *spec, char conversion, int argument) {
  size_t len = strlen(spec);
  memcpy(spec + len, "ll", 2);
  spec[len + 2] = conversion;
  spec[len + 3] = '\0';
  long long n = tci_check_integer(L, argument);
  out->len += (size_t)snprintf(tci_buf_reserve(out, 256), 256, spec, n);
}

static void add_number(lua_State *L, tci_buf *out, char *spec, char conversion, int argument) {
  size_t len = strlen(spec), before = out->len;
  spec[len] = conversion;
  spec[len + 1] = '\0';
  if (lua_type(L, argument) == LUA_TSTRING) luaL_typeerror(L, argument, "number");
  out->len += (size_t)snprintf(tci_buf_reserve(out, 512), 512, spec, luaL_checknumber(L, argument));
  tci_sandbox_charge(L, 4 + (out->len - before) / 16);
}

static void add_text(lua_State *L, tci_buf *out, char *spec, int argument) {
  size_t len;
  luaL_checkany(L, argument);
  if (lua_type(L, argument) == LUA_TTABLE) /* __tostring has run where there was one, see text_format */
    lua_pushliteral(L, "table");
  else
    tci_library_tostring(L, argument);
  const char *text = lua_tolstring(L, -1, &len);
  if (spec[1]) {
    size_t n = strlen(spec);
    spec[n] = 's';
    spec[n + 1] = '\0';
    size_t room = len + 128;
    out->len += (size_t)snprintf(tci_buf_reserve(out, room), room, spec, text);
  } else {
    tci_buf_add(out, (tci_str){text, len});
  }
  lua_pop(L, 1);
}

static int text_format(lua_State *L) {
  tci_script *s = tci_script_of(L);
  tci_str format = text_at(L, 1);
  int argument = 1, last = lua_gettop(L);
  tci_sandbox_charge(L, (size_t)last);
  for (int i = 2; i <= last; i++) { /* script code first */
    if (lua_type(L, i) != LUA_TTABLE || tci_view_kind(L, i) || !luaL_getmetafield(L, i, "__tostring")) continue;
    lua_pop(L, 1);
    tci_library_tostring(L, i);
    lua_replace(L, i);
  }
  tci_sandbox_charge(L, 4 + format.len / 16);
  luaL_checkstack(L, 10, NULL);
  tci_buf *out = &s->scratch;
  tci_buf_clear(out);
  const char *at = format.ptr, *end = at + format.len;
  while (at < end) {
    const char *percent = memchr(at, '%', (size_t)(end - at));
    tci_buf_add(out, (tci_str){at, (size_t)((percent ? percent : end) - at)});
    if (!percent) break;
    at = percent + 1;
    if (at < end && *at == '%') {
      tci_buf_byte(out, '%');
      at++;
      continue;
    }
    char spec[24], conversion = read_spec(L, &at, end, spec);
    argument++;
    tci_sandbox_charge(L, 8);
    switch (conversion) {
      case 'd':
      case 'i':
      case 'x':
      case 'X':
      case 'o': add_integer(L, out, spec, conversion, argument); break;
      case 'a':
      case 'A':
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': add_number(L, out, spec, conversion, argument); break;
      case 's': add_text(L, out, spec, argument); break;
      default: return luaL_error(L, "string.format: '%%%c' is not a conversion of policies", conversion);
    }
    if (out->len > (size_t)s->limits.policy_string_bytes_max) break;
  }
  tci_sandbox_string(L, out->len);
  lua_pushlstring(L, out->ptr ? out->ptr : "", out->len);
  return 1;
}

void tci_library_text(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"byte", text_byte}, {"char", text_char}, {"find", text_find}, {"format", text_format},
      {"len", text_len},   {"rep", text_rep},   {"sub", text_sub},   {NULL, NULL},
  };
  static const struct {
    const char *name;
    int how;
  } maps[] = {{"lower", 'l'}, {"reverse", 'r'}, {"upper", 'u'}};
  luaL_setfuncs(L, functions, 0);
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
    lua_pushinteger(L, maps[i].how);
    lua_pushcclosure(L, text_map, 1);
    lua_setfield(L, -2, maps[i].name);
  }
}
