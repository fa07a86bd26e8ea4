/* deps: dependency groups: counting, resolving, and what follows.
 *
 * Invariants: an edge is counted at most once, when its target is FINAL; a group resolves exactly once, as early as
 * the truth is known; finishing a node costs its out-degree. Counting is part of evolve; reacting is a decision. What a
 * step comes to does not depend on the order of edges: a check whose own dependencies are unsatisfied is SKIPPED, even
 * when in the same step all its results are in.
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

void tci_list_settling(tci_core *core, tci_check *check) {
  list(core, &core->settling, &check->node, TCI_LISTED_SETTLING);
}

/* False: it is not there. */
static bool unlist(tci_core *core, tci_node *node, uint8_t bit) {
  if (!(node->listed & bit)) return false;
  node->listed &= (uint8_t)~bit;
  if (--node->plan->listed == 0) tci_plan_touch(core, node->plan);
  return true;
}

/* The next node of a list, which it leaves; NULL: there is none. */
static tci_node *take(tci_core *core, tci_worklist *work, uint8_t bit) {
  if (work->next == work->nodes.len) {
    work->next = work->nodes.len = 0;
    return NULL;
  }
  tci_node *node = work->nodes.items[work->next++];
  unlist(core, node, bit);
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
  if (unlist(core, &check->node, TCI_LISTED_SETTLING)) tci_check_settle_now(core, check);
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

/* Groups that resolved, then stages that ended, until there are none: groups are nobody's choice, while a check that settles
 * settles without what comes later. False: the step has changed enough. Worklists instead of recursion: a chain of a million
 * skipped stages needs no stack. */
static bool follow(tci_core *core) {
  while (core->changes_left > 0) {
    tci_node *node = take(core, &core->resolved, TCI_LISTED_RESOLVED);
    if (node) {
      react_resolved(core, node);
      continue;
    }
    node = take(core, &core->ended, TCI_LISTED_ENDED);
    if (!node) return true;
    react_ended(core, node);
  }
  return false;
}

/* ---- checks that settle last ---- */

/* False: the step has changed enough. */
static bool settle_last(tci_core *core, tci_node *node) {
  if (!unlist(core, node, TCI_LISTED_SETTLING) || tci_node_is_final(node)) return true;
  tci_check_settle_now(core, tci_node_check(node));
  return follow(core);
}

/* The k-th node that may still decide what becomes of `node`; NULL: there are no more. Stages that run, and the dependencies
 * of what does not wait for them, decide nothing now. */
static tci_node *upstream(const tci_node *node, size_t k) {
  const tci_check *check = node->kind == TCI_NODE_CHECK ? (const tci_check *)node : NULL;
  bool waits = check ? check->state == TCI_CHECK_PLANNED : ((const tci_stage *)node)->state == TCI_STAGE_PLANNED;
  size_t edges = waits ? node->group.len : 0;
  if (k < edges) return node->group.edges[k].target;
  return check && k - edges < check->assigned.len ? &check->assigned.items[k - edges]->stage->node : NULL;
}

/* Settles this check after those on which it depends: depth-first, with a stack of its own; every node is looked at once. */
static bool settle_in_order(tci_core *core, tci_node *last) {
  typedef struct {
    tci_node *node;
    size_t next;
  } frame;
  TCI_VEC(frame) stack = {0};
  if (last->mark <= core->mark) tci_vec_push(&stack, ((frame){last, 0}));
  last->mark = core->mark + 1;
  bool goes_on = true;
  while (stack.len && goes_on) {
    frame *top = &stack.items[stack.len - 1];
    tci_node *node = top->node, *next = upstream(node, top->next++);
    if (!next) {
      stack.len--;
      goes_on = settle_last(core, node);
    } else if (next->mark <= core->mark && !tci_node_is_final(next)) {
      next->mark = core->mark + 1;
      tci_vec_push(&stack, ((frame){next, 0}));
    }
  }
  tci_vec_free(&stack);
  return goes_on;
}

static void settle_all(tci_core *core) {
  tci_worklist *work = &core->settling;
  core->mark += 2; /* what earlier searches left behind is no more */
  bool goes_on = true;
  for (size_t i = 0; i < work->nodes.len && goes_on; i++) {
    if (work->nodes.len > 1) goes_on = settle_in_order(core, work->nodes.items[i]);
    if (goes_on) goes_on = settle_last(core, work->nodes.items[i]);
  }
  size_t kept = 0;
  for (size_t i = 0; i < work->nodes.len; i++)
    if (work->nodes.items[i]->listed & TCI_LISTED_SETTLING) work->nodes.items[kept++] = work->nodes.items[i];
  work->nodes.len = kept;
}

/* What is left in the lists when the step has changed enough is derived state: a restart finds it again
 * (tci_list_left_over). */
void tci_react(tci_core *core) {
  if (follow(core) && core->settling.nodes.len) settle_all(core);
}
