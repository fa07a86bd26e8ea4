/* module: require "turboci.core". Constants here, the rest in the file of each part. */
#include "lua/module.h"

#include "app/server.h"
#include "base/clock.h"

enum { RANDOM_BYTES_MAX = 1024 };

static void set_text(lua_State *L, const char *key, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

static void add_methods(lua_State *L) {
  lua_createtable(L, 0, 2 * (int)tci_methods_len);
  for (size_t i = 0; i < tci_methods_len; i++) {
    const tci_method *method = &tci_methods[i];
    lua_createtable(L, 0, 6);
    set_text(L, "name", method->name);
    set_text(L, "path", method->path);
    set_text(L, "request", method->request);
    set_text(L, "response", method->response);
    set_text(L, "service", method->service == TCI_SERVICE_ORCHESTRATOR ? "TurboCIOrchestrator" : "StageRunner");
    lua_pushboolean(L, method->stream);
    lua_setfield(L, -2, "stream");
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, method->name);
    lua_setfield(L, -2, method->path);
  }
  lua_setfield(L, -2, "methods");
}

static void add_codes(lua_State *L) {
  lua_newtable(L);
  for (int code = TCI_OK; code <= TCI_UNAUTHENTICATED; code++) {
    lua_pushstring(L, tci_code_name((tci_code)code));
    lua_rawseti(L, -2, code);
    lua_pushinteger(L, code);
    lua_setfield(L, -2, tci_code_name((tci_code)code));
  }
  lua_setfield(L, -2, "codes");
}

static int limits(lua_State *L) {
  const tci_limits defaults = tci_limits_default();
  lua_createtable(L, (int)tci_limit_infos_len, 0);
  for (size_t i = 0; i < tci_limit_infos_len; i++) {
    const tci_limit_info *info = &tci_limit_infos[i];
    lua_createtable(L, 0, 4);
    set_text(L, "name", info->name);
    set_text(L, "doc", info->doc);
    lua_pushinteger(L, *(const int64_t *)((const char *)&defaults + info->offset));
    lua_setfield(L, -2, "value");
    lua_pushinteger(L, tci_limit_most(info));
    lua_setfield(L, -2, "most");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int random_hex(lua_State *L) {
  static const char digits[] = "0123456789abcdef";
  lua_Integer bytes = luaL_checkinteger(L, 1);
  luaL_argcheck(L, bytes >= 1 && bytes <= RANDOM_BYTES_MAX, 1, "expected 1 to 1024");
  uint8_t random[RANDOM_BYTES_MAX];
  char hex[2 * RANDOM_BYTES_MAX];
  tci_clock_random(random, (size_t)bytes);
  for (lua_Integer i = 0; i < bytes; i++) {
    hex[2 * i] = digits[random[i] >> 4];
    hex[2 * i + 1] = digits[random[i] & 15];
  }
  lua_pushlstring(L, hex, 2 * (size_t)bytes);
  return 1;
}

__attribute__((visibility("default"))) int luaopen_turboci_core(lua_State *L) {
  const luaL_Reg functions[] = {{"limits", limits}, {"random_hex", random_hex}, {NULL, NULL}};
  luaL_checkversion(L);
  luaL_newlib(L, functions);
  set_text(L, "version", tci_version);
  lua_pushlightuserdata(L, NULL); /* equals cjson.null: decoded JSON passes as it is */
  lua_setfield(L, -2, "null");
  add_methods(L);
  add_codes(L);
  tci_lua_open_messages(L);
  tci_lua_open_virtual(L);
  tci_lua_open_server(L);
  tci_lua_open_hub(L);
  tci_lua_open_host(L);
  tci_lua_open_policy(L);
  tci_lua_open_journal(L);
  tci_lua_open_output(L);
  return 1;
}
