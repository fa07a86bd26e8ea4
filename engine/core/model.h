/* model: plans, nodes, attempts and runners in memory. Changed by core/change.c (evolve) alone; read by all.
 *
 * Owned bytes are heap strings freed on replacement; the rest of a plan lives in its arena.
 * Invariants that hold between steps are numbered and checked in core/invariant.c.
 */
#ifndef TCI_CORE_MODEL_H
#define TCI_CORE_MODEL_H

#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "base/vec.h"
#include "core/types.h"

typedef struct tci_plan tci_plan;
typedef struct tci_node tci_node;
typedef struct tci_check tci_check;
typedef struct tci_stage tci_stage;
typedef struct tci_attempt tci_attempt;
typedef struct tci_runner tci_runner;
typedef struct tci_watcher tci_watcher;
struct tci_key_queue;

/* Which policy decides; looked up again when policies change. */
typedef struct {
  uint64_t generation;
  tci_str name;                    /* empty: the built-in */
  const struct tci_policy *policy; /* NULL: the built-in, or there is none of that name */
  struct tci_policy_entry *entry;
} tci_attachment;

typedef enum { TCI_GROUP_OPEN, TCI_GROUP_SATISFIED, TCI_GROUP_UNSATISFIED } tci_group_state;

/* One dependency: `owner` waits for `target`. Linked from both ends. */
typedef struct {
  tci_node *owner, *target;
  tci_condition condition;
  size_t position; /* in target->dependents */
  bool counted;    /* its target is FINAL and the group knows it */
} tci_edge;

/* Counters make finishing a node cost its out-degree. */
typedef struct {
  tci_predicate predicate; /* UNKNOWN: no group was written */
  tci_edge *edges;         /* heap array; its address changes only when the group is replaced */
  size_t len;
  size_t satisfied, unsatisfied;
  tci_group_state state; /* resolved exactly once */
} tci_group;

struct tci_node {
  tci_node_kind kind;
  uint32_t index; /* order of creation in the plan, from 0 */
  tci_plan *plan;
  tci_str id;
  int64_t created_us, updated_us; /* wall */
  int64_t version;
  uint64_t created_sequence; /* rebuilt: of the change that made it */
  uint64_t touched_step;     /* the step that last raised the version */
  tci_outcome outcome;
  tci_reason reason;
  tci_group group;
  TCI_VEC(tci_edge *) dependents; /* edges whose target is this node */
  uint8_t listed; /* rebuilt: the work lists it is in, a bit each: what follows from it is still to come */
  uint64_t mark;  /* scratch of searches through the plan */
};

typedef struct {
  int64_t id;                   /* 1.. within the check */
  tci_str owner;                /* heap: type, a zero byte, id: its key in by_owner; the two below are parts of it */
  tci_str owner_type, owner_id; /* a stage's result: "stage", the stage's id */
  tci_str data;
  int64_t created_us, finalized_us; /* wall; 0: not finalised */
  tci_failure failure;
} tci_result;

typedef struct {
  tci_check *check;
  tci_stage *stage;
  tci_check_state goal;
  size_t result;   /* rebuilt: 1-based place in check->results of what it said since it was assigned; 0: nothing */
  size_t position; /* rebuilt: in check->assigned, when the goal counts */
  bool done;       /* rebuilt: the stage is FINAL or has finalised its result */
} tci_assignment;

struct tci_check {
  tci_node node; /* first */
  tci_check_state state;
  tci_str kind, options;
  TCI_VEC(tci_result) results;
  tci_map by_owner; /* rebuilt: owner key -> place of the last in results, from 1; kept when there are many */
  TCI_VEC(tci_assignment *) assigned; /* rebuilt: of stages, with a goal that counts */
  size_t pending;                     /* rebuilt: of those, not done */
};

typedef struct {
  tci_str message, details;
  int64_t at_us; /* wall */
} tci_progress;

/* Why a queued execution is not with a runner. */
typedef enum {
  TCI_HOLD_NONE,      /* nobody was asked, or there was no candidate */
  TCI_HOLD_POLICY,    /* select said wait */
  TCI_HOLD_ADMISSION, /* admit said wait */
  TCI_HOLD_KEY,       /* an admission key is held by others */
} tci_hold;

struct tci_attempt {
  tci_stage *stage;
  uint32_t index; /* from 1 */
  tci_attempt_state state;
  tci_str process_uid, details;
  int64_t created_us, updated_us; /* wall */
  tci_failure failure;
  TCI_VEC(tci_progress) progress; /* the last ones, oldest first */
  size_t progress_bytes;
  uint64_t progress_dropped;
  /* rebuilt: of progress, the last ones that were told but are not on record yet (attempt.c); bytes that may go on record at
   * once, and when that was counted; when these go */
  size_t progress_pending;
  int64_t progress_credit, progress_credit_us, progress_flush_us; /* monotonic */
  /* the execution, 1:1 */
  tci_execution_state execution;
  tci_str execution_id;
  tci_mode mode;
  bool accepted; /* async: the runner said yes, or called back */
  tci_str runner_id, registration_id, runner_execution_id;
  int64_t dispatched_us, started_us, finished_us; /* wall; 0: not yet */
  int64_t not_before_us;                          /* wall; end of the backoff */
  int64_t deadline_us, execution_ms, stale_ms;    /* wall; lengths */
  uint64_t digest[2];                             /* of the completion that ended it */
  bool has_digest;
  tci_str exclude;            /* encoded ids (tci_ids_encode): runners that do not get it */
  tci_str keys;               /* encoded ids: admission keys it holds while it is live */
  TCI_VEC(tci_str) decisions; /* encoded (tci_decision_encode), in order */
  /* rebuilt, never stored */
  tci_runner *runner; /* NULL: none, or gone */
  tci_link live;      /* in runner->live */
  tci_link queued;    /* in a bucket of its queue */
  tci_timer timer;    /* backoff, accept, stale or deadline, whichever is next */
  int64_t deadline_mono_us, accept_mono_us, heard_mono_us, ready_mono_us;
  bool calling;                         /* its Run or RunAsync is not answered: counted in core->calls_open */
  tci_hold hold;                        /* while it waits: what for, when it was looked at last */
  tci_str hold_text;                    /* heap: in the policy's words, or the key */
  int64_t hold_until_us, queue_mono_us; /* monotonic; end of the policy's wait, of its time in the queue; 0: none */
  int64_t priority, queue_ms, asked_execution_ms,
      asked_stale_ms;           /* what priority and timeout said when it was queued */
  uint64_t order;               /* of its arrival in the queues */
  TCI_VEC(tci_str) undecided;   /* heap, encoded: what scripts said when it was queued, on record when it leaves */
  struct tci_key_queue *parked; /* `queued` is in this one's list */
  int64_t key_limit;            /* parked: as admit said */
  struct tci_key *chance;       /* it was parked for this key, there is room, and it has not been asked since */
  bool counts_keys;
};

struct tci_stage {
  tci_node node; /* first */
  tci_stage_state state;
  tci_str args;
  tci_assignment *assignments; /* heap array */
  size_t assignments_len;
  size_t request_bytes;   /* rebuilt: an upper bound of what its RunRequest takes, see tci_request_bytes_of */
  int64_t request_growth; /* scratch of a write; 0 in between */
  tci_mode mode;          /* SYNC or ASYNC */
  tci_str runner_type;    /* empty: pulled */
  int64_t priority;
  tci_retry retry;
  tci_timeouts timeouts;
  TCI_VEC(tci_attempt *) attempts; /* attempts.items[i]->index == i + 1 */
};

struct tci_plan {
  uint64_t key; /* 1..; the journal's name for it */
  tci_str id;
  tci_arena arena;
  int64_t created_us, updated_us; /* wall */
  int64_t version;
  uint64_t touched_step;
  uint64_t sequence;         /* of the last change */
  uint64_t settled_sequence; /* rebuilt: of the change that settled it last */
  tci_plan_state state;
  tci_outcome outcome;       /* when settled */
  tci_pairs metadata;        /* in the arena */
  tci_str policy;            /* in the arena; empty: none of its own */
  tci_attachment attached;   /* rebuilt */
  TCI_VEC(tci_node *) nodes; /* in order of creation */
  tci_map checks, stages;    /* id -> node */
  size_t open_nodes;         /* not FINAL */
  size_t live_attempts;      /* executions not terminal */
  size_t listed;             /* rebuilt: places in work lists that its nodes have */
  bool whole;                /* false: it is being loaded, and nobody but the loader looks at it or moves it */
  size_t checks_final, stages_final, nodes_failed, nodes_cancelled;
  tci_link watchers; /* list of tci_watcher */
  tci_link idle;     /* in core->idle while it may be evicted */
  size_t record;     /* of this step in the core's list, when touched */
  size_t bytes;      /* rebuilt: what it takes in memory, about */
  size_t idle_bytes; /* of them, counted in core->idle_bytes while it is in core->idle */
};

struct tci_runner {
  tci_str runner_id, registration_id, runner_type, address;
  bool modes[TCI_MODES];
  int64_t max_concurrent;
  int64_t ttl_ms;
  tci_pairs metadata;                              /* one heap block behind items */
  int64_t registered_us, heartbeat_us, expires_us; /* wall */
  /* rebuilt */
  struct tci_pool *pool; /* of its type */
  tci_link live;         /* list of tci_attempt: its length is the load */
  int64_t load;
  int64_t expires_mono_us, passed_over_until_us; /* monotonic; 0: not passed over */
  uint64_t last_used;                            /* order of its last dispatch in this model; 0: none */
  int64_t last_used_us;                          /* wall; 0: never */
  uint64_t serial;     /* of its registration in this core: a slot that is used again shows it */
  uint32_t slot;       /* small, reused when it is gone: for arrays by runner */
  uint64_t revision;   /* rises whenever anything a policy can see of it changes */
  uint32_t recent;     /* its last executions that ended in this model, newest in bit 0; 1: failed */
  uint32_t recent_len; /* of them, at most 32 */
  tci_timer timer;
};

static inline tci_check *tci_node_check(tci_node *node) { return (tci_check *)node; }
static inline tci_stage *tci_node_stage(tci_node *node) { return (tci_stage *)node; }
static inline bool tci_node_is_final(const tci_node *node) {
  return node->kind == TCI_NODE_CHECK ? ((const tci_check *)node)->state == TCI_CHECK_FINAL
                                      : ((const tci_stage *)node)->state == TCI_STAGE_FINAL;
}
static inline bool tci_execution_is_live(const tci_attempt *a) {
  return a->execution == TCI_EXECUTION_DISPATCHED || a->execution == TCI_EXECUTION_RUNNING;
}
static inline bool tci_attempt_is_open(const tci_attempt *a) {
  return a->state != TCI_ATTEMPT_COMPLETE && a->state != TCI_ATTEMPT_INCOMPLETE;
}
static inline tci_attempt *tci_stage_attempt(const tci_stage *stage) { /* the latest, or NULL */
  return stage->attempts.len ? stage->attempts.items[stage->attempts.len - 1] : NULL;
}
/* Its place in the list of all executions of its plan; see tci_page. */
static inline uint64_t tci_execution_position(const tci_attempt *a) {
  return (uint64_t)a->stage->node.index << 32 | (a->index - 1);
}
static inline bool tci_goal_counts(tci_check_state goal) {
  return goal == TCI_CHECK_UNKNOWN || goal == TCI_CHECK_FINAL;
}

#endif
