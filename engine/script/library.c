/* library: what the files of a policy can call: the globals and math. Strings are in text.c, tables in walk.c.
 *
 * 1. An allow-list: what is not named here is not there. Nothing loads, prints, reads a clock, starts a coroutine or
 *    tells an address.
 * 2. What can be written in Lua is (prelude.c); C functions charge what they do, and run script code only where told.
 * 3. A metatable is read when it is set: __index and __newindex that are tables become functions, all others must be
 *    functions, so that no single instruction walks a chain.
 */
#include "script/internal.h"

#include <lualib.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES_MAX = 200 };

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
  tci_script *s = tci_script_of(L);
  size_t opening = s->opening.len;
  int result = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 1);
  if (result != LUA_OK) s->opening.len = opening; /* a file that failed is not being loaded any more */
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
  static const char *const taken[] = {"__index",  "__newindex", "__call", "__eq",      "__lt",  "__le",
                                      "__concat", "__unm",      "__add",  "__sub",     "__mul", "__div",
                                      "__mod",    "__pow",      "__idiv", "__band",    "__bor", "__bxor",
                                      "__shl",    "__shr",      "__bnot", "__tostring"};
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
  static const char *const wrapped[] = {"abs", "acos", "asin", "atan", "ceil", "cos", "deg",  "exp", "floor", "fmod",
                                        "log", "max",  "min",  "modf", "rad",  "sin", "sqrt", "tan", "ult"};
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
    {"assert", call_assert},
    {"error", call_error},
    {"getmetatable", call_getmetatable},
    {"ipairs", tci_library_ipairs},
    {"pairs", tci_library_pairs},
    {"pcall", call_pcall},
    {"select", call_select},
    {"require", tci_require},
    {"tonumber", call_tonumber},
    {"type", call_type},
    {"tostring", call_tostring},
    {NULL, NULL},
};

static int unknown_global(lua_State *L) {
  static const char *const names[] = {"assert",   "error",   "getmetatable", "ipairs", "math",  "pairs",    "pcall",
                                      "select",   "require", "setmetatable", "string", "table", "tonumber", "type",
                                      "tostring", NULL};
  if (lua_type(L, 2) != LUA_TSTRING) return luaL_error(L, "there is no such global");
  tci_sandbox_charge(L, 256); /* a guess */
  const char *name = lua_tostring(L, 2), *near = tci_guess_among(name, names);
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

  tci_view_new(L, TCI_VIEW_LIBRARY, 0, 8);
  tci_library_table(L);
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
