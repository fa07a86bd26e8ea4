/* queue: a locked list with one consumer.
 *
 * 1. `last` points at the `next` that ends the list: at `first` when it is empty.
 * 2. `waiting` is true exactly while the consumer sleeps and nobody has woken it yet; so a burst of pushes costs one
 *    wake-up, and a busy consumer none.
 *
 * Callers: rpc threads and timers push, the engine's loop takes.
 */
#define _GNU_SOURCE 1
#include "base/queue.h"

#include <errno.h>
#include <time.h>

#include "base/assert.h"

static bool wait_filled(tci_queue *queue, int64_t due_us);
static tci_queue_item *detach(tci_queue *queue, size_t max);

void tci_queue_init(tci_queue *queue) {
  pthread_condattr_t attr;
  int failed = pthread_mutex_init(&queue->lock, NULL);
  failed |= pthread_condattr_init(&attr);
  failed |= pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  failed |= pthread_cond_init(&queue->filled, &attr);
  failed |= pthread_condattr_destroy(&attr);
  tci_assert(!failed);
  queue->first = NULL;
  queue->last = &queue->first;
  queue->len = 0;
  queue->waiting = false;
}

void tci_queue_deinit(tci_queue *queue) {
  pthread_cond_destroy(&queue->filled);
  pthread_mutex_destroy(&queue->lock);
}

size_t tci_queue_push(tci_queue *queue, tci_queue_item *item) {
  item->next = NULL;
  pthread_mutex_lock(&queue->lock);
  *queue->last = item;
  queue->last = &item->next;
  size_t len = ++queue->len;
  bool wake = queue->waiting;
  queue->waiting = false;
  if (wake) pthread_cond_signal(&queue->filled); /* under the lock: after it the consumer may deinit the queue */
  pthread_mutex_unlock(&queue->lock);
  return len;
}

tci_queue_item *tci_queue_take(tci_queue *queue, size_t max, int64_t due_us) {
  tci_assert(max > 0);
  pthread_mutex_lock(&queue->lock);
  while (!queue->first && due_us != 0 && wait_filled(queue, due_us)) {}
  queue->waiting = false;
  tci_queue_item *items = detach(queue, max);
  pthread_mutex_unlock(&queue->lock);
  return items;
}

/* One sleep; false when the time is over. */
static bool wait_filled(tci_queue *queue, int64_t due_us) {
  queue->waiting = true;
  if (due_us == INT64_MAX) {
    pthread_cond_wait(&queue->filled, &queue->lock);
    return true;
  }
  if (due_us < 0) due_us = 0;
  struct timespec due = {.tv_sec = due_us / 1000000, .tv_nsec = due_us % 1000000 * 1000};
  return pthread_cond_timedwait(&queue->filled, &queue->lock, &due) != ETIMEDOUT;
}

static tci_queue_item *detach(tci_queue *queue, size_t max) {
  tci_queue_item *items = queue->first, **end = &queue->first;
  size_t n = 0;
  for (; *end && n < max; n++) end = &(*end)->next;
  if (n == 0) return NULL;
  queue->first = *end;
  *end = NULL;
  queue->len -= n;
  if (!queue->first) queue->last = &queue->first;
  return items;
}
