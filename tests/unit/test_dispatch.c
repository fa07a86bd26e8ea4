/* dispatch: who gets the next execution, in which order, and when nobody does. */
#include "core_test.h"

static void ready_work_waits_for_a_runner_and_goes_when_he_comes(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s runner=go; t runner=py");
  fx_told(f, "");
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_told(f, "s->r "); /* in the same step, and only his type */
  fx_is(f, "t", "ATTEMPTING 1:PENDING/PENDING");
  assert_int_equal(fx_runner(f, "r")->load, 1);
}

static void the_least_loaded_gets_it_then_the_least_recently_used(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_register(f, "b", "go", "sync", 0, 0);
  fx_register(f, "c", "go", "sync", 0, 0);
  fx_write(f, "s1 runner=go; s2 runner=go; s3 runner=go; s4 runner=go");
  fx_told(f, "s1->a s2->b s3->c s4->a ");
  fx_answers(f, "s3", "FINAL");
  fx_answers(f, "s2", "FINAL");
  fx_write(f, "t1 runner=go");
  fx_told(f, "t1->b "); /* b was used before c */
  fx_write(f, "t2 runner=go");
  fx_told(f, "t2->c ");
}

static void capacity_is_never_passed(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "a", "go", "sync", 2, 0);
  fx_register(f, "b", "go", "sync", 1, 0);
  fx_write(f, "s1 runner=go; s2 runner=go; s3 runner=go; s4 runner=go; s5 runner=go");
  fx_told(f, "s1->a s2->b s3->a ");
  fx_answers(f, "s2", "FINAL"); /* a slot frees */
  fx_told(f, "s4->b ");
  fx_register(f, "a", "go", "sync", 3, 0); /* a heartbeat makes room */
  fx_told(f, "s5->a ");
  fx_register(f, "a", "go", "sync", 1, 0); /* or takes it away: what runs, runs */
  assert_int_equal(fx_runner(f, "a")->load, 3);
  fx_write(f, "s6 runner=go");
  fx_answers(f, "s1", "FINAL");
  fx_told(f, "");
  fx_answers(f, "s3", "FINAL");
  fx_answers(f, "s5", "FINAL");
  fx_told(f, "s6->a ");
}

static void modes_are_respected(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "s", "go", "sync", 0, 0);
  fx_write(f, "sync runner=go; async runner=go mode=async");
  fx_told(f, "sync->s ");
  fx_register(f, "a", "go", "async", 0, 0);
  fx_told(f, "async->a ");
  fx_write(f, "sync2 runner=go; async2 runner=go mode=async");
  fx_told(f, "sync2->s async2->a ");
}

static void one_slot_is_shared_by_both_modes(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "both", 1, 0);
  fx_write(f, "sync runner=go; async runner=go mode=async");
  fx_told(f, "sync->r ");
  fx_answers(f, "sync", "FINAL");
  fx_told(f, "async->r ");
}

/* Sync work that never ends in coming does not keep async work waiting, nor the other way round. */
static void both_modes_compete_by_age(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "both", 1, 0);
  fx_write(f, "s0 runner=go; a1 runner=go mode=async; s2 runner=go; a3 runner=go mode=async; a4 runner=go mode=async");
  fx_told(f, "s0->r ");
  static const char *const order[] = {"s0", "a1", "s2", "a3", "a4"};
  for (int i = 0; i < 5; i++) {
    if (order[i][0] == 'a') fx_accepts(f, order[i], true);
    fx_write(f, tci_fmt(&f->arena, "new%d runner=go; late%d runner=go mode=async", i, i)); /* younger */
    fx_told(f, "");
    if (order[i][0] == 'a')
      fx_completes(f, order[i], "FINAL");
    else
      fx_answers(f, order[i], "FINAL");
    fx_told(f, tci_fmt(&f->arena, "%s->r ", i < 4 ? order[i + 1] : "new0"));
  }
}

static void both_modes_compete_by_priority_before_age(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f,
           "s runner=go; a runner=go mode=async priority=5; t runner=go priority=5; b runner=go mode=async priority=9");
  fx_register(f, "r", "go", "both", 3, 0);
  fx_told(f, "b->r a->r t->r ");
}

static void a_mode_that_nobody_has_room_for_does_not_hold_up_the_other(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "s", "go", "sync", 1, 0);
  fx_write(f, "busy runner=go");
  fx_write(f, "s1 runner=go priority=9; s2 runner=go priority=9; a1 runner=go mode=async; a2 runner=go mode=async");
  fx_told(f, "busy->s ");
  fx_register(f, "a", "go", "async", 1, 0);
  fx_told(f, "a1->a ");
  fx_accepts(f, "a1", true);
  fx_completes(f, "a1", "FINAL");
  fx_told(f, "a2->a ");
  fx_answers(f, "busy", "FINAL");
  fx_told(f, "s1->s ");
}

/* Asks in the order in which they became ready, whatever the mode; two a turn. */
static char who[200];
static void notes_who_is_asked(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  size_t at = strlen(who);
  if (hook == TCI_HOOK_PRIORITY)
    snprintf(who + at, sizeof who - at, "%.*s ", TCI_STR_ARG(q->stage->node.id));
  else
    out->runner = q->candidates[0];
}

static void who_arrives_is_asked_by_age_over_both_modes(void **state) {
  fx *f = *state;
  f->limits.policy_asks_per_turn = 2;
  who[0] = '\0';
  fx_policy(f, 1u << TCI_HOOK_PRIORITY, notes_who_is_asked);
  fx_create(f);
  fx_write(f, "a runner=go mode=async; s runner=go; b runner=go mode=async; t runner=go; c runner=go mode=async");
  fx_drain(f);
  assert_string_equal(who, "a s b t c ");
}

static void higher_priority_first_then_first_ready_first(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "a runner=go; b runner=go priority=5; c runner=go; d runner=go priority=-1; e runner=go priority=5");
  fx_register(f, "r", "go", "sync", 1, 86400000);
  fx_told(f, "b->r ");
  const char *const order[] = {"b", "e", "a", "c", "d"};
  for (int i = 0; i < 4; i++) {
    fx_answers(f, order[i], "FINAL");
    fx_told(f, tci_fmt(&f->arena, "%s->r ", order[i + 1]));
  }
}

static void the_order_survives_a_restart(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@gate; b runner=go after=@gate; c runner=go");
  fx_advance(f, 10);
  fx_write(f, "a runner=go");
  fx_advance(f, 10);
  fx_write(f, "@gate state=FINAL"); /* b is older, but was ready last */
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_told(f, "c->r a->r b->r ");
}

static void priority_is_asked_once(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "a runner=go; b runner=go");
  fx_write(f, "b priority=9"); /* it waits already */
  fx_register(f, "r", "go", "sync", 1, 0);
  fx_told(f, "a->r ");
}

static void a_runner_that_refused_is_passed_over_for_a_while(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_write(f, "s runner=go backoff=1 attempts=9");
  fx_rpc_fails(f, "s", TCI_RESOURCE_EXHAUSTED, "busy");
  fx_told(f, "s->r ");
  fx_write(f, "t runner=go");
  fx_advance(f, 4999);
  fx_told(f, "");
  fx_advance(f, 1);
  fx_told(f, "t->r s->r "); /* t was ready first */
  fx_rpc_fails(f, "s", TCI_UNAVAILABLE, "gone");
  fx_advance(f, 100);
  fx_told(f, "");
  fx_register(f, "r", "go", "sync", 0, 0); /* his heartbeat ends it */
  fx_told(f, "s->r ");
}

static void others_take_over_from_one_who_is_passed_over(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_register(f, "b", "go", "sync", 1, 0);
  fx_write(f, "s runner=go backoff=1 attempts=3");
  fx_rpc_fails(f, "s", TCI_UNAVAILABLE, "gone");
  fx_advance(f, 1);
  fx_told(f, "s->a s->b ");
  fx_write(f, "t runner=go");
  fx_told(f, ""); /* a is passed over, b is full */
}

/* ---- policies ---- */

static int asked;
static void never(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self, (void)hook, (void)q;
  asked++;
  out->wait = true;
}
static void only_odd(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self, (void)hook;
  asked++;
  out->wait = q->stage->node.id.ptr[1] % 2 == 0;
  out->runner = q->candidates[0];
}
enum { SELECT = 1u << TCI_HOOK_SELECT };

static void write_stages(fx *f, int n) {
  char text[4000] = "";
  size_t at = 0;
  for (int i = 0; i < n; i++) at += (size_t)snprintf(text + at, sizeof text - at, "s%d runner=go;", i);
  fx_write(f, text);
}

static void at_most_so_many_asks_a_step_and_the_rest_in_the_next(void **state) {
  fx *f = *state;
  f->limits.policy_asks_per_turn = 4;
  fx_policy(f, SELECT, never);
  asked = 0;
  fx_create(f);
  write_stages(f, 10);
  assert_int_equal(asked, 0); /* nobody to choose from */
  fx_register(f, "r", "go", "sync", 0, 0);
  assert_int_equal(asked, 4);
  assert_true(f->update.more);
  fx_tick(f);
  assert_int_equal(asked, 8);
  fx_tick(f);
  assert_int_equal(asked, 10);
  assert_false(f->update.more);
  fx_tick(f);
  assert_int_equal(asked, 10); /* nothing changed: nobody is asked */
  fx_register(f, "q", "go", "sync", 0, 0);
  assert_int_equal(asked, 14); /* something did */
}

static char asked_about[80];
static void never_but_noted(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self, (void)hook;
  size_t at = strlen(asked_about);
  snprintf(asked_about + at, sizeof asked_about - at, "%.*s ", TCI_STR_ARG(q->stage->node.id));
  out->wait = true;
}

static void a_look_goes_on_to_the_end_and_a_wake_up_means_another(void **state) {
  fx *f = *state;
  f->limits.policy_asks_per_turn = 2;
  fx_policy(f, SELECT, never_but_noted);
  asked_about[0] = '\0';
  fx_create(f);
  write_stages(f, 4);
  fx_register(f, "r", "go", "sync", 0, 0);
  assert_string_equal(asked_about, "s0 s1 ");
  fx_register(f, "q", "go", "sync", 0, 0); /* whom s0 may like */
  fx_drain(f);
  assert_string_equal(asked_about, "s0 s1 s2 s3 s0 s1 s2 s3 ");
}

static void whoever_is_passed_over_by_the_policy_holds_nobody_up(void **state) {
  fx *f = *state;
  f->limits.policy_asks_per_turn = 3;
  fx_policy(f, SELECT, only_odd);
  fx_create(f);
  write_stages(f, 8);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_told(f, "s1->r ");
  fx_drain(f);
  fx_told(f, "s3->r s5->r s7->r ");
  fx_is(f, "s0", "ATTEMPTING 1:PENDING/PENDING");
}

static void q_first(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  if (hook == TCI_HOOK_SELECT) out->wait = true;
  if (hook == TCI_HOOK_SELECT && q->stage->node.id.ptr[0] == 'q') *out = (tci_decision){.runner = q->candidates[0]};
  out->says = true;
  out->priority = q->stage->node.id.ptr[0] == 'q' ? 5 : 0;
}
static void whoever_arrives_behind_a_look_is_looked_at(void **state) {
  fx *f = *state;
  f->limits.policy_asks_per_turn = 1;
  fx_policy(f, SELECT | 1u << TCI_HOOK_PRIORITY, q_first);
  with_runner(f);
  fx_write(f, "p runner=go; q runner=go"); /* the look is at p when q's priority becomes known */
  fx_drain(f);
  fx_told(f, "q->r ");
}

static void asks_stop_when_nobody_has_room(void **state) {
  fx *f = *state;
  fx_policy(f, SELECT, only_odd);
  asked = 0;
  fx_create(f);
  fx_register(f, "r", "go", "sync", 1, 0);
  write_stages(f, 9);
  assert_int_equal(asked, 2); /* s0, then s1 fills him */
  assert_false(f->update.more);
}

static void wild(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  if (hook == TCI_HOOK_TIMEOUT) {
    out->execution_ms = q->stage->priority ? INT64_MAX : -5;
    out->stale_ms = q->stage->priority ? INT64_MAX : 1;
  } else {
    out->again = true;
    out->after_us = INT64_MAX;
  }
}
static void a_policys_lengths_are_bounded(void **state) {
  fx *f = *state;
  fx_policy(f, 1u << TCI_HOOK_TIMEOUT | 1u << TCI_HOOK_RETRY, wild);
  with_runner(f);
  fx_write(f, "a runner=go priority=1; b runner=go");
  assert_int_equal(fx_attempt(f, "a")->execution_ms, f->limits.duration_ms_max);
  assert_int_equal(fx_attempt(f, "b")->execution_ms, 1);
  fx_rpc_fails(f, "a", TCI_UNKNOWN, "");
  assert_int_equal(fx_attempt(f, "a")->not_before_us - fx_attempt(f, "a")->created_us,
                   f->limits.duration_ms_max * 1000);
}

/* ---- the rest ---- */

static void nothing_is_dispatched_once_held(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go; b runner=go after=a");
  fx_told(f, "a->r ");
  tci_core_hold(f->core);
  fx_answers(f, "a", "FINAL");
  fx_told(f, "");
  fx_is(f, "b", "ATTEMPTING 1:PENDING/PENDING");
  assert_int_equal(tci_core_open_calls(f->core), 0);
}

static void pools_without_work_or_runners_are_forgotten(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s runner=go");
  assert_int_equal(f->core->pools.len, 1);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_unregister(f, "r");
  assert_int_equal(f->core->pools.len, 0);
  fx_register(f, "r", "py", "sync", 0, 0);
  fx_register(f, "r", "js", "sync", 0, 0); /* he changes his type */
  assert_int_equal(f->core->pools.len, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(ready_work_waits_for_a_runner_and_goes_when_he_comes),
      CLAIM(the_least_loaded_gets_it_then_the_least_recently_used),
      CLAIM(capacity_is_never_passed),
      CLAIM(modes_are_respected),
      CLAIM(one_slot_is_shared_by_both_modes),
      CLAIM(both_modes_compete_by_age),
      CLAIM(both_modes_compete_by_priority_before_age),
      CLAIM(a_mode_that_nobody_has_room_for_does_not_hold_up_the_other),
      CLAIM(who_arrives_is_asked_by_age_over_both_modes),
      CLAIM(higher_priority_first_then_first_ready_first),
      CLAIM(the_order_survives_a_restart),
      CLAIM(priority_is_asked_once),
      CLAIM(a_runner_that_refused_is_passed_over_for_a_while),
      CLAIM(others_take_over_from_one_who_is_passed_over),
      CLAIM(at_most_so_many_asks_a_step_and_the_rest_in_the_next),
      CLAIM(a_look_goes_on_to_the_end_and_a_wake_up_means_another),
      CLAIM(whoever_is_passed_over_by_the_policy_holds_nobody_up),
      CLAIM(whoever_arrives_behind_a_look_is_looked_at),
      CLAIM(asks_stop_when_nobody_has_room),
      CLAIM(a_policys_lengths_are_bounded),
      CLAIM(nothing_is_dispatched_once_held),
      CLAIM(pools_without_work_or_runners_are_forgotten),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
