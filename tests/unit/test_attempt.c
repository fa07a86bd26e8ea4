/* attempt: one try, from its birth to the question whether there is another: budgets by kind, backoff, deadlines, silence,
 * restarts. */
#include "core_test.h"

static int64_t backoff_ms(fx *f, const char *stage) {
  const tci_attempt *a = fx_attempt(f, stage);
  return a->not_before_us ? (a->not_before_us - a->created_us) / 1000 : 0;
}

/* Fails the stage's attempts in this way until there is no next one; how many there were. */
static size_t fail_until_given_up(fx *f, const char *stage, tci_code code) {
  while (fx_stage(f, stage)->state == TCI_STAGE_ATTEMPTING) {
    if (fx_attempt(f, stage)->execution == TCI_EXECUTION_PENDING) fx_advance(f, backoff_ms(f, stage) + 6000);
    fx_register(f, "r", "go", "both", 0, 0); /* a heartbeat: nobody is passed over */
    if (!tci_execution_is_live(fx_attempt(f, stage))) fail_msg("not dispatched again");
    fx_rpc_fails(f, stage, code, "so it goes");
  }
  return fx_stage(f, stage)->attempts.len;
}

static void each_kind_has_its_budget(void **state) {
  fx *f = *state;
  with_runner(f);
  static const struct {
    tci_code code;
    size_t attempts;
    tci_failure_kind kind;
  } rows[] = {{TCI_UNKNOWN, 1, TCI_FAILURE_REPORTED},
              {TCI_INTERNAL, 1, TCI_FAILURE_REPORTED},
              {TCI_RESOURCE_EXHAUSTED, 20, TCI_FAILURE_REJECTED},
              {TCI_UNIMPLEMENTED, 20, TCI_FAILURE_REJECTED},
              {TCI_UNAVAILABLE, 20, TCI_FAILURE_UNREACHABLE},
              {TCI_CANCELLED, 20, TCI_FAILURE_UNREACHABLE},
              {TCI_DEADLINE_EXCEEDED, 3, TCI_FAILURE_TIMEOUT}};
  for (size_t i = 0; i < 7; i++) {
    const char *id = tci_fmt(&f->arena, "s%zu", i);
    fx_write(f, tci_fmt(&f->arena, "%s runner=go", id));
    assert_int_equal(fail_until_given_up(f, id, rows[i].code), rows[i].attempts);
    assert_int_equal(fx_attempt(f, id)->failure.kind, rows[i].kind);
    assert_int_equal(fx_stage(f, id)->node.reason, TCI_REASON_NO_RETRIES_LEFT);
    fx_contains(tci_str_z(&f->arena, fx_attempt(f, id)->failure.message), "so it goes");
  }
}

static void a_stages_own_retry_covers_every_kind(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go attempts=5; b runner=go attempts=1; c runner=go attempts=2; d runner=go backoff=1");
  assert_int_equal(fail_until_given_up(f, "a", TCI_UNKNOWN), 5);
  assert_int_equal(fail_until_given_up(f, "b", TCI_UNAVAILABLE), 1);
  assert_int_equal(fail_until_given_up(f, "c", TCI_DEADLINE_EXCEEDED), 2);
  assert_int_equal(fail_until_given_up(f, "d", TCI_UNKNOWN), 3); /* of its own: as many as usual */
}

static void no_stage_has_more_attempts_than_the_limit(void **state) {
  fx *f = *state;
  f->limits.attempts_per_stage_max = 4;
  fx_renew(f);
  with_runner(f);
  fx_write(f, "s runner=go");
  assert_int_equal(fail_until_given_up(f, "s", TCI_UNAVAILABLE), 4);
}

static void delivery_and_other_failures_are_counted_apart(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go");
  for (int i = 0; i < 2; i++) {
    fx_rpc_fails(f, "s", TCI_UNAVAILABLE, "");
    fx_advance(f, 70000);
    fx_rpc_fails(f, "s", TCI_DEADLINE_EXCEEDED, "");
    fx_advance(f, 70000);
  }
  fx_rpc_fails(f, "s", TCI_DEADLINE_EXCEEDED, ""); /* the third */
  fx_is(f, "s",
        "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!UNREACHABLE 2:INCOMPLETE/FAILED!TIMEOUT "
        "3:INCOMPLETE/FAILED!UNREACHABLE 4:INCOMPLETE/FAILED!TIMEOUT 5:INCOMPLETE/FAILED!TIMEOUT");
}

static void backoff_doubles_between_half_and_whole_up_to_its_limit(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go");
  bool varied = false;
  int64_t before = 0;
  for (int i = 0; i < 12; i++) {
    fx_register(f, "r", "go", "both", 0, 0);
    fx_rpc_fails(f, "s", TCI_UNAVAILABLE, "");
    int64_t whole = i < 6 ? 1000 << i : 60000, ms = backoff_ms(f, "s");
    if (ms < whole / 2 || ms > whole) fail_msg("backoff %d: %lld ms of %lld", i, (long long)ms, (long long)whole);
    varied |= before && ms != before * 2 && ms != before;
    before = ms;
    fx_advance(f, ms - 1);
    fx_told(f, i ? "" : "s->r ");
    assert_int_equal(fx_attempt(f, "s")->execution, TCI_EXECUTION_PENDING);
    fx_register(f, "r", "go", "both", 0, 0);
    fx_advance(f, 2);
    fx_told(f, "s->r ");
  }
  assert_true(varied);
}

static void a_stages_own_backoff_wins(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go attempts=9 backoff=100 backoff_max=250; t runner=go attempts=9 backoff=90000");
  const int64_t whole[] = {100, 200, 250, 250};
  for (int i = 0; i < 4; i++) {
    fx_rpc_fails(f, "s", TCI_UNKNOWN, "");
    int64_t ms = backoff_ms(f, "s");
    assert_true(ms >= whole[i] / 2 && ms <= whole[i]);
    fx_advance(f, ms + 1);
  }
  fx_rpc_fails(f, "t", TCI_UNKNOWN, ""); /* longer than the usual longest */
  assert_true(backoff_ms(f, "t") >= 45000 && backoff_ms(f, "t") <= 90000);
}

static void a_retry_is_a_new_attempt_with_a_new_execution(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go attempts=2");
  tci_str first = fx_execution(f, "s");
  fx_answers(f, "s", "FINAL failure=flaky");
  fx_is(f, "s", "ATTEMPTING 1:INCOMPLETE/FAILED!REPORTED 2:PENDING/PENDING");
  assert_false(tci_str_eq(first, fx_execution(f, "s")));
  fx_advance(f, 1000);
  fx_is(f, "s", "ATTEMPTING 1:INCOMPLETE/FAILED!REPORTED 2:RUNNING/RUNNING");
  fx_answers(f, "s", "FINAL");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:INCOMPLETE/FAILED!REPORTED 2:COMPLETE/COMPLETE");
}

static void at_once(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self, (void)hook, (void)q;
  out->again = true;
}
static void a_retry_without_backoff_goes_out_in_the_same_step(void **state) {
  fx *f = *state;
  fx_policy(f, 1u << TCI_HOOK_RETRY, at_once);
  with_runner(f);
  fx_write(f, "s runner=go");
  fx_rpc_fails(f, "s", TCI_UNKNOWN, "odd");
  fx_told(f, "s->r s->r ");
  assert_int_equal(fx_attempt(f, "s")->not_before_us, 0);
}

static void a_retry_goes_to_another_runner_where_there_is_one(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_register(f, "q", "go", "both", 0, 0);
  fx_write(f, "s runner=go attempts=3");
  fx_told(f, "s->r ");
  fx_answers(f, "s", "FINAL failure=flaky");
  fx_write(f, "busy runner=go; busy2 runner=go"); /* q is no less loaded */
  fx_told(f, "busy->q busy2->r ");
  fx_advance(f, 1000);
  fx_told(f, "s->q ");
  fx_unregister(f, "r");
  fx_answers(f, "s", "FINAL failure=flaky");
  fx_advance(f, 2000);
  fx_told(f, "s->q "); /* there is no other */
}

/* ---- time ---- */

static void the_deadline_ends_a_silent_call_on_the_millisecond(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go timeout=5000 attempts=1; t runner=go attempts=1");
  fx_told(f, "s->r t->r ");
  assert_int_equal(fx_attempt(f, "s")->deadline_us, f->now.wall_us + 5000000);
  fx_advance(f, 4999);
  fx_told(f, "");
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_advance(f, 1);
  fx_told(f, "cancel:s ");
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
  fx_register(f, "r", "go", "both", 0, 86400000);
  fx_advance(f, 3600000 - 5001);
  fx_is(f, "t", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_advance(f, 1);
  fx_is(f, "t", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
}

static void the_wall_clock_ends_nothing(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go timeout=5000");
  f->now.wall_us += 3600000000LL;
  fx_tick(f);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  f->now.wall_us -= 7200000000LL;
  fx_advance(f, 4999);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_told(f, "s->r ");
  fx_advance(f, 1);
  fx_told(f, "cancel:s ");
}

static void an_unanswered_run_async_times_out(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async attempts=1");
  assert_int_equal(f->update.effects.items[0].kind == TCI_EFFECT_DISPATCH ? f->update.effects.items[0].timeout_us
                                                                          : f->update.effects.items[1].timeout_us,
                   10000000);
  fx_is(f, "s", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  fx_advance(f, 9999);
  fx_is(f, "s", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  fx_advance(f, 1);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
  fx_contains(tci_str_z(&f->arena, fx_attempt(f, "s")->failure.message), "10.000 s");
}

static void an_accepted_execution_may_be_silent_for_its_stale_limit(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_register(f, "r", "go", "both", 0, 86400000);
  fx_write(f, "s runner=go mode=async attempts=1 stale=3000; t runner=go mode=async attempts=1");
  fx_accepts(f, "s", true);
  fx_accepts(f, "t", true);
  fx_advance(f, 2999);
  fx_reports(f, "s", "alive");
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_advance(f, 2999);
  fx_command(f, fx_update_command(f, fx_execution(f, "s"), "")); /* a sign of life is enough */
  fx_advance(f, 2999);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_advance(f, 1);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!STALE");
  fx_advance(f, 300000 - 8998); /* the usual limit */
  fx_is(f, "t", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!STALE");
}

static void progress_does_not_move_the_deadline(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async attempts=1 timeout=5000");
  fx_accepts(f, "s", true);
  fx_advance(f, 4000);
  fx_reports(f, "s", "alive");
  fx_advance(f, 1000);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
}

static void a_sync_call_is_never_stale(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go stale=1000");
  fx_advance(f, 200000);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
}

static void a_step_fires_so_many_timers_and_leaves_the_rest_to_the_next(void **state) {
  fx *f = *state;
  f->limits.turn_timers_max = 2;
  fx_renew(f);
  with_runner(f);
  for (int i = 0; i < 5; i++) fx_write(f, tci_fmt(&f->arena, "s%d runner=go timeout=1000 attempts=1", i));
  f->now.mono_us += 1000000;
  fx_tick(f);
  assert_true(f->update.more);
  assert_int_equal(fx_plan(f)->stages_final, 2);
  fx_tick(f);
  fx_tick(f);
  assert_false(f->update.more);
  assert_int_equal(fx_plan(f)->stages_final, 5);
}

/* ---- what arrived is read before timers are judged ---- */

static void an_answer_that_waited_beats_its_deadline(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "run runner=go timeout=5000; done runner=go mode=async timeout=5000; ask runner=go mode=async");
  fx_accepts(f, "done", true);
  fx_keep_busy(f, 20000);
  fx_answers(f, "run", "FINAL");
  fx_completes(f, "done", "FINAL");
  fx_accepts(f, "ask", true);
  fx_tick(f);
  fx_is(f, "run", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_is(f, "done", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_is(f, "ask", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
}

static void who_spoke_while_the_engine_was_busy_is_not_silent(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async stale=3000; t runner=go mode=async stale=3000 attempts=1");
  fx_accepts(f, "s", true);
  fx_accepts(f, "t", true);
  fx_keep_busy(f, 4000);
  fx_reports(f, "s", "alive");
  fx_tick(f);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_is(f, "t", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!STALE");
}

static void a_standstill_moves_every_limit_by_its_length(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f,
           "run runner=go timeout=5000 attempts=1; ask runner=go mode=async attempts=1; mute runner=go mode=async "
           "stale=3000 attempts=1");
  fx_accepts(f, "mute", true);
  fx_stand_still(f, 3600000);
  fx_tick(f);
  fx_advance(f, 2999);
  fx_is(f, "mute", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  fx_advance(f, 1);
  fx_is(f, "mute", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!STALE");
  fx_advance(f, 1999);
  fx_is(f, "run", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_advance(f, 1);
  fx_is(f, "run", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
  fx_advance(f, f->limits.accept_timeout_ms - 5001);
  fx_is(f, "ask", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  fx_advance(f, 1);
  fx_is(f, "ask", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
}

/* The queue was not empty: what arrived after heard_us is not known yet. */
static void timers_are_judged_only_up_to_what_is_known(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go timeout=5000 attempts=1; t runner=go timeout=8000 attempts=1");
  int64_t heard_us = f->now.mono_us + 5000000;
  fx_keep_busy(f, 10000);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_TICK, .heard_us = heard_us - 1});
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  assert_false(f->update.more);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_TICK, .heard_us = heard_us});
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
  fx_is(f, "t", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_answers(f, "t", "FINAL");
  fx_is(f, "t", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
}

/* ---- progress ---- */

static size_t journal_bytes(const fx *f) {
  size_t bytes = 0;
  for (size_t i = 0; i < f->journal.len; i++) bytes += f->journal.items[i].bytes_len;
  return bytes;
}

static void chatty(fx *f) {
  f->limits.progress_entries_max = 5;
  f->limits.progress_bytes_max = 1000;
  f->limits.progress_journal_bytes_per_s = 100;
  fx_renew(f);
  with_runner(f);
  fx_write(f, "s runner=go mode=async stale=20000");
  fx_reports(f, "s", "first");
}

static const char *line(fx *f, int i) { return tci_fmt(&f->arena, "%0100d", i); }

static void much_progress_is_told_at_once_and_on_record_at_a_rate(void **state) {
  fx *f = *state;
  chatty(f);
  fx_watch(f, 1, "stages progress");
  size_t before = journal_bytes(f);
  for (int i = 0; i < 1000; i++) {
    fx_reports(f, "s", line(f, i));
    assert_true(tci_str_eq(fx_attempt(f, "s")->progress.items[fx_attempt(f, "s")->progress.len - 1].message,
                           tci_str_from(line(f, i))));
    assert_true(f->streams[1].len > 0); /* whoever watches does not wait for the disk */
    tci_buf_clear(&f->streams[1]);
    fx_advance(f, 10);
  }
  assert_int_equal(fx_attempt(f, "s")->progress.len, 5);
  size_t after = journal_bytes(f); /* ten seconds: the burst, and 100 bytes a second */
  assert_true(after > before + 1000);
  assert_true(after < before + 5000);
  fx_advance(f, 15000);
  assert_int_equal(fx_attempt(f, "s")->progress_pending, 0);
  assert_int_equal(fx_attempt(f, "s")->progress.len, 5);
  fx_restart(f, TCI_EVENT_RESTARTED);
  assert_int_equal(fx_attempt(f, "s")->progress.len, 5);
  assert_true(tci_str_eq(fx_attempt(f, "s")->progress.items[4].message, tci_str_from(line(f, 999))));
}

static void progress_that_waits_goes_on_record_when_the_attempt_ends(void **state) {
  fx *f = *state;
  chatty(f);
  for (int i = 0; i < 100; i++) fx_reports(f, "s", line(f, i));
  assert_int_equal(fx_attempt(f, "s")->progress_pending, 5);
  fx_completes(f, "s", "FINAL");
  fx_restart(f, TCI_EVENT_RESTARTED);
  assert_int_equal(fx_attempt(f, "s")->progress.len, 5);
  assert_int_equal(fx_attempt(f, "s")->progress_dropped, 96);
  assert_true(tci_str_eq(fx_attempt(f, "s")->progress.items[0].message, tci_str_from(line(f, 95))));
}

static void progress_that_was_dropped_unrecorded_is_missing_in_the_journal_too(void **state) {
  fx *f = *state;
  chatty(f);
  f->core->limits.progress_bytes_max = f->shadow->limits.progress_bytes_max = f->limits.progress_bytes_max = 600;
  for (int i = 0; i < 4; i++) fx_reports(f, "s", "short");
  while (fx_attempt(f, "s")->progress_pending == 0) fx_reports(f, "s", "x");
  fx_reports(f, "s", tci_fmt(&f->arena, "%0400d", 1)); /* drops what is on record, and is dropped itself */
  fx_reports(f, "s", tci_fmt(&f->arena, "%0400d", 2));
  assert_int_equal(fx_attempt(f, "s")->progress.len, 1);
  fx_completes(f, "s", "FINAL"); /* the fixture compares with the journal: what is short would fit, and is older */
  assert_int_equal(fx_attempt(f, "s")->progress.len, 1);
}

static void progress_that_goes_on_record_is_no_sign_of_life(void **state) {
  fx *f = *state;
  chatty(f);
  for (int i = 0; i < 20; i++) fx_reports(f, "s", line(f, i));
  assert_true(fx_attempt(f, "s")->progress_pending > 0);
  fx_advance(f, 19999);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  assert_int_equal(fx_attempt(f, "s")->progress_pending, 0);
  fx_advance(f, 1);
  fx_is(f, "s", "ATTEMPTING 1:INCOMPLETE/FAILED!STALE 2:PENDING/PENDING");
}

static void the_last_progress_entries_are_kept(void **state) {
  fx *f = *state;
  f->limits.progress_entries_max = 3;
  f->limits.progress_bytes_max = 90; /* three of two letters and their percent */
  fx_renew(f);
  with_runner(f);
  fx_write(f, "s runner=go mode=async; t runner=go");
  for (int i = 0; i < 5; i++) fx_reports(f, "s", tci_fmt(&f->arena, "p%d", i));
  assert_int_equal(fx_attempt(f, "s")->progress.len, 3);
  assert_int_equal(fx_attempt(f, "s")->progress_dropped, 2);
  assert_true(tci_str_eq(fx_attempt(f, "s")->progress.items[0].message, TCI_STR("p2")));
  fx_reports(f, "s", "0123456789012345");
  assert_int_equal(fx_attempt(f, "s")->progress.len, 3);
  fx_reports(f, "s", tci_fmt(&f->arena, "%090d", 0)); /* fills it alone */
  assert_int_equal(fx_attempt(f, "s")->progress.len, 1);
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "progress_bytes_max",
                     fx_update_command(f, fx_execution(f, "s"), tci_fmt(&f->arena, "%091d", 0)));
  fx_reports(f, "t", "a sync one may, too");
  fx_is(f, "t", "ATTEMPTING 1:RUNNING/RUNNING");
}

/* ---- restarts ---- */

static void a_restart_fails_calls_in_flight_but_not_what_was_accepted(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f,
           "sync runner=go; asked runner=go mode=async; taken runner=go mode=async; spoke runner=go mode=async; waits "
           "runner=no");
  fx_accepts(f, "taken", true);
  fx_reports(f, "spoke", "here I am"); /* before its RunAsync is answered */
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_is(f, "sync", "ATTEMPTING 1:INCOMPLETE/FAILED!ENGINE_RESTART 2:PENDING/PENDING");
  fx_is(f, "asked", "ATTEMPTING 1:INCOMPLETE/FAILED!ENGINE_RESTART 2:PENDING/PENDING");
  fx_is(f, "taken", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  fx_is(f, "spoke", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_is(f, "waits", "ATTEMPTING 1:PENDING/PENDING");
  assert_int_equal(tci_core_open_calls(f->core), 0);
  assert_int_equal(fx_runner(f, "r")->load, 2);
  fx_completes(f, "taken", "FINAL");
}

static void restarts_use_up_attempts(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go");
  for (int i = 0; i < 3; i++) {
    fx_restart(f, TCI_EVENT_RESTARTED);
    fx_advance(f, 10000);
  }
  fx_is(f, "s",
        "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!ENGINE_RESTART 2:INCOMPLETE/FAILED!ENGINE_RESTART "
        "3:INCOMPLETE/FAILED!ENGINE_RESTART");
}

static void a_reload_leaves_calls_in_flight_alone(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "sync runner=go; asked runner=go mode=async");
  fx_restart(f, TCI_EVENT_RELOADED);
  fx_is(f, "sync", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_is(f, "asked", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  assert_int_equal(tci_core_open_calls(f->core), 2);
  fx_answers(f, "sync", "FINAL");
  assert_int_equal(tci_core_open_calls(f->core), 1);
  fx_accepts(f, "asked", true);
  fx_is(f, "sync", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  assert_int_equal(tci_core_open_calls(f->core), 0);
}

/* Between the loading and the waking the engine serves already. */
static void what_comes_before_the_waking_follows_with_it(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go; async runner=go mode=async");
  fx_told(f, "a->r async->r ");
  fx_fall_asleep(f);
  fx_write(f, "b runner=go; c runner=go timeout=3000; d runner=none"); /* nobody knows yet who is alive */
  fx_accepts(f, "async", true);
  fx_register(f, "r", "go", "both", 0, 0);
  fx_is(f, "b", "PLANNED");
  fx_told(f, "");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RELOADED});
  fx_told(f, "b->r c->r ");
  assert_int_equal(tci_core_open_calls(f->core), 3); /* a, b, c: each once */
  assert_int_equal(((tci_pool *)tci_map_get(&f->core->pools, TCI_STR("none")))->ready[TCI_MODE_SYNC].len, 1);
  fx_register(f, "n", "none", "both", 0, 0);
  fx_told(f, "d->n ");
  fx_advance(f, 3000);
  fx_told(f, "cancel:c ");
}

static void after_a_restart_a_deadline_has_what_was_left_and_no_more(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go mode=async timeout=10000 attempts=1");
  fx_accepts(f, "a", true);
  fx_advance(f, 4000);
  f->now.mono_us = 77; /* another boot */
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_register(f, "r", "go", "both", 0, 86400000);
  fx_advance(f, 5999);
  fx_is(f, "a", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  fx_advance(f, 1);
  fx_is(f, "a", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
}

static void a_wall_clock_set_back_over_a_restart_lengthens_nothing(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go mode=async timeout=10000 attempts=1; b runner=go attempts=2 backoff=2000");
  fx_accepts(f, "a", true);
  fx_answers(f, "b", "FINAL failure=flaky");
  fx_told(f, "a->r b->r ");
  f->now.wall_us -= 86400000000LL;
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_advance(f, 2000);
  fx_told(f, "b->r "); /* its backoff, not a day */
  fx_advance(f, 7999);
  fx_told(f, "");
  fx_advance(f, 1);
  fx_told(f, "cancel:a ");
}

static void a_deadline_that_passed_while_the_engine_was_away_ends_at_once(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go mode=async timeout=10000 attempts=1");
  fx_accepts(f, "a", true);
  f->now.wall_us += 3600000000LL;
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_advance(f, 0);
  fx_is(f, "a", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
}

/* ---- ids ---- */

static void an_execution_id_says_whose_it_is(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go attempts=2");
  fx_answers(f, "s", "FINAL failure=x");
  tci_str plan, id = fx_execution(f, "s");
  uint32_t stage, attempt;
  assert_true(tci_execution_id_parse(id, &plan, &stage, &attempt));
  assert_true(tci_str_eq(plan, f->plan_id));
  assert_int_equal(stage, 1);
  assert_int_equal(attempt, 2);
  assert_int_equal(fx_execution(f, "s").len, f->plan_id.len + 1 + 1 + 1 + 1 + 1 + 32);
}

static void other_texts_are_no_execution_ids(void **state) {
  (void)state;
  static const char *const texts[] = {"",
                                      "x",
                                      ":::",
                                      "p:1:1:",
                                      "p:1:1:0123456789abcdef0123456789abcde",
                                      "p:1:1:0123456789abcdef0123456789abcdef0",
                                      ":1:1:0123456789abcdef0123456789abcdef",
                                      "p::1:0123456789abcdef0123456789abcdef",
                                      "p:1::0123456789abcdef0123456789abcdef",
                                      "p:x:1:0123456789abcdef0123456789abcdef",
                                      "p:1:-1:0123456789abcdef0123456789abcdef",
                                      "p:4294967296:1:0123456789abcdef0123456789abcdef",
                                      "p:11111111111:1:0123456789abcdef0123456789abcdef"};
  tci_str plan;
  uint32_t stage, attempt;
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    if (tci_execution_id_parse(tci_str_from(texts[i]), &plan, &stage, &attempt)) fail_msg("'%s' passes", texts[i]);
  assert_true(
      tci_execution_id_parse(TCI_STR("a:b:4294967295:7:0123456789abcdef0123456789abcdef"), &plan, &stage, &attempt));
  assert_true(tci_str_eq(plan, TCI_STR("a:b")));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(each_kind_has_its_budget),
      CLAIM(a_stages_own_retry_covers_every_kind),
      CLAIM(no_stage_has_more_attempts_than_the_limit),
      CLAIM(delivery_and_other_failures_are_counted_apart),
      CLAIM(backoff_doubles_between_half_and_whole_up_to_its_limit),
      CLAIM(a_stages_own_backoff_wins),
      CLAIM(a_retry_is_a_new_attempt_with_a_new_execution),
      CLAIM(a_retry_without_backoff_goes_out_in_the_same_step),
      CLAIM(a_retry_goes_to_another_runner_where_there_is_one),
      CLAIM(the_deadline_ends_a_silent_call_on_the_millisecond),
      CLAIM(the_wall_clock_ends_nothing),
      CLAIM(an_unanswered_run_async_times_out),
      CLAIM(an_accepted_execution_may_be_silent_for_its_stale_limit),
      CLAIM(progress_does_not_move_the_deadline),
      CLAIM(a_sync_call_is_never_stale),
      CLAIM(a_step_fires_so_many_timers_and_leaves_the_rest_to_the_next),
      CLAIM(an_answer_that_waited_beats_its_deadline),
      CLAIM(who_spoke_while_the_engine_was_busy_is_not_silent),
      CLAIM(a_standstill_moves_every_limit_by_its_length),
      CLAIM(timers_are_judged_only_up_to_what_is_known),
      CLAIM(the_last_progress_entries_are_kept),
      CLAIM(much_progress_is_told_at_once_and_on_record_at_a_rate),
      CLAIM(progress_that_waits_goes_on_record_when_the_attempt_ends),
      CLAIM(progress_that_was_dropped_unrecorded_is_missing_in_the_journal_too),
      CLAIM(progress_that_goes_on_record_is_no_sign_of_life),
      CLAIM(a_restart_fails_calls_in_flight_but_not_what_was_accepted),
      CLAIM(restarts_use_up_attempts),
      CLAIM(a_reload_leaves_calls_in_flight_alone),
      CLAIM(what_comes_before_the_waking_follows_with_it),
      CLAIM(after_a_restart_a_deadline_has_what_was_left_and_no_more),
      CLAIM(a_wall_clock_set_back_over_a_restart_lengthens_nothing),
      CLAIM(a_deadline_that_passed_while_the_engine_was_away_ends_at_once),
      CLAIM(an_execution_id_says_whose_it_is),
      CLAIM(other_texts_are_no_execution_ids),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
