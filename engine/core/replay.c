/* replay: a plan's journal read again, change by change, for a watcher that was away.
 *
 * Invariants: the model is one of its own, so that nodes are told as they were; changes are applied in order and without
 * gaps (as by tci_core_load); a change is told at most once, and none at or before `after`.
 */
#include "core/internal.h"

struct tci_replay {
  tci_core *scratch;
  tci_plan *plan; /* of the scratch core; NULL: no record yet */
  uint64_t token, after;
  tci_arena arena;
  tci_watch_wish wish; /* in the arena */
  tci_buf record;
  tci_record_reader reader; /* over `record` */
  bool unread;              /* some of it is not applied yet */
};

tci_replay *tci_replay_new(const tci_core *core, uint64_t token, uint64_t after) {
  const tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  tci_assert(w && w->away);
  tci_replay *replay = tci_calloc(1, sizeof *replay);
  replay->scratch = tci_core_new(&core->limits, NULL);
  replay->token = token;
  replay->after = after;
  replay->wish = tci_watch_wish_copy(&replay->arena, &w->wish);
  return replay;
}

bool tci_replay_shrink(tci_replay *replay) {
  if (replay->plan) tci_plan_evict(replay->scratch, replay->plan);
  replay->plan = NULL;
  return tci_core_evict(replay->scratch);
}

void tci_replay_free(tci_replay *replay) {
  if (!replay) return;
  tci_core_free(replay->scratch);
  tci_arena_deinit(&replay->arena);
  tci_buf_deinit(&replay->record);
  free(replay);
}

tci_status tci_replay_feed(tci_replay *replay, const tci_record *record) {
  tci_assert(!replay->unread);
  tci_buf_clear(&replay->record);
  tci_buf_add(&replay->record, record->bytes);
  tci_record copy = *record;
  copy.bytes = tci_buf_str(&replay->record);
  TCI_TRY(tci_record_begin(replay->scratch, &copy, &replay->reader, &replay->plan));
  tci_assert(replay->plan);
  if (tci_list_empty(&replay->plan->watchers))
    tci_watcher_add(replay->scratch, replay->plan, replay->token, &replay->wish);
  replay->unread = true;
  return TCI_STATUS_OK;
}

tci_status tci_replay_more(tci_replay *replay, size_t *changes, tci_update *update) {
  tci_core *scratch = replay->scratch;
  tci_status status = TCI_STATUS_OK;
  tci_update_begin(scratch, update);
  scratch->update = update;
  scratch->loading = true;
  for (; replay->unread && *changes && status.code == TCI_OK && update->effects.len == 0; --*changes)
    status = tci_record_apply(scratch, replay->plan, &replay->reader, replay->after, &replay->unread);
  scratch->loading = false;
  scratch->update = NULL;
  return status;
}

bool tci_replay_is_used_up(const tci_replay *replay) { return !replay->unread; }

uint64_t tci_replay_sequence(const tci_replay *replay) { return replay->plan ? replay->plan->sequence : 0; }
