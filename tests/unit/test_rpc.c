/* rpc: calls over real sockets, within one process. The server, its address and its handlers are ours; what is awaited
 * is always an event, and a wait that takes PATIENCE_S is a failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/queue.h"
#include "rpc/rpc.h"

enum { PATIENCE_S = 60, STREAM_MESSAGES = 10000, HELD_MAX = 512 };

/* One lock for everything that handlers and tests share. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static pthread_t main_thread;

static void note(void) { pthread_cond_broadcast(&changed); }

static void give_up(int line, const char *awaited) {
  fprintf(stderr, "line %d: waited in vain for %s\n", line, awaited);
  if (!pthread_equal(pthread_self(), main_thread)) abort(); /* cmocka can only jump on its own thread */
  fail();
}

#define WAIT_FOR(condition)                                                             \
  do {                                                                                  \
    struct timespec due;                                                                \
    clock_gettime(CLOCK_REALTIME, &due);                                                \
    due.tv_sec += PATIENCE_S;                                                           \
    int over = 0;                                                                       \
    pthread_mutex_lock(&lock);                                                          \
    while (!(condition) && !over) over = pthread_cond_timedwait(&changed, &lock, &due); \
    pthread_mutex_unlock(&lock);                                                        \
    if (over) give_up(__LINE__, #condition);                                            \
  } while (0)

/* What became of one client call. */
typedef struct {
  bool done, disordered;
  tci_code code;
  char text[1100];
  char *bytes;
  size_t bytes_len, messages;
} result;

static void result_done(void *ctx, tci_status status, tci_str message) {
  result *r = ctx;
  pthread_mutex_lock(&lock);
  if (r->done) abort(); /* exactly once */
  r->done = true;
  r->code = status.code;
  snprintf(r->text, sizeof r->text, "%s", status.message ? status.message : "");
  r->bytes = malloc(message.len + 1);
  if (message.len) memcpy(r->bytes, message.ptr, message.len);
  r->bytes_len = message.len;
  note();
  pthread_mutex_unlock(&lock);
}

/* Messages are numbered from 0: the first eight bytes. */
static void result_message(void *ctx, tci_str message) {
  result *r = ctx;
  uint64_t number = UINT64_MAX;
  if (message.len >= sizeof number) memcpy(&number, message.ptr, sizeof number);
  pthread_mutex_lock(&lock);
  if (r->done) abort(); /* on_done is the last */
  if (number != r->messages) r->disordered = true;
  r->messages++;
  note();
  pthread_mutex_unlock(&lock);
}

static tci_rpc_sink sink_of(result *r) { return (tci_rpc_sink){r, result_done, result_message}; }

/* The served side: Echo, Fail, Nothing, Count and Hold. */
typedef struct {
  tci_rpc *rpc;
  tci_rpc_server *server;
  tci_rpc_client *client;
  tci_rpc_call *held[HELD_MAX]; /* Hold: the test answers */
  size_t held_len, calls, gone, sent;
  size_t pending_last;
  int64_t deadline_us;
} world;

static void send_number(tci_rpc_call *call, uint64_t number, size_t *pending) {
  *pending = tci_rpc_send(call, (tci_str){(char *)&number, sizeof number});
}

static void serve(void *ctx, tci_rpc_call *call) {
  world *w = ctx;
  tci_str method = tci_rpc_call_method(call), payload = tci_rpc_call_payload(call);
  pthread_mutex_lock(&lock);
  w->calls++;
  w->deadline_us = tci_rpc_call_deadline_us(call);
  bool hold = tci_str_eq(method, TCI_STR("/test/Hold"));
  if (hold) w->held[w->held_len++] = call;
  note();
  pthread_mutex_unlock(&lock);
  if (hold) return;
  if (tci_str_eq(method, TCI_STR("/test/Echo"))) {
    tci_rpc_reply(call, TCI_STATUS_OK, payload);
  } else if (tci_str_eq(method, TCI_STR("/test/Nothing"))) {
    tci_rpc_call_set_stream(call);
    tci_rpc_reply(call, TCI_STATUS_OK, (tci_str){0});
  } else if (tci_str_eq(method, TCI_STR("/test/Count"))) {
    size_t pending;
    for (uint64_t i = 0; i < STREAM_MESSAGES; i++) send_number(call, i, &pending);
    tci_rpc_reply(call, (tci_status){TCI_OUT_OF_RANGE, "that was all"}, (tci_str){0});
  } else if (tci_str_eq(method, TCI_STR("/test/Fail"))) {
    char *text = strndup(payload.ptr ? payload.ptr : "", payload.len);
    tci_rpc_reply(call, (tci_status){TCI_NOT_FOUND, text}, TCI_STR("not sent"));
    free(text);
  } else {
    char text[200];
    snprintf(text, sizeof text, "no %.*s here", TCI_STR_ARG(method));
    tci_rpc_reply(call, (tci_status){TCI_UNIMPLEMENTED, text}, (tci_str){0});
  }
}

static void count_gone(void *ctx, tci_rpc_call *call) {
  world *w = ctx;
  (void)call;
  pthread_mutex_lock(&lock);
  w->gone++;
  note();
  pthread_mutex_unlock(&lock);
}

static void count_sent(void *ctx, tci_rpc_call *call, size_t pending_bytes) {
  world *w = ctx;
  (void)call;
  pthread_mutex_lock(&lock);
  w->sent++;
  w->pending_last = pending_bytes;
  note();
  pthread_mutex_unlock(&lock);
}

static char folder[64];
static char socket_path[100];
static char socket_address[108];

static tci_status serve_at(world *w, const char *address, char *text, size_t size) {
  tci_rpc_handler handler = {w, serve, count_gone, count_sent};
  return tci_rpc_server_open(w->rpc, &(tci_rpc_server_options){.address = address}, &handler, &w->server, text, size);
}

static void must_serve_at(world *w, const char *address) {
  char text[300] = "";
  tci_status status = serve_at(w, address, text, sizeof text);
  if (status.code != TCI_OK) fail_msg("%s", status.message);
}

static void world_open(world *w, const char *address) {
  *w = (world){.rpc = tci_rpc_open()};
  must_serve_at(w, address);
  w->client = tci_rpc_client_open(w->rpc, NULL);
}

static void world_close(world *w) {
  if (w->client) tci_rpc_client_close(w->client);
  if (w->server) tci_rpc_server_close(w->server, 0);
  tci_rpc_close(w->rpc);
}

static uint64_t start(world *w, const char *method, tci_str request, int64_t timeout_us, bool stream, result *r) {
  *r = (result){0};
  tci_rpc_sink sink = sink_of(r);
  return tci_rpc_start(w->client, tci_rpc_server_address(w->server), method, request, timeout_us, stream, &sink);
}

static void call_and_wait(world *w, const char *method, tci_str request, result *r) {
  start(w, method, request, -1, false, r);
  WAIT_FOR(r->done);
}

static void assert_result(result *r, tci_code code, const char *text_part, tci_str bytes) {
  if (r->code != code) fail_msg("%s (%s), not %s", tci_code_name(r->code), r->text, tci_code_name(code));
  if (!strstr(r->text, text_part)) fail_msg("\"%s\" does not say \"%s\"", r->text, text_part);
  assert_int_equal(r->bytes_len, bytes.len);
  if (bytes.len) assert_memory_equal(r->bytes, bytes.ptr, bytes.len);
  free(r->bytes);
}

/* ---- unary ---- */

static void echoes_at(const char *address) {
  world w;
  world_open(&w, address);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("hello \0 bytes"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("hello \0 bytes"));
  call_and_wait(&w, "/test/Echo", TCI_STR(""), &r); /* an empty message is a message */
  assert_result(&r, TCI_OK, "", TCI_STR(""));
  char *big = malloc(1 << 20); /* arrives in many pieces */
  for (size_t i = 0; i < 1 << 20; i++) big[i] = (char)(i * 7 + i / 251);
  call_and_wait(&w, "/test/Echo", (tci_str){big, 1 << 20}, &r);
  assert_result(&r, TCI_OK, "", (tci_str){big, 1 << 20});
  free(big);
  assert_int_equal(w.deadline_us, INT64_MAX); /* none was given */
  world_close(&w);
}

static void a_call_over_tcp_brings_back_the_handlers_bytes(void **state) {
  (void)state;
  echoes_at("127.0.0.1:0");
}

static void a_call_over_a_unix_socket_brings_back_the_handlers_bytes(void **state) {
  (void)state;
  echoes_at(socket_address);
  assert_int_not_equal(access(socket_path, F_OK), 0); /* socket and lock are tidied away */
  char lock_path[128];
  snprintf(lock_path, sizeof lock_path, "%s.lock", socket_path);
  assert_int_not_equal(access(lock_path, F_OK), 0);
}

static void the_address_names_the_port_that_was_picked(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  const char *address = tci_rpc_server_address(w.server);
  assert_memory_equal(address, "127.0.0.1:", 10);
  assert_true(atoi(address + 10) > 0);
  world_close(&w);
}

static void an_unknown_method_reaches_the_handler(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  call_and_wait(&w, "/nobody.Knows/This", TCI_STR("x"), &r);
  assert_result(&r, TCI_UNIMPLEMENTED, "no /nobody.Knows/This here", TCI_STR(""));
  world_close(&w);
}

static void a_status_brings_its_text_cut_and_valid(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  call_and_wait(&w, "/test/Fail", TCI_STR("stage \"a/b\": 100% lost\n\xe2\x82\xac"), &r);
  assert_result(&r, TCI_NOT_FOUND, "stage \"a/b\": 100% lost\n\xe2\x82\xac", TCI_STR(""));
  char euros[3000];
  for (size_t i = 0; i < sizeof euros; i++) euros[i] = "\xe2\x82\xac"[i % 3];
  call_and_wait(&w, "/test/Fail", (tci_str){euros, sizeof euros}, &r);
  assert_int_equal(strlen(r.text), 1023); /* 341 whole characters */
  assert_true(tci_str_is_utf8(tci_str_from(r.text)));
  assert_result(&r, TCI_NOT_FOUND, "\xe2\x82\xac", TCI_STR(""));
  call_and_wait(&w, "/test/Fail", TCI_STR("bad \xff\xfe bytes"), &r);
  assert_result(&r, TCI_NOT_FOUND, "bad ?? bytes", TCI_STR(""));
  world_close(&w);
}

static void a_message_over_4_mib_is_refused_and_the_next_call_served(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  char *big = calloc(1, 5 << 20);
  call_and_wait(&w, "/test/Echo", (tci_str){big, 5 << 20}, &r);
  free(big);
  assert_result(&r, TCI_RESOURCE_EXHAUSTED, "", TCI_STR(""));
  assert_int_equal(w.calls, 0); /* the handler never saw it */
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  world_close(&w);
}

/* Our client always sends a message: gRPC itself plays the one that does not. */
static void a_call_without_a_message_is_refused(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
  grpc_channel *channel = grpc_channel_create(tci_rpc_server_address(w.server), credentials, NULL);
  grpc_completion_queue *cq = grpc_completion_queue_create_for_next(NULL);
  grpc_call *call =
      grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, cq, grpc_slice_from_static_string("/test/Echo"),
                               NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
  grpc_metadata_array initial, trailing;
  grpc_metadata_array_init(&initial);
  grpc_metadata_array_init(&trailing);
  grpc_status_code code = GRPC_STATUS_OK;
  grpc_slice details;
  grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}};
  ops[3] = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &initial};
  ops[2].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
  ops[2].data.recv_status_on_client.trailing_metadata = &trailing;
  ops[2].data.recv_status_on_client.status = &code;
  ops[2].data.recv_status_on_client.status_details = &details;
  assert_int_equal(grpc_call_start_batch(call, ops, 4, call, NULL), GRPC_CALL_OK);
  gpr_timespec due = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(PATIENCE_S, GPR_TIMESPAN));
  assert_int_equal(grpc_completion_queue_next(cq, due, NULL).type, GRPC_OP_COMPLETE);
  assert_int_equal(code, GRPC_STATUS_INVALID_ARGUMENT);
  assert_int_equal(w.calls, 0);
  grpc_slice_unref(details);
  grpc_metadata_array_destroy(&initial);
  grpc_metadata_array_destroy(&trailing);
  grpc_call_unref(call);
  grpc_channel_destroy(channel);
  grpc_channel_credentials_release(credentials);
  grpc_completion_queue_shutdown(cq);
  assert_int_equal(grpc_completion_queue_next(cq, due, NULL).type, GRPC_QUEUE_SHUTDOWN);
  grpc_completion_queue_destroy(cq);
  world_close(&w);
}

/* ---- connections ---- */

static int connect_to(const char *address) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1))};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
  return fd;
}

/* Says hello as HTTP/2 wants it. True: the server answers; false: it has hung up. */
static bool is_taken(int fd) {
  static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
  char byte;
  return send(fd, hello, sizeof hello, MSG_NOSIGNAL) == (ssize_t)sizeof hello && read(fd, &byte, 1) == 1;
}

static void one_connection_too_many_is_closed_and_the_others_stay(void **state) {
  (void)state;
  enum { MOST = 3 };
  world w = {.rpc = tci_rpc_open()};
  char text[300];
  const tci_rpc_handler handler = {&w, serve, count_gone, count_sent};
  const tci_rpc_server_options options = {.address = "127.0.0.1:0", .connections_max = MOST};
  assert_int_equal(tci_rpc_server_open(w.rpc, &options, &handler, &w.server, text, sizeof text).code, TCI_OK);
  const char *address = tci_rpc_server_address(w.server);
  w.client = tci_rpc_client_open(w.rpc, NULL);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("first"), &r); /* its connection is one of them */
  assert_result(&r, TCI_OK, "", TCI_STR("first"));
  int fds[MOST - 1];
  for (int i = 0; i < MOST - 1; i++) assert_true(is_taken(fds[i] = connect_to(address)));
  for (int i = 0; i < 20; i++) {
    int fd = connect_to(address);
    assert_false(is_taken(fd));
    close(fd);
  }
  call_and_wait(&w, "/test/Echo", TCI_STR("still here"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("still here"));
  close(fds[0]);
  bool taken = false;
  int64_t give_up_us = tci_clock_mono_us() + PATIENCE_S * 1000000LL;
  while (!taken && tci_clock_mono_us() < give_up_us) { /* until the server has seen that one left */
    int fd = connect_to(address);
    taken = is_taken(fd);
    close(fd);
  }
  assert_true(taken);
  close(fds[1]);
  world_close(&w);
}

/* Descriptors run out while somebody knocks, and come back. */
static void a_server_without_descriptors_is_not_deaf_afterwards(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  int logged[2], saved_stderr = dup(STDERR_FILENO);
  assert_int_equal(pipe(logged), 0);
  dup2(logged[1], STDERR_FILENO);
  struct rlimit before, none;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
  none = before;
  int fd = connect_to(tci_rpc_server_address(w.server)); /* the lowest that was free: no other is below it */
  none.rlim_cur = (rlim_t)fd + 1;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
  assert_int_equal(send(fd, "PRI", 3, MSG_NOSIGNAL), 3); /* now there is something to accept */
  char line[4096] = "";
  ssize_t n = read(logged[0], line, sizeof line - 1); /* it could not */
  dup2(saved_stderr, STDERR_FILENO);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
  assert_true(n > 0);
  if (!strstr(line, "accept_failed")) fail_msg("%s", line);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("heard"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("heard"));
  close(fd);
  close(saved_stderr);
  close(logged[0]);
  close(logged[1]);
  world_close(&w);
}

/* ---- calls that end early ---- */

static uint64_t start_told(world *w, const char *target, const char *method, int64_t timeout_us, result *r) {
  *r = (result){0};
  tci_rpc_sink sink = sink_of(r);
  return tci_rpc_start_told(w->client, target, method, TCI_STR("x"), timeout_us, &sink);
}

static void a_told_deadline_is_the_peers_to_keep(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  const char *target = tci_rpc_server_address(w.server);
  result r;
  const int64_t timeouts_us[] = {300000, 3600000000, 30 * 86400000000LL}; /* the longest there is, too */
  for (int i = 2; i >= 0; i--) {
    int64_t due_us = tci_clock_mono_us() + timeouts_us[i];
    uint64_t handle = start_told(&w, target, "/test/Hold", timeouts_us[i], &r);
    WAIT_FOR(w.calls == (size_t)(3 - i));
    assert_in_range(w.deadline_us, due_us - 100000, due_us + 100000 + timeouts_us[i] / 100); /* gRPC rounds up */
    if (i) tci_rpc_cancel(w.client, handle);
    WAIT_FOR(r.done && w.gone == (size_t)(3 - i));
    assert_int_equal(r.code, i ? TCI_CANCELLED : TCI_DEADLINE_EXCEEDED);
    free(r.bytes);
    tci_rpc_reply(w.held[2 - i], TCI_STATUS_OK, TCI_STR("too late"));
  }
  start_told(&w, target, "/test/Echo", 60000000, &r);
  WAIT_FOR(r.done);
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  world_close(&w);
}

/* A peer that takes the connection and says nothing more: only the caller ends the call. */
static void nothing_here_ends_a_told_call_but_its_caller(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
  assert_int_equal(listen(fd, 8), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
  char target[32];
  snprintf(target, sizeof target, "127.0.0.1:%d", ntohs(address.sin_port));
  result told, bounded;
  uint64_t handle = start_told(&w, target, "/test/Hold", 1000, &told);
  tci_rpc_sink sink = sink_of(&bounded);
  bounded = (result){0};
  tci_rpc_start(w.client, target, "/test/Hold", TCI_STR("x"), 200000, false, &sink);
  WAIT_FOR(bounded.done); /* 199 ms after the other one's time was over */
  assert_int_equal(bounded.code, TCI_DEADLINE_EXCEEDED);
  assert_false(told.done);
  tci_rpc_cancel(w.client, handle);
  WAIT_FOR(told.done);
  free(bounded.bytes);
  free(told.bytes);
  close(fd);
  world_close(&w);
}

static void count_read_out(void *ctx) {
  pthread_mutex_lock(&lock);
  ++*(int *)ctx;
  note();
  pthread_mutex_unlock(&lock);
}

static void reading_out_ends_in_silence_and_under_load(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  int read_out = 0;
  tci_rpc_read_out(w.rpc, count_read_out, &read_out);
  WAIT_FOR(read_out == 1);
  enum { CALLS = 200 };
  result results[CALLS];
  for (int i = 0; i < CALLS; i++) start(&w, "/test/Echo", TCI_STR("x"), -1, false, &results[i]);
  tci_rpc_read_out(w.rpc, count_read_out, &read_out);
  WAIT_FOR(read_out == 2);
  for (int i = 0; i < CALLS; i++) {
    WAIT_FOR(results[i].done);
    free(results[i].bytes);
  }
  assert_int_equal(read_out, 2);
  world_close(&w);
}

static void a_deadline_ends_the_call_on_both_sides(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("connect"), &r);
  free(r.bytes);
  int64_t due_us = tci_clock_mono_us() + 300000;
  start(&w, "/test/Hold", TCI_STR("x"), 300000, false, &r);
  WAIT_FOR(r.done && w.gone == 1);
  assert_true(tci_clock_mono_us() >= due_us - 20000);
  assert_in_range(w.deadline_us, due_us - 100000, due_us + 100000);
  assert_result(&r, TCI_DEADLINE_EXCEEDED, "", TCI_STR(""));
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, TCI_STR("too late")); /* still due; goes nowhere */
  world_close(&w);
}

static void a_cancelled_call_is_told_to_the_handler_once(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  uint64_t handle = start(&w, "/test/Hold", TCI_STR("x"), -1, false, &r);
  WAIT_FOR(w.held_len == 1);
  tci_rpc_cancel(w.client, handle);
  tci_rpc_cancel(w.client, handle);
  WAIT_FOR(r.done && w.gone == 1);
  assert_result(&r, TCI_CANCELLED, "", TCI_STR(""));
  tci_rpc_cancel(w.client, handle); /* an ended call, and numbers that never were one */
  tci_rpc_cancel(w.client, 0);
  tci_rpc_cancel(w.client, 999999);
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, (tci_str){0});
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  assert_int_equal(w.gone, 1);
  world_close(&w);
}

static void closing_the_client_ends_its_calls(void **state) {
  (void)state;
  enum { CALLS = 20 };
  world w;
  world_open(&w, "127.0.0.1:0");
  result r[CALLS];
  for (size_t i = 0; i < CALLS; i++) start(&w, "/test/Hold", TCI_STR("x"), -1, i % 2, &r[i]);
  WAIT_FOR(w.held_len == CALLS);
  tci_rpc_client_close(w.client);
  w.client = NULL;
  for (size_t i = 0; i < CALLS; i++) {
    assert_true(r[i].done); /* no waiting: close has waited */
    assert_result(&r[i], TCI_CANCELLED, "", TCI_STR(""));
  }
  WAIT_FOR(w.gone == CALLS);
  for (size_t i = 0; i < CALLS; i++) tci_rpc_reply(w.held[i], TCI_STATUS_OK, (tci_str){0});
  world_close(&w);
}

/* ---- streams ---- */

static void a_stream_arrives_whole_in_order_and_before_its_status(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  start(&w, "/test/Count", TCI_STR(""), -1, true, &r);
  WAIT_FOR(r.done);
  assert_int_equal(r.messages, STREAM_MESSAGES);
  assert_false(r.disordered);
  assert_result(&r, TCI_OUT_OF_RANGE, "that was all", TCI_STR(""));
  world_close(&w);
}

static void pending_bytes_are_counted_until_they_leave(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  start(&w, "/test/Hold", TCI_STR(""), -1, true, &r);
  WAIT_FOR(w.held_len == 1);
  for (uint64_t i = 0; i < STREAM_MESSAGES; i++) {
    size_t pending;
    send_number(w.held[0], i, &pending);
    assert_true(pending >= sizeof i && pending <= (i + 1) * sizeof i); /* this one waits still */
    assert_int_equal(pending % sizeof i, 0);
  }
  WAIT_FOR(w.sent == STREAM_MESSAGES && r.messages == STREAM_MESSAGES);
  assert_int_equal(w.pending_last, 0);
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, (tci_str){0});
  WAIT_FOR(r.done);
  assert_int_equal(r.messages, STREAM_MESSAGES); /* the end brought no message of its own */
  assert_false(r.disordered);
  assert_result(&r, TCI_OK, "", TCI_STR(""));
  world_close(&w);
}

static void a_stream_may_end_without_a_message(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  start(&w, "/test/Nothing", TCI_STR(""), -1, true, &r);
  WAIT_FOR(r.done);
  assert_int_equal(r.messages, 0);
  assert_result(&r, TCI_OK, "", TCI_STR(""));
  call_and_wait(&w, "/test/Nothing", TCI_STR(""), &r); /* who asked for one message is told */
  assert_result(&r, TCI_INTERNAL, "without a message", TCI_STR(""));
  world_close(&w);
}

typedef struct {
  result r;
  bool reading, blocked;
} slow_reader;

static void read_slowly(void *ctx, tci_str message) {
  slow_reader *reader = ctx;
  pthread_mutex_lock(&lock);
  reader->blocked = true;
  note();
  while (!reader->reading) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  result_message(&reader->r, message);
}

static void read_done(void *ctx, tci_status status, tci_str message) {
  result_done(&((slow_reader *)ctx)->r, status, message);
}

static void a_slow_reader_makes_pending_grow_and_loses_nothing(void **state) {
  (void)state;
  enum { BYTES = 64 << 10, LIMIT = 4 << 20, MESSAGES_MAX = 2000 };
  world w;
  world_open(&w, "127.0.0.1:0");
  tci_rpc *reader_rpc = tci_rpc_open(); /* a polling thread of its own: the test lets it stand still */
  tci_rpc_client *reader_client = tci_rpc_client_open(reader_rpc, NULL);
  slow_reader reader = {0};
  tci_rpc_sink sink = {&reader, read_done, read_slowly};
  tci_rpc_start(reader_client, tci_rpc_server_address(w.server), "/test/Hold", TCI_STR(""), -1, true, &sink);
  WAIT_FOR(w.held_len == 1);
  char *bytes = calloc(1, BYTES);
  size_t pending = 0;
  uint64_t sent = 0;
  for (; pending < LIMIT && sent < MESSAGES_MAX; sent++) {
    memcpy(bytes, &sent, sizeof sent);
    pending = tci_rpc_send(w.held[0], (tci_str){bytes, BYTES});
    if (sent == 0) WAIT_FOR(reader.blocked);
  }
  assert_true(pending >= LIMIT); /* what a watch's limit is held against */
  result other;
  call_and_wait(&w, "/test/Echo", TCI_STR("others are served"), &other);
  assert_result(&other, TCI_OK, "", TCI_STR("others are served"));
  pthread_mutex_lock(&lock);
  reader.reading = true;
  note();
  pthread_mutex_unlock(&lock);
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, (tci_str){0}); /* leaves after what waits */
  WAIT_FOR(reader.r.done);
  assert_int_equal(reader.r.messages, sent);
  assert_false(reader.r.disordered);
  assert_result(&reader.r, TCI_OK, "", TCI_STR(""));
  free(bytes);
  tci_rpc_client_close(reader_client);
  tci_rpc_close(reader_rpc);
  world_close(&w);
}

static void what_waits_for_a_reader_that_left_is_dropped(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result r;
  uint64_t handle = start(&w, "/test/Hold", TCI_STR(""), -1, true, &r);
  WAIT_FOR(w.held_len == 1);
  char *bytes = calloc(1, 1 << 20);
  for (int i = 0; i < 16; i++) tci_rpc_send(w.held[0], (tci_str){bytes, 1 << 20});
  tci_rpc_cancel(w.client, handle);
  WAIT_FOR(r.done && w.gone == 1);
  /* At most the one that was out is counted still. */
  assert_true(tci_rpc_send(w.held[0], (tci_str){bytes, 1 << 20}) <= 1 << 20);
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, (tci_str){0});
  assert_result(&r, TCI_CANCELLED, "", TCI_STR(""));
  free(bytes);
  world_close(&w);
}

static void a_stream_that_is_ended_at_once_waits_for_nobody(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  tci_rpc *reader_rpc = tci_rpc_open(); /* a polling thread of its own: the test lets it stand still */
  tci_rpc_client *reader_client = tci_rpc_client_open(reader_rpc, NULL);
  slow_reader reader = {0};
  tci_rpc_sink sink = {&reader, read_done, read_slowly};
  tci_rpc_start(reader_client, tci_rpc_server_address(w.server), "/test/Hold", TCI_STR(""), -1, true, &sink);
  WAIT_FOR(w.held_len == 1);
  char *bytes = calloc(1, 1 << 20);
  for (int i = 0; i < 32; i++) tci_rpc_send(w.held[0], (tci_str){bytes, 1 << 20});
  WAIT_FOR(reader.blocked);
  tci_rpc_abort(w.held[0], (tci_status){TCI_RESOURCE_EXHAUSTED, "no room"});
  tci_rpc_server_close(w.server, 60000); /* what waits does not hold it up, though nobody reads */
  w.server = NULL;
  pthread_mutex_lock(&lock);
  reader.reading = true;
  note();
  pthread_mutex_unlock(&lock);
  WAIT_FOR(reader.r.done);
  assert_true(reader.r.messages < 32);
  assert_result(&reader.r, TCI_RESOURCE_EXHAUSTED, "no room", TCI_STR(""));
  free(bytes);
  tci_rpc_client_close(reader_client);
  tci_rpc_close(reader_rpc);
  world_close(&w);
}

static void calls_pass_while_two_hundred_streams_are_open(void **state) {
  (void)state;
  enum { STREAMS = 200 };
  world w;
  world_open(&w, "127.0.0.1:0");
  static result streams[STREAMS];
  for (size_t i = 0; i < STREAMS; i++) start(&w, "/test/Hold", TCI_STR(""), -1, true, &streams[i]);
  WAIT_FOR(w.held_len == STREAMS);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  for (size_t i = 0; i < STREAMS; i++) {
    size_t pending;
    send_number(w.held[i], 0, &pending);
    tci_rpc_reply(w.held[i], TCI_STATUS_OK, (tci_str){0});
  }
  for (size_t i = 0; i < STREAMS; i++) {
    WAIT_FOR(streams[i].done);
    assert_int_equal(streams[i].messages, 1);
    assert_result(&streams[i], TCI_OK, "", TCI_STR(""));
  }
  world_close(&w);
}

/* ---- stopping ---- */

static void a_stopped_server_finishes_what_is_in_and_takes_no_more(void **state) {
  (void)state;
  world w;
  world_open(&w, socket_address);
  result in, late;
  start(&w, "/test/Hold", TCI_STR("x"), -1, false, &in);
  WAIT_FOR(w.held_len == 1);
  tci_rpc_server_stop(w.server);
  tci_rpc_server_stop(w.server); /* again: nothing more */
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &late);
  assert_result(&late, TCI_UNAVAILABLE, "stopping", TCI_STR(""));
  assert_int_equal(w.calls, 1); /* the handler was not bothered */
  assert_false(in.done);
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, TCI_STR("finished"));
  tci_rpc_server_close(w.server, PATIENCE_S * 1000);
  w.server = NULL;
  WAIT_FOR(in.done);
  assert_result(&in, TCI_OK, "", TCI_STR("finished"));
  assert_int_equal(w.gone, 0);
  world_close(&w);
}

static void closing_cancels_what_outlasts_the_grace_and_a_late_reply_is_fine(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  result unary, stream;
  start(&w, "/test/Hold", TCI_STR("x"), -1, false, &unary);
  WAIT_FOR(w.held_len == 1);
  start(&w, "/test/Hold", TCI_STR("x"), -1, true, &stream);
  WAIT_FOR(w.held_len == 2);
  tci_rpc_server_close(w.server, 10);
  w.server = NULL;
  assert_int_equal(w.gone, 2); /* told before close returned, and never after */
  WAIT_FOR(unary.done && stream.done);
  assert_true(unary.code == TCI_UNAVAILABLE || unary.code == TCI_CANCELLED);
  assert_true(stream.code == TCI_UNAVAILABLE || stream.code == TCI_CANCELLED);
  free(unary.bytes);
  free(stream.bytes);
  tci_rpc_send(w.held[1], TCI_STR("nobody is there"));
  tci_rpc_reply(w.held[0], TCI_STATUS_OK, TCI_STR("nobody is there"));
  tci_rpc_reply(w.held[1], TCI_STATUS_OK, (tci_str){0});
  world_close(&w);
}

static void a_server_that_is_not_there_is_unavailable(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  char *address = strdup(tci_rpc_server_address(w.server));
  tci_rpc_server_close(w.server, 0);
  w.server = NULL;
  const char *targets[] = {address, "unix:/nowhere/at/all", "not a target"};
  for (size_t i = 0; i < 3; i++) {
    result r = {0};
    tci_rpc_sink sink = sink_of(&r);
    tci_rpc_start(w.client, targets[i], "/test/Echo", TCI_STR("x"), 30000000, false, &sink);
    WAIT_FOR(r.done);
    assert_result(&r, TCI_UNAVAILABLE, "", TCI_STR(""));
  }
  free(address);
  world_close(&w);
}

static bool has_ipv6(void) {
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int fd = socket(AF_INET6, SOCK_STREAM, 0);
  bool has = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
  if (fd >= 0) close(fd);
  return has;
}

static void localhost_is_this_machine(void **state) {
  (void)state;
  const char *addresses[] = {"127.0.0.1:0", "[::1]:0"};
  size_t len = has_ipv6() ? 2 : 1;
  for (size_t i = 0; i < len; i++) {
    world w;
    world_open(&w, addresses[i]);
    char target[64];
    snprintf(target, sizeof target, "localhost%s", strrchr(tci_rpc_server_address(w.server), ':'));
    result r = {0};
    tci_rpc_sink sink = sink_of(&r);
    tci_rpc_start(w.client, target, "/test/Echo", TCI_STR("x"), 30000000, false, &sink);
    WAIT_FOR(r.done);
    assert_result(&r, TCI_OK, "", TCI_STR("x"));
    world_close(&w);
  }
}

static void a_client_reconnects_to_a_server_that_was_restarted(void **state) {
  (void)state;
  world w;
  world_open(&w, socket_address);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("before"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("before"));
  tci_rpc_server_close(w.server, 0);
  r = (result){0};
  tci_rpc_sink sink = sink_of(&r);
  tci_rpc_start(w.client, socket_address, "/test/Echo", TCI_STR("between"), -1, false, &sink);
  WAIT_FOR(r.done);
  assert_result(&r, TCI_UNAVAILABLE, "", TCI_STR(""));
  must_serve_at(&w, socket_address);
  call_and_wait(&w, "/test/Echo", TCI_STR("after"), &r); /* at once: the failed call took its channel with it */
  assert_result(&r, TCI_OK, "", TCI_STR("after"));
  world_close(&w);
}

/* ---- addresses ---- */

static void assert_refused(world *w, const char *address, tci_code code, const char *text_part) {
  char text[400] = "";
  tci_rpc_server *before = w->server;
  tci_status status = serve_at(w, address, text, sizeof text);
  assert_null(w->server);
  w->server = before;
  if (status.code != code) fail_msg("%s: %s (%s)", address, tci_code_name(status.code), text);
  assert_ptr_equal(status.message, text);
  if (!strstr(text, text_part)) fail_msg("\"%s\" does not say \"%s\"", text, text_part);
  if (*address && !strstr(text, address)) fail_msg("\"%s\" does not name %s", text, address);
}

static void a_taken_port_is_refused(void **state) {
  (void)state;
  world w;
  world_open(&w, "127.0.0.1:0");
  assert_refused(&w, tci_rpc_server_address(w.server), TCI_UNAVAILABLE, "taken");
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r); /* the first one goes on */
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  world_close(&w);
}

static void an_address_that_is_none_is_refused(void **state) {
  (void)state;
  world w = {.rpc = tci_rpc_open()};
  const char *bad[] = {"",
                       "127.0.0.1",
                       ":",
                       ":port",
                       ":123456",
                       "127.0.0.1:",
                       "127.0.0.1:port",
                       "127.0.0.1:65536",
                       "::1:5",
                       "[::1:5",
                       "unix:/tmp/a b.sock",
                       "unix:/tmp/100%",
                       "http://127.0.0.1:1"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_refused(&w, bad[i], TCI_INVALID_ARGUMENT, "cannot listen on");
  assert_refused(&w, "unix:", TCI_INVALID_ARGUMENT, "missing");
  char long_path[300] = "unix:/tmp/";
  memset(long_path + 10, 'a', 150);
  assert_refused(&w, long_path, TCI_INVALID_ARGUMENT, "at most 107 bytes");
  assert_refused(&w, "unix:/nowhere/at/all.sock", TCI_UNAVAILABLE, "No such file");
  assert_refused(&w, "192.0.2.1:50051", TCI_UNAVAILABLE, "assign"); /* an address that is not ours */
  tci_rpc_close(w.rpc);
}

static void who_listens_everywhere_tells_an_address_to_dial(void **state) {
  (void)state;
  static const char *const everywhere[] = {":0", "0.0.0.0:0"};
  for (size_t i = 0; i < sizeof everywhere / sizeof *everywhere; i++) {
    world w;
    world_open(&w, everywhere[i]);
    assert_memory_equal(tci_rpc_server_address(w.server), "127.0.0.1:", 10);
    result r;
    call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r);
    assert_result(&r, TCI_OK, "", TCI_STR("x"));
    world_close(&w);
  }
}

static void a_unix_socket_in_use_is_refused(void **state) {
  (void)state;
  world w;
  world_open(&w, socket_address);
  char pid[32];
  snprintf(pid, sizeof pid, "process %d", (int)getpid());
  assert_refused(&w, socket_address, TCI_UNAVAILABLE, pid);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  world_close(&w);
}

/* A listening socket as a program would make it that knows nothing of our lock. */
static int foreign_socket(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
  assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(fd, 1), 0);
  return fd;
}

static void a_dead_servers_socket_is_replaced_and_a_live_ones_is_not(void **state) {
  (void)state;
  world w = {.rpc = tci_rpc_open()};
  w.client = tci_rpc_client_open(w.rpc, NULL);
  int fd = foreign_socket();
  assert_refused(&w, socket_address, TCI_UNAVAILABLE, "other program");
  close(fd); /* as when it is killed: the file stays */
  assert_int_equal(access(socket_path, F_OK), 0);
  must_serve_at(&w, socket_address);
  result r;
  call_and_wait(&w, "/test/Echo", TCI_STR("x"), &r);
  assert_result(&r, TCI_OK, "", TCI_STR("x"));
  world_close(&w);
}

static void a_file_that_is_no_socket_is_left_alone(void **state) {
  (void)state;
  world w = {.rpc = tci_rpc_open()};
  FILE *file = fopen(socket_path, "w");
  fputs("precious", file);
  fclose(file);
  assert_refused(&w, socket_address, TCI_INVALID_ARGUMENT, "not a socket");
  struct stat at;
  assert_int_equal(stat(socket_path, &at), 0);
  assert_int_equal(at.st_size, 8);
  unlink(socket_path);
  tci_rpc_close(w.rpc);
}

/* ---- threads ---- */

/* Each call owns a note that its replier frees right after the reply: on_gone must not come then any more. */
typedef struct {
  tci_queue_item item; /* first */
  tci_rpc_call *call;  /* NULL: the end */
  int gone;
} owned;

static tci_queue owned_queue;
static atomic_int owned_gone;

static void hand_to_repliers(void *ctx, tci_rpc_call *call) {
  (void)ctx;
  owned *o = calloc(1, sizeof *o);
  o->call = call;
  tci_rpc_call_set_user(call, o);
  tci_queue_push(&owned_queue, &o->item);
}

static void note_in_owned(void *ctx, tci_rpc_call *call) {
  (void)ctx;
  owned *o = tci_rpc_call_user(call);
  o->gone++;
  atomic_fetch_add(&owned_gone, 1);
}

static pthread_mutex_t take_lock = PTHREAD_MUTEX_INITIALIZER; /* the queue has one consumer at a time */

static void *reply_to_all(void *arg) {
  (void)arg;
  for (;;) {
    pthread_mutex_lock(&take_lock);
    owned *o = (owned *)tci_queue_take(&owned_queue, 1, INT64_MAX);
    pthread_mutex_unlock(&take_lock);
    tci_rpc_call *call = o->call;
    if (call) {
      tci_str payload = tci_rpc_call_payload(call);
      if (payload.len % 2) tci_rpc_send(call, payload);
      tci_rpc_reply(call, TCI_STATUS_OK, payload);
    }
    free(o);
    if (!call) return NULL;
  }
}

enum { THREADS = 4, CALLS_EACH = 1000 };

typedef struct {
  tci_rpc_client *client;
  const char *target;
  result *results;
} caller;

static void *start_and_cancel(void *arg) {
  caller *c = arg;
  for (size_t i = 0; i < CALLS_EACH; i++) {
    tci_rpc_sink sink = sink_of(&c->results[i]);
    tci_str request = {"abcdefgh", 1 + i % 8};
    uint64_t handle = tci_rpc_start(c->client, c->target, "/test/Any", request, -1, i % 2 == 0, &sink);
    if (i % 5 == 0) tci_rpc_cancel(c->client, handle);
    if (i % 64 == 63) WAIT_FOR(c->results[i - 32].done); /* not thousands at once */
  }
  for (size_t i = 0; i < CALLS_EACH; i++) WAIT_FOR(c->results[i].done);
  return NULL;
}

static void many_threads_call_cancel_and_reply(void **state) {
  (void)state;
  tci_queue_init(&owned_queue);
  tci_rpc *rpc = tci_rpc_open();
  tci_rpc_handler handler = {NULL, hand_to_repliers, note_in_owned, NULL};
  tci_rpc_server *server;
  char text[300];
  tci_status status = tci_rpc_server_open(rpc, &(tci_rpc_server_options){.address = "127.0.0.1:0"}, &handler, &server,
                                          text, sizeof text);
  assert_int_equal(status.code, TCI_OK);
  tci_rpc_client *client = tci_rpc_client_open(rpc, NULL);
  pthread_t repliers[THREADS], callers[THREADS];
  caller c[THREADS];
  for (size_t i = 0; i < THREADS; i++) {
    c[i] = (caller){client, tci_rpc_server_address(server), calloc(CALLS_EACH, sizeof(result))};
    assert_int_equal(pthread_create(&repliers[i], NULL, reply_to_all, NULL), 0);
    assert_int_equal(pthread_create(&callers[i], NULL, start_and_cancel, &c[i]), 0);
  }
  for (size_t i = 0; i < THREADS; i++) pthread_join(callers[i], NULL);
  tci_rpc_client_close(client);
  for (size_t i = 0; i < THREADS; i++) {
    for (size_t k = 0; k < CALLS_EACH; k++) {
      result *r = &c[i].results[k];
      assert_true(r->code == TCI_OK || (r->code == TCI_CANCELLED && k % 5 == 0));
      if (r->code == TCI_OK && k % 2) assert_int_equal(r->bytes_len, 1 + k % 8); /* unary: the echo */
      free(r->bytes);
    }
    free(c[i].results);
  }
  tci_rpc_server_close(server, PATIENCE_S * 1000);
  for (size_t i = 0; i < THREADS; i++) tci_queue_push(&owned_queue, &((owned *)calloc(1, sizeof(owned)))->item);
  for (size_t i = 0; i < THREADS; i++) pthread_join(repliers[i], NULL);
  tci_queue_deinit(&owned_queue);
  tci_rpc_close(rpc);
}

/* on_gone stands still while another thread replies. */
typedef struct {
  tci_rpc_call *call;
  bool in_gone, replied, replied_during_gone, gone_over;
} standoff;

static void keep_call(void *ctx, tci_rpc_call *call) {
  pthread_mutex_lock(&lock);
  ((standoff *)ctx)->call = call;
  note();
  pthread_mutex_unlock(&lock);
}

static void *reply_during_gone(void *arg) {
  standoff *s = arg;
  WAIT_FOR(s->in_gone);
  tci_rpc_reply(s->call, TCI_STATUS_OK, (tci_str){0});
  pthread_mutex_lock(&lock);
  s->replied = true;
  note();
  pthread_mutex_unlock(&lock);
  return NULL;
}

static void linger_in_gone(void *ctx, tci_rpc_call *call) {
  standoff *s = ctx;
  (void)call;
  struct timespec due;
  clock_gettime(CLOCK_REALTIME, &due);
  due.tv_nsec += 50000000; /* what must not come needs some time not to come */
  if (due.tv_nsec >= 1000000000) due.tv_sec++, due.tv_nsec -= 1000000000;
  pthread_mutex_lock(&lock);
  s->in_gone = true;
  note();
  while (!s->replied && pthread_cond_timedwait(&changed, &lock, &due) == 0) {}
  s->replied_during_gone = s->replied;
  s->gone_over = true;
  note();
  pthread_mutex_unlock(&lock);
}

static void a_reply_does_not_return_while_on_gone_runs(void **state) {
  (void)state;
  standoff s = {0};
  tci_rpc *rpc = tci_rpc_open();
  tci_rpc_handler handler = {&s, keep_call, linger_in_gone, NULL};
  tci_rpc_server *server;
  char text[300];
  tci_status status = tci_rpc_server_open(rpc, &(tci_rpc_server_options){.address = "127.0.0.1:0"}, &handler, &server,
                                          text, sizeof text);
  assert_int_equal(status.code, TCI_OK);
  tci_rpc_client *client = tci_rpc_client_open(rpc, NULL);
  pthread_t replier;
  assert_int_equal(pthread_create(&replier, NULL, reply_during_gone, &s), 0);
  result r = {0};
  tci_rpc_sink sink = sink_of(&r);
  uint64_t handle = tci_rpc_start(client, tci_rpc_server_address(server), "/a/B", TCI_STR("x"), -1, false, &sink);
  WAIT_FOR(s.call);
  tci_rpc_cancel(client, handle);
  WAIT_FOR(s.replied && s.gone_over && r.done);
  assert_false(s.replied_during_gone);
  pthread_join(replier, NULL);
  assert_result(&r, TCI_CANCELLED, "", TCI_STR(""));
  tci_rpc_client_close(client);
  tci_rpc_server_close(server, PATIENCE_S * 1000);
  tci_rpc_close(rpc);
}

static void more_targets_than_channels_are_kept_is_fine(void **state) {
  (void)state;
  enum { TARGETS = 1005 };
  tci_rpc *rpc = tci_rpc_open();
  tci_rpc_client *client = tci_rpc_client_open(rpc, NULL);
  for (int i = 0; i < TARGETS + 5; i++) { /* the first five were dropped: dialled anew */
    char target[64];
    snprintf(target, sizeof target, "unix:/nowhere/%d", i % TARGETS);
    result r = {0};
    tci_rpc_sink sink = sink_of(&r);
    tci_rpc_start(client, target, "/test/Echo", TCI_STR("x"), -1, false, &sink);
    WAIT_FOR(r.done);
    assert_result(&r, TCI_UNAVAILABLE, "", TCI_STR(""));
  }
  tci_rpc_client_close(client);
  tci_rpc_close(rpc);
}

static void opening_and_closing_is_all_it_takes(void **state) {
  (void)state;
  tci_rpc_close(NULL);
  tci_rpc *one = tci_rpc_open(), *two = tci_rpc_open();
  tci_rpc_close(one);
  tci_rpc_client_close(tci_rpc_client_open(two, NULL));
  tci_rpc_close(two);
}

int main(void) {
  main_thread = pthread_self();
  snprintf(folder, sizeof folder, "/tmp/tci-rpc-XXXXXX");
  if (!mkdtemp(folder)) return 1;
  snprintf(socket_path, sizeof socket_path, "%s/engine.sock", folder);
  snprintf(socket_address, sizeof socket_address, "unix:%s", socket_path);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(opening_and_closing_is_all_it_takes),
      cmocka_unit_test(a_call_over_tcp_brings_back_the_handlers_bytes),
      cmocka_unit_test(a_call_over_a_unix_socket_brings_back_the_handlers_bytes),
      cmocka_unit_test(the_address_names_the_port_that_was_picked),
      cmocka_unit_test(an_unknown_method_reaches_the_handler),
      cmocka_unit_test(a_status_brings_its_text_cut_and_valid),
      cmocka_unit_test(a_message_over_4_mib_is_refused_and_the_next_call_served),
      cmocka_unit_test(a_call_without_a_message_is_refused),
      cmocka_unit_test(one_connection_too_many_is_closed_and_the_others_stay),
      cmocka_unit_test(a_server_without_descriptors_is_not_deaf_afterwards),
      cmocka_unit_test(a_deadline_ends_the_call_on_both_sides),
      cmocka_unit_test(a_told_deadline_is_the_peers_to_keep),
      cmocka_unit_test(nothing_here_ends_a_told_call_but_its_caller),
      cmocka_unit_test(reading_out_ends_in_silence_and_under_load),
      cmocka_unit_test(a_cancelled_call_is_told_to_the_handler_once),
      cmocka_unit_test(closing_the_client_ends_its_calls),
      cmocka_unit_test(a_stream_arrives_whole_in_order_and_before_its_status),
      cmocka_unit_test(pending_bytes_are_counted_until_they_leave),
      cmocka_unit_test(a_stream_may_end_without_a_message),
      cmocka_unit_test(a_slow_reader_makes_pending_grow_and_loses_nothing),
      cmocka_unit_test(what_waits_for_a_reader_that_left_is_dropped),
      cmocka_unit_test(a_stream_that_is_ended_at_once_waits_for_nobody),
      cmocka_unit_test(calls_pass_while_two_hundred_streams_are_open),
      cmocka_unit_test(a_stopped_server_finishes_what_is_in_and_takes_no_more),
      cmocka_unit_test(closing_cancels_what_outlasts_the_grace_and_a_late_reply_is_fine),
      cmocka_unit_test(a_server_that_is_not_there_is_unavailable),
      cmocka_unit_test(localhost_is_this_machine),
      cmocka_unit_test(a_client_reconnects_to_a_server_that_was_restarted),
      cmocka_unit_test(a_taken_port_is_refused),
      cmocka_unit_test(an_address_that_is_none_is_refused),
      cmocka_unit_test(who_listens_everywhere_tells_an_address_to_dial),
      cmocka_unit_test(a_unix_socket_in_use_is_refused),
      cmocka_unit_test(a_dead_servers_socket_is_replaced_and_a_live_ones_is_not),
      cmocka_unit_test(a_file_that_is_no_socket_is_left_alone),
      cmocka_unit_test(a_reply_does_not_return_while_on_gone_runs),
      cmocka_unit_test(many_threads_call_cancel_and_reply),
      cmocka_unit_test(more_targets_than_channels_are_kept_is_fine),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  rmdir(folder);
  return failed;
}
