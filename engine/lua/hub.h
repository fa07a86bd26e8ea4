/* hub: the one rpc thread of a Lua program, and the queue on which everything from it comes to Lua. Shared by hub.c
 * (the client, fd, take) and host.c (servers answered in Lua).
 */
#ifndef TCI_LUA_HUB_H
#define TCI_LUA_HUB_H

#include <pthread.h>

#include "base/list.h"
#include "lua/module.h"

typedef struct tci_lua_hub tci_lua_hub;
typedef struct tci_lua_host tci_lua_host;

typedef enum { TCI_LUA_MESSAGE, TCI_LUA_DONE, TCI_LUA_CALL, TCI_LUA_GONE } tci_lua_event_kind;

/* What the rpc thread has to say; its strings are heap copies. */
typedef struct tci_lua_event {
  tci_link link;
  tci_lua_event_kind kind;
  uint64_t id;         /* MESSAGE, DONE: the handle; CALL, GONE: the call */
  tci_code code;       /* DONE */
  tci_str text, bytes; /* DONE: status text and response; CALL: path and request; MESSAGE: bytes */
  tci_lua_host *host;  /* CALL, GONE */
  tci_rpc_call *call;  /* CALL: still to be replied to */
  int64_t deadline_us; /* CALL: monotonic */
} tci_lua_event;

struct tci_lua_hub {
  tci_rpc *rpc; /* NULL: closed */
  tci_rpc_client *client;
  int fd; /* an eventfd, readable while `events` is not empty */
  pthread_mutex_t lock;
  tci_link events;  /* under the lock */
  tci_link taking;  /* Lua's thread: taken, not handed over yet (an error may have come in between) */
  tci_link hosts;   /* Lua's thread: those that are open */
  uint64_t next_id; /* Lua's thread */
};

/* The hub of this state, made when it is first asked for. Raises when it is closed. */
tci_lua_hub *tci_lua_hub_get(lua_State *L);
/* Any thread: queues an event (heap; the hub frees it). Copies text and bytes. */
void tci_lua_hub_push(tci_lua_hub *hub, tci_lua_event event, tci_str text, tci_str bytes);
/* Replies to and drops the calls of a host that is going away. */
void tci_lua_hub_forget(tci_lua_hub *hub, const tci_lua_host *host);

/* ---- host.c, called by take() and at the end ---- */

/* CALL: remembers the call so that Host:reply finds it. GONE: ends the call. Pushes the host; false (with whatever
 * pushed) when nobody is to be told: the call was answered already, or its host is being collected (then the call ends
 * here). */
bool tci_lua_host_take(lua_State *L, tci_lua_event *event);
/* Ends every call and stops the server. From the hub's end. */
void tci_lua_host_shut(tci_lua_host *host, int64_t grace_ms);
tci_lua_host *tci_lua_host_of(tci_link *link);

#endif
