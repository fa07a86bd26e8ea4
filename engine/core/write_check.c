/* write_check: what a WriteNodes would do to each node alone: merges, changes, legal moves. Reads, never writes.
 *
 * A write that changes nothing is fine, even on a FINAL node; so everything is compared before it is refused.
 */
#include <stdarg.h>
#include <string.h>

#include "core/states.h"
#include "core/write.h"

static const char *state_name(const tci_prepared *item, int state) {
  return item->kind == TCI_NODE_CHECK ? tci_check_state_name(state) : tci_stage_state_name(state);
}

static int state_now(const tci_prepared *item) {
  if (!item->node) return 0;
  return item->kind == TCI_NODE_CHECK ? (int)tci_node_check(item->node)->state : (int)tci_node_stage(item->node)->state;
}

bool tci_write_fault(tci_write *write, const tci_prepared *item, tci_code code, const char *format, ...) {
  if (write->status.code != TCI_OK) return false;
  va_list args;
  va_start(args, format);
  const char *what = tci_vfmt(write->arena, format, args);
  va_end(args);
  if (item) {
    bool is_check = item->kind == TCI_NODE_CHECK;
    what = tci_fmt(write->arena, "%s[%zu] '%.*s': %s", is_check ? "checks" : "stages", item->position,
                   TCI_STR_ARG(item->id), what);
  }
  write->status = (tci_status){code, what};
  return false;
}

/* ---- what checks and stages have in common ---- */

static bool refuse_state(tci_write *w, const tci_prepared *item, int to, const char *why) {
  return tci_write_fault(w, item, TCI_FAILED_PRECONDITION, "state: %s '%.*s' is %s and cannot become %s: %s",
                         tci_node_kind_name((int)item->kind), TCI_STR_ARG(item->id), state_name(item, state_now(item)),
                         state_name(item, to), why);
}

static bool refuse_final(tci_write *w, const tci_prepared *item, const char *field) {
  const char *state = state_name(item, state_now(item));
  return tci_write_fault(w, item, TCI_FAILED_PRECONDITION,
                         "%s: %s '%.*s' is %s: it stays %s and this write would change it", field,
                         tci_node_kind_name((int)item->kind), TCI_STR_ARG(item->id), state, state);
}

static bool merge(tci_write *w, tci_prepared *item, tci_str old, tci_str given, const char *field) {
  item->merged = old;
  if (!given.len) return true;
  tci_buf merged = {0};
  tci_struct_merge(old, given, &merged);
  bool fits = merged.len <= (size_t)w->core->limits.node_bytes_max;
  item->merged_changed = !tci_str_eq(old, tci_buf_str(&merged));
  item->merged = fits ? tci_str_copy(w->arena, tci_buf_str(&merged)) : (tci_str){0};
  tci_buf_deinit(&merged);
  return fits ||
         tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "%s: larger than %lld bytes once merged (limit node_bytes_max)",
                         field, (long long)w->core->limits.node_bytes_max);
}

/* Index of a node that exists or is created by this write; false when there is none. */
static bool find(tci_write *w, tci_node_kind kind, tci_str id, uint64_t *index) {
  const tci_prepared *other = tci_map_get(kind == TCI_NODE_CHECK ? &w->by_check_id : &w->by_stage_id, id);
  const tci_node *node = tci_map_get(kind == TCI_NODE_CHECK ? &w->plan->checks : &w->plan->stages, id);
  if (!other && !node) return false;
  *index = other ? other->index : node->index;
  return true;
}

static bool same_dependencies(const tci_prepared *item, const tci_dependencies *deps, tci_predicate predicate) {
  if (!item->node) return false;
  const tci_group *group = &item->node->group;
  if (group->len != deps->len || group->predicate != predicate) return false;
  for (size_t i = 0; i < deps->len; i++)
    if (group->edges[i].target->index != item->targets[i] || group->edges[i].condition != deps->items[i].condition)
      return false;
  return true;
}

static bool dependencies(tci_write *w, tci_prepared *item, const tci_dependencies *deps, bool may_change) {
  if (!deps->given) return true;
  if (deps->len > (size_t)w->core->limits.dependencies_per_node_max)
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT,
                           "dependencies: more than %lld (limit dependencies_per_node_max)",
                           (long long)w->core->limits.dependencies_per_node_max);
  item->targets = tci_arena_array(w->arena, uint64_t, deps->len + 1);
  item->targets_len = deps->len;
  for (size_t i = 0; i < deps->len; i++) {
    const tci_dependency *d = &deps->items[i];
    if (d->target_kind == TCI_NODE_UNKNOWN)
      return tci_write_fault(
          w, item, TCI_INVALID_ARGUMENT,
          "dependencies.dependencies[%zu].target_type is missing; give NODE_TYPE_CHECK or NODE_TYPE_STAGE", i);
    if (!d->target_id.len)
      return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "dependencies.dependencies[%zu].target_id is empty", i);
    if (!find(w, d->target_kind, d->target_id, &item->targets[i]))
      return tci_write_fault(
          w, item, TCI_INVALID_ARGUMENT,
          "dependencies.dependencies[%zu].target_id: %s '%.*s' neither exists nor is created by this write", i,
          tci_node_kind_name((int)d->target_kind), TCI_STR_ARG(d->target_id));
  }
  tci_predicate predicate = deps->predicate ? deps->predicate : TCI_PREDICATE_AND;
  item->edges_changed = !same_dependencies(item, deps, predicate);
  if (!item->edges_changed) item->targets_len = 0;
  if (item->edges_changed && item->node && !may_change) {
    if (tci_node_is_final(item->node)) return refuse_final(w, item, "dependencies");
    return tci_write_fault(
        w, item, TCI_FAILED_PRECONDITION, "dependencies: %s '%.*s' is %s; they may change only before that",
        tci_node_kind_name((int)item->kind), TCI_STR_ARG(item->id), state_name(item, state_now(item)));
  }
  return true;
}

static bool version(tci_write *w, const tci_prepared *item, int64_t expected) {
  int64_t actual = item->node ? item->node->version : 0;
  if (expected == 0 || expected == actual) return true;
  return tci_write_fault(w, item, TCI_ABORTED,
                         "expected_version is %lld, but the %s is at version %lld; read it again and repeat",
                         (long long)expected, tci_node_kind_name((int)item->kind), (long long)actual);
}

/* ---- checks ---- */

static bool same_failure(const tci_failure *a, const tci_failure *b) {
  return a->present == b->present && tci_str_eq(a->message, b->message);
}

static bool assigns(const tci_stage_write *sw, tci_str check_id) {
  for (size_t i = 0; i < sw->assignments_len; i++)
    if (tci_str_eq(sw->assignments[i].check_id, check_id)) return true;
  return false;
}

/* The result that is to change; NULL: there will be a new one. The write's edges come before its results: a stage that joins
 * the check by the same write has said nothing there yet, and who leaves it speaks like anybody else. */
static const tci_result *result_before(tci_write *w, const tci_prepared *item, tci_check *check) {
  const tci_result_write *r = &item->check->result;
  bool of_stage = tci_str_eq(r->owner_type, TCI_STR("stage"));
  tci_stage *stage = of_stage ? tci_plan_stage(w->plan, r->owner_id) : NULL;
  const tci_prepared *written = of_stage ? tci_map_get(&w->by_stage_id, r->owner_id) : NULL;
  const tci_assignment *a = stage ? tci_stage_assignment(stage, check) : NULL;
  bool rewritten = written && written->stage->assignments_len;
  if (rewritten ? !assigns(written->stage, item->id) : !a) return tci_check_result(check, r->owner_type, r->owner_id);
  return a && a->result ? &check->results.items[a->result - 1] : NULL;
}

static bool check_result(tci_write *w, tci_prepared *item, tci_check *check) {
  const tci_check_write *cw = item->check;
  if (!cw->has_result) return true;
  const tci_result_write *r = &cw->result;
  if (r->data.len > (size_t)w->core->limits.node_bytes_max)
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "result.data: larger than %lld bytes (limit node_bytes_max)",
                           (long long)w->core->limits.node_bytes_max);
  const tci_result *old = check ? result_before(w, item, check) : NULL;
  bool finalize = r->finalize || cw->state == TCI_CHECK_FINAL;
  item->result_changed = !old || (r->data.len && !tci_str_eq(r->data, old->data)) || (finalize && !old->finalized_us) ||
                         (r->failure.present && !same_failure(&r->failure, &old->failure));
  if (!item->result_changed) return true;
  if (!old && check && check->results.len >= (size_t)w->core->limits.results_per_check_max)
    return tci_write_fault(w, item, TCI_RESOURCE_EXHAUSTED,
                           "result: the check has %zu results (limit results_per_check_max)", check->results.len);
  if (check && check->state == TCI_CHECK_FINAL) return refuse_final(w, item, "result");
  if (old && old->finalized_us)
    return tci_write_fault(w, item, TCI_FAILED_PRECONDITION,
                           "result: the result of %.*s '%.*s' is finalized and cannot change",
                           TCI_STR_ARG(r->owner_type), TCI_STR_ARG(r->owner_id));
  return true;
}

static bool check_state(tci_write *w, tci_prepared *item) {
  int from = state_now(item), to = (int)item->check->state;
  if (!item->node) {
    if (to == TCI_CHECK_WAITING) return refuse_state(w, item, to, "a new check is PLANNING, PLANNED or FINAL");
    item->to_state = to ? to : TCI_CHECK_PLANNING;
    return true;
  }
  if (to == 0 || to == from) return true;
  if (from == TCI_CHECK_FINAL) return refuse_state(w, item, to, "FINAL is immutable");
  if (!tci_check_may_move((tci_check_state)from, (tci_check_state)to))
    return refuse_state(w, item, to, "a check moves forward by one state, or straight to FINAL");
  if (to == TCI_CHECK_WAITING)
    return refuse_state(w, item, to, "the engine does that when its dependencies are satisfied");
  item->to_state = to;
  return true;
}

bool tci_write_check_item(tci_write *w, tci_prepared *item) {
  const tci_check_write *cw = item->check;
  tci_check *check = item->node ? tci_node_check(item->node) : NULL;
  item->fields_changed = cw->kind.len && (!check || !tci_str_eq(cw->kind, check->kind));
  if (!version(w, item, cw->expected_version)) return false;
  if (!merge(w, item, check ? check->options : (tci_str){0}, cw->options, "options")) return false;
  if (check && check->state == TCI_CHECK_FINAL && (item->fields_changed || item->merged_changed))
    return refuse_final(w, item, item->fields_changed ? "kind" : "options");
  bool early = !check || check->state == TCI_CHECK_PLANNING || check->state == TCI_CHECK_PLANNED;
  return dependencies(w, item, &cw->dependencies, early) && check_result(w, item, check) && check_state(w, item);
}

/* ---- stages ---- */

static bool same_assignments(const tci_prepared *item, const tci_stage *stage) {
  if (!stage || stage->assignments_len != item->checks_len) return false;
  for (size_t i = 0; i < item->checks_len; i++)
    if (stage->assignments[i].check->node.index != item->checks[i] ||
        stage->assignments[i].goal != item->stage->assignments[i].goal)
      return false;
  return true;
}

static int compare_u64(const void *a, const void *b) {
  const uint64_t *x = a, *y = b;
  return *x < *y ? -1 : *x > *y;
}

static bool has_twice(tci_write *w, const uint64_t *items, size_t len) {
  if (len < 2) return false;
  uint64_t *sorted = tci_arena_array(w->arena, uint64_t, len);
  memcpy(sorted, items, len * sizeof *items);
  qsort(sorted, len, sizeof *sorted, compare_u64);
  for (size_t i = 1; i < len; i++)
    if (sorted[i] == sorted[i - 1]) return true;
  return false;
}

static bool assignments(tci_write *w, tci_prepared *item, const tci_stage *stage) {
  const tci_stage_write *sw = item->stage;
  if (!sw->assignments_len) return true;
  if (sw->assignments_len > (size_t)w->core->limits.assignments_per_stage_max)
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT,
                           "assignments: more than %lld (limit assignments_per_stage_max)",
                           (long long)w->core->limits.assignments_per_stage_max);
  item->checks = tci_arena_array(w->arena, uint64_t, sw->assignments_len);
  item->checks_len = sw->assignments_len;
  for (size_t i = 0; i < sw->assignments_len; i++) {
    tci_str id = sw->assignments[i].check_id;
    if (!id.len) return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "assignments[%zu].target_check_id is empty", i);
    if (!find(w, TCI_NODE_CHECK, id, &item->checks[i]))
      return tci_write_fault(
          w, item, TCI_INVALID_ARGUMENT,
          "assignments[%zu].target_check_id: check '%.*s' neither exists nor is created by this write", i,
          TCI_STR_ARG(id));
  }
  if (has_twice(w, item->checks, item->checks_len))
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "assignments: the same check is assigned twice");
  item->assignments_changed = !same_assignments(item, stage);
  if (!item->assignments_changed) item->checks_len = 0;
  return true;
}

/* Durations and counts within their limits. */
static bool settings(tci_write *w, tci_prepared *item) {
  const tci_stage_write *sw = item->stage;
  const tci_limits *limits = &w->core->limits;
  const struct {
    const char *field, *limit;
    int64_t value, max;
  } numbers[] = {
      {"retry.max_attempts", "attempts_per_stage_max", sw->retry.max_attempts, limits->attempts_per_stage_max},
      {"retry.backoff_ms", "duration_ms_max", sw->retry.backoff_ms, limits->duration_ms_max},
      {"retry.backoff_ms_max", "duration_ms_max", sw->retry.backoff_ms_max, limits->duration_ms_max},
      {"timeouts.execution_ms", "duration_ms_max", sw->timeouts.execution_ms, limits->duration_ms_max},
      {"timeouts.stale_ms", "duration_ms_max", sw->timeouts.stale_ms, limits->duration_ms_max},
      {"priority", "priority_max", sw->priority < 0 ? -sw->priority : sw->priority, limits->priority_max},
  };
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    if (numbers[i].value > numbers[i].max)
      return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "%s: %lld is over the limit %s (%lld)", numbers[i].field,
                             (long long)numbers[i].value, numbers[i].limit, (long long)numbers[i].max);
  return true;
}

static bool fields_differ(const tci_stage_write *sw, const tci_stage *stage) {
  const tci_retry *r = &sw->retry;
  return (sw->priority && sw->priority != stage->priority) ||
         ((r->max_attempts || r->backoff_ms || r->backoff_ms_max) &&
          (r->max_attempts != stage->retry.max_attempts || r->backoff_ms != stage->retry.backoff_ms ||
           r->backoff_ms_max != stage->retry.backoff_ms_max)) ||
         (sw->timeouts.execution_ms && sw->timeouts.execution_ms != stage->timeouts.execution_ms) ||
         (sw->timeouts.stale_ms && sw->timeouts.stale_ms != stage->timeouts.stale_ms);
}

static bool early_fields(tci_write *w, tci_prepared *item, const tci_stage *stage) {
  const tci_stage_write *sw = item->stage;
  bool mode = sw->mode && sw->mode != stage->mode;
  bool type = sw->runner_type.len && !tci_str_eq(sw->runner_type, stage->runner_type);
  item->fields_changed = mode || type || fields_differ(sw, stage);
  if (stage->state == TCI_STAGE_FINAL) {
    if (item->fields_changed || item->merged_changed || item->assignments_changed)
      return refuse_final(w, item,
                          item->merged_changed        ? "args"
                          : item->assignments_changed ? "assignments"
                                                      : "settings");
  } else if (stage->state != TCI_STAGE_PLANNED && (mode || type || item->assignments_changed)) {
    return tci_write_fault(w, item, TCI_FAILED_PRECONDITION,
                           "%s: stage '%.*s' is %s; this may change only while it is PLANNED",
                           mode   ? "execution_mode"
                           : type ? "runner_type"
                                  : "assignments",
                           TCI_STR_ARG(item->id), tci_stage_state_name((int)stage->state));
  }
  return true;
}

/* The state a pulled stage's attempt is to have after the write; 0: stays. */
static int attempt_target(const tci_attempt_write *aw, const tci_attempt *a) {
  bool claims = aw->process_uid.len && a->state == TCI_ATTEMPT_PENDING;
  if (claims && aw->state <= TCI_ATTEMPT_PENDING && !aw->failure.present) return TCI_ATTEMPT_RUNNING;
  if (aw->state) return (int)aw->state;
  if (aw->failure.present) return TCI_ATTEMPT_INCOMPLETE;
  return 0;
}

/* The details as they would be; empty when none are given. */
static tci_buf merged_details(const tci_attempt_write *aw, const tci_attempt *a) {
  tci_buf merged = {0};
  if (aw->details.len) tci_struct_merge(a->details, aw->details, &merged);
  return merged;
}

static bool details_change(const tci_attempt_write *aw, const tci_attempt *a) {
  tci_buf merged = merged_details(aw, a);
  bool changes = merged.len && !tci_str_eq(tci_buf_str(&merged), a->details);
  tci_buf_deinit(&merged);
  return changes;
}

static bool details_fit(const tci_write *w, const tci_attempt_write *aw, const tci_attempt *a) {
  tci_buf merged = merged_details(aw, a);
  bool fit = merged.len <= (size_t)w->core->limits.node_bytes_max;
  tci_buf_deinit(&merged);
  return fit;
}

static bool attempt_changes(const tci_attempt_write *aw, const tci_attempt *a) {
  int to = attempt_target(aw, a);
  return (to && to != (int)a->state) || (aw->process_uid.len && !tci_str_eq(aw->process_uid, a->process_uid)) ||
         details_change(aw, a) || aw->has_progress;
}

static bool stage_attempt(tci_write *w, tci_prepared *item, const tci_stage *stage) {
  const tci_attempt_write *aw = &item->stage->attempt;
  if (!item->stage->has_attempt) return true;
  bool pulled = stage ? !stage->runner_type.len : !item->stage->runner_type.len;
  if (!pulled)
    return tci_write_fault(w, item, TCI_FAILED_PRECONDITION,
                           "current_attempt: the stage has a runner_type, so the engine drives its attempts");
  const tci_attempt *a = stage ? tci_stage_attempt(stage) : NULL;
  if (!a)
    return tci_write_fault(w, item, TCI_FAILED_PRECONDITION,
                           "current_attempt: stage '%.*s' is %s and has no attempt yet", TCI_STR_ARG(item->id),
                           tci_stage_state_name(stage ? (int)stage->state : TCI_STAGE_PLANNED));
  if (aw->failure.present && aw->state && aw->state != TCI_ATTEMPT_INCOMPLETE)
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT,
                           "current_attempt.failure: an attempt that is %s has none; give ATTEMPT_STATE_INCOMPLETE",
                           tci_attempt_state_name((int)aw->state));
  size_t progress = aw->progress_message.len + aw->progress_details.len;
  if (progress > (size_t)w->core->limits.progress_bytes_max)
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT,
                           "current_attempt.progress: %zu bytes, over the limit progress_bytes_max (%lld)", progress,
                           (long long)w->core->limits.progress_bytes_max);
  if (!details_fit(w, aw, a))
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT,
                           "current_attempt.details: larger than %lld bytes once merged (limit node_bytes_max)",
                           (long long)w->core->limits.node_bytes_max);
  if (!attempt_changes(aw, a)) return true;
  if (aw->process_uid.len && a->process_uid.len && !tci_str_eq(aw->process_uid, a->process_uid))
    return tci_write_fault(w, item, TCI_FAILED_PRECONDITION,
                           "current_attempt.process_uid: the attempt belongs to '%.*s' already",
                           TCI_STR_ARG(a->process_uid));
  if (!aw->process_uid.len && !a->process_uid.len)
    return tci_write_fault(
        w, item, TCI_FAILED_PRECONDITION,
        "current_attempt.process_uid is empty and nobody has claimed the attempt; give one to claim it");
  int to = attempt_target(aw, a);
  if (!tci_attempt_is_open(a) || (to && to < (int)a->state))
    return tci_write_fault(w, item, TCI_FAILED_PRECONDITION, "current_attempt: attempt %u is %s and cannot become %s",
                           a->index, tci_attempt_state_name((int)a->state),
                           tci_attempt_state_name(to ? to : (int)a->state));
  return true;
}

static bool pulled_final(tci_write *w, tci_prepared *item, const tci_stage *stage, int to) {
  const tci_attempt *a = tci_stage_attempt(stage);
  int after = a ? (int)a->state : 0;
  if (a && item->stage->has_attempt && attempt_target(&item->stage->attempt, a))
    after = attempt_target(&item->stage->attempt, a);
  if (after == TCI_ATTEMPT_COMPLETE || after == TCI_ATTEMPT_INCOMPLETE) {
    item->to_state = to;
    return true;
  }
  return refuse_state(w, item, to,
                      tci_fmt(w->arena, "its attempt is %s; complete it first", tci_attempt_state_name(after)));
}

static bool stage_state(tci_write *w, tci_prepared *item, const tci_stage *stage) {
  int from = state_now(item), to = (int)item->stage->state;
  if (!stage) {
    if (to && to != TCI_STAGE_PLANNED && to != TCI_STAGE_FINAL)
      return refuse_state(w, item, to, "a new stage is PLANNED or FINAL");
    item->to_state = to ? to : TCI_STAGE_PLANNED;
    return true;
  }
  if (to == 0 || to == from) return true;
  if (from == TCI_STAGE_FINAL) return refuse_state(w, item, to, "FINAL is immutable");
  if (!tci_stage_may_move((tci_stage_state)from, (tci_stage_state)to))
    return refuse_state(w, item, to, "that is no legal move");
  if (to == TCI_STAGE_ATTEMPTING)
    return refuse_state(w, item, to, "the engine does that when its dependencies are satisfied");
  if (from == TCI_STAGE_PLANNED) {
    item->to_state = to;
    return true;
  }
  if (stage->runner_type.len) return refuse_state(w, item, to, "it has a runner_type, so the engine drives it");
  return pulled_final(w, item, stage, to);
}

bool tci_write_stage_item(tci_write *w, tci_prepared *item) {
  const tci_stage_write *sw = item->stage;
  tci_stage *stage = item->node ? tci_node_stage(item->node) : NULL;
  if (!version(w, item, sw->expected_version) || !settings(w, item)) return false;
  if (!merge(w, item, stage ? stage->args : (tci_str){0}, sw->args, "args")) return false;
  if (!assignments(w, item, stage)) return false;
  if (stage && !early_fields(w, item, stage)) return false;
  bool planned = !stage || stage->state == TCI_STAGE_PLANNED;
  return dependencies(w, item, &sw->dependencies, planned) && stage_attempt(w, item, stage) &&
         stage_state(w, item, stage);
}

/* ---- applying an attempt of a pulled stage (write.c calls it; here because it mirrors the checks) ---- */

void tci_write_apply_attempt(tci_core *core, tci_stage *stage, const tci_attempt_write *aw) {
  tci_attempt *a = tci_stage_attempt(stage);
  if (!attempt_changes(aw, a)) return;
  int to = attempt_target(aw, a);
  tci_change c = {.type = TCI_CHANGE_ATTEMPT, .node = stage->node.index + 1u, .attempt = a->index};
  if (to == TCI_ATTEMPT_COMPLETE && a->state != TCI_ATTEMPT_RUNNING) { /* claimed and completed in one write */
    tci_change claim = c;
    claim.state = TCI_ATTEMPT_RUNNING;
    claim.process_uid = aw->process_uid;
    tci_emit(core, stage->node.plan, &claim);
  }
  if (aw->has_progress) tci_attempt_progress(core, a, aw->progress_message, aw->progress_details, aw->progress_us);
  tci_buf details = merged_details(aw, a);
  c.state = (uint64_t)to;
  c.process_uid = aw->process_uid;
  c.bytes = tci_buf_str(&details);
  tci_change_set_failure(&c, &aw->failure);
  if (c.failed && !c.failure_kind) c.failure_kind = TCI_FAILURE_REPORTED;
  if (to == TCI_ATTEMPT_INCOMPLETE && !c.failed) {
    c.failed = true;
    c.failure_kind = TCI_FAILURE_REPORTED;
  }
  tci_emit(core, stage->node.plan, &c);
  tci_buf_deinit(&details);
}
