/* args: boxes, arguments, options and guesses, for all files of turboci.core. */
#include "lua/module.h"

#include <math.h>
#include <string.h>

static const char BUF_TYPE[] = "turboci.buf", ARENA_TYPE[] = "turboci.arena";

/* ---- boxes ---- */

static int buf_close(lua_State *L) {
  tci_buf_deinit(luaL_checkudata(L, 1, BUF_TYPE));
  return 0;
}

static int arena_close(lua_State *L) {
  tci_arena_deinit(luaL_checkudata(L, 1, ARENA_TYPE));
  return 0;
}

static void *push_box(lua_State *L, size_t bytes, const char *type, lua_CFunction close) {
  void *box = memset(lua_newuserdatauv(L, bytes, 0), 0, bytes);
  if (luaL_newmetatable(L, type)) {
    const luaL_Reg methods[] = {{"__gc", close}, {"__close", close}, {NULL, NULL}};
    luaL_setfuncs(L, methods, 0);
  }
  lua_setmetatable(L, -2);
  return box;
}

tci_buf *tci_lua_push_buf(lua_State *L) { return push_box(L, sizeof(tci_buf), BUF_TYPE, buf_close); }
tci_arena *tci_lua_push_arena(lua_State *L) { return push_box(L, sizeof(tci_arena), ARENA_TYPE, arena_close); }

void tci_lua_class(lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction close) {
  luaL_newmetatable(L, type);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
}

/* ---- arguments ---- */

tci_str tci_lua_check_str(lua_State *L, int arg) {
  size_t len;
  luaL_checktype(L, arg, LUA_TSTRING); /* a number is not taken for its digits */
  const char *ptr = lua_tolstring(L, arg, &len);
  return (tci_str){ptr, len};
}

tci_str tci_lua_opt_str(lua_State *L, int arg) {
  return lua_isnoneornil(L, arg) ? (tci_str){"", 0} : tci_lua_check_str(L, arg);
}

void tci_lua_push_str(lua_State *L, tci_str s) { lua_pushlstring(L, s.len ? s.ptr : "", s.len); }

int64_t tci_lua_check_seconds(lua_State *L, int arg) {
  lua_Number seconds = luaL_checknumber(L, arg);
  luaL_argcheck(L, seconds >= 0 && seconds < 9e12, arg, "expected seconds, from 0 up"); /* NaN is neither */
  return (int64_t)(seconds * 1e6);
}

const tci_method *tci_lua_check_method(lua_State *L, int arg) {
  tci_str name = tci_lua_check_str(L, arg);
  tci_guess guess = tci_guess_start(name);
  for (size_t i = 0; i < tci_methods_len; i++) {
    const tci_method *method = &tci_methods[i];
    if (tci_str_eq(name, tci_str_from(method->name)) || tci_str_eq(name, tci_str_from(method->path))) return method;
    tci_guess_offer(&guess, tci_str_from(method->name));
  }
  lua_pushfstring(L, "no method is called '%s'%s", name.ptr, tci_lua_push_guess(L, &guess));
  luaL_argerror(L, arg, lua_tostring(L, -1));
  return NULL;
}

tci_code tci_lua_check_code(lua_State *L, int arg) {
  lua_Integer code = luaL_checkinteger(L, arg);
  luaL_argcheck(L, code >= TCI_OK && code <= TCI_UNAUTHENTICATED, arg, "expected a gRPC status code, 0 to 16");
  return (tci_code)code;
}

/* ---- options ---- */

void tci_lua_check_options(lua_State *L, int arg, const char *const *names) {
  if (lua_isnoneornil(L, arg)) {
    lua_settop(L, arg - 1);
    lua_newtable(L);
    return;
  }
  luaL_checktype(L, arg, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "options have names; this key is a %s", luaL_typename(L, -2));
    const char *key = lua_tostring(L, -2);
    tci_guess guess = tci_guess_start(tci_str_from(key));
    const char *const *name = names;
    for (; *name && strcmp(*name, key) != 0; name++) tci_guess_offer(&guess, tci_str_from(*name));
    if (!*name) luaL_error(L, "there is no option '%s'%s", key, tci_lua_push_guess(L, &guess));
  }
}

const char *tci_lua_option_text(lua_State *L, int arg, const char *name, tci_arena *arena) {
  int type = lua_getfield(L, arg, name);
  if (type != LUA_TNIL && type != LUA_TSTRING)
    luaL_error(L, "option '%s': expected a string, got a %s", name, luaL_typename(L, -1));
  const char *text = type == LUA_TNIL ? NULL : tci_str_z(arena, tci_str_from(lua_tostring(L, -1)));
  lua_pop(L, 1);
  return text;
}

void tci_lua_option_limits(lua_State *L, int arg, tci_limits *out) {
  *out = tci_limits_default();
  if (lua_getfield(L, arg, "limits") != LUA_TNIL) {
    if (!lua_istable(L, -1)) luaL_error(L, "option 'limits': expected a table, got a %s", luaL_typename(L, -1));
    tci_arena *arena = tci_lua_push_arena(L);
    int table = lua_gettop(L) - 1;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
      if (lua_type(L, -2) != LUA_TSTRING || !lua_isinteger(L, -1))
        luaL_error(L, "option 'limits': expected names with integers, got a %s with a %s", luaL_typename(L, -2),
                   luaL_typename(L, -1));
      tci_status status = tci_limits_set(out, tci_lua_check_str(L, -2), lua_tointeger(L, -1), arena);
      if (status.code != TCI_OK) luaL_error(L, "option 'limits': %s", status.message);
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

bool tci_lua_option_list(lua_State *L, int arg, const char *name, tci_arena *arena, tci_ids *out) {
  *out = (tci_ids){NULL, 0};
  int type = lua_getfield(L, arg, name);
  if (type != LUA_TNIL && type != LUA_TTABLE)
    luaL_error(L, "option '%s': expected a list of strings, got a %s", name, luaL_typename(L, -1));
  if (type == LUA_TTABLE) {
    out->len = lua_rawlen(L, -1);
    out->items = tci_arena_array(arena, tci_str, out->len + 1);
    for (size_t i = 0; i < out->len; i++) {
      if (lua_rawgeti(L, -1, (lua_Integer)i + 1) != LUA_TSTRING)
        luaL_error(L, "option '%s'[%d]: expected a string, got a %s", name, (int)i + 1, luaL_typename(L, -1));
      out->items[i] = tci_str_copy(arena, tci_lua_check_str(L, -1));
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  return type == LUA_TTABLE;
}

/* ---- guesses ---- */

const char *tci_lua_push_guess(lua_State *L, const tci_guess *guess) {
  if (!guess->best.len) return lua_pushliteral(L, "");
  tci_lua_push_str(L, guess->best); /* ends in NUL, what was offered may not */
  const char *text = lua_pushfstring(L, "; did you mean '%s'?", lua_tostring(L, -1));
  lua_remove(L, -2);
  return text;
}
