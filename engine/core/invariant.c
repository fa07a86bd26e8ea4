/* invariant: what must hold between steps, counted afresh and without trust in any counter. For tests, the simulator
 * and fsck; the numbers are those of the project's list of invariants (engine/README.md). */
#include "core/internal.h"

#define BROKEN(...) return tci_fmt(arena, __VA_ARGS__)

static const char *check_group(const tci_node *node, tci_arena *arena) {
  const tci_group *g = &node->group;
  size_t yes = 0, no = 0;
  for (size_t i = 0; i < g->len; i++) {
    const tci_edge *e = &g->edges[i];
    if (e->owner != node) BROKEN("22: an edge of '%.*s' has another owner", TCI_STR_ARG(node->id));
    if (e->counted != tci_node_is_final(e->target))
      BROKEN("19: an edge of '%.*s' is miscounted", TCI_STR_ARG(node->id));
    if (!e->counted) continue;
    if (tci_edge_satisfied(e))
      yes++;
    else
      no++;
  }
  if (yes != g->satisfied || no != g->unsatisfied) BROKEN("19: the counters of '%.*s' are off", TCI_STR_ARG(node->id));
  size_t need = g->predicate == TCI_PREDICATE_OR && g->len ? 1 : g->len;
  tci_group_state want = yes >= need          ? TCI_GROUP_SATISFIED
                         : g->len - no < need ? TCI_GROUP_UNSATISFIED
                                              : TCI_GROUP_OPEN;
  if (g->state != want) BROKEN("19: the group of '%.*s' is resolved wrongly", TCI_STR_ARG(node->id));
  return NULL;
}

static const char *check_attempts(const tci_stage *stage, tci_arena *arena) {
  size_t unfinished = 0;
  for (size_t i = 0; i < stage->attempts.len; i++) {
    const tci_attempt *a = stage->attempts.items[i];
    if (a->index != i + 1) BROKEN("3: attempts of '%.*s' have gaps", TCI_STR_ARG(stage->node.id));
    bool is_open = tci_attempt_is_open(a);
    unfinished += is_open;
    if (is_open && i + 1 != stage->attempts.len)
      BROKEN("4: '%.*s' has an old open attempt", TCI_STR_ARG(stage->node.id));
    if (a->execution && is_open != (a->execution < TCI_EXECUTION_COMPLETE))
      BROKEN("5: attempt and execution of '%.*s' disagree", TCI_STR_ARG(stage->node.id));
    if (tci_link_in(&a->queued) != (a->execution == TCI_EXECUTION_PENDING && is_open && !a->timer.position))
      BROKEN("11: '%.*s' is neither queued nor backing off", TCI_STR_ARG(stage->node.id));
    if (tci_execution_is_live(a) && !a->timer.position)
      BROKEN("12: '%.*s' has no deadline", TCI_STR_ARG(stage->node.id));
    if (tci_link_in(&a->live) && !tci_execution_is_live(a))
      BROKEN("6: '%.*s' holds a slot", TCI_STR_ARG(stage->node.id));
  }
  bool attempting = stage->state == TCI_STAGE_ATTEMPTING;
  if (stage->runner_type.len && (unfinished == 1) != attempting)
    BROKEN("5: stage '%.*s' is %s with %zu open attempts", TCI_STR_ARG(stage->node.id),
           tci_stage_state_name((int)stage->state), unfinished);
  return NULL;
}

static const char *check_check(tci_check *check, tci_arena *arena) {
  size_t pending = 0;
  for (size_t i = 0; i < check->stages.len; i++) {
    tci_stage *stage = check->stages.items[i];
    const tci_assignment *a = tci_stage_assignment(stage, check);
    if (!a) BROKEN("22: check '%.*s' knows a stage that is not assigned", TCI_STR_ARG(check->node.id));
    const tci_result *r = tci_check_result(check, TCI_STR("stage"), stage->node.id);
    bool done = stage->state == TCI_STAGE_FINAL || (r && r->finalized_us);
    if (a->done != done) BROKEN("19: assignment of '%.*s' is miscounted", TCI_STR_ARG(check->node.id));
    pending += !done;
  }
  if (pending != check->pending) BROKEN("19: check '%.*s' counts pending results wrongly", TCI_STR_ARG(check->node.id));
  if (check->stages.len && !pending && check->state != TCI_CHECK_FINAL)
    BROKEN("12: check '%.*s' should be FINAL", TCI_STR_ARG(check->node.id));
  return NULL;
}

static const char *check_node(tci_node *node, tci_arena *arena) {
  const char *fault = check_group(node, arena);
  if (fault) return fault;
  if (tci_node_is_final(node) != (node->outcome != TCI_OUTCOME_UNKNOWN))
    BROKEN("1: '%.*s' has an outcome too early or none", TCI_STR_ARG(node->id));
  bool ready = node->group.state != TCI_GROUP_OPEN;
  if (node->kind == TCI_NODE_CHECK) {
    tci_check *check = tci_node_check(node);
    if (ready && check->state == TCI_CHECK_PLANNED) BROKEN("9: check '%.*s' lags", TCI_STR_ARG(node->id));
    return check_check(check, arena);
  }
  tci_stage *stage = tci_node_stage(node);
  if (ready && stage->state == TCI_STAGE_PLANNED) BROKEN("9: stage '%.*s' lags", TCI_STR_ARG(node->id));
  if (!ready && stage->attempts.len) BROKEN("9: stage '%.*s' ran before its time", TCI_STR_ARG(node->id));
  return check_attempts(stage, arena);
}

static const char *check_plan(const tci_plan *plan, tci_arena *arena) {
  size_t unfinished = 0, live = 0;
  for (size_t i = 0; i < plan->nodes.len; i++) {
    tci_node *node = plan->nodes.items[i];
    const char *fault = check_node(node, arena);
    if (fault) return fault;
    unfinished += !tci_node_is_final(node);
    if (node->kind != TCI_NODE_STAGE) continue;
    const tci_attempt *a = tci_stage_attempt(tci_node_stage(node));
    live += a && a->execution && tci_attempt_is_open(a);
  }
  if (unfinished != plan->open_nodes || live != plan->live_attempts)
    BROKEN("19: plan '%.*s' counts wrongly", TCI_STR_ARG(plan->id));
  if ((plan->state == TCI_PLAN_SETTLED) != (plan->nodes.len && !unfinished))
    BROKEN("16: plan '%.*s' settles wrongly", TCI_STR_ARG(plan->id));
  return NULL;
}

static const char *check_runner(const tci_core *core, const tci_runner *r, tci_arena *arena) {
  int64_t load = 0;
  for (const tci_link *l = r->live.next; l != &r->live; l = l->next) {
    const tci_attempt *a = tci_container(l, tci_attempt, live);
    if (a->runner != r) BROKEN("6: runner '%.*s' holds work of another", TCI_STR_ARG(r->runner_id));
    load++;
  }
  if (load != r->load) BROKEN("6: the load of runner '%.*s' is miscounted", TCI_STR_ARG(r->runner_id));
  if (!r->timer.position) BROKEN("20: runner '%.*s' never expires", TCI_STR_ARG(r->runner_id));
  if (tci_map_get(&core->registrations, r->registration_id) != r)
    BROKEN("6: runner '%.*s' is lost", TCI_STR_ARG(r->runner_id));
  return NULL;
}

const char *tci_core_check(const tci_core *core, tci_arena *arena) {
  for (size_t i = 0; i < core->plan_list.len; i++) {
    const char *fault = check_plan(core->plan_list.items[i], arena);
    if (fault) return fault;
  }
  for (size_t i = 0; i < core->runner_list.len; i++) {
    const char *fault = check_runner(core, core->runner_list.items[i], arena);
    if (fault) return fault;
  }
  return NULL;
}
