/* guess: what was meant by a word that is no name. */
#include "base/guess.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void near(const char *word, const char *wanted, const char *const *names) {
  const char *best = tci_guess_among(word, names);
  if (!wanted)
    assert_null(best);
  else
    assert_string_equal(best, wanted);
}

static void letters_too_many_missing_changed_or_swapped(void **state) {
  (void)state;
  const char *const names[] = {"select", "retry", "timeout", "priority", "admit", NULL};
  near("selectt", "select", names);
  near("selct", "select", names);
  near("selekt", "select", names);
  near("priorty", "priority", names);
  near("rtery", "retry", names); /* two swaps of neighbours */
  near("select", "select", names);
}

static void what_is_far_from_everything_is_no_guess(void **state) {
  (void)state;
  const char *const names[] = {"select", "retry", NULL}, *const none[] = {NULL};
  near("concurrency", NULL, names);
  near("", NULL, names);
  near("x", NULL, names);
  near("select", NULL, none);
  char longer[100];
  memset(longer, 'x', sizeof longer - 1);
  longer[99] = '\0';
  const char *const same[] = {longer, NULL};
  near(longer, NULL, same);
}

static void of_equals_the_first_by_its_bytes_whatever_the_order(void **state) {
  (void)state;
  const char *const forth[] = {"cat", "bat", NULL}, *const back[] = {"bat", "cat", NULL};
  near("rat", "bat", forth);
  near("rat", "bat", back);
}

static void the_text_is_empty_or_a_question(void **state) {
  (void)state;
  tci_arena arena = {0};
  tci_guess guess = tci_guess_start(TCI_STR("slect"));
  assert_string_equal(tci_guess_text(&guess, &arena), "");
  tci_guess_offer(&guess, TCI_STR("select"));
  assert_string_equal(tci_guess_text(&guess, &arena), "; did you mean 'select'?");
  assert_int_equal(guess.distance, 1);
  tci_arena_deinit(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(letters_too_many_missing_changed_or_swapped),
      cmocka_unit_test(what_is_far_from_everything_is_no_guess),
      cmocka_unit_test(of_equals_the_first_by_its_bytes_whatever_the_order),
      cmocka_unit_test(the_text_is_empty_or_a_question),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
