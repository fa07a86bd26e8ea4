/* walk: going through tables: ipairs, pairs, and the C functions of `table`. The others are in prelude.c.
 *
 * 1. pairs walks keys in order: numbers, strings, booleans. Keys of other types have none and are refused.
 * 2. pairs, concat and unpack read what is in a table or behind a view: no script code runs. ipairs asks __index.
 */
#include "script/internal.h"

#include <stdlib.h>

enum { VALUES_MAX = 250 };

/* ---- ipairs, pairs ---- */

static int next_index(lua_State *L) {
  lua_Integer i = (lua_Integer)((lua_Unsigned)tci_check_integer(L, 2) + 1);
  lua_pushinteger(L, i);
  return lua_geti(L, 1, i) == LUA_TNIL ? 1 : 2;
}

int tci_library_ipairs(lua_State *L) {
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
    default:
      luaL_error(L, "pairs: a key is a %s; only numbers, strings and booleans can be sorted", luaL_typename(L, at));
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

int tci_library_pairs(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  tci_sandbox_charge(L, 32 + tci_sandbox_walk_cost(tci_script_of(L)));
  tci_view_data(L, 1);
  lua_Integer n = 0;
  bool is_list = true;
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    if (lua_islightuserdata(L, -2)) continue; /* ours, in the data of a view */
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
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1))
      if (!lua_islightuserdata(L, -2)) keys[i++] = key_at(L, -2);
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

void tci_library_table(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"concat", call_concat}, {"unpack", call_unpack}, {"pack", call_pack}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
