/* core: event in, update out. Pure: no I/O, no clock, no threads, no randomness but what the event carries.
 *
 *     event -> decide (reads the model) -> changes -> evolve (the only mutation)
 *
 * tci_core_step cannot fail: a refused command is a REPLY effect with a status. Called by app/engine.c, by the unit
 * tests and by the simulator.
 */
#ifndef TCI_CORE_CORE_H
#define TCI_CORE_CORE_H

#include "core/limits.h"
#include "core/policy.h"
#include "core/update.h"

typedef struct tci_core tci_core;

/* `policies` (NULL: nothing but the built-in) is borrowed until the next POLICIES event. */
tci_core *tci_core_new(const tci_limits *limits, const tci_policy_set *policies);
void tci_core_free(tci_core *core); /* NULL is fine */

/* ---- recovery: apply the journal ---- */

/* Applies one record, in order of sequence within its plan; plan 0 before all others. `plan_id` is needed for
 * the first record of a plan. DATA_LOSS (static text) when the bytes are not a record or do not fit the model: the
 * caller stops (never guess). */
TCI_MUST_USE tci_status tci_core_load(tci_core *core, const tci_record *record);
/* All records of a plan (0: the runners) were applied. Until then steps may come in between, and leave the plan alone: no answer,
 * timer or runner moves it; commands that name it are the caller's to keep back. From now on its executions count for their
 * runners and hold their admission keys, it may be evicted, and what its last step left to the next is taken up by the next
 * step. What policies see of a runner's past does not come from here: a plan that is read again is no news of
 * it. */
void tci_core_loaded(tci_core *core, uint64_t plan_key);
/* Takes a plan out of memory that could not be loaded whole. */
void tci_core_forget(tci_core *core, uint64_t plan_key);
/* The plan was set aside (QUARANTINE) and is not to be loaded. */
bool tci_core_is_set_aside(const tci_core *core, uint64_t plan_key);
size_t tci_core_set_aside_len(const tci_core *core);
/* The id of one of them, and its key. Borrowed from the core. */
tci_str tci_core_set_aside(const tci_core *core, size_t i, uint64_t *out_key);

/* ---- work ---- */

/* Before the first step of a turn: what may be asked of policies is counted by the turn. */
void tci_core_begin_turn(tci_core *core);
/* In this turn so much CPU time went into policies beside the questions: the questions get what is left. */
void tci_core_spend_cpu(tci_core *core, int64_t us);
/* `update` is reset, then filled. */
void tci_core_step(tci_core *core, const tci_event *event, tci_update *update);
/* From now on nothing is dispatched (the engine is about to stop). */
void tci_core_hold(tci_core *core);
/* Monotonic time of the next timer; INT64_MAX when there is none. */
int64_t tci_core_next_due_us(const tci_core *core);

/* ---- memory ---- */

bool tci_core_has_plan(const tci_core *core, tci_str plan_id);
bool tci_core_has_runner(const tci_core *core, tci_str runner_id);
tci_plan *tci_core_plan(const tci_core *core, tci_str plan_id); /* NULL: not in memory */
void tci_core_set_next_plan_key(tci_core *core, uint64_t key);
/* Forgets plans with no execution under way and no watcher, least recently touched first, until the others are no more than
 * plans_in_memory_max and take no more than plans_in_memory_bytes_max. Between steps; a piece of it. True: there is more to do. */
bool tci_core_evict(tci_core *core);

/* ---- looking (tests, simulator, `fsck`) ---- */

/* Checks every invariant of the model, NULL when all hold, else a text in `arena`. Slow. */
const char *tci_core_check(const tci_core *core, tci_arena *arena);
/* Live executions whose Run or RunAsync is not answered: used to drain. Who called back before the answer has it. */
size_t tci_core_open_calls(const tci_core *core);
/* False: there is no policy of that name. until_us (wall): while its circuit is open. */
bool tci_core_policy_state(const tci_core *core, tci_str name, bool *circuit_open, int64_t *until_us);

/* "plan_id:stage_index:attempt:secret" taken apart; false when it is not of that form. */
bool tci_execution_id_parse(tci_str id, tci_str *plan_id, uint32_t *stage_index, uint32_t *attempt);

/* ---- streams ----
 *
 * A step tells a watcher at once, by WATCH effects, unless it cannot be told yet:
 *
 *     OWED    the nodes as they are (include_current), or nodes that changed while it was behind: tci_core_watch_more
 *             tells them one by one, as they are then; what moves meanwhile is told at once, but for nodes of which
 *             it has heard nothing yet
 *     AWAY    it resumes: a step tells it nothing; a tci_replay reads the journal until it is level, then it joins
 *
 * All between steps. How much is told when is the shell's to say: it knows how fast the stream's reader is. */
typedef enum { TCI_WATCH_NONE, TCI_WATCH_LIVE, TCI_WATCH_OWED, TCI_WATCH_AWAY } tci_watch_state;
tci_watch_state tci_core_watch_state(const tci_core *core, uint64_t token); /* NONE: there is no such stream */
const tci_plan *tci_core_watch_plan(const tci_core *core, uint64_t token);  /* NULL: there is no such stream */
/* Everything up to this sequence was told; for AWAY: the replay begins behind it. */
uint64_t tci_core_watch_told(const tci_core *core, uint64_t token);
/* Leaves in `update` the WATCH effects of the next node owed, if any (one, and the completed event behind the last).
 * *looks: nodes that may be looked at for it; lowered. Returns false when nothing is owed any more. */
bool tci_core_watch_more(tci_core *core, uint64_t token, size_t *looks, tci_update *update);
/* Enough waits for the stream: from now on a node that changes without moving is owed to it, and told once when there is room,
 * not once a change. Nothing for those who are told changes only. */
void tci_core_watch_behind(tci_core *core, uint64_t token, bool behind);
/* LIVE to AWAY: it was told everything up to `after`, and nothing behind it. */
void tci_core_watch_leave(tci_core *core, uint64_t token, uint64_t after);
/* AWAY to LIVE: it was told all there is. */
void tci_core_watch_join(tci_core *core, uint64_t token);
void tci_core_unwatch(tci_core *core, uint64_t token); /* no such stream: fine */

/* A plan's journal, read again in pieces for one watcher: a model of its own that grows as far as it has come. */
typedef struct tci_replay tci_replay;
/* For stream `token`, which is AWAY: tells what came behind `after`. */
tci_replay *tci_replay_new(const tci_core *core, uint64_t token, uint64_t after);
void tci_replay_free(tci_replay *replay); /* NULL is fine */
/* It is not needed any more: frees some of it. False: the rest is little. Nothing else is to be asked of it. */
bool tci_replay_shrink(tci_replay *replay);
/* Takes the plan's next record (a copy), when the one before is used up. DATA_LOSS as for tci_core_load. */
TCI_MUST_USE tci_status tci_replay_feed(tci_replay *replay, const tci_record *record);
/* Applies changes of the record, at most *changes (lowered), until one leaves WATCH effects in `update` (reset first) or the
 * record is used up. */
TCI_MUST_USE tci_status tci_replay_more(tci_replay *replay, size_t *changes, tci_update *update);
bool tci_replay_is_used_up(const tci_replay *replay);   /* it wants the record behind tci_replay_sequence */
uint64_t tci_replay_sequence(const tci_replay *replay); /* of the last change applied */

#endif
