/* heap: timers leave by time, then in the order in which they were set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>

#include "base/heap.h"
#include "base/rng.h"

static void assert_sound(const tci_heap *heap) {
  for (size_t i = 0; i < heap->len; i++) {
    assert_int_equal(heap->items[i]->position, i + 1);
    if (i > 0) assert_true(heap->items[(i - 1) / 2]->due_us <= heap->items[i]->due_us);
  }
}

static void an_empty_heap_has_no_first(void **state) {
  (void)state;
  tci_heap heap = {0};
  tci_timer timer = {0};
  assert_null(tci_heap_first(&heap));
  tci_heap_clear(&heap, &timer); /* not set: nothing happens */
  assert_int_equal(heap.len, 0);
  tci_heap_deinit(&heap);
}

static void equal_times_leave_in_the_order_of_setting(void **state) {
  (void)state;
  enum { N = 100 };
  tci_heap heap = {0};
  tci_timer timers[N] = {0};
  for (int i = 0; i < N; i++) tci_heap_set(&heap, &timers[i], 5);
  tci_heap_set(&heap, &timers[0], 5); /* set anew: now the last */
  for (int i = 1; i <= N; i++) {
    tci_timer *first = tci_heap_first(&heap);
    assert_ptr_equal(first, &timers[i % N]);
    tci_heap_clear(&heap, first);
  }
  assert_null(tci_heap_first(&heap));
  tci_heap_deinit(&heap);
}

static void a_moved_timer_leaves_at_its_new_time(void **state) {
  (void)state;
  tci_heap heap = {0};
  tci_timer early = {.kind = 1}, late = {.kind = 2};
  tci_heap_set(&heap, &early, 10);
  tci_heap_set(&heap, &late, 20);
  tci_heap_set(&heap, &early, 30);
  assert_int_equal(heap.len, 2);
  assert_ptr_equal(tci_heap_first(&heap), &late);
  tci_heap_set(&heap, &early, INT64_MIN);
  assert_ptr_equal(tci_heap_first(&heap), &early);
  assert_int_equal(early.kind, 1); /* the owner's own */
  tci_heap_deinit(&heap);
}

static void any_timer_can_be_taken_out(void **state) {
  (void)state;
  enum { N = 64 };
  for (int out = 0; out < N; out++) {
    tci_heap heap = {0};
    tci_timer timers[N] = {0};
    for (int i = 0; i < N; i++) tci_heap_set(&heap, &timers[i], i * 29 % N);
    tci_heap_clear(&heap, &timers[out]);
    tci_heap_clear(&heap, &timers[out]);
    assert_int_equal(timers[out].position, 0);
    assert_int_equal(heap.len, N - 1);
    assert_sound(&heap);
    tci_heap_deinit(&heap);
  }
}

static void a_random_life_agrees_with_a_linear_search(void **state) {
  (void)state;
  enum { N = 200 };
  tci_heap heap = {0};
  tci_timer timers[N] = {0};
  tci_rng rng;
  tci_rng_init(&rng, (const uint8_t *)"a fixed seed of exactly 32 bytes");
  for (int step = 0; step < 20000; step++) {
    tci_timer *timer = &timers[tci_rng_below(&rng, N)];
    if (tci_rng_below(&rng, 3))
      tci_heap_set(&heap, timer, (int64_t)tci_rng_below(&rng, 50) - 25);
    else
      tci_heap_clear(&heap, timer);
    tci_timer *first = NULL;
    size_t set = 0;
    for (int i = 0; i < N; i++) {
      tci_timer *t = &timers[i];
      if (!t->position) continue;
      set++;
      if (!first || t->due_us < first->due_us || (t->due_us == first->due_us && t->order < first->order)) first = t;
    }
    assert_int_equal(heap.len, set);
    assert_ptr_equal(tci_heap_first(&heap), first);
    if (step % 100 == 0) assert_sound(&heap);
  }
  tci_heap_deinit(&heap);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_empty_heap_has_no_first),
      cmocka_unit_test(equal_times_leave_in_the_order_of_setting),
      cmocka_unit_test(a_moved_timer_leaves_at_its_new_time),
      cmocka_unit_test(any_timer_can_be_taken_out),
      cmocka_unit_test(a_random_life_agrees_with_a_linear_search),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
