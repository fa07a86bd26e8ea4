/* host: a gRPC server whose calls are answered in Lua. Its calls come through the hub's queue and are named by numbers.
 *
 * 1. The C part is on the heap and ends with the userdata, with Host:close or with the hub, whichever is first.
 * 2. Every call is replied to exactly once: by Host:reply; by us when its caller is gone; by us when the host ends.
 *    Which of them are still open is the host's table of calls (call -> tci_rpc_call), plus those in the hub's queue.
 * 3. Host:reply to a call that has ended is no mistake: its caller may have gone at the same moment, or the host.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lua/hub.h"

static const char HOST_TYPE[] = "turboci.Host", HOSTS_KEY[] = "turboci.hosts";
enum { GRACE_MS = 1000, MESSAGE_BYTES = 512 };

/* A call that Lua knows. */
typedef struct {
  tci_link link; /* in host->calls */
  uint64_t id;
  tci_rpc_call *call;
} incoming;

struct tci_lua_host {
  tci_lua_hub *hub;
  tci_rpc_server *server;
  tci_link link;       /* in hub->hosts */
  tci_link calls;      /* Lua's thread */
  atomic_bool closing; /* calls that come now are refused at once */
  uint64_t next_id;    /* rpc thread */
};

tci_lua_host *tci_lua_host_of(tci_link *link) { return tci_container(link, tci_lua_host, link); }

/* ---- rpc thread ---- */

static void on_call(void *ctx, tci_rpc_call *call) {
  tci_lua_host *host = ctx;
  if (atomic_load(&host->closing)) {
    tci_rpc_reply(call, (tci_status){TCI_UNAVAILABLE, "the runner is stopping"}, (tci_str){NULL, 0});
    return;
  }
  uint64_t id = ++host->next_id;
  tci_rpc_call_set_user(call, (void *)(uintptr_t)id);
  tci_lua_event event = {
      .kind = TCI_LUA_CALL, .id = id, .host = host, .call = call, .deadline_us = tci_rpc_call_deadline_us(call)};
  tci_lua_hub_push(host->hub, event, tci_rpc_call_method(call), tci_rpc_call_payload(call));
}

static void on_gone(void *ctx, tci_rpc_call *call) {
  tci_lua_host *host = ctx;
  uint64_t id = (uint64_t)(uintptr_t)tci_rpc_call_user(call);
  if (id == 0) return; /* refused in on_call */
  tci_lua_hub_push(host->hub, (tci_lua_event){.kind = TCI_LUA_GONE, .id = id, .host = host}, (tci_str){NULL, 0},
                   (tci_str){NULL, 0});
}

/* ---- calls ---- */

static incoming *find(tci_lua_host *host, uint64_t id) {
  for (tci_link *link = host->calls.next; link != &host->calls; link = link->next) {
    incoming *in = tci_container(link, incoming, link);
    if (in->id == id) return in;
  }
  return NULL;
}

static void finish(incoming *in, tci_status status, tci_str message) {
  tci_rpc_reply(in->call, status, message);
  tci_link_remove(&in->link);
  free(in);
}

bool tci_lua_host_take(lua_State *L, tci_lua_event *event) {
  lua_getfield(L, LUA_REGISTRYINDEX, HOSTS_KEY);
  bool alive = lua_rawgetp(L, -1, event->host) != LUA_TNIL;
  lua_remove(L, -2);
  if (event->kind == TCI_LUA_CALL) {
    if (!alive) {
      tci_rpc_reply(event->call, (tci_status){TCI_UNAVAILABLE, "the runner is stopping"}, (tci_str){NULL, 0});
    } else if (!find(event->host, event->id)) { /* else Lua ran out of memory when it was told, and is told again */
      incoming *in = tci_malloc(sizeof *in);
      *in = (incoming){.id = event->id, .call = event->call};
      tci_list_push(&event->host->calls, &in->link);
    }
    return alive;
  }
  incoming *in = alive ? find(event->host, event->id) : NULL;
  if (in) finish(in, (tci_status){TCI_CANCELLED, "the caller is gone"}, (tci_str){NULL, 0});
  return in != NULL;
}

/* ---- the host's life ---- */

void tci_lua_host_shut(tci_lua_host *host, int64_t grace_ms) {
  const tci_status stopping = {TCI_UNAVAILABLE, "the runner is stopping"};
  atomic_store(&host->closing, true);
  tci_rpc_server_stop(host->server);
  while (!tci_list_empty(&host->calls))
    finish(tci_container(host->calls.next, incoming, link), stopping, (tci_str){NULL, 0});
  tci_lua_hub_forget(host->hub, host);
  tci_rpc_server_close(host->server, grace_ms);
  tci_lua_hub_forget(host->hub, host); /* what slipped in between */
  host->server = NULL;
  tci_link_remove(&host->link);
}

typedef struct {
  tci_lua_host *host;
} host_box;

static int host_gc(lua_State *L) {
  host_box *box = luaL_checkudata(L, 1, HOST_TYPE);
  if (!box->host) return 0;
  if (box->host->server) tci_lua_host_shut(box->host, 0);
  free(box->host);
  box->host = NULL;
  return 0;
}

/* NULL: closed. */
static tci_lua_host *check_host(lua_State *L) {
  const host_box *box = luaL_checkudata(L, 1, HOST_TYPE);
  return box->host && box->host->server ? box->host : NULL;
}

static int host_open(lua_State *L) {
  tci_str listen = tci_lua_check_str(L, 1);
  tci_lua_hub *hub = tci_lua_hub_get(L);
  host_box *box = memset(lua_newuserdatauv(L, sizeof *box, 0), 0, sizeof *box);
  luaL_setmetatable(L, HOST_TYPE);
  tci_lua_host *host = box->host = tci_calloc(1, sizeof *host);
  host->hub = hub;
  tci_list_init(&host->calls);
  lua_getfield(L, LUA_REGISTRYINDEX, HOSTS_KEY); /* before calls can come */
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, host);
  lua_pop(L, 1);

  tci_rpc_handler handler = {.ctx = host, .on_call = on_call, .on_gone = on_gone};
  char message[MESSAGE_BYTES] = "";
  tci_rpc_server_options options = {.address = listen.ptr};
  tci_status status = tci_rpc_server_open(hub->rpc, &options, &handler, &host->server, message, sizeof message);
  if (status.code != TCI_OK) {
    host->server = NULL;
    lua_pushnil(L);
    lua_pushstring(L, message);
    return 2;
  }
  tci_list_push(&hub->hosts, &host->link);
  return 1;
}

static int host_address(lua_State *L) {
  const tci_lua_host *host = check_host(L);
  if (!host) return luaL_error(L, "this host is closed");
  lua_pushstring(L, tci_rpc_server_address(host->server));
  return 1;
}

static int host_reply(lua_State *L) {
  tci_lua_host *host = check_host(L);
  uint64_t id = (uint64_t)luaL_checkinteger(L, 2);
  tci_code code = tci_lua_check_code(L, 3);
  tci_str text = tci_lua_opt_str(L, 4), bytes = tci_lua_opt_str(L, 5);
  luaL_argcheck(L, code == TCI_OK || bytes.len == 0, 5, "only OK comes with a response");
  incoming *in = host ? find(host, id) : NULL;
  if (in) finish(in, (tci_status){code, code == TCI_OK ? NULL : text.ptr}, bytes);
  lua_pushboolean(L, in != NULL);
  return 1;
}

static int host_close(lua_State *L) {
  const host_box *box = luaL_checkudata(L, 1, HOST_TYPE);
  int64_t grace_ms = lua_isnoneornil(L, 2) ? GRACE_MS : tci_lua_check_seconds(L, 2) / 1000;
  if (box->host && box->host->server) tci_lua_host_shut(box->host, grace_ms);
  return 0;
}

void tci_lua_open_host(lua_State *L) {
  const luaL_Reg methods[] = {{"address", host_address}, {"reply", host_reply}, {"close", host_close}, {NULL, NULL}};
  tci_lua_class(L, HOST_TYPE, methods, host_gc);
  lua_newtable(L); /* hosts by address, so that an event finds its userdata: weak, a forgotten host is collected */
  lua_newtable(L);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_setfield(L, LUA_REGISTRYINDEX, HOSTS_KEY);
  lua_pushcfunction(L, host_open);
  lua_setfield(L, -2, "host");
}
