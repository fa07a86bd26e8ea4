/* policies: made-up policies for the simulator. Their answers look random and are pure functions of the policy's seed and the
 * question, so that the oracle can put a question again and know what must come of it.
 *
 * What an answer depends on changes only with events after which the core asks again: a candidate that is added can turn a wait
 * into a choice, one that is taken away cannot, and nothing that is said for "until something changes" depends on the time.
 */
#ifndef TCI_SIM_POLICIES_H
#define TCI_SIM_POLICIES_H

#include <stdio.h>
#include <string.h>

#include "core/policy.h"

enum { POLICIES = 3, SHADOW = POLICIES, KEYS = 3, KEYS_HELD = 3, EXCLUDABLE = 5 };

static const tci_str policy_names[] = {{"p0", 2}, {"p1", 2}, {"p2", 2}, {"shadow", 6}};
static const tci_str key_names[KEYS] = {{"k0", 2}, {"k1", 2}, {"k2", 2}};
static const tci_str runner_names[EXCLUDABLE] = {{"r0", 2}, {"r1", 2}, {"r2", 2}, {"r3", 2}, {"r4", 2}};

typedef struct sim_policy {
  tci_policy policy; /* its self is this */
  int number;
  uint64_t seed;                           /* another version, another seed */
  bool good;                               /* no faults, and no wait that has no end */
  unsigned accepts, faults, keyed, closes; /* percent: of runners, questions, executions, times */
  bool bursts;                             /* nothing but faults, in some of the quarters of a minute */
  bool own_limits;                         /* an execution has its own limit for a key */
  int64_t cost_max;
  void (*heard)(const struct sim_policy *p, tci_hook hook, const tci_question *q, const tci_decision *d);
  char version[17];
} sim_policy;

static inline uint64_t chaos(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
  uint64_t z = seed;
  const uint64_t words[3] = {a, b, c};
  for (int i = 0; i < 3; i++) {
    z = (z ^ words[i]) + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
  }
  return z;
}

static inline uint64_t of_attempt(const sim_policy *p, const tci_question *q, uint64_t salt) {
  return chaos(p->seed, salt, q->stage->node.plan->key << 32 | q->stage->node.index, q->attempt->index);
}

static inline bool percent(uint64_t number, unsigned limit) { return number % 100 < limit; }

static inline void answer_select(const sim_policy *p, const tci_question *q, tci_decision *out) {
  uint64_t best = 0;
  for (size_t i = 0; i < q->candidates_len; i++) {
    tci_runner *r = q->candidates[i];
    uint64_t liking = of_attempt(p, q, 1000 + (uint64_t)r->runner_id.ptr[1]) | 1;
    if ((!p->good && !percent(liking >> 32, p->accepts)) || liking < best) continue;
    best = liking;
    out->runner = r;
  }
  out->wait = !out->runner;
  if (out->wait && of_attempt(p, q, 1) % 2) out->wait_us = 1000 * (1 + (int64_t)(of_attempt(p, q, 2) % 8000));
}

static inline void answer_retry(const sim_policy *p, const tci_question *q, tci_decision *out) {
  out->again = q->attempt->index < 1 + of_attempt(p, q, 3) % 5;
  if (!out->again) return;
  if (of_attempt(p, q, 4) % 3) out->after_us = (int64_t)(of_attempt(p, q, 5) % 5000000);
  if (of_attempt(p, q, 6) % 2) return;
  out->exclude.items = tci_arena_array(q->arena, tci_str, EXCLUDABLE);
  for (int i = 0; i < EXCLUDABLE; i++)
    if (of_attempt(p, q, 7) >> i & 1) out->exclude.items[out->exclude.len++] = runner_names[i];
}

static inline void answer_timeout(const sim_policy *p, const tci_question *q, tci_decision *out) {
  if (of_attempt(p, q, 8) % 2) out->execution_ms = 1 + (int64_t)(of_attempt(p, q, 9) % 60000);
  if (of_attempt(p, q, 10) % 3 == 0) out->stale_ms = 1 + (int64_t)(of_attempt(p, q, 11) % 20000);
  if (of_attempt(p, q, 12) % 3 == 0) out->queue_ms = 1 + (int64_t)(of_attempt(p, q, 13) % 30000);
}

static inline void answer_admit(const sim_policy *p, const tci_question *q, tci_decision *out) {
  int64_t window_us = 10000000, window = q->now.mono_us / window_us;
  if (!p->good && percent(of_attempt(p, q, 14), p->closes) && chaos(p->seed, (uint64_t)window, 0, 0) % 3 == 0) {
    out->wait = true; /* closed: until the window is over */
    out->wait_us = window_us - q->now.mono_us % window_us;
    return;
  }
  if (!p->good && percent(of_attempt(p, q, 15), 3)) {
    out->wait = true;
    return;
  }
  if (!percent(of_attempt(p, q, 16), p->keyed)) return;
  size_t len = of_attempt(p, q, 17) % 3 ? 1 : 2 + of_attempt(p, q, 18) % (KEYS_HELD - 1);
  uint64_t first = of_attempt(p, q, 19) + (of_attempt(p, q, 20) % 4 ? 0 : (uint64_t)window);
  out->keys = tci_arena_array(q->arena, tci_admission, len);
  size_t step = of_attempt(p, q, 23) % 5 != 0; /* 0: the same key, several times */
  for (; out->keys_len < len; out->keys_len++) {
    size_t key = (first + out->keys_len * step) % KEYS;
    uint64_t limit = p->own_limits ? of_attempt(p, q, 30 + out->keys_len) : chaos(p->seed, 30, key, 0);
    out->keys[out->keys_len] = (tci_admission){key_names[key], 1 + (int64_t)(limit % 3)};
  }
}

/* The pure function. */
static inline void sim_answer(const sim_policy *p, tci_hook hook, const tci_question *q, tci_decision *out) {
  *out = (tci_decision){0};
  bool burst = p->bursts && chaos(p->seed, 40, (uint64_t)(q->now.mono_us / 15000000), 0) % 3 == 0;
  out->cost = (int64_t)(of_attempt(p, q, 50 + (uint64_t)hook) % (uint64_t)p->cost_max);
  if (!p->good && (burst || percent(of_attempt(p, q, 60 + (uint64_t)hook), p->faults))) {
    out->fault = "no idea";
    return;
  }
  if (of_attempt(p, q, 70 + (uint64_t)hook) % 2) out->reason = TCI_STR("I say so");
  switch (hook) {
    case TCI_HOOK_SELECT: answer_select(p, q, out); break;
    case TCI_HOOK_RETRY: answer_retry(p, q, out); break;
    case TCI_HOOK_TIMEOUT: answer_timeout(p, q, out); break;
    case TCI_HOOK_PRIORITY:
      out->says = of_attempt(p, q, 21) % 3 != 0;
      out->priority = (int64_t)(of_attempt(p, q, 22) % 401) - 200;
      break;
    case TCI_HOOK_ADMIT: answer_admit(p, q, out); break;
    case TCI_HOOKS: break;
  }
}

static inline void sim_ask(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  const sim_policy *p = self;
  sim_answer(p, hook, q, out);
  p->heard(p, hook, q, out);
}

/* A version of policy `number`; its nature follows from the seed. */
static inline sim_policy *sim_policy_new(tci_arena *arena, int number, uint64_t seed, bool good) {
  sim_policy *p = tci_arena_new(arena, sim_policy);
  *p = (sim_policy){.number = number, .seed = seed, .good = good};
  p->accepts = 30 + (unsigned)(chaos(seed, 1, 0, 0) % 71);
  p->faults = chaos(seed, 2, 0, 0) % 2 ? (unsigned)(chaos(seed, 3, 0, 0) % 30) : 0;
  p->bursts = chaos(seed, 4, 0, 0) % 3 == 0;
  p->keyed = chaos(seed, 5, 0, 0) % 4 ? 50 + (unsigned)(chaos(seed, 6, 0, 0) % 51) : 0;
  p->closes = chaos(seed, 7, 0, 0) % 3 ? 0 : (unsigned)(chaos(seed, 8, 0, 0) % 60);
  p->own_limits = chaos(seed, 9, 0, 0) % 3 == 0;
  p->cost_max = chaos(seed, 10, 0, 0) % 4 ? 100 : 2000;
  snprintf(p->version, sizeof p->version, "%016llx", (unsigned long long)seed);
  p->policy =
      (tci_policy){.name = policy_names[number], .version = tci_str_from(p->version), .self = p, .ask = sim_ask};
  for (int hook = 0; hook < TCI_HOOKS; hook++)
    if (chaos(seed, 11, (uint64_t)hook, 0) % 5) p->policy.hooks |= 1u << hook;
  return p;
}

#endif
