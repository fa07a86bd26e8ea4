/* watch: streams of what happens to a plan. Every change that a filter lets through becomes one WATCH effect, in order.
 *
 * Invariants: a watch event carries the node as it was at the change; its sequence is the change's; changes of attempts,
 * progress, and results whose check moves at once go to include_progress watchers only; the completed event follows the
 * change that settles the plan.
 */
#include <string.h>

#include "core/internal.h"

/* ---- watchers ---- */

static tci_ids copy_ids(tci_arena *arena, tci_ids ids) {
  tci_ids copy = {tci_arena_array(arena, tci_str, ids.len + 1), ids.len};
  for (size_t i = 0; i < ids.len; i++) copy.items[i] = tci_str_copy(arena, ids.items[i]);
  return copy;
}

tci_watcher *tci_watcher_add(tci_core *core, tci_plan *plan, uint64_t token, const tci_command *command) {
  tci_watcher *w = tci_calloc(1, sizeof *w);
  const tci_filter *f = &command->watch_plan.filter;
  w->plan = plan;
  w->token = token;
  w->since = plan->sequence;
  w->include_progress = command->watch_plan.include_progress;
  w->filter = (tci_filter){.include_checks = f->include_checks,
                           .include_stages = f->include_stages,
                           .check_ids = copy_ids(&w->arena, f->check_ids),
                           .stage_ids = copy_ids(&w->arena, f->stage_ids),
                           .check_states = f->check_states,
                           .stage_states = f->stage_states};
  tci_filter_sort(&w->filter);
  tci_list_push(&plan->watchers, &w->link);
  tci_map_put(&core->watchers, TCI_U64_KEY(&w->token), w);
  core->watchers_len++;
  tci_plan_touch(core, plan);
  return w;
}

void tci_watcher_free(tci_core *core, tci_watcher *w) {
  tci_link_remove(&w->link);
  tci_plan_touch(core, w->plan);
  tci_map_remove(&core->watchers, TCI_U64_KEY(&w->token));
  core->watchers_len--;
  tci_arena_deinit(&w->arena);
  free(w);
}

/* ---- copies ---- */

#define COPY_VEC(arena, vec)                                                     \
  do {                                                                           \
    void *copy_ = tci_arena_alloc((arena), (vec).len * sizeof *(vec).items + 1); \
    if ((vec).len) memcpy(copy_, (vec).items, (vec).len * sizeof *(vec).items);  \
    (vec).items = copy_;                                                         \
  } while (0)

/* Bytes are shared: what a later change of the step replaces is freed only after the update (tci_discard). */
static const tci_check *check_copy(tci_arena *arena, const tci_check *check) {
  tci_check *copy = tci_arena_alloc(arena, sizeof *copy);
  *copy = *check;
  COPY_VEC(arena, copy->results);
  return copy;
}

static const tci_stage *stage_copy(tci_arena *arena, const tci_stage *stage) {
  tci_stage *copy = tci_arena_alloc(arena, sizeof *copy);
  *copy = *stage;
  COPY_VEC(arena, copy->attempts);
  for (size_t i = 0; i < copy->attempts.len; i++) {
    tci_attempt *a = tci_arena_alloc(arena, sizeof *a);
    *a = *copy->attempts.items[i];
    COPY_VEC(arena, a->progress);
    COPY_VEC(arena, a->decisions);
    a->stage = copy;
    copy->attempts.items[i] = a;
  }
  return copy;
}

/* ---- events ---- */

static tci_watch_event *event_add(tci_core *core, const tci_watcher *w) {
  tci_effect *effect = tci_effect_add(core, TCI_EFFECT_WATCH);
  effect->token = w->token;
  effect->watch = (tci_watch_event){.sequence = w->plan->sequence, .at_us = core->now.wall_us};
  return &effect->watch;
}

static void completed(tci_core *core, const tci_watcher *w) {
  tci_watch_event *e = event_add(core, w);
  e->checks_completed = (int)w->plan->checks_final;
  e->stages_completed = (int)w->plan->stages_final;
  e->has_failures = w->plan->nodes_failed > 0;
}

static void node_event(tci_core *core, const tci_watcher *w, tci_node *node, int old_state) {
  tci_arena *arena = &core->update->arena;
  if (node->kind == TCI_NODE_CHECK) {
    const tci_check *check = tci_node_check(node);
    if (!tci_filter_check(&w->filter, check)) return;
    tci_watch_event *e = event_add(core, w);
    e->check = check_copy(arena, check);
    e->old_state = old_state;
    e->new_state = (int)check->state;
  } else {
    const tci_stage *stage = tci_node_stage(node);
    if (!tci_filter_stage(&w->filter, stage)) return;
    tci_watch_event *e = event_add(core, w);
    e->stage = stage_copy(arena, stage);
    e->old_state = old_state;
    e->new_state = (int)stage->state;
  }
}

/* Called by tci_emit after a change was applied; old_state is the node's before it (-1: the change concerns no node). */
void tci_watch_notify(tci_core *core, tci_plan *plan, const tci_change *c, int old_state) {
  if (c->edges_follow) return; /* told once its edges are there */
  bool busy = c->type == TCI_CHANGE_ATTEMPT || c->type == TCI_CHANGE_PROGRESS || c->move_follows;
  tci_node *node = NULL;
  bool created = c->type == TCI_CHANGE_CHECK_CREATED || c->type == TCI_CHANGE_STAGE_CREATED;
  if (created)
    node = plan->nodes.items[plan->nodes.len - 1];
  else if (c->node)
    node = plan->nodes.items[c->node - 1];
  for (tci_link *l = plan->watchers.next; l != &plan->watchers; l = l->next) {
    const tci_watcher *w = tci_container(l, tci_watcher, link);
    if (node && (!busy || w->include_progress)) node_event(core, w, node, created || c->created ? 0 : old_state);
    if (c->type == TCI_CHANGE_PLAN_STATE && c->state == TCI_PLAN_SETTLED) completed(core, w);
  }
}

/* ---- commands ---- */

void tci_on_watch_plan(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  const tci_command *cmd = &event->command;
  if (cmd->watch_plan.after_sequence > plan->sequence) {
    tci_refuse(core, event, TCI_OUT_OF_RANGE, "after_sequence: %llu is yet to come; the plan's last sequence is %llu",
               (unsigned long long)cmd->watch_plan.after_sequence, (unsigned long long)plan->sequence);
    return;
  }
  if (core->watchers_len >= (size_t)core->limits.watchers_max) {
    tci_refuse(core, event, TCI_RESOURCE_EXHAUSTED, "%lld streams are open already (limit watchers_max)",
               (long long)core->limits.watchers_max);
    return;
  }
  tci_watcher *w = tci_watcher_add(core, plan, event->token, cmd);
  if (!cmd->watch_plan.include_current) return;
  for (size_t i = 0; i < plan->nodes.len; i++) node_event(core, w, plan->nodes.items[i], 0);
  if (plan->state == TCI_PLAN_SETTLED) completed(core, w);
}

void tci_on_unwatch(tci_core *core, const tci_event *event) {
  tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&event->token));
  if (w) tci_watcher_free(core, w);
}

uint64_t tci_core_watch_since(const tci_core *core, uint64_t token) {
  const tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  return w ? w->since : 0;
}
