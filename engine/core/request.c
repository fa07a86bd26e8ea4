/* request: how large the RunRequest of a stage gets, and the writes that would make one too large.
 *
 * Invariant: stage->request_bytes is never below what codec_reply.c makes of the stage. It is kept, not counted afresh: a
 * check may be assigned to very many stages, and every write to its options, every dispatch asks.
 */
#include "core/write.h"

/* Ids, index, deadline and callback address with their tags; and so of each assigned check. */
enum { STAGE_BYTES = 1024, CHECK_BYTES = 64 };

static size_t check_bytes(tci_str id, tci_str kind, tci_str options) {
  return CHECK_BYTES + 2 * id.len + kind.len + options.len;
}

size_t tci_request_bytes_of(const tci_stage *stage) {
  size_t bytes = STAGE_BYTES + 2 * stage->node.plan->id.len + stage->node.id.len + stage->args.len;
  for (size_t i = 0; i < stage->assignments_len; i++) {
    const tci_assignment *a = &stage->assignments[i];
    if (tci_goal_counts(a->goal)) bytes += check_bytes(a->check->node.id, a->check->kind, a->check->options);
  }
  return bytes;
}

/* ---- a write ---- */

static tci_str kind_after(const tci_prepared *item) {
  return item->node && !item->check->kind.len ? tci_node_check(item->node)->kind : item->check->kind;
}

/* What a check adds once the write is done; it may be one that the write makes. */
static size_t check_bytes_after(const tci_write *w, uint64_t index) {
  const tci_prepared *item = tci_write_item(w, index);
  if (item) return check_bytes(item->id, kind_after(item), item->merged);
  const tci_check *check = tci_node_check(w->plan->nodes.items[index]);
  return check_bytes(check->node.id, check->kind, check->options);
}

static size_t stage_bytes_after(const tci_write *w, const tci_prepared *item) {
  const tci_stage *stage = item->node ? tci_node_stage(item->node) : NULL;
  size_t bytes = STAGE_BYTES + 2 * w->plan->id.len + item->id.len + item->merged.len;
  if (item->assignments_changed) {
    for (size_t i = 0; i < item->checks_len; i++)
      if (tci_goal_counts(item->stage->assignments[i].goal)) bytes += check_bytes_after(w, item->checks[i]);
  } else if (stage) {
    for (size_t i = 0; i < stage->assignments_len; i++)
      if (tci_goal_counts(stage->assignments[i].goal))
        bytes += check_bytes_after(w, stage->assignments[i].check->node.index);
  }
  return bytes;
}

static bool is_sent(const tci_prepared *item) {
  const tci_stage *stage = item->node ? tci_node_stage(item->node) : NULL;
  if (item->to_state == TCI_STAGE_FINAL || (stage && stage->state == TCI_STAGE_FINAL)) return false;
  return item->stage->runner_type.len || (stage && stage->runner_type.len);
}

static bool written_stages_fit(tci_write *w) {
  size_t most = (size_t)w->core->limits.request_bytes_max;
  for (size_t i = 0; i < w->len; i++) {
    const tci_prepared *item = &w->items[i];
    if (item->kind != TCI_NODE_STAGE || !is_sent(item)) continue;
    size_t bytes = stage_bytes_after(w, item);
    if (bytes > most && (!item->node || bytes > tci_node_stage(item->node)->request_bytes))
      return tci_write_fault(
          w, item, TCI_INVALID_ARGUMENT,
          "its request to a runner, args and the options of all assigned checks, would be %zu bytes, "
          "over the limit request_bytes_max (%zu); assign it to fewer checks, or make them smaller",
          bytes, most);
  }
  return true;
}

static int64_t growth_of(const tci_prepared *item) {
  if (item->kind != TCI_NODE_CHECK || !item->node || (!item->merged_changed && !item->fields_changed)) return 0;
  const tci_check *check = tci_node_check(item->node);
  return (int64_t)check_bytes(item->id, kind_after(item), item->merged) -
         (int64_t)check_bytes(check->node.id, check->kind, check->options);
}

/* Options of existing checks may grow under stages that the write does not name; a stage may have several of them. */
static bool other_stages_fit(tci_write *w) {
  int64_t most = w->core->limits.request_bytes_max;
  for (size_t i = 0; i < w->len; i++) {
    int64_t growth = growth_of(&w->items[i]);
    if (!growth) continue;
    const tci_check *check = tci_node_check(w->items[i].node);
    for (size_t k = 0; k < check->assigned.len; k++) check->assigned.items[k]->stage->request_growth += growth;
  }
  for (size_t i = 0; i < w->len; i++) {
    int64_t growth = growth_of(&w->items[i]);
    if (!growth) continue;
    const tci_check *check = tci_node_check(w->items[i].node);
    for (size_t k = 0; k < check->assigned.len; k++) {
      tci_stage *stage = check->assigned.items[k]->stage;
      int64_t bytes = (int64_t)stage->request_bytes + stage->request_growth;
      bool fits = bytes <= most || stage->request_growth <= 0 || stage->state == TCI_STAGE_FINAL ||
                  !stage->runner_type.len || tci_map_get(&w->by_stage_id, stage->node.id);
      stage->request_growth = 0;
      if (fits) continue;
      tci_write_fault(w, &w->items[i], TCI_INVALID_ARGUMENT,
                      "options: the request of stage '%.*s' to a runner, its args and the options of all assigned "
                      "checks, would be %lld bytes, over the limit request_bytes_max (%lld); make them smaller",
                      TCI_STR_ARG(stage->node.id), (long long)bytes, (long long)most);
    }
  }
  return w->status.code == TCI_OK;
}

bool tci_write_requests_fit(tci_write *w) { return written_stages_fit(w) && other_stages_fit(w); }
