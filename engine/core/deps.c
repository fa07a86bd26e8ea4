/* deps: dependency groups: counting, resolving, and what follows.
 *
 * Invariants: an edge is counted at most once, when its target is FINAL; a group resolves exactly once, as early as
 * the truth is known; finishing a node costs its out-degree. Counting is part of evolve; reacting is a decision.
 */
#include "core/internal.h"

bool tci_edge_satisfied(const tci_edge *edge) {
  switch (edge->condition) {
    case TCI_ON_FINAL: return true;
    case TCI_ON_SUCCESS: return edge->target->outcome == TCI_OUTCOME_SUCCEEDED;
    case TCI_ON_FAILURE: return edge->target->outcome == TCI_OUTCOME_FAILED;
  }
  tci_unreachable();
}

void tci_group_count(tci_core *core, tci_edge *edge) {
  tci_group *group = &edge->owner->group;
  if (edge->counted) return;
  edge->counted = true;
  if (tci_edge_satisfied(edge))
    group->satisfied++;
  else
    group->unsatisfied++;
  /* While a group is being linked its length still grows: set_dependencies' caller resolves at the end. */
  if (group->state == TCI_GROUP_OPEN) tci_group_resolve(core, edge->owner);
}

void tci_group_resolve(tci_core *core, tci_node *node) {
  tci_group *group = &node->group;
  if (group->state != TCI_GROUP_OPEN) return;
  size_t needed = group->predicate == TCI_PREDICATE_OR && group->len ? 1 : group->len;
  if (group->satisfied >= needed)
    group->state = TCI_GROUP_SATISFIED;
  else if (group->len - group->unsatisfied < needed)
    group->state = TCI_GROUP_UNSATISFIED;
  else
    return;
  tci_list_resolved(core, node);
}

/* ---- what follows ---- */

static void list(tci_core *core, tci_worklist *work, tci_node *node, uint8_t bit) {
  if (core->loading || node->listed & bit) return;
  node->listed |= bit;
  node->plan->listed++;
  tci_vec_push(&work->nodes, node);
}

void tci_list_resolved(tci_core *core, tci_node *node) { list(core, &core->resolved, node, TCI_LISTED_RESOLVED); }
void tci_list_ended(tci_core *core, tci_node *node) { list(core, &core->ended, node, TCI_LISTED_ENDED); }

/* The next node of a list, which it leaves; NULL: there is none. */
static tci_node *take(tci_core *core, tci_worklist *work, uint8_t bit) {
  if (work->next == work->nodes.len) {
    work->next = work->nodes.len = 0;
    return NULL;
  }
  tci_node *node = work->nodes.items[work->next++];
  node->listed &= (uint8_t)~bit;
  if (--node->plan->listed == 0) tci_plan_touch(core, node->plan);
  return node;
}

void tci_list_left_over(tci_core *core, tci_plan *plan) {
  if (plan->state == TCI_PLAN_SETTLED) return;
  for (size_t i = 0; i < plan->nodes.len; i++) {
    tci_node *node = plan->nodes.items[i];
    const tci_check *check = node->kind == TCI_NODE_CHECK ? tci_node_check(node) : NULL;
    bool planned = check ? check->state == TCI_CHECK_PLANNED : tci_node_stage(node)->state == TCI_STAGE_PLANNED;
    if (planned && node->group.state != TCI_GROUP_OPEN) tci_list_resolved(core, node);
    if (check && check->assigned.len && !check->pending && check->state != TCI_CHECK_FINAL) tci_list_ended(core, node);
  }
}

static void react_check(tci_core *core, tci_check *check) {
  if (check->state != TCI_CHECK_PLANNED) return; /* PLANNING never advances by itself */
  if (check->node.group.state == TCI_GROUP_UNSATISFIED) {
    tci_check_finish(core, check, TCI_OUTCOME_SKIPPED, TCI_REASON_DEPENDENCIES_UNSATISFIED);
    return;
  }
  tci_emit(core, check->node.plan,
           &(tci_change){.type = TCI_CHANGE_CHECK_STATE, .node = check->node.index + 1u, .state = TCI_CHECK_WAITING});
}

static void react_stage(tci_core *core, tci_stage *stage) {
  if (stage->state != TCI_STAGE_PLANNED) return;
  if (stage->node.group.state == TCI_GROUP_UNSATISFIED)
    tci_stage_finish(core, stage, TCI_OUTCOME_SKIPPED, TCI_REASON_DEPENDENCIES_UNSATISFIED);
  else
    tci_stage_start(core, stage);
}

static void react_ended(tci_core *core, tci_node *node) {
  if (node->kind == TCI_NODE_CHECK) {
    tci_check_settle(core, tci_node_check(node));
    return;
  }
  const tci_stage *stage = tci_node_stage(node);
  for (size_t i = 0; i < stage->assignments_len; i++)
    if (tci_goal_counts(stage->assignments[i].goal)) tci_check_settle(core, stage->assignments[i].check);
}

static void react_resolved(tci_core *core, tci_node *node) {
  if (node->group.state == TCI_GROUP_OPEN) return; /* its dependencies were replaced meanwhile */
  if (node->kind == TCI_NODE_CHECK)
    react_check(core, tci_node_check(node));
  else
    react_stage(core, tci_node_stage(node));
}

/* Two worklists instead of recursion: a chain of a million skipped stages needs no stack. What is left in them when the
 * step has changed enough is derived state: a restart finds it again (tci_list_left_over). */
void tci_react(tci_core *core) {
  while (core->changes_left > 0) {
    tci_node *node = take(core, &core->ended, TCI_LISTED_ENDED);
    if (node) {
      react_ended(core, node);
      continue;
    }
    node = take(core, &core->resolved, TCI_LISTED_RESOLVED);
    if (!node) return;
    react_resolved(core, node);
  }
}
