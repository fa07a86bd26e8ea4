/* codec: the methods, requests and runners' answers. These were encoded by another implementation (protobuf 3.21,
 * Python); what the codec writes is in test_codec_reply.c. */
#define _GNU_SOURCE /* memmem */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "rpc/codec.h"
#include "rpc/codec_page.h"

static const char create_hex[] = "0a060a01611201310a060a0162120132";
static const char write_hex[] =
    "0a0270311287010a05746573747310141a02676f22270a150a01611210320e0a0220010a0208000a041a02c3a90a0e0a017a1209110000"
    "00000000f03f2a100802120c080212056275696c64a00601323a0a05737461676512056275696c641a100a0e0a016e1209110000000000"
    "00f83f20012a160a04626f6f6d120b0880e2cfaa0610959aef3aa00604a006031a86010a056275696c64100a1a0f0a0d0a03636d641206"
    "1a046d616b6522090a05746573747310282a003231081e12026d651a090a070a016412022a00221c0a0468616c66120208051a100a0e0a"
    "017012091100000000000049402a00380242057368656c6ca00609b806fcffffffffffffffff01c206070805106418d00fca060708e0d4"
    "0310dc0ba80607b00601";
static const char query_hex[] = "0a0270311201611201621a0163220214282a012830013801";
static const char watch_hex[] = "0a027031180122011e2a0214283201613a01623a0163a00663a80601b00601";
static const char register_hex[] = "0a02723112057368656c6c1a063a3530303631220200022803303c3a0b0a026f7312056c696e7578";
static const char update_hex[] =
    "0a2770313a323a313a3030313132323333343435353636373738383939616162626363646465656666120868616c66207761791832220a"
    "0a080a016b12031a0176";
static const char complete_hex[] =
    "0a2770313a323a313a303031313232333334343535363637373838393961616262636364646565666610281a390a05746573747310281a"
    "200a0e0a0161120911000000000000f03f0a0e0a0162120911000000000000004020012a0a0a0832206661696c65642a0c0a0a0a036c6f"
    "6712031a0178";
static const char run_response_hex[] =
    "082812390a05746573747310281a200a0e0a0161120911000000000000f03f0a0e0a0162120911000000000000004020012a0a0a083220"
    "6661696c6564220c0a0a0a036c6f6712031a0178";
static const char run_async_response_hex[] = "0801120208091a056a6f622d37";
static const char get_execution_hex[] = "120270311a056275696c642002";
static const char list_executions_hex[] = "0a02703112056275696c641a020a3c";
static const char create_with_policy_hex[] = "0a060a0161120131aa060a7761726d5f6669727374";
static const char explain_stage_hex[] = "0a02703112056275696c64";
static const char explain_check_hex[] = "0a0270311a057465737473";

/* ---- help ---- */

typedef struct {
  tci_arena arena;
  tci_limits limits;
  tci_str request;
  tci_command command;
  tci_status status;
} decoded;

/* Hex digits as heap bytes of exactly that size, so that a read past the end is seen. */
static tci_str unhex(const char *hex) {
  size_t len = strlen(hex) / 2;
  char *bytes = malloc(len ? len : 1);
  for (size_t i = 0; i < len; i++) {
    const char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
    bytes[i] = (char)strtol(pair, NULL, 16);
  }
  return (tci_str){bytes, len};
}

static const tci_method *method(const char *name) {
  char path[100];
  snprintf(path, sizeof path, "/turboci.v1.TurboCIOrchestrator/%s", name);
  const tci_method *m = tci_method_by_path(tci_str_from(path));
  assert_non_null(m);
  return m;
}

static void decode_bytes(decoded *d, const char *name, tci_str heap_bytes) {
  *d = (decoded){.limits = tci_limits_default(), .request = heap_bytes};
  tci_arena_init(&d->arena, (size_t)d->limits.message_arena_bytes_max);
  d->status = tci_codec_command(method(name), d->request, &d->limits, &d->arena, &d->command);
}

static void done(decoded *d) {
  tci_arena_deinit(&d->arena);
  free((char *)d->request.ptr);
}

static void decode(decoded *d, const char *name, const char *hex) {
  decode_bytes(d, name, unhex(hex));
  if (d->status.code != TCI_OK) fail_msg("%s: %s", name, d->status.message);
  assert_int_equal(d->command.kind, method(name)->command);
}

/* Empties the buffer. */
static void refuses(const char *name, tci_buf *buf, tci_code code, const char *text_part) {
  decoded d;
  decode_bytes(&d, name, tci_str_dup(tci_buf_str(buf)));
  if (d.status.code != code || !strstr(d.status.message, text_part))
    fail_msg("%s: got %s \"%s\"", name, tci_code_name(d.status.code), d.status.message ? d.status.message : "");
  done(&d);
  tci_buf_deinit(buf);
}

static void wrap(tci_buf *buf, uint32_t number) {
  tci_buf outer = {0};
  tci_wire_put_bytes(&outer, number, tci_buf_str(buf));
  tci_buf_deinit(buf);
  *buf = outer;
}

static void assert_str(tci_str got, const char *want) {
  if (!tci_str_eq(got, tci_str_from(want))) fail_msg("got \"%.*s\", expected \"%s\"", TCI_STR_ARG(got), want);
}

static void assert_hex(tci_str got, const char *hex) {
  tci_str want = unhex(hex);
  if (!tci_str_eq(got, want)) fail_msg("%zu bytes, expected %s", got.len, hex);
  free((char *)want.ptr);
}

/* ---- methods ---- */

static void every_method_has_its_path_and_messages(void **state) {
  (void)state;
  for (size_t i = 0; i < tci_methods_len; i++)
    assert_ptr_equal(tci_method_by_path(tci_str_from(tci_methods[i].path)), &tci_methods[i]);
  const tci_method *watch = method("WatchWorkPlan");
  assert_true(watch->stream);
  assert_string_equal(watch->request, "turboci.v1.WatchWorkPlanRequest");
  assert_string_equal(watch->response, "turboci.v1.WorkPlanEvent");
  const tci_method *run = tci_method_by_path(TCI_STR("/turboci.v1.StageRunner/RunAsync"));
  assert_int_equal(run->service, TCI_SERVICE_STAGE_RUNNER);
  assert_null(tci_method_by_path(TCI_STR("/turboci.v1.TurboCIOrchestrator/Nope")));
  assert_null(tci_method_by_path((tci_str){NULL, 0}));
}

/* ---- requests ---- */

static void create_reads_metadata_in_key_order(void **state) {
  (void)state;
  decoded d;
  decode(&d, "CreateWorkPlan", create_hex);
  const tci_pairs *metadata = &d.command.create_plan.metadata;
  assert_int_equal(metadata->len, 2);
  assert_str(metadata->items[0].key, "a");
  assert_str(metadata->items[1].value, "2");
  done(&d);
  /* b=2 a=1 b=3: the last b counts */
  decode(&d, "CreateWorkPlan", "0a060a01621201320a060a01611201310a060a0162120133");
  assert_int_equal(d.command.create_plan.metadata.len, 2);
  assert_str(d.command.create_plan.metadata.items[1].value, "3");
  done(&d);
}

static void create_reads_the_policy(void **state) {
  (void)state;
  decoded d;
  decode(&d, "CreateWorkPlan", create_with_policy_hex);
  assert_str(d.command.create_plan.policy, "warm_first");
  assert_int_equal(d.command.create_plan.metadata.len, 1);
  done(&d);
  decode(&d, "CreateWorkPlan", create_hex);
  assert_int_equal(d.command.create_plan.policy.len, 0);
  done(&d);
}

static void the_name_of_a_policy_is_an_id(void **state) {
  (void)state;
  char name[257];
  memset(name, 'x', sizeof name);
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 101, (tci_str){name, 257});
  refuses("CreateWorkPlan", &buf, TCI_INVALID_ARGUMENT,
          "CreateWorkPlanRequest.policy: is 257 bytes long; at most 256 are allowed (id_bytes_max)");
  tci_wire_put_bytes(&buf, 101, TCI_STR("warm\nfirst"));
  refuses("CreateWorkPlan", &buf, TCI_INVALID_ARGUMENT, "CreateWorkPlanRequest.policy: holds a control character");
  tci_wire_put_bytes(&buf, 101, TCI_STR("warm\0first"));
  refuses("CreateWorkPlan", &buf, TCI_INVALID_ARGUMENT, "CreateWorkPlanRequest.policy: holds a NUL character");
  tci_wire_put_bytes(&buf, 101, TCI_STR("\xff"));
  refuses("CreateWorkPlan", &buf, TCI_INVALID_ARGUMENT, "CreateWorkPlanRequest.policy: is not valid UTF-8");
  tci_wire_put_bytes(&buf, 101, TCI_STR("one"));
  tci_wire_put_bytes(&buf, 101, TCI_STR("two"));
  refuses("CreateWorkPlan", &buf, TCI_INVALID_ARGUMENT, "CreateWorkPlanRequest.policy: is given twice");
}

static void explain_reads_the_node(void **state) {
  (void)state;
  decoded d;
  decode(&d, "ExplainNode", explain_stage_hex);
  assert_str(d.command.plan_id, "p1");
  assert_str(d.command.explain_node.stage_id, "build");
  assert_int_equal(d.command.explain_node.check_id.len, 0);
  done(&d);
  decode(&d, "ExplainNode", explain_check_hex);
  assert_str(d.command.plan_id, "p1");
  assert_str(d.command.explain_node.check_id, "tests");
  assert_int_equal(d.command.explain_node.stage_id.len, 0);
  done(&d);
  decode(&d, "ExplainNode", ""); /* the core says what is missing */
  assert_int_equal(d.command.plan_id.len, 0);
  done(&d);
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 2, TCI_STR("a\tb"));
  refuses("ExplainNode", &buf, TCI_INVALID_ARGUMENT, "ExplainNodeRequest.stage_id: holds a control character");
  tci_wire_put_uint(&buf, 3, 7);
  refuses("ExplainNode", &buf, TCI_INVALID_ARGUMENT, "ExplainNodeRequest.check_id: has the wrong wire type");
}

static void write_reads_every_field_of_a_check(void **state) {
  (void)state;
  decoded d;
  decode(&d, "WriteNodes", write_hex);
  assert_str(d.command.plan_id, "p1");
  assert_int_equal(d.command.write_nodes.expected_plan_version, 7);
  assert_true(d.command.write_nodes.omit_nodes);
  assert_int_equal(d.command.write_nodes.checks_len, 1);
  const tci_check_write *c = &d.command.write_nodes.checks[0];
  assert_str(c->id, "tests");
  assert_int_equal(c->state, TCI_CHECK_PLANNED);
  assert_str(c->kind, "go");
  assert_hex(c->options, "0a150a01611210320e0a0220010a0208000a041a02c3a90a0e0a017a120911000000000000f03f");
  assert_int_equal(c->expected_version, 3);
  assert_true(c->dependencies.given);
  assert_int_equal(c->dependencies.predicate, TCI_PREDICATE_OR);
  assert_int_equal(c->dependencies.len, 1);
  assert_int_equal(c->dependencies.items[0].target_kind, TCI_NODE_STAGE);
  assert_str(c->dependencies.items[0].target_id, "build");
  assert_int_equal(c->dependencies.items[0].condition, TCI_ON_SUCCESS);
  assert_true(c->has_result && c->result.finalize);
  assert_str(c->result.owner_type, "stage");
  assert_str(c->result.owner_id, "build");
  assert_hex(c->result.data, "0a0e0a016e120911000000000000f83f");
  assert_true(c->result.failure.present);
  assert_str(c->result.failure.message, "boom");
  assert_true(c->result.failure.occurred_us == INT64_C(1700000000123456));
  assert_int_equal(c->result.failure.kind, TCI_FAILURE_REPORTED); /* TIMEOUT is not the client's to say */
  done(&d);
}

static void write_reads_every_field_of_a_stage(void **state) {
  (void)state;
  decoded d;
  decode(&d, "WriteNodes", write_hex);
  assert_int_equal(d.command.write_nodes.stages_len, 1);
  const tci_stage_write *s = &d.command.write_nodes.stages[0];
  assert_str(s->id, "build");
  assert_int_equal(s->state, TCI_STAGE_PLANNED);
  assert_hex(s->args, "0a0d0a03636d6412061a046d616b65");
  assert_int_equal(s->assignments_len, 1);
  assert_str(s->assignments[0].check_id, "tests");
  assert_int_equal(s->assignments[0].goal, TCI_CHECK_FINAL);
  assert_false(s->dependencies.given); /* an empty message is 'not given' */
  assert_true(s->has_attempt && s->attempt.has_progress);
  assert_false(s->attempt.failure.present); /* failure {} */
  assert_int_equal(s->attempt.state, TCI_ATTEMPT_RUNNING);
  assert_str(s->attempt.process_uid, "me");
  assert_hex(s->attempt.details, "0a070a016412022a00");
  assert_str(s->attempt.progress_message, "half");
  assert_int_equal(s->attempt.progress_us, 5000000);
  assert_hex(s->attempt.progress_details, "0a0e0a01701209110000000000004940");
  assert_int_equal(s->mode, TCI_MODE_ASYNC);
  assert_str(s->runner_type, "shell");
  assert_int_equal(s->expected_version, 9);
  assert_int_equal(s->priority, -4);
  assert_int_equal(s->retry.max_attempts, 5);
  assert_int_equal(s->retry.backoff_ms, 100);
  assert_int_equal(s->retry.backoff_ms_max, 2000);
  assert_int_equal(s->timeouts.execution_ms, 60000);
  assert_int_equal(s->timeouts.stale_ms, 1500);
  done(&d);
}

static void what_is_left_out_is_not_given(void **state) {
  (void)state;
  decoded d;
  decode(&d, "WriteNodes", "12001a00");
  const tci_check_write *c = &d.command.write_nodes.checks[0];
  const tci_stage_write *s = &d.command.write_nodes.stages[0];
  assert_int_equal(d.command.plan_id.len, 0);
  assert_true(!c->dependencies.given && !c->has_result && !c->options.len && c->state == TCI_CHECK_UNKNOWN);
  assert_true(!s->dependencies.given && !s->has_attempt && !s->args.len && s->mode == TCI_MODE_UNKNOWN);
  done(&d);
}

static void structs_are_canonical(void **state) {
  (void)state;
  decoded d;
  /* options {b: true, a: null, b: false} */
  decode(&d, "WriteNodes", "121d221b0a070a0162120220010a070a0161120208000a070a016212022000");
  assert_hex(d.command.write_nodes.checks[0].options, "0a070a0161120208000a070a016212022000");
  done(&d);
}

static void queries_and_watches_read_their_filters(void **state) {
  (void)state;
  decoded d;
  decode(&d, "QueryNodes", query_hex);
  const tci_filter *f = &d.command.query_nodes;
  assert_str(d.command.plan_id, "p1");
  assert_true(f->include_checks && f->include_stages);
  assert_int_equal(f->check_ids.len, 2);
  assert_str(f->check_ids.items[1], "b");
  assert_str(f->stage_ids.items[0], "c");
  assert_true(f->check_states & tci_state_bit(TCI_CHECK_FINAL));
  assert_int_equal(__builtin_popcount(f->check_states), 2);
  assert_int_equal(f->stage_states, tci_state_bit(TCI_STAGE_FINAL));
  done(&d);
  decode(&d, "WatchWorkPlan", watch_hex);
  f = &d.command.watch_plan.filter;
  assert_str(d.command.plan_id, "p1");
  assert_true(!f->include_checks && f->include_stages);
  assert_true(d.command.watch_plan.include_current && d.command.watch_plan.include_progress);
  assert_int_equal(d.command.watch_plan.after_sequence, 99);
  assert_int_equal(f->check_states, tci_state_bit(TCI_CHECK_WAITING));
  assert_int_equal(__builtin_popcount(f->stage_states), 2);
  assert_str(f->check_ids.items[0], "a");
  assert_str(f->stage_ids.items[1], "c");
  done(&d);
}

static void register_reads_seconds_and_skips_the_unknown_mode(void **state) {
  (void)state;
  decoded d;
  decode(&d, "RegisterStageRunner", register_hex);
  assert_str(d.command.register_runner.runner_id, "r1");
  assert_str(d.command.register_runner.runner_type, "shell");
  assert_str(d.command.register_runner.address, ":50061");
  assert_true(d.command.register_runner.modes[TCI_MODE_ASYNC]);
  assert_false(d.command.register_runner.modes[TCI_MODE_SYNC] || d.command.register_runner.modes[TCI_MODE_UNKNOWN]);
  assert_int_equal(d.command.register_runner.max_concurrent, 3);
  assert_int_equal(d.command.register_runner.ttl_ms, 60000);
  assert_str(d.command.register_runner.metadata.items[0].value, "linux");
  done(&d);
}

static void execution_ids_name_their_plan(void **state) {
  (void)state;
  decoded d;
  decode(&d, "UpdateStageExecution", update_hex);
  assert_str(d.command.plan_id, "p1");
  assert_str(d.command.update_execution.execution_id, "p1:2:1:00112233445566778899aabbccddeeff");
  assert_str(d.command.update_execution.message, "half way");
  assert_int_equal(d.command.update_execution.progress_percent, 50);
  assert_hex(d.command.update_execution.details, "0a080a016b12031a0176");
  done(&d);
  decode(&d, "UpdateStageExecution", "0a03707072"); /* "ppr" is no execution id: the core says so */
  assert_str(d.command.update_execution.execution_id, "ppr");
  assert_int_equal(d.command.plan_id.len, 0);
  done(&d);
  decode(&d, "GetStageExecution", get_execution_hex);
  assert_str(d.command.plan_id, "p1");
  assert_str(d.command.get_execution.stage_id, "build");
  assert_int_equal(d.command.get_execution.attempt, 2);
  done(&d);
  decode(&d, "ListStageExecutions", list_executions_hex);
  assert_str(d.command.plan_id, "p1");
  assert_true(d.command.list_executions.states & tci_state_bit(TCI_EXECUTION_CANCELLED));
  assert_int_equal(__builtin_popcount(d.command.list_executions.states), 2);
  done(&d);
}

static void small_requests_read_their_one_field(void **state) {
  (void)state;
  decoded d;
  decode(&d, "GetWorkPlan", "0a027031");
  assert_str(d.command.plan_id, "p1");
  done(&d);
  decode(&d, "UnregisterStageRunner", "0a027231");
  assert_str(d.command.registration_id, "r1");
  done(&d);
  decode(&d, "ListStageRunners", "0a027368");
  assert_str(d.command.runner_type, "sh");
  done(&d);
  decode(&d, "GetServerInfo", "");
  done(&d);
  decode(&d, "ListPolicies", "");
  done(&d);
  decode(&d, "ReloadPolicies", "");
  done(&d);
}

static void numbers_out_of_range_are_refused_by_name(void **state) {
  (void)state;
  const uint64_t minus = (uint64_t)INT64_C(-1);
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 6, minus);
  refuses("RegisterStageRunner", &buf, TCI_INVALID_ARGUMENT, "RegisterStageRunnerRequest.ttl_seconds: -1 is out");
  tci_wire_put_uint(&buf, 6, INT64_MAX / 1000 + 1);
  refuses("RegisterStageRunner", &buf, TCI_INVALID_ARGUMENT, "ttl_seconds");
  tci_wire_put_uint(&buf, 5, minus);
  refuses("RegisterStageRunner", &buf, TCI_INVALID_ARGUMENT, "max_concurrent: -1 is negative");
  tci_wire_put_uint(&buf, 3, 101);
  refuses("UpdateStageExecution", &buf, TCI_INVALID_ARGUMENT, "progress_percent: 101 is not within 0 to 100");
  tci_wire_put_uint(&buf, 3, minus);
  refuses("UpdateStageExecution", &buf, TCI_INVALID_ARGUMENT, "progress_percent");
  tci_wire_put_uint(&buf, 101, minus);
  refuses("WriteNodes", &buf, TCI_INVALID_ARGUMENT, "WriteNodesRequest.expected_plan_version: -1");
  tci_wire_put_uint(&buf, 100, minus);
  wrap(&buf, 2);
  refuses("WriteNodes", &buf, TCI_INVALID_ARGUMENT, "WriteNodesRequest.checks[0].expected_version: -1");
  tci_wire_put_uint(&buf, 3, minus);
  wrap(&buf, 104);
  wrap(&buf, 3);
  refuses("WriteNodes", &buf, TCI_INVALID_ARGUMENT, "WriteNodesRequest.stages[0].retry.backoff_ms_max: -1");
  tci_wire_put_uint(&buf, 2, minus);
  wrap(&buf, 105);
  wrap(&buf, 3);
  refuses("WriteNodes", &buf, TCI_INVALID_ARGUMENT, "WriteNodesRequest.stages[0].timeouts.stale_ms: -1");
  tci_wire_put_uint(&buf, 4, minus);
  refuses("GetStageExecution", &buf, TCI_INVALID_ARGUMENT, "attempt_idx: -1");
}

static void impossible_timestamps_are_refused(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 1, INT64_C(253402300800)); /* the year 10000 */
  wrap(&buf, 2);
  wrap(&buf, 4);
  refuses("CompleteStageExecution", &buf, TCI_INVALID_ARGUMENT, "failure.occurred_at: is not a valid timestamp");
  tci_wire_put_uint(&buf, 2, 1000000000);
  wrap(&buf, 2);
  wrap(&buf, 4);
  refuses("CompleteStageExecution", &buf, TCI_INVALID_ARGUMENT, "failure.occurred_at");
}

static void big_values_are_refused_by_name(void **state) {
  (void)state;
  enum { BYTES = 4400000 };
  char *text = malloc(BYTES);
  memset(text, 'x', BYTES);
  tci_buf buf = {0}, value = {0}, entry = {0};
  tci_value_put_string(&value, (tci_str){text, BYTES});
  tci_struct_set((tci_str){NULL, 0}, TCI_STR("k"), tci_buf_str(&value), &buf);
  wrap(&buf, 3);
  wrap(&buf, 3);
  refuses("WriteNodes", &buf, TCI_INVALID_ARGUMENT, "stages[0].args: is 4400018 bytes long; at most 4194304");
  tci_wire_put_bytes(&entry, 1, TCI_STR("k"));
  tci_wire_put_bytes(&entry, 2, (tci_str){text, 65536});
  tci_wire_put_bytes(&buf, 1, tci_buf_str(&entry));
  refuses("CreateWorkPlan", &buf, TCI_INVALID_ARGUMENT, "CreateWorkPlanRequest.metadata: is 65537 bytes long");
  tci_buf_deinit(&value);
  tci_buf_deinit(&entry);
  free(text);
}

/* A completion's request with `bytes` of details and a failure's message of `text_bytes`. */
static tci_buf large_completion(size_t bytes, size_t text_bytes) {
  char *text = malloc(bytes + text_bytes + 1);
  memset(text, 'x', bytes + text_bytes);
  tci_buf buf = {0}, value = {0}, details = {0}, failure = {0};
  tci_value_put_string(&value, (tci_str){text, bytes});
  tci_struct_set((tci_str){NULL, 0}, TCI_STR("k"), tci_buf_str(&value), &details);
  tci_wire_put_bytes(&failure, 1, (tci_str){text, text_bytes});
  tci_wire_put_bytes(&buf, 1, TCI_STR("p1:2:1:00112233445566778899aabbccddeeff"));
  tci_wire_put_uint(&buf, 2, TCI_STAGE_FINAL);
  if (text_bytes) tci_wire_put_bytes(&buf, 4, tci_buf_str(&failure));
  tci_wire_put_bytes(&buf, 5, tci_buf_str(&details));
  tci_buf_deinit(&value);
  tci_buf_deinit(&details);
  tci_buf_deinit(&failure);
  free(text);
  return buf;
}

static void a_completion_over_a_limit_fails_its_attempt_and_says_so(void **state) {
  (void)state;
  static const struct {
    size_t bytes, text_bytes;
    const char *says;
  } rows[] = {
      {4194400, 0, "Request.details: is 4194418 bytes long; at most 4194304 are allowed (node_bytes_max)"},
      {5300000, 0, "(message_bytes_max); most of it, 5300018 bytes, is in CompleteStageExecutionRequest.details"},
      {10, 70000, "Request.failure.message: is 70000 bytes long; at most 65536 are allowed (text_bytes_max)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tci_buf buf = large_completion(rows[i].bytes, rows[i].text_bytes);
    decoded d, again;
    decode_bytes(&d, "CompleteStageExecution", tci_str_dup(tci_buf_str(&buf)));
    assert_int_equal(d.status.code, TCI_OK);
    assert_str(d.command.plan_id, "p1");
    const tci_completion *c = &d.command.complete_execution.completion;
    assert_true(c->failure.present && c->updates_len == 0 && c->details.len == 0);
    if (!memmem(c->failure.message.ptr, c->failure.message.len, rows[i].says, strlen(rows[i].says)))
      fail_msg("\"%.*s\" does not say \"%s\"", TCI_STR_ARG(c->failure.message), rows[i].says);
    decode_bytes(&again, "CompleteStageExecution", tci_str_dup(tci_buf_str(&buf)));
    assert_memory_equal(c->digest, again.command.complete_execution.completion.digest, sizeof c->digest);
    done(&again);
    done(&d);
    tci_buf_deinit(&buf);
  }
  tci_buf kept = large_completion(4194286, 0); /* whole, with its envelope */
  decoded d;
  decode_bytes(&d, "CompleteStageExecution", tci_str_dup(tci_buf_str(&kept)));
  assert_int_equal(d.status.code, TCI_OK);
  assert_false(d.command.complete_execution.completion.failure.present);
  assert_int_equal(d.command.complete_execution.completion.details.len, 4194304);
  done(&d);
  tci_buf_deinit(&kept);
}

static void an_answer_over_a_limit_is_too_large_and_not_nonsense(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_arena arena = {0};
  tci_answer answer = {0};
  limits.message_bytes_max = 40;
  tci_codec_answer(TCI_MODE_SYNC,
                   TCI_STR("\x22\x2f\x0a\x2d\x0a\x01k\x12\x28\x1a\x26 0123456789012345678901234567890123456"), &limits,
                   &arena, &answer);
  assert_true(answer.too_large && !answer.unreadable);
  assert_str(answer.message,
             "RunResponse: is 49 bytes long; at most 40 are allowed (message_bytes_max); most of it, 47 "
             "bytes, is in RunResponse.details");
  answer = (tci_answer){0};
  tci_codec_answer_unread(&limits, &arena, &answer);
  assert_true(answer.too_large && !answer.unreadable);
  assert_non_null(memmem(answer.message.ptr, answer.message.len, "answer_bytes_max", 16));
  tci_arena_deinit(&arena);
}

/* A QueryNodesRequest of plan p1 for the stages a, with a page of 2 from `token`. */
static tci_buf page_request(const char *plan, const char *token) {
  tci_buf buf = {0};
  tci_wire_put_bytes(&buf, 1, tci_str_from(plan));
  tci_wire_put_bytes(&buf, 3, TCI_STR("a"));
  tci_wire_put_uint(&buf, 7, 1);
  tci_wire_put_uint(&buf, 100, 2);
  tci_wire_put_bytes(&buf, 101, tci_str_from(token));
  return buf;
}

static void page_tokens_are_good_for_their_own_query(void **state) {
  (void)state;
  decoded d;
  tci_buf buf = page_request("p1", "");
  decode_bytes(&d, "QueryNodes", tci_str_dup(tci_buf_str(&buf)));
  assert_int_equal(d.status.code, TCI_OK);
  assert_int_equal(d.command.page.size, 2);
  assert_int_equal(d.command.page.from, 0);
  char token[TCI_PAGE_TOKEN_BYTES + 1];
  tci_codec_page_seal(&d.command, 0x1234567890, token);
  done(&d);
  tci_buf_deinit(&buf);
  buf = page_request("p1", token);
  decode_bytes(&d, "QueryNodes", tci_str_dup(tci_buf_str(&buf)));
  assert_int_equal(d.status.code, TCI_OK);
  assert_int_equal(d.command.page.from, 0x1234567890);
  done(&d);
  tci_buf_deinit(&buf);
  buf = page_request("p2", token);
  refuses("QueryNodes", &buf, TCI_INVALID_ARGUMENT, "page_token: is not a token of this query");
  for (size_t i = 0; i < TCI_PAGE_TOKEN_BYTES; i++) {
    token[i] = token[i] == '0' ? '1' : '0';
    buf = page_request("p1", token);
    refuses("QueryNodes", &buf, TCI_INVALID_ARGUMENT, "page_token");
    tci_buf again = page_request("p1", "");
    decode_bytes(&d, "QueryNodes", tci_str_dup(tci_buf_str(&again)));
    tci_codec_page_seal(&d.command, 0x1234567890, token);
    done(&d);
    tci_buf_deinit(&again);
  }
  buf = page_request("p1", "nonsense");
  refuses("QueryNodes", &buf, TCI_INVALID_ARGUMENT, "page_token");
  tci_wire_put_bytes(&buf, 1, TCI_STR("p1"));
  tci_wire_put_bytes(&buf, 101, tci_str_from(token));
  refuses("QueryNodes", &buf, TCI_INVALID_ARGUMENT, "page_token: is given without a page_size");
  tci_wire_put_uint(&buf, 100, (uint64_t)-1);
  refuses("ListStageExecutions", &buf, TCI_INVALID_ARGUMENT, "page_size: -1");
}

static void the_scan_guards_every_request(void **state) {
  (void)state;
  for (size_t i = 0; i < tci_methods_len; i++) {
    if (tci_methods[i].service != TCI_SERVICE_ORCHESTRATOR) continue;
    tci_buf buf = {0};
    tci_buf_add(&buf, TCI_STR("\x0f"));
    refuses(tci_methods[i].name, &buf, TCI_INVALID_ARGUMENT, strrchr(tci_methods[i].request, '.') + 1);
  }
}

static void a_full_arena_is_resource_exhausted_at_any_moment(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_str request = unhex(write_hex);
  bool passed = false;
  for (size_t cap = 16; cap < 20000; cap += 16) {
    tci_arena arena;
    tci_command command;
    tci_arena_init(&arena, cap);
    tci_status status = tci_codec_command(method("WriteNodes"), request, &limits, &arena, &command);
    assert_true(status.code == TCI_OK || status.code == TCI_RESOURCE_EXHAUSTED);
    assert_true(!passed || status.code == TCI_OK);
    passed = status.code == TCI_OK;
    tci_arena_deinit(&arena);
  }
  assert_true(passed);
  free((char *)request.ptr);
}

/* ---- completions and answers ---- */

static void a_completion_and_a_run_response_say_the_same(void **state) {
  (void)state;
  decoded d;
  decode(&d, "CompleteStageExecution", complete_hex);
  assert_str(d.command.plan_id, "p1");
  const tci_completion *c = &d.command.complete_execution.completion;
  assert_int_equal(c->stage_state, TCI_STAGE_FINAL);
  assert_int_equal(c->updates_len, 1);
  assert_str(c->updates[0].check_id, "tests");
  assert_int_equal(c->updates[0].state, TCI_CHECK_FINAL);
  assert_hex(c->updates[0].data, "0a0e0a0161120911000000000000f03f0a0e0a01621209110000000000000040");
  assert_true(c->updates[0].finalize && c->updates[0].failure.present);
  assert_str(c->updates[0].failure.message, "2 failed");
  assert_false(c->failure.present);
  assert_hex(c->details, "0a0a0a036c6f6712031a0178");
  tci_str response = unhex(run_response_hex);
  tci_answer answer = {0};
  tci_codec_answer(TCI_MODE_SYNC, response, &d.limits, &d.arena, &answer);
  assert_false(answer.unreadable);
  assert_int_equal(answer.completion.updates_len, 1);
  assert_memory_equal(answer.completion.digest, c->digest, sizeof c->digest);
  free((char *)response.ptr);
  done(&d);
}

static tci_stage_state state_of(const char *hex) {
  tci_str response = unhex(hex);
  tci_limits limits = tci_limits_default();
  tci_arena arena = {0};
  tci_answer answer = {0};
  tci_codec_answer(TCI_MODE_SYNC, response, &limits, &arena, &answer);
  assert_false(answer.unreadable);
  tci_arena_deinit(&arena);
  free((char *)response.ptr);
  return answer.completion.stage_state;
}

static void an_end_without_a_state_is_final(void **state) {
  (void)state;
  assert_int_equal(state_of(""), TCI_STAGE_FINAL);
  assert_int_equal(state_of("12030a0161"), TCI_STAGE_FINAL);   /* an update of check a */
  assert_int_equal(state_of("0814"), TCI_STAGE_ATTEMPTING);    /* what it says in words stands */
  assert_int_equal(state_of("1a030a0161"), TCI_STAGE_UNKNOWN); /* failure {message: a} */
  decoded d;
  decode(&d, "CompleteStageExecution", "0a0161");
  assert_int_equal(d.command.complete_execution.completion.stage_state, TCI_STAGE_FINAL);
  done(&d);
}

static void digest_of(const char *hex, uint64_t out[2]) {
  decoded d;
  decode(&d, "CompleteStageExecution", hex);
  memcpy(out, d.command.complete_execution.completion.digest, 2 * sizeof *out);
  done(&d);
}

static void digests_ignore_the_order_of_map_entries_and_nothing_else(void **state) {
  (void)state;
  static const char *const all_different[] = {
      "1028",                           /* FINAL */
      "101e",                           /* AWAITING_GROUP */
      "10282a0b0a090a016112041a020162", /* ... details {a: "\1b"} */
      "10282a0a0a080a016112031a0162",   /* ... details {a: "b"} */
      "102822030a0161",                 /* ... failure {message: a} */
      "102822041202080a",               /* ... failure {occurred_at: 10 s} */
      "10281a00",                       /* ... one empty update */
      "10281a001a00",                   /* ... two */
      "10281a022001",                   /* ... one, finalize */
      "10281a021028",                   /* ... one, FINAL */
      "10281a030a0161",                 /* ... one, of check a */
      "10281a052a030a0178",             /* ... one, failed */
  };
  enum { LEN = sizeof all_different / sizeof all_different[0] };
  uint64_t digests[LEN][2], one[2], other[2];
  for (size_t i = 0; i < LEN; i++) {
    digest_of(all_different[i], digests[i]);
    for (size_t j = 0; j < i; j++) assert_true(digests[i][0] != digests[j][0] && digests[i][1] != digests[j][1]);
  }
  digest_of("1028", one);
  digest_of("10282200", other); /* failure {}: an empty message is 'not given' */
  assert_memory_equal(one, other, sizeof one);
  digest_of("", other); /* no state is FINAL */
  assert_memory_equal(one, other, sizeof one);
  digest_of("10282a120a070a0161120220010a070a016212022001", one);
  digest_of("10282a120a070a0162120220010a070a016112022001", other);
  assert_memory_equal(one, other, sizeof one);
}

static void run_async_answers_say_yes_or_no(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_arena arena = {0};
  tci_answer answer = {0};
  tci_str response = unhex(run_async_response_hex);
  tci_codec_answer(TCI_MODE_ASYNC, response, &limits, &arena, &answer);
  assert_true(answer.accepted && !answer.unreadable);
  assert_str(answer.runner_execution_id, "job-7");
  answer = (tci_answer){0};
  tci_codec_answer(TCI_MODE_ASYNC, (tci_str){NULL, 0}, &limits, &arena, &answer);
  assert_true(!answer.accepted && !answer.unreadable);
  free((char *)response.ptr);
  tci_arena_deinit(&arena);
}

static void nonsense_answers_are_unreadable_and_say_why(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  tci_arena arena = {0};
  tci_answer answer = {0};
  tci_codec_answer(TCI_MODE_SYNC, TCI_STR("\x08\x29"), &limits, &arena, &answer);
  assert_true(answer.unreadable);
  assert_str(answer.message, "RunResponse.stage_state: 41 is not a known StageState");
  tci_codec_answer(TCI_MODE_ASYNC, TCI_STR("\xff"), &limits, &arena, &answer);
  assert_true(answer.unreadable);
  assert_str(answer.message, "RunAsyncResponse: is not a well-formed protobuf message");
  tci_arena_deinit(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_method_has_its_path_and_messages),
      cmocka_unit_test(create_reads_metadata_in_key_order),
      cmocka_unit_test(create_reads_the_policy),
      cmocka_unit_test(the_name_of_a_policy_is_an_id),
      cmocka_unit_test(explain_reads_the_node),
      cmocka_unit_test(write_reads_every_field_of_a_check),
      cmocka_unit_test(write_reads_every_field_of_a_stage),
      cmocka_unit_test(what_is_left_out_is_not_given),
      cmocka_unit_test(structs_are_canonical),
      cmocka_unit_test(queries_and_watches_read_their_filters),
      cmocka_unit_test(register_reads_seconds_and_skips_the_unknown_mode),
      cmocka_unit_test(execution_ids_name_their_plan),
      cmocka_unit_test(small_requests_read_their_one_field),
      cmocka_unit_test(numbers_out_of_range_are_refused_by_name),
      cmocka_unit_test(impossible_timestamps_are_refused),
      cmocka_unit_test(big_values_are_refused_by_name),
      cmocka_unit_test(a_completion_over_a_limit_fails_its_attempt_and_says_so),
      cmocka_unit_test(an_answer_over_a_limit_is_too_large_and_not_nonsense),
      cmocka_unit_test(page_tokens_are_good_for_their_own_query),
      cmocka_unit_test(the_scan_guards_every_request),
      cmocka_unit_test(a_full_arena_is_resource_exhausted_at_any_moment),
      cmocka_unit_test(a_completion_and_a_run_response_say_the_same),
      cmocka_unit_test(an_end_without_a_state_is_final),
      cmocka_unit_test(digests_ignore_the_order_of_map_entries_and_nothing_else),
      cmocka_unit_test(run_async_answers_say_yes_or_no),
      cmocka_unit_test(nonsense_answers_are_unreadable_and_say_why),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
