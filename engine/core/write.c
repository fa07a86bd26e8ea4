/* write: CreateWorkPlan and WriteNodes. First everything is checked, then it is applied; applying cannot fail.
 *
 * Invariants: a write is atomic: one fault, and nothing of it happened; names resolve to nodes that exist or are created
 * by the same write; new nodes are numbered in request order, checks first.
 */
#include "core/write.h"

#include "base/guess.h"

/* A typo must not become a plan that runs under another policy. */
static bool refuse_policy(tci_core *core, const tci_event *event, tci_str name) {
  if (!name.len || tci_policy_find(core->set, name)) return false;
  tci_buf known = {0};
  tci_guess guess = tci_guess_start(name);
  for (size_t i = 0; core->set && i < core->set->len; i++) {
    if (i) tci_buf_add(&known, TCI_STR(", "));
    tci_buf_add(&known, core->set->policies[i]->name);
    tci_guess_offer(&guess, core->set->policies[i]->name);
  }
  tci_refuse(core, event, TCI_INVALID_ARGUMENT,
             "CreateWorkPlanRequest.policy: this server has no policy '%.*s'%s; it has: %.*s", TCI_STR_ARG(name),
             tci_guess_text(&guess, &core->update->arena),
             TCI_STR_ARG(known.len ? tci_buf_str(&known) : TCI_STR("none")));
  tci_buf_deinit(&known);
  return true;
}

void tci_on_create_plan(tci_core *core, const tci_event *event) {
  tci_str policy = event->command.create_plan.policy;
  if (refuse_policy(core, event, policy)) return;
  uint8_t bytes[16];
  char id[3 + 26 + 1] = "wp-";
  static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
  do {
    tci_rng_bytes(&core->rng, bytes, sizeof bytes);
    for (int i = 0; i < 26; i++) { /* 5 bits a digit, 128 bits in all */
      int bit = i * 5, byte = bit / 8;
      unsigned pair = (unsigned)bytes[byte] << 8 | (byte + 1 < 16 ? bytes[byte + 1] : 0u);
      id[3 + i] = digits[(pair >> (11 - bit % 8)) & 31];
    }
    id[29] = 0;
  } while (tci_map_get(&core->plans, tci_str_from(id)));
  tci_plan *plan = tci_plan_new(core, core->next_plan_key, tci_str_from(id), core->now.wall_us);
  tci_buf metadata = {0};
  tci_pairs_encode(event->command.create_plan.metadata, &metadata);
  tci_emit(core, plan,
           &(tci_change){
               .type = TCI_CHANGE_PLAN_CREATED, .id = plan->id, .metadata = tci_buf_str(&metadata), .policy = policy});
  tci_buf_deinit(&metadata);
  tci_answer_ok(core, event, TCI_REPLY_PLAN)->plan = plan;
}

/* ---- check ---- */

const tci_prepared *tci_write_item(const tci_write *w, uint64_t index) {
  if (index >= w->existing) return index - w->existing < w->created ? w->fresh[index - w->existing] : NULL;
  return w->by_index.len ? tci_map_get(&w->by_index, TCI_U64_KEY(&index)) : NULL;
}

/* Takes in one id: empty, written twice, or too many nodes are faults. */
static bool take(tci_write *w, tci_prepared *item) {
  tci_map *map = item->kind == TCI_NODE_CHECK ? &w->by_check_id : &w->by_stage_id;
  if (!item->id.len) return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "id is empty; it is required");
  if (tci_map_get(map, item->id))
    return tci_write_fault(w, item, TCI_INVALID_ARGUMENT, "id: written twice in one request; write it once");
  item->node = tci_map_get(item->kind == TCI_NODE_CHECK ? &w->plan->checks : &w->plan->stages, item->id);
  item->index = item->node ? item->node->index : w->plan->nodes.len + w->created++;
  tci_map_put(map, item->id, item);
  if (item->node)
    tci_map_put(&w->by_index, TCI_U64_KEY(&item->index), item);
  else
    w->fresh[w->created - 1] = item;
  if (w->plan->nodes.len + w->created <= (size_t)w->core->limits.nodes_per_plan_max) return true;
  return tci_write_fault(w, item, TCI_RESOURCE_EXHAUSTED,
                         "the plan would have more than %lld nodes (limit nodes_per_plan_max)",
                         (long long)w->core->limits.nodes_per_plan_max);
}

/* What one turn can do at once. The message alone is no bound: a node may take seven bytes of it. */
static bool is_not_too_much(tci_write *w, const tci_command *cmd) {
  const tci_limits *limits = &w->core->limits;
  size_t nodes = cmd->write_nodes.checks_len + cmd->write_nodes.stages_len, edges = 0;
  for (size_t i = 0; i < cmd->write_nodes.checks_len; i++) edges += cmd->write_nodes.checks[i].dependencies.len;
  for (size_t i = 0; i < cmd->write_nodes.stages_len; i++)
    edges += cmd->write_nodes.stages[i].dependencies.len + cmd->write_nodes.stages[i].assignments_len;
  if (nodes > (size_t)limits->write_nodes_max)
    return tci_write_fault(w, NULL, TCI_RESOURCE_EXHAUSTED,
                           "the write has %zu nodes, over the limit write_nodes_max (%lld); spread them over several",
                           nodes, (long long)limits->write_nodes_max);
  if (edges > (size_t)limits->write_edges_max)
    return tci_write_fault(w, NULL, TCI_RESOURCE_EXHAUSTED,
                           "the write has %zu dependencies and assignments, over the limit write_edges_max (%lld); "
                           "spread them over several",
                           edges, (long long)limits->write_edges_max);
  return true;
}

static bool prepare(tci_write *w, const tci_command *cmd) {
  size_t checks = cmd->write_nodes.checks_len;
  w->len = checks + cmd->write_nodes.stages_len;
  w->items = tci_arena_array(w->arena, tci_prepared, w->len + 1);
  w->existing = w->plan->nodes.len;
  w->fresh = tci_arena_array(w->arena, tci_prepared *, w->len + 1);
  for (size_t i = 0; i < w->len; i++) {
    tci_prepared *item = &w->items[i];
    bool is_check = i < checks;
    item->kind = is_check ? TCI_NODE_CHECK : TCI_NODE_STAGE;
    item->position = is_check ? i : i - checks;
    if (is_check)
      item->check = &cmd->write_nodes.checks[i];
    else
      item->stage = &cmd->write_nodes.stages[i - checks];
    item->id = is_check ? item->check->id : item->stage->id;
    if (!take(w, item)) return false;
  }
  for (size_t i = 0; i < w->len; i++) {
    tci_prepared *item = &w->items[i];
    if (!(item->kind == TCI_NODE_CHECK ? tci_write_check_item(w, item) : tci_write_stage_item(w, item))) return false;
  }
  return true;
}

/* Nobody is to learn from a reply too large to be received that the write was done. */
static bool fits(tci_write *w, const tci_command *cmd) {
  if (cmd->write_nodes.omit_nodes) return true;
  size_t bytes = tci_write_reply_bytes(w), most = (size_t)w->core->limits.page_bytes_max;
  if (bytes <= most) return true;
  return tci_write_fault(w, NULL, TCI_RESOURCE_EXHAUSTED,
                         "the reply would be about %zu bytes, over the limit page_bytes_max (%zu); set omit_nodes or "
                         "write fewer nodes",
                         bytes, most);
}

static bool expected(tci_write *w, const tci_command *cmd) {
  int64_t version = cmd->write_nodes.expected_plan_version;
  if (version == 0 || version == w->plan->version) return true;
  return tci_write_fault(w, NULL, TCI_ABORTED,
                         "expected_plan_version is %lld, but plan '%.*s' is at version %lld; read it again and repeat",
                         (long long)version, TCI_STR_ARG(w->plan->id), (long long)w->plan->version);
}

/* ---- apply ---- */

static bool has_edges(const tci_prepared *item) { return item->edges_changed || item->assignments_changed; }

static void put_settings(tci_change *c, const tci_stage_write *sw) {
  c->priority = tci_zigzag(sw->priority);
  c->retry_max = (uint64_t)sw->retry.max_attempts;
  c->backoff_ms = (uint64_t)sw->retry.backoff_ms;
  c->backoff_ms_max = (uint64_t)sw->retry.backoff_ms_max;
  c->execution_ms = (uint64_t)sw->timeouts.execution_ms;
  c->stale_ms = (uint64_t)sw->timeouts.stale_ms;
}

static void create(tci_write *w, tci_prepared *item) {
  tci_change c = {.id = item->id, .bytes = item->merged, .edges_follow = has_edges(item)};
  if (item->kind == TCI_NODE_CHECK) {
    c.type = TCI_CHANGE_CHECK_CREATED;
    c.kind = item->check->kind;
    /* FINAL is reached by a move, like by everybody else. */
    c.state = item->to_state == TCI_CHECK_PLANNED ? TCI_CHECK_PLANNED : TCI_CHECK_PLANNING;
  } else {
    const tci_stage_write *sw = item->stage;
    c.type = TCI_CHANGE_STAGE_CREATED;
    c.state = TCI_STAGE_PLANNED;
    c.kind = sw->runner_type;
    c.mode = sw->mode ? sw->mode : TCI_MODE_SYNC;
    put_settings(&c, sw);
  }
  tci_emit(w->core, w->plan, &c);
  item->node = w->plan->nodes.items[item->index];
}

static void update(tci_write *w, const tci_prepared *item) {
  if (!item->fields_changed && !item->merged_changed) return;
  tci_change c = {.node = item->index + 1};
  if (item->merged_changed) c.bytes = item->merged;
  if (item->kind == TCI_NODE_CHECK) {
    c.type = TCI_CHANGE_CHECK_UPDATED;
    c.kind = item->check->kind;
  } else {
    const tci_stage_write *sw = item->stage;
    c.type = TCI_CHANGE_STAGE_UPDATED;
    c.kind = sw->runner_type;
    c.mode = sw->mode;
    put_settings(&c, sw);
  }
  tci_emit(w->core, w->plan, &c);
}

static void link_edges(tci_write *w, const tci_prepared *item, bool is_new) {
  if (!has_edges(item)) return;
  tci_buf dependencies = {0}, assignments = {0};
  if (item->edges_changed) {
    const tci_dependencies *deps = item->check ? &item->check->dependencies : &item->stage->dependencies;
    tci_edges_put_predicate(&dependencies, deps->predicate ? deps->predicate : TCI_PREDICATE_AND);
    for (size_t i = 0; i < item->targets_len; i++)
      tci_edges_put(&dependencies, item->targets[i] + 1, deps->items[i].condition);
  }
  if (item->assignments_changed)
    for (size_t i = 0; i < item->checks_len; i++)
      tci_edges_put(&assignments, item->checks[i] + 1, item->stage->assignments[i].goal);
  tci_emit(w->core, w->plan,
           &(tci_change){.type = TCI_CHANGE_EDGES,
                         .node = item->index + 1,
                         .dependencies = tci_buf_str(&dependencies),
                         .assignments = tci_buf_str(&assignments),
                         .created = is_new});
  tci_buf_deinit(&dependencies);
  tci_buf_deinit(&assignments);
}

static void put_result(tci_write *w, const tci_prepared *item) {
  if (item->kind != TCI_NODE_CHECK || !item->result_changed) return;
  const tci_result_write *r = &item->check->result;
  bool finalize = r->finalize || item->to_state == TCI_CHECK_FINAL;
  tci_check_put_result(w->core, tci_node_check(item->node), r->owner_type, r->owner_id, r->data, finalize, &r->failure);
}

static void move_check(tci_write *w, const tci_prepared *item) {
  tci_check *check = tci_node_check(item->node);
  if (!item->to_state || (int)check->state == item->to_state) return;
  if (item->to_state != TCI_CHECK_FINAL) {
    tci_emit(w->core, w->plan,
             &(tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = item->index + 1, .state = (uint64_t)item->to_state});
    return;
  }
  tci_reason reason;
  tci_outcome outcome = tci_check_verdict(check, &reason);
  tci_check_finish(w->core, check, outcome, TCI_REASON_WRITTEN);
}

static void move_stage(tci_write *w, const tci_prepared *item) {
  tci_stage *stage = tci_node_stage(item->node);
  if (item->stage->has_attempt && tci_stage_attempt(stage))
    tci_write_apply_attempt(w->core, stage, &item->stage->attempt);
  if (!item->to_state || (int)stage->state == item->to_state) return;
  const tci_attempt *a = tci_stage_attempt(stage);
  if (item->to_state == TCI_STAGE_AWAITING_GROUP) /* it has no children: FINAL at once */
    tci_emit(w->core, w->plan,
             &(tci_change){.type = TCI_CHANGE_STAGE_STATE, .node = item->index + 1, .state = TCI_STAGE_AWAITING_GROUP});
  if (!a)
    tci_stage_finish(w->core, stage, TCI_OUTCOME_SKIPPED, TCI_REASON_WRITTEN);
  else if (a->state == TCI_ATTEMPT_INCOMPLETE)
    tci_stage_finish(w->core, stage, TCI_OUTCOME_FAILED, TCI_REASON_NO_RETRIES_LEFT);
  else if (tci_stage_failed_a_check(stage))
    tci_stage_finish(w->core, stage, TCI_OUTCOME_FAILED, TCI_REASON_CHECK_FAILED);
  else
    tci_stage_finish(w->core, stage, TCI_OUTCOME_SUCCEEDED, TCI_REASON_ATTEMPT_COMPLETE);
}

/* Checks that a stage is about to leave: with it may go the last thing they waited for. */
static size_t collect_left(tci_write *w, tci_check **left) {
  size_t n = 0;
  for (size_t i = 0; i < w->len; i++) {
    const tci_prepared *item = &w->items[i];
    if (!item->node || !item->assignments_changed) continue;
    const tci_stage *stage = tci_node_stage(item->node);
    for (size_t k = 0; k < stage->assignments_len; k++) {
      if (left) left[n] = stage->assignments[k].check;
      n++;
    }
  }
  return n;
}

/* Those that may have all they wait for: a result was finalised, or a stage has left. One that no stage is left for waits for
 * a client, like every such check. */
static void settle_checks(tci_write *w, tci_check *const *left, size_t left_len) {
  for (size_t i = 0; i < w->len; i++) {
    const tci_prepared *item = &w->items[i];
    if (item->kind == TCI_NODE_CHECK && item->result_changed && item->check->result.finalize)
      tci_check_settle(w->core, tci_node_check(item->node));
  }
  for (size_t i = 0; i < left_len; i++)
    if (left[i]->assigned.len) tci_check_settle(w->core, left[i]);
}

static void apply(tci_write *w) {
  tci_check **left = tci_arena_array(w->arena, tci_check *, collect_left(w, NULL) + 1);
  size_t left_len = collect_left(w, left);
  if (w->created && w->plan->state == TCI_PLAN_SETTLED)
    tci_emit(w->core, w->plan, &(tci_change){.type = TCI_CHANGE_PLAN_STATE, .state = TCI_PLAN_ACTIVE});
  bool *is_new = tci_arena_array(w->arena, bool, w->len + 1);
  for (size_t i = 0; i < w->len; i++) {
    is_new[i] = w->items[i].node == NULL;
    if (is_new[i])
      create(w, &w->items[i]);
    else
      update(w, &w->items[i]);
  }
  /* All edges before all results before all moves before anything follows: so the order of the nodes means nothing. */
  for (size_t i = 0; i < w->len; i++) link_edges(w, &w->items[i], is_new[i]);
  for (size_t i = 0; i < w->len; i++) put_result(w, &w->items[i]);
  for (size_t i = 0; i < w->len; i++) {
    if (w->items[i].kind == TCI_NODE_CHECK)
      move_check(w, &w->items[i]);
    else
      move_stage(w, &w->items[i]);
  }
  settle_checks(w, left, left_len);
}

static void answer(tci_write *w) {
  const tci_command *cmd = &w->event->command;
  tci_reply *reply = tci_answer_ok(w->core, w->event, TCI_REPLY_NODES);
  if (cmd->write_nodes.omit_nodes) return;
  reply->checks = tci_arena_array(w->arena, const tci_check *, cmd->write_nodes.checks_len + 1);
  reply->stages = tci_arena_array(w->arena, const tci_stage *, cmd->write_nodes.stages_len + 1);
  for (size_t i = 0; i < w->len; i++) {
    if (w->items[i].kind == TCI_NODE_CHECK)
      reply->checks[reply->checks_len++] = tci_node_check(w->items[i].node);
    else
      reply->stages[reply->stages_len++] = tci_node_stage(w->items[i].node);
  }
}

void tci_on_write_nodes(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  tci_write w = {.core = core, .event = event, .plan = plan, .arena = &core->update->arena};
  if (expected(&w, &event->command) && is_not_too_much(&w, &event->command) && prepare(&w, &event->command) &&
      tci_write_requests_fit(&w) && tci_write_is_acyclic(&w) && fits(&w, &event->command)) {
    apply(&w);
    answer(&w);
  } else {
    tci_refuse(core, event, w.status.code, "%s", w.status.message);
  }
  tci_map_deinit(&w.by_check_id);
  tci_map_deinit(&w.by_stage_id);
  tci_map_deinit(&w.by_index);
}
