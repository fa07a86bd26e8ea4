/* query: reads. They pass the engine's queue like writes and see what was committed before them.
 *
 * What may be long is read in pages. A page is found afresh each time, from the plan as it is then: nodes only come, at the
 * end, so that nothing is shown twice or left out, and a filter by state means the state that the page shows.
 */
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

/* ---- pages ---- */

/* So many nodes are looked at for one page, whatever it finds: it may be short, and even empty. */
enum { LOOKS_MAX = 20000 };

typedef TCI_VEC(tci_node *) nodes;

static void add_named(const tci_map *map, const tci_ids *ids, uint64_t from, nodes *found) {
  for (size_t i = 0; i < ids->len; i++) {
    tci_node *node = tci_map_get(map, ids->items[i]);
    if (node && node->index >= from) tci_vec_push(found, node);
  }
}

/* Those that the filter names by id, from `from` on, in order of creation and each once. Clients poll for a few ids in plans
 * with very many nodes: that costs the ids. */
static nodes named_nodes(const tci_plan *plan, const tci_filter *f, uint64_t from) {
  nodes found = {0};
  if (f->include_checks) add_named(&plan->checks, &f->check_ids, from, &found);
  if (f->include_stages) add_named(&plan->stages, &f->stage_ids, from, &found);
  if (found.len) qsort(found.items, found.len, sizeof(tci_node *), compare_nodes);
  size_t kept = 0;
  for (size_t i = 0; i < found.len; i++)
    if (i == 0 || found.items[i] != found.items[i - 1]) found.items[kept++] = found.items[i];
  found.len = kept;
  return found;
}

/* Walks the candidates: those named, and all nodes of a kind that is wanted without ids. */
typedef struct {
  const tci_plan *plan;
  bool all[3]; /* by tci_node_kind */
  nodes named;
  size_t index, at; /* the next of the plan's nodes, of `named` */
} walk;

static walk walk_from(const tci_plan *plan, const tci_filter *f, uint64_t from) {
  walk w = {.plan = plan, .named = named_nodes(plan, f, from), .index = (size_t)from};
  w.all[TCI_NODE_CHECK] = f->include_checks && !f->check_ids.len;
  w.all[TCI_NODE_STAGE] = f->include_stages && !f->stage_ids.len;
  return w;
}

/* NULL: the end. A node that is passed over and not wanted at all comes too: `wanted` says so. */
static tci_node *walk_peek(const walk *w, bool *wanted) {
  tci_node *named = w->at < w->named.len ? w->named.items[w->at] : NULL;
  if (!w->all[TCI_NODE_CHECK] && !w->all[TCI_NODE_STAGE]) {
    *wanted = true;
    return named;
  }
  tci_node *node = w->index < w->plan->nodes.len ? w->plan->nodes.items[w->index] : NULL;
  *wanted = node && (w->all[node->kind] || node == named);
  return node;
}

static void walk_past(walk *w, const tci_node *node) {
  if (w->at < w->named.len && w->named.items[w->at] == node) w->at++;
  w->index = node->index + 1u;
}

static bool is_done(const tci_page *page, size_t found, size_t looks) {
  return page->size && (found >= (size_t)page->size || looks >= LOOKS_MAX);
}

void tci_on_query_nodes(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  const tci_filter *filter = &event->command.query_nodes;
  walk w = walk_from(plan, filter, event->command.page.from);
  nodes found = {0};
  bool wanted;
  tci_node *node = walk_peek(&w, &wanted);
  for (size_t looks = 0; node && !is_done(&event->command.page, found.len, looks); looks++) {
    if (wanted && (node->kind == TCI_NODE_CHECK ? has_state(filter->check_states, (int)tci_node_check(node)->state)
                                                : has_state(filter->stage_states, (int)tci_node_stage(node)->state)))
      tci_vec_push(&found, node);
    walk_past(&w, node);
    node = walk_peek(&w, &wanted);
  }
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_NODES);
  reply->next = node ? node->index : 0;
  reply->checks = tci_arena_array(&core->update->arena, const tci_check *, found.len + 1);
  reply->stages = tci_arena_array(&core->update->arena, const tci_stage *, found.len + 1);
  for (size_t i = 0; i < found.len; i++)
    if (found.items[i]->kind == TCI_NODE_CHECK)
      reply->checks[reply->checks_len++] = tci_node_check(found.items[i]);
    else
      reply->stages[reply->stages_len++] = tci_node_stage(found.items[i]);
  tci_vec_free(&found);
  tci_vec_free(&w.named);
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
  size_t n = (size_t)(cmd->page.from >> 32), k = (size_t)(cmd->page.from & UINT32_MAX), end = plan->nodes.len;
  if (cmd->list_executions.stage_id.len) {
    const tci_stage *stage = tci_plan_stage(plan, cmd->list_executions.stage_id);
    end = stage ? stage->node.index + 1u : 0;
    if (stage && n < stage->node.index) n = stage->node.index;
  }
  for (size_t looks = 0; n < end && !is_done(&cmd->page, found.len, looks); looks++) {
    tci_node *node = plan->nodes.items[n];
    const tci_stage *stage = node->kind == TCI_NODE_STAGE ? tci_node_stage(node) : NULL;
    if (!stage || k >= stage->attempts.len) {
      n++, k = 0;
      continue;
    }
    const tci_attempt *a = stage->attempts.items[k++];
    if (a->execution != TCI_EXECUTION_NONE && has_state(cmd->list_executions.states, (int)a->execution))
      tci_vec_push(&found, a);
  }
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_EXECUTIONS);
  reply->next = n < end ? (uint64_t)n << 32 | k : 0; /* as tci_execution_position */
  reply->attempts = tci_arena_array(&core->update->arena, const tci_attempt *, found.len + 1);
  reply->attempts_len = found.len;
  for (size_t i = 0; i < found.len; i++) reply->attempts[i] = found.items[i];
  tci_vec_free(&found);
}
