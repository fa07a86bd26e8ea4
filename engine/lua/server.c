/* server: the whole engine on its own threads inside a Lua program (app/server.h): core.server. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "app/server.h"
#include "base/log.h"
#include "lua/module.h"

static const char SERVER_TYPE[] = "turboci.Server";
enum { MESSAGE_BYTES = 1024 };

typedef struct {
  tci_server *server; /* NULL: stopped */
  tci_arena arena;    /* what its options point to */
} server_box;

static int server_stop(lua_State *L) {
  server_box *box = luaL_checkudata(L, 1, SERVER_TYPE);
  if (box->server) tci_server_stop(box->server);
  box->server = NULL;
  tci_arena_deinit(&box->arena);
  return 0;
}

static tci_server *running(lua_State *L) {
  const server_box *box = luaL_checkudata(L, 1, SERVER_TYPE);
  if (!box->server) luaL_error(L, "this server is stopped");
  return box->server;
}

static int server_drain(lua_State *L) {
  tci_server_drain(running(L));
  return 0;
}

static int server_leave(lua_State *L) {
  tci_server_leave(running(L));
  return 0;
}

static int server_fd(lua_State *L) {
  lua_pushinteger(L, tci_server_fd(running(L)));
  return 1;
}

static int server_address(lua_State *L) {
  lua_pushstring(L, tci_server_address(running(L)));
  return 1;
}

/* ---- where policies are and what they are attached to; also for core.virtual ---- */

static int by_key(const void *a, const void *b) {
  return tci_str_cmp(((const tci_pair *)a)->key, ((const tci_pair *)b)->key);
}

/* The table on top of the stack: runner types and names of policies. */
static void read_types(lua_State *L, tci_arena *arena, tci_pairs *out) {
  int table = lua_gettop(L);
  size_t len = 0;
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
      luaL_error(L, "option 'policy_for': expected runner types with names of policies, got a %s with a %s",
                 luaL_typename(L, -2), luaL_typename(L, -1));
    len++;
  }
  *out = (tci_pairs){tci_arena_array(arena, tci_pair, len + 1), 0};
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1))
    out->items[out->len++] =
        (tci_pair){tci_str_copy(arena, tci_lua_check_str(L, -2)), tci_str_copy(arena, tci_lua_check_str(L, -1))};
  qsort(out->items, out->len, sizeof *out->items, by_key);
}

void tci_lua_option_policies(lua_State *L, int arg, tci_arena *arena, tci_policies_options *out) {
  *out = (tci_policies_options){0};
  if (lua_getfield(L, arg, "policies") == LUA_TSTRING) {
    out->folders = (tci_ids){tci_arena_new(arena, tci_str), 1};
    out->folders.items[0] = tci_str_copy(arena, tci_lua_check_str(L, -1));
  } else {
    tci_lua_option_list(L, arg, "policies", arena, &out->folders);
  }
  lua_pop(L, 1);
  out->server = tci_lua_option_text(L, arg, "policy", arena);
  out->shadow = tci_lua_option_text(L, arg, "shadow", arena);
  int type = lua_getfield(L, arg, "policy_for");
  if (type != LUA_TNIL && type != LUA_TTABLE)
    luaL_error(L, "option 'policy_for': expected a table of runner types and policies, got a %s", luaL_typename(L, -1));
  if (type == LUA_TTABLE) read_types(L, arena, &out->types);
  lua_pop(L, 1);
}

/* ---- core.server ---- */

/* The level of the whole process, and left alone when the option is wrong. */
static tci_log_level read_log_level(lua_State *L) {
  static const char *const levels[] = {"debug", "info", "warn", "error", "off"};
  lua_getfield(L, 1, "log");
  const char *name = luaL_optstring(L, -1, "warn");
  for (int i = TCI_LOG_DEBUG; i <= TCI_LOG_OFF; i++)
    if (strcmp(name, levels[i]) == 0) {
      lua_pop(L, 1);
      return (tci_log_level)i;
    }
  luaL_error(L, "option 'log': expected debug, info, warn, error or off, got '%s'", name);
  return TCI_LOG_WARN;
}

/* Every connection is a descriptor, and the soft limit of old, 1,024, is for programs that use select(2). The children of a
 * process inherit it: only for one that has none. */
static void take_all_descriptors(void) {
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  unsigned long long before = files.rlim_cur;
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) files.rlim_cur = before;
  tci_log(TCI_LOG_INFO, "descriptors", "soft=%llu was=%llu", (unsigned long long)files.rlim_cur, before);
}

static int server_open(lua_State *L) {
  static const char *const names[] = {
      "listen", "database",   "all_descriptors", "limits",     "allow", "callback_address", "log", "policies",
      "policy", "policy_for", "shadow",          "quarantine", NULL};
  lua_settop(L, 1);
  tci_lua_check_options(L, 1, names);
  server_box *box = memset(lua_newuserdatauv(L, sizeof *box, 0), 0, sizeof *box);
  luaL_setmetatable(L, SERVER_TYPE);
  const char *listen = tci_lua_option_text(L, 1, "listen", &box->arena);
  const char *database = tci_lua_option_text(L, 1, "database", &box->arena);
  tci_server_options options = {
      .listen = listen ? listen : "127.0.0.1:0",
      .database = database ? database : ":memory:",
      .callback_address = tci_lua_option_text(L, 1, "callback_address", &box->arena),
  };
  tci_lua_option_limits(L, 1, &options.limits);
  tci_lua_option_list(L, 1, "allow", &box->arena, &options.allowed_addresses);
  tci_lua_option_list(L, 1, "quarantine", &box->arena, &options.quarantine);
  tci_lua_option_policies(L, 1, &box->arena, &options.policies);
  tci_log_set_level(read_log_level(L));
  lua_getfield(L, 1, "all_descriptors");
  if (lua_toboolean(L, -1)) take_all_descriptors();
  lua_pop(L, 1);
  char message[MESSAGE_BYTES] = "";
  tci_status status = tci_server_start(&options, &box->server, message, sizeof message);
  if (status.code == TCI_OK) return 1;
  box->server = NULL;
  lua_pushnil(L);
  lua_pushstring(L, message);
  return 2;
}

void tci_lua_open_server(lua_State *L) {
  const luaL_Reg methods[] = {{"address", server_address}, {"drain", server_drain}, {"leave", server_leave},
                              {"fd", server_fd},           {"stop", server_stop},   {NULL, NULL}};
  tci_lua_class(L, SERVER_TYPE, methods, server_stop);
  lua_pushcfunction(L, server_open);
  lua_setfield(L, -2, "server");
}
