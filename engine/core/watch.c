/* watch: streams of what happens to a plan. Every change that a filter lets through becomes one WATCH effect, in order, or
 * is owed to the watcher and told when there is room; see core.h.
 *
 * Invariants: a watch event carries the node as it was at the change (one that was owed: as it was at its last change);
 * changes of attempts, progress, and results whose check moves at once go to include_progress watchers only; the completed event
 * follows the change that settles the plan; a move of a node that the watcher knows is always told. What is said of the
 * sequence of an event stands in update.h: told() is the one place that knows it.
 */
#include <string.h>

#include "core/internal.h"

/* ---- watchers ---- */

static tci_ids copy_ids(tci_arena *arena, tci_ids ids) {
  tci_ids copy = {tci_arena_array(arena, tci_str, ids.len + 1), ids.len};
  for (size_t i = 0; i < ids.len; i++) copy.items[i] = tci_str_copy(arena, ids.items[i]);
  return copy;
}

tci_watch_wish tci_watch_wish_copy(tci_arena *arena, const tci_watch_wish *wish) {
  tci_watch_wish copy = *wish;
  copy.filter.check_ids = copy_ids(arena, wish->filter.check_ids);
  copy.filter.stage_ids = copy_ids(arena, wish->filter.stage_ids);
  tci_filter_sort(&copy.filter);
  return copy;
}

tci_watcher *tci_watcher_add(tci_core *core, tci_plan *plan, uint64_t token, const tci_watch_wish *wish) {
  tci_watcher *w = tci_calloc(1, sizeof *w);
  w->plan = plan;
  w->token = token;
  w->wish = tci_watch_wish_copy(&w->arena, wish);
  tci_list_init(&w->owed);
  tci_list_push(&plan->watchers, &w->link);
  tci_map_put(&core->watchers, TCI_U64_KEY(&w->token), w);
  core->watchers_len++;
  tci_plan_touch(core, plan);
  return w;
}

#define INDEX_KEY(owed) ((tci_str){(const char *)&(owed)->index, sizeof(owed)->index})

static tci_owed *owed_find(const tci_watcher *w, uint32_t index) {
  return tci_map_get(&w->owed_by_node, (tci_str){(const char *)&index, sizeof index});
}

static void owed_remove(tci_watcher *w, tci_owed *owed) {
  tci_map_remove(&w->owed_by_node, INDEX_KEY(owed));
  tci_link_remove(&owed->link);
  free(owed);
}

static void owed_clear(tci_watcher *w) {
  while (!tci_list_empty(&w->owed)) owed_remove(w, tci_container(w->owed.next, tci_owed, link));
}

void tci_watcher_free(tci_core *core, tci_watcher *w) {
  owed_clear(w);
  tci_map_deinit(&w->owed_by_node);
  tci_link_remove(&w->link);
  tci_plan_touch(core, w->plan);
  tci_map_remove(&core->watchers, TCI_U64_KEY(&w->token));
  core->watchers_len--;
  tci_arena_deinit(&w->arena);
  free(w);
}

/* include_current: has it heard nothing of this node yet? What changes is then told with the node, when its turn comes. */
static bool is_news(const tci_watcher *w, uint32_t index) {
  return w->current && (index >= w->cursor || (size_t)index + 1 == w->found);
}

/* Everything up to here was told. */
static uint64_t told(const tci_watcher *w) {
  if (w->away) return w->after;
  uint64_t sequence = w->plan->sequence;
  size_t next = w->found ? w->found - 1 : w->cursor;
  if (w->current && next < w->plan->nodes.len)
    sequence = w->plan->nodes.items[next]->created_sequence - 1;
  else if (w->current && w->plan->state == TCI_PLAN_SETTLED)
    sequence = w->plan->settled_sequence - 1; /* the completed event is to come */
  if (tci_list_empty(&w->owed)) return sequence;
  uint64_t owed = tci_container(w->owed.next, tci_owed, link)->sequence;
  return owed <= sequence ? owed - 1 : sequence;
}

/* ---- copies: of a change one whole and one partial copy at most, shared by all who are told of it ---- */

typedef struct {
  const tci_change *change; /* NULL: none, the node as it is */
  const void *whole, *part; /* tci_check or tci_stage; made when the first one wants it */
  unsigned omitted;         /* of part */
} copies;

#define COPY_VEC(arena, vec)                                                     \
  do {                                                                           \
    void *copy_ = tci_arena_alloc((arena), (vec).len * sizeof *(vec).items + 1); \
    if ((vec).len) memcpy(copy_, (vec).items, (vec).len * sizeof *(vec).items);  \
    (vec).items = copy_;                                                         \
  } while (0)

/* Bytes are shared: what a later change of the step replaces is freed only after the update (tci_discard). */
static tci_attempt *attempt_copy(tci_arena *arena, const tci_attempt *attempt, const tci_stage *stage) {
  tci_attempt *a = tci_arena_alloc(arena, sizeof *a);
  *a = *attempt;
  COPY_VEC(arena, a->progress);
  COPY_VEC(arena, a->decisions);
  a->stage = (tci_stage *)stage;
  return a;
}

static const void *whole_copy(tci_arena *arena, tci_node *node) {
  if (node->kind == TCI_NODE_CHECK) {
    tci_check *check = tci_arena_alloc(arena, sizeof *check);
    *check = *tci_node_check(node);
    COPY_VEC(arena, check->results);
    return check;
  }
  tci_stage *stage = tci_arena_alloc(arena, sizeof *stage);
  *stage = *tci_node_stage(node);
  COPY_VEC(arena, stage->attempts);
  for (size_t i = 0; i < stage->attempts.len; i++)
    stage->attempts.items[i] = attempt_copy(arena, stage->attempts.items[i], stage);
  return stage;
}

/* A node without what is `omitted`; of results and attempts the one that changed may stay. */
static const tci_check *check_part(tci_arena *arena, const tci_check *from, size_t result, unsigned omitted) {
  tci_check *check = tci_arena_alloc(arena, sizeof *check);
  *check = *from;
  if (omitted & TCI_OMITTED_KIND) check->kind = (tci_str){0};
  if (omitted & TCI_OMITTED_OPTIONS) check->options = (tci_str){0};
  if (omitted & TCI_OMITTED_DEPENDENCIES) check->node.group = (tci_group){0};
  check->results.items = tci_arena_alloc(arena, sizeof *check->results.items);
  check->results.len = result != 0;
  if (result) check->results.items[0] = from->results.items[result - 1];
  return check;
}

static const tci_stage *stage_part(tci_arena *arena, const tci_stage *from, const tci_attempt *attempt, bool reported,
                                   unsigned omitted) {
  tci_stage *stage = tci_arena_alloc(arena, sizeof *stage);
  *stage = *from;
  if (omitted & TCI_OMITTED_ARGS) stage->args = (tci_str){0};
  if (omitted & TCI_OMITTED_DEPENDENCIES) stage->node.group = (tci_group){0};
  if (omitted & TCI_OMITTED_ASSIGNMENTS) stage->assignments_len = 0;
  stage->attempts.items = tci_arena_alloc(arena, sizeof *stage->attempts.items);
  stage->attempts.len = attempt != NULL;
  if (!attempt) return stage;
  tci_attempt *a = tci_arena_alloc(arena, sizeof *a);
  *a = *attempt;
  a->stage = stage;
  a->decisions.len = 0; /* not told to watchers */
  if (omitted & TCI_OMITTED_ATTEMPT_DETAILS) a->details = (tci_str){0};
  a->progress.items = tci_arena_alloc(arena, sizeof *a->progress.items);
  a->progress.len = reported && attempt->progress.len;
  if (a->progress.len) a->progress.items[0] = attempt->progress.items[attempt->progress.len - 1];
  stage->attempts.items[0] = a;
  return stage;
}

/* The first that is heard of a node. */
static bool is_first(const tci_change *c) {
  return c->type == TCI_CHANGE_CHECK_CREATED || c->type == TCI_CHANGE_STAGE_CREATED || c->created;
}

static const void *part_copy(tci_arena *arena, tci_node *node, const tci_change *c, unsigned *omitted) {
  bool edges = c->type == TCI_CHANGE_EDGES;
  *omitted = edges ? 0 : TCI_OMITTED_DEPENDENCIES;
  if (node->kind == TCI_NODE_CHECK) {
    *omitted |= TCI_OMITTED_RESULTS;
    if (c->type != TCI_CHANGE_CHECK_UPDATED) *omitted |= TCI_OMITTED_KIND | TCI_OMITTED_OPTIONS;
    return check_part(arena, tci_node_check(node), c->type == TCI_CHANGE_CHECK_RESULT ? c->result : 0, *omitted);
  }
  *omitted |= TCI_OMITTED_ATTEMPTS | TCI_OMITTED_ATTEMPT_PROGRESS;
  if (!edges) *omitted |= TCI_OMITTED_ASSIGNMENTS;
  if (c->type != TCI_CHANGE_STAGE_UPDATED) *omitted |= TCI_OMITTED_ARGS;
  if (c->type != TCI_CHANGE_ATTEMPT || !c->bytes.len) *omitted |= TCI_OMITTED_ATTEMPT_DETAILS;
  const tci_stage *stage = tci_node_stage(node);
  bool reported = c->type == TCI_CHANGE_PROGRESS;
  const tci_attempt *a = reported || c->type == TCI_CHANGE_ATTEMPT ? stage->attempts.items[c->attempt - 1] : NULL;
  return stage_part(arena, stage, a, reported, *omitted);
}

/* ---- events ---- */

static tci_watch_event *event_add(tci_core *core, const tci_watcher *w) {
  tci_effect *effect = tci_effect_add(core, TCI_EFFECT_WATCH);
  effect->token = w->token;
  effect->watch = (tci_watch_event){.sequence = told(w),
                                    .at_us = core->now.wall_us,
                                    .more = w->current && (w->found || w->cursor < w->plan->nodes.len)};
  return &effect->watch;
}

static void completed(tci_core *core, const tci_watcher *w) {
  tci_watch_event *e = event_add(core, w);
  e->checks_completed = (int)w->plan->checks_final;
  e->stages_completed = (int)w->plan->stages_final;
  e->has_failures = w->plan->nodes_failed > 0;
}

static int node_state(const tci_node *node) {
  return node->kind == TCI_NODE_CHECK ? (int)((const tci_check *)node)->state : (int)((const tci_stage *)node)->state;
}

static bool wants(const tci_watcher *w, tci_node *node) {
  return node->kind == TCI_NODE_CHECK ? tci_filter_check(&w->wish.filter, tci_node_check(node))
                                      : tci_filter_stage(&w->wish.filter, tci_node_stage(node));
}

/* Tells w of the node, as it is now. */
static void tell(tci_core *core, const tci_watcher *w, tci_node *node, int old_state, copies *made) {
  tci_arena *arena = &core->update->arena;
  bool part = w->wish.changes_only && made->change && !is_first(made->change);
  const void **copy = part ? &made->part : &made->whole;
  if (!*copy) *copy = part ? part_copy(arena, node, made->change, &made->omitted) : whole_copy(arena, node);
  tci_watch_event *e = event_add(core, w);
  if (node->kind == TCI_NODE_CHECK)
    e->check = *copy;
  else
    e->stage = *copy;
  e->old_state = old_state;
  e->new_state = node_state(node);
  if (part) e->omitted = made->omitted;
}

/* `sequence`: of the first change of the node that is not told. */
static void owe(tci_watcher *w, const tci_node *node, uint64_t sequence) {
  if (owed_find(w, node->index)) return;
  tci_owed *owed = tci_calloc(1, sizeof *owed);
  *owed = (tci_owed){.index = node->index, .sequence = sequence};
  tci_list_push(&w->owed, &owed->link);
  tci_map_put(&w->owed_by_node, INDEX_KEY(owed), owed);
}

/* Progress that is not on record yet was told to those who watched then, and goes on record without a word: who begins to
 * hear now is shown those nodes as they are. It will be on record behind everything that is there. */
static void owe_reports(tci_watcher *w) {
  const tci_plan *plan = w->plan;
  for (size_t i = 0; w->wish.include_progress && plan->live_attempts && i < plan->nodes.len; i++) {
    tci_node *node = plan->nodes.items[i];
    const tci_attempt *a = node->kind == TCI_NODE_STAGE ? tci_stage_attempt(tci_node_stage(node)) : NULL;
    if (a && a->progress_pending && wants(w, node)) owe(w, node, plan->sequence + 1);
  }
}

static void node_event(tci_core *core, tci_watcher *w, tci_node *node, int old_state, copies *made) {
  if (is_news(w, node->index) || !wants(w, node)) return;
  if (!w->wish.changes_only) {
    if (w->behind && old_state == node_state(node)) {
      owe(w, node, w->plan->sequence);
      return;
    }
    tci_owed *owed = owed_find(w, node->index);
    if (owed) owed_remove(w, owed); /* the whole node is told now */
  }
  tell(core, w, node, old_state, made);
}

/* Called by tci_emit after a change was applied; old_state is the node's before it (-1: the change concerns no node). */
void tci_watch_notify(tci_core *core, tci_plan *plan, const tci_change *c, int old_state) {
  if (c->edges_follow) return; /* told once its edges are there */
  bool busy = c->type == TCI_CHANGE_ATTEMPT || c->type == TCI_CHANGE_PROGRESS || c->move_follows;
  tci_node *node = NULL;
  if (c->node)
    node = plan->nodes.items[c->node - 1];
  else if (is_first(c))
    node = plan->nodes.items[plan->nodes.len - 1];
  copies made = {.change = c};
  for (tci_link *l = plan->watchers.next; l != &plan->watchers; l = l->next) {
    tci_watcher *w = tci_container(l, tci_watcher, link);
    if (w->away) continue;
    if (node && (!busy || w->wish.include_progress)) node_event(core, w, node, is_first(c) ? 0 : old_state, &made);
    if (c->type == TCI_CHANGE_PLAN_STATE && c->state == TCI_PLAN_SETTLED && !w->current) completed(core, w);
  }
}

/* ---- what is owed ---- */

/* The next node to be told for the first time; NULL: none, or (looks are used up) not known yet. *over: there is none after it. */
static tci_node *next_current(tci_watcher *w, size_t *looks, bool *over) {
  for (; *looks && w->cursor < w->plan->nodes.len; --*looks) {
    tci_node *node = w->plan->nodes.items[w->cursor++];
    if (!wants(w, node)) continue;
    tci_node *before = w->found ? w->plan->nodes.items[w->found - 1] : NULL;
    w->found = node->index + 1;
    if (before) return before;
  }
  if (w->cursor < w->plan->nodes.len) return NULL;
  tci_node *last = w->found ? w->plan->nodes.items[w->found - 1] : NULL;
  w->found = 0;
  *over = true;
  return last;
}

static void tell_owed(tci_core *core, tci_watcher *w, size_t *looks) {
  copies made = {0};
  while (w->current && *looks && core->update->effects.len == 0) {
    bool over = false;
    tci_node *node = next_current(w, looks, &over);
    if (node && wants(w, node)) tell(core, w, node, 0, &made);
    w->current = !over;
    if (over && w->plan->state == TCI_PLAN_SETTLED) completed(core, w);
  }
  while (!w->current && !tci_list_empty(&w->owed) && *looks && core->update->effects.len == 0) {
    tci_owed *owed = tci_container(w->owed.next, tci_owed, link);
    tci_node *node = w->plan->nodes.items[owed->index];
    owed_remove(w, owed);
    --*looks;
    if (wants(w, node)) tell(core, w, node, node_state(node), &made);
  }
}

bool tci_core_watch_more(tci_core *core, uint64_t token, size_t *looks, tci_update *update) {
  tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  tci_update_begin(core, update);
  if (!w || w->away) return false;
  core->update = update;
  tell_owed(core, w, looks);
  core->update = NULL;
  return tci_core_watch_state(core, token) == TCI_WATCH_OWED;
}

/* ---- the shell's hold on a stream ---- */

tci_watch_state tci_core_watch_state(const tci_core *core, uint64_t token) {
  const tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  if (!w) return TCI_WATCH_NONE;
  if (w->away) return TCI_WATCH_AWAY;
  return w->current || !tci_list_empty(&w->owed) ? TCI_WATCH_OWED : TCI_WATCH_LIVE;
}

const tci_plan *tci_core_watch_plan(const tci_core *core, uint64_t token) {
  const tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  return w ? w->plan : NULL;
}

uint64_t tci_core_watch_told(const tci_core *core, uint64_t token) {
  const tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  return w ? told(w) : 0;
}

void tci_core_watch_behind(tci_core *core, uint64_t token, bool behind) {
  tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  if (w) w->behind = behind;
}

void tci_core_watch_leave(tci_core *core, uint64_t token, uint64_t after) {
  tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  tci_assert(w && !w->away && !w->current && tci_list_empty(&w->owed));
  w->away = true;
  w->after = after;
}

void tci_core_watch_join(tci_core *core, uint64_t token) {
  tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  tci_assert(w && w->away);
  w->away = w->behind = false;
  owe_reports(w);
}

void tci_core_unwatch(tci_core *core, uint64_t token) {
  tci_watcher *w = tci_map_get(&core->watchers, TCI_U64_KEY(&token));
  if (w) tci_watcher_free(core, w);
}

/* ---- commands ---- */

void tci_on_watch_plan(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  const tci_command *cmd = &event->command;
  uint64_t after = cmd->watch_plan.after_sequence;
  if (after > plan->sequence) {
    tci_refuse(core, event, TCI_OUT_OF_RANGE, "after_sequence: %llu is yet to come; the plan's last sequence is %llu",
               (unsigned long long)after, (unsigned long long)plan->sequence);
    return;
  }
  if (core->watchers_len >= (size_t)core->limits.watchers_max) {
    tci_refuse(core, event, TCI_RESOURCE_EXHAUSTED, "%lld streams are open already (limit watchers_max)",
               (long long)core->limits.watchers_max);
    return;
  }
  /* Changes make a whole only for those who hear of all of them. */
  const tci_filter *f = &cmd->watch_plan.filter;
  bool all = cmd->watch_plan.include_progress && !f->check_states && !f->stage_states;
  tci_watcher *w = tci_watcher_add(core, plan, event->token,
                                   &(tci_watch_wish){.filter = *f,
                                                     .include_progress = cmd->watch_plan.include_progress,
                                                     .changes_only = cmd->watch_plan.omit_unchanged && all});
  w->away = after && after < plan->sequence;
  w->after = after;
  w->current = !after && cmd->watch_plan.include_current;
  if (after && !w->away) owe_reports(w);
}

void tci_on_unwatch(tci_core *core, const tci_event *event) { tci_core_unwatch(core, event->token); }
