/* map: bytes -> pointer, open addressing. Keys are borrowed from the values they lead to and must outlive
 * their entry. There is no iteration: nothing in the engine may depend on hash order. */
#ifndef TCI_BASE_MAP_H
#define TCI_BASE_MAP_H

#include "base/str.h"

typedef struct {
  struct tci_map_slot *slots;
  size_t len, cap; /* cap is 0 or a power of two */
} tci_map;         /* `{0}` is empty */

void tci_map_deinit(tci_map *map);                  /* frees the table, not the values */
void *tci_map_get(const tci_map *map, tci_str key); /* NULL when absent */
/* Adds or replaces; returns the value that was there before, or NULL. `value` is not NULL. */
void *tci_map_put(tci_map *map, tci_str key, void *value);
void *tci_map_remove(tci_map *map, tci_str key); /* the removed value, or NULL */

#endif
