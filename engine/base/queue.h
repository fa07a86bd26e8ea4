/* queue: many producers, one consumer that takes everything there is. While the consumer works (a commit waits
 * for the disk) the queue fills: that is the group commit. */
#ifndef TCI_BASE_QUEUE_H
#define TCI_BASE_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tci_queue_item {
  struct tci_queue_item *next;
} tci_queue_item; /* embedded in what is queued */

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t filled; /* CLOCK_MONOTONIC */
  tci_queue_item *first, **last;
  size_t len;
  bool waiting;
} tci_queue;

void tci_queue_init(tci_queue *queue);
void tci_queue_deinit(tci_queue *queue);
/* Any thread. Wakes the consumer only when it waits. Returns the length after the push. */
size_t tci_queue_push(tci_queue *queue, tci_queue_item *item);
/* The consumer: up to `max` items in order as a list, waiting until there is one or until `due_us` (monotonic;
 * INT64_MAX: forever; 0: do not wait). NULL when none came. */
tci_queue_item *tci_queue_take(tci_queue *queue, size_t max, int64_t due_us);

#endif
