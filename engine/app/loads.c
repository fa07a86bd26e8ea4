/* loads: see loads.h. The unit is a record, which is as large as the write that made it; a piece ends with the one that makes it
 * PIECE_BYTES long. The plan cannot change meanwhile: nothing is under way in it, and whoever names it waits. What seems to be
 * under way, in the half that is known, the core leaves alone (tci_core_loaded). */
#include "app/loads.h"

#include "app/recovery.h"

enum { PIECE_BYTES = 512 << 10 }; /* some ten milliseconds */

typedef struct {
  tci_core *core;
  tci_status status;
  uint64_t upto;
  size_t bytes;
  bool whole;
} piece;

static bool load_one(void *ctx, const tci_store_record *r) {
  piece *p = ctx;
  p->status = tci_recovery_load_record(p->core, r);
  p->upto = r->sequence;
  p->bytes += r->bytes.len;
  p->whole = p->status.code == TCI_OK && p->bytes < PIECE_BYTES;
  return p->whole;
}

/* True: it is over, well or not. */
static bool load_piece(tci_load *load, tci_store *store, tci_core *core) {
  piece p = {.core = core, .upto = load->upto, .whole = true};
  tci_status status = tci_store_load_after(store, load->key, load->upto, load_one, &p);
  load->failed = status.code != TCI_OK || p.status.code != TCI_OK;
  load->upto = p.upto;
  if (load->failed)
    tci_core_forget(core, load->key);
  else if (p.whole)
    tci_core_loaded(core, load->key);
  return load->failed || p.whole;
}

static tci_load *find(const tci_loads *loads, tci_str plan_id) {
  for (size_t i = 0; i < loads->items.len; i++)
    if (tci_str_eq(loads->items.items[i].id, plan_id)) return &loads->items.items[i];
  return NULL;
}

static void drop(tci_loads *loads, tci_load *load) {
  tci_str_free(&load->id);
  tci_vec_swap_remove(&loads->items, (size_t)(load - loads->items.items));
}

bool tci_loads_has(const tci_loads *loads, tci_str plan_id) { return find(loads, plan_id) != NULL; }

bool tci_loads_gave_up(tci_loads *loads, tci_str plan_id) {
  tci_load *load = find(loads, plan_id);
  if (!load || !load->failed) return false;
  drop(loads, load);
  return true;
}

bool tci_loads_begin(tci_loads *loads, tci_store *store, tci_core *core, tci_str plan_id, uint64_t key) {
  tci_load load = {.key = key};
  if (load_piece(&load, store, core) && !load.failed) return false;
  load.id = tci_str_dup(plan_id);
  tci_vec_push(&loads->items, load);
  return true;
}

bool tci_loads_work(tci_loads *loads, tci_store *store, tci_core *core) {
  size_t i = 0;
  while (i < loads->items.len && loads->items.items[i].failed) i++;
  if (i == loads->items.len) return false;
  tci_load *load = &loads->items.items[i];
  if (load_piece(load, store, core) && !load->failed) drop(loads, load);
  return true; /* whoever waits for it can go on, or there is another one */
}

void tci_loads_abandon(tci_loads *loads, tci_core *core, tci_str plan_id) {
  tci_load *load = find(loads, plan_id);
  if (!load) return;
  if (!load->failed) tci_core_forget(core, load->key);
  drop(loads, load);
}

void tci_loads_forget(tci_loads *loads) {
  while (loads->items.len) drop(loads, &loads->items.items[0]);
  tci_vec_free(&loads->items);
}
