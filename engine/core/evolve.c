/* evolve: changes -> model. The only code that moves the model, live and at recovery alike.
 *
 * Invariants: states move along states.c's tables only; what is rebuilt (edges' counters, pending results, loads) is kept
 * here, in step with what is stored. A change that does not fit returns a text: at recovery the journal is broken,
 * in a step it is our bug (core.c asserts).
 */
#include <string.h>

#include "core/internal.h"
#include "core/states.h"

enum { RESULTS_INDEXED_FROM = 16 };

tci_check *tci_plan_check(const tci_plan *plan, tci_str id) { return tci_map_get(&plan->checks, id); }
tci_stage *tci_plan_stage(const tci_plan *plan, tci_str id) { return tci_map_get(&plan->stages, id); }

tci_assignment *tci_stage_assignment(tci_stage *stage, const tci_check *check) {
  for (size_t i = 0; i < stage->assignments_len; i++)
    if (stage->assignments[i].check == check) return &stage->assignments[i];
  return NULL;
}

/* What a plan takes: an estimate, kept as it grows. Strings count when they come in a change (tci_evolve) and go here. */
static void weigh(tci_core *core, size_t more, size_t less) {
  if (core->subject) core->subject->bytes += more - less;
}

/* Replaces a heap string; the old bytes may still be borrowed by the update. */
static void replace(tci_core *core, tci_str *heap, tci_str with) {
  tci_str old = *heap;
  weigh(core, 0, old.len);
  *heap = tci_str_dup(with);
  tci_discard(core, (void *)old.ptr);
}

static tci_failure failure_of(const tci_change *c, int64_t wall_us) {
  if (!c->failed) return (tci_failure){0};
  return (tci_failure){true, (tci_failure_kind)c->failure_kind, tci_str_dup(c->failure_message),
                       c->failure_us ? (int64_t)c->failure_us : wall_us};
}

/* ---- plans ---- */

tci_plan *tci_plan_new(tci_core *core, uint64_t key, tci_str id, int64_t wall_us) {
  tci_plan *plan = tci_calloc(1, sizeof *plan);
  plan->key = key;
  plan->id = tci_str_copy(&plan->arena, id);
  plan->created_us = wall_us;
  plan->state = TCI_PLAN_ACTIVE;
  plan->whole = !core->loading;
  tci_list_init(&plan->watchers);
  tci_map_put(&core->plans, plan->id, plan);
  tci_map_put(&core->plans_by_key, TCI_U64_KEY(&plan->key), plan);
  tci_vec_push(&core->plan_list, plan);
  if (key >= core->next_plan_key) core->next_plan_key = key + 1;
  return plan;
}

static void attempt_free(tci_core *core, tci_attempt *a) {
  tci_attempt_unplace(core, a);
  for (size_t i = 0; i < a->progress.len; i++) {
    tci_str_free(&a->progress.items[i].message);
    tci_str_free(&a->progress.items[i].details);
  }
  tci_vec_free(&a->progress);
  for (size_t i = 0; i < a->decisions.len; i++) tci_str_free(&a->decisions.items[i]);
  tci_vec_free(&a->decisions);
  for (size_t i = 0; i < a->undecided.len; i++) tci_str_free(&a->undecided.items[i]);
  tci_vec_free(&a->undecided);
  tci_str *strings[] = {&a->process_uid, &a->details,         &a->failure.message,     &a->execution_id,
                        &a->runner_id,   &a->registration_id, &a->runner_execution_id, &a->exclude,
                        &a->keys,        &a->hold_text};
  for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) tci_str_free(strings[i]);
  free(a);
}

/* Returns of how many pieces it was. */
static size_t node_free(tci_core *core, tci_node *node) {
  free(node->group.edges);
  tci_vec_free(&node->dependents);
  if (node->kind == TCI_NODE_CHECK) {
    tci_check *check = tci_node_check(node);
    for (size_t i = 0; i < check->results.len; i++) {
      tci_result *r = &check->results.items[i];
      tci_str_free(&r->owner);
      tci_str_free(&r->data);
      tci_str_free(&r->failure.message);
    }
    size_t pieces = 1 + check->results.len;
    tci_vec_free(&check->results);
    tci_map_deinit(&check->by_owner);
    tci_vec_free(&check->assigned);
    tci_str_free(&check->kind);
    tci_str_free(&check->options);
    return pieces;
  }
  tci_stage *stage = tci_node_stage(node);
  size_t pieces = 1;
  for (size_t i = 0; i < stage->attempts.len; i++) {
    pieces += 4 + stage->attempts.items[i]->progress.len;
    attempt_free(core, stage->attempts.items[i]);
  }
  tci_vec_free(&stage->attempts);
  free(stage->assignments);
  tci_str_free(&stage->args);
  tci_str_free(&stage->runner_type);
  return pieces;
}

void tci_plan_leave(tci_core *core, tci_plan *plan) {
  while (!tci_list_empty(&plan->watchers))
    tci_watcher_free(core, tci_container(plan->watchers.next, tci_watcher, link));
  if (tci_link_in(&plan->idle)) tci_plan_unidle(core, plan);
  tci_map_remove(&core->plans, plan->id);
  tci_map_remove(&core->plans_by_key, TCI_U64_KEY(&plan->key));
  for (size_t i = 0; i < core->plan_list.len; i++) {
    if (core->plan_list.items[i] != plan) continue;
    memmove(&core->plan_list.items[i], &core->plan_list.items[i + 1], (--core->plan_list.len - i) * sizeof(tci_plan *));
    break;
  }
}

bool tci_plan_free(tci_core *core, tci_plan *plan, size_t *most) {
  for (; plan->nodes.len; plan->nodes.len--) {
    if (*most == 0) return false;
    size_t pieces = node_free(core, plan->nodes.items[plan->nodes.len - 1]);
    *most -= pieces < *most ? pieces : *most;
  }
  tci_vec_free(&plan->nodes);
  tci_map_deinit(&plan->checks);
  tci_map_deinit(&plan->stages);
  tci_arena_deinit(&plan->arena);
  free(plan);
  return true;
}

static const char *plan_state(tci_plan *plan, const tci_change *c) {
  if (c->state != TCI_PLAN_ACTIVE && c->state != TCI_PLAN_SETTLED) return "a plan in a state that there is not";
  plan->state = (tci_plan_state)c->state;
  if (plan->state == TCI_PLAN_SETTLED) plan->settled_sequence = plan->sequence;
  plan->outcome = (tci_outcome)c->outcome;
  return NULL;
}

/* ---- nodes ---- */

enum { NODE_BYTES = 160, ALLOCATION_BYTES = 16 }; /* its places in maps and lists; malloc's own */

static void node_init(tci_core *core, tci_plan *plan, tci_node *node, tci_node_kind kind, const tci_change *c,
                      int64_t wall_us) {
  node->kind = kind;
  node->index = (uint32_t)plan->nodes.len;
  node->plan = plan;
  node->id = tci_str_copy(&plan->arena, c->id);
  node->created_us = wall_us;
  node->created_sequence = plan->sequence;
  tci_vec_push(&plan->nodes, node);
  tci_map_put(kind == TCI_NODE_CHECK ? &plan->checks : &plan->stages, node->id, node);
  plan->open_nodes++;
  weigh(core, NODE_BYTES, 0);
  if (!c->edges_follow) tci_group_resolve(core, node);
}

static const char *check_created(tci_core *core, tci_plan *plan, const tci_change *c, int64_t wall_us) {
  if (!c->id.len || tci_plan_check(plan, c->id)) return "a check is created twice";
  if (!tci_check_may_move(TCI_CHECK_UNKNOWN, (tci_check_state)c->state)) return "a check is born in an odd state";
  tci_check *check = tci_arena_new(&plan->arena, tci_check);
  check->state = (tci_check_state)c->state;
  check->kind = tci_str_dup(c->kind);
  check->options = tci_str_dup(c->bytes);
  node_init(core, plan, &check->node, TCI_NODE_CHECK, c, wall_us);
  return NULL;
}

/* Its options are part of the requests of all stages that are assigned to it. */
static void check_fields(tci_core *core, tci_check *check, const tci_change *c) {
  size_t before = check->kind.len + check->options.len;
  if (c->kind.len) replace(core, &check->kind, c->kind);
  if (c->bytes.len) replace(core, &check->options, c->bytes);
  size_t after = check->kind.len + check->options.len;
  if (after == before) return;
  for (size_t i = 0; i < check->assigned.len; i++) check->assigned.items[i]->stage->request_bytes += after - before;
}

static void stage_fields(tci_core *core, tci_stage *stage, const tci_change *c) {
  if (c->bytes.len) {
    stage->request_bytes += c->bytes.len - stage->args.len;
    replace(core, &stage->args, c->bytes);
  }
  if (c->mode) stage->mode = (tci_mode)c->mode;
  if (c->kind.len) replace(core, &stage->runner_type, c->kind);
  if (c->priority) stage->priority = tci_unzigzag(c->priority);
  if (c->retry_max || c->backoff_ms || c->backoff_ms_max)
    stage->retry = (tci_retry){(int64_t)c->retry_max, (int64_t)c->backoff_ms, (int64_t)c->backoff_ms_max};
  if (c->execution_ms) stage->timeouts.execution_ms = (int64_t)c->execution_ms;
  if (c->stale_ms) stage->timeouts.stale_ms = (int64_t)c->stale_ms;
}

static const char *stage_created(tci_core *core, tci_plan *plan, const tci_change *c, int64_t wall_us) {
  if (!c->id.len || tci_plan_stage(plan, c->id)) return "a stage is created twice";
  tci_stage *stage = tci_arena_new(&plan->arena, tci_stage);
  stage->state = TCI_STAGE_PLANNED;
  stage->mode = TCI_MODE_SYNC;
  stage_fields(core, stage, c);
  node_init(core, plan, &stage->node, TCI_NODE_STAGE, c, wall_us);
  stage->request_bytes = tci_request_bytes_of(stage);
  return NULL;
}

/* Takes the node's edges out of its targets' lists. */
static void unlink_edges(tci_core *core, tci_node *node) {
  for (size_t i = 0; i < node->group.len; i++) {
    tci_edge *edge = &node->group.edges[i];
    tci_node *target = edge->target;
    target->dependents.items[target->dependents.len - 1]->position = edge->position;
    tci_vec_swap_remove(&target->dependents, edge->position);
  }
  weigh(core, 0, node->group.len * (sizeof(tci_edge) + sizeof(tci_edge *)));
  tci_discard(core, node->group.edges);
  node->group = (tci_group){0};
}

static const char *set_dependencies(tci_core *core, tci_plan *plan, tci_node *node, tci_str bytes) {
  tci_edges_reader reader;
  uint64_t predicate;
  size_t len;
  if (!tci_edges_open(bytes, &reader, &predicate, &len)) return "dependencies are malformed";
  if (predicate > TCI_PREDICATE_OR) return "dependencies with a predicate that there is not";
  unlink_edges(core, node);
  node->group.predicate = (tci_predicate)predicate;
  node->group.edges = tci_calloc(len ? len : 1, sizeof(tci_edge));
  weigh(core, len * (sizeof(tci_edge) + sizeof(tci_edge *)), 0);
  while (tci_edges_next(&reader)) {
    if (reader.node == 0 || reader.node > plan->nodes.len) return "a dependency leads nowhere";
    if (reader.number > TCI_ON_FAILURE) return "a dependency with a condition that there is not";
    tci_edge *edge = &node->group.edges[node->group.len++];
    *edge = (tci_edge){
        .owner = node, .target = plan->nodes.items[reader.node - 1], .condition = (tci_condition)reader.number};
    edge->position = edge->target->dependents.len;
    tci_vec_push(&edge->target->dependents, edge);
  }
  return NULL;
}

static void mark_done(tci_assignment *a) {
  if (a->done) return;
  a->done = true;
  if (tci_goal_counts(a->goal)) a->check->pending--;
}

/* The stage leaves all its checks. A later search in the same step finds by its mark, from *base, what it was assigned to. */
static void leave_checks(tci_core *core, tci_stage *stage, uint64_t *base) {
  *base = core->mark += 2;
  for (size_t i = 0; i < stage->assignments_len; i++) {
    tci_assignment *a = &stage->assignments[i];
    tci_check *check = a->check;
    check->node.mark = ++core->mark;
    if (!tci_goal_counts(a->goal)) continue;
    if (!a->done) check->pending--;
    check->assigned.items[check->assigned.len - 1]->position = a->position;
    tci_vec_swap_remove(&check->assigned, a->position);
  }
}

/* What the stage has said of a check it was assigned to already stays its word. What anybody said in its name before it was
 * assigned does not: it owes a result of its own. */
static void join_check(tci_assignment *a, const tci_assignment *before) {
  if (tci_goal_counts(a->goal)) {
    a->position = a->check->assigned.len;
    tci_vec_push(&a->check->assigned, a);
    a->check->pending++;
  }
  a->result = before ? before->result : 0;
  if (a->stage->state == TCI_STAGE_FINAL || (a->result && a->check->results.items[a->result - 1].finalized_us))
    mark_done(a);
}

static const char *set_assignments(tci_core *core, tci_plan *plan, tci_stage *stage, tci_str bytes) {
  tci_edges_reader reader;
  uint64_t predicate, base;
  size_t len;
  if (!tci_edges_open(bytes, &reader, &predicate, &len)) return "assignments are malformed";
  leave_checks(core, stage, &base);
  const tci_assignment *before = stage->assignments;
  weigh(core, len * sizeof(tci_assignment), stage->assignments_len * sizeof(tci_assignment));
  tci_discard(core, stage->assignments); /* freed after the step */
  stage->assignments = tci_calloc(len ? len : 1, sizeof(tci_assignment));
  stage->assignments_len = 0;
  while (tci_edges_next(&reader)) {
    if (reader.node == 0 || reader.node > plan->nodes.len) return "an assignment leads nowhere";
    tci_node *target = plan->nodes.items[reader.node - 1];
    if (target->kind != TCI_NODE_CHECK) return "an assignment leads to a stage";
    if (reader.number > TCI_CHECK_FINAL) return "an assignment with a goal that there is not";
    tci_assignment *a = &stage->assignments[stage->assignments_len++];
    *a = (tci_assignment){.check = tci_node_check(target), .stage = stage, .goal = (tci_check_state)reader.number};
    join_check(a, target->mark > base ? &before[target->mark - base - 1] : NULL);
  }
  stage->request_bytes = tci_request_bytes_of(stage);
  return NULL;
}

static const char *edges(tci_core *core, tci_plan *plan, tci_node *node, const tci_change *c) {
  if (c->dependencies.len || c->created) {
    const char *fault = set_dependencies(core, plan, node, c->dependencies);
    if (fault) return fault;
    for (size_t i = 0; i < node->group.len; i++)
      if (tci_node_is_final(node->group.edges[i].target)) tci_group_count(core, &node->group.edges[i]);
    tci_group_resolve(core, node);
  }
  if (c->assignments.len) {
    if (node->kind != TCI_NODE_STAGE) return "a check is assigned to a check";
    return set_assignments(core, plan, tci_node_stage(node), c->assignments);
  }
  return NULL;
}

/* A node became FINAL: everybody who waits for it counts it, once. */
static void finished(tci_core *core, tci_plan *plan, tci_node *node, const tci_change *c) {
  node->outcome = (tci_outcome)c->outcome;
  node->reason = (tci_reason)c->reason;
  plan->open_nodes--;
  if (node->kind == TCI_NODE_CHECK)
    plan->checks_final++;
  else
    plan->stages_final++;
  plan->nodes_failed += node->outcome == TCI_OUTCOME_FAILED;
  plan->nodes_cancelled += node->outcome == TCI_OUTCOME_CANCELLED;
  for (size_t i = 0; i < node->dependents.len; i++) tci_group_count(core, node->dependents.items[i]);
}

static const char *check_state(tci_core *core, tci_plan *plan, tci_check *check, const tci_change *c) {
  tci_check_state to = (tci_check_state)c->state;
  if (!tci_check_may_move(check->state, to)) return "a check makes an illegal move";
  check->state = to;
  if (to == TCI_CHECK_FINAL) finished(core, plan, &check->node, c);
  if (to == TCI_CHECK_PLANNED && check->node.group.state != TCI_GROUP_OPEN) tci_list_resolved(core, &check->node);
  return NULL;
}

static const char *stage_state(tci_core *core, tci_plan *plan, tci_stage *stage, const tci_change *c) {
  tci_stage_state to = (tci_stage_state)c->state;
  if (!tci_stage_may_move(stage->state, to)) return "a stage makes an illegal move";
  stage->state = to;
  if (to != TCI_STAGE_FINAL) return NULL;
  for (size_t i = 0; i < stage->assignments_len; i++) mark_done(&stage->assignments[i]);
  finished(core, plan, &stage->node, c);
  tci_list_ended(core, &stage->node);
  return NULL;
}

tci_str tci_owner_key(tci_str owner_type, tci_str owner_id) {
  char *key = tci_malloc(owner_type.len + 1 + owner_id.len);
  if (owner_type.len) memcpy(key, owner_type.ptr, owner_type.len);
  key[owner_type.len] = 0;
  if (owner_id.len) memcpy(key + owner_type.len + 1, owner_id.ptr, owner_id.len);
  return (tci_str){key, owner_type.len + 1 + owner_id.len};
}

static void index_result(tci_check *check, size_t place) {
  tci_map_put(&check->by_owner, check->results.items[place - 1].owner, (void *)(uintptr_t)place);
}

/* A result keeps its owner for ever. Few are searched one by one, more by a map. */
static void add_result(tci_core *core, tci_check *check, const tci_change *c, int64_t wall_us) {
  tci_str owner = tci_owner_key(c->owner_type, c->owner_id);
  tci_str type = {owner.ptr, c->owner_type.len}, id = {owner.ptr + type.len + 1, c->owner_id.len};
  tci_vec_push(
      &check->results,
      ((tci_result){
          .id = (int64_t)c->result, .created_us = wall_us, .owner = owner, .owner_type = type, .owner_id = id}));
  weigh(core, sizeof(tci_result) + owner.len + 2 * ALLOCATION_BYTES, 0);
  size_t len = check->results.len;
  if (len == RESULTS_INDEXED_FROM)
    for (size_t place = 1; place < len; place++) index_result(check, place);
  if (len >= RESULTS_INDEXED_FROM) index_result(check, len);
}

static const char *check_result(tci_core *core, tci_plan *plan, tci_check *check, const tci_change *c,
                                int64_t wall_us) {
  if (c->result == 0 || c->result > check->results.len + 1) return "a result's id is out of order";
  if (c->result == check->results.len + 1) add_result(core, check, c, wall_us);
  tci_result *r = &check->results.items[c->result - 1];
  if (!tci_str_eq(r->owner_type, c->owner_type) || !tci_str_eq(r->owner_id, c->owner_id))
    return "a result changes its owner";
  replace(core, &r->data, c->bytes);
  weigh(core, 0, r->failure.message.len);
  tci_discard(core, (void *)r->failure.message.ptr);
  r->failure = failure_of(c, wall_us);
  if (c->finalized && !r->finalized_us) r->finalized_us = wall_us;
  if (!tci_str_eq(r->owner_type, TCI_STR("stage"))) return NULL;
  tci_stage *stage = tci_plan_stage(plan, r->owner_id);
  tci_assignment *a = stage ? tci_stage_assignment(stage, check) : NULL;
  if (a) {
    a->result = c->result;
    if (r->finalized_us) mark_done(a);
  }
  return NULL;
}

/* ---- attempts ---- */

static const char *attempt_created(tci_core *core, tci_plan *plan, tci_stage *stage, const tci_change *c,
                                   int64_t wall_us) {
  if (c->attempt != stage->attempts.len + 1) return "an attempt's index is out of order";
  tci_attempt *a = tci_calloc(1, sizeof *a);
  a->stage = stage;
  a->index = (uint32_t)c->attempt;
  a->mode = stage->mode;
  a->created_us = wall_us;
  tci_vec_push(&stage->attempts, a);
  weigh(core, sizeof *a + 4 * ALLOCATION_BYTES, 0);
  if (c->execution) plan->live_attempts++;
  return NULL;
}

static void attempt_state(tci_attempt *a, tci_attempt_state to, int64_t wall_us) {
  a->state = to;
  if (to == TCI_ATTEMPT_RUNNING && !a->started_us) a->started_us = wall_us;
  if (!tci_attempt_is_open(a)) a->finished_us = wall_us;
}

static void attempt_fields(tci_core *core, tci_attempt *a, const tci_change *c, int64_t wall_us) {
  if (c->execution_id.len) replace(core, &a->execution_id, c->execution_id);
  if (c->process_uid.len) replace(core, &a->process_uid, c->process_uid);
  if (c->bytes.len) replace(core, &a->details, c->bytes);
  if (c->runner_id.len) replace(core, &a->runner_id, c->runner_id);
  if (c->registration_id.len) replace(core, &a->registration_id, c->registration_id);
  if (c->runner_execution_id.len) replace(core, &a->runner_execution_id, c->runner_execution_id);
  if (c->exclude.len) replace(core, &a->exclude, c->exclude);
  if (c->keys.len) replace(core, &a->keys, c->keys);
  if (c->decision.len) tci_vec_push(&a->decisions, tci_str_dup(c->decision));
  if (c->not_before_us) a->not_before_us = (int64_t)c->not_before_us;
  if (c->deadline_us) a->deadline_us = (int64_t)c->deadline_us;
  if (c->execution_ms) a->execution_ms = (int64_t)c->execution_ms;
  if (c->stale_ms) a->stale_ms = (int64_t)c->stale_ms;
  if (c->accepted) a->accepted = true;
  if (c->failed) {
    weigh(core, 0, a->failure.message.len);
    tci_discard(core, (void *)a->failure.message.ptr);
    a->failure = failure_of(c, wall_us);
  }
  if (c->has_digest) {
    a->has_digest = true;
    a->digest[0] = c->digest0;
    a->digest[1] = c->digest1;
  }
}

static const char *attempt(tci_core *core, tci_plan *plan, tci_stage *stage, const tci_change *c, int64_t wall_us) {
  if (c->attempt == 0) return "an attempt without index";
  if (c->attempt > stage->attempts.len) {
    const char *fault = attempt_created(core, plan, stage, c, wall_us);
    if (fault) return fault;
  }
  tci_attempt *a = stage->attempts.items[c->attempt - 1];
  tci_attempt_state to = (tci_attempt_state)c->state;
  tci_execution_state execution = (tci_execution_state)c->execution;
  if (c->keys.len && a->execution >= TCI_EXECUTION_DISPATCHED)
    return "an attempt that holds admission keys gets others";
  if (to && to != a->state) {
    if (!tci_attempt_may_move(a->state, to)) return "an attempt makes an illegal move";
    attempt_state(a, to, wall_us);
  }
  if (execution && execution != a->execution) {
    if (!tci_execution_may_move(a->execution, execution)) return "an execution makes an illegal move";
    a->execution = execution;
    if (execution == TCI_EXECUTION_DISPATCHED) a->dispatched_us = wall_us;
    if (execution >= TCI_EXECUTION_COMPLETE) plan->live_attempts--;
  }
  attempt_fields(core, a, c, wall_us);
  a->updated_us = wall_us;
  tci_attempt_place(core, a);
  return NULL;
}

static size_t progress_weight(const tci_progress *p) {
  return sizeof *p + 2 * ALLOCATION_BYTES + p->message.len + p->details.len;
}

/* Takes out the oldest. */
static void drop_progress(tci_core *core, tci_attempt *a, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const tci_progress *old = &a->progress.items[i];
    a->progress_bytes -= old->message.len + old->details.len;
    weigh(core, 0, progress_weight(old));
    tci_discard(core, (void *)old->message.ptr);
    tci_discard(core, (void *)old->details.ptr);
  }
  if (!n) return;
  a->progress.len -= n;
  a->progress_dropped += n;
  memmove(a->progress.items, a->progress.items + n, a->progress.len * sizeof(tci_progress));
  if (a->progress_pending > a->progress.len) a->progress_pending = a->progress.len;
}

void tci_progress_add(tci_core *core, tci_attempt *a, tci_str message, tci_str details, int64_t at_us) {
  core->subject = a->stage->node.plan;
  tci_progress entry = {tci_str_dup(message), tci_str_dup(details), at_us};
  tci_vec_push(&a->progress, entry);
  weigh(core, progress_weight(&entry), 0);
  a->progress_bytes += message.len + details.len;
  size_t drop = 0, bytes = a->progress_bytes;
  while (a->progress.len - drop > (size_t)core->limits.progress_entries_max ||
         (bytes > (size_t)core->limits.progress_bytes_max && a->progress.len - drop > 1)) {
    const tci_progress *old = &a->progress.items[drop++];
    bytes -= old->message.len + old->details.len;
  }
  drop_progress(core, a, drop);
}

void tci_progress_take_pending(tci_core *core, tci_attempt *a, tci_progress *out) {
  core->subject = a->stage->node.plan;
  size_t first = a->progress.len - a->progress_pending;
  for (size_t i = first; i < a->progress.len; i++) {
    *out = a->progress.items[i];
    a->progress_bytes -= out->message.len + out->details.len;
    weigh(core, 0, progress_weight(out));
    tci_discard(core, (void *)out->message.ptr);
    tci_discard(core, (void *)out->details.ptr);
    out++;
  }
  a->progress.len = first;
  a->progress_pending = 0;
}

static const char *progress(tci_core *core, tci_stage *stage, const tci_change *c, int64_t wall_us) {
  if (c->attempt == 0 || c->attempt > stage->attempts.len) return "progress of no attempt";
  tci_attempt *a = stage->attempts.items[c->attempt - 1];
  if (c->entry >
      a->progress_dropped + a->progress.len) { /* those between were dropped before they got here: these are older */
    drop_progress(core, a, a->progress.len);
    a->progress_dropped = c->entry;
  }
  tci_progress_add(core, a, c->message, c->bytes, c->at_us ? (int64_t)c->at_us : wall_us);
  a->updated_us = wall_us;
  tci_attempt_place(core, a);
  return NULL;
}

/* ---- runners (plan 0) ---- */

static tci_pairs pairs_dup(tci_str bytes) {
  tci_arena arena = {0};
  tci_pairs in, out = {NULL, 0};
  if (tci_pairs_decode(bytes, &arena, &in) && in.len) {
    char *block = tci_malloc(in.len * sizeof(tci_pair) + bytes.len);
    char *text = block + in.len * sizeof(tci_pair);
    out = (tci_pairs){(tci_pair *)(void *)block, in.len};
    for (size_t i = 0; i < in.len; i++) {
      out.items[i].key = (tci_str){memcpy(text, in.items[i].key.ptr, in.items[i].key.len), in.items[i].key.len};
      text += in.items[i].key.len;
      tci_str value = in.items[i].value;
      out.items[i].value = (tci_str){value.len ? memcpy(text, value.ptr, value.len) : text, value.len};
      text += value.len;
    }
  }
  tci_arena_deinit(&arena);
  return out;
}

static void pool_leave(tci_core *core, tci_runner *r) {
  tci_pool *pool = r->pool;
  for (size_t i = 0; i < pool->runners.len; i++) {
    if (pool->runners.items[i] != r) continue;
    memmove(&pool->runners.items[i], &pool->runners.items[i + 1], (--pool->runners.len - i) * sizeof(tci_runner *));
    break;
  }
  r->pool = NULL;
  tci_pool_trim(core, pool);
}

void tci_runner_free(tci_core *core, tci_runner *r) {
  while (!tci_list_empty(&r->live)) {
    tci_attempt *a = tci_container(r->live.next, tci_attempt, live);
    tci_link_remove(&a->live);
    a->runner = NULL;
  }
  tci_heap_clear(&core->timers, &r->timer);
  tci_vec_push(&core->free_slots, r->slot);
  tci_map_remove(&core->runners, r->runner_id);
  tci_map_remove(&core->registrations, r->registration_id);
  pool_leave(core, r);
  for (size_t i = 0; i < core->runner_list.len; i++) {
    if (core->runner_list.items[i] != r) continue;
    memmove(&core->runner_list.items[i], &core->runner_list.items[i + 1],
            (--core->runner_list.len - i) * sizeof(tci_runner *));
    break;
  }
  tci_discard(core, (void *)r->runner_id.ptr);
  tci_discard(core, (void *)r->registration_id.ptr);
  tci_discard(core, (void *)r->runner_type.ptr);
  tci_discard(core, (void *)r->address.ptr);
  tci_discard(core, r->metadata.items);
  tci_discard(core, r);
}

static const char *runner(tci_core *core, const tci_change *c, int64_t wall_us) {
  if (!c->id.len || !c->registration_id.len || !c->kind.len) return "a runner without ids";
  tci_runner *r = tci_map_get(&core->runners, c->id);
  if (!r) {
    r = tci_calloc(1, sizeof *r);
    r->runner_id = tci_str_dup(c->id);
    r->registration_id = tci_str_dup(c->registration_id);
    r->registered_us = wall_us;
    r->serial = ++core->serials;
    r->slot = core->free_slots.len ? core->free_slots.items[--core->free_slots.len] : core->slots++;
    tci_list_init(&r->live);
    tci_map_put(&core->runners, r->runner_id, r);
    tci_map_put(&core->registrations, r->registration_id, r);
    tci_vec_push(&core->runner_list, r);
  } else if (!tci_str_eq(r->registration_id, c->registration_id)) {
    return "a runner changes its registration";
  }
  if (!tci_str_eq(r->runner_type, c->kind)) {
    if (r->pool) pool_leave(core, r);
    replace(core, &r->runner_type, c->kind);
    r->pool = tci_pool_get(core, r->runner_type);
    tci_vec_push(&r->pool->runners, r);
  }
  replace(core, &r->address, c->address);
  for (unsigned mode = 0; mode < TCI_MODES; mode++) r->modes[mode] = (c->mode >> mode) & 1;
  r->max_concurrent = (int64_t)c->max_concurrent;
  r->ttl_ms = (int64_t)c->ttl_ms;
  tci_discard(core, r->metadata.items);
  r->metadata = pairs_dup(c->metadata);
  tci_runner_heard(core, r, wall_us);
  return NULL;
}

static const char *runner_gone(tci_core *core, const tci_change *c) {
  tci_runner *r = tci_map_get(&core->registrations, c->registration_id);
  if (!r) return "a runner goes that was not there";
  tci_runner_free(core, r);
  return NULL;
}

/* ---- the door ---- */

static const char *node_change(tci_core *core, tci_plan *plan, const tci_change *c, int64_t wall_us) {
  if (c->node == 0 || c->node > plan->nodes.len) return "a change to no node";
  tci_node *node = plan->nodes.items[c->node - 1];
  /* Journals of earlier engines may hold a result that came to a FINAL check: what was stored is shown as it was. */
  if (!core->loading && tci_node_is_final(node)) return "a node that is FINAL changes";
  bool is_check = node->kind == TCI_NODE_CHECK;
  tci_check *check = is_check ? tci_node_check(node) : NULL;
  tci_stage *stage = is_check ? NULL : tci_node_stage(node);
  node->version = (int64_t)c->version;
  node->updated_us = wall_us;
  node->touched_step = core->step_no;
  switch (c->type) {
    case TCI_CHANGE_EDGES: return edges(core, plan, node, c);
    case TCI_CHANGE_CHECK_UPDATED:
      if (!check) return "a check's change to a stage";
      check_fields(core, check, c);
      return NULL;
    case TCI_CHANGE_CHECK_STATE: return check ? check_state(core, plan, check, c) : "a check's move of a stage";
    case TCI_CHANGE_CHECK_RESULT:
      return check ? check_result(core, plan, check, c, wall_us) : "a check's result in a stage";
    case TCI_CHANGE_STAGE_UPDATED:
      if (!stage) return "a stage's change to a check";
      stage_fields(core, stage, c);
      return NULL;
    case TCI_CHANGE_STAGE_STATE: return stage ? stage_state(core, plan, stage, c) : "a stage's move of a check";
    case TCI_CHANGE_ATTEMPT: return stage ? attempt(core, plan, stage, c, wall_us) : "an attempt of a check";
    case TCI_CHANGE_PROGRESS: return stage ? progress(core, stage, c, wall_us) : "progress of a check";
    default: return "a change of unknown type";
  }
}

static const char *created(tci_core *core, tci_plan *plan, const tci_change *c, int64_t wall_us) {
  const char *fault = c->type == TCI_CHANGE_CHECK_CREATED ? check_created(core, plan, c, wall_us)
                                                          : stage_created(core, plan, c, wall_us);
  if (fault) return fault;
  tci_node *node = plan->nodes.items[plan->nodes.len - 1];
  node->version = (int64_t)c->version;
  node->updated_us = wall_us;
  node->touched_step = core->step_no;
  return NULL;
}

/* The strings of a change that are kept. */
static size_t kept_bytes(const tci_change *c) {
  if (c->type == TCI_CHANGE_PROGRESS) return 0; /* tci_progress_add */
  return c->id.len + c->bytes.len + c->kind.len + c->execution_id.len + c->process_uid.len + c->runner_id.len +
         c->registration_id.len + c->runner_execution_id.len + c->failure_message.len + c->message.len +
         c->decision.len + c->exclude.len + c->keys.len + c->metadata.len;
}

const char *tci_evolve(tci_core *core, tci_plan *plan, const tci_change *c, int64_t wall_us) {
  core->subject = plan;
  if (!plan) {
    if (c->type == TCI_CHANGE_RUNNER) return runner(core, c, wall_us);
    if (c->type == TCI_CHANGE_RUNNER_GONE) return runner_gone(core, c);
    if (c->type == TCI_CHANGE_POLICY) return tci_policy_evolve(core, c);
    if (c->type == TCI_CHANGE_PLAN_ASIDE) return tci_quarantine_evolve(core, c);
    return "a change of no plan";
  }
  plan->updated_us = wall_us;
  weigh(core, kept_bytes(c), 0);
  switch (c->type) {
    case TCI_CHANGE_PLAN_CREATED:
      plan->policy = tci_str_copy(&plan->arena, c->policy);
      return tci_pairs_decode(tci_str_copy(&plan->arena, c->metadata), &plan->arena, &plan->metadata)
                 ? NULL
                 : "metadata is malformed";
    case TCI_CHANGE_PLAN_STATE: return plan_state(plan, c);
    case TCI_CHANGE_CHECK_CREATED:
    case TCI_CHANGE_STAGE_CREATED: return created(core, plan, c, wall_us);
    default: return node_change(core, plan, c, wall_us);
  }
}
