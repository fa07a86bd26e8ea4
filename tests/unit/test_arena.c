/* arena: pieces are aligned, apart and bounded; the whole goes at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdalign.h>
#include <string.h>

#include "base/arena.h"
#include "base/vec.h"

static void pieces_are_aligned_for_any_type_and_do_not_overlap(void **state) {
  (void)state;
  enum { PIECES = 2000 };
  tci_arena arena = {0};
  unsigned char *pieces[PIECES];
  size_t sizes[PIECES];
  for (size_t i = 0; i < PIECES; i++) {
    sizes[i] = i * 37 % 300;
    pieces[i] = tci_arena_alloc(&arena, sizes[i]);
    assert_int_equal((uintptr_t)pieces[i] % alignof(max_align_t), 0);
    memset(pieces[i], (int)(i & 0xff), sizes[i]);
  }
  for (size_t i = 0; i < PIECES; i++)
    for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(pieces[i][j], i & 0xff);
  tci_arena_deinit(&arena);
}

static void zalloc_gives_zeroes_even_where_a_round_before_wrote(void **state) {
  (void)state;
  static const unsigned char zeroes[512];
  tci_arena arena = {0};
  memset(tci_arena_alloc(&arena, sizeof zeroes), 0xff, sizeof zeroes);
  tci_arena_reset(&arena);
  assert_memory_equal(tci_arena_zalloc(&arena, sizeof zeroes), zeroes, sizeof zeroes);
  tci_arena_deinit(&arena);
}

static void a_cap_refuses_what_would_pass_it_and_nothing_else(void **state) {
  (void)state;
  tci_arena arena;
  tci_arena_init(&arena, 4096);
  assert_non_null(tci_arena_alloc(&arena, 4000));
  assert_null(tci_arena_alloc(&arena, 4096));
  assert_null(tci_arena_zalloc(&arena, 97));
  assert_int_equal(arena.used_bytes, 4000);
  assert_non_null(tci_arena_alloc(&arena, 96)); /* exactly full */
  assert_null(tci_arena_alloc(&arena, 1));
  assert_null(tci_arena_alloc(&arena, 0));
  tci_arena_deinit(&arena);
}

static void a_size_that_would_wrap_is_refused_under_a_cap(void **state) {
  (void)state;
  tci_arena arena;
  tci_arena_init(&arena, 4096);
  assert_null(tci_arena_alloc(&arena, SIZE_MAX));
  assert_null(tci_arena_alloc(&arena, SIZE_MAX - 8));
  assert_int_equal(arena.used_bytes, 0);
  tci_arena_deinit(&arena);
}

static void a_reset_gives_the_cap_back_and_keeps_one_chunk(void **state) {
  (void)state;
  tci_arena arena;
  tci_arena_init(&arena, 1 << 20);
  for (int i = 0; i < 1000; i++) assert_non_null(tci_arena_alloc(&arena, 1000));
  tci_arena_reset(&arena);
  assert_int_equal(arena.used_bytes, 0);
  tci_arena_chunk *kept = arena.chunks;
  assert_non_null(kept);
  for (int i = 0; i < 30; i++) assert_non_null(tci_arena_alloc(&arena, 1000));
  assert_ptr_equal(arena.chunks, kept); /* no new memory was needed */
  tci_arena_deinit(&arena);
}

static void a_reset_does_not_keep_a_giant_piece(void **state) {
  (void)state;
  tci_arena arena = {0};
  assert_non_null(tci_arena_alloc(&arena, 8 << 20));
  tci_arena_reset(&arena);
  assert_null(arena.chunks);
  assert_non_null(tci_arena_alloc(&arena, 10));
  tci_arena_deinit(&arena);
}

static void a_giant_piece_does_not_waste_the_room_before_it(void **state) {
  (void)state;
  tci_arena arena = {0};
  char *small = tci_arena_alloc(&arena, 16);
  memset(tci_arena_alloc(&arena, 1 << 20), 1, 1 << 20);
  assert_ptr_equal(tci_arena_alloc(&arena, 16), small + 16);
  tci_arena_deinit(&arena);
}

static void an_arena_is_usable_after_deinit(void **state) {
  (void)state;
  tci_arena arena = {0};
  assert_non_null(tci_arena_alloc(&arena, 10));
  tci_arena_deinit(&arena);
  assert_int_equal(arena.used_bytes, 0);
  int *numbers = tci_arena_array(&arena, int, 100);
  for (int i = 0; i < 100; i++) assert_int_equal(numbers[i], 0);
  tci_arena_deinit(&arena);
}

static void no_bytes_is_still_memory(void **state) {
  (void)state;
  void *a = tci_malloc(0), *b = tci_calloc(0, 8), *c = tci_realloc(NULL, 0);
  assert_non_null(a);
  assert_non_null(b);
  assert_non_null(c);
  free(a), free(b), free(c);
}

static void a_vec_keeps_what_was_pushed_while_it_grows(void **state) {
  (void)state;
  TCI_VEC(int) numbers = {0};
  for (int i = 0; i < 10000; i++) tci_vec_push(&numbers, i);
  assert_int_equal(numbers.len, 10000);
  assert_true(numbers.cap >= numbers.len);
  for (int i = 0; i < 10000; i++) assert_int_equal(numbers.items[i], i);
  tci_vec_swap_remove(&numbers, 3);
  assert_int_equal(numbers.items[3], 9999);
  assert_int_equal(numbers.len, 9999);
  tci_vec_free(&numbers);
  assert_null(numbers.items);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pieces_are_aligned_for_any_type_and_do_not_overlap),
      cmocka_unit_test(zalloc_gives_zeroes_even_where_a_round_before_wrote),
      cmocka_unit_test(a_cap_refuses_what_would_pass_it_and_nothing_else),
      cmocka_unit_test(a_size_that_would_wrap_is_refused_under_a_cap),
      cmocka_unit_test(a_reset_gives_the_cap_back_and_keeps_one_chunk),
      cmocka_unit_test(a_reset_does_not_keep_a_giant_piece),
      cmocka_unit_test(a_giant_piece_does_not_waste_the_room_before_it),
      cmocka_unit_test(an_arena_is_usable_after_deinit),
      cmocka_unit_test(no_bytes_is_still_memory),
      cmocka_unit_test(a_vec_keeps_what_was_pushed_while_it_grows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
