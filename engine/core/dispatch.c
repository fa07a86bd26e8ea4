/* dispatch: queues of ready executions, and who gets the next one.
 *
 * Invariants: an execution waits in one bucket of one queue; choosing a runner and reserving its slot is one step; a
 * queue is looked at only when something changed (a head arrived, a slot freed, a runner changed, a wait elapsed).
 * One step asks at most policy_asks_per_turn; the rest is left to the next (update->more).
 */
#include <string.h>

#include "core/internal.h"

/* ---- pools ---- */

tci_pool *tci_pool_get(tci_core *core, tci_str type) {
  tci_pool *pool = tci_map_get(&core->pools, type);
  if (pool) return pool;
  pool = tci_calloc(1, sizeof *pool);
  pool->type = tci_str_dup(type);
  tci_map_put(&core->pools, pool->type, pool);
  return pool;
}

void tci_pool_wake(tci_core *core, tci_pool *pool) {
  if (core->loading) return;
  for (int mode = 0; mode < TCI_MODES; mode++) {
    pool->ready[mode].cursor = NULL;
    pool->ready[mode].awake = pool->ready[mode].len > 0;
  }
  if (pool->listed) return;
  pool->listed = true;
  tci_vec_push(&core->awake, pool);
}

void tci_pool_trim(tci_core *core, tci_pool *pool) {
  if (pool->runners.len || pool->listed) return;
  for (int mode = 0; mode < TCI_MODES; mode++)
    if (pool->ready[mode].len) return;
  for (int mode = 0; mode < TCI_MODES; mode++) {
    for (size_t i = 0; i < pool->ready[mode].buckets.len; i++) free(pool->ready[mode].buckets.items[i]);
    tci_vec_free(&pool->ready[mode].buckets);
  }
  tci_map_remove(&core->pools, pool->type);
  tci_vec_free(&pool->runners);
  tci_str_free(&pool->type);
  free(pool);
}

/* ---- queues ---- */

static tci_bucket *bucket_for(tci_ready *ready, int64_t priority) {
  size_t i = 0;
  while (i < ready->buckets.len && ready->buckets.items[i]->priority > priority) i++;
  if (i < ready->buckets.len && ready->buckets.items[i]->priority == priority) return ready->buckets.items[i];
  tci_bucket *bucket = tci_calloc(1, sizeof *bucket);
  bucket->priority = priority;
  tci_list_init(&bucket->list);
  tci_vec_push(&ready->buckets, bucket);
  memmove(&ready->buckets.items[i + 1], &ready->buckets.items[i], (ready->buckets.len - 1 - i) * sizeof bucket);
  ready->buckets.items[i] = bucket;
  return bucket;
}

void tci_ready_add(tci_core *core, tci_attempt *a, int64_t priority) {
  tci_pool *pool = tci_pool_get(core, a->stage->runner_type);
  tci_ready *ready = &pool->ready[a->mode];
  tci_list_push(&bucket_for(ready, priority)->list, &a->queued);
  ready->len++;
  tci_pool_wake(core, pool);
}

static tci_pool *pool_of(tci_core *core, const tci_attempt *a) {
  return tci_map_get(&core->pools, a->stage->runner_type);
}

void tci_ready_remove(tci_core *core, tci_attempt *a) {
  tci_pool *pool = pool_of(core, a);
  tci_ready *ready = &pool->ready[a->mode];
  if (ready->cursor == &a->queued) ready->cursor = NULL;
  tci_link_remove(&a->queued);
  ready->len--;
  tci_pool_trim(core, pool);
}

/* The next execution to ask about after `from` (NULL: the first of all), by priority, then by age. */
static tci_attempt *next_ready(tci_ready *ready, const tci_attempt *from) {
  bool found = from == NULL;
  for (size_t i = 0; i < ready->buckets.len; i++) {
    tci_link *list = &ready->buckets.items[i]->list;
    if (found) {
      if (!tci_list_empty(list)) return tci_container(list->next, tci_attempt, queued);
      continue;
    }
    /* `from` is linked: it is the last of its bucket when its next link is the bucket's list. */
    if (from->queued.next == list) found = true;
  }
  return NULL;
}

static tci_attempt *after(tci_ready *ready, const tci_attempt *a) {
  for (size_t i = 0; i < ready->buckets.len; i++)
    if (a->queued.next == &ready->buckets.items[i]->list) return next_ready(ready, a);
  return tci_container(a->queued.next, tci_attempt, queued);
}

/* ---- choosing ---- */

static bool has_room(const tci_core *core, const tci_runner *r, tci_mode mode) {
  return r->modes[mode] && (r->max_concurrent == 0 || r->load < r->max_concurrent) &&
         r->expires_mono_us > core->now.mono_us && !tci_runner_is_passed_over(core, r);
}

static size_t candidates(tci_core *core, const tci_pool *pool, tci_mode mode, tci_runner **out) {
  size_t n = 0;
  for (size_t i = 0; i < pool->runners.len; i++)
    if (has_room(core, pool->runners.items[i], mode)) out[n++] = pool->runners.items[i];
  return n;
}

/* What a policy answers, made a length that can be counted with. */
static void bound(const tci_core *core, int64_t *ms) {
  if (*ms < 1) *ms = 1;
  if (*ms > core->limits.duration_ms_max) *ms = core->limits.duration_ms_max;
}

static void send(tci_core *core, tci_attempt *a, tci_runner *r) {
  tci_stage *stage = a->stage;
  tci_policy_context context = tci_context(core);
  tci_timeout_answer timeouts = core->policy.timeout(core->policy.self, &context, stage);
  bound(core, &timeouts.execution_ms);
  bound(core, &timeouts.stale_ms);
  tci_change c = {.type = TCI_CHANGE_ATTEMPT,
                  .node = stage->node.index + 1u,
                  .attempt = a->index,
                  .state = TCI_ATTEMPT_SCHEDULED,
                  .execution = TCI_EXECUTION_DISPATCHED,
                  .runner_id = r->runner_id,
                  .registration_id = r->registration_id,
                  .execution_ms = (uint64_t)timeouts.execution_ms,
                  .stale_ms = (uint64_t)timeouts.stale_ms,
                  .deadline_us = (uint64_t)(core->now.wall_us + timeouts.execution_ms * 1000)};
  tci_emit(core, stage->node.plan, &c);
  /* A sync call starts with its dispatch: one commit says both. */
  if (a->mode == TCI_MODE_SYNC) tci_attempt_move(core, a, TCI_ATTEMPT_RUNNING, TCI_EXECUTION_RUNNING);
  tci_effect *effect = tci_effect_add(core, TCI_EFFECT_DISPATCH);
  effect->attempt = a;
  effect->address = r->address;
  int64_t ms = timeouts.execution_ms;
  if (a->mode == TCI_MODE_ASYNC && core->limits.accept_timeout_ms < ms) ms = core->limits.accept_timeout_ms;
  effect->timeout_us = ms * 1000;
}

/* Looks at one queue. Returns the asks that are left. */
static int64_t serve(tci_core *core, tci_pool *pool, tci_mode mode, int64_t asks) {
  tci_ready *ready = &pool->ready[mode];
  tci_runner **options = tci_arena_array(&core->update->arena, tci_runner *, pool->runners.len + 1);
  tci_attempt *a = ready->cursor ? tci_container(ready->cursor, tci_attempt, queued) : next_ready(ready, NULL);
  while (a) {
    size_t n = candidates(core, pool, mode, options);
    if (n == 0) break; /* nobody has room: the next event that matters wakes the pool */
    if (asks == 0) {
      ready->cursor = &a->queued;
      return 0;
    }
    asks--;
    tci_attempt *next = after(ready, a);
    tci_policy_context context = tci_context(core);
    tci_runner *r = core->policy.select(core->policy.self, &context, a, options, n);
    if (r) send(core, a, r);
    a = next;
  }
  ready->cursor = NULL;
  ready->awake = false;
  return asks;
}

void tci_dispatch(tci_core *core) {
  if (core->held) return;
  int64_t asks = core->limits.policy_asks_per_turn;
  size_t kept = 0;
  for (size_t i = 0; i < core->awake.len; i++) {
    tci_pool *pool = core->awake.items[i];
    bool left = false;
    for (int mode = 1; mode < TCI_MODES; mode++) {
      if (pool->ready[mode].awake) asks = serve(core, pool, (tci_mode)mode, asks);
      left |= pool->ready[mode].awake;
    }
    pool->listed = left;
    if (left)
      core->awake.items[kept++] = pool;
    else
      tci_pool_trim(core, pool);
  }
  core->awake.len = kept;
  if (kept) core->update->more = true;
}
