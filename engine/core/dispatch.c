/* dispatch: queues of ready executions, and who gets the next one.
 *
 *     arrived ──priority, timeout──▶ bucket ──admit, select──▶ a runner
 *                                      ▲ │
 *               wait over, policies new │ ├──wait = s──▶ waiting (a timer)
 *               key free                └─┴──key held──▶ parked (admission.c)
 *
 * Invariants: an execution that waits is in one of these lists; choosing a runner and reserving its slot is one step; a
 * queue is looked at only when something changed (a head arrived, a slot freed, a runner changed, a wait elapsed, other
 * policies). A look that begins at the head goes on to the end, over as many turns as it takes: what changes meanwhile
 * means another look, so that no execution starves behind those that are told to wait. One turn asks at most
 * policy_asks_per_turn, shared among the runner types, and dispatches requests of about turn_request_bytes_max; the rest is
 * left to the next turn (update->more).
 */
#include <string.h>

#include "core/internal.h"

/* ---- pools ---- */

tci_pool *tci_pool_get(tci_core *core, tci_str type) {
  tci_pool *pool = tci_map_get(&core->pools, type);
  if (pool) return pool;
  pool = tci_calloc(1, sizeof *pool);
  pool->type = tci_str_dup(type);
  for (int mode = 0; mode < TCI_MODES; mode++) {
    tci_list_init(&pool->ready[mode].arrived);
    tci_list_init(&pool->ready[mode].waiting);
  }
  tci_map_put(&core->pools, pool->type, pool);
  tci_vec_push(&core->pool_list, pool);
  return pool;
}

static void list_pool(tci_core *core, tci_pool *pool) {
  if (pool->listed) return;
  pool->listed = true;
  tci_vec_push(&core->awake, pool);
}

static void wake_queue(tci_core *core, tci_pool *pool, tci_ready *ready) {
  if (ready->cursor || ready->looking)
    ready->again = true;
  else
    ready->awake = ready->len > 0;
  list_pool(core, pool);
}

void tci_pool_wake(tci_core *core, tci_pool *pool) {
  if (core->loading) return;
  for (int mode = 0; mode < TCI_MODES; mode++) wake_queue(core, pool, &pool->ready[mode]);
}

void tci_pool_trim(tci_core *core, tci_pool *pool) {
  if (pool->runners.len || pool->listed) return;
  for (int mode = 0; mode < TCI_MODES; mode++)
    if (pool->ready[mode].len) return;
  for (int mode = 0; mode < TCI_MODES; mode++) tci_buckets_free(&pool->ready[mode].buckets);
  tci_map_remove(&core->pools, pool->type);
  for (size_t i = 0; i < core->pool_list.len; i++) {
    if (core->pool_list.items[i] != pool) continue;
    memmove(&core->pool_list.items[i], &core->pool_list.items[i + 1], (--core->pool_list.len - i) * sizeof pool);
    break;
  }
  tci_vec_free(&pool->runners);
  tci_vec_free(&pool->parked);
  tci_str_free(&pool->type);
  free(pool);
}

/* ---- queues ---- */

tci_link *tci_bucket_list(tci_buckets *buckets, int64_t priority) {
  size_t i = 0;
  while (i < buckets->len && buckets->items[i]->priority > priority) i++;
  if (i < buckets->len && buckets->items[i]->priority == priority) return &buckets->items[i]->list;
  tci_bucket *bucket = tci_calloc(1, sizeof *bucket);
  bucket->priority = priority;
  tci_list_init(&bucket->list);
  tci_vec_push(buckets, bucket);
  memmove(&buckets->items[i + 1], &buckets->items[i], (buckets->len - 1 - i) * sizeof bucket);
  buckets->items[i] = bucket;
  return &bucket->list;
}

void tci_buckets_free(tci_buckets *buckets) {
  for (size_t i = 0; i < buckets->len; i++) free(buckets->items[i]);
  tci_vec_free(buckets);
}

static tci_attempt *queued(tci_link *link) { return tci_container(link, tci_attempt, queued); }

/* First ready first. Looks from both ends: new ones belong to the tail, those that come back to the head, as a rule. */
void tci_ready_insert(tci_link *list, tci_attempt *a) {
  tci_link *head = list->next, *tail = list->prev, *before = NULL;
  while (!before) {
    if (tail == list || queued(tail)->order < a->order)
      before = tail->next;
    else if (queued(head)->order > a->order)
      before = head;
    head = head->next;
    tail = tail->prev;
  }
  tci_list_push(before, &a->queued); /* before `before` */
}

tci_pool *tci_attempt_pool(const tci_core *core, const tci_attempt *a) {
  return tci_map_get(&core->pools, a->stage->runner_type);
}

void tci_ready_add(tci_core *core, tci_attempt *a) {
  tci_pool *pool = tci_pool_get(core, a->stage->runner_type);
  tci_ready *ready = &pool->ready[a->mode];
  a->order = ++core->arrivals;
  tci_list_push(&ready->arrived, &a->queued);
  ready->len++;
  wake_queue(core, pool, ready);
}

/* The next execution to ask about after `from` (NULL: the first of all), by priority, then by age. */
static tci_attempt *next_ready(tci_ready *ready, const tci_attempt *from) {
  bool found = from == NULL;
  for (size_t i = 0; i < ready->buckets.len; i++) {
    tci_link *list = &ready->buckets.items[i]->list;
    if (found) {
      if (!tci_list_empty(list)) return queued(list->next);
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
  return queued(a->queued.next);
}

static void step_over(tci_ready *ready, const tci_attempt *a) {
  if (ready->cursor != &a->queued) return;
  tci_attempt *next = after(ready, a);
  ready->cursor = next ? &next->queued : NULL;
}

static tci_key *take_chance(tci_attempt *a) {
  tci_key *key = a->chance;
  a->chance = NULL;
  return key;
}

void tci_ready_remove(tci_core *core, tci_attempt *a) {
  tci_pool *pool = tci_attempt_pool(core, a);
  tci_ready *ready = &pool->ready[a->mode];
  step_over(ready, a);
  tci_link_remove(&a->queued);
  ready->len--;
  if (a->parked) tci_key_unpark(core, a);
  tci_key *chance = take_chance(a);
  tci_attempt *next = chance ? tci_key_pass_on(core, chance, pool, a->mode) : NULL;
  if (next) tci_ready_return(core, next);
  tci_pool_trim(core, pool);
}

static void hold(tci_attempt *a, tci_hold why, tci_str text) {
  a->hold = why;
  if (!tci_str_eq(a->hold_text, text)) tci_str_assign(&a->hold_text, text);
}

static void return_to_bucket(tci_core *core, tci_attempt *a) {
  tci_ready *ready = &tci_attempt_pool(core, a)->ready[a->mode];
  tci_link_remove(&a->queued);
  if (a->parked) tci_key_unpark(core, a);
  a->hold_until_us = 0;
  hold(a, TCI_HOLD_NONE, (tci_str){0}); /* what was said is over */
  tci_ready_insert(tci_bucket_list(&ready->buckets, a->priority), a);
}

void tci_ready_return(tci_core *core, tci_attempt *a) {
  return_to_bucket(core, a);
  tci_pool *pool = tci_attempt_pool(core, a);
  wake_queue(core, pool, &pool->ready[a->mode]);
}

/* ---- holding ---- */

/* The policy does not want to be asked before then. A floor, so that no policy makes the engine spin. */
static void wait_for(tci_core *core, tci_pool *pool, tci_attempt *a, int64_t wait_us) {
  tci_ready *ready = &pool->ready[a->mode];
  step_over(ready, a);
  tci_link_remove(&a->queued);
  tci_list_push(&ready->waiting, &a->queued);
  int64_t least = core->limits.policy_wait_ms_min * 1000, most = core->limits.duration_ms_max * 1000;
  a->hold_until_us = core->now.mono_us + (wait_us < least ? least : wait_us < most ? wait_us : most);
  tci_attempt_arm_queued(core, a);
}

static void told_to_wait(tci_core *core, tci_pool *pool, tci_attempt *a, tci_hold why, const tci_decision *d) {
  hold(a, why, d->reason);
  if (d->wait_us > 0) wait_for(core, pool, a, d->wait_us);
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

static size_t not_excluded(const tci_attempt *a, tci_runner **options, size_t len) {
  size_t n = 0;
  for (size_t i = 0; i < len; i++)
    if (!tci_ids_has(a->exclude, options[i]->runner_id)) options[n++] = options[i];
  return n;
}

/* What a policy answers, made a length that can be counted with. */
static uint64_t bounded(const tci_core *core, int64_t ms) {
  return (uint64_t)(ms < 1 ? 1 : ms > core->limits.duration_ms_max ? core->limits.duration_ms_max : ms);
}

/* Puts the decision on record: who could have had it, and why it went where it goes. */
static tci_str on_record(tci_core *core, const tci_runner *r, tci_runner **options, size_t len,
                         tci_decision_record *record) {
  size_t most = (size_t)core->limits.decision_candidates_max;
  record->runner_id = r->runner_id;
  record->candidates_total = (int64_t)len;
  record->candidates_len = len < most ? len : most;
  record->candidates = tci_arena_array(&core->update->arena, tci_candidate, record->candidates_len);
  for (size_t i = 0; i < record->candidates_len; i++)
    record->candidates[i] = (tci_candidate){options[i]->runner_id, options[i]->load};
  tci_buf_clear(&core->decision);
  tci_decision_encode(record, &core->decision);
  return tci_buf_str(&core->decision);
}

static void send(tci_core *core, tci_attempt *a, tci_runner *r, tci_str decision, tci_str keys) {
  tci_stage *stage = a->stage;
  uint64_t execution_ms = bounded(core, a->asked_execution_ms);
  tci_change c = {.type = TCI_CHANGE_ATTEMPT,
                  .node = stage->node.index + 1u,
                  .attempt = a->index,
                  .state = TCI_ATTEMPT_SCHEDULED,
                  .execution = TCI_EXECUTION_DISPATCHED,
                  .runner_id = r->runner_id,
                  .registration_id = r->registration_id,
                  .execution_ms = execution_ms,
                  .stale_ms = bounded(core, a->asked_stale_ms),
                  .deadline_us = (uint64_t)core->now.wall_us + execution_ms * 1000,
                  .decision = decision,
                  .keys = keys};
  tci_emit(core, stage->node.plan, &c);
  /* A sync call starts with its dispatch: one commit says both. */
  if (a->mode == TCI_MODE_SYNC) tci_attempt_move(core, a, TCI_ATTEMPT_RUNNING, TCI_EXECUTION_RUNNING);
  core->request_bytes_left -= (int64_t)stage->request_bytes;
  tci_effect *effect = tci_effect_add(core, TCI_EFFECT_DISPATCH);
  effect->attempt = a;
  effect->address = r->address;
  int64_t ms = (int64_t)execution_ms;
  if (a->mode == TCI_MODE_ASYNC && core->limits.accept_timeout_ms < ms) ms = core->limits.accept_timeout_ms;
  effect->timeout_us = ms * 1000;
}

/* May it run now? False: it waits, in the list where it belongs. */
static bool admitted(tci_core *core, tci_pool *pool, const tci_attachment *at, tci_attempt *a, tci_decision *d,
                     tci_decision_record *record) {
  *d = (tci_decision){0};
  *record = (tci_decision_record){0};
  if (!tci_asks_script(at, TCI_HOOK_ADMIT) && !tci_asks_shadow(core, TCI_HOOK_ADMIT)) return true;
  tci_ask(core, at, TCI_HOOK_ADMIT, a, NULL, 0, d, record);
  record->keys = d->keys;
  record->keys_len = d->keys_len;
  if (d->wait) {
    told_to_wait(core, pool, a, TCI_HOLD_ADMISSION, d);
    return false;
  }
  for (size_t i = 0; i < d->keys_len; i++) {
    if (tci_key_live(core, d->keys[i].key) < d->keys[i].limit) continue;
    step_over(&pool->ready[a->mode], a);
    hold(a, TCI_HOLD_KEY, d->keys[i].key);
    tci_key_park(core, pool, a, &d->keys[i]);
    return false;
  }
  return true;
}

/* One that was written under another limit. Writes refuse it today; it is nobody's refusal but ours. */
static bool too_large(tci_core *core, tci_attempt *a) {
  size_t bytes = a->stage->request_bytes, most = (size_t)core->limits.request_bytes_max;
  if (bytes <= most) return false;
  const char *text = tci_fmt(&core->update->arena,
                             "its request to a runner, args and the options of all assigned checks, is %zu bytes, over "
                             "the limit request_bytes_max (%zu)",
                             bytes, most);
  tci_attempt_fail(core, a, TCI_FAILURE_REPORTED, tci_str_from(text), NULL);
  return true;
}

/* Asks about one execution and sends it, or leaves it where it waits. */
static void ask_about(tci_core *core, tci_pool *pool, tci_attempt *a, tci_runner **options, size_t len) {
  tci_decision admission, d;
  tci_decision_record admit, select;
  if (too_large(core, a)) return;
  const tci_attachment *at = tci_attached(core, pool, a->stage);
  if (!admitted(core, pool, at, a, &admission, &admit)) return;
  if (a->exclude.len) len = not_excluded(a, options, len);
  if (!len) {
    hold(a, TCI_HOLD_NONE, (tci_str){0});
    return;
  }
  tci_ask(core, at, TCI_HOOK_SELECT, a, options, len, &d, &select);
  if (d.wait) {
    told_to_wait(core, pool, a, TCI_HOLD_POLICY, &d);
    return;
  }
  tci_attempt_leaves_queue(core, a);
  if (admit.policy.len) tci_attempt_decided(core, a, &admit);
  send(core, a, d.runner, on_record(core, d.runner, options, len, &select), tci_keys_encode(core, &admission));
}

/* Returns another one that is to be asked about now: it was parked for a key that has room still. */
static tci_attempt *consider(tci_core *core, tci_pool *pool, tci_attempt *a, tci_runner **options, size_t len) {
  tci_key *chance = take_chance(a);
  tci_mode mode = a->mode;
  ask_about(core, pool, a, options, len);
  tci_attempt *next = chance ? tci_key_pass_on(core, chance, pool, mode) : NULL;
  if (next) return_to_bucket(core, next);
  return next;
}

/* ---- arriving ---- */

/* What the built-in says follows from the stage; a script's word is kept until it goes on record with the dispatch. */
static void keep(tci_attempt *a, const tci_decision_record *record) {
  if (!record->policy.len) return;
  tci_buf bytes = {0};
  tci_decision_encode(record, &bytes);
  tci_vec_push(&a->undecided, tci_buf_str(&bytes));
}

static void ask_timeouts(tci_core *core, const tci_attachment *at, tci_attempt *a) {
  tci_decision d;
  tci_decision_record record;
  tci_ask(core, at, TCI_HOOK_TIMEOUT, a, NULL, 0, &d, &record);
  record.execution_ms = d.execution_ms;
  record.stale_ms = d.stale_ms;
  record.queue_ms = d.queue_ms;
  keep(a, &record);
  a->asked_execution_ms = d.execution_ms;
  a->asked_stale_ms = d.stale_ms;
  a->queue_ms = d.queue_ms < core->limits.duration_ms_max ? d.queue_ms : core->limits.duration_ms_max;
  a->queue_mono_us = d.queue_ms > 0 ? a->ready_mono_us + a->queue_ms * 1000 : 0;
}

static void ask_priority(tci_core *core, const tci_attachment *at, tci_attempt *a) {
  tci_decision d;
  tci_decision_record record;
  tci_ask(core, at, TCI_HOOK_PRIORITY, a, NULL, 0, &d, &record);
  record.priority = d.priority;
  keep(a, &record);
  int64_t most = core->limits.priority_max;
  a->priority = d.priority > most ? most : d.priority < -most ? -most : d.priority;
}

static bool may_ask(const tci_core *core) {
  return core->asks_left > 0 && core->request_bytes_left > 0 && tci_has_time_to_ask(core);
}

/* The queue of the pool whose first arrival is the oldest; NULL: nobody has arrived. */
static tci_ready *first_arrived(tci_pool *pool) {
  tci_ready *first = NULL;
  for (int mode = 1; mode < TCI_MODES; mode++) {
    tci_ready *ready = &pool->ready[mode];
    if (tci_list_empty(&ready->arrived)) continue;
    if (!first || queued(ready->arrived.next)->order < queued(first->arrived.next)->order) first = ready;
  }
  return first;
}

/* Priority and timeouts of those that have just become ready. Only scripts are counted. */
static void take_in(tci_core *core, tci_pool *pool) {
  tci_ready *ready;
  while ((ready = first_arrived(pool))) {
    tci_attempt *a = queued(ready->arrived.next);
    const tci_attachment *at = tci_attached(core, pool, a->stage);
    bool scripted = tci_asks_script(at, TCI_HOOK_PRIORITY) || tci_asks_script(at, TCI_HOOK_TIMEOUT);
    if (scripted && !may_ask(core)) return;
    core->asks_left -= scripted;
    ask_priority(core, at, a);
    ask_timeouts(core, at, a);
    tci_link_remove(&a->queued);
    tci_ready_insert(tci_bucket_list(&ready->buckets, a->priority), a);
    if (ready->cursor && queued(ready->cursor)->priority < a->priority) ready->again = true; /* the look is past it */
    if (a->queue_mono_us) tci_attempt_arm_queued(core, a);
  }
}

/* ---- the look ---- */

/* At one queue of a pool, beside the other. Who is next is where the cursor is: kept right by whoever moves that one. */
typedef struct {
  tci_ready *ready; /* NULL: it sleeps */
  tci_attempt *instead;
  bool room;
} tci_look;

static tci_attempt *next_of(const tci_look *l) {
  if (!l->ready || !l->room) return NULL;
  return l->instead ? l->instead : l->ready->cursor ? queued(l->ready->cursor) : NULL;
}

static void begin_look(tci_look *l, tci_ready *ready) {
  *l = (tci_look){.ready = ready, .room = true};
  tci_attempt *first = ready->cursor ? queued(ready->cursor) : next_ready(ready, NULL);
  ready->cursor = first ? &first->queued : NULL;
  ready->looking = true;
}

static void end_look(tci_look *l) {
  tci_ready *ready = l->ready;
  bool cut = next_of(l) != NULL;
  if (cut && l->instead && ready->cursor) ready->again = true; /* it is in its bucket, perhaps before the cursor */
  if (!cut) ready->cursor = NULL;
  ready->looking = false;
  ready->awake = cut || (ready->again && l->room && next_ready(ready, NULL)) || !tci_list_empty(&ready->arrived);
  if (!cut) ready->again = false;
}

/* The mode whose next is to be asked about: by priority, then by age. 0: nobody is left. */
static int first_mode(const tci_look looks[TCI_MODES]) {
  int first = 0;
  for (int mode = 1; mode < TCI_MODES; mode++) {
    const tci_attempt *a = next_of(&looks[mode]), *b = first ? next_of(&looks[first]) : NULL;
    if (a && (!b || a->priority > b->priority || (a->priority == b->priority && a->order < b->order))) first = mode;
  }
  return first;
}

static void ask_next(tci_core *core, tci_pool *pool, tci_look *l, tci_runner **options, size_t len) {
  tci_attempt *a = next_of(l);
  if (!l->instead) {
    tci_attempt *next = after(l->ready, a);
    l->ready->cursor = next ? &next->queued : NULL;
  }
  core->asks_left--;
  l->instead = consider(core, pool, a, options, len);
}

/* Looks at the queues of a pool that are awake, as if they were one, asking at most `share` times. */
static void serve(tci_core *core, tci_pool *pool, int64_t share) {
  take_in(core, pool);
  tci_runner **options = tci_arena_array(&core->update->arena, tci_runner *, pool->runners.len + 1);
  tci_look looks[TCI_MODES] = {0};
  for (int mode = 1; mode < TCI_MODES; mode++)
    if (pool->ready[mode].awake) begin_look(&looks[mode], &pool->ready[mode]);
  int mode;
  while ((mode = first_mode(looks))) {
    size_t n = candidates(core, pool, (tci_mode)mode, options);
    looks[mode].room = n > 0; /* if not, the next event that matters wakes the pool; the other mode goes on */
    if (!n) continue;
    if (share-- <= 0 || !may_ask(core)) break;
    ask_next(core, pool, &looks[mode], options, n);
  }
  for (mode = 1; mode < TCI_MODES; mode++)
    if (looks[mode].ready) end_look(&looks[mode]);
}

static bool is_awake(const tci_pool *pool) {
  bool awake = false;
  for (int mode = 1; mode < TCI_MODES; mode++) awake |= pool->ready[mode].awake;
  return awake;
}

static size_t pools_awake(const tci_core *core) {
  size_t n = 0;
  for (size_t i = 0; i < core->awake.len; i++) n += is_awake(core->awake.items[i]);
  return n;
}

/* Every pool that is awake gets an equal share of what may still be asked in this turn. */
static void look(tci_core *core, size_t pools) {
  int64_t share = core->asks_left / (int64_t)pools;
  for (size_t i = 0; i < core->awake.len; i++) {
    tci_pool *pool = core->awake.items[(i + core->look_from) % core->awake.len];
    if (is_awake(pool)) serve(core, pool, share > 0 ? share : 1);
  }
}

/* Other policies, or a circuit that opened: everybody who was told to wait is asked again. */
static void wake_everybody(tci_core *core) {
  core->wake_all = false;
  for (size_t i = 0; i < core->pool_list.len; i++) {
    tci_pool *pool = core->pool_list.items[i];
    for (int mode = 1; mode < TCI_MODES; mode++) {
      tci_link *waiting = &pool->ready[mode].waiting;
      while (!tci_list_empty(waiting)) {
        tci_attempt *a = queued(waiting->next);
        return_to_bucket(core, a);
        tci_attempt_arm_queued(core, a);
      }
    }
    tci_keys_return(core, pool);
    tci_pool_wake(core, pool);
  }
}

void tci_dispatch(tci_core *core) {
  if (core->held) return;
  if (core->wake_all) wake_everybody(core);
  size_t pools;
  while (may_ask(core) && (pools = pools_awake(core)) > 0) look(core, pools);
  core->look_from++;
  size_t kept = 0;
  for (size_t i = 0; i < core->awake.len; i++) {
    tci_pool *pool = core->awake.items[i];
    pool->listed = is_awake(pool);
    if (pool->listed)
      core->awake.items[kept++] = pool;
    else
      tci_pool_trim(core, pool);
  }
  core->awake.len = kept;
  if (kept || core->wake_all) core->update->more = true;
}

void tci_core_begin_turn(tci_core *core) {
  core->asks_left = core->limits.policy_asks_per_turn;
  core->instructions_left = core->limits.policy_instructions_per_turn;
  core->request_bytes_left = core->limits.turn_request_bytes_max;
  /* What an admit and a select may take is kept back: none begins that would go over. */
  int64_t cpu_ms = core->limits.policy_cpu_ms_per_turn - 2 * core->limits.policy_cpu_ms_max;
  core->cpu_left_us = (cpu_ms > 1 ? cpu_ms : 1) * 1000;
}

void tci_core_spend_cpu(tci_core *core, int64_t us) { core->cpu_left_us -= us; }
