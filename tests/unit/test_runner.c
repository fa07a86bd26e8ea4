/* runner: registrations: heartbeats, expiry, leaving; nobody expires by the wall clock. */
#include "core_test.h"

static void every_required_field_is_asked_for_by_name(void **state) {
  fx *f = *state;
  tci_command cmd = fx_register_command("", "go", "sync", 0, 0);
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "runner_id is empty", cmd);
  cmd = fx_register_command("r", "", "sync", 0, 0);
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "runner_type is empty", cmd);
  cmd = fx_register_command("r", "go", "sync", 0, 0);
  cmd.register_runner.address = (tci_str){0};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "address is empty", cmd);
  cmd = fx_register_command("r", "go", "sync", 0, f->limits.runner_ttl_ms_max + 1000);
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "over the limit runner_ttl_ms_max", cmd);
}

static void modes_and_ttl_have_defaults(void **state) {
  fx *f = *state;
  tci_command cmd = fx_register_command("r", "go", "sync", 0, 0);
  cmd.register_runner.modes[TCI_MODE_SYNC] = false;
  const tci_runner *r = fx_command(f, cmd)->runners[0];
  assert_true(r->modes[TCI_MODE_SYNC]);
  assert_false(r->modes[TCI_MODE_ASYNC]);
  assert_int_equal(r->ttl_ms, 300000);
  assert_int_equal(r->expires_us, f->now.wall_us + 300000000);
  assert_int_equal(r->registration_id.len, 32);
}

static void there_are_only_so_many_runners(void **state) {
  fx *f = *state;
  f->limits.runners_max = 1;
  fx_renew(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_refuses_command(f, TCI_RESOURCE_EXHAUSTED, "runners_max", fx_register_command("b", "go", "sync", 0, 0));
  fx_register(f, "a", "go", "sync", 0, 0); /* a heartbeat is none more */
}

static void a_heartbeat_that_changes_nothing_is_not_on_record(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "sync", 2, 10000);
  fx_advance(f, 1000);
  tci_command cmd = fx_register_command("r", "go", "sync", 2, 10000);
  fx_command(f, cmd);
  assert_int_equal(f->update.records.len, 0);
  assert_int_equal(fx_runner(f, "r")->heartbeat_us, f->now.wall_us);
  fx_advance(f, 9500);
  assert_non_null(fx_runner(f, "r")); /* it counts all the same */
  tci_pair pairs[] = {{TCI_STR("os"), TCI_STR("linux")}};
  cmd.register_runner.metadata = (tci_pairs){pairs, 1};
  for (int again = 0; again < 2; again++) {
    fx_command(f, cmd); /* it says something new, once */
    assert_int_equal(f->update.records.len, again ? 0 : 1);
  }
  cmd.register_runner.max_concurrent = 3;
  fx_command(f, cmd);
  assert_int_equal(f->update.records.len, 1);
  fx_write(f, "s runner=go attempts=2");
  fx_rpc_fails(f, "s", TCI_UNAVAILABLE, "gone");
  fx_command(f, cmd); /* it is back: that is news */
  assert_int_equal(f->update.records.len, 1);
  fx_command(f, cmd);
  assert_int_equal(f->update.records.len, 0);
}

static void who_goes_leaves_its_last_heartbeat_on_record(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "sync", 0, 10000);
  fx_advance(f, 4000);
  fx_register(f, "r", "go", "sync", 0, 10000);
  int64_t heard_us = f->now.wall_us;
  fx_advance(f, 10001);
  assert_null(fx_runner(f, "r"));
  const fx_stored *last = &f->journal.items[f->journal.len - 1];
  tci_record_reader reader;
  tci_change change;
  assert_true(tci_record_open((tci_str){last->bytes, last->bytes_len}, &reader));
  assert_int_equal(tci_record_next(&reader, &change), 1);
  assert_int_equal(change.type, TCI_CHANGE_RUNNER_GONE);
  assert_int_equal(change.at_us, heard_us);
}

static void a_heartbeat_keeps_the_registration_and_the_load(void **state) {
  fx *f = *state;
  fx_create(f);
  tci_pair pairs[] = {{TCI_STR("os"), TCI_STR("linux")}};
  tci_command cmd = fx_register_command("r", "go", "sync", 0, 10000);
  cmd.register_runner.metadata = (tci_pairs){pairs, 1};
  fx_command(f, cmd);
  tci_str registration = tci_str_copy(&f->arena, fx_runner(f, "r")->registration_id);
  int64_t registered = fx_runner(f, "r")->registered_us;
  fx_write(f, "s runner=go");
  fx_advance(f, 9999);
  cmd = fx_register_command("r", "go", "both", 5, 20000);
  cmd.register_runner.address = TCI_STR("[::1]:7");
  const tci_runner *r = fx_command(f, cmd)->runners[0];
  assert_true(tci_str_eq(r->registration_id, registration));
  assert_int_equal(r->load, 1);
  assert_int_equal(r->registered_us, registered);
  assert_int_equal(r->heartbeat_us, f->now.wall_us);
  assert_true(tci_str_eq(r->address, TCI_STR("[::1]:7")));
  assert_true(tci_str_eq(r->metadata.items[0].value, TCI_STR("linux"))); /* left out: kept */
  assert_int_equal(r->max_concurrent, 5);
  fx_advance(f, 19999);
  assert_non_null(fx_runner(f, "r"));
  fx_advance(f, 1);
  assert_null(fx_runner(f, "r"));
}

static void a_runner_may_change_its_type(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_write(f, "a runner=go; b runner=py; c runner=go");
  fx_told(f, "a->r c->r ");
  fx_register(f, "r", "py", "sync", 0, 0);
  fx_told(f, "b->r ");
  fx_answers(f, "a", "FINAL");
  fx_write(f, "d runner=go");
  fx_told(f, "");
  assert_int_equal(fx_runner(f, "r")->load, 2);
  assert_null(fx_attempt(f, "a")->runner); /* over: with nobody any more */
  fx_restart(f, TCI_EVENT_RELOADED);
  const tci_runner *r = fx_runner(f, "r");
  assert_true(tci_str_eq(r->pool->type, TCI_STR("py")));
  assert_true(r->modes[TCI_MODE_SYNC]);
  assert_false(r->modes[TCI_MODE_ASYNC]);
}

static void expiry_loses_all_work_and_cancels_its_calls(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "both", 0, 5000);
  fx_write(f, "s runner=go attempts=1; a runner=go mode=async attempts=1; w runner=go mode=async attempts=1");
  fx_accepts(f, "a", true);
  fx_told(f, "s->r a->r w->r ");
  fx_advance(f, 4999);
  fx_told(f, "");
  fx_advance(f, 1);
  fx_told(f, "cancel:s cancel:a cancel:w ");
  fx_is(f, "a", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!RUNNER_LOST");
  fx_contains(tci_str_z(&f->arena, fx_attempt(f, "w")->failure.message), "the registration of runner 'r' expired");
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!RUNNER_LOST");
  assert_int_equal(f->core->runner_list.len, 0);
  assert_null(fx_attempt(f, "s")->runner); /* he is freed with the next step */
  fx_answers(f, "s", "FINAL");             /* too late: what it says changes nothing */
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!RUNNER_LOST");
  assert_int_equal(tci_core_open_calls(f->core), 0);
}

static void who_leaves_in_order_ends_what_he_has(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "both", 0, 5000);
  fx_write(f, "s runner=go; a runner=go mode=async");
  fx_accepts(f, "a", true);
  fx_unregister(f, "r");
  fx_advance(f, 5000);
  fx_answers(f, "s", "FINAL");
  fx_completes(f, "a", "FINAL");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_is(f, "a", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
}

static void who_expires_gets_nothing_in_the_same_step(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "sync", 0, 5000);
  f->now.mono_us += 5000000;
  fx_write(f, "s runner=go");
  fx_told(f, "");
}

static void a_heartbeat_that_waited_keeps_the_lease(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_register(f, "r", "go", "async", 1, 5000);
  fx_register(f, "dead", "go", "async", 1, 5000);
  fx_write(f, "a runner=go mode=async; b runner=go mode=async attempts=1");
  fx_told(f, "a->r b->dead ");
  fx_accepts(f, "a", true);
  fx_accepts(f, "b", true);
  fx_keep_busy(f, 6000);
  fx_reports(f, "a", "at work"); /* of many that waited, the heartbeat is not the first */
  fx_register(f, "r", "go", "async", 1, 5000);
  fx_tick(f);
  fx_told(f, "cancel:b ");
  fx_is(f, "a", "ATTEMPTING 1:RUNNING/RUNNING");
  assert_null(fx_runner(f, "dead"));
  fx_advance(f, 4999);
  assert_non_null(fx_runner(f, "r"));
  fx_advance(f, 1);
  assert_null(fx_runner(f, "r"));
}

static void a_standstill_moves_the_lease_by_its_length(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "sync", 0, 5000);
  fx_advance(f, 3000);
  fx_stand_still(f, 3600000);
  fx_tick(f);
  fx_advance(f, 1999);
  assert_non_null(fx_runner(f, "r"));
  fx_advance(f, 1);
  assert_null(fx_runner(f, "r"));
}

static void the_wall_clock_expires_nobody(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "sync", 0, 5000);
  f->now.wall_us += 3600000000LL;
  fx_tick(f);
  assert_non_null(fx_runner(f, "r"));
  f->now.wall_us -= 7200000000LL;
  fx_advance(f, 5000);
  assert_null(fx_runner(f, "r"));
}

static void unregistering_lets_running_work_finish(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go; a runner=go mode=async");
  fx_accepts(f, "a", true);
  fx_told(f, "s->r a->r ");
  fx_unregister(f, "r");
  fx_write(f, "t runner=go");
  fx_told(f, "");
  fx_completes(f, "a", "FINAL");
  fx_answers(f, "s", "FINAL");
  fx_is(f, "a", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_restart(f, TCI_EVENT_RESTARTED);
}

static void unregistering_a_stranger_is_refused(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "sync", 0, 0);
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "registration_id is empty",
                     (tci_command){.kind = TCI_COMMAND_UNREGISTER_RUNNER});
  fx_refuses_command(f, TCI_NOT_FOUND, "names no registered runner",
                     (tci_command){.kind = TCI_COMMAND_UNREGISTER_RUNNER, .registration_id = TCI_STR("r")});
}

static void a_new_registration_has_a_new_id_and_no_load(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async");
  fx_accepts(f, "s", true);
  tci_str first = tci_str_copy(&f->arena, fx_runner(f, "r")->registration_id);
  fx_unregister(f, "r");
  fx_register(f, "r", "go", "both", 1, 0);
  assert_false(tci_str_eq(first, fx_runner(f, "r")->registration_id));
  assert_int_equal(fx_runner(f, "r")->load, 0);
  fx_write(f, "t runner=go");
  fx_told(f, "s->r t->r ");
}

static void after_a_restart_everybody_has_a_full_ttl(void **state) {
  fx *f = *state;
  fx_register(f, "r", "go", "sync", 0, 5000);
  fx_advance(f, 4000);
  f->now.mono_us = 5;
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_advance(f, 4999);
  assert_non_null(fx_runner(f, "r"));
  fx_advance(f, 1);
  assert_null(fx_runner(f, "r"));
}

static void the_list_is_in_order_of_registration_and_by_type(void **state) {
  fx *f = *state;
  fx_register(f, "b", "go", "sync", 0, 0);
  fx_register(f, "a", "py", "sync", 0, 0);
  fx_register(f, "c", "go", "sync", 0, 0);
  fx_register(f, "b", "go", "sync", 0, 0);
  const tci_reply *reply = fx_command(f, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS});
  assert_int_equal(reply->runners_len, 3);
  assert_true(tci_str_eq(reply->runners[0]->runner_id, TCI_STR("b")));
  assert_true(tci_str_eq(reply->runners[2]->runner_id, TCI_STR("c")));
  reply = fx_command(f, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS, .runner_type = TCI_STR("py")});
  assert_int_equal(reply->runners_len, 1);
  reply = fx_command(f, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS, .runner_type = TCI_STR("none")});
  assert_int_equal(reply->runners_len, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(every_required_field_is_asked_for_by_name),
      CLAIM(modes_and_ttl_have_defaults),
      CLAIM(there_are_only_so_many_runners),
      CLAIM(a_heartbeat_keeps_the_registration_and_the_load),
      CLAIM(a_heartbeat_that_changes_nothing_is_not_on_record),
      CLAIM(who_goes_leaves_its_last_heartbeat_on_record),
      CLAIM(a_runner_may_change_its_type),
      CLAIM(expiry_loses_all_work_and_cancels_its_calls),
      CLAIM(who_leaves_in_order_ends_what_he_has),
      CLAIM(who_expires_gets_nothing_in_the_same_step),
      CLAIM(a_heartbeat_that_waited_keeps_the_lease),
      CLAIM(a_standstill_moves_the_lease_by_its_length),
      CLAIM(the_wall_clock_expires_nobody),
      CLAIM(unregistering_lets_running_work_finish),
      CLAIM(unregistering_a_stranger_is_refused),
      CLAIM(a_new_registration_has_a_new_id_and_no_load),
      CLAIM(after_a_restart_everybody_has_a_full_ttl),
      CLAIM(the_list_is_in_order_of_registration_and_by_type),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
