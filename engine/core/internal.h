/* internal: the core's own state and what its files offer each other. Included by engine/core only.
 *
 *     core.c      the step, emit, load        evolve.c   changes -> model       deps.c      edges, readiness
 *     write.c     WriteNodes                  attempt.c  one try, to its end    dispatch.c  queues, candidates
 *     complete.c  results and completions     runner.c   registrations          watch.c     streams
 *     query.c     reads                       policy.c   built-in defaults      invariant.c what must hold
 *     ask.c       who decides, and circuits   admission.c keys                  explain.c   why, in words
 *     decision.c  the record of a decision    request.c   sizes of RunRequests  replay.c    a journal read again
 *     cycle.c     the cycle search            write_size.c sizes of replies     quarantine.c plans set aside
 */
#ifndef TCI_CORE_INTERNAL_H
#define TCI_CORE_INTERNAL_H

#include "base/assert.h"
#include "core/change.h"
#include "core/core.h"

/* Executions of one priority, first ready first. */
typedef struct {
  int64_t priority;
  tci_link list;
} tci_bucket;
typedef TCI_VEC(tci_bucket *) tci_buckets; /* highest priority first; kept when empty */

/* The executions of one (runner type, mode) that wait for a runner; see the drawing in dispatch.c. */
typedef struct {
  tci_buckets buckets;
  tci_link arrived; /* not asked for priority and timeouts yet */
  tci_link waiting; /* told not to ask before hold_until_us */
  size_t len;       /* of all lists, those parked for a key included */
  tci_link *cursor; /* the next to be asked in a look that goes on in the next turn; NULL: from the head */
  bool awake;       /* something changed since the last look, or it is not over */
  bool looking;     /* it is being looked at */
  bool again;       /* something changed while it was being looked at */
} tci_ready;

/* An admission key, and those who wait for it in one queue. */
typedef struct tci_key_queue {
  struct tci_key *key;
  struct tci_pool *pool;
  tci_mode mode;
  tci_buckets buckets;
  size_t len;
  size_t position; /* in pool->parked */
} tci_key_queue;

typedef struct tci_key {
  tci_str name; /* heap */
  int64_t live; /* executions that hold it */
  TCI_VEC(tci_key_queue *) queues;
  size_t chances; /* executions whose `chance` it is */
} tci_key;

/* What the journal says of a policy. */
typedef struct tci_policy_entry {
  tci_str name, version; /* heap */
  tci_policy_state state;
  int64_t until_us, open_mono_us; /* OPEN: wall, monotonic */
  int64_t faults_in_row;          /* rebuilt */
} tci_policy_entry;

/* Runners and queues of one runner type. */
typedef struct tci_pool {
  tci_str type;                  /* heap */
  TCI_VEC(tci_runner *) runners; /* in order of registration */
  tci_ready ready[TCI_MODES];
  bool listed; /* in core->awake */
  TCI_VEC(tci_key_queue *) parked;
  tci_attachment attached;
} tci_pool;

/* What a watcher wants to hear. */
typedef struct {
  tci_filter filter;
  bool include_progress;
  bool changes_only; /* of a node only what changed */
} tci_watch_wish;

/* A node that changed without moving while its watcher was behind: shown as it is when there is room. */
typedef struct {
  tci_link link;     /* in watcher->owed, by sequence */
  uint32_t index;    /* of the node */
  uint64_t sequence; /* of the first change that was not told */
} tci_owed;

struct tci_watcher {
  tci_link link; /* in plan->watchers */
  tci_plan *plan;
  uint64_t token;
  tci_arena arena;
  tci_watch_wish wish; /* in the arena */
  bool away;           /* is told nothing: the journal is read for it */
  uint64_t after;      /* away: it was told everything up to here */
  bool current;        /* include_current, under way: */
  size_t cursor;       /* the first node not looked at yet */
  size_t found;        /* index + 1 of one before it that is to be told next; 0: none */
  bool behind;         /* what waits for it is enough: nodes that change without moving are owed */
  tci_link owed;
  tci_map owed_by_node; /* 4 bytes of index -> tci_owed */
};

/* Nodes from which something follows; drained by tci_react, over several steps when it is very much. */
typedef struct {
  TCI_VEC(tci_node *) nodes;
  size_t next; /* those before it are done */
} tci_worklist;

enum { TCI_LISTED_RESOLVED = 1, TCI_LISTED_ENDED = 2, TCI_LISTED_SETTLING = 4 }; /* tci_node.listed */

enum { TCI_TIMER_ATTEMPT = 1, TCI_TIMER_RUNNER = 2 };

/* A plan that an operator has set aside; see quarantine.c. */
typedef struct {
  tci_str id, reason, keys; /* heap; keys: encoded ids */
  uint64_t key;
} tci_set_aside;

struct tci_core {
  tci_limits limits;
  const tci_policy_set *set;    /* NULL: nothing but the built-in */
  uint64_t policies_generation; /* rises when attachments are to be looked up again; from 1 */
  tci_map policies;             /* name -> tci_policy_entry */
  TCI_VEC(tci_policy_entry *) policy_list;
  tci_attachment unattached, loose;
  bool wake_all;
  int64_t asks_left, instructions_left, cpu_left_us, request_bytes_left; /* of the turn */
  size_t look_from;
  tci_map keys;  /* name -> tci_key */
  tci_map aside; /* plan id -> tci_set_aside */
  TCI_VEC(tci_set_aside *) aside_list;
  uint64_t arrivals, revisions, serials;
  TCI_VEC(uint32_t) free_slots;
  uint32_t slots;
  tci_buf decision, keys_held;   /* scratch of send */
  tci_map plans, plans_by_key;   /* by id; by the 8 bytes of key */
  TCI_VEC(tci_plan *) plan_list; /* in order of arrival in memory */
  uint64_t next_plan_key;
  tci_link idle; /* plans with nothing under way and no watcher, least recently touched first */
  size_t idle_len, idle_bytes;
  TCI_VEC(tci_plan *) leaving;    /* evicted, freed piece by piece; nothing leads to them any more */
  tci_map runners, registrations; /* by runner_id; by registration_id */
  TCI_VEC(tci_runner *) runner_list;
  tci_map pools;
  TCI_VEC(tci_pool *) pool_list; /* in order of creation */
  TCI_VEC(tci_pool *) awake;     /* pools with a queue to look at */
  tci_map watchers;              /* by the 8 bytes of token */
  size_t watchers_len;
  tci_heap timers;
  uint64_t sequence; /* of plan 0 */
  uint64_t mark;     /* of the last search through a plan */
  uint64_t step_no, use_order;
  uint64_t order; /* of this step among those of order_wall_us */
  int64_t order_wall_us;
  size_t calls_open;
  bool held;           /* nothing is dispatched any more */
  bool woken, dormant; /* it was told that it runs; it was loaded and was not yet: it is read, and nothing follows */
  bool hushed;         /* watchers have heard of these changes */
  /* of the step under way */
  tci_update *update; /* NULL while loading */
  bool loading;       /* applying the journal: nothing is decided */
  tci_plan *subject;  /* whose change is being applied; NULL: of none */
  tci_time now;
  int64_t heard_us; /* of the last TICK: what arrived by then is known, what is due by then fires */
  tci_rng rng;
  int64_t changes_left;  /* of step_changes_max */
  tci_worklist resolved; /* groups that resolved, nodes to react */
  tci_worklist ended;    /* stages that became FINAL: their checks to look at; checks that nothing is pending for */
  tci_worklist settling; /* checks with all their results, PLANNED: their own dependencies go first */
  TCI_VEC(tci_plan *) touched;
  TCI_VEC(tci_buf) buffers; /* one per record of the step, reused */
  size_t buffers_len;
  size_t record; /* plan 0's buffer + 1; 0: none yet */
  tci_buf scratch;
  TCI_VEC(void *) garbage; /* replaced bytes, borrowed by the last update; freed at the next step */
};

/* ---- core.c ---- */
/* Applies a change to the model, writes it to the plan's record, tells watchers. `plan` NULL: plan 0. Fills version. */
void tci_emit(tci_core *core, tci_plan *plan, tci_change *change);
void tci_discard(tci_core *core, void *ptr);               /* freed when the update is over */
void tci_update_begin(tci_core *core, tci_update *update); /* nothing in it; what the last one pointed to is freed */
/* The journal, applied: a record is opened (its plan is made when it creates one), then its changes are applied one by one. */
tci_status tci_record_begin(tci_core *core, const tci_record *record, tci_record_reader *reader, tci_plan **out_plan);
/* Applies the next change and tells watchers if it is above `after` and there is an update. *more: false at the end. */
tci_status tci_record_apply(tci_core *core, tci_plan *plan, tci_record_reader *reader, uint64_t after, bool *more);
void tci_plan_evict(tci_core *core, tci_plan *plan);  /* it is gone, and freed in pieces */
void tci_plan_unidle(tci_core *core, tci_plan *plan); /* off the idle list, where it is */
void tci_plan_touch(tci_core *core, tci_plan *plan);  /* it goes to the end of the idle list, or off it */
tci_effect *tci_effect_add(tci_core *core, tci_effect_kind kind);
/* Replies; `format` as for printf. */
void tci_refuse(tci_core *core, const tci_event *event, tci_code code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
tci_reply *tci_answer_ok(tci_core *core, const tci_event *event, tci_reply_kind kind);
#define TCI_U64_KEY(ptr_to_u64) ((tci_str){(const char *)(ptr_to_u64), sizeof(uint64_t)})

/* ---- evolve.c ---- */
/* Applies. NULL, or why the change does not fit the model (a broken journal; when emitted, a bug). */
const char *tci_evolve(tci_core *core, tci_plan *plan, const tci_change *change, int64_t wall_us);
tci_plan *tci_plan_new(tci_core *core, uint64_t key, tci_str id, int64_t wall_us);
void tci_plan_leave(tci_core *core, tci_plan *plan); /* nothing leads to it any more */
/* Frees one that has left, in pieces, until *most is 0. True: it is gone. */
bool tci_plan_free(tci_core *core, tci_plan *plan, size_t *most);
void tci_runner_free(tci_core *core, tci_runner *runner);
/* Adds an entry, dropping the oldest beyond what an attempt keeps. */
void tci_progress_add(tci_core *core, tci_attempt *attempt, tci_str message, tci_str details, int64_t at_us);
void tci_progress_take_pending(tci_core *core, tci_attempt *attempt,
                               tci_progress *out);                              /* takes out those not on record */
tci_assignment *tci_stage_assignment(tci_stage *stage, const tci_check *check); /* NULL: not assigned */
tci_str tci_owner_key(tci_str owner_type, tci_str owner_id);                    /* heap; of tci_check.by_owner */
tci_check *tci_plan_check(const tci_plan *plan, tci_str id);
tci_stage *tci_plan_stage(const tci_plan *plan, tci_str id);

/* ---- deps.c ---- */
/* Reacts to every group that resolved and every stage that ended, until nothing follows any more, or the step has changed
 * so much that the rest is left to the next (update->more). */
void tci_react(tci_core *core);
/* A node goes on core->resolved, ended or settling; nothing while the journal is applied. */
void tci_list_resolved(tci_core *core, tci_node *node);
void tci_list_ended(tci_core *core, tci_node *node);
void tci_list_settling(tci_core *core, tci_check *check);
/* After a load: lists the nodes from which something follows that the journal does not hold yet. */
void tci_list_left_over(tci_core *core, tci_plan *plan);
/* A group was just linked, or `target` became FINAL: count. Part of evolve. */
void tci_group_count(tci_core *core, tci_edge *edge);
void tci_group_resolve(tci_core *core, tci_node *node);
bool tci_edge_satisfied(const tci_edge *edge); /* its target is FINAL */

/* ---- attempt.c ---- */
void tci_stage_start(tci_core *core, tci_stage *stage);
void tci_attempt_move(tci_core *core, tci_attempt *attempt, tci_attempt_state state, tci_execution_state execution);
/* The attempt did not make it: asks retry, then starts the next one or gives up (applying `completion`, or NULL). */
void tci_attempt_fail(tci_core *core, tci_attempt *attempt, tci_failure_kind kind, tci_str message,
                      const tci_completion *completion);
/* The same for a call that may still be in flight: it is cancelled. */
void tci_attempt_abort(tci_core *core, tci_attempt *attempt, tci_failure_kind kind, tci_str message);
/* Puts a decision on record; and all that scripts said while it was queued, when it goes live or fails there. */
void tci_attempt_decided(tci_core *core, tci_attempt *attempt, const tci_decision_record *record);
void tci_attempt_leaves_queue(tci_core *core, tci_attempt *attempt);
void tci_stage_finish(tci_core *core, tci_stage *stage, tci_outcome outcome, tci_reason reason);
void tci_attempt_timer(tci_core *core, tci_attempt *attempt);      /* it fired */
void tci_attempt_arm_queued(tci_core *core, tci_attempt *attempt); /* the next of: policy's wait over, queue timeout */
/* After evolve, or after a load: puts the attempt where its state belongs: queue, timers, runner. */
void tci_attempt_place(tci_core *core, tci_attempt *attempt);
/* Its plan was loaded whole: if it is live it counts for its runner, and holds its keys. */
void tci_attempt_rejoin(tci_core *core, tci_attempt *attempt);
void tci_attempt_restart(tci_core *core, tci_attempt *attempt); /* after a load: lengths count from now */
void tci_attempt_unplace(tci_core *core, tci_attempt *attempt);
void tci_attempt_progress(tci_core *core, tci_attempt *attempt, tci_str message, tci_str details, int64_t at_us);
/* A runner's: kept and told at once, on record when there is credit for it. */
void tci_attempt_flush(tci_core *core,
                       tci_attempt *attempt); /* what was told goes on record: no sign of life, no news */
void tci_attempt_report(tci_core *core, tci_attempt *attempt, tci_str message, tci_str details);
/* The execution an id names, or NULL with *status saying why not. */
tci_attempt *tci_attempt_by_id(tci_core *core, tci_str execution_id, tci_status *status);

/* ---- complete.c ---- */
void tci_complete(tci_core *core, tci_attempt *attempt, const tci_completion *completion);
/* NULL, or what is wrong with it. */
const char *tci_completion_fault(tci_core *core, const tci_attempt *attempt, const tci_completion *completion);
void tci_completion_apply(tci_core *core, tci_attempt *attempt, const tci_completion *completion);
/* Keeps the details, and the check updates that will not be applied, with the attempt. */
void tci_completion_keep(tci_core *core, tci_attempt *attempt, const tci_completion *completion);
/* FINAL when nothing is pending; a PLANNED one that stages are assigned to only once all is known that follows for its
 * dependencies; in a step that has changed too much already, in the next. */
void tci_check_settle(tci_core *core, tci_check *check);
void tci_check_settle_now(tci_core *core, tci_check *check); /* nothing is pending */
void tci_check_finish(tci_core *core, tci_check *check, tci_outcome outcome, tci_reason reason);
void tci_check_put_result(tci_core *core, tci_check *check, tci_str owner_type, tci_str owner_id, tci_str data,
                          bool finalize, const tci_failure *failure);
/* The last one in this name, or NULL. The word of a stage that is assigned is that of its assignment. */
tci_result *tci_check_result(tci_check *check, tci_str owner_type, tci_str owner_id);
bool tci_stage_failed_a_check(tci_stage *stage);
tci_outcome tci_check_verdict(const tci_check *check, tci_reason *reason);
void tci_on_answer(tci_core *core, const tci_event *event);
void tci_on_update_execution(tci_core *core, const tci_event *event);
void tci_on_complete_execution(tci_core *core, const tci_event *event);

/* ---- ask.c ---- */
/* Who is asked about a stage. `pool`: of its runner type, NULL when there is none. Valid while the pool is, until others are
 * looked up without one. */
const tci_attachment *tci_attached(tci_core *core, tci_pool *pool, const tci_stage *stage);
bool tci_asks_script(const tci_attachment *attached, tci_hook hook); /* the policy has this hook */
bool tci_asks_shadow(const tci_core *core, tci_hook hook);
/* The turn has time for another question to a script: instructions and, on real servers, CPU. */
static inline bool tci_has_time_to_ask(const tci_core *core) {
  return core->instructions_left > 0 && core->cpu_left_us > 0;
}
/* *out is sound in any case. *record: who was asked, the reason, the fault. */
void tci_ask(tci_core *core, const tci_attachment *attached, tci_hook hook, const tci_attempt *attempt,
             tci_runner *const *candidates, size_t len, tci_decision *out, tci_decision_record *record);
tci_policy_entry *tci_policy_entry_find(const tci_core *core, tci_str name);
void tci_policies_sync(tci_core *core); /* journals what differs between the set and the entries */
void tci_policies_wake(tci_core *core); /* after a load: lengths count from now */
void tci_policies_free(tci_core *core);
void tci_on_policies(tci_core *core, const tci_policy_set *set);
const char *tci_policy_evolve(tci_core *core, const tci_change *change);

/* ---- admission.c ---- */
int64_t tci_key_live(const tci_core *core, tci_str name);
void tci_key_park(tci_core *core, tci_pool *pool, tci_attempt *attempt, const tci_admission *admission);
void tci_key_unpark(tci_core *core, tci_attempt *attempt); /* its link is out already */
/* Who had a chance was asked, or is gone: the next one parked in that queue for which there is room gets it. NULL: none. */
tci_attempt *tci_key_pass_on(tci_core *core, tci_key *key, const tci_pool *pool, tci_mode mode);
tci_attempt *tci_key_first_that_fits(const tci_key_queue *queue);       /* NULL: none */
void tci_keys_return(tci_core *core, tci_pool *pool);                   /* all parked ones are asked again */
tci_str tci_keys_encode(tci_core *core, const tci_decision *admission); /* valid until the next one */
void tci_keys_take(tci_core *core, tci_attempt *attempt);               /* it is live */
void tci_keys_give(tci_core *core, tci_attempt *attempt);               /* no longer */

void tci_keys_hold(tci_core *core, tci_str keys); /* by a plan that was set aside: encoded ids */
void tci_keys_release(tci_core *core, tci_str keys);

/* ---- quarantine.c ---- */
void tci_on_quarantine(tci_core *core, const tci_event *event);
const char *tci_quarantine_evolve(tci_core *core, const tci_change *change);
const char *tci_why_set_aside(tci_core *core, tci_str plan_id); /* NULL: it was not */
void tci_quarantine_free(tci_core *core);

/* ---- explain.c ---- */
void tci_on_explain_node(tci_core *core, const tci_event *event);

/* ---- dispatch.c ---- */
tci_pool *tci_pool_get(tci_core *core, tci_str type); /* made when there is none */
void tci_pool_wake(tci_core *core, tci_pool *pool);   /* a slot, a runner: look at its queues from the head */
void tci_pool_trim(tci_core *core, tci_pool *pool);   /* forget it when nobody is left */
tci_pool *tci_attempt_pool(const tci_core *core, const tci_attempt *attempt);
void tci_ready_add(tci_core *core, tci_attempt *attempt);
void tci_ready_remove(tci_core *core, tci_attempt *attempt);
void tci_ready_return(tci_core *core, tci_attempt *attempt); /* from waiting or parked: it may be asked about again */
void tci_ready_insert(tci_link *list, tci_attempt *attempt); /* by order of arrival */
tci_link *tci_bucket_list(tci_buckets *buckets, int64_t priority); /* made when there is none */
void tci_buckets_free(tci_buckets *buckets);
void tci_dispatch(tci_core *core);

/* ---- runner.c ---- */
void tci_on_register_runner(tci_core *core, const tci_event *event);
void tci_on_unregister_runner(tci_core *core, const tci_event *event);
void tci_on_list_runners(tci_core *core, const tci_event *event);
void tci_runner_timer(tci_core *core, tci_runner *runner);
void tci_runner_arm(tci_core *core, tci_runner *runner);
void tci_runner_heard(tci_core *core, tci_runner *runner, int64_t wall_us); /* registered, or a heartbeat */
bool tci_runner_is_passed_over(const tci_core *core, const tci_runner *runner);

/* ---- request.c ---- */
/* An upper bound of what the RunRequest of a stage takes, encoded; O(assignments). */
size_t tci_request_bytes_of(const tci_stage *stage);

/* ---- write.c, query.c, watch.c ---- */
void tci_on_write_nodes(tci_core *core, const tci_event *event);
void tci_on_create_plan(tci_core *core, const tci_event *event);
void tci_on_get_plan(tci_core *core, const tci_event *event);
void tci_on_query_nodes(tci_core *core, const tci_event *event);
void tci_on_get_execution(tci_core *core, const tci_event *event);
void tci_on_list_executions(tci_core *core, const tci_event *event);
void tci_on_watch_plan(tci_core *core, const tci_event *event);
void tci_on_unwatch(tci_core *core, const tci_event *event);
void tci_watch_notify(tci_core *core, tci_plan *plan, const tci_change *change, int old_state);
tci_watcher *tci_watcher_add(tci_core *core, tci_plan *plan, uint64_t token, const tci_watch_wish *wish);
tci_watch_wish tci_watch_wish_copy(tci_arena *arena, const tci_watch_wish *wish);
void tci_watcher_free(tci_core *core, tci_watcher *watcher);
void tci_filter_sort(tci_filter *filter); /* needed once, before it is asked */
bool tci_filter_check(const tci_filter *filter, const tci_check *check);
bool tci_filter_stage(const tci_filter *filter, const tci_stage *stage);
tci_plan *tci_find_plan(tci_core *core, const tci_event *event); /* NULL: refused already */

#endif
