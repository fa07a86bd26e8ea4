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

/* Its own dependency and its only stage's fail in one step: it is SKIPPED, whichever edge comes first. */
static void a_check_is_skipped_whatever_the_order_of_edges(void **state) {
  fx *f = *state;
  static const char *const writes[][2] = {
      {"@gate; @c state=PLANNED after=@gate+; s runner=go checks=c after=@gate+", "@gate"},
      {"@gate; @c; s runner=go checks=c after=@gate+", "@c state=PLANNED after=@gate+"},
      {"@gate; @c; s runner=go checks=c after=@gate+", "@c state=PLANNED after=@gate+ result=me:1 data=k:v"},
  };
  for (int i = 0; i < 3; i++) {
    fx_create(f);
    fx_write(f, writes[i][0]);
    fx_write(f, writes[i][1]);
    fx_write(f, "@gate state=FINAL result=me:1 failure=no");
    assert_int_equal(fx_check(f, "c")->node.outcome, TCI_OUTCOME_SKIPPED);
    fx_is(f, "s", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  }
}

/* The same when what fails the check's dependency takes more hops than what ends its stage. */
static void a_check_is_skipped_whichever_way_is_the_longer(void **state) {
  fx *f = *state;
  for (int i = 0; i < 2; i++) {
    with_runner(f);
    fx_write(f,
             "@gate; @d; s runner=x after=@gate checks=c; u runner=x after=@gate checks=d;"
             "@c state=PLANNED after=@d+; t runner=go after=@gate");
    fx_write(f, i ? "s after=t+" : "u after=t+");
    fx_write(f, i ? "u after=t+" : "s after=t+");
    fx_write(f, "@gate state=FINAL");
    fx_answers(f, "t", "FINAL failure=broken");
    fx_is(f, "@d", "FINAL/FAILED/NO_RESULT stage:u#!stage u: skipped: dependencies unsatisfied");
    fx_is(f, "@c", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  }
}

/* Two checks lose their stages in one step, and one waits for the other. */
static void checks_that_lose_their_stages_together_settle_in_the_order_of_their_dependencies(void **state) {
  fx *f = *state;
  for (int i = 0; i < 2; i++) {
    fx_create(f);
    fx_write(f,
             "@gate; @never; @x state=PLANNED after=@never; @d state=PLANNED after=@never;"
             "sx runner=x after=@never checks=x; sd runner=x after=@never checks=d");
    fx_write(f, "@x after=@d+,@never");
    fx_write(f, i ? "sx after=@gate+" : "sd after=@gate+");
    fx_write(f, i ? "sd after=@gate+" : "sx after=@gate+");
    fx_write(f, "@gate state=FINAL result=me:1 failure=no");
    fx_is(f, "@d", "FINAL/FAILED/NO_RESULT stage:sd#!stage sd: skipped: dependencies unsatisfied");
    fx_is(f, "@x", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  }
}

/* A check whose results are in waits with its verdict for its own dependencies, but not beyond the step. */
static void a_check_settles_without_dependencies_that_stay_open(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@gate; @c state=PLANNED after=@gate; s runner=go checks=c");
  fx_answers(f, "s", "FINAL @c");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_write(f, "@d state=PLANNED after=@gate; t runner=go checks=d");
  fx_answers(f, "t", "FINAL");
  fx_is(f, "@d", "FINAL/FAILED/NO_RESULT stage:t#!stage t: no result reported");
}

/* Very many at once, each after the one before, last first: no search begins anew for each of them. */
static void a_chain_of_9000_checks_settles_without_a_search_for_each(void **state) {
  fx *f = *state;
  enum { LEN = 9000, WORDS = 120 };
  f->compare_every = 0;
  f->limits.write_nodes_max = 2 * LEN;
  fx_renew(f);
  fx_create(f);
  fx_write(f, "@gate; @never");
  size_t size = LEN * WORDS, at = 0;
  char *text = tci_arena_alloc(&f->arena, size);
  at += (size_t)snprintf(text, size, "@c0 state=PLANNED after=@never");
  for (int i = 1; i < LEN; i++)
    at += (size_t)snprintf(text + at, size - at, ";@c%d state=PLANNED after=@c%d,@never", i, i - 1);
  for (int i = LEN - 1; i >= 0; i--)
    at += (size_t)snprintf(text + at, size - at, ";s%d runner=x after=@gate+ checks=c%d", i, i);
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, text);
  cmd.write_nodes.omit_nodes = true;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
  fx_write(f, "@gate state=FINAL result=me:1 failure=no");
  fx_drain(f);
  fx_is(f, "@c0", "FINAL/FAILED/NO_RESULT stage:s0#!stage s0: skipped: dependencies unsatisfied");
  fx_is(f, "@c8999", "FINAL/FAILED/NO_RESULT stage:s8999#!stage s8999: skipped: dependencies unsatisfied");
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
  f->limits.write_nodes_max = (int64_t)len;
  fx_renew(f);
  fx_create(f);
  fx_write(f, "@first");
  tci_command cmd = fx_parse_write(&f->arena, f->plan_id, chain(f, len, mark));
  cmd.write_nodes.omit_nodes = true;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
}

static void a_chain_of_100000_is_skipped_without_stack(void **state) {
  fx *f = *state;
  write_chain(f, 100000, "+");
  fx_write(f, "@first state=FINAL result=me:1 failure=no");
  fx_is(f, "n9", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_is(f, "n99999", "PLANNED"); /* one step changes so much and no more */
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_ACTIVE);
  fx_drain(f);
  fx_is(f, "n99999", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  assert_int_equal(fx_plan(f)->state, TCI_PLAN_SETTLED);
}

static void fan(fx *f, int width, const char *words) {
  tci_buf text = {0};
  for (int i = 0; i < width; i++) tci_buf_add(&text, tci_str_from(tci_fmt(&f->arena, "s%d runner=go %s;", i, words)));
  fx_write(f, tci_str_z(&f->arena, tci_buf_str(&text)));
  tci_buf_deinit(&text);
}

static int count(fx *f, int width, tci_stage_state is) {
  int n = 0;
  for (int i = 0; i < width; i++) n += fx_stage(f, tci_fmt(&f->arena, "s%d", i))->state == is;
  return n;
}

static void small_steps(fx *f) {
  f->limits.step_changes_max = 30;
  fx_renew(f);
  fx_create(f);
}

static void what_follows_from_much_goes_on_in_the_next_steps(void **state) {
  fx *f = *state;
  small_steps(f);
  fx_write(f, "@gate");
  fan(f, 50, "after=@gate");
  fx_write(f, "@gate state=FINAL"); /* one change, and two for every stage that starts */
  assert_int_equal(count(f, 50, TCI_STAGE_ATTEMPTING), 15);
  assert_true(f->update.more);
  fx_write(f, "s49 after="); /* its dependencies are replaced by none: it is due all the same, and once */
  assert_int_equal(count(f, 50, TCI_STAGE_ATTEMPTING), 30);
  fx_write(f, "s48 state=FINAL");
  fx_fall_asleep(f); /* a model that was loaded is read, but nothing follows before it is told that it runs */
  fx_command(f, (tci_command){.kind = TCI_COMMAND_GET_PLAN, .plan_id = f->plan_id});
  assert_int_equal(f->update.records.len, 0);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RESTARTED}); /* whoever comes after a crash goes on where it was */
  fx_drain(f);
  assert_false(f->update.more);
  assert_int_equal(count(f, 50, TCI_STAGE_ATTEMPTING), 49);
  fx_is(f, "s49", "ATTEMPTING 1:PENDING/PENDING");
}

static void a_check_of_very_many_stages_is_settled_over_steps(void **state) {
  fx *f = *state;
  small_steps(f);
  fx_write(f, "@gate; @c; next runner=go after=@c!");
  fan(f, 50, "after=@gate checks=c");
  fan(f, 50, "state=FINAL");
  assert_int_equal(fx_check(f, "c")->pending, 0);
  assert_true(fx_check(f, "c")->state != TCI_CHECK_FINAL);
  fx_tick(f);
  assert_true(fx_check(f, "c")->state != TCI_CHECK_FINAL);
  assert_true(fx_check(f, "c")->results.len > 0);
  fx_is(f, "next", "PLANNED");
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_drain(f);
  assert_int_equal(fx_check(f, "c")->results.len, 50);
  assert_int_equal(fx_check(f, "c")->node.outcome, TCI_OUTCOME_FAILED);
  fx_is(f, "next", "ATTEMPTING 1:PENDING/PENDING");
}

static void a_plan_with_work_left_over_stays_in_memory(void **state) {
  fx *f = *state;
  f->limits.plans_in_memory_max = 0;
  small_steps(f);
  fx_write(f, "@gate");
  tci_buf text = {0};
  for (int i = 0; i < 50; i++) tci_buf_add(&text, tci_str_from(tci_fmt(&f->arena, "p%d after=@gate;", i)));
  fx_write(f, tci_str_z(&f->arena, tci_buf_str(&text))); /* pulled: no execution keeps the plan */
  tci_buf_deinit(&text);
  fx_write(f, "@gate state=FINAL");
  assert_false(tci_core_evict(f->core));
  assert_true(tci_core_has_plan(f->core, f->plan_id));
  assert_false(tci_link_in(&fx_plan(f)->idle));
  fx_drain(f);
  assert_true(tci_link_in(&fx_plan(f)->idle));
  fx_is(f, "p49", "ATTEMPTING 1:PENDING");
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
  f->limits.write_nodes_max = WIDTH;
  fx_renew(f);
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
      CLAIM(a_chain_of_100000_is_skipped_without_stack),
      CLAIM(what_follows_from_much_goes_on_in_the_next_steps),
      CLAIM(a_check_of_very_many_stages_is_settled_over_steps),
      CLAIM(a_plan_with_work_left_over_stays_in_memory),
      CLAIM(a_check_is_skipped_whatever_the_order_of_edges),
      CLAIM(a_check_is_skipped_whichever_way_is_the_longer),
      CLAIM(checks_that_lose_their_stages_together_settle_in_the_order_of_their_dependencies),
      CLAIM(a_check_settles_without_dependencies_that_stay_open),
      CLAIM(a_chain_of_9000_checks_settles_without_a_search_for_each),
      CLAIM(finishing_a_node_costs_its_out_degree),
      CLAIM(a_fan_in_of_20000_resolves_with_the_last),
      CLAIM(a_restart_knows_what_was_counted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
