/* ask: who is asked, what becomes of a policy that fails, what the shadow says, and what of it is on record. */
#include "core_test.h"

/* A policy whose answers a test sets. */
typedef struct {
  const char *fault;
  tci_decision answer;
  int asked[TCI_HOOKS];
} script;

static void play(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  script *s = self;
  s->asked[hook]++;
  *out = s->answer;
  out->fault = s->fault;
  if (hook == TCI_HOOK_SELECT && !out->wait && !out->runner) out->runner = q->candidates[q->candidates_len - 1];
}

enum { ALL = (1u << TCI_HOOKS) - 1, SELECT = 1u << TCI_HOOK_SELECT };

static script server, special, shadow;
static tci_policy policies[3];
static const tci_policy *list[2];
static tci_policy_set set;

static tci_policy policy_of(const char *name, unsigned hooks, script *self) {
  *self = (script){0};
  return (tci_policy){tci_str_from(name), TCI_STR("v1"), hooks, self, play};
}

/* "default" is the server's, "special" is there to be named. */
static void policies_init(fx *f, unsigned hooks) {
  policies[0] = policy_of("default", hooks, &server);
  policies[1] = policy_of("special", hooks, &special);
  list[0] = &policies[0];
  list[1] = &policies[1];
  set = (tci_policy_set){.policies = list, .len = 2, .server = TCI_STR("default")};
  f->policies = &set;
  fx_renew(f);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RESTARTED});
}

static void create_with(fx *f, const char *policy) {
  tci_command c = {.kind = TCI_COMMAND_CREATE_PLAN, .create_plan = {.policy = tci_str_from(policy)}};
  const tci_reply *reply = fx_command(f, c);
  assert_int_equal(reply->status.code, TCI_OK);
  f->plan_id = tci_str_copy(&f->arena, reply->plan->id);
}

static tci_decision_record decision_of(fx *f, const char *stage, size_t i) {
  const tci_attempt *a = fx_attempt(f, stage);
  tci_decision_record r;
  assert_true(i < a->decisions.len);
  assert_true(tci_decision_decode(a->decisions.items[i], &f->arena, &r));
  return r;
}

static bool noted(const fx *f, tci_note_kind kind, const char *policy) {
  for (size_t i = 0; i < f->update.notes.len; i++)
    if (f->update.notes.items[i].kind == kind && tci_str_eq(f->update.notes.items[i].policy, tci_str_from(policy)))
      return true;
  return false;
}

static void open_circuit(fx *f, const char *policy, bool want) {
  bool is;
  int64_t until;
  assert_true(tci_core_policy_state(f->core, tci_str_from(policy), &is, &until));
  assert_int_equal(is, want);
  assert_int_equal(until > 0, want);
}

/* ---- who ---- */

static void a_plans_own_policy_then_its_types_then_the_servers(void **state) {
  fx *f = *state;
  static tci_pair types[] = {{{"rust", 4}, {"special", 7}}};
  policies_init(f, SELECT);
  set.types = (tci_pairs){types, 1};
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  fx_register(f, "g", "go", "sync", 0, 0);
  fx_register(f, "r", "rust", "sync", 0, 0);
  fx_create(f);
  fx_write(f, "a runner=go; b runner=rust");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  assert_int_equal(special.asked[TCI_HOOK_SELECT], 1);
  create_with(f, "special");
  fx_write(f, "a runner=go; b runner=rust");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  assert_int_equal(special.asked[TCI_HOOK_SELECT], 3);
  assert_true(tci_str_eq(decision_of(f, "a", 0).policy, TCI_STR("special")));
  assert_true(tci_str_eq(decision_of(f, "a", 0).version, TCI_STR("v1")));
}

static void a_policy_that_is_not_there_is_refused_by_name(void **state) {
  fx *f = *state;
  tci_command c = {.kind = TCI_COMMAND_CREATE_PLAN, .create_plan = {.policy = TCI_STR("specal")}};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "no policy 'specal'; it has: none", c);
  policies_init(f, SELECT);
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "no policy 'specal'; did you mean 'special'?; it has: default, special",
                     c);
}

static void a_hook_that_a_policy_lacks_is_the_built_ins(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_RETRY);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_register(f, "b", "go", "sync", 0, 0);
  fx_write(f, "s runner=go");
  fx_told(f, "s->a ");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 0);
  assert_int_equal(decision_of(f, "s", 0).policy.len, 0);
}

static void a_plan_keeps_working_when_its_policy_is_gone(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  create_with(f, "special");
  fx_register(f, "a", "go", "sync", 0, 0);
  set.len = 1;
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  assert_true(noted(f, TCI_NOTE_GONE, "special"));
  fx_write(f, "s runner=go");
  fx_told(f, "s->a ");
  tci_decision_record r = decision_of(f, "s", 0);
  assert_true(tci_str_eq(r.policy, TCI_STR("special")));
  fx_contains(tci_str_z(&f->arena, r.fault), "no policy 'special' any more");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 0); /* the built-in decides, not another policy */
  fx_restart(f, TCI_EVENT_RESTARTED);
  assert_true(tci_str_eq(fx_plan(f)->policy, TCI_STR("special")));
}

/* ---- answers ---- */

static void what_timeout_and_priority_leave_out_is_the_built_ins(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_TIMEOUT | 1u << TCI_HOOK_PRIORITY);
  fx_create(f);
  server.answer.execution_ms = 5000;
  fx_register(f, "a", "go", "sync", 1, 0);
  fx_write(f, "s runner=go stale=70; t runner=go priority=7");
  fx_told(f, "t->a ");
  assert_int_equal(fx_attempt(f, "t")->execution_ms, 5000);
  assert_int_equal(fx_attempt(f, "s")->asked_stale_ms, 70);
  assert_int_equal(fx_attempt(f, "t")->priority, 7);
  server.answer = (tci_decision){.says = true, .priority = 5000};
  fx_write(f, "u runner=go");
  assert_int_equal(fx_attempt(f, "u")->priority, f->limits.priority_max);
  assert_int_equal(fx_attempt(f, "u")->queue_ms, 0);
}

static void who_waits_too_long_in_the_queue_fails(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_TIMEOUT);
  fx_create(f);
  server.answer.queue_ms = 3000;
  fx_write(f, "s runner=go attempts=1");
  fx_advance(f, 2999);
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  fx_advance(f, 1);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
  fx_contains(tci_str_z(&f->arena, fx_attempt(f, "s")->failure.message), "no runner took it within 3.000 s");
}

static void a_queue_timeout_counts_across_a_restart(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_TIMEOUT);
  fx_create(f);
  server.answer.queue_ms = 3000;
  fx_write(f, "s runner=go attempts=1");
  fx_advance(f, 2000);
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_advance(f, 999);
  fx_is(f, "s", "ATTEMPTING 1:PENDING/PENDING");
  fx_advance(f, 1);
  fx_is(f, "s", "FINAL/FAILED/NO_RETRIES_LEFT 1:INCOMPLETE/FAILED!TIMEOUT");
}

static void a_wait_with_seconds_is_not_asked_again_before(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.answer = (tci_decision){.wait = true, .wait_us = 5000000, .reason = TCI_STR("cooling down")};
  fx_write(f, "s runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  assert_true(tci_str_eq(fx_attempt(f, "s")->hold_text, TCI_STR("cooling down")));
  fx_register(f, "b", "go", "sync", 0, 0); /* a change, but not its time */
  fx_advance(f, 4999);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  server.answer = (tci_decision){0};
  fx_advance(f, 1);
  fx_told(f, "s->b ");
}

static void a_wait_without_seconds_is_asked_at_every_change(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.answer.wait = true;
  fx_write(f, "s runner=go");
  fx_tick(f);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  fx_register(f, "a", "go", "sync", 0, 0);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 2);
}

static void other_policies_ask_everybody_again(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.answer = (tci_decision){.wait = true, .wait_us = 1000000000};
  fx_write(f, "s runner=go; t runner=go");
  server.answer = (tci_decision){0};
  policies[0].version = TCI_STR("v2");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  fx_told(f, "s->a t->a ");
  assert_true(noted(f, TCI_NOTE_LIVE, "default"));
  assert_false(noted(f, TCI_NOTE_LIVE, "special"));
  assert_true(tci_str_eq(decision_of(f, "s", 0).version, TCI_STR("v2")));
}

static void a_retry_says_when_and_where_not_and_it_is_on_record(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_RETRY);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_write(f, "s runner=go");
  tci_str excluded[] = {TCI_STR("a"), TCI_STR("b")};
  server.answer =
      (tci_decision){.again = true, .after_us = 2000000, .exclude = {excluded, 2}, .reason = TCI_STR("elsewhere")};
  fx_answers(f, "s", "FINAL failure=flaky");
  tci_decision_record r;
  const tci_attempt *first = fx_stage(f, "s")->attempts.items[0];
  assert_int_equal(first->decisions.len, 2);
  assert_true(tci_decision_decode(first->decisions.items[1], &f->arena, &r));
  assert_int_equal(r.hook, TCI_HOOK_RETRY);
  assert_true(r.again);
  assert_int_equal(r.after_us, 2000000);
  assert_int_equal(r.exclude.len, 2);
  assert_true(tci_str_eq(r.reason, TCI_STR("elsewhere")));
  fx_register(f, "b", "go", "sync", 0, 0);
  fx_advance(f, 2000);
  fx_is(f, "s", "ATTEMPTING 1:INCOMPLETE/FAILED!REPORTED 2:PENDING/PENDING"); /* nobody else is there */
  fx_restart(f, TCI_EVENT_RESTARTED);
  fx_register(f, "c", "go", "sync", 0, 0);
  fx_told(f, "s->a s->c ");
}

static void what_scripts_say_in_the_queue_goes_on_record_with_the_dispatch(void **state) {
  fx *f = *state;
  policies_init(f, ALL & ~SELECT);
  fx_create(f);
  static tci_admission keys[] = {{{"deploy", 6}, 2}, {{"web", 3}, 9}};
  server.answer = (tci_decision){.says = true, .priority = -7, .execution_ms = 5000, .queue_ms = 60000};
  server.answer.reason = TCI_STR("so");
  server.answer.keys = keys;
  server.answer.keys_len = 2;
  fx_write(f, "s runner=go stale=70");
  assert_int_equal(fx_attempt(f, "s")->decisions.len, 0); /* it may be asked again after a restart */
  fx_register(f, "a", "go", "sync", 0, 0);
  assert_int_equal(fx_attempt(f, "s")->decisions.len, 4);
  assert_int_equal(decision_of(f, "s", 0).hook, TCI_HOOK_PRIORITY);
  assert_int_equal(decision_of(f, "s", 0).priority, -7);
  assert_true(tci_str_eq(decision_of(f, "s", 0).reason, TCI_STR("so")));
  tci_decision_record r = decision_of(f, "s", 1);
  assert_int_equal(r.hook, TCI_HOOK_TIMEOUT);
  assert_int_equal(r.execution_ms, 5000);
  assert_int_equal(r.stale_ms, 70); /* completed by the built-in */
  assert_int_equal(r.queue_ms, 60000);
  r = decision_of(f, "s", 2);
  assert_int_equal(r.hook, TCI_HOOK_ADMIT);
  assert_int_equal(r.keys_len, 2);
  assert_true(tci_str_eq(r.keys[1].key, TCI_STR("web")));
  assert_int_equal(r.keys[0].limit, 2);
  assert_int_equal(decision_of(f, "s", 3).hook, TCI_HOOK_SELECT);
}

static void a_fault_is_on_record_under_the_hook_that_failed(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_PRIORITY);
  fx_create(f);
  server.fault = "x.lua:1: no";
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_write(f, "s runner=go priority=3");
  tci_decision_record r = decision_of(f, "s", 0);
  assert_int_equal(r.hook, TCI_HOOK_PRIORITY);
  assert_true(tci_str_eq(r.policy, TCI_STR("default")));
  assert_true(tci_str_eq(r.fault, TCI_STR("x.lua:1: no")));
  assert_int_equal(r.priority, 3);
  assert_int_equal(decision_of(f, "s", 1).fault.len, 0);
}

static void who_fails_in_the_queue_leaves_what_was_said_there(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_TIMEOUT);
  fx_create(f);
  server.answer.queue_ms = 1000;
  fx_write(f, "s runner=go attempts=1");
  fx_advance(f, 1000);
  assert_int_equal(decision_of(f, "s", 0).hook, TCI_HOOK_TIMEOUT);
  assert_int_equal(decision_of(f, "s", 0).queue_ms, 1000);
}

static void a_decision_names_the_first_candidates_and_counts_them_all(void **state) {
  fx *f = *state;
  f->limits.decision_candidates_max = 2;
  fx_renew(f);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_register(f, "b", "go", "sync", 0, 0);
  fx_register(f, "c", "go", "sync", 0, 0);
  fx_write(f, "s runner=go; t runner=go");
  tci_decision_record r = decision_of(f, "t", 0);
  assert_int_equal(r.hook, TCI_HOOK_SELECT);
  assert_int_equal(r.candidates_total, 3);
  assert_int_equal(r.candidates_len, 2);
  assert_true(tci_str_eq(r.candidates[0].runner_id, TCI_STR("a")));
  assert_int_equal(r.candidates[0].load, 1);
  assert_int_equal(r.candidates[1].load, 0);
  assert_true(tci_str_eq(r.runner_id, TCI_STR("b")));
  assert_int_equal(r.policy.len + r.version.len + r.fault.len + r.reason.len, 0);
  assert_int_equal(r.at_us, f->now.wall_us);
}

/* ---- faults ---- */

static void a_fault_means_the_built_in_and_is_told(void **state) {
  fx *f = *state;
  policies_init(f, ALL);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  f->core->limits.policy_faults_max = 100;
  server.fault = "default.lua:7: oh";
  fx_write(f, "s runner=go priority=4 timeout=90");
  fx_told(f, "s->a ");
  assert_true(noted(f, TCI_NOTE_FAULT, "default"));
  assert_int_equal(f->update.policy.faults, 4); /* priority, timeout, admit, select */
  const tci_attempt *a = fx_attempt(f, "s");
  assert_int_equal(a->priority, 4);
  assert_int_equal(a->execution_ms, 90);
  tci_decision_record r = decision_of(f, "s", 0);
  assert_true(tci_str_eq(r.fault, TCI_STR("default.lua:7: oh")));
  assert_true(tci_str_eq(r.policy, TCI_STR("default")));
  fx_rpc_fails(f, "s", TCI_DEADLINE_EXCEEDED, "slow");
  fx_is(f, "s", "ATTEMPTING 1:INCOMPLETE/FAILED!TIMEOUT 2:PENDING/PENDING");
}

static void too_many_faults_in_a_row_open_the_circuit_for_a_while(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.fault = "x.lua:1: no";
  fx_write(f, "s1 runner=go; s2 runner=go");
  server.fault = NULL;
  fx_write(f, "s3 runner=go"); /* in a row means in a row */
  server.fault = "x.lua:1: no";
  fx_write(f, "s4 runner=go; s5 runner=go");
  open_circuit(f, "default", false);
  fx_write(f, "s6 runner=go; s7 runner=go");
  open_circuit(f, "default", true);
  assert_true(noted(f, TCI_NOTE_CIRCUIT_OPEN, "default"));
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 6); /* s7 was decided without it */
  fx_contains(tci_str_z(&f->arena, decision_of(f, "s7", 0).fault), "the circuit of policy 'default' is open");
  fx_restart(f, TCI_EVENT_RESTARTED); /* a change like every decision */
  open_circuit(f, "default", true);
  server.fault = NULL;
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_advance(f, 29999);
  fx_write(f, "s8 runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 6);
  fx_advance(f, 1);
  open_circuit(f, "default", false);
  fx_write(f, "s9 runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 7);
  assert_true(noted(f, TCI_NOTE_CIRCUIT_CLOSED, "default"));
}

static void a_policy_that_still_fails_is_given_one_chance_only(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.fault = "x.lua:1: no";
  fx_write(f, "a runner=go; b runner=go; c runner=go; d runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 3);
  fx_advance(f, 30000);
  fx_write(f, "e runner=go; f runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 4);
  open_circuit(f, "default", true);
}

static void an_open_circuit_lets_go_whom_the_policy_held(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.answer.wait = true;
  fx_write(f, "held runner=go");
  server.answer.wait_us = 1000000000;
  fx_write(f, "asleep runner=go");
  server.fault = "x.lua:1: no";
  fx_write(f, "a runner=go; b runner=go; c runner=go");
  fx_drain(f);
  fx_is(f, "held", "ATTEMPTING 1:RUNNING/RUNNING");
  fx_is(f, "asleep", "ATTEMPTING 1:RUNNING/RUNNING");
}

static void a_new_version_starts_with_a_closed_circuit(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.fault = "x.lua:1: no";
  fx_write(f, "a runner=go; b runner=go; c runner=go");
  open_circuit(f, "default", true);
  server.fault = NULL;
  policies[0].version = TCI_STR("v2");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  open_circuit(f, "default", false);
  fx_write(f, "d runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 4);
}

/* ---- budgets ---- */

static void what_a_turn_may_not_ask_any_more_the_next_one_asks(void **state) {
  fx *f = *state;
  f->limits.policy_instructions_per_turn = 1000;
  policies_init(f, SELECT | 1u << TCI_HOOK_PRIORITY);
  fx_create(f);
  server.answer = (tci_decision){.cost = 400};
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_write(f, "s runner=go; t runner=go; u runner=go");
  assert_int_equal(server.asked[TCI_HOOK_PRIORITY], 3);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 0);
  assert_true(f->update.more);
  fx_drain(f);
  fx_told(f, "s->a t->a u->a ");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 3);
}

static void a_retry_beyond_the_turns_instructions_is_the_built_ins(void **state) {
  fx *f = *state;
  f->limits.policy_instructions_per_turn = 1000;
  f->limits.policy_faults_max = 1;
  policies_init(f, 1u << TCI_HOOK_RETRY);
  fx_create(f);
  fx_register(f, "a", "go", "async", 0, 60000);
  fx_write(f, "s runner=go mode=async; t runner=go mode=async");
  fx_accepts(f, "s", true);
  fx_accepts(f, "t", true);
  server.answer = (tci_decision){.again = true, .cost = 1000};
  fx_advance(f, 60000); /* the runner is lost, and both with it */
  assert_int_equal(server.asked[TCI_HOOK_RETRY], 1);
  tci_decision_record r;
  const tci_attempt *a = fx_stage(f, "t")->attempts.items[0];
  assert_true(tci_decision_decode(a->decisions.items[a->decisions.len - 1], &f->arena, &r));
  fx_contains(tci_str_z(&f->arena, r.fault), "policy_instructions_per_turn");
  assert_true(r.again);
  open_circuit(f, "default", false); /* it is not the policy's fault */
}

/* 20 ms, of which two questions of 5 ms are kept back. */
static void cpu_time_is_a_budget_of_the_turn_too(void **state) {
  fx *f = *state;
  policies_init(f, SELECT | 1u << TCI_HOOK_RETRY);
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  server.answer = (tci_decision){.cpu_us = 5000};
  fx_write(f, "s runner=go; t runner=go; u runner=go; v runner=go; w runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 2);
  assert_true(f->update.more);
  fx_tick(f);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 4);
  fx_tick(f);
  fx_told(f, "s->a t->a u->a v->a w->a ");
  assert_false(f->update.more);
}

static void a_retry_beyond_the_turns_cpu_time_is_the_built_ins(void **state) {
  fx *f = *state;
  policies_init(f, 1u << TCI_HOOK_RETRY);
  fx_create(f);
  fx_register(f, "a", "go", "async", 0, 60000);
  fx_write(f, "s runner=go mode=async; t runner=go mode=async");
  fx_accepts(f, "s", true);
  fx_accepts(f, "t", true);
  server.answer = (tci_decision){.again = true, .cpu_us = 10000};
  fx_advance(f, 60000); /* the runner is lost, and both with it */
  assert_int_equal(server.asked[TCI_HOOK_RETRY], 1);
  tci_decision_record r;
  const tci_attempt *a = fx_stage(f, "t")->attempts.items[0];
  assert_true(tci_decision_decode(a->decisions.items[a->decisions.len - 1], &f->arena, &r));
  fx_contains(tci_str_z(&f->arena, r.fault), "policy_cpu_ms_per_turn");
  assert_true(r.again);
}

static void no_wait_is_shorter_than_the_limit(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  with_runner(f);
  server.answer = (tci_decision){.wait = true, .wait_us = 1};
  fx_write(f, "s runner=go");
  fx_advance(f, 9);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  fx_advance(f, 1);
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 2);
}

static void who_is_asked_whether_he_may_run_is_asked_where_too(void **state) {
  fx *f = *state;
  f->limits.policy_instructions_per_turn = 1000;
  policies_init(f, SELECT | 1u << TCI_HOOK_ADMIT);
  server.answer.cost = 1000; /* admit uses up the turn */
  with_runner(f);
  fx_write(f, "s runner=go");
  assert_int_equal(server.asked[TCI_HOOK_SELECT], 1);
  assert_int_equal(f->update.policy.faults, 0);
  assert_int_equal(decision_of(f, "s", 0).fault.len, 0);
}

static void a_policy_that_comes_back_starts_afresh(void **state) {
  fx *f = *state;
  f->limits.policy_faults_max = 2;
  policies_init(f, SELECT);
  with_runner(f);
  server.fault = "no";
  fx_write(f, "a runner=go");
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = NULL});
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  fx_write(f, "b runner=go");
  open_circuit(f, "default", false);
  fx_write(f, "c runner=go");
  open_circuit(f, "default", true);
}

static void a_queue_that_is_told_to_wait_leaves_the_others_their_share(void **state) {
  fx *f = *state;
  static tci_pair types[] = {{{"slow", 4}, {"special", 7}}};
  f->limits.policy_asks_per_turn = 8;
  policies_init(f, SELECT);
  set.types = (tci_pairs){types, 1};
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  special.answer.wait = true;
  fx_register(f, "s", "slow", "sync", 0, 0);
  fx_register(f, "g", "go", "sync", 0, 0);
  fx_create(f);
  char text[4000] = "";
  size_t at = 0;
  for (int i = 0; i < 100; i++) at += (size_t)snprintf(text + at, sizeof text - at, "w%d runner=slow;", i);
  fx_write(f, text);
  assert_int_equal(special.asked[TCI_HOOK_SELECT], 8);
  fx_write(f, "s runner=go"); /* while the slow queue is still being looked at */
  fx_told(f, "s->g ");
  assert_true(f->update.more);
  fx_drain(f);
  assert_int_equal(special.asked[TCI_HOOK_SELECT], 100);
}

/* ---- shadow ---- */

static void the_shadow_is_asked_noted_and_not_heard(void **state) {
  fx *f = *state;
  policies_init(f, SELECT);
  policies[2] = policy_of("candidate", SELECT | 1u << TCI_HOOK_RETRY, &shadow);
  set.shadow = &policies[2];
  fx_step(f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = &set});
  fx_create(f);
  fx_register(f, "a", "go", "sync", 0, 0);
  fx_write(f, "s runner=go");
  assert_int_equal(shadow.asked[TCI_HOOK_SELECT], 1);
  assert_false(noted(f, TCI_NOTE_SHADOW, "candidate")); /* it would have done the same */
  shadow.answer.wait = true;
  fx_write(f, "t runner=go");
  fx_told(f, "s->a t->a ");
  assert_true(noted(f, TCI_NOTE_SHADOW, "candidate"));
  assert_int_equal(f->update.policy.shadow_differs, 1);
  shadow.fault = "c.lua:1: no";
  fx_write(f, "u runner=go");
  assert_true(noted(f, TCI_NOTE_SHADOW, "candidate"));
  assert_int_equal(f->update.policy.faults, 0);
  shadow.fault = NULL;
  fx_answers(f, "s", "FINAL failure=x"); /* asked where the built-in decides, too */
  assert_int_equal(shadow.asked[TCI_HOOK_RETRY], 1);
}

static void the_shadow_leaves_no_trace_in_the_journal(void **state) {
  fx *f = *state;
  tci_buf plain = {0}, shadowed = {0};
  for (int round = 0; round < 2; round++) {
    fx_deinit(f);
    fx_init(f);
    policies_init(f, SELECT);
    policies[2] = policy_of("candidate", ALL, &shadow);
    shadow.answer = (tci_decision){.again = true, .cost = 3};
    if (round) set.shadow = &policies[2];
    fx_create(f);
    fx_register(f, "a", "go", "sync", 0, 0);
    fx_write(f, "s runner=go attempts=3");
    fx_answers(f, "s", "FINAL failure=x"); /* the backoff is random */
    for (size_t i = 0; i < f->journal.len; i++)
      tci_buf_add(round ? &shadowed : &plain, (tci_str){f->journal.items[i].bytes, f->journal.items[i].bytes_len});
  }
  assert_true(tci_str_eq(tci_buf_str(&plain), tci_buf_str(&shadowed)));
  tci_buf_deinit(&plain);
  tci_buf_deinit(&shadowed);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(a_plans_own_policy_then_its_types_then_the_servers),
      CLAIM(a_policy_that_is_not_there_is_refused_by_name),
      CLAIM(a_hook_that_a_policy_lacks_is_the_built_ins),
      CLAIM(a_plan_keeps_working_when_its_policy_is_gone),
      CLAIM(what_timeout_and_priority_leave_out_is_the_built_ins),
      CLAIM(who_waits_too_long_in_the_queue_fails),
      CLAIM(a_queue_timeout_counts_across_a_restart),
      CLAIM(a_wait_with_seconds_is_not_asked_again_before),
      CLAIM(a_wait_without_seconds_is_asked_at_every_change),
      CLAIM(other_policies_ask_everybody_again),
      CLAIM(a_retry_says_when_and_where_not_and_it_is_on_record),
      CLAIM(what_scripts_say_in_the_queue_goes_on_record_with_the_dispatch),
      CLAIM(a_fault_is_on_record_under_the_hook_that_failed),
      CLAIM(who_fails_in_the_queue_leaves_what_was_said_there),
      CLAIM(a_decision_names_the_first_candidates_and_counts_them_all),
      CLAIM(a_fault_means_the_built_in_and_is_told),
      CLAIM(too_many_faults_in_a_row_open_the_circuit_for_a_while),
      CLAIM(a_policy_that_still_fails_is_given_one_chance_only),
      CLAIM(an_open_circuit_lets_go_whom_the_policy_held),
      CLAIM(a_new_version_starts_with_a_closed_circuit),
      CLAIM(what_a_turn_may_not_ask_any_more_the_next_one_asks),
      CLAIM(a_retry_beyond_the_turns_instructions_is_the_built_ins),
      CLAIM(cpu_time_is_a_budget_of_the_turn_too),
      CLAIM(a_retry_beyond_the_turns_cpu_time_is_the_built_ins),
      CLAIM(no_wait_is_shorter_than_the_limit),
      CLAIM(who_is_asked_whether_he_may_run_is_asked_where_too),
      CLAIM(a_policy_that_comes_back_starts_afresh),
      CLAIM(a_queue_that_is_told_to_wait_leaves_the_others_their_share),
      CLAIM(the_shadow_is_asked_noted_and_not_heard),
      CLAIM(the_shadow_leaves_no_trace_in_the_journal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
