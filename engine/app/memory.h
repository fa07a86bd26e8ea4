/* memory: gives back to the system what a storm has left behind in the allocator. */
#ifndef TCI_APP_MEMORY_H
#define TCI_APP_MEMORY_H

#include <stdint.h>

typedef struct {
  int64_t floor_bytes;       /* the least that was resident after giving back */
  int64_t next_us, pause_us; /* monotonic; not before then */
} tci_memory;                /* `{0}` to start with */

/* To be called when there is nothing to do, as often as you like: it looks once a second, and seldom when looking is in vain. */
void tci_memory_give_back(tci_memory *memory, int64_t now_us);

#endif
