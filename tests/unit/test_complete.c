/* complete: what runners say: completions of every kind, repeats and contradictions, what comes too late, results that are missing,
 * checks with several stages. */
#define _GNU_SOURCE 1 /* memmem */
#include "core_test.h"

/* ---- sync ---- */

static void a_good_answer_completes_everything_in_one_step(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; @d; s runner=go checks=c,d; t runner=go after=s+,@c+,@d+");
  uint64_t steps = f->steps;
  fx_answers(f, "s", "FINAL @c=k:v @d details=seconds:3");
  assert_int_equal(f->steps, steps + 1);
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_is(f, "@d", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_told(f, "s->r t->r ");
  assert_int_equal(f->update.records.len, 1);
  assert_true(tci_str_eq(fx_check(f, "c")->results.items[0].data, fx_struct(&f->arena, "k", "v")));
  assert_true(tci_str_eq(fx_attempt(f, "s")->details, fx_struct(&f->arena, "seconds", "3")));
  assert_int_equal(fx_runner(f, "r")->load, 1);
}

static void a_failed_check_fails_its_stage_without_retry(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; @d; s runner=go checks=c,d attempts=5");
  fx_answers(f, "s", "FINAL @c!exit_2 @d");
  fx_is(f, "s", "FINAL/FAILED/CHECK_FAILED 1:COMPLETE/COMPLETE");
  fx_is(f, "@c", "FINAL/FAILED/RESULT_FAILED stage:s#!exit_2");
  fx_is(f, "@d", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
}

static void state_final_or_finalize_both_finalise_a_result(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; @d; s runner=go checks=c,d");
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = fx_execution(f, "s");
  event.answer.completion = fx_parse_completion(&f->arena, "FINAL @c @d");
  event.answer.completion.updates[0].finalize = false;
  event.answer.completion.updates[1].state = TCI_CHECK_UNKNOWN;
  fx_step(f, &event);
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_is(f, "@d", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
}

static void a_reported_failure_applies_its_updates_when_it_is_not_retried(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; @d; s runner=go checks=c,d");
  fx_answers(f, "s", "FINAL @c failure=boom");
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!REPORTED");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_is(f, "@d", "FINAL/FAILED/NO_RESULT stage:s#!stage s: no retries left: boom");
}

static void a_failure_counts_whatever_the_state_says(void **state) {
  fx *f = *state;
  with_runner(f);
  const char *const texts[] = {"- failure=x", "PLANNED failure=x", "AWAITING_GROUP failure=x"};
  for (int i = 0; i < 3; i++) {
    const char *id = tci_fmt(&f->arena, "s%d", i);
    fx_write(f, tci_fmt(&f->arena, "%s runner=go", id));
    fx_answers(f, id, texts[i]);
    fx_is(f, id, "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!REPORTED");
  }
}

static void updates_of_an_attempt_that_is_retried_stay_with_it(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go checks=c attempts=2");
  fx_answers(f, "s", "FINAL @c!bad failure=boom details=k:v");
  fx_is(f, "@c", "PLANNING");
  tci_attempt *first = fx_stage(f, "s")->attempts.items[0];
  const char *details = tci_str_z(&f->arena, first->details);
  assert_non_null(memmem(details, first->details.len, "turboci.check_updates_not_applied", 33));
  assert_non_null(memmem(details, first->details.len, "bad", 3));
  fx_advance(f, 1000);
  fx_answers(f, "s", "FINAL @c");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
}

static void a_second_word_on_a_result_that_is_final_is_kept_and_not_applied(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go checks=c; t runner=go checks=c");
  fx_answers(f, "s", "FINAL @c=first:k @c!second");
  fx_is(f, "@c", "PLANNING stage:s#");
  const tci_attempt *a = fx_attempt(f, "s");
  assert_non_null(memmem(a->details.ptr, a->details.len, "second", 6));
  fx_answers(f, "t", "FINAL @c");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s# stage:t#");
}

static void nonsense_is_a_protocol_failure_and_changes_no_check(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@mine; @other; s runner=go checks=mine attempts=4; w runner=go checks=other:WAITING");
  const char *const texts[] = {"PLANNED @mine", "- @mine", "FINAL @mine @other", "FINAL @mine @nowhere"};
  for (int i = 0; i < 4; i++) {
    fx_answers(f, "s", texts[i]);
    assert_int_equal(fx_stage(f, "s")->attempts.items[i]->failure.kind, TCI_FAILURE_PROTOCOL);
    if (i < 3) fx_is(f, "@mine", "PLANNING");
    fx_advance(f, 10000);
  }
  fx_is(
      f, "@mine",
      "FINAL/FAILED/NO_RESULT stage:s#!stage s: no retries left: check_updates[1].check_id: stage 's' is not assigned "
      "to a check 'nowhere'");
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = fx_execution(f, "w");
  event.answer.unreadable = true;
  event.answer.message = TCI_STR("RunResponse: truncated");
  fx_step(f, &event);
  fx_is(f, "w", "ATTEMPTING 1:INCOMPLETE/FAILED!PROTOCOL 2:PENDING/PENDING");
}

static void an_answer_over_a_limit_fails_once_and_is_no_refusal(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go; a runner=go mode=async; b runner=go mode=async");
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.too_large = true;
  event.answer.message = TCI_STR("RunResponse.details: is too long");
  event.answer.execution_id = fx_execution(f, "s");
  fx_step(f, &event);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!REPORTED");
  assert_true(tci_str_eq(fx_attempt(f, "s")->failure.message, event.answer.message));
  event.answer.execution_id = fx_execution(f, "a");
  fx_step(f, &event);
  fx_is(f, "a", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!REPORTED");
  fx_reports(f, "b", "begun"); /* it has the work, whatever it said to RunAsync */
  event.answer.execution_id = fx_execution(f, "b");
  fx_step(f, &event);
  fx_is(f, "b", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_write(f, "next runner=go"); /* nobody is passed over */
  fx_is(f, "next", "ATTEMPTING 1:RUNNING/RUNNING");
}

static void awaiting_a_group_without_children_is_final_at_once(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go checks=c");
  fx_watch(f, 1, "stages");
  fx_answers(f, "s", "AWAITING_GROUP @c");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_contains(tci_str_z(&f->arena, tci_buf_str(&f->streams[1])), "s ATTEMPTING>AWAITING_GROUP");
}

static void a_late_answer_changes_nothing(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go timeout=1000 attempts=2 checks=c");
  tci_str first = fx_execution(f, "s");
  fx_advance(f, 2001);
  fx_is(f, "s", "ATTEMPTING 1:INCOMPLETE/FAILED!TIMEOUT 2:RUNNING/RUNNING");
  size_t records = f->journal.len;
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = first;
  event.answer.completion = fx_parse_completion(&f->arena, "FINAL @c");
  fx_step(f, &event);
  event.answer.code = TCI_UNAVAILABLE;
  fx_step(f, &event);
  event.answer.execution_id = TCI_STR("nonsense");
  fx_step(f, &event);
  fx_write(f, "waits runner=none");
  records = f->journal.len;
  event.answer.execution_id = fx_execution(f, "waits"); /* nobody was called yet */
  fx_step(f, &event);
  assert_int_equal(f->journal.len, records);
}

/* ---- async ---- */

static void run_async_answers(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "yes runner=go mode=async; no runner=go mode=async attempts=1");
  fx_accepts(f, "yes", true);
  fx_is(f, "yes", "ATTEMPTING 1:SCHEDULED/DISPATCHED");
  assert_true(tci_str_eq(fx_attempt(f, "yes")->runner_execution_id, TCI_STR("theirs")));
  fx_accepts(f, "no", false);
  fx_is(f, "no", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!REJECTED");
}

static void progress_moves_an_async_attempt_to_running(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async");
  tci_command cmd = fx_update_command(f, fx_execution(f, "s"), "half");
  cmd.update_execution.progress_percent = 50;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
  fx_is(f, "s", "ATTEMPTING 1:RUNNING/RUNNING");
  assert_true(tci_str_eq(fx_attempt(f, "s")->progress.items[0].message, TCI_STR("half")));
}

/* What details an update leaves: `details` given, with this percent in the field. Empty: it leaves no entry. */
static tci_str progress_details(fx *f, const char *message, tci_str details, int64_t percent) {
  tci_command cmd = fx_update_command(f, fx_execution(f, "s"), message);
  cmd.update_execution.progress_percent = percent;
  cmd.update_execution.details = details;
  size_t before = fx_attempt(f, "s")->progress.len;
  assert_int_equal(fx_command(f, cmd)->status.code, TCI_OK);
  const tci_attempt *a = fx_attempt(f, "s");
  return a->progress.len > before ? a->progress.items[before].details : (tci_str){0};
}

static tci_str entry(fx *f, const char *key, double number) {
  tci_buf value = {0}, with = {0};
  tci_value_put_number(&value, number);
  tci_struct_set((tci_str){0}, tci_str_from(key), tci_buf_str(&value), &with);
  tci_str kept = tci_str_copy(&f->arena, tci_buf_str(&with));
  tci_buf_deinit(&value);
  tci_buf_deinit(&with);
  return kept;
}

static void the_percent_of_progress_is_in_its_details(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async");
  assert_true(tci_str_eq(progress_details(f, "half", (tci_str){0}, 50), entry(f, "percent", 50)));
  assert_true(tci_str_eq(progress_details(f, "", (tci_str){0}, 7), entry(f, "percent", 7)));
  assert_true(tci_str_eq(progress_details(f, "begun", (tci_str){0}, 0), entry(f, "percent", 0)));
  /* One that the details bring along is more exact than nothing, and less than the field. */
  assert_true(tci_str_eq(progress_details(f, "", entry(f, "percent", 81.5), 0), entry(f, "percent", 81.5)));
  assert_true(tci_str_eq(progress_details(f, "", entry(f, "percent", 81.5), 82), entry(f, "percent", 82)));
  tci_str both = progress_details(f, "", entry(f, "files", 3), 20);
  assert_non_null(memmem(both.ptr, both.len, "files", 5));
  assert_non_null(memmem(both.ptr, both.len, "percent", 7));
  assert_int_equal(progress_details(f, "", (tci_str){0}, 0).len, 0); /* a sign of life */
}

static void progress_of_a_running_attempt_is_one_change(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go; a runner=go mode=async");
  fx_accepts(f, "a", true);
  fx_reports(f, "a", "begun"); /* moves it, too */
  fx_is(f, "a", "ATTEMPTING 1:RUNNING/RUNNING");
  uint64_t sequence = fx_plan(f)->sequence;
  fx_reports(f, "a", "half");
  assert_int_equal(fx_plan(f)->sequence, sequence + 1);
  fx_reports(f, "s", "half");
  assert_int_equal(fx_plan(f)->sequence, sequence + 2);
  assert_false(fx_attempt(f, "s")->accepted); /* there is nothing to accept in a sync call */
}

static void a_callback_may_come_before_run_async_is_answered(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go mode=async; b runner=go mode=async");
  fx_reports(f, "a", "hello");
  fx_rpc_fails(f, "a", TCI_UNAVAILABLE, "lost"); /* the answer was lost, the work was not */
  fx_is(f, "a", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_completes(f, "a", "FINAL");
  fx_watch(f, 1, "stages progress");
  fx_completes(f, "b", "FINAL"); /* straight from SCHEDULED: RUNNING, then COMPLETE */
  fx_is(f, "b", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  assert_true(fx_attempt(f, "b")->started_us > 0);
  size_t records = f->journal.len;
  fx_accepts(f, "b", true); /* late */
  fx_accepts(f, "b", false);
  assert_int_equal(f->journal.len, records);
}

static void a_completion_repeated_in_the_same_words_is_ok_again(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go mode=async checks=c");
  tci_str id = fx_execution(f, "s");
  fx_completes(f, "s", "FINAL @c");
  size_t records = f->journal.len;
  fx_completes(f, "s", "FINAL @c");
  assert_int_equal(f->journal.len, records);
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "is COMPLETE", fx_complete_command(f, id, "FINAL @c!other"));
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "is COMPLETE", fx_update_command(f, id, "late"));
  fx_restart(f, TCI_EVENT_RESTARTED); /* remembered */
  fx_completes(f, "s", "FINAL @c");
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "is COMPLETE", fx_complete_command(f, id, "FINAL"));
}

static void a_failed_completion_is_remembered_too(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go mode=async");
  fx_completes(f, "s", "FINAL failure=boom");
  fx_completes(f, "s", "FINAL failure=boom");
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "is FAILED: boom",
                     fx_complete_command(f, fx_execution(f, "s"), "FINAL"));
}

static void a_superseded_attempt_is_refused(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go mode=async checks=c attempts=2");
  tci_str first = fx_execution(f, "s");
  fx_completes(f, "s", "FINAL failure=boom");
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "was superseded by attempt 2",
                     fx_complete_command(f, first, "FINAL @c"));
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "was superseded by attempt 2",
                     fx_complete_command(f, first, "FINAL failure=boom"));
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "was superseded", fx_update_command(f, first, "still here"));
}

static void callbacks_that_name_nothing_are_refused(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go mode=async; y runner=go; waits runner=none mode=async");
  tci_str id = fx_execution(f, "s");
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "execution_id is empty", fx_complete_command(f, (tci_str){0}, "FINAL"));
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "execution_id is empty", fx_update_command(f, (tci_str){0}, ""));
  fx_refuses_command(f, TCI_NOT_FOUND, "names no execution", fx_complete_command(f, TCI_STR("abc"), "FINAL"));
  char *other = tci_str_z(&f->arena, id);
  other[id.len - 1] = other[id.len - 1] == '0' ? '1' : '0'; /* nearly the secret */
  fx_refuses_command(f, TCI_NOT_FOUND, "names no execution", fx_complete_command(f, tci_str_from(other), "FINAL"));
  const char *to_check = tci_fmt(&f->arena, "%.*s:0:1:0123456789abcdef0123456789abcdef", TCI_STR_ARG(f->plan_id));
  fx_refuses_command(f, TCI_NOT_FOUND, "names no execution", fx_update_command(f, tci_str_from(to_check), ""));
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "mode SYNC", fx_complete_command(f, fx_execution(f, "y"), "FINAL"));
  fx_refuses_command(f, TCI_FAILED_PRECONDITION, "is PENDING",
                     fx_complete_command(f, fx_execution(f, "waits"), "FINAL"));
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "is not assigned to a check 'c'", fx_complete_command(f, id, "FINAL @c"));
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "stage_state: PLANNED ends no stage",
                     fx_complete_command(f, id, "PLANNED"));
  fx_is(f, "s", "ATTEMPTING 1:SCHEDULED/DISPATCHED"); /* a refused call fails nobody */
}

/* ---- checks ---- */

static void what_comes_for_a_final_check_is_kept_and_changes_nothing(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go checks=c");
  fx_write(f, "@c state=FINAL");
  int64_t version = fx_check(f, "c")->node.version;
  fx_answers(f, "s", "FINAL @c!too_late details=k:v");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_is(f, "@c", "FINAL/SUCCEEDED/WRITTEN");
  assert_int_equal(fx_check(f, "c")->node.version, version);
  tci_str details = fx_attempt(f, "s")->details;
  assert_non_null(memmem(details.ptr, details.len, "too_late", 8));
  assert_non_null(memmem(details.ptr, details.len, "turboci.check_updates_not_applied", 33));
}

static void a_check_with_several_stages_waits_for_the_last(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; a runner=go checks=c; b runner=go checks=c; d runner=go checks=c; other runner=go checks=c:WAITING");
  fx_answers(f, "a", "FINAL @c!bad");
  fx_is(f, "a", "FINAL/FAILED/CHECK_FAILED 1:COMPLETE/COMPLETE");
  fx_is(f, "@c", "PLANNING stage:a#!bad");
  fx_answers(f, "b", "FINAL");
  fx_is(f, "@c", "PLANNING stage:a#!bad");
  fx_answers(f, "d", "FINAL @c");
  fx_is(f, "@c", "FINAL/FAILED/NO_RESULT stage:a#!bad stage:d# stage:b#!stage b: no result reported");
  fx_is(f, "other", "ATTEMPTING 1:RUNNING/RUNNING");
}

static void a_result_that_is_not_final_is_finalised_by_the_end_of_its_stage(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; @d; s runner=go checks=c; t runner=go checks=d");
  fx_answers(f, "s", "FINAL @c?k:v");
  fx_is(f, "@c", "FINAL/SUCCEEDED/RESULTS_FINAL stage:s#");
  fx_answers(f, "t", "FINAL @d?k:v failure=boom");
  fx_is(f, "@d", "FINAL/FAILED/NO_RESULT stage:t#!stage t: no retries left: boom");
  assert_true(tci_str_eq(fx_check(f, "d")->results.items[0].data, fx_struct(&f->arena, "k", "v"))); /* kept */
}

static void an_empty_update_that_does_not_finalise_is_no_result(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go checks=c");
  fx_answers(f, "s", "FINAL @c?");
  fx_is(f, "@c", "FINAL/FAILED/NO_RESULT stage:s#!stage s: no result reported");
}

static void a_finalised_result_is_not_said_again(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go checks=c; t runner=go checks=c");
  fx_answers(f, "s", "FINAL @c=k:1 @c!contradiction");
  fx_is(f, "@c", "PLANNING stage:s#");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
}

static void missing_results_say_why(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@a; @b; @gate; s runner=go checks=a after=@gate; t runner=go checks=b timeout=1000 attempts=1");
  fx_write(f, "s state=FINAL");
  fx_is(f, "@a", "FINAL/FAILED/NO_RESULT stage:s#!stage s: made final by a client before it ran");
  fx_advance(f, 1000);
  fx_is(f, "@b", "FINAL/FAILED/NO_RESULT stage:t#!stage t: no retries left: the deadline passed after 1.000 s");
  assert_int_equal(fx_check(f, "b")->results.items[0].failure.kind, TCI_FAILURE_TIMEOUT);
}

static void a_skipped_check_does_not_stop_its_stage(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@gate; @c state=PLANNED after=@gate!; s runner=go checks=c");
  fx_write(f, "@gate state=FINAL");
  fx_is(f, "@c", "FINAL/SKIPPED/DEPENDENCIES_UNSATISFIED");
  fx_answers(f, "s", "FINAL @c!bad");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
}

static void a_stage_assigned_to_a_final_check_runs_all_the_same(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c state=FINAL; s runner=go checks=c");
  fx_answers(f, "s", "FINAL @c");
  fx_is(f, "s", "FINAL/SUCCEEDED/ATTEMPT_COMPLETE 1:COMPLETE/COMPLETE");
  fx_is(f, "@c", "FINAL/SUCCEEDED/WRITTEN");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(a_good_answer_completes_everything_in_one_step),
      CLAIM(a_failed_check_fails_its_stage_without_retry),
      CLAIM(state_final_or_finalize_both_finalise_a_result),
      CLAIM(a_reported_failure_applies_its_updates_when_it_is_not_retried),
      CLAIM(a_failure_counts_whatever_the_state_says),
      CLAIM(updates_of_an_attempt_that_is_retried_stay_with_it),
      CLAIM(a_second_word_on_a_result_that_is_final_is_kept_and_not_applied),
      CLAIM(nonsense_is_a_protocol_failure_and_changes_no_check),
      CLAIM(an_answer_over_a_limit_fails_once_and_is_no_refusal),
      CLAIM(awaiting_a_group_without_children_is_final_at_once),
      CLAIM(a_late_answer_changes_nothing),
      CLAIM(run_async_answers),
      CLAIM(progress_moves_an_async_attempt_to_running),
      CLAIM(the_percent_of_progress_is_in_its_details),
      CLAIM(progress_of_a_running_attempt_is_one_change),
      CLAIM(a_callback_may_come_before_run_async_is_answered),
      CLAIM(a_completion_repeated_in_the_same_words_is_ok_again),
      CLAIM(a_failed_completion_is_remembered_too),
      CLAIM(a_superseded_attempt_is_refused),
      CLAIM(callbacks_that_name_nothing_are_refused),
      CLAIM(what_comes_for_a_final_check_is_kept_and_changes_nothing),
      CLAIM(a_check_with_several_stages_waits_for_the_last),
      CLAIM(a_result_that_is_not_final_is_finalised_by_the_end_of_its_stage),
      CLAIM(an_empty_update_that_does_not_finalise_is_no_result),
      CLAIM(a_finalised_result_is_not_said_again),
      CLAIM(missing_results_say_why),
      CLAIM(a_skipped_check_does_not_stop_its_stage),
      CLAIM(a_stage_assigned_to_a_final_check_runs_all_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
