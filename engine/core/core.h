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
/* All records of a plan (0: the runners) were applied: it may be evicted from now on, and what its last step left to the next is
 * taken up by the next step. */
void tci_core_loaded(tci_core *core, uint64_t plan_key);
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

/* The plan's sequence when stream `token` was opened: it gets every change above it. 0: there is no such stream. */
uint64_t tci_core_watch_since(const tci_core *core, uint64_t token);
/* Replays a plan's records into a fresh core for a watcher that was away: like tci_core_load, and leaves in `update` a
 * WATCH effect for every change after the command's after_sequence, up to `upto`, that its filter lets through. */
TCI_MUST_USE tci_status tci_core_replay(tci_core *scratch, const tci_record *record, const tci_command *watch,
                                        uint64_t token, uint64_t upto, tci_update *update);

#endif
