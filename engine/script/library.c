/* library: what the files of a policy can call: the globals, table, math. Strings are in text.c.
 *
 * 1. An allow-list: what is not named here is not there. Nothing loads, prints, reads a clock, starts a coroutine or tells an
 *    address.
 * 2. What can be written in Lua is (prelude.c); C functions charge what they do, and run script code only where told.
 * 3. A metatable is read when it is set: __index and __newindex that are tables become functions, all others must be
 *    functions, so that no single instruction walks a chain.
 */
#include "script/internal.h"

#include <lualib.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES_MAX = 250, NUMBER_BYTES_MAX = 200 };

static int read_only(lua_State *L, int at) { return tci_view_kind(L, at) != 0; }

lua_Integer tci_check_integer(lua_State *L, int at) {
  if (lua_type(L, at) == LUA_TSTRING) luaL_typeerror(L, at, "number");
  return luaL_checkinteger(L, at);
}

/* ---- errors and types ---- */

static int call_type(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushstring(L, luaL_typename(L, 1));
  return 1;
}

static int call_error(lua_State *L) {
  int level = lua_type(L, 2) == LUA_TNUMBER ? (int)lua_tointeger(L, 2) : 1;
  lua_settop(L, 1);
  if (lua_type(L, 1) == LUA_TSTRING && level > 0) {
    luaL_where(L, level);
    lua_insert(L, 1);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int call_assert(lua_State *L) {
  luaL_checkany(L, 1);
  if (lua_toboolean(L, 1)) return lua_gettop(L);
  lua_remove(L, 1);
  if (lua_gettop(L) == 0) {
    luaL_where(L, 1);
    lua_pushliteral(L, "assertion failed!");
    lua_concat(L, 2);
  }
  lua_settop(L, 1);
  return lua_error(L);
}

static int call_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  tci_sandbox_charge(L, 4);
  lua_pushcfunction(L, tci_sandbox_handler);
  lua_insert(L, 1);
  int result = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 1);
  const tci_script *s = tci_script_of(L);
  if (s->fault) tci_sandbox_stop(L, s->fault, 0); /* invariant 2 of internal.h */
  lua_pushboolean(L, result == LUA_OK);
  lua_replace(L, 1);
  return lua_gettop(L);
}

static int call_select(lua_State *L) {
  int n = lua_gettop(L);
  tci_sandbox_charge(L, (size_t)n / 16);
  if (lua_type(L, 1) == LUA_TSTRING && strcmp(lua_tostring(L, 1), "#") == 0) {
    lua_pushinteger(L, n - 1);
    return 1;
  }
  lua_Integer i = tci_check_integer(L, 1);
  if (i < 0)
    i = n + i;
  else if (i > n)
    i = n;
  luaL_argcheck(L, i >= 1, 1, "index out of range");
  return n - (int)i;
}

static int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  return c >= 'A' && c <= 'Z' ? c - 'A' + 10 : 99;
}

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static int call_tonumber(lua_State *L) {
  luaL_checkany(L, 1);
  if (lua_isnoneornil(L, 2)) {
    size_t len;
    if (lua_type(L, 1) == LUA_TNUMBER) {
      lua_settop(L, 1);
      return 1;
    }
    const char *text = lua_type(L, 1) == LUA_TSTRING ? lua_tolstring(L, 1, &len) : NULL;
    tci_sandbox_charge(L, 4);
    if (!text || len > NUMBER_BYTES_MAX || lua_stringtonumber(L, text) != len + 1) lua_pushnil(L);
    return 1;
  }
  lua_Integer base = tci_check_integer(L, 2);
  luaL_checktype(L, 1, LUA_TSTRING);
  luaL_argcheck(L, 2 <= base && base <= 36, 2, "base out of range");
  size_t len, i = 0;
  const char *text = lua_tolstring(L, 1, &len);
  lua_Unsigned n = 0;
  if (len > NUMBER_BYTES_MAX) len = 0;
  while (i < len && is_blank(text[i])) i++;
  while (i < len && is_blank(text[len - 1])) len--;
  bool negative = i < len && text[i] == '-', good = (i += negative) < len;
  for (; i < len && good; i++) {
    good = digit_of(text[i]) < base;
    n = n * (lua_Unsigned)base + (lua_Unsigned)digit_of(text[i]);
  }
  if (good)
    lua_pushinteger(L, (lua_Integer)(negative ? 0 - n : n));
  else
    lua_pushnil(L);
  return 1;
}

/* May run script code: __tostring. */
void tci_library_tostring(lua_State *L, int at) {
  at = lua_absindex(L, at);
  switch (lua_type(L, at)) {
    case LUA_TNUMBER:
    case LUA_TSTRING:
      lua_pushvalue(L, at);
      lua_tostring(L, -1);
      return;
    case LUA_TBOOLEAN: lua_pushstring(L, lua_toboolean(L, at) ? "true" : "false"); return;
    case LUA_TTABLE:
      if (read_only(L, at) || !luaL_getmetafield(L, at, "__tostring")) break;
      lua_pushvalue(L, at);
      lua_call(L, 1, 1);
      if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "'__tostring' must return a string");
      return;
    default: break;
  }
  lua_pushstring(L, luaL_typename(L, at)); /* no address */
}

static int call_tostring(lua_State *L) {
  luaL_checkany(L, 1);
  tci_sandbox_charge(L, 4);
  tci_library_tostring(L, 1);
  return 1;
}

/* ---- metatables ---- */

static int call_getmetatable(lua_State *L) {
  luaL_checkany(L, 1);
  if (lua_type(L, 1) != LUA_TTABLE || !lua_getmetatable(L, 1)) {
    lua_pushnil(L);
  } else if (lua_rawgeti(L, -1, 1) != LUA_TTABLE) { /* a view's */
    lua_pushnil(L);
  }
  return 1;
}

/* Upvalues: what makes a function of an __index and of a __newindex that is a table. */
static int call_setmetatable(lua_State *L) {
  static const char *const refused[] = {"__gc", "__close", "__len", "__mode", "__metatable"};
  static const char *const taken[] = {"__index", "__newindex", "__call", "__eq",  "__lt",   "__le",  "__concat", "__unm",
                                      "__add",   "__sub",      "__mul",  "__div", "__mod",  "__pow", "__idiv",   "__band",
                                      "__bor",   "__bxor",     "__shl",  "__shr", "__bnot", "__tostring"};
  luaL_checktype(L, 1, LUA_TTABLE);
  if (read_only(L, 1)) return luaL_error(L, "setmetatable: a view is read-only");
  if (lua_isnil(L, 2)) {
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    lua_settop(L, 1);
    return 1;
  }
  luaL_checktype(L, 2, LUA_TTABLE);
  if (read_only(L, 2)) return luaL_error(L, "setmetatable: a view is no metatable");
  lua_settop(L, 2);
  tci_sandbox_charge(L, 20);
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    lua_pushstring(L, refused[i]);
    if (lua_rawget(L, 2) != LUA_TNIL) return luaL_error(L, "setmetatable: a policy has no '%s'", refused[i]);
    lua_pop(L, 1);
  }
  lua_createtable(L, 1, 2);
  lua_pushvalue(L, 2);
  lua_rawseti(L, 3, 1);
  for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
    lua_pushstring(L, taken[i]);
    int type = lua_rawget(L, 2);
    if (type == LUA_TNIL) {
      lua_pop(L, 1);
      continue;
    }
    if (type == LUA_TTABLE && i < 2) {
      lua_pushvalue(L, lua_upvalueindex((int)i + 1));
      lua_insert(L, -2);
      lua_call(L, 1, 1);
    } else if (type != LUA_TFUNCTION) {
      return luaL_error(L, "setmetatable: '%s' must be a function, not a %s", taken[i], lua_typename(L, type));
    }
    lua_pushstring(L, taken[i]);
    lua_insert(L, -2);
    lua_rawset(L, 3);
  }
  lua_setmetatable(L, 1);
  lua_settop(L, 1);
  return 1;
}

/* ---- walking ---- */

static int next_index(lua_State *L) {
  lua_Integer i = tci_check_integer(L, 2) + 1;
  lua_pushinteger(L, i);
  return lua_geti(L, 1, i) == LUA_TNIL ? 1 : 2;
}

static int call_ipairs(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_pushcfunction(L, next_index);
  lua_insert(L, 1);
  lua_pushinteger(L, 0);
  return 3;
}

typedef struct {
  int type; /* sorted: numbers, strings, booleans */
  bool is_float;
  double number;
  int64_t integer;
  tci_str text;
} sort_key;

static int by_key(const void *a, const void *b) {
  const sort_key *x = a, *y = b;
  if (x->type != y->type) return x->type < y->type ? -1 : 1;
  if (x->type == 1) return tci_str_cmp(x->text, y->text);
  if (x->number != y->number) return x->number < y->number ? -1 : 1;
  if (x->is_float != y->is_float) return x->is_float ? 1 : -1; /* 2^63 is behind the last integer, which rounds to it */
  return (x->integer > y->integer) - (x->integer < y->integer);
}

static sort_key key_at(lua_State *L, int at) {
  sort_key key = {0};
  switch (lua_type(L, at)) {
    case LUA_TNUMBER: /* a float that is a key has no integer value, or is beyond them all */
      key.number = lua_tonumber(L, at);
      key.is_float = !lua_isinteger(L, at);
      key.integer = key.is_float ? INT64_MAX : lua_tointeger(L, at);
      break;
    case LUA_TSTRING:
      key.type = 1;
      key.text.ptr = lua_tolstring(L, at, &key.text.len);
      break;
    case LUA_TBOOLEAN:
      key.type = 2;
      key.integer = lua_toboolean(L, at);
      break;
    default: luaL_error(L, "pairs: a key is a %s; only numbers, strings and booleans can be sorted", luaL_typename(L, at));
  }
  return key;
}

/* Upvalues: the table, its keys in order (nil: 1..n), how many, how many came already. */
static int next_pair(lua_State *L) {
  lua_Integer n = lua_tointeger(L, lua_upvalueindex(3)), i = lua_tointeger(L, lua_upvalueindex(4));
  bool keys = !lua_isnil(L, lua_upvalueindex(2));
  while (i < n) {
    i++;
    if (keys)
      lua_rawgeti(L, lua_upvalueindex(2), i);
    else
      lua_pushinteger(L, i);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) {
      lua_pushinteger(L, i);
      lua_replace(L, lua_upvalueindex(4));
      return 2;
    }
    lua_pop(L, 2); /* it went away on the walk */
    tci_sandbox_charge(L, 1);
  }
  lua_pushinteger(L, n);
  lua_replace(L, lua_upvalueindex(4));
  lua_pushnil(L);
  return 1;
}

static int call_pairs(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  tci_sandbox_charge(L, 32);
  tci_view_data(L, 1);
  lua_Integer n = 0;
  bool is_list = true;
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    n++;
    is_list = is_list && lua_isinteger(L, -2) && lua_tointeger(L, -2) == n;
  }
  tci_sandbox_charge(L, (size_t)n);
  lua_pushvalue(L, 2);
  if (is_list) {
    lua_pushnil(L);
  } else {
    tci_sandbox_charge(L, (size_t)n * 8);
    sort_key *keys = lua_newuserdatauv(L, (size_t)n * sizeof *keys, 0);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) keys[i++] = key_at(L, -2);
    qsort(keys, i, sizeof *keys, by_key);
    lua_createtable(L, (int)n, 0);
    for (i = 0; i < (size_t)n; i++) {
      if (keys[i].type == 1)
        lua_pushlstring(L, keys[i].text.ptr, keys[i].text.len);
      else if (keys[i].type == 2)
        lua_pushboolean(L, (int)keys[i].integer);
      else if (keys[i].is_float)
        lua_pushnumber(L, keys[i].number);
      else
        lua_pushinteger(L, keys[i].integer);
      lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_remove(L, -2);
  }
  lua_pushinteger(L, n);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, next_pair, 4);
  lua_pushvalue(L, 1);
  return 2;
}

/* ---- table ---- */

/* Elements are read as they are: no script code runs. */
static int call_concat(lua_State *L) {
  tci_script *s = tci_script_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  size_t separator_len;
  const char *separator = luaL_optlstring(L, 2, "", &separator_len);
  lua_Integer i = lua_isnoneornil(L, 3) ? 1 : tci_check_integer(L, 3);
  lua_settop(L, 4);
  tci_view_data(L, 1);
  lua_Integer last = lua_isnil(L, 4) ? (lua_Integer)lua_rawlen(L, 5) : tci_check_integer(L, 4);
  tci_buf_clear(&s->scratch);
  for (; i <= last; i++) {
    int type = lua_rawgeti(L, 5, i);
    if (type != LUA_TSTRING && type != LUA_TNUMBER)
      return luaL_error(L, "invalid value (at index %I) in table for 'concat': a %s", (LUAI_UACINT)i,
                        lua_typename(L, type));
    tci_str piece;
    piece.ptr = lua_tolstring(L, -1, &piece.len);
    tci_buf_add(&s->scratch, piece);
    if (i < last) tci_buf_add(&s->scratch, (tci_str){separator, separator_len});
    lua_pop(L, 1);
    tci_sandbox_charge(L, 2);
    if (s->scratch.len > (size_t)s->limits.policy_string_bytes_max) tci_sandbox_string(L, s->scratch.len);
    if (i == LUA_MAXINTEGER) break;
  }
  tci_sandbox_string(L, s->scratch.len);
  lua_pushlstring(L, s->scratch.ptr, s->scratch.len);
  return 1;
}

static int call_unpack(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer i = lua_isnoneornil(L, 2) ? 1 : tci_check_integer(L, 2);
  lua_settop(L, 3);
  tci_view_data(L, 1);
  lua_Integer last = lua_isnil(L, 3) ? (lua_Integer)lua_rawlen(L, 4) : tci_check_integer(L, 3);
  if (i > last) return 0;
  lua_Unsigned n = (lua_Unsigned)last - (lua_Unsigned)i;
  if (n >= VALUES_MAX) return luaL_error(L, "too many results to unpack: at most %d", VALUES_MAX);
  tci_sandbox_charge(L, n / 8);
  luaL_checkstack(L, (int)n + 1, NULL);
  for (lua_Unsigned j = 0; j <= n; j++) lua_rawgeti(L, 4, i + (lua_Integer)j);
  return (int)n + 1;
}

static int call_pack(lua_State *L) {
  int n = lua_gettop(L);
  tci_sandbox_charge(L, (size_t)n / 8);
  lua_createtable(L, n, 1);
  lua_insert(L, 1);
  for (int i = n; i >= 1; i--) lua_rawseti(L, 1, i);
  lua_pushinteger(L, n);
  lua_setfield(L, 1, "n");
  return 1;
}

/* ---- math: Lua's own, for numbers only. Texts of 8,000 digits are numbers to it, too. ---- */

static int call_math(lua_State *L) {
  for (int i = 1; i <= lua_gettop(L); i++)
    if (lua_type(L, i) == LUA_TSTRING) return luaL_typeerror(L, i, "number");
  tci_sandbox_charge(L, 1 + (size_t)lua_gettop(L) / 8);
  return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

static int call_tointeger(lua_State *L) {
  luaL_checkany(L, 1);
  int good = 0;
  lua_Integer n = lua_type(L, 1) == LUA_TNUMBER ? lua_tointegerx(L, 1, &good) : 0;
  if (good)
    lua_pushinteger(L, n);
  else
    lua_pushnil(L);
  return 1;
}

static void open_math(lua_State *L) { /* adds to the table on top */
  static const char *const wrapped[] = {"abs",  "acos", "asin", "atan", "ceil", "cos", "deg",  "exp", "floor", "fmod",
                                        "log",  "max",  "min",  "modf", "rad",  "sin", "sqrt", "tan", "ult"};
  static const char *const plain[] = {"huge", "maxinteger", "mininteger", "pi", "type"};
  int to = lua_gettop(L);
  lua_pushcfunction(L, luaopen_math);
  lua_call(L, 0, 1);
  for (size_t i = 0; i < sizeof wrapped / sizeof *wrapped; i++) {
    lua_getfield(L, -1, wrapped[i]);
    lua_pushcclosure(L, call_math, 1);
    lua_setfield(L, to, wrapped[i]);
  }
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
    lua_getfield(L, -1, plain[i]);
    lua_setfield(L, to, plain[i]);
  }
  lua_settop(L, to);
  lua_pushcfunction(L, call_tointeger);
  lua_setfield(L, -2, "tointeger");
}

/* ---- the environment ---- */

static const luaL_Reg globals[] = {
    {"assert", call_assert}, {"error", call_error},   {"getmetatable", call_getmetatable},
    {"ipairs", call_ipairs}, {"pairs", call_pairs},   {"pcall", call_pcall},
    {"select", call_select}, {"require", tci_require}, {"tonumber", call_tonumber},
    {"type", call_type},     {"tostring", call_tostring}, {NULL, NULL},
};

static int unknown_global(lua_State *L) {
  static const char *const names[] = {"assert", "error",  "getmetatable", "ipairs",       "math",  "pairs",
                                      "pcall",  "select", "require",      "setmetatable", "string", "table",
                                      "tonumber", "type", "tostring",     NULL};
  if (lua_type(L, 2) != LUA_TSTRING) return luaL_error(L, "there is no such global");
  const char *name = lua_tostring(L, 2), *near = tci_nearest(name, names);
  if (near) return luaL_error(L, "global '%s' is not defined; did you mean '%s'?", name, near);
  return luaL_error(L, "global '%s' is not defined; a policy has no such thing", name);
}

void tci_library_open(lua_State *L) {
  tci_view_new(L, TCI_VIEW_LIBRARY, 0, 32);
  int env = lua_gettop(L);
  luaL_setfuncs(L, globals, 0);

  tci_view_new(L, TCI_VIEW_LIBRARY, 0, 16);
  tci_library_text(L);
  lua_createtable(L, 0, 1); /* texts have methods and nothing else: no arithmetic */
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "");
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  lua_pop(L, 2);
  lua_setfield(L, env, "string");

  tci_view_new(L, TCI_VIEW_LIBRARY, 0, 32);
  open_math(L);
  lua_pop(L, 1);
  lua_setfield(L, env, "math");

  static const luaL_Reg table[] = {
      {"concat", call_concat}, {"unpack", call_unpack}, {"pack", call_pack}, {NULL, NULL}};
  tci_view_new(L, TCI_VIEW_LIBRARY, 0, 8);
  luaL_setfuncs(L, table, 0);
  if (luaL_loadbufferx(L, tci_prelude, strlen(tci_prelude), "=library", "t") != LUA_OK) lua_error(L);
  lua_pushvalue(L, -2);
  lua_pushcfunction(L, call_error);
  lua_pushcfunction(L, call_type);
  lua_pushcfunction(L, call_select);
  lua_pushcfunction(L, call_tointeger);
  lua_call(L, 5, 2);
  lua_pushcclosure(L, call_setmetatable, 2);
  lua_setfield(L, env, "setmetatable");
  lua_pop(L, 1);
  lua_setfield(L, env, "table");

  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, unknown_global);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, env);
  lua_pop(L, 1);
}

/* ---- suggestions ---- */

static size_t smallest(size_t a, size_t b, size_t c) {
  size_t least = a < b ? a : b;
  return least < c ? least : c;
}

/* Edits from one to the other; a swap of neighbours is one. */
static size_t distance(const char *a, const char *b) {
  enum { LONG = 24 };
  size_t n = strlen(a), m = strlen(b), rows[3][LONG + 1];
  if (n > LONG || m > LONG) return LONG;
  for (size_t j = 0; j <= m; j++) rows[0][j] = j;
  for (size_t i = 1; i <= n; i++) {
    size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *before = rows[(i + 1) % 3];
    row[0] = i;
    for (size_t j = 1; j <= m; j++) {
      row[j] = smallest(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
    }
  }
  return rows[n % 3][m];
}

const char *tci_nearest(const char *name, const char *const *names) {
  const char *best = NULL;
  size_t least = strlen(name) / 2 + 1;
  if (least > 4) least = 4;
  for (size_t i = 0; names[i]; i++) {
    size_t d = distance(name, names[i]);
    if (d >= least) continue;
    least = d;
    best = names[i];
  }
  return best;
}
