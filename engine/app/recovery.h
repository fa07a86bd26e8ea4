/* recovery: the model out of the journal, at the start, after a failed commit, and a plan at a time when somebody names one
 * that is not in memory. What is damaged is told from a store that is lost.
 *
 * Called by app/engine.c, on the engine thread.
 */
#ifndef TCI_APP_RECOVERY_H
#define TCI_APP_RECOVERY_H

#include "base/vec.h"
#include "core/core.h"
#include "store/store.h"

/* A damaged plan that an operator wants to be set aside. Its texts are heap strings. */
typedef struct {
  uint64_t key;
  tci_str id, reason;
  tci_buf keys; /* admission keys that stay held, encoded ids */
} tci_damaged_plan;
typedef TCI_VEC(tci_damaged_plan) tci_damaged_plans;
void tci_damaged_plans_free(tci_damaged_plans *plans);

/* A row of the journal into the core: tci_core_load. */
TCI_MUST_USE tci_status tci_recovery_load_record(tci_core *core, const tci_store_record *row);

/* One plan (0: the runners) into the core. When that fails nothing of it is left there. DATA_LOSS while the store is not
 * lost: this plan is damaged. The text lives in `arena`, in the store until its next call, or is static. */
TCI_MUST_USE tci_status tci_recovery_load_plan(tci_store *store, tci_core *core, uint64_t key, tci_arena *arena);

/* The runners, then every plan that is not settled nor set aside, into an empty core. A damaged plan that `quarantine`
 * names (its id, or "#KEY") is left out and comes out in `aside`, which is emptied first; another one is DATA_LOSS, and the
 * text names it and the remedy. Of many plans, or much journal, the log tells how far it has come. */
TCI_MUST_USE tci_status tci_recovery_load_all(tci_store *store, tci_core *core, const tci_ids *quarantine,
                                              tci_damaged_plans *aside, tci_arena *arena);

#endif
