/* bench_dispatch: stages per second through the whole engine: two processes, real gRPC over loopback TCP or a unix
 * socket, a real database file with fsync. One table on standard output; then what a policy in Lua adds to the server's CPU
 * time, in interleaved pairs.
 *
 * bench_dispatch [STAGES [FOLDER]]: each row runs a plan of STAGES (20000) independent sync stages; K is the sum of the
 * runners' max_concurrent, that is, the calls in flight. The parent is client and runner in one (its answer is a constant); the child is
 * the server. CPU is the server process's own, without the kernel's interrupt time.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/server.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/wire.h"
#include "rpc/rpc.h"

#define ORCHESTRATOR "/turboci.v1.TurboCIOrchestrator/"
enum { BATCH = 500 };

/* ---- the server, in a process of its own ---- */

typedef struct {
  pid_t pid;
  int stop;  /* closing it stops the server */
  int facts; /* its CPU time comes here at the end */
  char address[256];
} server_process;

typedef struct {
  bool unix_socket;
  int runners, capacity; /* of each */
  const char *policy;    /* the server's default, of policies/; NULL: the built-in */
} setup;

static void serve(const char *folder, const setup *row, int ready, int stop, int facts) {
  char database[600], listen[600], message[1024], byte;
  snprintf(database, sizeof database, "%s/bench.db", folder);
  snprintf(listen, sizeof listen, row->unix_socket ? "unix:%s/bench.sock" : "127.0.0.1:0", folder);
  tci_server_options options = {.limits = tci_limits_default(), .database = database, .listen = listen};
  tci_str policies = TCI_STR(TURBOCI_SOURCE_DIR "/policies");
  if (row->policy) options.policies = (tci_policies_options){.folders = {&policies, 1}, .server = row->policy};
  tci_server *server;
  tci_log_set_level(TCI_LOG_ERROR);
  if (tci_server_start(&options, &server, message, sizeof message).code != TCI_OK) {
    fprintf(stderr, "bench_dispatch: %s\n", message);
    exit(1);
  }
  dprintf(ready, "%s\n", tci_server_address(server));
  while (read(stop, &byte, 1) > 0) {}
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  int64_t cpu_us =
      (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
  tci_assert(write(facts, &cpu_us, sizeof cpu_us) == sizeof cpu_us);
  tci_server_stop(server);
  exit(0);
}

static server_process server_start(const char *folder, const setup *row) {
  int ready[2], stop[2], facts[2];
  tci_assert(pipe(ready) == 0 && pipe(stop) == 0 && pipe(facts) == 0);
  server_process s = {.pid = fork(), .stop = stop[1], .facts = facts[0]};
  if (s.pid == 0) {
    close(stop[1]);
    serve(folder, row, ready[1], stop[0], facts[1]);
  }
  close(stop[0]);
  FILE *in = fdopen(ready[0], "r");
  close(ready[1]);
  tci_assert(fgets(s.address, sizeof s.address, in) != NULL);
  s.address[strcspn(s.address, "\n")] = 0;
  fclose(in);
  return s;
}

static int64_t server_stop(server_process *s) {
  int64_t cpu_us = 0;
  close(s->stop);
  tci_assert(read(s->facts, &cpu_us, sizeof cpu_us) == sizeof cpu_us);
  close(s->facts);
  waitpid(s->pid, NULL, 0);
  return cpu_us;
}

/* ---- runner and client (this process) ---- */

static void on_run(void *ctx, tci_rpc_call *call) {
  (void)ctx;
  tci_rpc_reply(call, TCI_STATUS_OK, TCI_STR("\x08\x28")); /* RunResponse { stage_state: STAGE_STATE_FINAL } */
}

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int pending;
  tci_buf reply;
  bool settled;
} waiter;

static void on_done(void *ctx, tci_status status, tci_str message) {
  waiter *w = ctx;
  if (status.code != TCI_OK) fprintf(stderr, "bench_dispatch: %s: %s\n", tci_code_name(status.code), status.message);
  pthread_mutex_lock(&w->lock);
  tci_buf_clear(&w->reply);
  tci_buf_add(&w->reply, message);
  w->pending--;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

static void on_settled(void *ctx, tci_str message) {
  (void)message; /* both include flags are false: completed events only */
  waiter *w = ctx;
  pthread_mutex_lock(&w->lock);
  w->settled = true;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

static void on_watch_done(void *ctx, tci_status status, tci_str message) { (void)ctx, (void)status, (void)message; }

static void start(tci_rpc_client *client, const char *target, const char *method, tci_buf *request, waiter *w) {
  const tci_rpc_sink sink = {.ctx = w, .on_done = on_done};
  pthread_mutex_lock(&w->lock);
  w->pending++;
  pthread_mutex_unlock(&w->lock);
  tci_rpc_start(client, target, method, tci_buf_str(request), -1, false, &sink);
}

static void wait_for(waiter *w, int pending, bool settled) {
  pthread_mutex_lock(&w->lock);
  while (w->pending > pending || (settled && !w->settled)) pthread_cond_wait(&w->changed, &w->lock);
  pthread_mutex_unlock(&w->lock);
}

static void put_string(tci_buf *buf, uint32_t number, const char *text) {
  tci_wire_put_bytes(buf, number, tci_str_from(text));
}

/* CreateWorkPlanResponse { work_plan { id } } */
static void read_plan_id(const waiter *w, char *out, size_t size) {
  tci_wire_reader reader = tci_wire_read(tci_buf_str(&w->reply));
  tci_wire_field field;
  tci_assert(tci_wire_next(&reader, &field) && field.number == 1);
  reader = tci_wire_read(field.bytes);
  tci_assert(tci_wire_next(&reader, &field) && field.number == 1);
  snprintf(out, size, "%.*s", TCI_STR_ARG(field.bytes));
}

static void write_stages(tci_rpc_client *client, const char *target, const char *plan, int stages, waiter *w) {
  tci_buf request = {0}, stage = {0};
  for (int from = 0; from < stages; from += BATCH) {
    tci_buf_clear(&request);
    put_string(&request, 1, plan);
    for (int i = from; i < from + BATCH && i < stages; i++) {
      char id[32];
      snprintf(id, sizeof id, "s%d", i);
      tci_buf_clear(&stage);
      put_string(&stage, 1, id);
      put_string(&stage, 8, "bench");
      tci_wire_put_bytes(&request, 3, tci_buf_str(&stage));
    }
    tci_wire_put_uint(&request, 102, 1); /* omit_nodes */
    wait_for(w, 3, false);               /* a few writes in flight, like a patient client */
    start(client, target, ORCHESTRATOR "WriteNodes", &request, w);
  }
  tci_buf_deinit(&request);
  tci_buf_deinit(&stage);
}

static double run(const server_process *s, int stages, const setup *row, const char *runner_address) {
  waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  tci_rpc *rpc = tci_rpc_open();
  tci_rpc_client *client = tci_rpc_client_open(rpc, NULL);
  const tci_rpc_server_options listen = {.address = runner_address};
  const tci_rpc_handler handler = {.on_call = on_run};
  tci_rpc_server *runner;
  char message[1024], plan[64];
  tci_assert(tci_rpc_server_open(rpc, &listen, &handler, &runner, message, sizeof message).code == TCI_OK);

  tci_buf request = {0};
  for (int i = 0; i < row->runners; i++) {
    char id[32];
    snprintf(id, sizeof id, "runner-%d", i);
    tci_buf_clear(&request);
    put_string(&request, 1, id);
    put_string(&request, 2, "bench");
    put_string(&request, 3, tci_rpc_server_address(runner));
    tci_wire_put_uint(&request, 5, (uint64_t)row->capacity);
    start(client, s->address, ORCHESTRATOR "RegisterStageRunner", &request, &w);
    wait_for(&w, 0, false);
  }
  tci_buf_clear(&request);
  start(client, s->address, ORCHESTRATOR "CreateWorkPlan", &request, &w);
  wait_for(&w, 0, false);
  read_plan_id(&w, plan, sizeof plan);
  /* A check that waits for nobody keeps the plan from settling between two batches: it is made FINAL at the end. */
  tci_buf check = {0};
  put_string(&request, 1, plan);
  put_string(&check, 1, "all-written");
  tci_wire_put_bytes(&request, 2, tci_buf_str(&check));
  start(client, s->address, ORCHESTRATOR "WriteNodes", &request, &w);
  wait_for(&w, 0, false);
  tci_buf watch = {0};
  put_string(&watch, 1, plan);
  const tci_rpc_sink sink = {.ctx = &w, .on_done = on_watch_done, .on_message = on_settled};
  uint64_t stream =
      tci_rpc_start(client, s->address, ORCHESTRATOR "WatchWorkPlan", tci_buf_str(&watch), -1, true, &sink);

  int64_t from = tci_clock_mono_us();
  write_stages(client, s->address, plan, stages, &w);
  tci_buf_clear(&request);
  put_string(&request, 1, plan);
  tci_wire_put_uint(&check, 2, 40); /* CHECK_STATE_FINAL */
  tci_wire_put_bytes(&request, 2, tci_buf_str(&check));
  wait_for(&w, 0, false);
  start(client, s->address, ORCHESTRATOR "WriteNodes", &request, &w);
  wait_for(&w, 0, true);
  double seconds = (double)(tci_clock_mono_us() - from) / 1e6;

  tci_rpc_cancel(client, stream);
  tci_rpc_client_close(client);
  tci_rpc_server_close(runner, 0);
  tci_rpc_close(rpc);
  tci_buf_deinit(&request);
  tci_buf_deinit(&check);
  tci_buf_deinit(&watch);
  tci_buf_deinit(&w.reply);
  return seconds;
}

typedef struct {
  double stages_per_s, us, cpu_us; /* a stage */
} figures;

/* Every row in a process of its own: gRPC does not survive a fork. */
static figures measure(const char *folder, const setup *row, int stages) {
  int out[2];
  figures f = {0};
  tci_assert(pipe(out) == 0);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    char address[600];
    server_process s = server_start(folder, row);
    snprintf(address, sizeof address, row->unix_socket ? "unix:%s/runner.sock" : "127.0.0.1:0", folder);
    double seconds = run(&s, stages, row, address);
    int64_t cpu_us = server_stop(&s);
    f = (figures){stages / seconds, seconds * 1e6 / stages, (double)cpu_us / stages};
    tci_assert(write(out[1], &f, sizeof f) == sizeof f);
    exit(0);
  }
  close(out[1]);
  tci_assert(read(out[0], &f, sizeof f) == sizeof f);
  close(out[0]);
  waitpid(child, NULL, 0);
  char command[1200];
  snprintf(command, sizeof command, "rm -f '%s'/bench.* '%s'/runner.*", folder, folder);
  tci_assert(system(command) == 0);
  return f;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *values, size_t len) {
  qsort(values, len, sizeof *values, compare);
  return len % 2 ? values[len / 2] : (values[len / 2 - 1] + values[len / 2]) / 2;
}

/* The built-in, then the policy, again and again: what the machine does meanwhile hits both. */
static void compare_policy(const char *folder, const char *policy, int stages) {
  enum { PAIRS = 9 };
  double built_in[PAIRS], lua[PAIRS], ratio[PAIRS];
  for (int i = 0; i < PAIRS; i++) {
    setup row = {.unix_socket = true, .runners = 10, .capacity = 7};
    built_in[i] = measure(folder, &row, stages).cpu_us;
    row.policy = policy;
    lua[i] = measure(folder, &row, stages).cpu_us;
    ratio[i] = lua[i] / built_in[i];
  }
  printf("\nserver CPU us per stage, 10 runners, unix, K 70, medians of %d pairs: built-in %.1f, %s %.1f, ratio %.3f\n",
         PAIRS, median(built_in, PAIRS), policy, median(lua, PAIRS), median(ratio, PAIRS));
}

int main(int argc, char **argv) {
  int stages = argc > 1 ? atoi(argv[1]) : 20000;
  char folder[512];
  int len = snprintf(folder, sizeof folder, "%s/tci-bench-XXXXXX", argc > 2 ? argv[2] : "/tmp");
  if (stages < 1 || len >= (int)sizeof folder || !mkdtemp(folder)) {
    fprintf(stderr, "usage: bench_dispatch [STAGES [FOLDER]]\n");
    return 2;
  }
  printf("%-9s %5s %10s %14s %16s\n", "transport", "K", "stages/s", "us per stage", "server CPU us");
  const int concurrency[] = {1, 16, 64};
  for (int unix_socket = 0; unix_socket < 2; unix_socket++) {
    for (size_t i = 0; i < sizeof concurrency / sizeof concurrency[0]; i++) {
      setup row = {.unix_socket = unix_socket, .runners = 1, .capacity = concurrency[i]};
      figures f = measure(folder, &row, row.capacity == 1 ? stages / 10 + 1 : stages);
      printf("%-9s %5d %10.0f %14.1f %16.1f\n", unix_socket ? "unix" : "tcp", row.capacity, f.stages_per_s, f.us,
             f.cpu_us);
    }
  }
  compare_policy(folder, "least_loaded", stages);
  rmdir(folder);
  return 0;
}
