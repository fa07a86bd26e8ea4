/* str: counted bytes, UTF-8, bounded formatting, buffers; and the names of the status codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "base/str.h"

static int sign(int x) { return (x > 0) - (x < 0); }

static void strings_compare_by_bytes_then_by_length(void **state) {
  (void)state;
  static const struct {
    tci_str a, b;
    int order;
  } rows[] = {
      {TCI_STR("a"), TCI_STR("b"), -1},       {TCI_STR("b"), TCI_STR("a"), 1},    {TCI_STR("a"), TCI_STR("a"), 0},
      {TCI_STR("a"), TCI_STR("aa"), -1},      {TCI_STR("ab"), TCI_STR("aa"), 1},  {{NULL, 0}, TCI_STR(""), 0},
      {{NULL, 0}, TCI_STR("\0"), -1},         {TCI_STR("a\0b"), TCI_STR("a"), 1}, {TCI_STR("z"), TCI_STR("\xff"), -1},
      {TCI_STR("a\0b"), TCI_STR("a\0c"), -1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    assert_int_equal(sign(tci_str_cmp(rows[i].a, rows[i].b)), rows[i].order);
    assert_int_equal(sign(tci_str_cmp(rows[i].b, rows[i].a)), -rows[i].order);
    assert_int_equal(tci_str_eq(rows[i].a, rows[i].b), rows[i].order == 0);
  }
}

static void well_formed_utf8_is_accepted(void **state) {
  (void)state;
  static const tci_str good[] = {
      {NULL, 0},
      TCI_STR(""),
      TCI_STR("plain"),
      TCI_STR("\0"), /* a NUL is a character; ids refuse it elsewhere */
      TCI_STR("\x7f"),
      TCI_STR("\xc2\x80"),         /* U+0080, the first of two bytes */
      TCI_STR("\xdf\xbf"),         /* U+07FF, the last */
      TCI_STR("\xe0\xa0\x80"),     /* U+0800 */
      TCI_STR("\xed\x9f\xbf"),     /* U+D7FF, before the surrogates */
      TCI_STR("\xee\x80\x80"),     /* U+E000, after them */
      TCI_STR("\xef\xbf\xbf"),     /* U+FFFF */
      TCI_STR("\xf0\x90\x80\x80"), /* U+10000 */
      TCI_STR("\xf1\x80\x80\x80"),
      TCI_STR("\xf4\x8f\xbf\xbf"), /* U+10FFFF */
      TCI_STR("gr\xc3\xbc\xc3\x9f"
              "e \xe2\x82\xac \xf0\x9f\x98\x80!"),
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    if (!tci_str_is_utf8(good[i])) fail_msg("row %zu was refused", i);
}

static void malformed_utf8_is_refused(void **state) {
  (void)state;
  static const tci_str bad[] = {
      TCI_STR("\x80"), /* a continuation alone */
      TCI_STR("\xbf"),
      TCI_STR("\xc0\x80"), /* overlong NUL */
      TCI_STR("\xc1\xbf"), /* overlong U+007F */
      TCI_STR("\xc2"),     /* cut */
      TCI_STR("\xc2\x41"),
      TCI_STR("\xc2\xc2\x80"),
      TCI_STR("\xe0\x9f\xbf"), /* overlong U+07FF */
      TCI_STR("\xe0\x80\x80"),
      TCI_STR("\xe2\x82"), /* cut */
      TCI_STR("\xe2\x82\x41"),
      TCI_STR("\xe2\x41\x82"),
      TCI_STR("\xed\xa0\x80"),     /* U+D800, a surrogate */
      TCI_STR("\xed\xbf\xbf"),     /* U+DFFF */
      TCI_STR("\xf0\x8f\xbf\xbf"), /* overlong U+FFFF */
      TCI_STR("\xf0\x90\x80"),     /* cut */
      TCI_STR("\xf0\x90\x80\xc0"),
      TCI_STR("\xf4\x90\x80\x80"), /* U+110000 */
      TCI_STR("\xf5\x80\x80\x80"),
      TCI_STR("\xf8\x88\x80\x80\x80"),
      TCI_STR("\xfe"),
      TCI_STR("\xff"),
      TCI_STR("fine until \xe2\x82"),
      TCI_STR("a\x80"
              "b"),
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    /* In memory of its own size, so that a read past the end is seen. */
    tci_str exact = tci_str_dup(bad[i]);
    if (tci_str_is_utf8(exact)) fail_msg("row %zu was accepted", i);
    tci_str_free(&exact);
  }
}

static void a_copy_is_equal_and_apart(void **state) {
  (void)state;
  tci_arena arena = {0};
  char source[] = "abc";
  tci_str copy = tci_str_copy(&arena, (tci_str){source, 3}), heap = tci_str_dup((tci_str){source, 3});
  char *z = tci_str_z(&arena, (tci_str){source, 2});
  source[0] = 'X';
  assert_true(tci_str_eq(copy, TCI_STR("abc")));
  assert_true(tci_str_eq(heap, TCI_STR("abc")));
  assert_string_equal(z, "ab");
  assert_non_null(tci_str_copy(&arena, tci_str_from(NULL)).ptr); /* NULL says only: over the cap */
  assert_null(tci_str_dup(TCI_STR("")).ptr);
  assert_string_equal(tci_str_z(&arena, (tci_str){NULL, 0}), "");
  tci_str_free(&heap);
  assert_null(heap.ptr);
  tci_arena_deinit(&arena);
}

static void a_copy_over_the_arenas_cap_is_null(void **state) {
  (void)state;
  tci_arena arena;
  tci_arena_init(&arena, 16);
  static const char text[64];
  assert_null(tci_str_copy(&arena, (tci_str){text, sizeof text}).ptr);
  assert_null(tci_str_z(&arena, (tci_str){text, sizeof text}));
  tci_arena_deinit(&arena);
}

static void assign_takes_a_piece_of_the_old_string(void **state) {
  (void)state;
  tci_str s = tci_str_dup(TCI_STR("hello world"));
  tci_str_assign(&s, (tci_str){s.ptr + 6, 5});
  assert_true(tci_str_eq(s, TCI_STR("world")));
  tci_str_assign(&s, TCI_STR(""));
  assert_int_equal(s.len, 0);
  assert_null(s.ptr);
}

static void a_format_up_to_the_bound_is_whole(void **state) {
  (void)state;
  tci_arena arena = {0};
  assert_string_equal(tci_fmt(&arena, "%s=%d", "turns", 7), "turns=7");
  assert_string_equal(tci_fmt(&arena, "%.*s", TCI_STR_ARG(((tci_str){NULL, 0}))), "");
  assert_int_equal(strlen(tci_fmt(&arena, "%04000d", 1)), 4000);
  tci_arena_deinit(&arena);
}

static void a_format_over_the_bound_is_cut_and_says_so(void **state) {
  (void)state;
  tci_arena arena = {0};
  char *text = tci_fmt(&arena, "%04001d", 1);
  assert_int_equal(strlen(text), 4000);
  assert_string_equal(text + 3996, "0...");
  tci_arena_deinit(&arena);
}

static void a_cut_does_not_split_a_character(void **state) {
  (void)state;
  tci_arena arena = {0};
  enum { EUROS = 2000 };
  char euros[3 * EUROS + 1];
  for (size_t i = 0; i < EUROS; i++) memcpy(euros + 3 * i, "\xe2\x82\xac", 3);
  euros[3 * EUROS] = '\0';
  for (int shift = 0; shift < 3; shift++) {
    char *text = tci_fmt(&arena, "%.*s%s", shift, "xx", euros);
    assert_true(strlen(text) <= 4000 && strlen(text) > 3990);
    assert_string_equal(text + strlen(text) - 6, "\xe2\x82\xac...");
    assert_true(tci_str_is_utf8(tci_str_from(text)));
  }
  tci_arena_deinit(&arena);
}

static void a_format_into_a_full_arena_is_not_null(void **state) {
  (void)state;
  tci_arena arena;
  tci_arena_init(&arena, 16);
  assert_string_equal(tci_fmt(&arena, "%s", "longer than sixteen bytes"), "...");
  tci_arena_deinit(&arena);
}

static void a_buffer_keeps_what_was_added(void **state) {
  (void)state;
  tci_buf buf = {0};
  assert_non_null(tci_buf_reserve(&buf, 0));
  for (int i = 0; i < 5000; i++) {
    tci_buf_byte(&buf, (uint8_t)i);
    tci_buf_add(&buf, TCI_STR("xy"));
    tci_buf_add(&buf, (tci_str){NULL, 0});
  }
  assert_int_equal(buf.len, 15000);
  for (int i = 0; i < 5000; i++) {
    assert_int_equal((uint8_t)buf.ptr[3 * i], i & 0xff);
    assert_memory_equal(buf.ptr + 3 * i + 1, "xy", 2);
  }
  memset(tci_buf_reserve(&buf, 100000), 0, 100000); /* not yet part of it */
  assert_int_equal(tci_buf_str(&buf).len, 15000);
  const char *memory = buf.ptr;
  tci_buf_clear(&buf);
  tci_buf_add(&buf, TCI_STR("again"));
  assert_ptr_equal(buf.ptr, memory);
  assert_true(tci_str_eq(tci_buf_str(&buf), TCI_STR("again")));
  tci_buf_deinit(&buf);
  assert_null(buf.ptr);
}

static void codes_have_their_grpc_names(void **state) {
  (void)state;
  static const char *const names[] = {
      "OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED",
  };
  for (int i = 0; i < 17; i++) assert_string_equal(tci_code_name((tci_code)i), names[i]);
  assert_string_equal(tci_code_name((tci_code)17), "CODE_?");
  assert_string_equal(tci_code_name((tci_code)4000), "CODE_?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(strings_compare_by_bytes_then_by_length),
      cmocka_unit_test(well_formed_utf8_is_accepted),
      cmocka_unit_test(malformed_utf8_is_refused),
      cmocka_unit_test(a_copy_is_equal_and_apart),
      cmocka_unit_test(a_copy_over_the_arenas_cap_is_null),
      cmocka_unit_test(assign_takes_a_piece_of_the_old_string),
      cmocka_unit_test(a_format_up_to_the_bound_is_whole),
      cmocka_unit_test(a_format_over_the_bound_is_cut_and_says_so),
      cmocka_unit_test(a_cut_does_not_split_a_character),
      cmocka_unit_test(a_format_into_a_full_arena_is_not_null),
      cmocka_unit_test(a_buffer_keeps_what_was_added),
      cmocka_unit_test(codes_have_their_grpc_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
