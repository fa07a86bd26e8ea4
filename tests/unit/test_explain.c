/* explain: every way of waiting, and every way of having ended, in words. */
#include "core_test.h"

static tci_decision answer;
static const char *fault;

static void play(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  (void)self;
  *out = answer;
  out->fault = fault;
  if (hook == TCI_HOOK_SELECT) out->runner = q->candidates[0];
  if (hook == TCI_HOOK_ADMIT) out->wait = out->wait && out->wait_us; /* waits without seconds are select's here */
}

static void with_policy(fx *f, unsigned hooks) {
  answer = (tci_decision){0};
  fault = NULL;
  fx_policy(f, hooks, play);
  fx_create(f);
}

static const tci_reply *explained(fx *f, const char *id) {
  tci_command c = {.kind = TCI_COMMAND_EXPLAIN_NODE, .plan_id = f->plan_id};
  if (id[0] == '@')
    c.explain_node.check_id = tci_str_from(id + 1);
  else
    c.explain_node.stage_id = tci_str_from(id);
  const tci_reply *reply = fx_command(f, c);
  assert_int_equal(reply->status.code, TCI_OK);
  assert_int_equal(reply->kind, TCI_REPLY_EXPLANATION);
  assert_true(reply->explanations_len > 0);
  assert_int_equal(reply->explanations[0].kind, TCI_EXPLAINS_STATE);
  return reply;
}

/* One of the lines is of this kind and says this. */
static void says(fx *f, const char *id, tci_explanation_kind kind, const char *part) {
  const tci_reply *reply = explained(f, id);
  tci_buf all = {0};
  for (size_t i = 0; i < reply->explanations_len; i++) {
    const tci_explanation *e = &reply->explanations[i];
    const char *text = tci_str_z(&f->arena, e->text);
    if (e->kind == kind && strstr(text, part)) {
      tci_buf_deinit(&all);
      return;
    }
    tci_buf_add(&all, tci_str_from(tci_fmt(&f->arena, "\n  %d %s", (int)e->kind, text)));
  }
  fail_msg("no line of kind %d with \"%s\" in:%.*s", (int)kind, part, TCI_STR_ARG(tci_buf_str(&all)));
}

static size_t lines_of(fx *f, const char *id, tci_explanation_kind kind) {
  const tci_reply *reply = explained(f, id);
  size_t n = 0;
  for (size_t i = 0; i < reply->explanations_len; i++) n += reply->explanations[i].kind == kind;
  return n;
}

/* ---- refused ---- */

static void what_is_not_asked_well_is_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s runner=go; @c");
  tci_command c = {.kind = TCI_COMMAND_EXPLAIN_NODE, .plan_id = TCI_STR("wp-none")};
  fx_refuses_command(f, TCI_NOT_FOUND, "there is no work plan 'wp-none'", c);
  c.plan_id = f->plan_id;
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "both empty; give one of the two", c);
  c.explain_node.stage_id = TCI_STR("s");
  c.explain_node.check_id = TCI_STR("c");
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "both given", c);
  c.explain_node.check_id = (tci_str){0};
  c.explain_node.stage_id = TCI_STR("x");
  fx_refuses_command(f, TCI_NOT_FOUND, "has no stage 'x'", c);
  c.explain_node.stage_id = (tci_str){0};
  c.explain_node.check_id = TCI_STR("x");
  fx_refuses_command(f, TCI_NOT_FOUND, "has no check 'x'", c);
}

/* ---- waiting ---- */

static void a_stage_that_waits_for_others(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "a runner=go; b runner=go after=a+; c runner=go any=a!,b; @d after=a+ state=PLANNED");
  says(f, "b", TCI_EXPLAINS_STATE, "stage 'b' is PLANNED");
  says(f, "b", TCI_EXPLAINS_DEPENDENCY, "waits for stage 'a', which is ATTEMPTING and is to be SUCCEEDED");
  says(f, "c", TCI_EXPLAINS_DEPENDENCY,
       "waits for any of its dependencies: stage 'a', which is ATTEMPTING and is to be FAILED");
  says(f, "@d", TCI_EXPLAINS_DEPENDENCY, "waits for stage 'a'");
  fx_answers(f, "a", "FINAL failure=no");
  says(f, "b", TCI_EXPLAINS_STATE, "stage 'b' is FINAL, SKIPPED: its dependencies are unsatisfied");
  says(f, "b", TCI_EXPLAINS_DEPENDENCY, "was skipped because of stage 'a', which is FINAL, FAILED");
  says(f, "@d", TCI_EXPLAINS_DEPENDENCY, "was skipped because of stage 'a'");
}

static void a_list_of_causes_is_bounded(void **state) {
  fx *f = *state;
  fx_create(f);
  char text[4000] = "", after[1000] = "";
  size_t at = 0, end = 0;
  for (int i = 0; i < 30; i++) {
    at += (size_t)snprintf(text + at, sizeof text - at, "s%d runner=go;", i);
    end += (size_t)snprintf(after + end, sizeof after - end, "%ss%d", i ? "," : "", i);
  }
  snprintf(text + at, sizeof text - at, "last runner=go after=%s", after);
  fx_write(f, text);
  assert_int_equal(lines_of(f, "last", TCI_EXPLAINS_DEPENDENCY), 21);
  says(f, "last", TCI_EXPLAINS_DEPENDENCY, "... and for 10 more");
}

static void a_stage_for_which_there_is_no_runner(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s runner=go; t runner=go mode=async");
  says(f, "s", TCI_EXPLAINS_NO_RUNNER, "no runner of type 'go' that takes SYNC work is registered");
  fx_register(f, "r", "go", "sync", 1, 0);
  says(f, "t", TCI_EXPLAINS_NO_RUNNER, "no runner of type 'go' that takes ASYNC work");
  fx_write(f, "u runner=go");
  says(f, "u", TCI_EXPLAINS_ALL_BUSY, "1 of 1 runners of type 'go' are busy, with 1 executions");
  assert_int_equal(lines_of(f, "u", TCI_EXPLAINS_QUEUED), 0);
}

static void a_backoff_and_a_runner_that_is_passed_over(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go");
  fx_rpc_fails(f, "s", TCI_UNAVAILABLE, "connection refused");
  says(f, "s", TCI_EXPLAINS_BACKOFF, "attempt 2 is not due for another 0.");
  says(f, "s", TCI_EXPLAINS_ATTEMPT,
       "attempt 1 failed on runner 'r' after 0.000 s: UNREACHABLE: UNAVAILABLE: connection refused");
  fx_advance(f, 1000);
  says(f, "s", TCI_EXPLAINS_PASSED_OVER, "it is passed over for another 4.000 s");
}

static void a_policy_that_said_wait(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_SELECT);
  fx_register(f, "r", "go", "sync", 0, 0);
  answer = (tci_decision){.wait = true, .reason = TCI_STR("none is warm")};
  fx_write(f, "s runner=go");
  says(f, "s", TCI_EXPLAINS_POLICY_WAIT, "policy 'test' said wait: none is warm");
  answer.wait_us = 90000000;
  fx_write(f, "t runner=go");
  says(f, "t", TCI_EXPLAINS_POLICY_WAIT, "said wait: none is warm; it is asked again in 90.000 s");
}

static tci_admission one_key[] = {{{"deploy", 6}, 1}};

static void a_policy_that_does_not_admit(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_ADMIT);
  fx_register(f, "r", "go", "sync", 0, 0);
  answer = (tci_decision){.wait = true, .wait_us = 60000000, .reason = TCI_STR("the window opens at nine")};
  fx_write(f, "s runner=go");
  says(f, "s", TCI_EXPLAINS_ADMISSION,
       "policy 'test' does not admit it yet: the window opens at nine; it is asked again");
  answer = (tci_decision){.keys = one_key, .keys_len = 1};
  fx_write(f, "t runner=go; u runner=go");
  says(f, "u", TCI_EXPLAINS_ADMISSION,
       "admission key 'deploy' is held by 1 executions, and policy 'test' lets 1 have it at once");
}

static void what_was_said_before_it_ran(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_ADMIT | 1u << TCI_HOOK_TIMEOUT | 1u << TCI_HOOK_PRIORITY);
  fx_register(f, "r", "go", "sync", 0, 0);
  answer = (tci_decision){.keys = one_key,
                          .keys_len = 1,
                          .execution_ms = 90000,
                          .queue_ms = 5000,
                          .says = true,
                          .priority = 4,
                          .reason = TCI_STR("so")};
  fx_write(f, "s runner=go");
  says(f, "s", TCI_EXPLAINS_DECISION, "attempt 1: policy 'test' (v1) gives it priority 4: so");
  says(f, "s", TCI_EXPLAINS_DECISION,
       "attempt 1: policy 'test' (v1) gives it 90.000 s, and to wait for a runner 5.000 s: so");
  says(f, "s", TCI_EXPLAINS_DECISION, "attempt 1: policy 'test' (v1) admitted it with key 'deploy' (at most 1): so");
}

static void the_end_of_a_queue_timeout(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_TIMEOUT);
  answer.queue_ms = 7000;
  fx_write(f, "s runner=go");
  says(f, "s", TCI_EXPLAINS_QUEUED, "it gives up in 7.000 s");
}

static void a_retry_that_excludes(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_RETRY);
  fx_register(f, "r", "go", "sync", 0, 0);
  tci_str ids[] = {TCI_STR("r")};
  answer = (tci_decision){.again = true, .exclude = {ids, 1}, .reason = TCI_STR("r is flaky")};
  fx_write(f, "s runner=go");
  fx_answers(f, "s", "FINAL failure=exit");
  says(f, "s", TCI_EXPLAINS_EXCLUDED, "runner 'r' is excluded by the retry");
  says(f, "s", TCI_EXPLAINS_DECISION,
       "attempt 1: policy 'test' (v1) wants another attempt after 0.000 s, not on the runners it excludes: r is flaky");
  answer = (tci_decision){.reason = TCI_STR("enough")};
  fx_register(f, "q", "go", "sync", 0, 0);
  fx_answers(f, "s", "FINAL failure=exit");
  says(f, "s", TCI_EXPLAINS_DECISION, "attempt 2: policy 'test' (v1) gave up: enough");
}

/* ---- running and ended ---- */

static void a_stage_that_runs_and_why_there(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_SELECT);
  answer.reason = TCI_STR("the first");
  fx_register(f, "a", "go", "both", 0, 0);
  fx_register(f, "b", "go", "both", 0, 0);
  fx_write(f, "s runner=go mode=async timeout=60000");
  fx_advance(f, 1500);
  says(f, "s", TCI_EXPLAINS_RUNNING, "attempt 1 is with runner 'a' for 1.500 s, and may take 58.500 s more");
  says(f, "s", TCI_EXPLAINS_RUNNING, "it has not said yet whether it takes the work");
  says(f, "s", TCI_EXPLAINS_DECISION, "attempt 1: policy 'test' (v1) chose runner 'a' of 2 candidates: the first");
  assert_int_equal(explained(f, "s")->attempts_len, 1);
  fx_completes(f, "s", "FINAL");
  says(f, "s", TCI_EXPLAINS_STATE, "stage 's' is FINAL, SUCCEEDED: its attempt completed");
  says(f, "s", TCI_EXPLAINS_ATTEMPT, "attempt 1 ended on runner 'a' after 1.500 s: COMPLETE");
}

static void the_built_in_says_so(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "s runner=go");
  says(f, "s", TCI_EXPLAINS_DECISION, "attempt 1: the built-in default chose runner 'r' of 1 candidate");
  fx_answers(f, "s", "FINAL failure=exit");
  says(f, "s", TCI_EXPLAINS_STATE, "stage 's' is FINAL, FAILED: its last attempt failed and is not retried");
  says(f, "s", TCI_EXPLAINS_ATTEMPT, "attempt 1 failed on runner 'r' after 0.000 s: REPORTED: exit");
}

static void a_policy_that_fails_or_is_gone(void **state) {
  fx *f = *state;
  with_policy(f, 1u << TCI_HOOK_SELECT);
  fx_register(f, "r", "go", "sync", 3, 0);
  fault = "test.lua:3: oh";
  fx_write(f, "a runner=go; b runner=go; c runner=go; d runner=go");
  says(f, "a", TCI_EXPLAINS_POLICY_FAULT,
       "attempt 1: policy 'test' (v1) could not decide, the built-in default did: test.lua:3: oh");
  says(f, "d", TCI_EXPLAINS_POLICY_FAULT,
       "policy 'test' failed too often in a row: the built-in default decides for another 30.000 s");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = NULL});
  assert_int_equal(lines_of(f, "d", TCI_EXPLAINS_POLICY_FAULT), 0); /* nobody asked for it by name */
}

/* ---- clients' turns, and checks ---- */

static void a_pulled_stage(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s");
  says(f, "s", TCI_EXPLAINS_CLIENT, "it has no runner_type: attempt 1 waits for a client to claim it");
  fx_write(f, "s attempt=RUNNING uid=me");
  says(f, "s", TCI_EXPLAINS_CLIENT, "attempt 1 is claimed by 'me'");
  fx_write(f, "s attempt=COMPLETE uid=me");
  says(f, "s", TCI_EXPLAINS_CLIENT, "a client is to write the stage FINAL");
}

static void a_check(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c state=PLANNED; @alone state=PLANNED; @new; s runner=go checks=c; t runner=go checks=c");
  says(f, "@c", TCI_EXPLAINS_RESULT, "waits for the result of stage 's', which is ATTEMPTING");
  says(f, "@alone", TCI_EXPLAINS_CLIENT, "no stage is assigned to it: a client is to finalise it");
  says(f, "@new", TCI_EXPLAINS_CLIENT, "a client is to write it PLANNED, or to finalise it");
  fx_answers(f, "s", "FINAL @c!broken");
  assert_int_equal(lines_of(f, "@c", TCI_EXPLAINS_RESULT), 2);
  fx_answers(f, "t", "FINAL @c");
  says(f, "@c", TCI_EXPLAINS_STATE, "check 'c' is FINAL, FAILED: a result carries a failure");
  says(f, "@c", TCI_EXPLAINS_RESULT, "the result of stage 's' is a failure: broken");
}

static void a_model_that_sleeps_is_explained_too(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "s runner=go");
  static const tci_policy young = {.name = {"young", 5}, .version = {"v1", 2}, .hooks = 1, .ask = play};
  static const tci_policy *const list[] = {&young};
  static const tci_policy_set set = {.policies = list, .len = 1, .server = {"young", 5}};
  f->policies = &set; /* a policy of which the journal knows nothing yet */
  fx_fall_asleep(f);
  says(f, "s", TCI_EXPLAINS_STATE, "stage 's' is ATTEMPTING");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RELOADED});
  says(f, "s", TCI_EXPLAINS_NO_RUNNER, "no runner of type 'go'");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(what_is_not_asked_well_is_refused),
      CLAIM(a_stage_that_waits_for_others),
      CLAIM(a_list_of_causes_is_bounded),
      CLAIM(a_stage_for_which_there_is_no_runner),
      CLAIM(a_backoff_and_a_runner_that_is_passed_over),
      CLAIM(a_policy_that_said_wait),
      CLAIM(a_policy_that_does_not_admit),
      CLAIM(what_was_said_before_it_ran),
      CLAIM(the_end_of_a_queue_timeout),
      CLAIM(a_retry_that_excludes),
      CLAIM(a_stage_that_runs_and_why_there),
      CLAIM(the_built_in_says_so),
      CLAIM(a_policy_that_fails_or_is_gone),
      CLAIM(a_pulled_stage),
      CLAIM(a_check),
      CLAIM(a_model_that_sleeps_is_explained_too),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
