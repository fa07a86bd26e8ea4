/* server: assembles rpc, loop and engine; turns calls into items (on the rpc thread) and starts and stops it all.
 *
 * Invariants: a call that cannot be decoded never reaches the engine; the queue is bounded: beyond queue_requests_max a
 * request is answered RESOURCE_EXHAUSTED at once; threads end before what they use is freed.
 */
#include "app/server.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "app/loop.h"
#include "app/watcher.h"
#include "base/assert.h"
#include "base/clock.h"

const char tci_version[] = TCI_VERSION;

enum { CLOSE_GRACE_MS = 1000 }; /* for the last events of streams that have just ended */

struct tci_server {
  tci_loop loop;
  tci_rpc *rpc;
  tci_rpc_server *listener;
  tci_folder_watcher *watcher; /* NULL: no policy folders */
  tci_str *allowed;            /* with "loopback" and the socket's folder */
  tci_arena arena;
  uint64_t next_stream; /* rpc thread only */
  int over_fd;          /* an eventfd: the engine thread has ended */
};

/* ---- calls (rpc thread) ---- */

static void refuse(tci_rpc_call *call, tci_code code, const char *message) {
  tci_rpc_reply(call, (tci_status){code, message}, (tci_str){0});
}

static const tci_method *find_method(tci_rpc_call *call) {
  tci_str path = tci_rpc_call_method(call);
  const tci_method *method = tci_method_by_path(path);
  if (method && method->service == TCI_SERVICE_ORCHESTRATOR) return method;
  tci_arena arena = {0};
  refuse(call, TCI_UNIMPLEMENTED,
         tci_fmt(&arena, "method '%.*s' is not served here; this is %s", TCI_STR_ARG(path),
                 "turboci.v1.TurboCIOrchestrator"));
  tci_arena_deinit(&arena);
  return NULL;
}

static void on_call(void *ctx, tci_rpc_call *call) {
  tci_server *server = ctx;
  const tci_method *method = find_method(call);
  if (!method) return;
  if (tci_rpc_call_deadline_us(call) < tci_clock_mono_us()) {
    refuse(call, TCI_DEADLINE_EXCEEDED, "the deadline passed before the request was read");
    return;
  }
  tci_item *item = tci_item_new(TCI_ITEM_EVENT);
  tci_arena_init(&item->arena, (size_t)server->loop.limits.message_arena_bytes_max);
  item->call = call;
  item->event.kind = TCI_EVENT_COMMAND;
  /* The command points into the payload, which lives until the call is answered; the answer comes after the turn. */
  tci_status status =
      tci_codec_command(method, tci_rpc_call_payload(call), &server->loop.limits, &item->arena, &item->event.command);
  if (status.code != TCI_OK) {
    tci_rpc_reply(call, status, (tci_str){0});
    tci_item_free(item);
    return;
  }
  item->event.token = tci_token_of_call(call);
  if (atomic_load(&server->loop.queued) >= server->loop.limits.queue_requests_max) {
    refuse(call, TCI_RESOURCE_EXHAUSTED, "too many requests wait for the engine (limit queue_requests_max); try again");
    tci_item_free(item);
    return;
  }
  if (method->stream) {
    item->stream = tci_calloc(1, sizeof *item->stream);
    item->stream->token = item->event.token = server->next_stream += 2;
    item->stream->call = call;
    tci_rpc_call_set_user(call, item->stream);
  }
  atomic_fetch_add(&server->loop.queued, 1);
  tci_queue_push(&server->loop.queue, &item->link);
}

/* A watcher's peer went away. Unary calls are answered into the void. */
static void on_gone(void *ctx, tci_rpc_call *call) {
  tci_server *server = ctx;
  const tci_stream *stream = tci_rpc_call_user(call);
  if (!stream) return;
  tci_item *item = tci_item_new(TCI_ITEM_EVENT);
  item->event.kind = TCI_EVENT_UNWATCH;
  item->event.token = stream->token;
  tci_queue_push(&server->loop.queue, &item->link);
}

static void on_sent(void *ctx, tci_rpc_call *call, size_t pending_bytes) {
  tci_server *server = ctx;
  tci_loop_stream_sent(&server->loop, tci_rpc_call_user(call), pending_bytes);
}

/* ---- start and stop ---- */

/* Loopback, the folder of a unix socket we listen on, and what the operator allows. */
static tci_ids allowed_addresses(tci_server *server, const tci_server_options *options) {
  size_t n = options->allowed_addresses.len;
  server->allowed = tci_arena_array(&server->arena, tci_str, n + 2);
  tci_ids ids = {server->allowed, 0};
  ids.items[ids.len++] = TCI_STR("loopback");
  const char *slash = strncmp(options->listen, "unix:", 5) == 0 ? strrchr(options->listen, '/') : NULL;
  if (slash)
    ids.items[ids.len++] =
        tci_str_copy(&server->arena, (tci_str){options->listen, (size_t)(slash - options->listen) + 1});
  for (size_t i = 0; i < n; i++)
    ids.items[ids.len++] = tci_str_copy(&server->arena, options->allowed_addresses.items[i]);
  return ids;
}

/* The policy folders, and the shadow's. Before they are read: what changes in between is not missed. */
static void watch_policies(tci_server *server, const tci_policies_options *options) {
  tci_ids ids = {tci_arena_array(&server->arena, tci_str, options->folders.len + 1), 0};
  for (size_t i = 0; i < options->folders.len; i++) ids.items[ids.len++] = options->folders.items[i];
  const char *slash = options->shadow ? strrchr(options->shadow, '/') : NULL;
  if (slash)
    ids.items[ids.len++] = (tci_str){options->shadow, (size_t)(slash - options->shadow) + 1};
  else if (options->shadow)
    ids.items[ids.len++] = TCI_STR(".");
  if (ids.len) server->watcher = tci_folder_watcher_open(&ids, tci_loop_stir, &server->loop);
}

static tci_status start_engine(tci_server *server, const tci_server_options *options, char *message, size_t size) {
  tci_engine_options engine = {.limits = options->limits,
                               .store = {options->database, options->free_bytes_min},
                               .callback_address = "",
                               .allowed_addresses = allowed_addresses(server, options),
                               .quarantine = options->quarantine,
                               .version = tci_version,
                               .cpu_us = tci_clock_thread_cpu_us,
                               .policies = options->policies};
  engine.policies.fuse = true;
  tci_sink sink = tci_loop_sink;
  sink.ctx = &server->loop;
  uint8_t seed[32];
  tci_clock_random(seed, sizeof seed);
  tci_rng_init(&server->loop.rng, seed);
  return tci_engine_open(&engine, &sink, tci_clock_now(), &server->loop.engine, message, size);
}

/* The address is known: runners can be told where to call back. */
static tci_status start_work(tci_server *server, const tci_server_options *options, char *message, size_t size) {
  const char *callback =
      options->callback_address ? options->callback_address : tci_rpc_server_address(server->listener);
  tci_engine_set_callback_address(server->loop.engine, tci_str_z(&server->arena, tci_str_from(callback)));
  uint8_t random[32];
  tci_rng_bytes(&server->loop.rng, random, sizeof random);
  tci_status status = tci_engine_start(server->loop.engine, tci_clock_now(), random);
  if (status.code != TCI_OK) snprintf(message, size, "%s: %s", options->database, status.message);
  return status;
}

static void free_server(tci_server *server) {
  tci_folder_watcher_close(server->watcher);
  if (server->listener) tci_rpc_server_close(server->listener, CLOSE_GRACE_MS);
  if (server->loop.client) tci_rpc_client_close(server->loop.client);
  tci_loop_deinit(&server->loop); /* the last replies, before their thread ends */
  if (server->rpc) tci_rpc_close(server->rpc);
  close(server->over_fd);
  tci_arena_deinit(&server->arena);
  free(server);
}

static void *run_engine(void *arg) {
  tci_server *server = arg;
  tci_loop_run(&server->loop);
  eventfd_write(server->over_fd, 1);
  return NULL;
}

tci_status tci_server_start(const tci_server_options *options, tci_server **out, char *message, size_t size) {
  *out = NULL;
  tci_server *server = tci_calloc(1, sizeof *server);
  server->next_stream = 1; /* odd for ever: never a pointer */
  server->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  tci_assert(server->over_fd >= 0); /* as out of memory */
  server->loop.limits = options->limits;
  tci_queue_init(&server->loop.queue);
  tci_list_init(&server->loop.unanswered);
  server->rpc = tci_rpc_open();
  server->loop.rpc = server->rpc;
  const tci_rpc_client_options client = {.message_bytes_max = options->limits.answer_bytes_max};
  server->loop.client = tci_rpc_client_open(server->rpc, &client);
  watch_policies(server, &options->policies);
  tci_status status = tci_address_check_list(&options->allowed_addresses, &server->arena);
  if (status.code != TCI_OK) snprintf(message, size, "%s", status.message);
  if (status.code == TCI_OK) status = start_engine(server, options, message, size);
  if (status.code == TCI_OK) {
    const tci_limits *limits = &options->limits;
    /* A completion is an answer too: one that is too long is read, so that its attempt can end. */
    int64_t most =
        limits->answer_bytes_max > limits->message_bytes_max ? limits->answer_bytes_max : limits->message_bytes_max;
    const tci_rpc_server_options listen = {options->listen, most < INT32_MAX ? most : INT32_MAX,
                                           limits->connections_max};
    const tci_rpc_handler handler = {.ctx = server, .on_call = on_call, .on_gone = on_gone, .on_sent = on_sent};
    status = tci_rpc_server_open(server->rpc, &listen, &handler, &server->listener, message, size);
  }
  if (status.code == TCI_OK) status = start_work(server, options, message, size);
  if (status.code != TCI_OK) {
    free_server(server);
    return (tci_status){status.code, message};
  }
  tci_assert(pthread_create(&server->loop.thread, NULL, run_engine, server) == 0);
  *out = server;
  return TCI_STATUS_OK;
}

const char *tci_server_address(const tci_server *server) { return tci_rpc_server_address(server->listener); }

static void say(tci_server *server, tci_item_kind kind) {
  tci_queue_push(&server->loop.queue, &tci_item_new(kind)->link);
}

void tci_server_drain(tci_server *server) { say(server, TCI_ITEM_DRAIN); }
void tci_server_leave(tci_server *server) { say(server, TCI_ITEM_LEAVE); }
int tci_server_fd(const tci_server *server) { return server->over_fd; }

void tci_server_stop(tci_server *server) {
  tci_server_drain(server);
  pthread_join(server->loop.thread, NULL);
  tci_rpc_server_stop(server->listener);
  free_server(server);
}
