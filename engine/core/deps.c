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
  if (!core->loading) tci_vec_push(&core->resolved, node);
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

/* Two worklists instead of recursion: a chain of a million skipped stages needs no stack. */
void tci_react(tci_core *core) {
  for (size_t r = 0, f = 0; r < core->resolved.len || f < core->finished.len;) {
    if (f < core->finished.len) {
      tci_stage *stage = tci_node_stage(core->finished.items[f++]);
      for (size_t i = 0; i < stage->assignments_len; i++)
        if (tci_goal_counts(stage->assignments[i].goal)) tci_check_settle(core, stage->assignments[i].check);
      continue;
    }
    tci_node *node = core->resolved.items[r++];
    if (node->group.state == TCI_GROUP_OPEN) continue; /* its dependencies were replaced meanwhile */
    if (node->kind == TCI_NODE_CHECK)
      react_check(core, tci_node_check(node));
    else
      react_stage(core, tci_node_stage(node));
  }
  core->resolved.len = core->finished.len = 0;
}
