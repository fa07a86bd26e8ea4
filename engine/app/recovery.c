/* recovery: see the header. Invariant: of a plan that could not be loaded whole nothing stays in the core. */
#include "app/recovery.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "core/salvage.h"

enum { NAME_BYTES = 512 };

void tci_damaged_plans_free(tci_damaged_plans *plans) {
  for (size_t i = 0; i < plans->len; i++) {
    tci_str_free(&plans->items[i].id);
    tci_str_free(&plans->items[i].reason);
    tci_buf_deinit(&plans->items[i].keys);
  }
  tci_vec_free(plans);
}

/* ---- how far it has come: who waits for a start sees that it gets on ---- */

enum { TOLD_PLANS = 1000, TOLD_BYTES = 64 << 20 };

typedef struct {
  size_t plans, of, bytes;
  size_t told_plans, told_bytes; /* by the last line in the log */
} progress;

static void get_on(progress *p, size_t plans, size_t bytes) {
  p->plans += plans;
  p->bytes += bytes;
  if (p->plans - p->told_plans < TOLD_PLANS && p->bytes - p->told_bytes < TOLD_BYTES) return;
  p->told_plans = p->plans;
  p->told_bytes = p->bytes;
  tci_log(TCI_LOG_INFO, "recovering", "plans=%zu of=%zu journal_bytes=%zu", p->plans, p->of, p->bytes);
}

/* ---- one plan ---- */

typedef struct {
  tci_core *core;
  tci_status status;
  progress *how_far; /* NULL: of one plan nothing is told */
} loading;

tci_status tci_recovery_load_record(tci_core *core, const tci_store_record *row) {
  tci_record record = {row->plan_key, row->sequence, row->bytes, row->plan_id, row->settled};
  return tci_core_load(core, &record);
}

static bool load_record(void *ctx, const tci_store_record *r) {
  loading *l = ctx;
  l->status = tci_recovery_load_record(l->core, r);
  if (l->how_far) get_on(l->how_far, 0, r->bytes.len);
  return l->status.code == TCI_OK;
}

static tci_status load_plan(tci_store *store, tci_core *core, uint64_t key, progress *how_far, tci_arena *arena) {
  loading l = {core, TCI_STATUS_OK, how_far};
  tci_status status = tci_store_load(store, key, load_record, &l);
  if (status.code == TCI_OK) status = l.status;
  if (status.code == TCI_OK) {
    tci_core_loaded(core, key);
    return status;
  }
  if (key) tci_core_forget(core, key);
  if (status.code != l.status.code) return status;
  char name[NAME_BYTES]; /* the core's texts do not say which plan */
  tci_store_name(store, key, name, sizeof name);
  return (tci_status){
      status.code, tci_fmt(arena, "plan '%s' is damaged: %s: restore the journal from a backup", name, status.message)};
}

tci_status tci_recovery_load_plan(tci_store *store, tci_core *core, uint64_t key, tci_arena *arena) {
  return load_plan(store, core, key, NULL, arena);
}

/* ---- setting aside ---- */

static bool salvage_record(void *ctx, const tci_store_record *record) {
  tci_salvage_add(ctx, record->bytes);
  return true;
}

/* *out gets the keys that the plan may hold. */
static tci_status salvage_keys(tci_store *store, uint64_t key, tci_buf *out) {
  tci_salvage *salvage = tci_salvage_new();
  size_t damaged;
  tci_status status = tci_store_salvage(store, key, salvage_record, salvage, &damaged);
  if (status.code == TCI_OK) tci_salvage_keys(salvage, out);
  tci_salvage_free(salvage);
  return status;
}

/* A plan goes by its id, or by "#KEY". */
static bool is_called(tci_str name, uint64_t key, tci_str id) {
  char number[24];
  snprintf(number, sizeof number, "#%llu", (unsigned long long)key);
  return tci_str_eq(name, id) || tci_str_eq(name, tci_str_from(number));
}

static bool is_named(const tci_ids *quarantine, uint64_t key, tci_str id) {
  for (size_t i = 0; i < quarantine->len; i++)
    if (is_called(quarantine->items[i], key, id)) return true;
  return false;
}

/* Every name that was given is that of a plan that is set aside, now or long since. */
static tci_status check_names(const tci_core *core, const tci_ids *quarantine, const tci_damaged_plans *aside,
                              tci_arena *arena) {
  for (size_t i = 0; i < quarantine->len; i++) {
    tci_str name = quarantine->items[i];
    bool known = false;
    for (size_t k = 0; k < aside->len; k++) known |= is_called(name, aside->items[k].key, aside->items[k].id);
    for (size_t k = 0; k < tci_core_set_aside_len(core); k++) {
      uint64_t key;
      tci_str id = tci_core_set_aside(core, k, &key);
      known |= is_called(name, key, id);
    }
    if (!known)
      return (tci_status){
          TCI_INVALID_ARGUMENT,
          tci_fmt(arena,
                  "--quarantine '%.*s': there is no damaged plan of that name that is not settled: leave "
                  "it out; nothing was changed",
                  TCI_STR_ARG(name))};
  }
  return TCI_STATUS_OK;
}

/* An open plan is damaged: it is set aside, or the start is refused. */
static tci_status damaged(tci_store *store, uint64_t key, const char *why, const tci_ids *quarantine,
                          tci_damaged_plans *aside, tci_arena *arena) {
  char name[NAME_BYTES];
  why = tci_fmt(arena, "%s", why); /* the store's own text goes with its next call */
  tci_store_name(store, key, name, sizeof name);
  if (!is_named(quarantine, key, tci_str_from(name)))
    return (tci_status){
        TCI_DATA_LOSS,
        tci_fmt(arena,
                "%s\n  plan '%s' is not settled, so it is not left out without a word: restore a backup, or set this "
                "plan aside and serve the others with `turboci serve --quarantine '%s'`",
                why, name, name)};
  tci_damaged_plan plan = {.key = key};
  TCI_TRY(salvage_keys(store, key, &plan.keys));
  plan.id = tci_str_dup(tci_str_from(name));
  plan.reason = tci_str_dup(tci_str_from(why));
  tci_vec_push(aside, plan);
  tci_log(TCI_LOG_WARN, "plan_set_aside", "plan=\"%s\" key_bytes=%zu error=\"%s\"", name, plan.keys.len, why);
  return TCI_STATUS_OK;
}

/* ---- all ---- */

static tci_status load_open_plans(tci_store *store, tci_core *core, const tci_ids *quarantine, tci_damaged_plans *aside,
                                  tci_arena *arena) {
  uint64_t *keys = NULL;
  size_t len = 0;
  tci_status status = tci_store_open_plans(store, &keys, &len);
  progress how_far = {.of = len};
  for (size_t i = 0; status.code == TCI_OK && i < len; i++) {
    if (tci_core_is_set_aside(core, keys[i])) continue;
    status = load_plan(store, core, keys[i], &how_far, arena);
    if (status.code == TCI_DATA_LOSS && !tci_store_is_lost(store))
      status = damaged(store, keys[i], status.message, quarantine, aside, arena);
    while (tci_core_evict(core)) {}
    get_on(&how_far, 1, 0);
  }
  free(keys);
  return status;
}

tci_status tci_recovery_load_all(tci_store *store, tci_core *core, const tci_ids *quarantine, tci_damaged_plans *aside,
                                 tci_arena *arena) {
  uint64_t max_key = 0;
  tci_damaged_plans_free(aside);
  TCI_TRY(tci_recovery_load_plan(store, core, 0, arena));
  TCI_TRY(load_open_plans(store, core, quarantine, aside, arena));
  TCI_TRY(check_names(core, quarantine, aside, arena));
  TCI_TRY(tci_store_max_key(store, &max_key));
  tci_core_set_next_plan_key(core, max_key + 1);
  return TCI_STATUS_OK;
}
