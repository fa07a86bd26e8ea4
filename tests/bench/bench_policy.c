/* bench_policy: what asking a policy in Lua costs, in one thread, with the sandbox as a real server has it (count hook,
 * fuse). Between two questions the load of one runner changes, as a dispatch does it. Medians of single calls; the
 * built-in beside them.
 *
 *     bench_policy [calls per row [folder of policies]]
 */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/wire.h"
#include "script/script.h"

enum { RUNNERS_MAX = 1000 };

/* What the figures are about: a loop over the candidates. */
static const char loop_source[] =
    "return {\n"
    "  select = function(ctx)\n"
    "    local best, best_load, best_used\n"
    "    for _, runner in ipairs(ctx.runners) do\n"
    "      local load = runner.load\n"
    "      if not best or load < best_load or load == best_load and runner.used < best_used then\n"
    "        best, best_load, best_used = runner, load, runner.used\n"
    "      end\n"
    "    end\n"
    "    return best\n"
    "  end,\n"
    "  priority = function(ctx) return ctx.stage.priority end,\n"
    "  admit = function(ctx) return { key = 'team-' .. (ctx.plan.metadata.team or '-'), limit = 4 } end,\n"
    "  timeout = function(ctx) return { execution = (ctx.stage.args.size or 1) * 10 } end,\n"
    "}\n";

static struct {
  tci_limits limits;
  tci_runner runners[RUNNERS_MAX], *candidates[RUNNERS_MAX];
  tci_pair metadata[2];
  tci_plan plan;
  tci_stage stage;
  tci_attempt attempts[3], *list[3];
  uint64_t used;
} world;

static void make_world(void) {
  static char names[RUNNERS_MAX][16];
  static tci_buf args, number;
  world.limits = tci_limits_default();
  world.metadata[0] = (tci_pair){TCI_STR("team"), TCI_STR("web")};
  world.metadata[1] = (tci_pair){TCI_STR("zone"), TCI_STR("b")};
  world.plan.id = TCI_STR("a-plan");
  world.plan.metadata = (tci_pairs){world.metadata, 2};
  tci_value_put_number(&number, 3);
  tci_struct_set((tci_str){0}, TCI_STR("size"), tci_buf_str(&number), &args);
  world.stage.node.plan = &world.plan;
  world.stage.node.id = TCI_STR("a-stage");
  world.stage.args = tci_buf_str(&args);
  world.stage.runner_type = TCI_STR("go");
  world.stage.mode = TCI_MODE_SYNC;
  world.stage.attempts.items = world.list;
  for (uint32_t i = 0; i < 3; i++) {
    world.list[i] = &world.attempts[i];
    world.attempts[i].index = i + 1;
    world.attempts[i].state = i < 2 ? TCI_ATTEMPT_INCOMPLETE : TCI_ATTEMPT_PENDING;
    world.attempts[i].failure = (tci_failure){true, TCI_FAILURE_TIMEOUT, TCI_STR("too slow"), 0};
    world.attempts[i].runner_id = TCI_STR("runner-1");
  }
  for (uint32_t i = 0; i < RUNNERS_MAX; i++) {
    tci_runner *r = world.candidates[i] = &world.runners[i];
    snprintf(names[i], sizeof names[i], "runner-%u", i);
    r->runner_id = tci_str_from(names[i]);
    r->runner_type = TCI_STR("go");
    r->metadata = (tci_pairs){world.metadata, 2};
    r->load = i % 5;
    r->max_concurrent = 8;
    r->serial = i + 1;
    r->slot = i;
  }
}

/* One runner gets an execution, or loses one. */
static void change(size_t candidates) {
  tci_runner *r = &world.runners[++world.used % candidates];
  r->load = (r->load + 1) % 5;
  r->last_used = world.used;
  r->last_used_us = (int64_t)world.used;
  r->revision++;
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static void run_row(const tci_policy *policy, const char *name, tci_hook hook, size_t candidates, size_t calls) {
  if (!(policy->hooks >> hook & 1)) return;
  int64_t *times = tci_malloc(calls * sizeof *times), cost = 0;
  tci_arena arena = {0};
  tci_rng rng;
  tci_rng_init(&rng, (const uint8_t[32]){1});
  size_t faults = 0;
  world.stage.attempts.len = hook == TCI_HOOK_RETRY ? 2 : 1;
  world.attempts[0].state = hook == TCI_HOOK_RETRY ? TCI_ATTEMPT_INCOMPLETE : TCI_ATTEMPT_PENDING;
  tci_question q = {.limits = &world.limits, .rng = &rng, .arena = &arena, .stage = &world.stage};
  q.attempt = world.list[world.stage.attempts.len - 1];
  q.candidates = world.candidates;
  q.candidates_len = hook == TCI_HOOK_SELECT ? candidates : 0;
  for (size_t i = 0; i < calls; i++) {
    change(candidates);
    q.now.wall_us += 1000;
    tci_decision d = {0};
    int64_t from_ns = tci_clock_mono_ns();
    policy->ask(policy->self, hook, &q, &d);
    times[i] = tci_clock_mono_ns() - from_ns;
    cost = d.cost;
    if (d.fault && faults++ == 0) fprintf(stderr, "bench_policy: %s\n", d.fault);
    tci_arena_reset(&arena);
  }
  qsort(times, calls, sizeof *times, by_size);
  char about[32] = "";
  if (q.candidates_len) snprintf(about, sizeof about, "%zu", candidates);
  printf("%-16s %-9s %10s %10.2f %10.2f %8lld %7zu\n", name, tci_hook_name(hook), about, (double)times[calls / 2] / 1e3,
         (double)times[calls * 99 / 100] / 1e3, (long long)cost, faults);
  fflush(stdout);
  free(times);
  tci_arena_deinit(&arena);
}

static void run_policy(const tci_policy *policy, const char *name, size_t calls) {
  static const size_t sizes[] = {10, 100, 1000};
  for (size_t i = 0; i < 3; i++) run_row(policy, name, TCI_HOOK_SELECT, sizes[i], calls / (i == 2 ? 10 : 1));
  for (int hook = TCI_HOOK_RETRY; hook < TCI_HOOKS; hook++) run_row(policy, name, (tci_hook)hook, 10, calls);
}

static int run_file(const char *path, size_t calls) {
  char message[600];
  tci_script *script;
  tci_script_options options = {.limits = world.limits, .fuse = true};
  tci_status status = tci_script_open(&options, path, &script, message, sizeof message);
  if (status.code != TCI_OK) {
    fprintf(stderr, "bench_policy: %s\n", status.message);
    return 1;
  }
  run_policy(tci_script_policy(script), tci_script_policy(script)->name.ptr, calls);
  tci_script_close(script);
  return 0;
}

int main(int argc, char **argv) {
  long calls = argc > 1 ? atol(argv[1]) : 0;
  if (calls < 100) calls = 50000;
  const char *folder = argc > 2 ? argv[2] : "policies";
  make_world();
  char temporary[] = "/tmp/tci-bench-XXXXXX", path[512];
  if (!mkdtemp(temporary)) return 1;
  snprintf(path, sizeof path, "%s/loop.lua", temporary);
  FILE *file = fopen(path, "w");
  if (!file) return 1;
  fputs(loop_source, file);
  fclose(file);
  printf("%-16s %-9s %10s %10s %10s %8s %7s\n", "policy", "hook", "candidates", "p50 us", "p99 us", "cost", "faults");
  run_policy(&tci_policy_builtin, "(built-in)", (size_t)calls);
  int failed = run_file(path, (size_t)calls);
  unlink(path);
  rmdir(temporary);
  static const char *const shipped[] = {"least_loaded", "default", "power_of_two", "fair_share"};
  for (size_t i = 0; i < sizeof shipped / sizeof *shipped; i++) {
    snprintf(path, sizeof path, "%s/%s.lua", folder, shipped[i]);
    if (access(path, R_OK) == 0) failed |= run_file(path, (size_t)calls);
  }
  return failed;
}
