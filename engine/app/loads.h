/* loads: plans that come back into memory in pieces, over turns. Whoever names one of them waits until it is whole; all others go
 * on. Called by app/engine.c alone. */
#ifndef TCI_APP_LOADS_H
#define TCI_APP_LOADS_H

#include "base/vec.h"
#include "core/core.h"
#include "store/store.h"

typedef struct {
  tci_str id; /* heap */
  uint64_t key, upto;
  bool failed;
} tci_load;

typedef struct {
  TCI_VEC(tci_load) items;
} tci_loads; /* `{0}` to start with */

bool tci_loads_has(const tci_loads *loads, tci_str plan_id); /* it is on its way, or loading it has failed */
/* It could not be loaded; forgets that. Whoever loads it at once is told why. */
bool tci_loads_gave_up(tci_loads *loads, tci_str plan_id);
/* Begins to load a plan: its first piece, which is all of it as a rule. True: there is more to it, or it has failed. */
bool tci_loads_begin(tci_loads *loads, tci_store *store, tci_core *core, tci_str plan_id, uint64_t key);
/* Loads one piece more of one plan. True: there is more to do. */
bool tci_loads_work(tci_loads *loads, tci_store *store, tci_core *core);
void tci_loads_abandon(tci_loads *loads, tci_core *core, tci_str plan_id); /* who cannot wait loads it at once */
void tci_loads_forget(tci_loads *loads);                                   /* the core is gone */

#endif
