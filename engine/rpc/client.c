/* client: calls to any number of targets, over channels that are made on first use and kept.
 *
 * 1. A call is in `calls` and in `by_handle` from start until the moment before its on_done; it counts in `in_flight`
 *    until on_done has returned.
 * 2. batches_out is set before the first batch starts and belongs to the polling thread then; at 0 the call is over.
 *    So whoever started the call does not touch it after its last batch.
 * 3. A channel is in `idle` exactly when no call uses it: in the order in which they fell idle. One that lost its peer
 *    leaves `channels` at once and is freed with its last call.
 * 4. No callback runs under the client's lock.
 *
 * Callers: app/loop.c (calls to runners), engine/lua (calls to an orchestrator).
 */
#include "rpc/rpc_internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/map.h"

enum { CHANNELS_MAX = 1000, MESSAGE_BYTES_MAX = 32 << 20 };

typedef struct {
  tci_link idle;
  tci_str key; /* kind and target */
  grpc_channel *grpc;
  size_t calls;
  bool dropped; /* no longer in `channels`: goes with its last call */
} channel;

struct tci_rpc_client {
  tci_rpc *rpc;
  int message_bytes_max;
  pthread_mutex_t lock;
  pthread_cond_t drained;
  tci_map channels; /* key -> channel */
  tci_link idle;    /* channels without calls, the longest idle first */
  tci_link calls;
  tci_map by_handle;
  uint64_t handle_last;
  size_t in_flight;
  bool closing;
};

typedef struct {
  tci_link link;
  uint64_t handle; /* its bytes are the key in by_handle */
  tci_rpc_client *client;
  channel *channel;
  grpc_call *grpc;
  tci_rpc_sink sink;
  bool stream;
  int64_t told_us; /* monotonic: the deadline that only the peer keeps; 0: none, or gRPC's own */
  int batches_out;
  tci_rpc_tag sent_tag, read_tag, ended_tag;
  grpc_byte_buffer *request, *response; /* response: where gRPC puts a message */
  grpc_metadata timeout;                /* of a told call, as it travels */
  grpc_metadata_array initial, trailing;
  grpc_status_code code;
  grpc_slice text;
} client_call;

static tci_str handle_key(const uint64_t *handle);
static channel *channel_take(tci_rpc_client *client, const char *target, bool stream);
static channel *channel_release(tci_rpc_client *client, channel *used);
static void channel_drop_if_lost(tci_rpc_client *client, channel *used, grpc_status_code code);
static void channel_free(channel *unused);
static grpc_channel *dial(const tci_rpc_client *client, const char *target, bool stream);
static uint64_t start(tci_rpc_client *client, const char *target, const char *method, tci_str request,
                      int64_t timeout_us, const tci_rpc_sink *sink, client_call as);
static void start_unary(client_call *call);
static void start_stream(client_call *call);
static void read_next(client_call *call);
static void on_sent(tci_rpc_tag *tag, bool ok);
static void on_read(tci_rpc_tag *tag, bool ok);
static void on_ended(tci_rpc_tag *tag, bool ok);
static void batch_over(client_call *call);
static void tell_done(client_call *call);
static gpr_timespec deadline_in(int64_t timeout_us);

tci_rpc_client *tci_rpc_client_open(tci_rpc *rpc, const tci_rpc_client_options *options) {
  tci_rpc_client *client = tci_calloc(1, sizeof *client);
  client->rpc = rpc;
  client->message_bytes_max = MESSAGE_BYTES_MAX;
  if (options && options->message_bytes_max)
    client->message_bytes_max = options->message_bytes_max < INT_MAX ? (int)options->message_bytes_max : INT_MAX;
  int failed = pthread_mutex_init(&client->lock, NULL);
  tci_assert(!failed);
  tci_rpc_cond_init(&client->drained);
  tci_list_init(&client->idle);
  tci_list_init(&client->calls);
  return client;
}

void tci_rpc_client_close(tci_rpc_client *client) {
  tci_assert(!tci_rpc_on_thread(client->rpc)); /* it would wait for itself */
  pthread_mutex_lock(&client->lock);
  client->closing = true;
  for (tci_link *at = client->calls.next; at != &client->calls; at = at->next)
    grpc_call_cancel(tci_container(at, client_call, link)->grpc, NULL);
  while (client->in_flight) pthread_cond_wait(&client->drained, &client->lock);
  pthread_mutex_unlock(&client->lock);
  while (!tci_list_empty(&client->idle)) {
    channel *unused = tci_container(client->idle.next, channel, idle);
    tci_link_remove(&unused->idle);
    channel_free(unused);
  }
  tci_map_deinit(&client->channels);
  tci_map_deinit(&client->by_handle);
  pthread_cond_destroy(&client->drained);
  pthread_mutex_destroy(&client->lock);
  free(client);
}

uint64_t tci_rpc_start(tci_rpc_client *client, const char *target, const char *method, tci_str request,
                       int64_t timeout_us, bool stream, const tci_rpc_sink *sink) {
  return start(client, target, method, request, timeout_us, sink, (client_call){.stream = stream});
}

/* The header is what gRPC would write for a deadline of its own: up to eight digits and a unit. */
uint64_t tci_rpc_start_told(tci_rpc_client *client, const char *target, const char *method, tci_str request,
                            int64_t timeout_us, const tci_rpc_sink *sink) {
  tci_assert(timeout_us > 0);
  int64_t ms = timeout_us / 1000 + 1;
  char text[32];
  int len = snprintf(text, sizeof text, "%lld%c", (long long)(ms < 100000000 ? ms : ms / 1000 + 1),
                     ms < 100000000 ? 'm' : 'S');
  const grpc_metadata timeout = {.key = grpc_slice_from_static_string("grpc-timeout"),
                                 .value = grpc_slice_from_copied_buffer(text, (size_t)len)};
  return start(client, target, method, request, -1, sink,
               (client_call){.told_us = tci_clock_mono_us() + timeout_us, .timeout = timeout});
}

static uint64_t start(tci_rpc_client *client, const char *target, const char *method, tci_str request,
                      int64_t timeout_us, const tci_rpc_sink *sink, client_call as) {
  tci_assert(sink->on_done != NULL);
  client_call *call = tci_calloc(1, sizeof *call);
  *call = as;
  call->client = client;
  call->sink = *sink;
  call->request = tci_rpc_buffer_new(request);
  call->sent_tag.done = on_sent;
  call->read_tag.done = on_read;
  call->ended_tag.done = on_ended;
  call->text = grpc_empty_slice();
  grpc_metadata_array_init(&call->initial);
  grpc_metadata_array_init(&call->trailing);
  grpc_slice path = grpc_slice_from_copied_string(method);
  gpr_timespec deadline = deadline_in(timeout_us);

  pthread_mutex_lock(&client->lock);
  call->channel = channel_take(client, target, as.stream);
  call->grpc = grpc_channel_create_call(call->channel->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, client->rpc->cq, path, NULL,
                                        deadline, NULL);
  uint64_t handle = call->handle = ++client->handle_last;
  tci_list_push(&client->calls, &call->link);
  tci_map_put(&client->by_handle, handle_key(&call->handle), call);
  client->in_flight++;
  bool closing = client->closing;
  pthread_mutex_unlock(&client->lock);

  grpc_slice_unref(path);
  if (closing) grpc_call_cancel(call->grpc, NULL); /* its on_done is what the closer waits for */
  if (as.stream)
    start_stream(call);
  else
    start_unary(call);
  return handle;
}

bool tci_rpc_was_too_large(const tci_rpc_client *client, tci_status status) {
  /* gRPC core says it in words alone: "... larger than max (6291456 vs. 4194304)". Nobody but this end has this limit: what
   * the engine sends a runner is far below it. */
  char end[32];
  int len = snprintf(end, sizeof end, " vs. %d)", client->message_bytes_max);
  size_t text = status.message ? strlen(status.message) : 0;
  return status.code == TCI_RESOURCE_EXHAUSTED && text >= (size_t)len && strcmp(status.message + text - len, end) == 0;
}

void tci_rpc_cancel(tci_rpc_client *client, uint64_t handle) {
  pthread_mutex_lock(&client->lock);
  client_call *call = tci_map_get(&client->by_handle, handle_key(&handle));
  if (call) grpc_call_cancel(call->grpc, NULL); /* under the lock: the call stays */
  pthread_mutex_unlock(&client->lock);
}

static tci_str handle_key(const uint64_t *handle) { return (tci_str){(const char *)handle, sizeof *handle}; }

/* ---- channels; under the client's lock ---- */

static channel *channel_take(tci_rpc_client *client, const char *target, bool stream) {
  /* Streams and unary calls have channels of their own: they ping differently (rpc_internal.h). */
  size_t len = strlen(target) + 1;
  char *key = tci_malloc(len);
  key[0] = stream ? 's' : 'u';
  memcpy(key + 1, target, len - 1);
  channel *found = tci_map_get(&client->channels, (tci_str){key, len});
  if (found) {
    free(key);
  } else {
    found = tci_calloc(1, sizeof *found);
    *found = (channel){.key = {key, len}, .grpc = dial(client, target, stream)};
    tci_map_put(&client->channels, found->key, found);
  }
  if (tci_link_in(&found->idle)) tci_link_remove(&found->idle);
  found->calls++;
  return found;
}

/* Returns a channel to be freed once the lock is given back, or NULL. */
static channel *channel_release(tci_rpc_client *client, channel *used) {
  if (--used->calls == 0 && used->dropped) return used;
  if (used->calls == 0) tci_list_push(&client->idle, &used->idle);
  if (client->channels.len <= CHANNELS_MAX || tci_list_empty(&client->idle)) return NULL;
  channel *oldest = tci_container(client->idle.next, channel, idle);
  tci_link_remove(&oldest->idle);
  tci_map_remove(&client->channels, oldest->key);
  return oldest;
}

/* A channel that lost its peer waits before it dials again, and meanwhile fails every call at once. Whoever calls next gets
 * a fresh one, which dials now: when to call again is the caller's to decide. */
static void channel_drop_if_lost(tci_rpc_client *client, channel *used, grpc_status_code code) {
  if (code != GRPC_STATUS_UNAVAILABLE || used->dropped) return;
  if (grpc_channel_check_connectivity_state(used->grpc, 0) == GRPC_CHANNEL_READY) return; /* the peer itself said so */
  tci_map_remove(&client->channels, used->key);
  used->dropped = true;
}

static void channel_free(channel *unused) {
  grpc_channel_destroy(unused->grpc);
  tci_str_free(&unused->key);
  free(unused);
}

/* localhost is this machine, with or without an /etc/hosts that says so: both loopback addresses, IPv4 first. */
static const char *spelled_out(const char *target, char *buffer, size_t size) {
  if (strncasecmp(target, "localhost:", 10) != 0) return target;
  snprintf(buffer, size, "ipv6:[::ffff:127.0.0.1]:%.5s,[::1]:%.5s", target + 10, target + 10);
  return buffer;
}

static grpc_channel *dial(const tci_rpc_client *client, const char *target, bool stream) {
  char both[64];
  const char *addresses = spelled_out(target, both, sizeof both);
  grpc_arg args[] = {
      tci_rpc_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),                 /* http_proxy of the environment is not for us */
      tci_rpc_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1), /* nor are settings out of a target's DNS */
      tci_rpc_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),         /* a fresh channel dials afresh */
      tci_rpc_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, client->message_bytes_max),
      tci_rpc_arg(GRPC_ARG_MAX_METADATA_SIZE, TCI_RPC_METADATA_BYTES_MAX),
      tci_rpc_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, TCI_RPC_BACKOFF_MS_MIN),
      tci_rpc_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, TCI_RPC_BACKOFF_MS_MAX),
      tci_rpc_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, TCI_RPC_CONNECT_MS_MAX),
      tci_rpc_arg(GRPC_ARG_KEEPALIVE_TIME_MS, stream ? TCI_RPC_STREAM_PING_MS : TCI_RPC_UNARY_PING_MS),
      tci_rpc_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, TCI_RPC_PING_TIMEOUT_MS),
      tci_rpc_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0), /* else pinging ends after two while a call is quiet */
      /* What costs 15 % of a call; a call that fails is the engine's to repeat, since it knows what may be repeated. */
      tci_rpc_arg(GRPC_ARG_ENABLE_RETRIES, 0),
      tci_rpc_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
      tci_rpc_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
      /* The last one: what the peer is told it was called, when the target is spelled out. */
      {.type = GRPC_ARG_STRING, .key = GRPC_ARG_DEFAULT_AUTHORITY, .value.string = (char *)target},
  };
  grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
  grpc_channel_args list = {sizeof args / sizeof *args - (addresses == target), args};
  grpc_channel *dialled = grpc_channel_create(addresses, credentials, &list); /* a bad target: its calls fail */
  grpc_channel_credentials_release(credentials);
  return dialled;
}

/* ---- calls ---- */

enum { HEAD_OPS = 4 };

/* What every call starts with: the request, and nothing after it. */
static void head_ops(client_call *call, grpc_op ops[HEAD_OPS]) {
  ops[0] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
  ops[0].data.send_initial_metadata.count = call->told_us != 0;
  ops[0].data.send_initial_metadata.metadata = &call->timeout;
  ops[1] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->request};
  ops[2] = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
  ops[3] = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA,
                     .data.recv_initial_metadata.recv_initial_metadata = &call->initial};
}

static grpc_op status_op(client_call *call) {
  grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
  op.data.recv_status_on_client.trailing_metadata = &call->trailing;
  op.data.recv_status_on_client.status = &call->code;
  op.data.recv_status_on_client.status_details = &call->text;
  return op;
}

static void start_unary(client_call *call) {
  call->batches_out = 1;
  grpc_op ops[HEAD_OPS + 2];
  head_ops(call, ops);
  ops[HEAD_OPS] = (grpc_op){.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->response};
  ops[HEAD_OPS + 1] = status_op(call);
  tci_rpc_batch(call->grpc, ops, HEAD_OPS + 2, &call->ended_tag);
}

static void start_stream(client_call *call) {
  call->batches_out = 3;
  grpc_op ops[HEAD_OPS];
  head_ops(call, ops);
  tci_rpc_batch(call->grpc, ops, HEAD_OPS, &call->sent_tag);
  grpc_op end = status_op(call);
  tci_rpc_batch(call->grpc, &end, 1, &call->ended_tag);
  read_next(call);
}

static void read_next(client_call *call) {
  grpc_op read = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->response};
  tci_rpc_batch(call->grpc, &read, 1, &call->read_tag);
}

static void on_sent(tci_rpc_tag *tag, bool ok) {
  (void)ok; /* the status tells */
  batch_over(tci_container(tag, client_call, sent_tag));
}

static void on_read(tci_rpc_tag *tag, bool ok) {
  client_call *call = tci_container(tag, client_call, read_tag);
  if (!ok || !call->response) {
    batch_over(call);
    return;
  }
  if (call->sink.on_message) {
    char *heap;
    call->sink.on_message(call->sink.ctx, tci_rpc_buffer_bytes(call->response, &heap));
    free(heap);
  }
  grpc_byte_buffer_destroy(call->response);
  call->response = NULL;
  read_next(call);
}

static void on_ended(tci_rpc_tag *tag, bool ok) {
  (void)ok; /* always true */
  batch_over(tci_container(tag, client_call, ended_tag));
}

static void batch_over(client_call *call) {
  if (--call->batches_out > 0) return;
  tci_rpc_client *client = call->client;
  pthread_mutex_lock(&client->lock);
  tci_link_remove(&call->link);
  tci_map_remove(&client->by_handle, handle_key(&call->handle));
  channel_drop_if_lost(client, call->channel, call->code);
  pthread_mutex_unlock(&client->lock);

  tell_done(call);
  grpc_call_unref(call->grpc);
  grpc_slice_unref(call->text);
  if (call->told_us) grpc_slice_unref(call->timeout.value);
  grpc_metadata_array_destroy(&call->initial);
  grpc_metadata_array_destroy(&call->trailing);
  grpc_byte_buffer_destroy(call->request);
  if (call->response) grpc_byte_buffer_destroy(call->response);

  pthread_mutex_lock(&client->lock);
  channel *surplus = channel_release(client, call->channel);
  pthread_mutex_unlock(&client->lock);
  free(call);
  if (surplus) channel_free(surplus);

  pthread_mutex_lock(&client->lock);
  if (--client->in_flight == 0 && client->closing) pthread_cond_signal(&client->drained);
  pthread_mutex_unlock(&client->lock); /* after it the client may be gone */
}

static void tell_done(client_call *call) {
  char text[TCI_RPC_TEXT_BYTES_MAX + 1], *heap = NULL;
  bool known = call->code >= GRPC_STATUS_OK && call->code <= GRPC_STATUS_UNAUTHENTICATED;
  tci_status status = {known ? (tci_code)call->code : TCI_UNKNOWN, NULL}; /* a peer may send any number */
  tci_str message = {NULL, 0};
  /* How a peer's gRPC says that a deadline is over depends on its language. */
  if (status.code == TCI_CANCELLED && call->told_us && tci_clock_mono_us() >= call->told_us)
    status.code = TCI_DEADLINE_EXCEEDED;
  if (status.code != TCI_OK) {
    tci_rpc_text((tci_str){(const char *)GRPC_SLICE_START_PTR(call->text), GRPC_SLICE_LENGTH(call->text)}, text);
    status.message = text;
  } else if (call->response) {
    message = tci_rpc_buffer_bytes(call->response, &heap);
  } else if (!call->stream) {
    status = (tci_status){TCI_INTERNAL, "the server answered OK without a message"};
  }
  call->sink.on_done(call->sink.ctx, status, message);
  free(heap);
}

static gpr_timespec deadline_in(int64_t timeout_us) {
  if (timeout_us < 0) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(timeout_us, GPR_TIMESPAN));
}
