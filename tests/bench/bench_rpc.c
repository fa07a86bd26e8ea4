/* bench_rpc: what gRPC can do here through engine/rpc: unary echo of 200 bytes between two processes, one polling
 * thread on each side, K calls always out. Prints one table; compare only runs of the same hour (machines are shared).
 *
 *     bench_rpc [seconds per row]
 */
#define _GNU_SOURCE 1
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "rpc/rpc.h"

enum { PAYLOAD_BYTES = 200, CALLS_MAX = 4000000, WARM_UP_US = 300000 };

static int64_t cpu_us(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000ll + use.ru_utime.tv_usec + use.ru_stime.tv_usec;
}

/* ---- the server process ---- */

static void serve(void *ctx, tci_rpc_call *call) {
  (void)ctx;
  if (tci_str_eq(tci_rpc_call_method(call), TCI_STR("/bench/Cpu"))) {
    int64_t us = cpu_us();
    tci_rpc_reply(call, TCI_STATUS_OK, (tci_str){(char *)&us, sizeof us});
  } else {
    tci_rpc_reply(call, TCI_STATUS_OK, tci_rpc_call_payload(call));
  }
}

static int run_server(const char *address, int told, int until) {
  tci_rpc *rpc = tci_rpc_open();
  tci_rpc_server *server;
  char text[300], byte;
  tci_status status = tci_rpc_server_open(rpc, &(tci_rpc_server_options){.address = address},
                                          &(tci_rpc_handler){.on_call = serve}, &server, text, sizeof text);
  if (status.code != TCI_OK) {
    fprintf(stderr, "bench_rpc: %s\n", status.message);
    return 1;
  }
  const char *at = tci_rpc_server_address(server);
  bool ok = write(told, at, strlen(at) + 1) > 0;
  while (ok && read(until, &byte, 1) > 0) { /* until the client's end is closed */
  }
  tci_rpc_server_close(server, 0);
  tci_rpc_close(rpc);
  return ok ? 0 : 1;
}

/* ---- the client process ---- */

static struct {
  tci_rpc_client *client;
  const char *target;
  int64_t from_us, until_us; /* what starts in between is measured */
  uint32_t *latencies_us;
  size_t calls, failures;
  pthread_mutex_t lock;
  pthread_cond_t over;
  size_t out;
  int64_t answer;
} run = {.lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER};

typedef struct {
  int64_t started_us;
} lane;

static void next_call(lane *l);

static void one_out_less(void) {
  pthread_mutex_lock(&run.lock);
  if (--run.out == 0) pthread_cond_signal(&run.over);
  pthread_mutex_unlock(&run.lock);
}

static void on_echo(void *ctx, tci_status status, tci_str message) {
  lane *l = ctx;
  int64_t now_us = tci_clock_mono_us();
  if (status.code != TCI_OK || message.len != PAYLOAD_BYTES) run.failures++;
  if (l->started_us >= run.from_us && now_us <= run.until_us && run.calls < CALLS_MAX)
    run.latencies_us[run.calls++] = (uint32_t)(now_us - l->started_us);
  if (now_us < run.until_us)
    next_call(l);
  else
    one_out_less();
}

static void next_call(lane *l) {
  static const char payload[PAYLOAD_BYTES] = "x";
  tci_rpc_sink sink = {l, on_echo, NULL};
  l->started_us = tci_clock_mono_us();
  tci_rpc_start(run.client, run.target, "/bench/Echo", (tci_str){payload, sizeof payload}, -1, false, &sink);
}

static void on_cpu(void *ctx, tci_status status, tci_str message) {
  (void)ctx;
  if (status.code == TCI_OK && message.len == sizeof run.answer) memcpy(&run.answer, message.ptr, sizeof run.answer);
  one_out_less();
}

static void wait_over(void) {
  pthread_mutex_lock(&run.lock);
  while (run.out) pthread_cond_wait(&run.over, &run.lock);
  pthread_mutex_unlock(&run.lock);
}

static int64_t server_cpu_us(void) {
  run.out = 1;
  tci_rpc_sink sink = {NULL, on_cpu, NULL};
  tci_rpc_start(run.client, run.target, "/bench/Cpu", TCI_STR(""), -1, false, &sink);
  wait_over();
  return run.answer;
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static void run_row(const char *transport, size_t k, double seconds) {
  lane lanes[64];
  int64_t server_before_us = server_cpu_us(), client_before_us = cpu_us(), begin_us = tci_clock_mono_us();
  run.calls = run.failures = 0;
  run.from_us = begin_us + WARM_UP_US;
  run.until_us = run.from_us + (int64_t)(seconds * 1e6);
  run.out = k;
  for (size_t i = 0; i < k; i++) next_call(&lanes[i]);
  wait_over();
  int64_t client_us = cpu_us() - client_before_us, server_us = server_cpu_us() - server_before_us;
  if (run.calls == 0) {
    fprintf(stderr, "bench_rpc: %s K=%zu: no call came back\n", transport, k);
    return;
  }
  qsort(run.latencies_us, run.calls, sizeof *run.latencies_us, by_size);
  double per_second = (double)run.calls / seconds;
  double all = per_second * (seconds + WARM_UP_US / 1e6); /* CPU is counted from the start of the warm-up */
  printf("%-9s %4zu %9.0f %8u %8u %14.1f %14.1f %9zu\n", transport, k, per_second, run.latencies_us[run.calls / 2],
         run.latencies_us[run.calls * 99 / 100], (double)client_us / all, (double)server_us / all, run.failures);
  fflush(stdout);
}

static int run_transport(const char *transport, const char *address, double seconds) {
  int told[2], until[2];
  if (pipe(told) != 0 || pipe(until) != 0) return 1;
  pid_t child = fork(); /* before gRPC has any thread in this process */
  if (child == 0) {
    close(until[1]);
    _exit(run_server(address, told[1], until[0]));
  }
  close(told[1]);
  close(until[0]);
  char target[200] = "";
  if (read(told[0], target, sizeof target - 1) <= 0) return 1;
  tci_rpc *rpc = tci_rpc_open();
  run.client = tci_rpc_client_open(rpc, NULL);
  run.target = target;
  const size_t ks[] = {1, 16, 64};
  for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) run_row(transport, ks[i], seconds);
  tci_rpc_client_close(run.client);
  tci_rpc_close(rpc);
  close(until[1]);
  int status;
  return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 2;
  if (seconds <= 0) seconds = 2;
  char folder[] = "/tmp/tci-bench-XXXXXX", address[64];
  if (!mkdtemp(folder)) return 1;
  snprintf(address, sizeof address, "unix:%s/s", folder);
  run.latencies_us = tci_malloc(CALLS_MAX * sizeof *run.latencies_us);
  printf("%-9s %4s %9s %8s %8s %14s %14s %9s\n", "transport", "K", "calls/s", "p50 us", "p99 us", "client CPU us",
         "server CPU us", "failures");
  fflush(stdout);
  /* Each transport in a child of its own: a process that has run gRPC must not fork. */
  const char *addresses[] = {"127.0.0.1:0", address}, *names[] = {"tcp", "unix"};
  int failed = 0;
  for (int i = 0; i < 2; i++) {
    pid_t child = fork();
    if (child == 0) _exit(run_transport(names[i], addresses[i], seconds));
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) failed = 1;
  }
  rmdir(folder);
  free(run.latencies_us);
  return failed;
}
