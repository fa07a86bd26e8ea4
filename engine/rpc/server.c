/* server: takes every call whatever its method, hands over its one request message, sends back what it is given.
 *
 * The life of a call:
 *
 *     slot (an armed request) -> request read -> on_call -> [send ...] -> reply -> final batch -> freed
 *                     \______________ closed: the peer got its status, or went away (on_gone) ____/
 *
 * 1. Slots are always armed, and armed again before their call is looked at: no call waits unseen in gRPC.
 * 2. A call is counted: one reference for its owner (from on_call until reply), one for each batch that is out. The
 *    last one frees it, on any thread. Fields are written under its lock from on_call on.
 * 3. At most one send batch is out (gRPC allows no more); messages wait in a list; the final batch leaves after them.
 * 4. on_gone and on_sent run under the call's lock. So neither starts after tci_rpc_reply was called; a reply on
 *    another thread waits for one that is running, and one from inside it is fine (the lock is recursive).
 * 5. Until a call is closed its server stays; after that the call never touches its server. So calls may be replied
 *    to when the server is gone already: `gone` is set, and nothing is sent.
 * 6. slots_armed and calls_open belong to the polling thread. Both 0: no handler will be called any more.
 * 7. Stopping is ours, not gRPC's, whose shutdown cancels calls that race with it: a stopped server answers
 *    UNAVAILABLE. gRPC is shut down once no call is in. calls_in never rises after `stopped`: see take().
 *
 * Callers: app/server.c, engine/lua (the runner host).
 */
#define _GNU_SOURCE 1
#include "rpc/rpc_internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"

enum {
  SLOTS = 32,       /* calls that one wake-up can take; more wait for the next round */
  LINGER_MS = 1000, /* for clients to close their connections, once no call is in */
};

typedef struct {
  tci_rpc_tag tag;
  tci_rpc_server *server;
  grpc_call *call;
  grpc_call_details details;
  grpc_metadata_array metadata;
} call_slot;

struct tci_rpc_server {
  tci_rpc *rpc;
  tci_rpc_handler handler;
  grpc_server *grpc;
  tci_rpc_listener listener;
  tci_rpc_acceptor *acceptor;
  call_slot slots[SLOTS];
  size_t slots_armed, calls_open;
  atomic_bool stopped;    /* no new calls are taken */
  atomic_size_t calls_in; /* calls the handler was told of, until they are closed */
  tci_rpc_tag shut_tag;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool idle; /* no handler will be called any more */
  bool shut; /* gRPC has nothing of ours any more */
};

typedef struct message {
  struct message *next;
  grpc_byte_buffer *buffer;
  size_t len;
} message;

struct tci_rpc_call {
  tci_rpc_server *server;
  grpc_call *grpc;
  atomic_int refs;
  grpc_slice method;
  int64_t deadline_us;
  tci_str payload;
  void *user;
  tci_rpc_tag received_tag, closed_tag, sent_tag;
  grpc_byte_buffer *request; /* where gRPC puts it */
  int cancelled;             /* where gRPC says why it was closed */

  pthread_mutex_t lock;
  bool told;    /* on_call was called */
  bool stream;  /* the final batch has no message of its own */
  bool opened;  /* initial metadata is sent */
  bool sending; /* a send batch is out */
  bool broken;  /* one failed: nothing can be sent any more, and `closed` is near */
  bool gone;    /* closed */
  bool replied; /* the owner is done with it */
  bool ended;   /* the final batch was started */
  message *first, **last, *leaving;
  size_t pending_bytes;
  grpc_status_code code;
  grpc_slice text;
  grpc_byte_buffer *response;
};

static void arm(call_slot *slot);
static void on_slot(tci_rpc_tag *tag, bool ok);
static void on_shut(tci_rpc_tag *tag, bool ok);
static void on_received(tci_rpc_tag *tag, bool ok);
static void on_closed(tci_rpc_tag *tag, bool ok);
static void on_sent(tci_rpc_tag *tag, bool ok);
static void note_idle(tci_rpc_server *server);
static grpc_server *server_new(const tci_rpc_server_options *options, grpc_completion_queue *cq);
static bool none_in(const tci_rpc_server *server);
static bool all_over(const tci_rpc_server *server);
static bool wait_until(tci_rpc_server *server, bool (*reached)(const tci_rpc_server *), int64_t ms);
static bool take(tci_rpc_server *server);
static void leave(tci_rpc_server *server);
static tci_rpc_call *call_new(call_slot *slot);
static void call_release(tci_rpc_call *call);
static void refuse(tci_rpc_call *call, tci_status status);
static void pump(tci_rpc_call *call);
static void send_batch(tci_rpc_call *call, grpc_op *ops, size_t ops_len);
static void drop_waiting(tci_rpc_call *call);
static void message_free(message *m);
static int64_t deadline_us_from(gpr_timespec deadline);

tci_status tci_rpc_server_open(tci_rpc *rpc, const tci_rpc_server_options *options, const tci_rpc_handler *handler,
                               tci_rpc_server **out, char *message_out, size_t size) {
  tci_assert(handler->on_call != NULL);
  *out = NULL;
  tci_rpc_listener listener;
  TCI_TRY(tci_rpc_listen(options->address, &listener, message_out, size));
  grpc_server *grpc = server_new(options, rpc->cq);
  tci_rpc_server *server = tci_calloc(1, sizeof *server);
  *server = (tci_rpc_server){.rpc = rpc, .handler = *handler, .grpc = grpc, .listener = listener};
  server->shut_tag.done = on_shut;
  server->slots_armed = SLOTS;
  int failed = pthread_mutex_init(&server->lock, NULL);
  tci_assert(!failed);
  tci_rpc_cond_init(&server->changed);
  grpc_server_start(grpc);
  for (size_t i = 0; i < SLOTS; i++) {
    server->slots[i] = (call_slot){.tag.done = on_slot, .server = server};
    grpc_metadata_array_init(&server->slots[i].metadata);
    arm(&server->slots[i]);
  }
  server->acceptor = tci_rpc_accept(grpc, &server->listener, options->connections_max);
  *out = server;
  return TCI_STATUS_OK;
}

const char *tci_rpc_server_address(const tci_rpc_server *server) { return server->listener.address; }

void tci_rpc_server_stop(tci_rpc_server *server) { atomic_store(&server->stopped, true); }

void tci_rpc_server_close(tci_rpc_server *server, int64_t grace_ms) {
  tci_assert(!tci_rpc_on_thread(server->rpc)); /* it would wait for itself */
  tci_rpc_server_stop(server);
  tci_rpc_accept_stop(server->acceptor);
  tci_rpc_listen_stop(&server->listener);
  bool finished = wait_until(server, none_in, grace_ms);
  tci_rpc_tag_leaves(&server->shut_tag);
  grpc_server_shutdown_and_notify(server->grpc, server->rpc->cq, &server->shut_tag);
  /* What was replied last may still be on its way out of the sockets: clients get a moment to take it. */
  if (!finished || !wait_until(server, all_over, LINGER_MS)) grpc_server_cancel_all_calls(server->grpc);
  wait_until(server, all_over, INT64_MAX);
  grpc_server_destroy(server->grpc);
  tci_rpc_unlisten(&server->listener);
  for (size_t i = 0; i < SLOTS; i++) grpc_metadata_array_destroy(&server->slots[i].metadata);
  pthread_cond_destroy(&server->changed);
  pthread_mutex_destroy(&server->lock);
  free(server);
}

tci_str tci_rpc_call_method(const tci_rpc_call *call) {
  return (tci_str){(const char *)GRPC_SLICE_START_PTR(call->method), GRPC_SLICE_LENGTH(call->method)};
}

tci_str tci_rpc_call_payload(const tci_rpc_call *call) { return call->payload; }

int64_t tci_rpc_call_deadline_us(const tci_rpc_call *call) { return call->deadline_us; }

void tci_rpc_call_set_user(tci_rpc_call *call, void *user) { call->user = user; }

void *tci_rpc_call_user(const tci_rpc_call *call) { return call->user; }

void tci_rpc_call_set_stream(tci_rpc_call *call) {
  pthread_mutex_lock(&call->lock);
  call->stream = true;
  pump(call);
  pthread_mutex_unlock(&call->lock);
}

void tci_rpc_reply(tci_rpc_call *call, tci_status status, tci_str message_bytes) {
  pthread_mutex_lock(&call->lock);
  tci_assert(!call->replied);
  call->replied = true;
  if (!call->gone) {
    call->code = (grpc_status_code)status.code;
    if (status.code != TCI_OK) {
      char text[TCI_RPC_TEXT_BYTES_MAX + 1];
      size_t len = tci_rpc_text(tci_str_from(status.message), text);
      call->text = grpc_slice_from_copied_buffer(text, len);
    } else if (!call->stream || message_bytes.len) {
      call->response = tci_rpc_buffer_new(message_bytes);
    }
    pump(call);
  }
  /* The request is not needed any more, and the final batch may wait long for a slow reader. */
  tci_str_free(&call->payload);
  pthread_mutex_unlock(&call->lock);
  call_release(call);
}

void tci_rpc_abort(tci_rpc_call *call, tci_status status) {
  pthread_mutex_lock(&call->lock);
  tci_assert(!call->replied && status.code != TCI_OK);
  call->replied = true;
  drop_waiting(call);
  if (!call->gone) {
    char text[TCI_RPC_TEXT_BYTES_MAX + 1];
    size_t len = tci_rpc_text(tci_str_from(status.message), text);
    call->code = (grpc_status_code)status.code;
    call->text = grpc_slice_from_copied_buffer(text, len);
    grpc_call_cancel_with_status(call->grpc, call->code, text, NULL); /* a send that is out ends, too */
  }
  tci_str_free(&call->payload);
  pthread_mutex_unlock(&call->lock);
  call_release(call);
}

size_t tci_rpc_send(tci_rpc_call *call, tci_str message_bytes) {
  pthread_mutex_lock(&call->lock);
  tci_assert(!call->replied);
  call->stream = true;
  if (!call->gone && !call->broken) {
    message *m = tci_calloc(1, sizeof *m);
    *m = (message){.buffer = tci_rpc_buffer_new(message_bytes), .len = message_bytes.len};
    *call->last = m;
    call->last = &m->next;
    call->pending_bytes += m->len;
    pump(call);
  }
  size_t pending_bytes = call->pending_bytes;
  pthread_mutex_unlock(&call->lock);
  return pending_bytes;
}

/* ---- the server's own ---- */

static grpc_server *server_new(const tci_rpc_server_options *options, grpc_completion_queue *cq) {
  int64_t bytes_max = options->message_bytes_max ? options->message_bytes_max : TCI_RPC_MESSAGE_BYTES_MAX;
  tci_assert(bytes_max > 0 && bytes_max <= INT32_MAX);
  grpc_arg args[] = {
      tci_rpc_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)bytes_max),
      tci_rpc_arg(GRPC_ARG_MAX_METADATA_SIZE, TCI_RPC_METADATA_BYTES_MAX),
      tci_rpc_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, TCI_RPC_STREAMS_MAX),
      tci_rpc_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, TCI_RPC_PING_INTERVAL_MS_MIN),
      tci_rpc_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
      tci_rpc_arg(GRPC_ARG_KEEPALIVE_TIME_MS, TCI_RPC_SERVER_PING_MS),
      tci_rpc_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, TCI_RPC_PING_TIMEOUT_MS),
      tci_rpc_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0), /* else only two pings go out while a watch is quiet */
      /* What costs 15 % of a call and serves nobody here: */
      tci_rpc_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
      tci_rpc_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
  };
  grpc_server *grpc = grpc_server_create(&(grpc_channel_args){sizeof args / sizeof *args, args}, NULL);
  grpc_server_register_completion_queue(grpc, cq, NULL);
  return grpc;
}

static void arm(call_slot *slot) {
  tci_rpc_server *server = slot->server;
  grpc_completion_queue *cq = server->rpc->cq;
  slot->call = NULL;
  slot->metadata.count = 0;
  grpc_call_details_init(&slot->details);
  tci_rpc_tag_leaves(&slot->tag);
  grpc_call_error error =
      grpc_server_request_call(server->grpc, &slot->call, &slot->details, &slot->metadata, cq, cq, &slot->tag);
  tci_assert(error == GRPC_CALL_OK);
}

static void on_slot(tci_rpc_tag *tag, bool ok) {
  call_slot *slot = tci_container(tag, call_slot, tag);
  tci_rpc_server *server = slot->server;
  if (!ok) { /* the server was stopped */
    grpc_call_details_destroy(&slot->details);
    server->slots_armed--;
    note_idle(server);
    return;
  }
  tci_rpc_call *call = call_new(slot);
  arm(slot);
  server->calls_open++;
  grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->cancelled};
  tci_rpc_batch(call->grpc, &close, 1, &call->closed_tag);
  grpc_op receive = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->request};
  tci_rpc_batch(call->grpc, &receive, 1, &call->received_tag);
}

static void on_shut(tci_rpc_tag *tag, bool ok) {
  (void)ok;
  tci_rpc_server *server = tci_container(tag, tci_rpc_server, shut_tag);
  pthread_mutex_lock(&server->lock);
  server->shut = true;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

static void note_idle(tci_rpc_server *server) {
  if (server->slots_armed || server->calls_open) return;
  pthread_mutex_lock(&server->lock);
  server->idle = true;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock); /* after it the server may be gone */
}

static bool none_in(const tci_rpc_server *server) { return atomic_load(&server->calls_in) == 0; }

static bool all_over(const tci_rpc_server *server) { return server->idle && server->shut; }

static bool wait_until(tci_rpc_server *server, bool (*reached)(const tci_rpc_server *), int64_t ms) {
  int64_t now_us = tci_clock_mono_us();
  int64_t due_us = ms > (INT64_MAX - now_us) / 1000 ? INT64_MAX : now_us + ms * 1000;
  struct timespec due = {.tv_sec = due_us / 1000000, .tv_nsec = due_us % 1000000 * 1000};
  bool late = false;
  pthread_mutex_lock(&server->lock);
  while (!reached(server) && !late) {
    if (due_us == INT64_MAX)
      pthread_cond_wait(&server->changed, &server->lock);
    else
      late = pthread_cond_timedwait(&server->changed, &server->lock, &due) == ETIMEDOUT;
  }
  bool in_time = reached(server);
  pthread_mutex_unlock(&server->lock);
  return in_time;
}

/* Counts a call in, unless the server is stopped. First the count, then the look: so a closer that has set `stopped`
 * sees every call that got past it. */
static bool take(tci_rpc_server *server) {
  atomic_fetch_add(&server->calls_in, 1);
  if (!atomic_load(&server->stopped)) return true;
  leave(server);
  return false;
}

static void leave(tci_rpc_server *server) {
  if (atomic_fetch_sub(&server->calls_in, 1) != 1 || !atomic_load(&server->stopped)) return;
  pthread_mutex_lock(&server->lock);
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

/* ---- a call ---- */

static tci_rpc_call *call_new(call_slot *slot) {
  tci_rpc_call *call = tci_calloc(1, sizeof *call);
  call->server = slot->server;
  call->grpc = slot->call;
  call->method = grpc_slice_ref(slot->details.method);
  call->deadline_us = deadline_us_from(slot->details.deadline);
  grpc_call_details_destroy(&slot->details);
  atomic_init(&call->refs, 2); /* the two batches of on_slot */
  call->received_tag.done = on_received;
  call->closed_tag.done = on_closed;
  call->sent_tag.done = on_sent;
  call->last = &call->first;
  call->text = grpc_empty_slice();
  pthread_mutexattr_t attr;
  int failed = pthread_mutexattr_init(&attr);
  failed |= pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
  failed |= pthread_mutex_init(&call->lock, &attr);
  failed |= pthread_mutexattr_destroy(&attr);
  tci_assert(!failed);
  return call;
}

static void call_release(tci_rpc_call *call) {
  if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1) return;
  tci_assert(!call->first && !call->leaving && call->pending_bytes == 0);
  grpc_call_unref(call->grpc);
  grpc_slice_unref(call->method);
  grpc_slice_unref(call->text);
  if (call->response) grpc_byte_buffer_destroy(call->response);
  tci_str_free(&call->payload);
  pthread_mutex_destroy(&call->lock);
  free(call);
}

static void on_received(tci_rpc_tag *tag, bool ok) {
  tci_rpc_call *call = tci_container(tag, tci_rpc_call, received_tag);
  grpc_byte_buffer *request = call->request;
  tci_rpc_handler *handler = &call->server->handler; /* stays while the call is not gone */
  if (!ok || call->gone) {
    grpc_call_cancel(call->grpc, NULL); /* too large a message, or gone: gRPC has told the peer already */
  } else if (!request) {
    refuse(call, (tci_status){TCI_INVALID_ARGUMENT, "the call brought no request message"});
  } else if (!take(call->server)) {
    refuse(call, (tci_status){TCI_UNAVAILABLE, "the server is stopping"});
  } else {
    char *heap;
    tci_str bytes = tci_rpc_buffer_bytes(request, &heap);
    call->payload = heap ? bytes : tci_str_dup(bytes);
    grpc_byte_buffer_destroy(request); /* before the handler: it may keep the call long */
    request = NULL;
    call->told = true;
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed); /* the owner's */
    handler->on_call(handler->ctx, call);
  }
  if (request) grpc_byte_buffer_destroy(request);
  call_release(call);
}

/* Answers a call that has no owner. */
static void refuse(tci_rpc_call *call, tci_status status) {
  atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed); /* reply gives it back */
  tci_rpc_reply(call, status, (tci_str){NULL, 0});
}

static void on_closed(tci_rpc_tag *tag, bool ok) {
  (void)ok; /* always true */
  tci_rpc_call *call = tci_container(tag, tci_rpc_call, closed_tag);
  tci_rpc_server *server = call->server;
  pthread_mutex_lock(&call->lock);
  call->gone = true;
  drop_waiting(call);
  if (call->told && !call->replied && server->handler.on_gone) server->handler.on_gone(server->handler.ctx, call);
  bool told = call->told;
  pthread_mutex_unlock(&call->lock);
  call_release(call);
  if (told) leave(server);
  server->calls_open--;
  note_idle(server);
}

static void on_sent(tci_rpc_tag *tag, bool ok) {
  tci_rpc_call *call = tci_container(tag, tci_rpc_call, sent_tag);
  pthread_mutex_lock(&call->lock);
  message *left = call->leaving;
  call->sending = false;
  call->leaving = NULL;
  if (left) {
    call->pending_bytes -= left->len;
    message_free(left);
  }
  if (!ok) {
    call->broken = true;
    drop_waiting(call);
  }
  pump(call);
  if (left && !call->gone && !call->replied && call->server->handler.on_sent)
    call->server->handler.on_sent(call->server->handler.ctx, call, call->pending_bytes);
  pthread_mutex_unlock(&call->lock);
  call_release(call);
}

/* Starts the next send batch if there is one to start. Under the call's lock. */
static void pump(tci_rpc_call *call) {
  if (call->sending || call->gone) return;
  grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}};
  size_t n = call->opened ? 0 : 1;
  if (call->first) {
    message *m = call->leaving = call->first;
    call->first = m->next;
    if (!call->first) call->last = &call->first;
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = m->buffer};
    send_batch(call, ops, n);
  } else if (call->replied && !call->ended) {
    call->ended = true;
    if (call->response)
      ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->response};
    ops[n] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    ops[n].data.send_status_from_server.status = call->code;
    if (call->code != GRPC_STATUS_OK) ops[n].data.send_status_from_server.status_details = &call->text;
    send_batch(call, ops, n + 1);
  } else if (call->stream && !call->opened) {
    send_batch(call, ops, n);
  }
}

static void send_batch(tci_rpc_call *call, grpc_op *ops, size_t ops_len) {
  call->sending = call->opened = true;
  atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
  tci_rpc_batch(call->grpc, ops, ops_len, &call->sent_tag);
}

/* Messages that will never leave; one that is out belongs to its batch. */
static void drop_waiting(tci_rpc_call *call) {
  while (call->first) {
    message *m = call->first;
    call->first = m->next;
    call->pending_bytes -= m->len;
    message_free(m);
  }
  call->last = &call->first;
}

static void message_free(message *m) {
  grpc_byte_buffer_destroy(m->buffer);
  free(m);
}

/* gRPC counts on CLOCK_MONOTONIC too. */
static int64_t deadline_us_from(gpr_timespec deadline) {
  deadline = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
  if (deadline.tv_sec >= INT64_MAX / 1000000 - 1) return INT64_MAX;
  return deadline.tv_sec * 1000000 + deadline.tv_nsec / 1000;
}
