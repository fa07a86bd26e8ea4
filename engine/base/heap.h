/* heap: a binary min-heap of timers. Entries are embedded in what they time; equal times leave in the order
 * in which they were set. */
#ifndef TCI_BASE_HEAP_H
#define TCI_BASE_HEAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  int64_t due_us;
  uint64_t order;  /* given by the heap */
  size_t position; /* 1-based place in the heap; 0: not in it */
  int kind;        /* the owner's */
} tci_timer;       /* `{0}` is unset */

typedef struct {
  tci_timer **items;
  size_t len, cap;
  uint64_t next_order;
} tci_heap; /* `{0}` is empty */

void tci_heap_deinit(tci_heap *heap);
void tci_heap_set(tci_heap *heap, tci_timer *timer, int64_t due_us); /* adds or moves */
void tci_heap_clear(tci_heap *heap, tci_timer *timer);               /* nothing when not set */
tci_timer *tci_heap_first(const tci_heap *heap);                     /* NULL when empty; stays in */

#endif
