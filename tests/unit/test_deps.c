/* deps: groups resolve once, as early as the truth is known; what is unsatisfied is skipped, all the way down; no stack. */
#include "core_test.h"

static void nothing_to_wait_for_starts_at_once(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@c state=PLANNED; @d; s runner=go; t runner=go after=");
  fx_is(f, "@c", "WAITING");
  fx_is(f, "@d", "PLANNING"); /* never by itself */
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  fx_is(f, "t", "ATTEMPTING 1:PENDING/PENDING");
}

static void all_waits_for_the_last(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; s runner=go after=@a,@b");
  fx_write(f, "@a state=FINAL");
  fx_is(f, "s", "PLANNED");
  fx_write(f, "@b state=FINAL");
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
}

static void one_is_enough_for_any(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; s runner=go any=@a,@b; @c state=PLANNED any=@b+,@a!");
  fx_write(f, "@b state=FINAL");
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  fx_is(f, "@c", "WAITING");
  int64_t version = fx_stage(f, "s")->node.version;
  fx_write(f, "@a state=FINAL result=me:1 failure=late"); /* too late to matter */
  assert_int_equal(fx_stage(f, "s")->node.version, version);
}

static void all_gives_up_at_the_first_that_fails(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; s runner=go after=@a+,@b+; @c state=PLANNED after=@b+");
  fx_write(f, "@b state=FINAL result=me:1 failure=no");
  fx_is(f, "s", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_is(f, "@c", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_is(f, "@a", "PLANNING");
}

static void any_gives_up_at_the_last_that_fails(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; s runner=go any=@a+,@b+");
  fx_write(f, "@a state=FINAL result=me:1 failure=no");
  fx_is(f, "s", "PLANNED");
  fx_write(f, "@b state=FINAL result=me:1 failure=no");
  fx_is(f, "s", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
}

/* Conditions against the outcomes that can be had (nothing cancels yet). */
static void conditions_are_about_the_outcome(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@good; @bad; skip state=FINAL; fails runner=go; lost runner=go after=fails+");
  fx_write(f, "@good state=FINAL; @bad state=FINAL result=me:1 failure=no");
  fx_answers(f, "fails", "FINAL failure=no");
  fx_is(f, "lost", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  static const struct {
    const char *target, *final, *success, *failure;
  } rows[] = {{"@good", "go", "go", "skip"},
              {"@bad", "go", "skip", "go"},
              {"skip", "go", "skip", "skip"},
              {"fails", "go", "skip", "go"},
              {"lost", "go", "skip", "skip"}};
  for (size_t i = 0; i < 5; i++) {
    const char *const wanted[] = {rows[i].final, rows[i].success, rows[i].failure};
    const char *const marks[] = {"", "+", "!"};
    for (int k = 0; k < 3; k++) {
      const char *id = tci_fmt(&f->arena, "x%zu%d", i, k);
      fx_write(f, tci_fmt(&f->arena, "%s runner=other after=%s%s", id, rows[i].target, marks[k]));
      fx_is(f, id, wanted[k][0] == 'g' ? "ATTEMPTING 1:PENDING/PENDING" : "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
    }
  }
}

static void an_edge_written_twice_counts_twice_and_resolves(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; s runner=go after=@a,@a,@a+");
  fx_write(f, "@a state=FINAL");
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
}

static void edges_to_what_is_final_already_count_at_once(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a state=FINAL; @b");
  fx_write(f, "s runner=go any=@a+,@b; t runner=go after=@a!,@b; u runner=go after=@a,@b");
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  fx_is(f, "t", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_is(f, "u", "PLANNED");
}

static void replaced_dependencies_are_forgotten(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; s runner=go after=@a; t runner=go after=@a,@b");
  fx_write(f, "s after=@b; t any=@b,@a");
  fx_write(f, "@a state=FINAL");
  fx_is(f, "s", "PLANNED");
  fx_is(f, "t", "ATTEMPTING 1:PENDING/PENDING");
  fx_write(f, "s after=");
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  assert_int_equal(fx_check(f, "b")->node.dependents.len, 1); /* of t */
}

static void a_planning_check_advances_once_it_is_planned(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @c after=@a; @d after=@a!");
  fx_write(f, "@a state=FINAL");
  fx_is(f, "@c", "PLANNING");
  fx_is(f, "@d", "PLANNING");
  fx_write(f, "@c state=PLANNED; @d state=PLANNED");
  fx_is(f, "@c", "WAITING");
  fx_is(f, "@d", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
}

static void a_skipped_stage_fails_the_check_it_owes(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @c state=PLANNED; s runner=go after=@a! checks=c; t runner=go after=@c+");
  fx_write(f, "@a state=FINAL");
  fx_is(f, "@c", "FINAL/FAILED/NO_RESULT stage:s#!stage s: skipped: dependencies unsatisfied");
  fx_is(f, "t", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_SETTLED);
  assert_int_equal(fx_plan(f)->outcome, TCI_OUTCOME_FAILED);
}

/* 100,000 nodes, each waiting for the one before. */
static const char *chain(fx *f, size_t len, const char *mark) {
  size_t size = len * 40;
  char *text = tci_arena_alloc(&f->arena, size);
  size_t at = (size_t)snprintf(text, size, "n0 runner=go after=@first%s", mark);
  for (size_t i = 1; i < len; i++)
    at += (size_t)snprintf(text + at, size - at, ";n%zu runner=go after=n%zu%s", i, i - 1, mark);
  return text;
}

static void write_chain(fx *f, size_t len, const char *mark) {
  f->compare_every = 0; /* it is compared when the test ends */
  fx_create(f);
  fx_write(f, "@first");
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, chain(f, len, mark));
  cmd.write_nodes.omit_nodes = true;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
}

static void a_chain_of_100000_is_skipped_in_one_step_without_stack(void **state) {
  fx *f = *state;
  write_chain(f, 100000, "+");
  fx_write(f, "@first state=FINAL result=me:1 failure=no");
  fx_is(f, "n99999", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_SETTLED);
}

static void finishing_a_node_costs_its_out_degree(void **state) {
  fx *f = *state;
  write_chain(f, 100000, "");
  fx_write(f, "@first state=FINAL");
  fx_is(f, "n0", "ATTEMPTING 1:PENDING/PENDING");
  fx_is(f, "n1", "PLANNED");
  assert_true(f->journal.items[f->journal.len - 1].bytes_len < 300);
}

static void a_fan_in_of_20000_resolves_with_the_last(void **state) {
  fx *f = *state;
  enum { WIDTH = 20000 };
  f->compare_every = 0;
  fx_create(f);
  char *text = tci_arena_alloc(&f->arena, WIDTH * 12), *list = tci_arena_alloc(&f->arena, WIDTH * 12);
  char *final = tci_arena_alloc(&f->arena, WIDTH * 24);
  size_t a = 0, b = (size_t)snprintf(list, WIDTH * 12, "all runner=go after="), c = 0;
  for (int i = 0; i < WIDTH; i++) {
    a += (size_t)snprintf(text + a, WIDTH * 12 - a, "@c%d;", i);
    b += (size_t)snprintf(list + b, WIDTH * 12 - b, "%s@c%d", i ? "," : "", i);
    if (i) c += (size_t)snprintf(final + c, WIDTH * 24 - c, "@c%d state=FINAL;", i);
  }
  const char *const writes[] = {text, list, final, "@c0 state=FINAL"};
  for (int i = 0; i < 4; i++) {
    tci_command cmd = fx_parse_write(&f->arena, f->plan_id, writes[i]);
    cmd.write_nodes.omit_nodes = true;
    assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
    if (i) fx_is(f, "all", i < 3 ? "PLANNED" : "ATTEMPTING 1:PENDING/PENDING");
  }
}

static void a_restart_knows_what_was_counted(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; @x; s runner=go after=@a+,@b; t runner=go any=@a!,@b!; u runner=go after=@a!,@b");
  fx_write(f, "@a state=FINAL");
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_is(f, "u", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_write(f, "@b state=FINAL");
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  fx_is(f, "t", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(nothing_to_wait_for_starts_at_once),
      CLAIM(all_waits_for_the_last),
      CLAIM(one_is_enough_for_any),
      CLAIM(all_gives_up_at_the_first_that_fails),
      CLAIM(any_gives_up_at_the_last_that_fails),
      CLAIM(conditions_are_about_the_outcome),
      CLAIM(an_edge_written_twice_counts_twice_and_resolves),
      CLAIM(edges_to_what_is_final_already_count_at_once),
      CLAIM(replaced_dependencies_are_forgotten),
      CLAIM(a_planning_check_advances_once_it_is_planned),
      CLAIM(a_skipped_stage_fails_the_check_it_owes),
      CLAIM(a_chain_of_100000_is_skipped_in_one_step_without_stack),
      CLAIM(finishing_a_node_costs_its_out_degree),
      CLAIM(a_fan_in_of_20000_resolves_with_the_last),
      CLAIM(a_restart_knows_what_was_counted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
