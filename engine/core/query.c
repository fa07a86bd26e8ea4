/* query: reads. They pass the engine's queue like writes and see what was committed before them. */
#include "core/internal.h"

tci_plan *tci_find_plan(tci_core *core, const tci_event *event) {
  tci_str id = event->command.plan_id;
  const char *field = event->command.kind == TCI_COMMAND_GET_PLAN ? "id" : "work_plan_id";
  if (!id.len) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT, "%s is empty; it is required", field);
    return NULL;
  }
  tci_plan *plan = tci_map_get(&core->plans, id);
  const char *aside = plan ? NULL : tci_why_set_aside(core, id);
  if (aside) {
    tci_refuse(core, event, TCI_DATA_LOSS, "%s: %s", field, aside);
    return NULL;
  }
  if (!plan) tci_refuse(core, event, TCI_NOT_FOUND, "%s: there is no work plan '%.*s'", field, TCI_STR_ARG(id));
  if (plan) tci_plan_touch(core, plan);
  return plan;
}

void tci_on_get_plan(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (plan) tci_answer_ok(core, event, TCI_REPLY_PLAN)->plan = plan;
}

static bool has_state(tci_states states, int state) { return states == 0 || (states & tci_state_bit(state)); }

static int compare_str(const void *a, const void *b) { return tci_str_cmp(*(const tci_str *)a, *(const tci_str *)b); }

/* Binary search: a filter may name as many ids as fit a message. */
static bool has_id(const tci_ids *ids, tci_str id) {
  return ids->len == 0 || bsearch(&id, ids->items, ids->len, sizeof id, compare_str) != NULL;
}

void tci_filter_sort(tci_filter *f) {
  if (f->check_ids.len) qsort(f->check_ids.items, f->check_ids.len, sizeof(tci_str), compare_str);
  if (f->stage_ids.len) qsort(f->stage_ids.items, f->stage_ids.len, sizeof(tci_str), compare_str);
}

bool tci_filter_check(const tci_filter *f, const tci_check *check) {
  return f->include_checks && has_state(f->check_states, (int)check->state) && has_id(&f->check_ids, check->node.id);
}

bool tci_filter_stage(const tci_filter *f, const tci_stage *stage) {
  return f->include_stages && has_state(f->stage_states, (int)stage->state) && has_id(&f->stage_ids, stage->node.id);
}

static int compare_nodes(const void *a, const void *b) {
  const tci_node *x = *(tci_node *const *)a, *y = *(tci_node *const *)b;
  return x->index < y->index ? -1 : x->index > y->index;
}

typedef TCI_VEC(tci_node *) nodes;

/* The nodes of one kind that are asked for, in order of creation: those with these ids, or all. Clients poll for a few ids
 * in plans with very many nodes: that costs the ids. */
static void find_nodes(const tci_plan *plan, tci_node_kind kind, const tci_ids *ids, nodes *found) {
  const tci_map *map = kind == TCI_NODE_CHECK ? &plan->checks : &plan->stages;
  size_t from = found->len;
  if (ids->len == 0) {
    for (size_t i = 0; i < plan->nodes.len; i++)
      if (plan->nodes.items[i]->kind == kind) tci_vec_push(found, plan->nodes.items[i]);
    return;
  }
  for (size_t i = 0; i < ids->len; i++) {
    tci_node *node = tci_map_get(map, ids->items[i]);
    if (node) tci_vec_push(found, node);
  }
  if (found->len > from) qsort(found->items + from, found->len - from, sizeof(tci_node *), compare_nodes);
  size_t kept = from;
  for (size_t i = from; i < found->len; i++) /* an id may be named twice */
    if (i == from || found->items[i] != found->items[i - 1]) found->items[kept++] = found->items[i];
  found->len = kept;
}

void tci_on_query_nodes(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  const tci_filter *filter = &event->command.query_nodes;
  nodes found = {0};
  if (filter->include_checks) find_nodes(plan, TCI_NODE_CHECK, &filter->check_ids, &found);
  if (filter->include_stages) find_nodes(plan, TCI_NODE_STAGE, &filter->stage_ids, &found);
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_NODES);
  reply->checks = tci_arena_array(&core->update->arena, const tci_check *, found.len + 1);
  reply->stages = tci_arena_array(&core->update->arena, const tci_stage *, found.len + 1);
  for (size_t i = 0; i < found.len; i++) {
    tci_node *node = found.items[i];
    if (node->kind == TCI_NODE_CHECK) {
      if (has_state(filter->check_states, (int)tci_node_check(node)->state))
        reply->checks[reply->checks_len++] = tci_node_check(node);
    } else if (has_state(filter->stage_states, (int)tci_node_stage(node)->state)) {
      reply->stages[reply->stages_len++] = tci_node_stage(node);
    }
  }
  tci_vec_free(&found);
}

static void answer_execution(tci_core *core, const tci_event *event, const tci_attempt *a) {
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_EXECUTION);
  reply->attempts = tci_arena_array(&core->update->arena, const tci_attempt *, 1);
  reply->attempts[0] = a;
  reply->attempts_len = 1;
}

void tci_on_get_execution(tci_core *core, const tci_event *event) {
  const tci_command *cmd = &event->command;
  if (cmd->get_execution.execution_id.len) {
    tci_status status;
    tci_attempt *a = tci_attempt_by_id(core, cmd->get_execution.execution_id, &status);
    if (a)
      answer_execution(core, event, a);
    else
      tci_refuse(core, event, status.code, "%s", status.message);
    return;
  }
  if (!cmd->plan_id.len && !cmd->get_execution.stage_id.len) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT,
               "execution_id is empty; give it, or work_plan_id and stage_id (and attempt_idx; 0: the latest)");
    return;
  }
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  if (!cmd->get_execution.stage_id.len) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT, "stage_id is empty; with work_plan_id it is required");
    return;
  }
  tci_stage *stage = tci_plan_stage(plan, cmd->get_execution.stage_id);
  int64_t index = cmd->get_execution.attempt ? cmd->get_execution.attempt : stage ? (int64_t)stage->attempts.len : 0;
  if (!stage || index < 1 || index > (int64_t)stage->attempts.len ||
      stage->attempts.items[index - 1]->execution == TCI_EXECUTION_NONE)
    tci_refuse(core, event, TCI_NOT_FOUND, "stage_id: stage '%.*s' of plan '%.*s' has no execution %lld",
               TCI_STR_ARG(cmd->get_execution.stage_id), TCI_STR_ARG(plan->id), (long long)index);
  else
    answer_execution(core, event, stage->attempts.items[index - 1]);
}

void tci_on_list_executions(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  const tci_command *cmd = &event->command;
  TCI_VEC(const tci_attempt *) found = {0};
  for (size_t i = 0; i < plan->nodes.len; i++) {
    if (plan->nodes.items[i]->kind != TCI_NODE_STAGE) continue;
    tci_stage *stage = tci_node_stage(plan->nodes.items[i]);
    if (cmd->list_executions.stage_id.len && !tci_str_eq(stage->node.id, cmd->list_executions.stage_id)) continue;
    for (size_t k = 0; k < stage->attempts.len; k++) {
      const tci_attempt *a = stage->attempts.items[k];
      if (a->execution != TCI_EXECUTION_NONE && has_state(cmd->list_executions.states, (int)a->execution))
        tci_vec_push(&found, a);
    }
  }
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_EXECUTIONS);
  reply->attempts = tci_arena_array(&core->update->arena, const tci_attempt *, found.len + 1);
  reply->attempts_len = found.len;
  for (size_t i = 0; i < found.len; i++) reply->attempts[i] = found.items[i];
  tci_vec_free(&found);
}
