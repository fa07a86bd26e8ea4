/* admission: "at most N executions that hold this key are live at once", over all plans.
 *
 * Invariants: a key's count is the number of live executions that hold it, rebuilt from the journal like a runner's load; an
 * execution that is parked for a key waits in that key's queue of its (runner type, mode), by priority, then by age; when a holder
 * ends, the first of every such queue gets a chance: it may be asked about again. Whatever comes of that, or of the execution
 * before it is asked, the chance goes on to the next one: while somebody is parked for a key that has room for him,
 * somebody of the same queue has a chance. Keys that nobody holds or waits for are forgotten.
 */
#include "core/internal.h"

/* Of limits that differ among those who wait for the same key, so many are looked at for one that fits. */
enum { PARKED_LOOKED_AT = 256 };

static tci_key *key_get(tci_core *core, tci_str name) {
  tci_key *key = tci_map_get(&core->keys, name);
  if (key) return key;
  key = tci_calloc(1, sizeof *key);
  key->name = tci_str_dup(name);
  tci_map_put(&core->keys, key->name, key);
  return key;
}

static void key_trim(tci_core *core, tci_key *key) {
  if (key->live || key->queues.len || key->chances) return;
  tci_map_remove(&core->keys, key->name);
  tci_vec_free(&key->queues);
  tci_str_free(&key->name);
  free(key);
}

int64_t tci_key_live(const tci_core *core, tci_str name) {
  const tci_key *key = tci_map_get(&core->keys, name);
  return key ? key->live : 0;
}

/* ---- waiting ---- */

static tci_key_queue *queue_of(const tci_key *key, const tci_pool *pool, tci_mode mode) {
  for (size_t i = 0; key && i < key->queues.len; i++)
    if (key->queues.items[i]->pool == pool && key->queues.items[i]->mode == mode) return key->queues.items[i];
  return NULL;
}

void tci_key_park(tci_core *core, tci_pool *pool, tci_attempt *a, const tci_admission *admission) {
  tci_key *key = key_get(core, admission->key);
  tci_key_queue *queue = queue_of(key, pool, a->mode);
  if (!queue) {
    queue = tci_calloc(1, sizeof *queue);
    queue->key = key;
    queue->pool = pool;
    queue->mode = a->mode;
    tci_vec_push(&key->queues, queue);
    queue->position = pool->parked.len;
    tci_vec_push(&pool->parked, queue);
  }
  tci_link_remove(&a->queued);
  tci_ready_insert(tci_bucket_list(&queue->buckets, a->priority), a);
  queue->len++;
  a->parked = queue;
  a->key_limit = admission->limit;
}

void tci_key_unpark(tci_core *core, tci_attempt *a) {
  tci_key_queue *queue = a->parked;
  a->parked = NULL;
  if (--queue->len) return;
  tci_key *key = queue->key;
  for (size_t i = 0; i < key->queues.len; i++) {
    if (key->queues.items[i] != queue) continue;
    tci_vec_swap_remove(&key->queues, i);
    break;
  }
  tci_pool *pool = queue->pool;
  pool->parked.items[pool->parked.len - 1]->position = queue->position;
  tci_vec_swap_remove(&pool->parked, queue->position);
  tci_buckets_free(&queue->buckets);
  free(queue);
  key_trim(core, key);
}

tci_attempt *tci_key_first_that_fits(const tci_key_queue *queue) {
  size_t n = 0;
  for (size_t i = 0; i < queue->buckets.len; i++) {
    const tci_link *list = &queue->buckets.items[i]->list;
    for (tci_link *l = list->next; l != list && n < PARKED_LOOKED_AT; l = l->next, n++) {
      tci_attempt *a = tci_container(l, tci_attempt, queued);
      if (queue->key->live < a->key_limit) return a;
    }
  }
  return NULL;
}

/* Still parked: the caller takes it out. */
static tci_attempt *give_chance(const tci_key_queue *queue) {
  tci_attempt *a = tci_key_first_that_fits(queue);
  if (!a) return NULL;
  a->chance = queue->key;
  queue->key->chances++;
  return a;
}

tci_attempt *tci_key_pass_on(tci_core *core, tci_key *key, const tci_pool *pool, tci_mode mode) {
  const tci_key_queue *queue = core->loading ? NULL : queue_of(key, pool, mode);
  tci_attempt *next = queue ? give_chance(queue) : NULL;
  key->chances--;
  key_trim(core, key);
  return next;
}

void tci_keys_return(tci_core *core, tci_pool *pool) {
  while (pool->parked.len) {
    const tci_buckets *buckets = &pool->parked.items[pool->parked.len - 1]->buckets;
    size_t i = 0;
    while (tci_list_empty(&buckets->items[i]->list)) i++;
    tci_ready_return(core,
                     tci_container(buckets->items[i]->list.next, tci_attempt, queued)); /* the last frees the queue */
  }
}

/* ---- holding ---- */

tci_str tci_keys_encode(tci_core *core, const tci_decision *admission) {
  if (!admission->keys_len) return (tci_str){0};
  tci_ids ids = {tci_arena_array(&core->update->arena, tci_str, admission->keys_len), 0};
  for (size_t i = 0; i < admission->keys_len; i++) {
    bool twice = false; /* a key that is named twice is held once, and both limits count */
    for (size_t k = 0; k < ids.len; k++) twice |= tci_str_eq(ids.items[k], admission->keys[i].key);
    if (!twice) ids.items[ids.len++] = admission->keys[i].key;
  }
  tci_buf_clear(&core->keys_held);
  tci_ids_encode(ids, &core->keys_held);
  return tci_buf_str(&core->keys_held);
}

/* There may be room: the first in each queue may try. */
static void released(tci_core *core, tci_key *key) {
  for (size_t i = key->queues.len; i > 0; i--) { /* from the end: a queue that empties goes */
    tci_attempt *a = give_chance(key->queues.items[i - 1]);
    if (a) tci_ready_return(core, a);
  }
}

static void count(tci_core *core, tci_str keys, int by) {
  tci_wire_reader reader = tci_wire_read(keys);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    tci_key *key = key_get(core, wire.bytes);
    key->live += by;
    if (by < 0 && !core->loading) released(core, key);
    key_trim(core, key);
  }
}

void tci_keys_take(tci_core *core, tci_attempt *a) {
  if (a->counts_keys || !a->keys.len) return;
  a->counts_keys = true;
  count(core, a->keys, 1);
}

void tci_keys_give(tci_core *core, tci_attempt *a) {
  if (!a->counts_keys) return;
  a->counts_keys = false;
  count(core, a->keys, -1);
}

void tci_keys_hold(tci_core *core, tci_str keys) { count(core, keys, 1); }
void tci_keys_release(tci_core *core, tci_str keys) { count(core, keys, -1); }
