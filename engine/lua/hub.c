/* hub: core.call, core.cancel, core.fd, core.take.
 *
 * 1. The rpc thread appends to a queue under a mutex and makes the eventfd readable when the queue was empty; take()
 *    empties both. Nothing else crosses the threads.
 * 2. Each call is a userdata in the hub's table of calls, from before it starts until its "done" is taken: the rpc
 *    thread's callbacks have an address that stays, and cancel finds the call by its handle.
 * 3. The hub lives in the registry and ends with the state: first its hosts, then the client (whose callbacks have
 *    all run then), then the thread.
 *
 * One hub per lua_State, made on first use: a program that only talks to a virtual engine starts no thread.
 */
#include "lua/hub.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

static const char HUB_TYPE[] = "turboci.hub", HUB_KEY[] = "turboci.hub.instance";

typedef struct {
  tci_lua_hub *hub;
  uint64_t handle;
  uint64_t rpc_handle; /* Lua's thread */
} outgoing;

/* ---- events ---- */

static void event_free(tci_lua_event *event) {
  tci_link_remove(&event->link);
  tci_str_free(&event->text);
  tci_str_free(&event->bytes);
  free(event);
}

void tci_lua_hub_push(tci_lua_hub *hub, tci_lua_event event, tci_str text, tci_str bytes) {
  tci_lua_event *copy = tci_malloc(sizeof *copy);
  *copy = event;
  copy->text = tci_str_dup(text);
  copy->bytes = tci_str_dup(bytes);
  pthread_mutex_lock(&hub->lock);
  bool wake = tci_list_empty(&hub->events);
  tci_list_push(&hub->events, &copy->link);
  if (wake) tci_assert(eventfd_write(hub->fd, 1) == 0);
  pthread_mutex_unlock(&hub->lock);
}

/* Moves what has come to the end of `taking`. */
static void collect(tci_lua_hub *hub) {
  pthread_mutex_lock(&hub->lock);
  if (!tci_list_empty(&hub->events)) {
    eventfd_t count;
    tci_assert(eventfd_read(hub->fd, &count) == 0);
    while (!tci_list_empty(&hub->events)) {
      tci_link *link = hub->events.next;
      tci_link_remove(link);
      tci_list_push(&hub->taking, link);
    }
  }
  pthread_mutex_unlock(&hub->lock);
}

void tci_lua_hub_forget(tci_lua_hub *hub, const tci_lua_host *host) {
  collect(hub);
  for (tci_link *link = hub->taking.next, *next; link != &hub->taking; link = next) {
    next = link->next;
    tci_lua_event *event = tci_container(link, tci_lua_event, link);
    if (event->host != host) continue;
    if (event->kind == TCI_LUA_CALL)
      tci_rpc_reply(event->call, (tci_status){TCI_UNAVAILABLE, "the runner is stopping"}, (tci_str){NULL, 0});
    event_free(event);
  }
  /* What stays is still to be taken. */
  pthread_mutex_lock(&hub->lock);
  if (!tci_list_empty(&hub->taking) && tci_list_empty(&hub->events)) {
    while (!tci_list_empty(&hub->taking)) {
      tci_link *link = hub->taking.next;
      tci_link_remove(link);
      tci_list_push(&hub->events, link);
    }
    tci_assert(eventfd_write(hub->fd, 1) == 0);
  }
  pthread_mutex_unlock(&hub->lock);
}

/* ---- the hub's life ---- */

static int hub_close(lua_State *L) {
  tci_lua_hub *hub = luaL_checkudata(L, 1, HUB_TYPE);
  if (!hub->rpc) return 0;
  while (!tci_list_empty(&hub->hosts)) tci_lua_host_shut(tci_lua_host_of(hub->hosts.next), 0);
  tci_rpc_client_close(hub->client);
  tci_rpc_close(hub->rpc);
  hub->rpc = NULL;
  collect(hub);
  while (!tci_list_empty(&hub->taking)) event_free(tci_container(hub->taking.next, tci_lua_event, link));
  close(hub->fd);
  pthread_mutex_destroy(&hub->lock);
  return 0;
}

tci_lua_hub *tci_lua_hub_get(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, HUB_KEY) == LUA_TNIL) {
    tci_lua_hub *hub = memset(lua_newuserdatauv(L, sizeof *hub, 1), 0, sizeof *hub);
    luaL_setmetatable(L, HUB_TYPE);
    lua_newtable(L); /* handle -> outgoing */
    lua_setiuservalue(L, -2, 1);
    tci_list_init(&hub->events);
    tci_list_init(&hub->taking);
    tci_list_init(&hub->hosts);
    hub->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (hub->fd < 0) luaL_error(L, "no eventfd: out of file descriptors?");
    pthread_mutex_init(&hub->lock, NULL);
    hub->rpc = tci_rpc_open();
    hub->client = tci_rpc_client_open(hub->rpc, NULL);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, HUB_KEY);
    lua_replace(L, -2);
  }
  tci_lua_hub *hub = lua_touserdata(L, -1);
  if (!hub->rpc) luaL_error(L, "turboci.core is closed: the program is ending");
  lua_pop(L, 1);
  return hub;
}

/* Pushes the table of calls. */
static void push_calls(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, HUB_KEY);
  lua_getiuservalue(L, -1, 1);
  lua_remove(L, -2);
}

/* ---- calls ---- */

/* rpc thread */
static void on_done(void *ctx, tci_status status, tci_str message) {
  outgoing *call = ctx;
  tci_lua_event event = {.kind = TCI_LUA_DONE, .id = call->handle, .code = status.code};
  tci_lua_hub_push(call->hub, event, tci_str_from(status.message), message);
}

/* rpc thread */
static void on_message(void *ctx, tci_str message) {
  outgoing *call = ctx;
  tci_lua_event event = {.kind = TCI_LUA_MESSAGE, .id = call->handle};
  tci_lua_hub_push(call->hub, event, (tci_str){NULL, 0}, message);
}

static int call(lua_State *L) {
  tci_str target = tci_lua_check_str(L, 1), request = tci_lua_check_str(L, 3);
  tci_str path = tci_lua_check_str(L, 2);
  bool stream = false; /* of methods that are not ours, only unary ones can be called */
  const tci_method *method = tci_method_by_path(path);
  if (!method && (path.len == 0 || path.ptr[0] != '/')) method = tci_lua_check_method(L, 2);
  if (method) stream = method->stream;
  int64_t timeout_us = lua_isnoneornil(L, 4) ? -1 : tci_lua_check_seconds(L, 4);
  tci_lua_hub *hub = tci_lua_hub_get(L);

  push_calls(L);
  outgoing *out = lua_newuserdatauv(L, sizeof *out, 0);
  *out = (outgoing){hub, ++hub->next_id, 0};
  lua_rawseti(L, -2, (lua_Integer)out->handle);
  tci_rpc_sink sink = {out, on_done, stream ? on_message : NULL};
  out->rpc_handle =
      tci_rpc_start(hub->client, target.ptr, method ? method->path : path.ptr, request, timeout_us, stream, &sink);
  lua_pushinteger(L, (lua_Integer)hub->next_id);
  return 1;
}

static int cancel(lua_State *L) {
  lua_Integer handle = luaL_checkinteger(L, 1);
  tci_lua_hub *hub = tci_lua_hub_get(L);
  push_calls(L);
  if (lua_rawgeti(L, -1, handle) != LUA_TNIL) { /* else it has ended */
    const outgoing *out = lua_touserdata(L, -1);
    tci_rpc_cancel(hub->client, out->rpc_handle);
  }
  return 0;
}

static int fd(lua_State *L) {
  lua_pushinteger(L, tci_lua_hub_get(L)->fd);
  return 1;
}

/* ---- take ---- */

static void set_str(lua_State *L, const char *key, tci_str value) {
  tci_lua_push_str(L, value);
  lua_setfield(L, -2, key);
}

/* Fills the table on top; the calls' table is at `calls`. */
static void fill_outgoing(lua_State *L, int calls, const tci_lua_event *event) {
  lua_pushinteger(L, (lua_Integer)event->id);
  lua_setfield(L, -2, "handle");
  if (event->kind == TCI_LUA_DONE) {
    lua_pushinteger(L, event->code);
    lua_setfield(L, -2, "code");
    set_str(L, "message", event->text);
    lua_pushnil(L);
    lua_rawseti(L, calls, (lua_Integer)event->id);
  }
  if (event->kind == TCI_LUA_MESSAGE || event->code == TCI_OK) set_str(L, "bytes", event->bytes);
}

/* The host is on top of the event's table. */
static void fill_incoming(lua_State *L, const tci_lua_event *event) {
  lua_setfield(L, -2, "host");
  lua_pushinteger(L, (lua_Integer)event->id);
  lua_setfield(L, -2, "call");
  if (event->kind == TCI_LUA_GONE) return;
  set_str(L, "method", event->text);
  set_str(L, "bytes", event->bytes);
  if (event->deadline_us == INT64_MAX) return;
  int64_t left_us = event->deadline_us - tci_clock_mono_us();
  lua_pushnumber(L, (lua_Number)(left_us > 0 ? left_us : 0) / 1e6);
  lua_setfield(L, -2, "timeout");
}

static int take(lua_State *L) {
  static const char *const types[] = {"message", "done", "call", "gone"};
  tci_lua_hub *hub = tci_lua_hub_get(L);
  lua_settop(L, 0);
  lua_newtable(L);
  push_calls(L);
  collect(hub);
  for (lua_Integer len = 0; !tci_list_empty(&hub->taking);) {
    tci_lua_event *event = tci_container(hub->taking.next, tci_lua_event, link);
    lua_settop(L, 2);
    lua_createtable(L, 0, 6);
    lua_pushstring(L, types[event->kind]);
    lua_setfield(L, -2, "type");
    bool told = true;
    if (event->kind == TCI_LUA_MESSAGE || event->kind == TCI_LUA_DONE)
      fill_outgoing(L, 2, event);
    else if (tci_lua_host_take(L, event))
      fill_incoming(L, event);
    else
      told = false;
    if (told) lua_rawseti(L, 1, ++len);
    event_free(event);
  }
  lua_settop(L, 1);
  return 1;
}

void tci_lua_open_hub(lua_State *L) {
  const luaL_Reg functions[] = {{"call", call}, {"cancel", cancel}, {"fd", fd}, {"take", take}, {NULL, NULL}};
  tci_lua_class(L, HUB_TYPE, (const luaL_Reg[]){{NULL, NULL}}, hub_close);
  luaL_setfuncs(L, functions, 0);
}
