/* codec_reply: replies, watch events and run requests. What the codec writes is read back with the true descriptors of
 * turboci.v1, whose Structs are real, and not with the copy that the codec itself uses. */
#define _GNU_SOURCE /* memmem */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "core/change.h"
#include "core/internal.h"
#include "rpc/codec.h"
#include "turboci/v1/service.pb-c.h"

/* A plan with a check and the stage that is assigned to it, every field set. */
typedef struct {
  tci_plan plan;
  tci_check check, other;
  tci_stage stage;
  tci_attempt attempt;
  tci_runner runner;
  tci_pair metadata[1];
  tci_edge edge;
  tci_result result;
  tci_assignment assignments[3];
  tci_progress progress;
  tci_attempt *attempts[1];
} world;

#define DETAILS TCI_STR("\x0a\x08\x0a\x01k\x12\x03\x1a\x01v") /* {k: "v"} */
enum { START_S = 1700000000 };
#define AT(second) (INT64_C(1000000) * (START_S + (second)) + 250000)

static void world_init(world *w) {
  memset(w, 0, sizeof *w);
  tci_failure failure = {true, TCI_FAILURE_TIMEOUT, TCI_STR("too slow"), AT(9)};
  w->metadata[0] = (tci_pair){TCI_STR("branch"), TCI_STR("main")};
  w->plan = (tci_plan){.id = TCI_STR("p1"),
                       .created_us = AT(0),
                       .updated_us = AT(1),
                       .version = 5,
                       .state = TCI_PLAN_SETTLED,
                       .outcome = TCI_OUTCOME_FAILED,
                       .metadata = {w->metadata, 1},
                       .policy = TCI_STR("warm_first")};
  w->check.node = (tci_node){.kind = TCI_NODE_CHECK,
                             .plan = &w->plan,
                             .id = TCI_STR("tests"),
                             .created_us = AT(2),
                             .updated_us = AT(3),
                             .version = 4,
                             .outcome = TCI_OUTCOME_FAILED,
                             .reason = TCI_REASON_RESULT_FAILED};
  w->check.state = TCI_CHECK_FINAL;
  w->check.kind = TCI_STR("go");
  w->check.options = DETAILS;
  w->result = (tci_result){.id = 1,
                           .owner_type = TCI_STR("stage"),
                           .owner_id = TCI_STR("build"),
                           .data = DETAILS,
                           .created_us = AT(4),
                           .finalized_us = AT(5),
                           .failure = failure};
  w->check.results.items = &w->result;
  w->check.results.len = 1;
  w->other.node = (tci_node){.kind = TCI_NODE_CHECK, .plan = &w->plan, .id = TCI_STR("lint")};
  w->stage.node = (tci_node){.kind = TCI_NODE_STAGE,
                             .plan = &w->plan,
                             .id = TCI_STR("build"),
                             .created_us = AT(6),
                             .version = 2,
                             .outcome = TCI_OUTCOME_FAILED,
                             .reason = TCI_REASON_NO_RETRIES_LEFT};
  w->edge = (tci_edge){.owner = &w->stage.node, .target = &w->other.node, .condition = TCI_ON_FAILURE};
  w->stage.node.group = (tci_group){.predicate = TCI_PREDICATE_AND, .edges = &w->edge, .len = 1};
  w->stage.state = TCI_STAGE_ATTEMPTING;
  w->stage.args = DETAILS;
  w->assignments[0] = (tci_assignment){.check = &w->check, .goal = TCI_CHECK_FINAL};
  w->assignments[1] = (tci_assignment){.check = &w->other, .goal = TCI_CHECK_WAITING}; /* does not count */
  w->assignments[2] = (tci_assignment){.check = &w->other, .goal = TCI_CHECK_UNKNOWN};
  w->stage.assignments = w->assignments;
  w->stage.assignments_len = 3;
  w->stage.mode = TCI_MODE_ASYNC;
  w->stage.runner_type = TCI_STR("shell");
  w->stage.priority = -7;
  w->stage.retry = (tci_retry){3, 100, 900};
  w->stage.timeouts = (tci_timeouts){5000, 0};
  w->progress = (tci_progress){TCI_STR("half"), DETAILS, AT(7)};
  w->attempt = (tci_attempt){.stage = &w->stage,
                             .index = 1,
                             .state = TCI_ATTEMPT_INCOMPLETE,
                             .process_uid = TCI_STR("r1"),
                             .details = DETAILS,
                             .created_us = AT(6),
                             .updated_us = AT(8),
                             .failure = failure,
                             .execution = TCI_EXECUTION_FAILED,
                             .execution_id = TCI_STR("p1:1:1:secret"),
                             .mode = TCI_MODE_ASYNC,
                             .runner_id = TCI_STR("r1"),
                             .runner_execution_id = TCI_STR("job-7"),
                             .dispatched_us = AT(7),
                             .started_us = AT(8),
                             .finished_us = AT(9),
                             .deadline_us = AT(10),
                             .not_before_us = AT(6)};
  w->attempt.progress.items = &w->progress;
  w->attempt.progress.len = 1;
  w->attempts[0] = &w->attempt;
  w->stage.attempts.items = w->attempts;
  w->stage.attempts.len = 1;
  w->runner = (tci_runner){.runner_id = TCI_STR("r1"),
                           .registration_id = TCI_STR("reg"),
                           .runner_type = TCI_STR("shell"),
                           .address = TCI_STR(":50061"),
                           .modes = {false, true, true},
                           .max_concurrent = 4,
                           .load = 2,
                           .metadata = {w->metadata, 1},
                           .registered_us = AT(1),
                           .heartbeat_us = AT(2),
                           .expires_us = AT(3)};
}

/* What protobuf-c reads with the true descriptor; fails when the bytes are not that message. Empties the buffer. */
static void *parse(const ProtobufCMessageDescriptor *message, tci_buf *buf) {
  ProtobufCMessage *m = protobuf_c_message_unpack(message, NULL, buf->len, (const uint8_t *)(buf->ptr ? buf->ptr : ""));
  assert_non_null(m);
  assert_int_equal(m->n_unknown_fields, 0);
  tci_buf_deinit(buf);
  return m;
}

static void *reply(const tci_reply *from, const ProtobufCMessageDescriptor *message) {
  tci_buf buf = {0};
  tci_codec_reply(from, NULL, &buf);
  return parse(message, &buf);
}

static void forget(void *message) { protobuf_c_message_free_unpacked(message, NULL); }

static void assert_at(const Google__Protobuf__Timestamp *t, int second) {
  assert_non_null(t);
  assert_int_equal(t->seconds, START_S + second);
  assert_int_equal(t->nanos, 250000000);
}

static void assert_details(const Google__Protobuf__Struct *s) {
  assert_non_null(s);
  assert_int_equal(s->n_fields, 1);
  assert_string_equal(s->fields[0]->key, "k");
  assert_string_equal(s->fields[0]->value->string_value, "v");
}

static void assert_failure(const Turboci__V1__Failure *f) {
  assert_non_null(f);
  assert_string_equal(f->message, "too slow");
  assert_int_equal(f->kind, TCI_FAILURE_TIMEOUT);
  assert_at(f->occurred_at, 9);
}

static void plan_replies_carry_the_plan(void **state) {
  (void)state;
  world w;
  world_init(&w);
  tci_reply from = {.command = TCI_COMMAND_GET_PLAN, .kind = TCI_REPLY_PLAN, .plan = &w.plan};
  Turboci__V1__GetWorkPlanResponse *m = reply(&from, &turboci__v1__get_work_plan_response__descriptor);
  assert_string_equal(m->work_plan->id, "p1");
  assert_int_equal(m->work_plan->version, 5);
  assert_at(m->work_plan->created_at, 0);
  assert_at(m->work_plan->updated_at, 1);
  assert_int_equal(m->work_plan->state, TCI_PLAN_SETTLED);
  assert_int_equal(m->work_plan->outcome, TCI_OUTCOME_FAILED);
  assert_string_equal(m->work_plan->policy, "warm_first");
  assert_int_equal(m->work_plan->n_metadata, 1);
  assert_string_equal(m->work_plan->metadata[0]->key, "branch");
  assert_string_equal(m->work_plan->metadata[0]->value, "main");
  forget(m);
}

static void assert_check(const Turboci__V1__Check *c) {
  assert_string_equal(c->id, "tests");
  assert_string_equal(c->work_plan_id, "p1");
  assert_int_equal(c->state, TCI_CHECK_FINAL);
  assert_string_equal(c->kind, "go");
  assert_details(c->options);
  assert_null(c->dependencies);
  assert_at(c->created_at, 2);
  assert_at(c->updated_at, 3);
  assert_int_equal(c->version, 4);
  assert_int_equal(c->outcome, TCI_OUTCOME_FAILED);
  assert_int_equal(c->reason, TCI_REASON_RESULT_FAILED);
  assert_int_equal(c->n_results, 1);
  assert_int_equal(c->results[0]->id, 1);
  assert_string_equal(c->results[0]->owner_type, "stage");
  assert_string_equal(c->results[0]->owner_id, "build");
  assert_details(c->results[0]->data);
  assert_at(c->results[0]->created_at, 4);
  assert_at(c->results[0]->finalized_at, 5);
  assert_failure(c->results[0]->failure);
}

static void assert_stage(const Turboci__V1__Stage *s) {
  assert_string_equal(s->id, "build");
  assert_string_equal(s->work_plan_id, "p1");
  assert_int_equal(s->state, TCI_STAGE_ATTEMPTING);
  assert_details(s->args);
  assert_int_equal(s->n_assignments, 3);
  assert_string_equal(s->assignments[1]->target_check_id, "lint");
  assert_int_equal(s->assignments[1]->goal_state, TCI_CHECK_WAITING);
  assert_int_equal(s->dependencies->predicate, TCI_PREDICATE_AND);
  assert_int_equal(s->dependencies->n_dependencies, 1);
  assert_int_equal(s->dependencies->dependencies[0]->target_type, TCI_NODE_CHECK);
  assert_string_equal(s->dependencies->dependencies[0]->target_id, "lint");
  assert_int_equal(s->dependencies->dependencies[0]->condition, TCI_ON_FAILURE);
  assert_at(s->created_at, 6);
  assert_null(s->updated_at);
  assert_int_equal(s->version, 2);
  assert_int_equal(s->execution_mode, TCI_MODE_ASYNC);
  assert_string_equal(s->runner_type, "shell");
  assert_int_equal(s->outcome, TCI_OUTCOME_FAILED);
  assert_int_equal(s->reason, TCI_REASON_NO_RETRIES_LEFT);
  assert_int_equal(s->priority, -7);
  assert_int_equal(s->retry->max_attempts, 3);
  assert_int_equal(s->retry->backoff_ms_max, 900);
  assert_int_equal(s->timeouts->execution_ms, 5000);
  assert_int_equal(s->n_attempts, 1);
  const Turboci__V1__Attempt *a = s->attempts[0];
  assert_int_equal(a->idx, 1);
  assert_int_equal(a->state, TCI_ATTEMPT_INCOMPLETE);
  assert_string_equal(a->process_uid, "r1");
  assert_details(a->details);
  assert_int_equal(a->n_progress, 1);
  assert_string_equal(a->progress[0]->message, "half");
  assert_at(a->progress[0]->timestamp, 7);
  assert_details(a->progress[0]->details);
  assert_at(a->created_at, 6);
  assert_at(a->updated_at, 8);
  assert_failure(a->failure);
}

static void node_replies_carry_checks_and_stages(void **state) {
  (void)state;
  world w;
  world_init(&w);
  const tci_check *checks[] = {&w.check, &w.other};
  const tci_stage *stages[] = {&w.stage};
  tci_reply from = {.kind = TCI_REPLY_NODES, .checks = checks, .checks_len = 2, .stages = stages, .stages_len = 1};
  Turboci__V1__QueryNodesResponse *m = reply(&from, &turboci__v1__query_nodes_response__descriptor);
  assert_int_equal(m->n_checks, 2);
  assert_check(m->checks[0]);
  assert_string_equal(m->checks[1]->id, "lint");
  assert_int_equal(m->n_stages, 1);
  assert_stage(m->stages[0]);
  forget(m);
  forget(reply(&from, &turboci__v1__write_nodes_response__descriptor));
}

static void an_empty_group_with_a_predicate_is_shown(void **state) {
  (void)state;
  world w;
  world_init(&w);
  w.check.node.group.predicate = TCI_PREDICATE_OR;
  const tci_check *checks[] = {&w.check};
  tci_reply from = {.kind = TCI_REPLY_NODES, .checks = checks, .checks_len = 1};
  Turboci__V1__QueryNodesResponse *m = reply(&from, &turboci__v1__query_nodes_response__descriptor);
  assert_non_null(m->checks[0]->dependencies);
  assert_int_equal(m->checks[0]->dependencies->predicate, TCI_PREDICATE_OR);
  forget(m);
}

static void execution_replies_keep_the_secret(void **state) {
  (void)state;
  world w;
  world_init(&w);
  const tci_attempt *attempts[] = {&w.attempt, &w.attempt};
  tci_reply from = {.kind = TCI_REPLY_EXECUTION, .attempts = attempts, .attempts_len = 1};
  tci_buf buf = {0};
  tci_codec_reply(&from, NULL, &buf);
  assert_null(memmem(buf.ptr, buf.len, "secret", 6));
  Turboci__V1__GetStageExecutionResponse *m = parse(&turboci__v1__get_stage_execution_response__descriptor, &buf);
  const Turboci__V1__StageExecution *e = m->execution;
  assert_string_equal(e->work_plan_id, "p1");
  assert_string_equal(e->stage_id, "build");
  assert_int_equal(e->attempt_idx, 1);
  assert_int_equal(e->state, TCI_EXECUTION_FAILED);
  assert_int_equal(e->execution_mode, TCI_MODE_ASYNC);
  assert_string_equal(e->runner_type, "shell");
  assert_string_equal(e->runner_id, "r1");
  assert_at(e->created_at, 6);
  assert_at(e->dispatched_at, 7);
  assert_at(e->started_at, 8);
  assert_at(e->finished_at, 9);
  assert_at(e->deadline, 10);
  assert_at(e->not_before, 6);
  assert_failure(e->failure);
  assert_int_equal(e->n_progress, 1);
  assert_int_equal(e->attempt_state, TCI_ATTEMPT_INCOMPLETE);
  assert_string_equal(e->runner_execution_id, "job-7");
  forget(m);
  from.kind = TCI_REPLY_EXECUTIONS;
  from.attempts_len = 2;
  Turboci__V1__ListStageExecutionsResponse *list =
      reply(&from, &turboci__v1__list_stage_executions_response__descriptor);
  assert_int_equal(list->n_executions, 2);
  forget(list);
}

/* ---- policies ---- */

static tci_str encoded(const tci_decision_record *record, tci_buf *buf) {
  tci_buf_clear(buf);
  tci_decision_encode(record, buf);
  return tci_buf_str(buf);
}

/* A select with two candidates, and a retry with one exclusion. */
static void decisions_init(tci_buf *select, tci_buf *retry, tci_str out[2]) {
  tci_candidate candidates[] = {{TCI_STR("r1"), 0}, {TCI_STR("r2"), 3}};
  tci_str excluded = TCI_STR("r1");
  out[0] = encoded(&(tci_decision_record){.hook = TCI_HOOK_SELECT,
                                          .policy = TCI_STR("warm_first"),
                                          .version = TCI_STR("0123456789abcdef"),
                                          .reason = TCI_STR("r1 is warm"),
                                          .at_us = AT(7),
                                          .runner_id = TCI_STR("r1"),
                                          .candidates = candidates,
                                          .candidates_len = 2,
                                          .candidates_total = 20},
                   select);
  out[1] = encoded(&(tci_decision_record){.hook = TCI_HOOK_RETRY,
                                          .policy = TCI_STR("warm_first"),
                                          .fault = TCI_STR("warm_first.lua:3: no"),
                                          .at_us = AT(9),
                                          .again = true,
                                          .after_us = 1500000,
                                          .exclude = {&excluded, 1}},
                   retry);
}

static void assert_select(const Turboci__V1__PolicyDecision *d) {
  assert_string_equal(d->hook, "select");
  assert_string_equal(d->policy, "warm_first");
  assert_string_equal(d->version, "0123456789abcdef");
  assert_string_equal(d->reason, "r1 is warm");
  assert_string_equal(d->fault, "");
  assert_at(d->decided_at, 7);
  assert_string_equal(d->runner_id, "r1");
  assert_int_equal(d->n_candidates, 2);
  assert_string_equal(d->candidates[0]->runner_id, "r1");
  assert_int_equal(d->candidates[0]->load, 0);
  assert_string_equal(d->candidates[1]->runner_id, "r2");
  assert_int_equal(d->candidates[1]->load, 3);
  assert_int_equal(d->candidates_total, 20);
  assert_int_equal(d->n_excluded_runners, 0);
}

static void assert_retry(const Turboci__V1__PolicyDecision *d) {
  assert_string_equal(d->hook, "retry");
  assert_string_equal(d->version, "");
  assert_string_equal(d->fault, "warm_first.lua:3: no");
  assert_at(d->decided_at, 9);
  assert_true(d->again);
  assert_int_equal(d->after_ms, 1500);
  assert_int_equal(d->n_excluded_runners, 1);
  assert_string_equal(d->excluded_runners[0], "r1");
  assert_int_equal(d->n_candidates, 0);
}

static Turboci__V1__StageExecution *execution(world *w, Turboci__V1__GetStageExecutionResponse **m) {
  const tci_attempt *attempts[] = {&w->attempt};
  tci_reply from = {.kind = TCI_REPLY_EXECUTION, .attempts = attempts, .attempts_len = 1};
  *m = reply(&from, &turboci__v1__get_stage_execution_response__descriptor);
  return (*m)->execution;
}

static void executions_tell_what_policies_decided(void **state) {
  (void)state;
  world w;
  world_init(&w);
  tci_buf select = {0}, retry = {0}, exclude = {0}, keys = {0};
  tci_str decisions[2], excluded[] = {TCI_STR("r8"), TCI_STR("r9")}, key = TCI_STR("deploy-prod");
  decisions_init(&select, &retry, decisions);
  tci_ids_encode((tci_ids){excluded, 2}, &exclude);
  tci_ids_encode((tci_ids){&key, 1}, &keys);
  w.attempt.decisions.items = decisions;
  w.attempt.decisions.len = 2;
  w.attempt.exclude = tci_buf_str(&exclude);
  w.attempt.keys = tci_buf_str(&keys);
  Turboci__V1__GetStageExecutionResponse *m;
  const Turboci__V1__StageExecution *e = execution(&w, &m);
  assert_int_equal(e->n_decisions, 2);
  assert_select(e->decisions[0]);
  assert_retry(e->decisions[1]);
  assert_int_equal(e->n_excluded_runners, 2);
  assert_string_equal(e->excluded_runners[0], "r8");
  assert_string_equal(e->excluded_runners[1], "r9");
  assert_int_equal(e->n_admission_keys, 1);
  assert_string_equal(e->admission_keys[0], "deploy-prod");
  forget(m);
  tci_buf_deinit(&select);
  tci_buf_deinit(&retry);
  tci_buf_deinit(&exclude);
  tci_buf_deinit(&keys);
}

static void what_was_said_in_the_queue_is_told(void **state) {
  (void)state;
  world w;
  world_init(&w);
  tci_buf buffers[3] = {{0}};
  tci_admission keys[] = {{TCI_STR("deploy"), 2}, {TCI_STR("web"), 9}};
  tci_str decisions[] = {
      encoded(&(tci_decision_record){.hook = TCI_HOOK_PRIORITY, .priority = -7}, &buffers[0]),
      encoded(&(tci_decision_record){.hook = TCI_HOOK_TIMEOUT, .execution_ms = 5000, .stale_ms = 70, .queue_ms = 60000},
              &buffers[1]),
      encoded(&(tci_decision_record){.hook = TCI_HOOK_ADMIT, .keys = keys, .keys_len = 2}, &buffers[2]),
  };
  w.attempt.decisions.items = decisions;
  w.attempt.decisions.len = 3;
  Turboci__V1__GetStageExecutionResponse *m;
  const Turboci__V1__StageExecution *e = execution(&w, &m);
  assert_int_equal(e->n_decisions, 3);
  assert_string_equal(e->decisions[0]->hook, "priority");
  assert_int_equal(e->decisions[0]->priority, -7);
  assert_string_equal(e->decisions[1]->hook, "timeout");
  assert_int_equal(e->decisions[1]->execution_ms, 5000);
  assert_int_equal(e->decisions[1]->stale_ms, 70);
  assert_int_equal(e->decisions[1]->queue_ms, 60000);
  assert_string_equal(e->decisions[2]->hook, "admit");
  assert_int_equal(e->decisions[2]->n_admission_keys, 2);
  assert_string_equal(e->decisions[2]->admission_keys[1]->key, "web");
  assert_int_equal(e->decisions[2]->admission_keys[0]->limit, 2);
  forget(m);
  for (int i = 0; i < 3; i++) tci_buf_deinit(&buffers[i]);
}

static void records_that_cannot_be_decoded_are_left_out(void **state) {
  (void)state;
  world w;
  world_init(&w);
  tci_buf select = {0}, retry = {0};
  tci_str good[2];
  decisions_init(&select, &retry, good);
  tci_str half = {good[0].ptr, good[0].len - 1};
  tci_str decisions[] = {half, good[0], TCI_STR("\x08\x63") /* hook 98 */, TCI_STR(""), good[1]};
  w.attempt.decisions.items = decisions;
  w.attempt.decisions.len = 5;
  w.attempt.exclude = TCI_STR("\x0a\x05r1");
  w.attempt.keys = TCI_STR("\xff");
  Turboci__V1__GetStageExecutionResponse *m;
  const Turboci__V1__StageExecution *e = execution(&w, &m);
  assert_string_equal(e->runner_id, "r1");
  assert_int_equal(e->n_decisions, 2);
  assert_select(e->decisions[0]);
  assert_retry(e->decisions[1]);
  assert_int_equal(e->n_excluded_runners, 0);
  assert_int_equal(e->n_admission_keys, 0);
  forget(m);
  tci_buf_deinit(&select);
  tci_buf_deinit(&retry);
}

static void explanations_carry_the_decisions_of_all_attempts_in_order(void **state) {
  (void)state;
  world w;
  world_init(&w);
  tci_buf select = {0}, retry = {0};
  tci_str decisions[2];
  decisions_init(&select, &retry, decisions);
  w.attempt.decisions.items = decisions;
  w.attempt.decisions.len = 2;
  tci_attempt none = {.stage = &w.stage, .index = 2}, third = {.stage = &w.stage, .index = 3};
  third.decisions.items = decisions;
  third.decisions.len = 1;
  const tci_attempt *attempts[] = {&w.attempt, &none, &third};
  tci_explanation explanations[] = {
      {TCI_EXPLAINS_STATE, TCI_STR("stage 'build' is ATTEMPTING"), TCI_STR("build"), 0},
      {TCI_EXPLAINS_CLIENT, TCI_STR("it is a client's turn"), {NULL, 0}, 3},
  };
  tci_reply from = {.command = TCI_COMMAND_EXPLAIN_NODE,
                    .kind = TCI_REPLY_EXPLANATION,
                    .attempts = attempts,
                    .attempts_len = 3,
                    .explanations = explanations,
                    .explanations_len = 2};
  Turboci__V1__ExplainNodeResponse *m = reply(&from, &turboci__v1__explain_node_response__descriptor);
  assert_int_equal(m->n_explanations, 2);
  assert_int_equal(m->explanations[0]->kind, TURBOCI__V1__EXPLANATION_KIND__EXPLANATION_KIND_STATE);
  assert_string_equal(m->explanations[0]->text, "stage 'build' is ATTEMPTING");
  assert_string_equal(m->explanations[0]->subject, "build");
  assert_int_equal(m->explanations[0]->attempt_idx, 0);
  assert_int_equal(m->explanations[1]->kind, TURBOCI__V1__EXPLANATION_KIND__EXPLANATION_KIND_CLIENT);
  assert_string_equal(m->explanations[1]->subject, "");
  assert_int_equal(m->explanations[1]->attempt_idx, 3);
  assert_int_equal(m->n_decisions, 3);
  assert_select(m->decisions[0]);
  assert_retry(m->decisions[1]);
  assert_select(m->decisions[2]);
  forget(m);
  tci_buf_deinit(&select);
  tci_buf_deinit(&retry);
}

static tci_server_facts policy_facts(void) {
  static tci_str attached[] = {{"server", 6}, {"type:shell", 10}}, changed[] = {{"old", 3}, {"spread", 6}};
  static tci_policy_info policies[2];
  policies[0] = (tci_policy_info){.name = TCI_STR("spread"),
                                  .version = TCI_STR("0123456789abcdef"),
                                  .path = TCI_STR("/policies/spread.lua"),
                                  .hooks = 1u << TCI_HOOK_SELECT | 1u << TCI_HOOK_ADMIT,
                                  .attached_to = {attached, 2},
                                  .calls = 12,
                                  .faults = 3,
                                  .p50_ns = 900,
                                  .p99_ns = 4000,
                                  .circuit_open = true,
                                  .circuit_until_us = AT(30),
                                  .last_fault = TCI_STR("spread.lua:3: no"),
                                  .error = TCI_STR("spread.lua:7: '=' expected")};
  policies[1] = (tci_policy_info){.name = TCI_STR("weighted"), .hooks = (1u << TCI_HOOKS) - 1};
  return (tci_server_facts){.policies = policies, .policies_len = 2, .changed = {changed, 2}};
}

static void assert_policies(Turboci__V1__PolicyInfo *const *policies, size_t len) {
  assert_int_equal(len, 2);
  const Turboci__V1__PolicyInfo *p = policies[0];
  assert_string_equal(p->name, "spread");
  assert_string_equal(p->version, "0123456789abcdef");
  assert_string_equal(p->path, "/policies/spread.lua");
  assert_int_equal(p->n_hooks, 2);
  assert_string_equal(p->hooks[0], "select");
  assert_string_equal(p->hooks[1], "admit");
  assert_int_equal(p->n_attached_to, 2);
  assert_string_equal(p->attached_to[0], "server");
  assert_string_equal(p->attached_to[1], "type:shell");
  assert_int_equal(p->calls, 12);
  assert_int_equal(p->faults, 3);
  assert_int_equal(p->p50_ns, 900);
  assert_int_equal(p->p99_ns, 4000);
  assert_true(p->circuit_open);
  assert_at(p->circuit_until, 30);
  assert_string_equal(p->last_fault, "spread.lua:3: no");
  assert_string_equal(p->error, "spread.lua:7: '=' expected");
  assert_string_equal(policies[1]->name, "weighted");
  assert_int_equal(policies[1]->n_hooks, TCI_HOOKS);
  assert_string_equal(policies[1]->hooks[3], "priority");
  assert_false(policies[1]->circuit_open);
  assert_null(policies[1]->circuit_until);
}

static void policy_replies_list_them_and_a_reload_what_changed(void **state) {
  (void)state;
  tci_server_facts facts = policy_facts();
  tci_buf buf = {0};
  tci_codec_reply(&(tci_reply){.command = TCI_COMMAND_LIST_POLICIES, .kind = TCI_REPLY_POLICIES}, &facts, &buf);
  Turboci__V1__ListPoliciesResponse *list = parse(&turboci__v1__list_policies_response__descriptor, &buf);
  assert_policies(list->policies, list->n_policies);
  forget(list);
  tci_codec_reply(&(tci_reply){.command = TCI_COMMAND_RELOAD_POLICIES, .kind = TCI_REPLY_POLICIES}, &facts, &buf);
  Turboci__V1__ReloadPoliciesResponse *m = parse(&turboci__v1__reload_policies_response__descriptor, &buf);
  assert_policies(m->policies, m->n_policies);
  assert_int_equal(m->n_changed, 2);
  assert_string_equal(m->changed[0], "old");
  assert_string_equal(m->changed[1], "spread");
  forget(m);
  tci_codec_reply(&(tci_reply){.command = TCI_COMMAND_RELOAD_POLICIES, .kind = TCI_REPLY_POLICIES},
                  &(tci_server_facts){0}, &buf);
  assert_int_equal(buf.len, 0);
  tci_buf_deinit(&buf);
}

static void what_scripts_say_becomes_utf8(void **state) {
  (void)state;
  tci_explanation explanations[] = {
      {TCI_EXPLAINS_POLICY_WAIT, TCI_STR("a\xff\xc3\xa9\xc3 \xe2\x82\xac\xed\xa0\x80!"), TCI_STR("a\0b"), 0},
      {TCI_EXPLAINS_STATE, TCI_STR("caf\xc3\xa9 \xf0\x9f\x90\xa2"), TCI_STR("\xf0\x9f\x90"), 0},
  };
  tci_reply from = {.kind = TCI_REPLY_EXPLANATION, .explanations = explanations, .explanations_len = 2};
  Turboci__V1__ExplainNodeResponse *m = reply(&from, &turboci__v1__explain_node_response__descriptor);
  assert_string_equal(m->explanations[0]->text,
                      "a?\xc3\xa9? \xe2\x82\xac??"
                      "?!");
  assert_string_equal(m->explanations[0]->subject, "a?b");
  assert_string_equal(m->explanations[1]->text, "caf\xc3\xa9 \xf0\x9f\x90\xa2");
  assert_string_equal(m->explanations[1]->subject, "???");
  forget(m);
}

static void runner_replies_show_the_address_as_registered(void **state) {
  (void)state;
  world w;
  world_init(&w);
  const tci_runner *runners[] = {&w.runner};
  tci_reply from = {.kind = TCI_REPLY_RUNNERS, .runners = runners, .runners_len = 1};
  Turboci__V1__ListStageRunnersResponse *m = reply(&from, &turboci__v1__list_stage_runners_response__descriptor);
  assert_int_equal(m->n_runners, 1);
  const Turboci__V1__StageRunnerInfo *r = m->runners[0];
  assert_string_equal(r->runner_id, "r1");
  assert_string_equal(r->registration_id, "reg");
  assert_string_equal(r->runner_type, "shell");
  assert_string_equal(r->address, ":50061");
  assert_int_equal(r->n_supported_modes, 2);
  assert_int_equal(r->supported_modes[0], TCI_MODE_SYNC);
  assert_int_equal(r->supported_modes[1], TCI_MODE_ASYNC);
  assert_int_equal(r->max_concurrent, 4);
  assert_int_equal(r->current_load, 2);
  assert_at(r->registered_at, 1);
  assert_at(r->last_heartbeat, 2);
  assert_at(r->expires_at, 3);
  assert_string_equal(r->metadata[0]->value, "main");
  forget(m);
  from.kind = TCI_REPLY_REGISTERED;
  Turboci__V1__RegisterStageRunnerResponse *registered =
      reply(&from, &turboci__v1__register_stage_runner_response__descriptor);
  assert_string_equal(registered->registration_id, "reg");
  assert_at(registered->expires_at, 3);
  forget(registered);
}

static void a_list_of_runners_comes_without_the_metadata_that_does_not_fit(void **state) {
  (void)state;
  enum { RUNNERS = 20, VALUE = 1000 };
  static char value[VALUE];
  memset(value, 'v', sizeof value);
  world w;
  world_init(&w);
  w.metadata[0].value = (tci_str){value, VALUE};
  const tci_runner *runners[RUNNERS];
  for (int i = 0; i < RUNNERS; i++) runners[i] = &w.runner;
  tci_limits limits = tci_limits_default();
  limits.page_bytes_max = 10000;
  tci_server_facts facts = {.limits = &limits};
  tci_reply from = {.kind = TCI_REPLY_RUNNERS, .runners = runners, .runners_len = RUNNERS};
  tci_buf buf = {0};
  tci_codec_reply(&from, &facts, &buf);
  assert_in_range(buf.len, 5000, 10000);
  Turboci__V1__ListStageRunnersResponse *m = parse(&turboci__v1__list_stage_runners_response__descriptor, &buf);
  assert_int_equal(m->n_runners, RUNNERS);
  assert_int_equal(m->runners[0]->n_metadata, 1);
  assert_int_equal(m->runners[0]->n_omitted_fields, 0);
  assert_int_equal(m->runners[RUNNERS - 1]->n_metadata, 0);
  assert_string_equal(m->runners[RUNNERS - 1]->omitted_fields[0], "metadata");
  forget(m);
}

static void an_ok_without_words_is_an_empty_message(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_codec_reply(&(tci_reply){.kind = TCI_REPLY_STATUS}, NULL, &buf);
  assert_int_equal(buf.len, 0);
  tci_reply from = {.kind = TCI_REPLY_ACKNOWLEDGED};
  Turboci__V1__CompleteStageExecutionResponse *m =
      reply(&from, &turboci__v1__complete_stage_execution_response__descriptor);
  assert_true(m->acknowledged);
  forget(m);
}

static void server_info_lists_every_limit(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_counter counters[] = {{TCI_STR("turns"), 12}};
  tci_server_facts facts = {
      .version = "1.2.3", .started_us = AT(0), .limits = &limits, .counters = counters, .counters_len = 1};
  tci_buf buf = {0};
  tci_codec_reply(&(tci_reply){.kind = TCI_REPLY_SERVER_INFO}, &facts, &buf);
  Turboci__V1__GetServerInfoResponse *m = parse(&turboci__v1__get_server_info_response__descriptor, &buf);
  assert_string_equal(m->version, "1.2.3");
  assert_at(m->started_at, 0);
  assert_int_equal(m->n_limits, tci_limit_infos_len);
  assert_string_equal(m->limits[0]->key, "id_bytes_max");
  assert_int_equal(m->limits[0]->value, 256);
  assert_string_equal(m->counters[0]->key, "turns");
  assert_int_equal(m->counters[0]->value, 12);
  forget(m);
}

static Turboci__V1__WorkPlanEvent *event(const tci_watch_event *from) {
  tci_buf buf = {0};
  tci_codec_watch_event(from, SIZE_MAX, &buf);
  tci_codec_watch_place(from->sequence, from->more, &buf);
  return parse(&turboci__v1__work_plan_event__descriptor, &buf);
}

static void watch_events_carry_their_node(void **state) {
  (void)state;
  world w;
  world_init(&w);
  Turboci__V1__WorkPlanEvent *m = event(&(tci_watch_event){
      .sequence = 77, .at_us = AT(1), .check = &w.check, .old_state = TCI_CHECK_WAITING, .new_state = TCI_CHECK_FINAL});
  assert_int_equal(m->sequence, 77);
  assert_at(m->timestamp, 1);
  assert_int_equal(m->event_case, TURBOCI__V1__WORK_PLAN_EVENT__EVENT_CHECK_EVENT);
  assert_string_equal(m->check_event->check_id, "tests");
  assert_int_equal(m->check_event->old_state, TCI_CHECK_WAITING);
  assert_int_equal(m->check_event->new_state, TCI_CHECK_FINAL);
  assert_check(m->check_event->check);
  forget(m);
  m = event(&(tci_watch_event){.stage = &w.stage, .old_state = TCI_STAGE_PLANNED, .new_state = TCI_STAGE_ATTEMPTING});
  assert_int_equal(m->event_case, TURBOCI__V1__WORK_PLAN_EVENT__EVENT_STAGE_EVENT);
  assert_string_equal(m->stage_event->stage_id, "build");
  assert_int_equal(m->stage_event->old_state, TCI_STAGE_PLANNED);
  assert_stage(m->stage_event->stage);
  forget(m);
  m = event(&(tci_watch_event){.checks_completed = 2, .stages_completed = 3, .has_failures = true});
  assert_int_equal(m->event_case, TURBOCI__V1__WORK_PLAN_EVENT__EVENT_COMPLETED_EVENT);
  assert_int_equal(m->completed_event->checks_completed, 2);
  assert_int_equal(m->completed_event->stages_completed, 3);
  assert_true(m->completed_event->has_failures);
  forget(m);
}

static void run_requests_name_the_checks_that_count(void **state) {
  (void)state;
  world w;
  world_init(&w);
  tci_buf buf = {0};
  tci_codec_run_request(&w.attempt, TCI_STR("127.0.0.1:50051"), &buf);
  assert_true(buf.len <= tci_request_bytes_of(&w.stage)); /* what writes are measured by */
  Turboci__V1__RunAsyncRequest *m = parse(&turboci__v1__run_async_request__descriptor, &buf);
  assert_string_equal(m->execution_id, "p1:1:1:secret");
  assert_string_equal(m->work_plan_id, "p1");
  assert_string_equal(m->stage_id, "build");
  assert_int_equal(m->attempt_idx, 1);
  assert_int_equal(m->n_assigned_check_ids, 2);
  assert_string_equal(m->assigned_check_ids[0], "tests");
  assert_string_equal(m->assigned_check_ids[1], "lint");
  assert_details(m->args);
  assert_int_equal(m->n_check_options, 2);
  assert_string_equal(m->check_options[0]->check_id, "tests");
  assert_string_equal(m->check_options[0]->kind, "go");
  assert_details(m->check_options[0]->options);
  assert_at(m->deadline, 10);
  assert_string_equal(m->callback_address, "127.0.0.1:50051");
  forget(m);
  w.attempt.mode = TCI_MODE_SYNC;
  tci_codec_run_request(&w.attempt, TCI_STR("127.0.0.1:50051"), &buf);
  Turboci__V1__RunRequest *run = parse(&turboci__v1__run_request__descriptor, &buf); /* with no callback */
  assert_string_equal(run->execution_id, "p1:1:1:secret");
  assert_int_equal(run->n_check_options, 2);
  forget(run);
}

static void empty_structs_are_there(void **state) {
  (void)state;
  world w;
  world_init(&w);
  const tci_str none = {NULL, 0};
  w.check.options = w.result.data = w.stage.args = w.attempt.details = w.progress.details = none;
  const tci_check *checks[] = {&w.check};
  const tci_stage *stages[] = {&w.stage};
  tci_reply nodes = {.command = TCI_COMMAND_QUERY_NODES,
                     .kind = TCI_REPLY_NODES,
                     .checks = checks,
                     .checks_len = 1,
                     .stages = stages,
                     .stages_len = 1};
  Turboci__V1__QueryNodesResponse *m = reply(&nodes, &turboci__v1__query_nodes_response__descriptor);
  assert_non_null(m->checks[0]->options);
  assert_non_null(m->checks[0]->results[0]->data);
  assert_non_null(m->stages[0]->args);
  assert_non_null(m->stages[0]->attempts[0]->details);
  assert_non_null(m->stages[0]->attempts[0]->progress[0]->details);
  forget(m);
  tci_buf buf = {0};
  tci_codec_run_request(&w.attempt, TCI_STR("127.0.0.1:50051"), &buf);
  Turboci__V1__RunAsyncRequest *async = parse(&turboci__v1__run_async_request__descriptor, &buf);
  assert_non_null(async->args);
  assert_non_null(async->check_options[0]->options);
  forget(async);
  w.attempt.mode = TCI_MODE_SYNC;
  tci_codec_run_request(&w.attempt, TCI_STR("127.0.0.1:50051"), &buf);
  Turboci__V1__RunRequest *sync = parse(&turboci__v1__run_request__descriptor, &buf);
  assert_non_null(sync->args);
  assert_non_null(sync->check_options[1]->options);
  forget(sync);
}

static Turboci__V1__QueryNodesResponse *page(const tci_reply *from, size_t bytes_max, uint64_t *next) {
  tci_buf buf = {0};
  const tci_command command = {.kind = TCI_COMMAND_QUERY_NODES, .plan_id = TCI_STR("p1")};
  tci_status status = tci_codec_reply_part(from, &command, true, bytes_max, bytes_max, &buf, next);
  assert_int_equal(status.code, TCI_OK);
  assert_in_range(buf.len, 1, bytes_max);
  return parse(&turboci__v1__query_nodes_response__descriptor, &buf);
}

/* Entries are large by nature here: a Struct {k: "xxx..."} of so many bytes, about. */
static tci_str large_struct(size_t bytes) {
  tci_buf value = {0}, s = {0};
  char *text = memset(malloc(bytes), 'x', bytes);
  tci_value_put_string(&value, (tci_str){text, bytes});
  tci_struct_set((tci_str){NULL, 0}, TCI_STR("k"), tci_buf_str(&value), &s);
  tci_buf_deinit(&value);
  free(text);
  return tci_buf_str(&s);
}

static void a_node_too_large_for_a_page_comes_without_its_large_fields(void **state) {
  (void)state;
  world w;
  world_init(&w);
  w.stage.node.index = 1;
  const tci_check *checks[] = {&w.check};
  const tci_stage *stages[] = {&w.stage};
  tci_reply nodes = {.command = TCI_COMMAND_QUERY_NODES,
                     .kind = TCI_REPLY_NODES,
                     .checks = checks,
                     .checks_len = 1,
                     .stages = stages,
                     .stages_len = 1};
  uint64_t next;
  Turboci__V1__QueryNodesResponse *m = page(&nodes, 4000, &next); /* both, whole */
  assert_int_equal(m->n_checks + m->n_stages, 2);
  assert_int_equal(m->checks[0]->n_omitted_fields + m->stages[0]->n_omitted_fields, 0);
  assert_true(next == 0 && !*m->next_page_token);
  forget(m);
  w.result.data = large_struct(3000);
  w.attempt.details = large_struct(2500);
  w.stage.args = large_struct(2600);
  m = page(&nodes, 2000, &next);
  assert_int_equal(m->checks[0]->n_omitted_fields, 1);
  assert_string_equal(m->checks[0]->omitted_fields[0], "results.data");
  assert_int_equal(m->checks[0]->n_results, 1); /* who found it, and whether it failed, is there */
  assert_details(m->checks[0]->options);
  assert_int_equal(m->n_stages, 1);
  assert_int_equal(m->stages[0]->n_omitted_fields, 2);
  assert_string_equal(m->stages[0]->omitted_fields[0], "args"); /* the largest first */
  assert_string_equal(m->stages[0]->omitted_fields[1], "attempts.details");
  assert_int_equal(m->stages[0]->n_attempts, 1);
  forget(m);
  tci_str_free(&w.stage.args);
  tci_str_free(&w.attempt.details);
  w.stage.args = w.attempt.details = (tci_str){NULL, 0};
  m = page(&nodes, 3300, &next); /* each whole, but not both */
  assert_int_equal(m->n_checks, 1);
  assert_int_equal(m->n_stages, 0);
  assert_int_equal(m->checks[0]->n_omitted_fields, 0);
  assert_true(next == 1 && *m->next_page_token);
  forget(m);
  tci_buf buf = {0};
  tci_command command = {.kind = TCI_COMMAND_QUERY_NODES};
  assert_int_equal(tci_codec_reply_part(&nodes, &command, false, 2000, 2000, &buf, &next).code, TCI_RESOURCE_EXHAUSTED);
  assert_int_equal(buf.len, 0);
  tci_str_free(&w.result.data);
}

static void times_before_1970_count_forward(void **state) {
  (void)state;
  Turboci__V1__WorkPlanEvent *m = event(&(tci_watch_event){.at_us = -1});
  assert_int_equal(m->timestamp->seconds, -1);
  assert_int_equal(m->timestamp->nanos, 999999000);
  forget(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plan_replies_carry_the_plan),
      cmocka_unit_test(node_replies_carry_checks_and_stages),
      cmocka_unit_test(an_empty_group_with_a_predicate_is_shown),
      cmocka_unit_test(execution_replies_keep_the_secret),
      cmocka_unit_test(executions_tell_what_policies_decided),
      cmocka_unit_test(what_was_said_in_the_queue_is_told),
      cmocka_unit_test(records_that_cannot_be_decoded_are_left_out),
      cmocka_unit_test(explanations_carry_the_decisions_of_all_attempts_in_order),
      cmocka_unit_test(policy_replies_list_them_and_a_reload_what_changed),
      cmocka_unit_test(what_scripts_say_becomes_utf8),
      cmocka_unit_test(runner_replies_show_the_address_as_registered),
      cmocka_unit_test(a_list_of_runners_comes_without_the_metadata_that_does_not_fit),
      cmocka_unit_test(an_ok_without_words_is_an_empty_message),
      cmocka_unit_test(server_info_lists_every_limit),
      cmocka_unit_test(watch_events_carry_their_node),
      cmocka_unit_test(run_requests_name_the_checks_that_count),
      cmocka_unit_test(empty_structs_are_there),
      cmocka_unit_test(a_node_too_large_for_a_page_comes_without_its_large_fields),
      cmocka_unit_test(times_before_1970_count_forward),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
