/* policy: the built-in defaults. What a Lua policy overrides, and what decides when one fails. */
#include "core/policy.h"

static tci_runner *builtin_select(void *self, tci_policy_context *context, const tci_attempt *attempt,
                                  tci_runner **candidates, size_t len) {
  (void)self;
  (void)context;
  const tci_stage *stage = attempt->stage;
  const tci_attempt *failed = attempt->index > 1 ? stage->attempts.items[attempt->index - 2] : NULL;
  tci_runner *best = NULL;
  bool best_failed = false;
  for (size_t i = 0; i < len; i++) {
    tci_runner *r = candidates[i];
    bool r_failed = failed && tci_str_eq(failed->runner_id, r->runner_id);
    bool better = !best || (best_failed && !r_failed);
    if (best && r_failed == best_failed)
      better = r->load < best->load || (r->load == best->load && r->last_used < best->last_used);
    if (!better) continue;
    best = r;
    best_failed = r_failed;
  }
  return best;
}

static bool is_delivery(const tci_attempt *a) {
  return a->failure.kind == TCI_FAILURE_UNREACHABLE || a->failure.kind == TCI_FAILURE_REJECTED;
}

/* first, 2 x first, 4 x first, ... up to max; then jitter: between half of it and the whole. */
static int64_t backoff_us(tci_policy_context *context, int64_t first_ms, int64_t max_ms, size_t failures) {
  int64_t ms = first_ms;
  for (size_t i = 1; i < failures && ms < max_ms; i++) ms = ms > max_ms / 2 ? max_ms : ms * 2;
  if (ms > max_ms) ms = max_ms;
  int64_t us = ms * 1000;
  return us / 2 + (int64_t)tci_rng_below(context->rng, (uint64_t)(us / 2 + 1));
}

static tci_retry_answer builtin_retry(void *self, tci_policy_context *context, const tci_stage *stage) {
  (void)self;
  const tci_limits *limits = context->limits;
  const tci_attempt *last = tci_stage_attempt(stage);
  size_t delivery = 0, other = 0;
  for (size_t i = 0; i < stage->attempts.len; i++) {
    if (is_delivery(stage->attempts.items[i]))
      delivery++;
    else
      other++;
  }
  int64_t first_ms = stage->retry.backoff_ms ? stage->retry.backoff_ms : limits->backoff_ms;
  int64_t max_ms = stage->retry.backoff_ms_max ? stage->retry.backoff_ms_max : limits->backoff_ms_max;
  if (max_ms < first_ms) max_ms = first_ms;
  bool own = stage->retry.max_attempts || stage->retry.backoff_ms || stage->retry.backoff_ms_max;
  size_t own_max = (size_t)(stage->retry.max_attempts ? stage->retry.max_attempts : limits->attempts_max);
  bool again;
  if (own)
    again = stage->attempts.len < own_max; /* covers every kind */
  else if (is_delivery(last))
    again = delivery < (size_t)limits->delivery_attempts_max;
  else
    again = last->failure.kind != TCI_FAILURE_REPORTED && other < (size_t)limits->attempts_max;
  if (!again) return (tci_retry_answer){false, 0};
  size_t failures = own ? stage->attempts.len : is_delivery(last) ? delivery : other;
  return (tci_retry_answer){true, backoff_us(context, first_ms, max_ms, failures)};
}

static tci_timeout_answer builtin_timeout(void *self, tci_policy_context *context, const tci_stage *stage) {
  (void)self;
  const tci_limits *limits = context->limits;
  return (tci_timeout_answer){
      stage->timeouts.execution_ms ? stage->timeouts.execution_ms : limits->execution_timeout_ms,
      stage->timeouts.stale_ms ? stage->timeouts.stale_ms : limits->stale_timeout_ms,
  };
}

static int64_t builtin_priority(void *self, tci_policy_context *context, const tci_stage *stage) {
  (void)self;
  (void)context;
  return stage->priority;
}

const tci_policy tci_policy_builtin = {NULL, builtin_select, builtin_retry, builtin_timeout, builtin_priority};
