/* loop: the engine thread: takes what the queue holds, runs a turn, lets effects out over gRPC.
 *
 * Time. The engine's clock (core/event.h) is CLOCK_MONOTONIC less all the time that the engine stood still: a thread that
 * woke long after it wanted to, or a turn that took long. After a standstill nobody is judged to be late before the
 * polling thread has read out the sockets (HEARD).
 *
 * Everything in tci_loop below `engine` belongs to the engine thread. Other threads only push items.
 */
#ifndef TCI_APP_LOOP_H
#define TCI_APP_LOOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "app/engine.h"
#include "app/memory.h"
#include "base/list.h"
#include "base/vec.h"
#include "rpc/rpc.h"

typedef enum {
  TCI_ITEM_EVENT,
  TCI_ITEM_HEARD, /* what the sockets held after a standstill is in the queue before this */
  TCI_ITEM_DRAIN, /* end when the open calls are over, or drain_timeout_ms is */
  TCI_ITEM_LEAVE, /* end now */
  TCI_ITEM_SENT,  /* stream event.token has room again */
} tci_item_kind;

/* An open WatchWorkPlan. The user of its call, from the call's arrival on; freed by the engine thread after the reply. */
typedef struct tci_stream {
  uint64_t token;
  tci_rpc_call *call;
  size_t position;  /* in stream_list */
  atomic_bool full; /* the engine wants to be told when there is room */
} tci_stream;

/* One piece of work for the engine thread, with its own memory. */
typedef struct {
  tci_queue_item link; /* first */
  tci_item_kind kind;
  int64_t arrived_us; /* monotonic */
  tci_event event;
  tci_arena arena;
  tci_rpc_call *call; /* COMMAND: the call to answer */
  tci_stream *stream; /* COMMAND of a stream: until the loop takes it */
} tci_item;

typedef struct {
  tci_queue queue;
  atomic_llong queued; /* requests in it, and those that a turn has put off */
  atomic_bool stirred; /* an item that says that policy files changed is in it */
  tci_rpc *rpc;
  tci_rpc_client *client;
  tci_limits limits;
  pthread_t thread;
  /* engine thread only */
  tci_engine *engine;
  tci_rng rng;
  tci_map streams;     /* 8 bytes of token -> stream */
  tci_map calls;       /* execution id -> runner call in flight */
  tci_link unanswered; /* RunAsync in flight, in the order in which they left */
  TCI_VEC(tci_stream *) stream_list;
  TCI_VEC(tci_event) events; /* of the turn */
  TCI_VEC(tci_item *) items; /* of the turn, then those that the next one begins with */
  TCI_VEC(bool) later;       /* of events: the engine wants them again */
  bool behind;               /* the last turn had no time for all of them: no others are taken before they are done */
  tci_memory memory;
  int64_t stood_us; /* all standstills so far: the engine's clock is behind the monotonic one by it */
  bool reading_out; /* a HEARD item is due */
  int64_t heard_us; /* on the engine's clock: what arrived by then is in this turn or was in earlier ones */
  bool draining;
  int64_t drain_by_us; /* monotonic */
} tci_loop;

tci_item *tci_item_new(tci_item_kind kind); /* it arrives now */
void tci_item_free(tci_item *item);
/* Any thread: policy files changed. One item for all that is said before the loop takes it. */
void tci_loop_stir(void *loop);
/* rpc thread: a message of the stream left, so much is still with rpc. */
void tci_loop_stream_sent(tci_loop *loop, tci_stream *stream, size_t pending_bytes);
/* Token of a unary request and of a stream: the first are even, the second odd. */
static inline uint64_t tci_token_of_call(tci_rpc_call *call) { return (uint64_t)(uintptr_t)call; }
static inline bool tci_token_is_stream(uint64_t token) { return token & 1; }

extern const tci_sink tci_loop_sink; /* ctx: the tci_loop */
/* The engine thread's work: runs until a DRAIN item was taken and the drain is over, or a LEAVE item was. */
void tci_loop_run(tci_loop *loop);
/* Answers what is still queued and frees; the thread has ended, and nobody pushes any more. */
void tci_loop_deinit(tci_loop *loop);

#endif
