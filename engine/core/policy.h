/* policy: who runs it, whether again, how long, before whom, and whether now. The interface behind which the built-in
 * defaults (policy.c) and Lua scripts (engine/script) stand alike.
 *
 * 1. A policy decides and never acts: it is shown the model read-only and returns data.
 * 2. A policy that cannot answer says so (`fault`); then the built-in default decides, and the fault is counted. After
 *    policy_faults_max faults in a row its circuit opens for policy_circuit_ms: it is not asked, the built-in decides.
 * 3. Which policy: the plan's own, else that of the runner type, else the server's, else the built-in. A name that is not
 *    loaded (any more) means the built-in. A hook that the policy does not have is the built-in's.
 * 4. The same question in the same state of the model, with the same random bytes, gets the same answer.
 */
#ifndef TCI_CORE_POLICY_H
#define TCI_CORE_POLICY_H

#include "base/rng.h"
#include "base/time.h"
#include "core/event.h"
#include "core/limits.h"
#include "core/model.h"

typedef enum { /* asked: */
               TCI_HOOK_SELECT =
                   0, /* when an execution is at the head of its queue and somebody has room: who runs it? */
               TCI_HOOK_RETRY = 1,    /* when an attempt has failed: again? */
               TCI_HOOK_TIMEOUT = 2,  /* once, when an execution is queued: how long may it take? */
               TCI_HOOK_PRIORITY = 3, /* once, when an execution is queued; higher goes first */
               TCI_HOOK_ADMIT = 4,    /* before each select: may it run now? */
               TCI_HOOKS = 5,
} tci_hook;
/* "select"; static. */
const char *tci_hook_name(tci_hook hook);

typedef struct {
  const tci_limits *limits;
  tci_time now;
  tci_rng *rng;     /* seeded by the event */
  tci_arena *arena; /* what an answer points to lives here, until the next step */
  const tci_stage *stage;
  const tci_attempt *attempt; /* the stage's last one: it waits; RETRY: it has just failed */
  /* SELECT: never empty; type, mode, room, expiry and exclusions are checked already. In order of registration. */
  tci_runner *const *candidates;
  size_t candidates_len;
  /* RETRY and TIMEOUT: somebody is registered, busy or not, who does its type and mode and has not failed the stage. */
  bool elsewhere;
} tci_question;

/* "At most `limit` executions that hold `key` are live at once", over all plans. */
typedef struct {
  tci_str key;
  int64_t limit; /* from 1 */
} tci_admission;

/* What a policy answers; only the fields of the hook that was asked count. Zeroed to start with. */
typedef struct {
  const char *fault; /* not NULL: it could not answer, and why ("least_loaded.lua:12: ..."), in the question's arena */
  tci_str reason;    /* what the policy says of it; may be empty */
  int64_t cost;      /* instructions it took, about */
  int64_t cpu_us;    /* CPU time it took, about; 0 where answers must not depend on the machine */
  /* SELECT and ADMIT: not now. wait_us > 0: and do not ask again before that. 0: ask when something changes. */
  bool wait;
  int64_t wait_us;
  /* SELECT */
  tci_runner *runner; /* one of the candidates, when it does not wait */
  /* RETRY */
  bool again;
  int64_t after_us;
  tci_ids exclude; /* ids of runners that do not get the next attempt */
  /* TIMEOUT; 0: not said, the built-in's */
  int64_t execution_ms, stale_ms;
  int64_t queue_ms; /* how long it may wait for a runner before the attempt fails; 0: for ever */
  /* PRIORITY; !says: not said, the built-in's */
  bool says;
  int64_t priority;
  /* ADMIT: every key must have room */
  tci_admission *keys;
  size_t keys_len;
} tci_decision;

typedef struct tci_policy {
  tci_str name;    /* "least_loaded" */
  tci_str version; /* the start of the SHA-256 of what it is made of, 16 hex digits; empty: built-in */
  unsigned hooks;  /* 1u << tci_hook: those it has */
  void *self;
  /* Fills *out, which comes zeroed. */
  void (*ask)(void *self, tci_hook hook, const tci_question *question, tci_decision *out);
} tci_policy;

/* Least loaded (of equals the least recently used, and not the one that failed this stage last if there is
 * another); the stage's own retry and timeouts, else the budgets of the limits; the stage's own priority; no admission.
 * Never faults. */
extern const tci_policy tci_policy_builtin;

/* Which policies there are and where they are attached. */
typedef struct tci_policy_set {
  const tci_policy *const *policies; /* sorted by name */
  size_t len;
  tci_str server;           /* the server's default; empty: built-in */
  tci_pairs types;          /* runner type -> name */
  const tci_policy *shadow; /* asked too, its answers are noted, not used; NULL: none */
} tci_policy_set;

/* NULL: there is none of that name. */
const tci_policy *tci_policy_find(const tci_policy_set *set, tci_str name);

/* ---- the record of a decision, kept with the attempt ---- */

typedef struct {
  tci_str runner_id;
  int64_t load; /* when it was asked, the new execution not counted */
} tci_candidate;

typedef struct {
  tci_hook hook;
  tci_str policy, version; /* who was asked, whoever decided in the end; both empty: the built-in default */
  tci_str reason;
  tci_str fault; /* not empty: the policy could not answer, the built-in default decided */
  int64_t at_us; /* wall */
  /* SELECT */
  tci_str runner_id;
  tci_candidate *candidates; /* the first decision_candidates_max of them */
  size_t candidates_len;
  int64_t candidates_total;
  /* RETRY */
  bool again;
  int64_t after_us;
  tci_ids exclude;
  /* TIMEOUT; queue_ms 0: for ever */
  int64_t execution_ms, stale_ms, queue_ms;
  /* PRIORITY */
  int64_t priority;
  /* ADMIT */
  tci_admission *keys;
  size_t keys_len;
} tci_decision_record;

void tci_decision_encode(const tci_decision_record *record, tci_buf *out);
/* False when malformed. Strings point into `bytes`, lists live in `arena`. */
bool tci_decision_decode(tci_str bytes, tci_arena *arena, tci_decision_record *out);

#endif
