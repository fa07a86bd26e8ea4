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
    bool pending = a->execution == TCI_EXECUTION_PENDING && is_open;
    if (pending && !tci_link_in(&a->queued) && !a->timer.position)
      BROKEN("11: '%.*s' is neither queued nor backing off", TCI_STR_ARG(stage->node.id));
    if (!pending && tci_link_in(&a->queued)) BROKEN("11: '%.*s' is queued for nothing", TCI_STR_ARG(stage->node.id));
    if (a->counts_keys != (tci_execution_is_live(a) && a->keys.len))
      BROKEN("6: '%.*s' miscounts its admission keys", TCI_STR_ARG(stage->node.id));
    if (tci_execution_is_live(a) && !a->timer.position)
      BROKEN("12: '%.*s' has no deadline", TCI_STR_ARG(stage->node.id));
    if (tci_link_in(&a->live) && !tci_execution_is_live(a))
      BROKEN("6: '%.*s' holds a slot", TCI_STR_ARG(stage->node.id));
  }
  if (stage->request_bytes != tci_request_bytes_of(stage) || stage->request_growth)
    BROKEN("19: the request of '%.*s' is measured wrongly", TCI_STR_ARG(stage->node.id));
  bool attempting = stage->state == TCI_STAGE_ATTEMPTING;
  if (stage->runner_type.len && (unfinished == 1) != attempting)
    BROKEN("5: stage '%.*s' is %s with %zu open attempts", TCI_STR_ARG(stage->node.id),
           tci_stage_state_name((int)stage->state), unfinished);
  return NULL;
}

static const char *check_check(tci_check *check, tci_arena *arena) {
  size_t pending = 0;
  bool listed = check->node.listed;
  for (size_t i = 0; i < check->assigned.len; i++) {
    const tci_assignment *a = check->assigned.items[i];
    tci_stage *stage = a->stage;
    if (a != tci_stage_assignment(stage, check) || a->position != i)
      BROKEN("22: check '%.*s' knows a stage that is not assigned", TCI_STR_ARG(check->node.id));
    const tci_result *r = a->result ? &check->results.items[a->result - 1] : NULL;
    bool done = stage->state == TCI_STAGE_FINAL || (r && r->finalized_us);
    if (a->done != done) BROKEN("19: assignment of '%.*s' is miscounted", TCI_STR_ARG(check->node.id));
    pending += !done;
    listed |= stage->node.listed != 0;
  }
  if (pending != check->pending) BROKEN("19: check '%.*s' counts pending results wrongly", TCI_STR_ARG(check->node.id));
  if (check->assigned.len && !pending && check->state != TCI_CHECK_FINAL && !listed)
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
    if (ready && check->state == TCI_CHECK_PLANNED && !node->listed)
      BROKEN("9: check '%.*s' lags", TCI_STR_ARG(node->id));
    return check_check(check, arena);
  }
  tci_stage *stage = tci_node_stage(node);
  if (ready && stage->state == TCI_STAGE_PLANNED && !node->listed)
    BROKEN("9: stage '%.*s' lags", TCI_STR_ARG(node->id));
  if (!ready && stage->attempts.len) BROKEN("9: stage '%.*s' ran before its time", TCI_STR_ARG(node->id));
  return check_attempts(stage, arena);
}

static const char *check_plan(const tci_plan *plan, tci_arena *arena) {
  size_t unfinished = 0, live = 0, listed = 0;
  if (!plan->whole) return NULL; /* of its history only the beginning is known */
  for (size_t i = 0; i < plan->nodes.len; i++) {
    tci_node *node = plan->nodes.items[i];
    const char *fault = check_node(node, arena);
    if (fault) return fault;
    unfinished += !tci_node_is_final(node);
    for (uint8_t bit = TCI_LISTED_RESOLVED; bit <= TCI_LISTED_SETTLING; bit <<= 1) listed += (node->listed & bit) != 0;
    if (node->kind != TCI_NODE_STAGE) continue;
    const tci_attempt *a = tci_stage_attempt(tci_node_stage(node));
    live += a && a->execution && tci_attempt_is_open(a);
  }
  if (unfinished != plan->open_nodes || live != plan->live_attempts || listed != plan->listed)
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

/* ---- queues ---- */

typedef enum { ARRIVED, WAITING, IN_BUCKET, PARKED } place;

/* Everybody in this list of the queue belongs there, first ready first (except where they wait for a time). */
static const char *check_list(const tci_link *list, const tci_pool *pool, tci_mode mode, place where,
                              const tci_key_queue *parked, size_t *len, tci_arena *arena) {
  uint64_t order = 0;
  for (const tci_link *l = list->next; l != list; l = l->next, ++*len) {
    const tci_attempt *a = tci_container(l, tci_attempt, queued);
    tci_str id = a->stage->node.id;
    if (!tci_str_eq(a->stage->runner_type, pool->type) || a->mode != mode)
      BROKEN("11: '%.*s' is in a queue that is not its own", TCI_STR_ARG(id));
    if (a->parked != parked) BROKEN("11: '%.*s' is parked elsewhere", TCI_STR_ARG(id));
    if ((where == WAITING) != (a->hold_until_us != 0))
      BROKEN("11: '%.*s' is told to wait until %lld", TCI_STR_ARG(id), (long long)a->hold_until_us);
    if ((where == WAITING || a->queue_mono_us) && !a->timer.position)
      BROKEN("12: '%.*s' is queued for ever", TCI_STR_ARG(id));
    if (where != WAITING && a->order <= order) BROKEN("11: '%.*s' has jumped the queue", TCI_STR_ARG(id));
    order = a->order;
  }
  return NULL;
}

static const char *check_buckets(const tci_pool *pool, tci_mode mode, size_t *len, tci_arena *arena) {
  const tci_ready *ready = &pool->ready[mode];
  bool has_cursor = ready->cursor == NULL;
  for (size_t i = 0; i < ready->buckets.len; i++) {
    const tci_bucket *bucket = ready->buckets.items[i];
    if (i > 0 && bucket->priority >= ready->buckets.items[i - 1]->priority)
      BROKEN("11: the priorities of '%.*s' are out of order", TCI_STR_ARG(pool->type));
    const char *fault = check_list(&bucket->list, pool, mode, IN_BUCKET, NULL, len, arena);
    if (fault) return fault;
    for (const tci_link *l = bucket->list.next; l != &bucket->list; l = l->next) {
      const tci_attempt *a = tci_container(l, tci_attempt, queued);
      has_cursor |= l == ready->cursor;
      if (a->priority != bucket->priority) BROKEN("11: '%.*s' has another priority", TCI_STR_ARG(a->stage->node.id));
    }
  }
  if (!has_cursor) BROKEN("11: the look at '%.*s' goes on nowhere", TCI_STR_ARG(pool->type));
  return NULL;
}

static bool has_chance(const tci_pool *pool, tci_mode mode, const tci_key *key) {
  const tci_ready *ready = &pool->ready[mode];
  for (size_t i = 0; i < ready->buckets.len; i++) {
    const tci_link *list = &ready->buckets.items[i]->list;
    for (const tci_link *l = list->next; l != list; l = l->next)
      if (tci_container(l, tci_attempt, queued)->chance == key) return true;
  }
  return false;
}

static const char *check_parked(const tci_pool *pool, size_t at, size_t *len, tci_arena *arena) {
  const tci_key_queue *queue = pool->parked.items[at];
  tci_str name = queue->key->name;
  size_t known = 0, same = 0;
  for (size_t i = 0; i < queue->key->queues.len; i++) {
    const tci_key_queue *other = queue->key->queues.items[i];
    known += other == queue;
    same += other->pool == pool && other->mode == queue->mode;
  }
  if (known != 1 || same != 1 || queue->pool != pool || queue->position != at || !queue->len)
    BROKEN("11: those who wait for key '%.*s' are lost", TCI_STR_ARG(name));
  size_t parked = 0;
  for (size_t i = 0; i < queue->buckets.len; i++) {
    const char *fault = check_list(&queue->buckets.items[i]->list, pool, queue->mode, PARKED, queue, &parked, arena);
    if (fault) return fault;
  }
  if (parked != queue->len) BROKEN("11: those who wait for key '%.*s' are miscounted", TCI_STR_ARG(name));
  *len += parked;
  if (tci_key_first_that_fits(queue) && !has_chance(pool, queue->mode, queue->key))
    BROKEN("11: key '%.*s' has room and nobody tries", TCI_STR_ARG(name));
  return NULL;
}

static const char *check_pool(const tci_core *core, const tci_pool *pool, size_t *queued, tci_arena *arena) {
  size_t len[TCI_MODES] = {0}, listed = 0;
  const char *fault = NULL;
  bool awake = false;
  for (int mode = 0; mode < TCI_MODES && !fault; mode++) {
    const tci_ready *ready = &pool->ready[mode];
    awake |= ready->awake;
    if (ready->cursor && !ready->awake) BROKEN("11: the look at '%.*s' is forgotten", TCI_STR_ARG(pool->type));
    fault = check_list(&ready->arrived, pool, (tci_mode)mode, ARRIVED, NULL, &len[mode], arena);
    if (!fault) fault = check_list(&ready->waiting, pool, (tci_mode)mode, WAITING, NULL, &len[mode], arena);
    if (!fault) fault = check_buckets(pool, (tci_mode)mode, &len[mode], arena);
    if (!fault && !tci_list_empty(&ready->arrived) && !ready->awake)
      BROKEN("11: nobody looks at who arrived at '%.*s'", TCI_STR_ARG(pool->type));
  }
  for (size_t i = 0; i < pool->parked.len && !fault; i++)
    fault = check_parked(pool, i, &len[pool->parked.items[i]->mode], arena);
  if (fault) return fault;
  for (size_t i = 0; i < core->awake.len; i++) listed += core->awake.items[i] == pool;
  if (listed != pool->listed || (awake && !listed))
    BROKEN("11: '%.*s' is listed %zu times to be looked at", TCI_STR_ARG(pool->type), listed);
  if (!pool->runners.len && !listed && !len[TCI_MODE_SYNC] && !len[TCI_MODE_ASYNC])
    BROKEN("25: the pool of '%.*s' is kept for nobody", TCI_STR_ARG(pool->type));
  for (int mode = 0; mode < TCI_MODES; mode++) {
    if (len[mode] != pool->ready[mode].len) BROKEN("11: the queue of '%.*s' is miscounted", TCI_STR_ARG(pool->type));
    *queued += len[mode];
  }
  return NULL;
}

/* ---- admission keys ---- */

typedef struct tally {
  struct tally *next;
  tci_str name;
  int64_t live;
  size_t chances;
} tally;

typedef struct {
  tci_map by_name;
  tally *first;
  tci_arena *arena;
} tallies;

static tally *tally_of(tallies *all, tci_str name) {
  tally *t = tci_map_get(&all->by_name, name);
  if (t) return t;
  t = tci_arena_new(all->arena, tally);
  *t = (tally){.next = all->first, .name = name};
  all->first = t;
  tci_map_put(&all->by_name, name, t);
  return t;
}

static void tally_keys(tci_str keys, tallies *all) {
  tci_wire_reader reader = tci_wire_read(keys);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) tally_of(all, wire.bytes)->live++;
}

/* What the attempts of a plan hold and hope for; how many are queued. */
static size_t tally_plan(const tci_plan *plan, tallies *all) {
  size_t queued = 0;
  for (size_t i = 0; plan->whole && i < plan->nodes.len; i++) {
    if (plan->nodes.items[i]->kind != TCI_NODE_STAGE) continue;
    const tci_attempt *a = tci_stage_attempt(tci_node_stage(plan->nodes.items[i]));
    if (!a) continue;
    queued += tci_link_in(&a->queued);
    if (a->chance) tally_of(all, a->chance->name)->chances++;
    if (!tci_execution_is_live(a)) continue;
    tally_keys(a->keys, all);
  }
  return queued;
}

static const char *check_keys(const tci_core *core, tallies *all, tci_arena *arena) {
  for (size_t i = 0; i < core->pool_list.len; i++)
    for (size_t k = 0; k < core->pool_list.items[i]->parked.len; k++)
      tally_of(all, core->pool_list.items[i]->parked.items[k]->key->name);
  for (size_t i = 0; i < core->aside_list.len; i++) tally_keys(core->aside_list.items[i]->keys, all);
  for (const tally *t = all->first; t; t = t->next) {
    const tci_key *key = tci_map_get(&core->keys, t->name);
    if (!key || key->live != t->live || key->chances != t->chances)
      BROKEN("6: admission key '%.*s' is miscounted", TCI_STR_ARG(t->name));
  }
  if (all->by_name.len != core->keys.len)
    BROKEN("6: %zu admission keys are known, %zu are in use", core->keys.len, all->by_name.len);
  return NULL;
}

static const char *check_queues(const tci_core *core, tci_arena *arena) {
  tallies all = {.arena = arena};
  size_t queued = 0, listed = 0;
  for (size_t i = 0; i < core->plan_list.len; i++) queued += tally_plan(core->plan_list.items[i], &all);
  const char *fault = check_keys(core, &all, arena);
  tci_map_deinit(&all.by_name);
  for (size_t i = 0; i < core->pool_list.len && !fault; i++)
    fault = check_pool(core, core->pool_list.items[i], &listed, arena);
  if (fault) return fault;
  if (listed != queued) BROKEN("11: %zu attempts are queued, %zu are in the queues", queued, listed);
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
  return check_queues(core, arena);
}
