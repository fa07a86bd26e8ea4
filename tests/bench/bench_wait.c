/* bench_wait: does a long queue that is told to wait slow the others? The engine without sockets (app/engine.h), a database in
 * memory, real policies in Lua. One table on standard output.
 *
 * bench_wait [WAITING [STAGES]]: WAITING (100000) executions of one runner type, whose policy says wait each time it is asked,
 * and it is asked about all of them again and again: a heartbeat of their runner comes every 100 turns. Meanwhile STAGES (20000)
 * of another type are dispatched and answered, 64 at a time. The first row is the same without the queue.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/engine.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/vec.h"
#include "base/wire.h"

enum { BATCH = 500, IN_FLIGHT = 64, HEARTBEAT_EVERY = 100 };

typedef struct {
  tci_engine *engine;
  tci_rng rng;
  TCI_VEC(tci_str) dispatched; /* execution ids, heap */
  tci_str plan_id;             /* heap; of the last plan created */
  tci_arena arena;
  int64_t longest_us, turns, began_mono_us, dispatch_us, dispatches;
} bench;

/* ---- sink ---- */

static void on_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  bench *b = ctx;
  if (status.code != TCI_OK) {
    fprintf(stderr, "bench_wait: %s\n", status.message);
    exit(1);
  }
  if (token != 1) return; /* CreateWorkPlanResponse { work_plan { id } } */
  tci_wire_reader reader = tci_wire_read(message);
  tci_wire_field field;
  tci_assert(tci_wire_next(&reader, &field));
  reader = tci_wire_read(field.bytes);
  tci_assert(tci_wire_next(&reader, &field) && field.number == 1);
  tci_str_assign(&b->plan_id, field.bytes);
}

static void on_dispatch(void *ctx, tci_str execution_id, tci_mode mode, tci_str address, const char *method,
                        tci_str request, int64_t timeout_us) {
  (void)mode, (void)address, (void)method, (void)request, (void)timeout_us;
  bench *b = ctx;
  tci_vec_push(&b->dispatched, tci_str_dup(execution_id));
}

static void on_cancel(void *ctx, tci_str execution_id) { (void)ctx, (void)execution_id; }
static bool on_watch(void *ctx, uint64_t token, uint64_t sequence, tci_str message) {
  (void)ctx, (void)token, (void)sequence, (void)message;
  return true;
}
static void on_watch_end(void *ctx, uint64_t token, tci_status status, bool at_once) {
  (void)ctx, (void)token, (void)status, (void)at_once;
}

/* ---- turns ---- */

static void turn(bench *b, tci_event *events, size_t len) {
  tci_time now = tci_clock_now();
  for (size_t i = 0; i < len; i++) {
    events[i].now = now;
    tci_rng_bytes(&b->rng, events[i].random, sizeof events[i].random);
  }
  int64_t from = tci_clock_thread_cpu_us();
  tci_assert(tci_engine_turn(b->engine, events, len).code == TCI_OK);
  int64_t took = tci_clock_thread_cpu_us() - from;
  if (took > b->longest_us) b->longest_us = took;
  b->turns++;
}

static void tick(bench *b) { turn(b, &(tci_event){.kind = TCI_EVENT_TICK}, 1); }

static void command(bench *b, tci_command c, uint64_t token) {
  tci_event event = {.kind = TCI_EVENT_COMMAND, .token = token, .command = c};
  turn(b, &event, 1);
}

static void settle(bench *b) {
  while (tci_engine_next_due_us(b->engine) == 0) tick(b);
}

static void register_runner(bench *b, const char *type, int64_t capacity) {
  tci_command c = {.kind = TCI_COMMAND_REGISTER_RUNNER};
  c.register_runner.runner_id = c.register_runner.runner_type = tci_str_from(type);
  c.register_runner.address = TCI_STR("127.0.0.1:1");
  c.register_runner.max_concurrent = capacity;
  command(b, c, 2);
}

static void write_stages(bench *b, const char *type, int from, int to) {
  tci_command c = {.kind = TCI_COMMAND_WRITE_NODES, .plan_id = b->plan_id};
  tci_arena_reset(&b->arena);
  c.write_nodes.stages = tci_arena_array(&b->arena, tci_stage_write, (size_t)(to - from));
  c.write_nodes.stages_len = (size_t)(to - from);
  c.write_nodes.omit_nodes = true;
  for (int i = from; i < to; i++)
    c.write_nodes.stages[i - from] =
        (tci_stage_write){.id = tci_str_from(tci_fmt(&b->arena, "%s-%d", type, i)), .runner_type = tci_str_from(type)};
  command(b, c, 2);
}

static void write_all(bench *b, const char *type, int n) {
  command(b, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN}, 1);
  for (int i = 0; i < n; i += BATCH) write_stages(b, type, i, i + BATCH < n ? i + BATCH : n);
}

/* Answers everything that is with a runner. */
static int answer(bench *b) {
  tci_event events[IN_FLIGHT];
  tci_str ids[IN_FLIGHT];
  size_t len = 0;
  for (; len < IN_FLIGHT && b->dispatched.len; len++) {
    ids[len] = b->dispatched.items[--b->dispatched.len];
    events[len] = (tci_event){.kind = TCI_EVENT_ANSWER};
    events[len].answer.execution_id = ids[len];
    events[len].answer.completion.stage_state = TCI_STAGE_FINAL;
  }
  if (len) turn(b, events, len);
  for (size_t i = 0; i < len; i++) tci_str_free(&ids[i]);
  return (int)len;
}

/* ---- the row ---- */

static const char *write_policy(const char *folder) {
  static char path[600];
  snprintf(path, sizeof path, "%s/patient.lua", folder);
  FILE *file = fopen(path, "w");
  tci_assert(file && fputs("return { select = function() return nil end }\n", file) >= 0 && fclose(file) == 0);
  return path;
}

static void row(const char *folder, int waiting, int stages) {
  bench b = {0};
  uint8_t seed[32] = {1};
  tci_rng_init(&b.rng, seed);
  tci_str folders = tci_str_from(folder), loopback = TCI_STR("loopback");
  tci_pair types = {TCI_STR("slow"), TCI_STR("patient")};
  tci_engine_options options = {.limits = tci_limits_default(),
                                .store = {":memory:", 0},
                                .callback_address = "",
                                .allowed_addresses = {&loopback, 1},
                                .version = "bench",
                                .policies = {.folders = {&folders, 1}, .types = {&types, 1}}};
  const tci_sink sink = {&b, on_reply, on_dispatch, on_cancel, on_watch, on_watch_end};
  char message[1024];
  if (tci_engine_open(&options, &sink, tci_clock_now(), &b.engine, message, sizeof message).code != TCI_OK) {
    fprintf(stderr, "bench_wait: %s\n", message);
    exit(1);
  }
  tci_assert(tci_engine_start(b.engine, tci_clock_now(), seed).code == TCI_OK);
  register_runner(&b, "slow", 0);
  register_runner(&b, "fast", IN_FLIGHT);
  write_all(&b, "slow", waiting);
  settle(&b);

  b.longest_us = b.turns = 0;
  int64_t from = tci_clock_mono_us(), asks = tci_engine_count(b.engine).policy_asks;
  write_all(&b, "fast", stages);
  for (int done = 0; done < stages;) {
    int ended = answer(&b);
    if (!ended) tick(&b);
    done += ended;
    if (b.turns % HEARTBEAT_EVERY == 0) register_runner(&b, "slow", 0);
  }
  double us = (double)(tci_clock_mono_us() - from) / stages;
  asks = tci_engine_count(b.engine).policy_asks - asks;
  printf("%8d %12.1f %14lld %12lld %12.1f\n", waiting, us, (long long)b.turns, (long long)asks,
         (double)b.longest_us / 1000);
  tci_engine_close(b.engine);
  tci_vec_free(&b.dispatched);
  tci_str_free(&b.plan_id);
  tci_arena_deinit(&b.arena);
}

int main(int argc, char **argv) {
  int waiting = argc > 1 ? atoi(argv[1]) : 100000, stages = argc > 2 ? atoi(argv[2]) : 20000;
  char folder[] = "/tmp/tci-bench-XXXXXX";
  if (waiting < 0 || stages < 1 || !mkdtemp(folder)) {
    fprintf(stderr, "usage: bench_wait [WAITING [STAGES]]\n");
    return 2;
  }
  tci_log_set_level(TCI_LOG_ERROR);
  const char *policy = write_policy(folder);
  printf("%8s %12s %14s %12s %12s\n", "waiting", "us per stage", "turns", "asks", "longest ms");
  row(folder, 0, stages);
  row(folder, waiting, stages);
  unlink(policy);
  rmdir(folder);
  return 0;
}
