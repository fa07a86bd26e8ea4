/* store: a journal in memory behind store/store.h, in place of SQLite's, so that the real engine can be driven through thousands
 * of seeds; and that fails when the simulator says so. Atomic like the real one: a failed append left nothing behind.
 *
 * It is linked instead of the room engine/store, whose own tests are tests/unit/test_store.c.
 */
#include "store/store.h"

#include "world.h"

struct tci_store {
  TCI_VEC(fx_stored) rows;
  bool held;    /* by an engine */
  int fails;    /* appends that are to fail from now on */
  int failed;   /* since store_fail */
  int asked;    /* whether it is ready, in vain, since then */
  tci_code how; /* they fail so */
};

static tci_store store;

void store_reset(void) {
  for (size_t i = 0; i < store.rows.len; i++) {
    free(store.rows.items[i].bytes);
    free(store.rows.items[i].plan_id);
  }
  tci_vec_free(&store.rows);
  store = (tci_store){0};
}

void store_fail(int appends, tci_code how) {
  store.fails = appends;
  store.failed = store.asked = 0;
  store.how = how;
}

int store_failed(void) { return store.failed; }

bool store_was_full(void) { return store.asked > 0; }

tci_status tci_store_open(const tci_store_options *options, tci_store **out, char *message, size_t size) {
  (void)options, (void)message, (void)size;
  if (store.held) fx_fail("the store is opened twice");
  store.held = true;
  *out = &store;
  return TCI_STATUS_OK;
}

void tci_store_close(tci_store *s) {
  if (s) s->held = false;
}

static uint64_t last_sequence(const tci_store *s, uint64_t plan_key) {
  for (size_t i = s->rows.len; i > 0; i--)
    if (s->rows.items[i - 1].plan_key == plan_key) return s->rows.items[i - 1].sequence;
  return 0;
}

tci_status tci_store_append(tci_store *s, const tci_store_record *records, size_t len) {
  if (s->fails > 0) {
    s->fails--;
    s->failed++;
    return (tci_status){s->how, "the simulator says no"};
  }
  for (size_t i = 0; i < len; i++) {
    const tci_store_record *r = &records[i];
    if (r->sequence <= last_sequence(s, r->plan_key)) fx_fail("oracle: a plan's sequence does not rise in the journal");
    tci_vec_push(&s->rows, ((fx_stored){.plan_key = r->plan_key,
                                        .sequence = r->sequence,
                                        .bytes = (char *)tci_str_dup(r->bytes).ptr,
                                        .plan_id = (char *)tci_str_dup(r->plan_id).ptr,
                                        .bytes_len = r->bytes.len,
                                        .plan_id_len = r->plan_id.len,
                                        .settled = r->settled}));
    shell_committed(&world, r);
  }
  return TCI_STATUS_OK;
}

tci_status tci_store_find(tci_store *s, tci_str plan_id, uint64_t *out_key) {
  *out_key = 0;
  for (size_t i = 0; i < s->rows.len && !*out_key; i++)
    if (tci_str_eq((tci_str){s->rows.items[i].plan_id, s->rows.items[i].plan_id_len}, plan_id))
      *out_key = s->rows.items[i].plan_key;
  return TCI_STATUS_OK;
}

tci_status tci_store_max_key(tci_store *s, uint64_t *out_key) {
  *out_key = 0;
  for (size_t i = 0; i < s->rows.len; i++)
    if (s->rows.items[i].plan_key > *out_key) *out_key = s->rows.items[i].plan_key;
  return TCI_STATUS_OK;
}

tci_status tci_store_load(tci_store *s, uint64_t plan_key, tci_store_visitor visit, void *ctx) {
  return tci_store_load_after(s, plan_key, 0, visit, ctx);
}

tci_status tci_store_load_after(tci_store *s, uint64_t plan_key, uint64_t after, tci_store_visitor visit, void *ctx) {
  for (size_t i = 0; i < s->rows.len; i++) {
    const fx_stored *row = &s->rows.items[i];
    if (row->plan_key != plan_key || row->sequence <= after) continue;
    tci_store_record r = {
        row->plan_key, row->sequence, {row->bytes, row->bytes_len}, {row->plan_id, row->plan_id_len}, row->settled};
    if (!visit(ctx, &r)) break;
  }
  return TCI_STATUS_OK;
}

/* Nothing is ever damaged here, and nothing lost. */
bool tci_store_is_lost(const tci_store *s) {
  (void)s;
  return false;
}

tci_status tci_store_salvage(tci_store *s, uint64_t plan_key, tci_store_visitor visit, void *ctx, size_t *out_damaged) {
  *out_damaged = 0;
  return tci_store_load(s, plan_key, visit, ctx);
}

void tci_store_name(tci_store *s, uint64_t plan_key, char *out, size_t size) {
  (void)s;
  snprintf(out, size, "#%llu", (unsigned long long)plan_key);
}

/* A full disk is noticed before it is written to; whatever else may go wrong is not. */
tci_status tci_store_ready(tci_store *s) {
  if (!s->fails || s->how != TCI_RESOURCE_EXHAUSTED) return TCI_STATUS_OK;
  s->asked++;
  return (tci_status){TCI_RESOURCE_EXHAUSTED, "the simulator's disk is full"};
}

tci_status tci_store_open_plans(tci_store *s, uint64_t **out_keys, size_t *out_len) {
  uint64_t most;
  tci_status status = tci_store_max_key(s, &most);
  *out_keys = tci_calloc(most + 1, sizeof **out_keys);
  *out_len = 0;
  for (uint64_t key = 1; key <= most; key++) {
    bool settled = true;
    for (size_t i = 0; i < s->rows.len; i++)
      if (s->rows.items[i].plan_key == key) settled = s->rows.items[i].settled;
    if (!settled) (*out_keys)[(*out_len)++] = key;
  }
  return status;
}

tci_store_counters tci_store_count(const tci_store *s) { return (tci_store_counters){.records = (int64_t)s->rows.len}; }
