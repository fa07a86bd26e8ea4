/* map: an open-addressed hash table with linear probing.
 *
 * 1. cap is 0 or a power of two, and at least a quarter of the slots is free: every probe ends.
 * 2. Between an entry's home slot (hash & mask) and its slot there is no free one. A removal keeps this by moving
 *    later entries back, so there are no tombstones and a table that lives long never slows down.
 * 3. The hash key is the process's own secret: ids come from peers, and nobody may choose collisions. It changes
 *    no behaviour, since no order can be seen from outside.
 *
 * Callers: the model's indexes.
 */
#define _GNU_SOURCE 1
#include "base/map.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"

enum { SLOTS_MIN = 16 };

struct tci_map_slot {
  tci_str key;
  void *value; /* NULL: free */
  uint64_t hash;
};

static struct {
  pthread_once_t once;
  uint64_t key[2];
} secret = {.once = PTHREAD_ONCE_INIT};

static uint64_t hash_of(tci_str key);
static size_t slot_of(const tci_map *map, tci_str key, uint64_t hash);
static void grow(tci_map *map);

void tci_map_deinit(tci_map *map) {
  free(map->slots);
  *map = (tci_map){NULL, 0, 0};
}

void *tci_map_get(const tci_map *map, tci_str key) {
  return map->len ? map->slots[slot_of(map, key, hash_of(key))].value : NULL;
}

void *tci_map_put(tci_map *map, tci_str key, void *value) {
  tci_assert(value != NULL);
  if ((map->len + 1) > map->cap / 4 * 3) grow(map);
  uint64_t hash = hash_of(key);
  struct tci_map_slot *slot = &map->slots[slot_of(map, key, hash)];
  void *before = slot->value;
  if (!before) map->len++;
  *slot = (struct tci_map_slot){key, value, hash}; /* the key too: the old one belongs to the old value */
  return before;
}

void *tci_map_remove(tci_map *map, tci_str key) {
  if (map->len == 0) return NULL;
  size_t mask = map->cap - 1;
  size_t hole = slot_of(map, key, hash_of(key));
  void *removed = map->slots[hole].value;
  if (!removed) return NULL;
  for (size_t i = (hole + 1) & mask; map->slots[i].value; i = (i + 1) & mask) {
    /* An entry may move back into the hole unless its home lies after it; distances are counted round the end. */
    size_t home = map->slots[i].hash & mask;
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    map->slots[hole] = map->slots[i];
    hole = i;
  }
  map->slots[hole] = (struct tci_map_slot){.value = NULL};
  map->len--;
  return removed;
}

static void secret_draw(void) { tci_clock_random(secret.key, sizeof secret.key); }

static uint64_t hash_of(tci_str key) {
  pthread_once(&secret.once, secret_draw);
  return tci_siphash(secret.key[0], secret.key[1], key);
}

/* Where `key` is, or the free slot where it would go. */
static size_t slot_of(const tci_map *map, tci_str key, uint64_t hash) {
  size_t mask = map->cap - 1, i = hash & mask;
  while (map->slots[i].value && !(map->slots[i].hash == hash && tci_str_eq(map->slots[i].key, key))) i = (i + 1) & mask;
  return i;
}

static void grow(tci_map *map) {
  tci_map wider = {.len = map->len, .cap = map->cap ? map->cap * 2 : SLOTS_MIN};
  wider.slots = tci_calloc(wider.cap, sizeof *wider.slots);
  for (size_t i = 0; i < map->cap; i++) {
    struct tci_map_slot *slot = &map->slots[i];
    if (slot->value) wider.slots[slot_of(&wider, slot->key, slot->hash)] = *slot;
  }
  free(map->slots);
  *map = wider;
}
