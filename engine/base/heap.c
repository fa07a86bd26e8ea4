/* heap: a binary min-heap of timers that know their own place, so that any of them can be moved or taken out.
 *
 * 1. items[i]->position == i + 1 for every timer in the heap, 0 for every other.
 * 2. No timer leaves before one with an earlier due_us, or with the same due_us and an earlier _set.
 *
 * Callers: the core's timers; the owner takes the first when its time has come and clears it.
 */
#include "base/heap.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/vec.h"

static bool before(const tci_timer *a, const tci_timer *b);
static void place(tci_heap *heap, tci_timer *timer, size_t i);
static void rise(tci_heap *heap, tci_timer *timer, size_t i);
static void sink(tci_heap *heap, tci_timer *timer, size_t i);

void tci_heap_deinit(tci_heap *heap) {
  free(heap->items); /* the timers are not touched: their owners may be gone already */
  *heap = (tci_heap){NULL, 0, 0, 0};
}

void tci_heap_set(tci_heap *heap, tci_timer *timer, int64_t due_us) {
  tci_heap_clear(heap, timer);
  timer->due_us = due_us;
  timer->order = heap->next_order++;
  tci_vec_push(heap, timer);
  rise(heap, timer, heap->len - 1);
}

void tci_heap_clear(tci_heap *heap, tci_timer *timer) {
  if (timer->position == 0) return;
  size_t i = timer->position - 1;
  tci_assert(i < heap->len && heap->items[i] == timer);
  timer->position = 0;
  tci_timer *last = heap->items[--heap->len];
  if (last == timer) return;
  if (before(last, timer))
    rise(heap, last, i);
  else
    sink(heap, last, i);
}

tci_timer *tci_heap_first(const tci_heap *heap) { return heap->len ? heap->items[0] : NULL; }

static bool before(const tci_timer *a, const tci_timer *b) {
  return a->due_us != b->due_us ? a->due_us < b->due_us : a->order < b->order;
}

static void place(tci_heap *heap, tci_timer *timer, size_t i) {
  heap->items[i] = timer;
  timer->position = i + 1;
}

/* Puts `timer` at i or above; what was at i is overwritten. */
static void rise(tci_heap *heap, tci_timer *timer, size_t i) {
  while (i > 0) {
    size_t parent = (i - 1) / 2;
    if (!before(timer, heap->items[parent])) break;
    place(heap, heap->items[parent], i);
    i = parent;
  }
  place(heap, timer, i);
}

/* Puts `timer` at i or below; what was at i is overwritten. */
static void sink(tci_heap *heap, tci_timer *timer, size_t i) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= heap->len) break;
    if (child + 1 < heap->len && before(heap->items[child + 1], heap->items[child])) child++;
    if (!before(heap->items[child], timer)) break;
    place(heap, heap->items[child], i);
    i = child;
  }
  place(heap, timer, i);
}
