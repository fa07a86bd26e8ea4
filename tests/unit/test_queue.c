/* queue: nothing is lost, doubled or reordered between many producers and one consumer; waiting ends by an event. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/queue.h"

enum { PRODUCERS = 4, ITEMS_EACH = 5000 };

typedef struct {
  tci_queue_item link; /* first: an item's address is its link's */
  int producer, number;
} job;

typedef struct {
  tci_queue *queue;
  job *jobs;
} producer;

static void take_gives_items_in_order_up_to_max(void **state) {
  (void)state;
  tci_queue queue;
  tci_queue_init(&queue);
  job jobs[5];
  for (size_t i = 0; i < 5; i++) assert_int_equal(tci_queue_push(&queue, &jobs[i].link), i + 1);
  tci_queue_item *items = tci_queue_take(&queue, 2, 0);
  assert_ptr_equal(items, &jobs[0].link);
  assert_ptr_equal(items->next, &jobs[1].link);
  assert_null(items->next->next);
  assert_int_equal(queue.len, 3);
  assert_int_equal(tci_queue_push(&queue, &jobs[0].link), 4); /* a taken item is free again */
  items = tci_queue_take(&queue, SIZE_MAX, 0);
  assert_ptr_equal(items, &jobs[2].link);
  assert_ptr_equal(items->next->next->next, &jobs[0].link);
  assert_null(jobs[0].link.next);
  assert_int_equal(queue.len, 0);
  assert_int_equal(tci_queue_push(&queue, &jobs[1].link), 1); /* also after it ran empty */
  assert_ptr_equal(tci_queue_take(&queue, 1, 0), &jobs[1].link);
  tci_queue_deinit(&queue);
}

static void an_empty_queue_gives_nothing_when_not_to_wait_or_when_due(void **state) {
  (void)state;
  tci_queue queue;
  tci_queue_init(&queue);
  assert_null(tci_queue_take(&queue, 1, 0));
  assert_null(tci_queue_take(&queue, 1, -5));
  assert_null(tci_queue_take(&queue, 1, 1)); /* long ago */
  int64_t due_us = tci_clock_mono_us() + 2000;
  assert_null(tci_queue_take(&queue, 1, due_us));
  assert_true(tci_clock_mono_us() >= due_us);
  assert_false(queue.waiting);
  tci_queue_deinit(&queue);
}

static void a_filled_queue_does_not_wait(void **state) {
  (void)state;
  tci_queue queue;
  tci_queue_init(&queue);
  job one;
  tci_queue_push(&queue, &one.link);
  assert_ptr_equal(tci_queue_take(&queue, 1, INT64_MAX), &one.link);
  tci_queue_deinit(&queue);
}

static void *push_all(void *context) {
  producer *p = context;
  for (int i = 0; i < ITEMS_EACH; i++) tci_queue_push(p->queue, &p->jobs[i].link);
  return NULL;
}

/* Takes everything from PRODUCERS threads, at most `max` at a time, and checks each producer's order. */
static void consume_from_threads(size_t max, int64_t wait_us) {
  tci_queue queue;
  tci_queue_init(&queue);
  producer producers[PRODUCERS];
  pthread_t threads[PRODUCERS];
  int next[PRODUCERS] = {0};
  for (int p = 0; p < PRODUCERS; p++) {
    producers[p] = (producer){&queue, tci_calloc(ITEMS_EACH, sizeof(job))};
    for (int i = 0; i < ITEMS_EACH; i++) producers[p].jobs[i] = (job){.producer = p, .number = i};
    assert_int_equal(pthread_create(&threads[p], NULL, push_all, &producers[p]), 0);
  }
  for (int left = PRODUCERS * ITEMS_EACH; left > 0;) {
    int64_t due_us = wait_us == INT64_MAX ? INT64_MAX : tci_clock_mono_us() + wait_us;
    size_t taken = 0;
    for (tci_queue_item *item = tci_queue_take(&queue, max, due_us); item; item = item->next, taken++) {
      job *j = (job *)item;
      assert_int_equal(j->number, next[j->producer]);
      next[j->producer]++;
    }
    assert_true(taken <= max && (taken > 0 || wait_us != INT64_MAX));
    left -= (int)taken;
  }
  for (int p = 0; p < PRODUCERS; p++) {
    assert_int_equal(pthread_join(threads[p], NULL), 0);
    assert_int_equal(next[p], ITEMS_EACH);
    free(producers[p].jobs);
  }
  assert_null(tci_queue_take(&queue, 1, 0));
  assert_int_equal(queue.len, 0);
  tci_queue_deinit(&queue);
}

static void many_producers_lose_double_and_reorder_nothing(void **state) {
  (void)state;
  consume_from_threads(SIZE_MAX, INT64_MAX);
  consume_from_threads(3, INT64_MAX);
  consume_from_threads(64, 50);
}

typedef struct {
  tci_queue *queue;
  int64_t due_us;
  tci_queue_item *got;
} consumer;

static void *take_one(void *context) {
  consumer *c = context;
  c->got = tci_queue_take(c->queue, 1, c->due_us);
  return NULL;
}

static bool is_waiting(tci_queue *queue) {
  pthread_mutex_lock(&queue->lock);
  bool waiting = queue->waiting;
  pthread_mutex_unlock(&queue->lock);
  return waiting;
}

static void a_push_wakes_a_consumer_that_sleeps(void **state) {
  (void)state;
  const int64_t dues[] = {INT64_MAX, tci_clock_mono_us() + 600 * INT64_C(1000000)};
  for (int i = 0; i < 2; i++) {
    tci_queue queue;
    tci_queue_init(&queue);
    consumer c = {&queue, dues[i], NULL};
    pthread_t thread;
    job one;
    assert_int_equal(pthread_create(&thread, NULL, take_one, &c), 0);
    while (!is_waiting(&queue)) sched_yield(); /* with the lock let go it is asleep */
    tci_queue_push(&queue, &one.link);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_ptr_equal(c.got, &one.link);
    assert_false(queue.waiting);
    tci_queue_deinit(&queue);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(take_gives_items_in_order_up_to_max),
      cmocka_unit_test(an_empty_queue_gives_nothing_when_not_to_wait_or_when_due),
      cmocka_unit_test(a_filled_queue_does_not_wait),
      cmocka_unit_test(many_producers_lose_double_and_reorder_nothing),
      cmocka_unit_test(a_push_wakes_a_consumer_that_sleeps),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
