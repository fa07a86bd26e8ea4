/* policy: who runs it, whether again, how long. The interface behind which the built-in defaults (policy.c) and
 * Lua scripts stand alike. A policy decides and never acts: it gets read-only views and returns data. */
#ifndef TCI_CORE_POLICY_H
#define TCI_CORE_POLICY_H

#include "base/rng.h"
#include "base/time.h"
#include "core/limits.h"
#include "core/model.h"

typedef struct {
  const tci_limits *limits;
  tci_time now;
  tci_rng *rng; /* seeded by the event */
} tci_policy_context;

typedef struct {
  bool again;
  int64_t after_us;
} tci_retry_answer;

typedef struct {
  int64_t execution_ms, stale_ms;
} tci_timeout_answer;

typedef struct {
  void *self;
  /* One of the candidates (type, mode, room, expiry already checked; never empty), or NULL: wait. */
  tci_runner *(*select)(void *self, tci_policy_context *context, const tci_attempt *attempt, tci_runner **candidates,
                        size_t candidates_len);
  /* The stage's last attempt has just failed: again, or give up? */
  tci_retry_answer (*retry)(void *self, tci_policy_context *context, const tci_stage *stage);
  /* Asked when an attempt is dispatched. */
  tci_timeout_answer (*timeout)(void *self, tci_policy_context *context, const tci_stage *stage);
  /* Asked once, when an execution is queued; higher goes first. */
  int64_t (*priority)(void *self, tci_policy_context *context, const tci_stage *stage);
} tci_policy;

/* Least loaded (of equals the least recently used, and not the one that failed this stage last if there is
 * another); the stage's own retry and timeouts, else the budgets of the limits; the stage's own priority. */
extern const tci_policy tci_policy_builtin;

#endif
