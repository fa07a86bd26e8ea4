/* policy: the built-in defaults. What a Lua policy overrides, and what decides when one fails. */
#include "core/policy.h"

const char *tci_hook_name(tci_hook hook) {
  static const char *const names[] = {"select", "retry", "timeout", "priority", "admit"};
  return (unsigned)hook < TCI_HOOKS ? names[hook] : "?";
}

const tci_policy *tci_policy_find(const tci_policy_set *set, tci_str name) {
  for (size_t low = 0, high = set ? set->len : 0; low < high;) {
    size_t middle = low + (high - low) / 2;
    int order = tci_str_cmp(name, set->policies[middle]->name);
    if (order == 0) return set->policies[middle];
    if (order < 0)
      high = middle;
    else
      low = middle + 1;
  }
  return NULL;
}

static tci_runner *builtin_select(const tci_question *q) {
  const tci_stage *stage = q->stage;
  const tci_attempt *failed = q->attempt->index > 1 ? stage->attempts.items[q->attempt->index - 2] : NULL;
  tci_runner *best = NULL;
  bool best_failed = false;
  for (size_t i = 0; i < q->candidates_len; i++) {
    tci_runner *r = q->candidates[i];
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
static int64_t backoff_us(const tci_question *q, int64_t first_ms, int64_t max_ms, size_t failures) {
  int64_t ms = first_ms;
  for (size_t i = 1; i < failures && ms < max_ms; i++) ms = ms > max_ms / 2 ? max_ms : ms * 2;
  if (ms > max_ms) ms = max_ms;
  int64_t us = ms * 1000;
  return us / 2 + (int64_t)tci_rng_below(q->rng, (uint64_t)(us / 2 + 1));
}

static void builtin_retry(const tci_question *q, tci_decision *out) {
  const tci_limits *limits = q->limits;
  const tci_stage *stage = q->stage;
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
  if (own)
    out->again = stage->attempts.len < own_max; /* covers every kind */
  else if (is_delivery(last))
    out->again = delivery < (size_t)limits->delivery_attempts_max;
  else
    out->again = last->failure.kind != TCI_FAILURE_REPORTED && other < (size_t)limits->attempts_max;
  if (!out->again) return;
  size_t failures = own ? stage->attempts.len : is_delivery(last) ? delivery : other;
  out->after_us = backoff_us(q, first_ms, max_ms, failures);
}

static void builtin_timeout(const tci_question *q, tci_decision *out) {
  const tci_timeouts *own = &q->stage->timeouts;
  out->execution_ms = own->execution_ms ? own->execution_ms : q->limits->execution_timeout_ms;
  out->stale_ms = own->stale_ms ? own->stale_ms : q->limits->stale_timeout_ms;
}

static void builtin_ask(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  switch (hook) {
    case TCI_HOOK_SELECT: out->runner = builtin_select(q); break;
    case TCI_HOOK_RETRY: builtin_retry(q, out); break;
    case TCI_HOOK_TIMEOUT: builtin_timeout(q, out); break;
    case TCI_HOOK_PRIORITY:
      out->says = true;
      out->priority = q->stage->priority;
      break;
    case TCI_HOOK_ADMIT: break;
    case TCI_HOOKS: break;
  }
}

const tci_policy tci_policy_builtin = {.hooks = (1u << TCI_HOOKS) - 1, .ask = builtin_ask};
