/* engine: core + store + codec in one box, a turn at a time. No threads, no clock, no sockets of its own.
 *
 *     inputs -> step each -> append all records, one commit -> release effects (encoded) to the sink
 *
 * app/loop.c drives it on the engine thread with real time and gRPC; engine/lua drives it directly in the virtual world.
 * Invariant: nothing reaches the sink before the commit of the turn that caused it.
 */
#ifndef TCI_APP_ENGINE_H
#define TCI_APP_ENGINE_H

#include "app/policies.h"
#include "app/sink.h"
#include "base/queue.h"
#include "core/core.h"
#include "rpc/codec.h"
#include "store/store.h"

typedef struct tci_engine tci_engine;

/* After a failed commit the model sleeps so long before it tries to commit again, and twice as long each time that fails. */
enum { TCI_ENGINE_WAKE_US_MIN = 1000000, TCI_ENGINE_WAKE_US_MAX = 30000000 };

typedef struct {
  tci_limits limits;
  tci_store_options store;
  const char *callback_address; /* told to async runners */
  tci_ids allowed_addresses;    /* see tci_address_resolve */
  tci_ids quarantine;           /* damaged plans to set aside: ids, or "#KEY"; see app/recovery.h */
  const char *version;
  int64_t (*cpu_us)(void); /* of the thread so far; NULL: a turn is not measured, and takes all events it is given */
  tci_policies_options policies; /* its limits are those above */
} tci_engine_options;

/* Opens the store, loads policies and model; nothing moves yet. `message` (size bytes) gets the text of a refusal. Options
 * are copied, but not the strings. */
TCI_MUST_USE tci_status tci_engine_open(const tci_engine_options *options, const tci_sink *sink, tci_time now,
                                        tci_engine **out, char *message, size_t size);
/* The first turn, once the callback address is known: calls that died with the last engine are failed, queues and timers come
 * to life, work that is ready is dispatched. Fails like tci_engine_turn. */
TCI_MUST_USE tci_status tci_engine_start(tci_engine *engine, tci_time now, const uint8_t random[32]);
void tci_engine_close(tci_engine *engine);
void tci_engine_set_callback_address(tci_engine *engine, const char *address);

/* One turn: steps every event (in order), commits once, releases effects. Events and what they point to are borrowed for
 * the call. A POLICIES event without policies, and ReloadPolicies, look at the policy folders first.
 * Any failure that it returns means that the store is lost or the model cannot be loaded again: log and exit. Its text lives
 * in the engine. Every other failure was answered to the clients. */
TCI_MUST_USE tci_status tci_engine_turn(tci_engine *engine, const tci_event *events, size_t len);
/* The same for who can offer events again, first and in order, in the next turn: later[i] is set where that is to be done. They
 * are those that name a plan which is coming into memory piece by piece, and all behind *looked_at, where the turn has had its
 * CPU time (turn_cpu_ms_max). */
TCI_MUST_USE tci_status tci_engine_turn_some(tci_engine *engine, const tci_event *events, size_t len, bool *later,
                                             size_t *looked_at);
/* Monotonic time at which a TICK is due (0: at once, work was left over; INT64_MAX: never). */
int64_t tci_engine_next_due_us(const tci_engine *engine);
/* The sink takes more on this stream: what waits goes out at once, what is owed with the next turns. */
void tci_engine_stream_ready(tci_engine *engine, uint64_t token);
/* Refuses every command that would write, with UNAVAILABLE, from now on. */
void tci_engine_drain(tci_engine *engine);
size_t tci_engine_open_calls(const tci_engine *engine); /* Run and RunAsync that are not answered */
const tci_core *tci_engine_core(const tci_engine *engine);

typedef struct {
  int64_t turns, events, commits, records, journal_bytes, longest_turn_us, longest_turn_cpu_us, turns_over_budget,
      standstill_us;
  int64_t damaged_reads; /* commands that named a plan whose journal is damaged */
  /* Asked, could not answer, instructions in Lua, circuits opened; other sets taken over; the shadow: asked, disagrees */
  int64_t policy_asks, policy_faults, policy_instructions, policy_circuits_opened, policy_reloads, shadow_asks,
      shadow_differs;
} tci_engine_counters;
tci_engine_counters tci_engine_count(const tci_engine *engine);
/* The loop measures; told after each turn. cpu_us: of the thread, so without what it waited for the disk. */
void tci_engine_note_turn(tci_engine *engine, int64_t turn_us, int64_t cpu_us);
void tci_engine_note_standstill(tci_engine *engine, int64_t us);

#endif
