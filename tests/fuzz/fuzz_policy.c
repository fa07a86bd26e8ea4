/* fuzz_policy: any text as a policy, with small limits: it is opened, and when it is one, all its hooks are asked.
 * Whatever it is, it must stay within its bounds: the run time of an input is the fuzzer's to watch, memory is held
 * here. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "script/script.h"

enum { MEMORY_BYTES = 1 << 17, HELD_BYTES_MAX = 16 << 20 };

static char folder[] = "/tmp/tci-fuzz-XXXXXX", path[64];

static void remove_folder(void) {
  unlink(path);
  rmdir(folder);
}

static void write_file(const uint8_t *bytes, size_t len) {
  if (!path[0]) {
    tci_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/fuzz.lua", folder);
    atexit(remove_folder);
  }
  FILE *file = fopen(path, "wb");
  tci_assert(file && fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

static void ask(tci_script *script, const tci_limits *limits, tci_str args) {
  tci_runner runners[2] = {{.runner_id = TCI_STR("a"), .runner_type = TCI_STR("t"), .serial = 1, .load = 1},
                           {.runner_id = TCI_STR("b"), .runner_type = TCI_STR("t"), .serial = 2, .slot = 1}};
  tci_runner *candidates[] = {&runners[0], &runners[1]};
  tci_plan plan = {.id = TCI_STR("p")};
  tci_attempt attempt = {.index = 1, .state = TCI_ATTEMPT_INCOMPLETE, .runner_id = TCI_STR("a")}, *list[] = {&attempt};
  tci_stage stage = {.node = {.plan = &plan, .id = TCI_STR("s")}, .runner_type = TCI_STR("t")};
  stage.args = args; /* encoded, or not */
  stage.attempts.items = list;
  stage.attempts.len = 1;
  const tci_policy *policy = tci_script_policy(script);
  for (int hook = 0; hook < TCI_HOOKS; hook++) {
    tci_arena arena = {0};
    tci_rng rng;
    tci_rng_init(&rng, (const uint8_t[32]){1});
    tci_question q = {.limits = limits, .rng = &rng, .arena = &arena, .stage = &stage, .attempt = &attempt};
    q.candidates = candidates;
    q.candidates_len = hook == TCI_HOOK_SELECT ? 2 : 0;
    tci_decision d = {0};
    policy->ask(policy->self, (tci_hook)hook, &q, &d);
    tci_assert(!d.fault || tci_str_is_utf8(tci_str_from(d.fault)));
    tci_assert(tci_str_is_utf8(d.reason) && (!d.runner || d.runner == candidates[0] || d.runner == candidates[1]));
    tci_assert(d.fault || hook != TCI_HOOK_SELECT || d.runner || d.wait);
    tci_assert(d.wait_us >= 0 && d.after_us >= 0 && d.execution_ms >= 0 && d.stale_ms >= 0 && d.queue_ms >= 0);
    tci_assert(d.cost >= 0 && d.cost < 1000000);
    tci_arena_deinit(&arena);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
  tci_script_options options = {.limits = tci_limits_default(), .fuse = true};
  options.limits.policy_instructions_max = 1000;
  options.limits.policy_memory_bytes_max = MEMORY_BYTES;
  char message[600];
  tci_script *script;
  write_file(bytes, len);
  tci_status status = tci_script_open(&options, path, &script, message, sizeof message);
  if (status.code != TCI_OK) {
    tci_assert(!script && tci_str_is_utf8(tci_str_from(status.message)));
    return 0;
  }
  ask(script, &options.limits, (tci_str){(const char *)bytes, len});
  tci_assert(tci_script_count(script).memory_bytes < HELD_BYTES_MAX);
  tci_script_close(script);
  return 0;
}
