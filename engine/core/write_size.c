/* write_size: how large the reply to a WriteNodes gets, before anything of it is applied. Called by write.c.
 *
 * The sum of what the fields take on the wire: texts as long as they are, and for names, numbers and times the most that they
 * take (the enums below). So it is never less than the reply, and for small nodes at most about twice that: any stage may
 * begin at once, and then it has an attempt. Results that come of the end of a stage are counted too.
 */
#include "core/write.h"

enum {
  NODE_BYTES = 80,     /* state, version, two times, outcome, reason, and the frame */
  STAGE_BYTES = 12,    /* mode, and the tags of its texts */
  SETTINGS_BYTES = 80, /* priority, retry, timeouts */
  RESULT_BYTES = 56,   /* number, two times */
  ATTEMPT_BYTES = 52,  /* number, state, two times */
  PROGRESS_BYTES = 32, /* a time */
  FAILURE_BYTES = 32,  /* a time, a kind */
  EDGE_BYTES = 16,     /* of a dependency, of an assignment */
  STORY_BYTES = 64,    /* what the engine says of a result that is missing, besides names */
};

static size_t failure_bytes(const tci_failure *f) { return f->present ? FAILURE_BYTES + f->message.len : 0; }

static size_t result_bytes(tci_str type, tci_str id, tci_str data, const tci_failure *failure) {
  return RESULT_BYTES + type.len + id.len + data.len + failure_bytes(failure);
}

static size_t attempt_bytes(const tci_attempt *a) {
  size_t who = a->process_uid.len > a->runner_id.len ? a->process_uid.len : a->runner_id.len;
  return ATTEMPT_BYTES + who + a->details.len + failure_bytes(&a->failure) + a->progress_bytes +
         PROGRESS_BYTES * a->progress.len;
}

static size_t group_bytes(const tci_group *group) {
  size_t bytes = 0;
  for (size_t i = 0; i < group->len; i++) bytes += EDGE_BYTES + group->edges[i].target->id.len;
  return bytes;
}

/* Of nodes that may be made by this write. */
static size_t edges_bytes(const tci_write *w, const uint64_t *indexes, size_t len) {
  size_t bytes = 0;
  for (size_t i = 0; i < len; i++) {
    const tci_prepared *item = indexes[i] < w->existing ? NULL : tci_write_item(w, indexes[i]);
    bytes += EDGE_BYTES + (item ? item->id.len : w->plan->nodes.items[indexes[i]]->id.len);
  }
  return bytes;
}

/* Results of the check that are there, and those it gets when stages end without one. */
static size_t results_bytes(const tci_check *check) {
  size_t bytes = 0;
  for (size_t i = 0; i < check->results.len; i++) {
    const tci_result *r = &check->results.items[i];
    bytes += result_bytes(r->owner_type, r->owner_id, r->data, &r->failure);
  }
  for (size_t i = 0; check->state != TCI_CHECK_FINAL && i < check->assigned.len; i++) {
    const tci_stage *stage = check->assigned.items[i]->stage;
    const tci_attempt *last = tci_stage_attempt(stage);
    bytes +=
        RESULT_BYTES + FAILURE_BYTES + STORY_BYTES + 2 * stage->node.id.len + (last ? last->failure.message.len : 0);
  }
  return bytes;
}

static size_t check_bytes(const tci_prepared *item) {
  const tci_check *check = item->node ? tci_node_check(item->node) : NULL;
  const tci_result_write *r = &item->check->result;
  size_t bytes = item->check->kind.len || !check ? item->check->kind.len : check->kind.len;
  if (item->check->has_result) bytes += result_bytes(r->owner_type, r->owner_id, r->data, &r->failure);
  return bytes + (check ? results_bytes(check) : 0);
}

static bool has_settings(int64_t priority, const tci_retry *r, const tci_timeouts *t) {
  return priority || r->max_attempts || r->backoff_ms || r->backoff_ms_max || t->execution_ms || t->stale_ms;
}

static size_t stage_bytes(const tci_write *w, const tci_prepared *item, size_t runner_bytes) {
  const tci_stage *stage = item->node ? tci_node_stage(item->node) : NULL;
  const tci_stage_write *sw = item->stage;
  size_t bytes = STAGE_BYTES + ATTEMPT_BYTES + runner_bytes; /* the attempt that may begin */
  bytes += sw->runner_type.len || !stage ? sw->runner_type.len : stage->runner_type.len;
  if (has_settings(sw->priority, &sw->retry, &sw->timeouts) ||
      (stage && has_settings(stage->priority, &stage->retry, &stage->timeouts)))
    bytes += SETTINGS_BYTES;
  if (sw->has_attempt)
    bytes += sw->attempt.process_uid.len + sw->attempt.details.len + PROGRESS_BYTES + sw->attempt.progress_message.len +
             sw->attempt.progress_details.len + failure_bytes(&sw->attempt.failure);
  for (size_t i = 0; stage && i < stage->attempts.len; i++) bytes += attempt_bytes(stage->attempts.items[i]);
  if (item->assignments_changed) return bytes + edges_bytes(w, item->checks, item->checks_len);
  for (size_t i = 0; stage && i < stage->assignments_len; i++)
    bytes += EDGE_BYTES + stage->assignments[i].check->node.id.len;
  return bytes;
}

/* An attempt that begins names its runner. */
static size_t longest_runner_id(const tci_core *core) {
  size_t longest = 0;
  for (size_t i = 0; i < core->runner_list.len; i++)
    if (core->runner_list.items[i]->runner_id.len > longest) longest = core->runner_list.items[i]->runner_id.len;
  return longest;
}

size_t tci_write_reply_bytes(const tci_write *w) {
  size_t runner_bytes = longest_runner_id(w->core), bytes = 0;
  for (size_t i = 0; i < w->len; i++) {
    const tci_prepared *item = &w->items[i];
    bytes += NODE_BYTES + item->id.len + w->plan->id.len + item->merged.len;
    bytes += item->edges_changed ? edges_bytes(w, item->targets, item->targets_len)
             : item->node        ? group_bytes(&item->node->group)
                                 : 0;
    bytes += item->kind == TCI_NODE_CHECK ? check_bytes(item) : stage_bytes(w, item, runner_bytes);
  }
  return bytes;
}
