/* policy: the built-in decisions, asked directly: pure functions of what they are shown. */
#include "core_test.h"

/* A stage with attempts that failed in these ways. */
typedef struct {
  tci_stage stage;
  tci_attempt attempts[30];
  tci_attempt *list[30];
  tci_rng rng;
  tci_question question;
} world;

static void stage_init(world *w, const fx *f, const tci_failure_kind *kinds, size_t len) {
  memset(w, 0, sizeof *w);
  for (size_t i = 0; i < len; i++) {
    w->attempts[i] =
        (tci_attempt){.stage = &w->stage, .index = (uint32_t)i + 1, .failure = {.present = true, .kind = kinds[i]}};
    w->list[i] = &w->attempts[i];
  }
  w->stage.attempts.items = w->list;
  w->stage.attempts.len = len;
  uint8_t seed[32] = {7};
  tci_rng_init(&w->rng, seed);
  w->question = (tci_question){.limits = &f->limits, .now = f->now, .rng = &w->rng, .stage = &w->stage};
  w->question.attempt = len ? &w->attempts[len - 1] : NULL;
}

static tci_decision asked(world *w, tci_hook hook) {
  tci_decision d = {0};
  tci_policy_builtin.ask(NULL, hook, &w->question, &d);
  assert_null(d.fault);
  return d;
}

static tci_decision retry(world *w) { return asked(w, TCI_HOOK_RETRY); }

static void retries_by_kind(void **state) {
  const fx *f = *state;
  for (tci_failure_kind kind = TCI_FAILURE_REPORTED; kind <= TCI_FAILURE_POLICY; kind++) {
    bool delivery = kind == TCI_FAILURE_REJECTED || kind == TCI_FAILURE_UNREACHABLE;
    size_t budget = kind == TCI_FAILURE_REPORTED ? 1 : delivery ? 20 : 3;
    tci_failure_kind kinds[30];
    for (size_t i = 0; i < 30; i++) kinds[i] = kind;
    for (size_t n = 1; n <= budget; n++) {
      world w;
      stage_init(&w, f, kinds, n);
      assert_int_equal(retry(&w).again, n < budget);
    }
  }
}

static void backoffs_keep_their_bounds_even_at_the_extremes(void **state) {
  fx *f = *state;
  tci_failure_kind kinds[30];
  for (size_t i = 0; i < 30; i++) kinds[i] = TCI_FAILURE_UNREACHABLE;
  f->limits.delivery_attempts_max = 100;
  const struct {
    int64_t first, max;
  } rows[] = {{1, 1}, {1, 3}, {1000, 60000}, {0, 0}, {f->limits.duration_ms_max, 0}, {7, f->limits.duration_ms_max}};
  for (size_t r = 0; r < 6; r++)
    for (size_t n = 1; n < 30; n++) {
      world w;
      stage_init(&w, f, kinds, n);
      w.stage.retry = (tci_retry){rows[r].first ? 100 : 0, rows[r].first, rows[r].max};
      int64_t first = rows[r].first ? rows[r].first : 1000, max = rows[r].max ? rows[r].max : 60000;
      if (max < first) max = first;
      double whole = (double)first;
      for (size_t i = 1; i < n && whole < (double)max; i++) whole *= 2;
      if (whole > (double)max) whole = (double)max;
      tci_decision answer = retry(&w);
      assert_true(answer.again);
      if ((double)answer.after_us < whole * 500 - 1 || (double)answer.after_us > whole * 1000)
        fail_msg("row %zu, failure %zu: %lld us of %.0f ms", r, n, (long long)answer.after_us, whole);
    }
}

static void the_same_randomness_gives_the_same_answer(void **state) {
  const fx *f = *state;
  tci_failure_kind kinds[] = {TCI_FAILURE_TIMEOUT};
  world a, b;
  stage_init(&a, f, kinds, 1);
  stage_init(&b, f, kinds, 1);
  assert_int_equal(retry(&a).after_us, retry(&b).after_us);
}

static const char *selects(const fx *f, const char *failed_on, const tci_runner *runners, size_t len) {
  world w;
  stage_init(&w, f, (tci_failure_kind[]){TCI_FAILURE_TIMEOUT, 0}, 2);
  w.attempts[0].runner_id = tci_str_from(failed_on);
  tci_runner *list[4];
  for (size_t i = 0; i < len; i++) list[i] = (tci_runner *)&runners[i];
  w.question.candidates = list;
  w.question.candidates_len = len;
  return asked(&w, TCI_HOOK_SELECT).runner->runner_id.ptr;
}

static void selection(void **state) {
  const fx *f = *state;
  const tci_runner runners[] = {{.runner_id = TCI_STR("a"), .load = 2, .last_used = 1},
                                {.runner_id = TCI_STR("b"), .load = 1, .last_used = 9},
                                {.runner_id = TCI_STR("c"), .load = 1, .last_used = 5}};
  assert_string_equal(selects(f, "", runners, 3), "c");
  assert_string_equal(selects(f, "c", runners, 3), "b");
  assert_string_equal(selects(f, "b", runners + 1, 1), "b"); /* there is no other */
  assert_string_equal(selects(f, "b", runners, 2), "a");     /* another, though he has more to do */
}

static void a_stages_own_words_win(void **state) {
  const fx *f = *state;
  world w;
  stage_init(&w, f, NULL, 0);
  tci_decision t = asked(&w, TCI_HOOK_TIMEOUT);
  assert_int_equal(t.execution_ms, 3600000);
  assert_int_equal(t.stale_ms, 300000);
  w.stage.timeouts = (tci_timeouts){5, 6};
  w.stage.priority = -3;
  t = asked(&w, TCI_HOOK_TIMEOUT);
  assert_int_equal(t.execution_ms, 5);
  assert_int_equal(t.stale_ms, 6);
  assert_int_equal(asked(&w, TCI_HOOK_PRIORITY).priority, -3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(retries_by_kind),
      CLAIM(backoffs_keep_their_bounds_even_at_the_extremes),
      CLAIM(the_same_randomness_gives_the_same_answer),
      CLAIM(selection),
      CLAIM(a_stages_own_words_win),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
