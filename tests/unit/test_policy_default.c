/* policies/default.lua is the built-in default, decision for decision: both are asked the same random questions, with
 * the same seed, in all hooks. `SEED=n` repeats one run. */
#define _GNU_SOURCE 1
#include "script_test.h"

enum { QUESTIONS = 20000 };

static uint64_t random_state;

static uint64_t random_below(uint64_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  uint64_t x = random_state;
  x ^= x >> 33, x *= 0xff51afd7ed558ccdu, x ^= x >> 29;
  return x % n;
}

static bool chance(uint64_t in) { return random_below(in) == 0; }

/* 0 (not said), small, ordinary, or as long as it gets. */
static int64_t random_ms(const tci_limits *limits) {
  switch (random_below(5)) {
    case 0: return 0;
    case 1: return 1 + (int64_t)random_below(4);
    case 2: return 1 + (int64_t)random_below((uint64_t)limits->duration_ms_max);
    case 3: return limits->duration_ms_max;
    default: return 1 + (int64_t)random_below(100000);
  }
}

static void random_limits(tci_limits *limits) {
  *limits = tci_limits_default();
  int64_t *const durations[] = {&limits->backoff_ms, &limits->backoff_ms_max, &limits->execution_timeout_ms,
                                &limits->stale_timeout_ms};
  for (size_t i = 0; i < 4; i++) {
    int64_t ms = random_ms(limits);
    if (ms) *durations[i] = ms;
  }
  if (chance(2)) limits->attempts_max = 1 + (int64_t)random_below(10);
  if (chance(2)) limits->delivery_attempts_max = 1 + (int64_t)random_below(10);
}

static void random_stage(sx *x, bool waits) {
  size_t n = 1 + (size_t)random_below(chance(4) ? SX_ATTEMPTS : 6);
  sx_attempts(x, n, waits);
  for (size_t i = 0; i < n; i++) {
    tci_attempt *a = &x->attempts[i];
    a->failure.kind = (tci_failure_kind)(1 + random_below(TCI_FAILURE_POLICY));
    if (chance(3)) a->failure.kind = chance(2) ? TCI_FAILURE_REJECTED : TCI_FAILURE_UNREACHABLE;
    a->runner_id = chance(4) ? TCI_STR("") : x->runners[random_below(12)].runner_id;
  }
  x->stage.priority = (int64_t)random_below(201) - 100;
  x->stage.mode = chance(2) ? TCI_MODE_SYNC : TCI_MODE_ASYNC;
  x->stage.retry = (tci_retry){0};
  x->stage.timeouts = (tci_timeouts){0};
  if (chance(2))
    x->stage.retry =
        (tci_retry){chance(3) ? 0 : 1 + (int64_t)random_below(8), random_ms(&x->limits), random_ms(&x->limits)};
  if (chance(2)) x->stage.timeouts = (tci_timeouts){random_ms(&x->limits), random_ms(&x->limits)};
}

static void random_candidates(sx *x, tci_runner **chosen) {
  size_t n = 0, most = 1 + (size_t)random_below(12);
  for (size_t i = 0; i < 12; i++) {
    tci_runner *r = &x->runners[i];
    if (chance(3)) {
      r->load = (int64_t)random_below(4);
      r->last_used = random_below(5);
      r->last_used_us = (int64_t)r->last_used;
      r->revision++;
    }
    if (n < most && (chance(2) || (n == 0 && i == 11))) chosen[n++] = r;
  }
  x->question.candidates = chosen;
  x->question.candidates_len = n;
}

static tci_decision asked(sx *x, const tci_policy *policy, tci_hook hook, const uint8_t seed[32]) {
  tci_decision d = {0};
  tci_rng_init(&x->rng, seed);
  policy->ask(policy->self, hook, &x->question, &d);
  if (d.fault) fail_msg("%s", d.fault);
  return d;
}

static void is_the_built_in(void **state) {
  sx *x = *state;
  const char *source = getenv("TURBOCI_SOURCE"), *seed_text = getenv("SEED");
  char path[300];
  snprintf(path, sizeof path, "%s/policies/default.lua", source ? source : ".");
  uint64_t seed = seed_text ? strtoull(seed_text, NULL, 10) : (uint64_t)getpid();
  random_state = seed;
  sx_candidates(x, 12);
  if (sx_try_open(x, path) != TCI_OK) fail_msg("%s", x->message);
  const tci_policy *lua = tci_script_policy(x->script);
  assert_true(lua->hooks >= 15); /* all but admit; who has none is the built-in anyway */
  size_t waits = 0, gives_up = 0, goes_on = 0;
  for (int i = 0; i < QUESTIONS; i++) {
    tci_hook hook = (tci_hook)random_below(TCI_HOOKS);
    tci_runner *chosen[12];
    uint8_t bytes[32];
    for (size_t j = 0; j < sizeof bytes; j++) bytes[j] = (uint8_t)random_below(256);
    random_limits(&x->limits);
    random_stage(x, hook != TCI_HOOK_RETRY);
    random_candidates(x, chosen);
    tci_decision a = asked(x, &tci_policy_builtin, hook, bytes), b = asked(x, lua, hook, bytes);
    bool same = a.wait == b.wait && a.wait_us == b.wait_us && a.runner == b.runner && a.again == b.again &&
                a.after_us == b.after_us && a.exclude.len == b.exclude.len && a.execution_ms == b.execution_ms &&
                a.stale_ms == b.stale_ms && a.queue_ms == b.queue_ms && a.says == b.says && a.priority == b.priority &&
                a.keys_len == b.keys_len;
    if (!same) {
      tci_str none = TCI_STR("none"), a_id = a.runner ? a.runner->runner_id : none,
              b_id = b.runner ? b.runner->runner_id : none;
      fail_msg("SEED=%llu: question %d, %s: built-in %.*s, again %d after %lld; default.lua %.*s, again %d after %lld",
               (unsigned long long)seed, i, tci_hook_name(hook), TCI_STR_ARG(a_id), a.again, (long long)a.after_us,
               TCI_STR_ARG(b_id), b.again, (long long)b.after_us);
    }
    waits += a.wait;
    gives_up += hook == TCI_HOOK_RETRY && !a.again;
    goes_on += hook == TCI_HOOK_RETRY && a.again;
    tci_arena_reset(&x->arena);
  }
  assert_int_equal(waits, 0);
  assert_true(gives_up > 100 && goes_on > 100); /* the questions are of all kinds */
}

int main(void) {
  const struct CMUnitTest tests[] = {SX_CLAIM(is_the_built_in)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
