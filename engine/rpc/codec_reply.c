/* codec_reply: what the engine says: replies, watch events, requests to runners. See codec.h.
 *
 * Messages are built in an arena of the call and packed into `out`; nothing of the model is kept.
 */
#include "base/assert.h"
#include "rpc/codec.h"
#include "rpc/codec_node.h"

static void pack(const ProtobufCMessage *message, tci_buf *out) {
  size_t bytes = protobuf_c_message_get_packed_size(message);
  char *room = tci_buf_reserve(out, bytes);
  out->len += protobuf_c_message_pack(message, (uint8_t *)room);
}

/* ---- replies ---- */

static void plan_reply(tci_arena *arena, const tci_reply *reply, tci_buf *out) {
  /* GetWorkPlanResponse has the same one field. */
  Tci__Wire__V1__CreateWorkPlanResponse m = TCI__WIRE__V1__CREATE_WORK_PLAN_RESPONSE__INIT;
  m.work_plan = tci_codec_plan(arena, reply->plan);
  pack(&m.base, out);
}

static void nodes_reply(tci_arena *arena, const tci_reply *reply, tci_buf *out) {
  /* WriteNodesResponse has the same two fields. */
  Tci__Wire__V1__QueryNodesResponse m = TCI__WIRE__V1__QUERY_NODES_RESPONSE__INIT;
  m.n_checks = reply->checks_len;
  m.checks = tci_arena_array(arena, Tci__Wire__V1__Check *, reply->checks_len);
  for (size_t i = 0; i < reply->checks_len; i++) m.checks[i] = tci_codec_check(arena, reply->checks[i]);
  m.n_stages = reply->stages_len;
  m.stages = tci_arena_array(arena, Tci__Wire__V1__Stage *, reply->stages_len);
  for (size_t i = 0; i < reply->stages_len; i++) m.stages[i] = tci_codec_stage(arena, reply->stages[i]);
  pack(&m.base, out);
}

static void registered_reply(tci_arena *arena, const tci_reply *reply, tci_buf *out) {
  tci_assert(reply->runners_len == 1);
  Tci__Wire__V1__RegisterStageRunnerResponse m = TCI__WIRE__V1__REGISTER_STAGE_RUNNER_RESPONSE__INIT;
  m.registration_id = tci_codec_text(arena, reply->runners[0]->registration_id);
  m.expires_at = tci_codec_time(arena, reply->runners[0]->expires_us);
  pack(&m.base, out);
}

static size_t metadata_bytes(const tci_runner *r) {
  enum { ENTRY_BYTES = 16 };
  size_t bytes = 0;
  for (size_t i = 0; i < r->metadata.len; i++)
    bytes += ENTRY_BYTES + r->metadata.items[i].key.len + r->metadata.items[i].value.len;
  return bytes;
}

/* Who is there is always told; what they say of themselves, as far as it fits. */
static void runners_reply(tci_arena *arena, const tci_reply *reply, const tci_server_facts *facts, tci_buf *out) {
  enum { RUNNER_BYTES = 160 };
  Tci__Wire__V1__ListStageRunnersResponse m = TCI__WIRE__V1__LIST_STAGE_RUNNERS_RESPONSE__INIT;
  m.n_runners = reply->runners_len;
  m.runners = tci_arena_array(arena, Tci__Wire__V1__StageRunnerInfo *, reply->runners_len);
  size_t most = facts ? (size_t)facts->limits->page_bytes_max : SIZE_MAX, bytes = 0;
  for (size_t i = 0; i < reply->runners_len; i++) {
    const tci_runner *r = reply->runners[i];
    bytes += RUNNER_BYTES + r->runner_id.len + r->registration_id.len + r->runner_type.len + r->address.len;
  }
  for (size_t i = 0; i < reply->runners_len; i++) {
    tci_runner r = *reply->runners[i];
    size_t more = metadata_bytes(&r);
    bool fits = more <= most && bytes + more <= most;
    bytes += fits ? more : 0;
    if (!fits) r.metadata.len = 0;
    m.runners[i] = tci_codec_runner(arena, &r);
    if (fits) continue;
    m.runners[i]->n_omitted_fields = 1;
    m.runners[i]->omitted_fields = tci_arena_array(arena, char *, 1);
    m.runners[i]->omitted_fields[0] = (char *)"metadata"; /* packing only reads it */
  }
  pack(&m.base, out);
}

static void acknowledged_reply(tci_buf *out) {
  Tci__Wire__V1__CompleteStageExecutionResponse m = TCI__WIRE__V1__COMPLETE_STAGE_EXECUTION_RESPONSE__INIT;
  m.acknowledged = true;
  pack(&m.base, out);
}

static void execution_reply(tci_arena *arena, const tci_reply *reply, tci_buf *out) {
  tci_assert(reply->attempts_len == 1);
  Tci__Wire__V1__GetStageExecutionResponse m = TCI__WIRE__V1__GET_STAGE_EXECUTION_RESPONSE__INIT;
  m.execution = tci_codec_execution(arena, reply->attempts[0]);
  pack(&m.base, out);
}

static void executions_reply(tci_arena *arena, const tci_reply *reply, tci_buf *out) {
  Tci__Wire__V1__ListStageExecutionsResponse m = TCI__WIRE__V1__LIST_STAGE_EXECUTIONS_RESPONSE__INIT;
  m.n_executions = reply->attempts_len;
  m.executions = tci_arena_array(arena, Tci__Wire__V1__StageExecution *, reply->attempts_len);
  for (size_t i = 0; i < reply->attempts_len; i++) m.executions[i] = tci_codec_execution(arena, reply->attempts[i]);
  pack(&m.base, out);
}

typedef Tci__Wire__V1__GetServerInfoResponse__LimitsEntry limits_entry;
typedef Tci__Wire__V1__GetServerInfoResponse__CountersEntry counters_entry;

static void server_info_reply(tci_arena *arena, const tci_server_facts *facts, tci_buf *out) {
  Tci__Wire__V1__GetServerInfoResponse m = TCI__WIRE__V1__GET_SERVER_INFO_RESPONSE__INIT;
  m.version = tci_codec_text(arena, tci_str_from(facts->version));
  m.started_at = tci_codec_time(arena, facts->started_us);
  m.n_limits = tci_limit_infos_len;
  m.limits = tci_arena_array(arena, limits_entry *, tci_limit_infos_len);
  for (size_t i = 0; i < tci_limit_infos_len; i++) {
    limits_entry *entry = tci_arena_new(arena, limits_entry);
    m.limits[i] = entry;
    tci__wire__v1__get_server_info_response__limits_entry__init(entry);
    entry->key = tci_codec_text(arena, tci_str_from(tci_limit_infos[i].name));
    entry->value = *(const int64_t *)((const char *)facts->limits + tci_limit_infos[i].offset);
  }
  m.n_counters = facts->counters_len;
  m.counters = tci_arena_array(arena, counters_entry *, facts->counters_len);
  for (size_t i = 0; i < facts->counters_len; i++) {
    counters_entry *entry = tci_arena_new(arena, counters_entry);
    m.counters[i] = entry;
    tci__wire__v1__get_server_info_response__counters_entry__init(entry);
    entry->key = tci_codec_text(arena, facts->counters[i].key);
    entry->value = facts->counters[i].value;
  }
  pack(&m.base, out);
}

static void explanation_reply(tci_arena *arena, const tci_reply *reply, tci_buf *out) {
  Tci__Wire__V1__ExplainNodeResponse m = TCI__WIRE__V1__EXPLAIN_NODE_RESPONSE__INIT;
  m.n_explanations = reply->explanations_len;
  m.explanations = tci_arena_array(arena, Tci__Wire__V1__Explanation *, reply->explanations_len);
  for (size_t i = 0; i < reply->explanations_len; i++)
    m.explanations[i] = tci_codec_explanation(arena, &reply->explanations[i]);
  m.n_decisions = tci_codec_decisions(arena, reply->attempts, reply->attempts_len, &m.decisions);
  pack(&m.base, out);
}

static void policies_reply(tci_arena *arena, const tci_reply *reply, const tci_server_facts *facts, tci_buf *out) {
  /* ListPoliciesResponse is ReloadPoliciesResponse without `changed`. */
  Tci__Wire__V1__ReloadPoliciesResponse m = TCI__WIRE__V1__RELOAD_POLICIES_RESPONSE__INIT;
  m.n_policies = facts->policies_len;
  m.policies = tci_arena_array(arena, Tci__Wire__V1__PolicyInfo *, facts->policies_len);
  for (size_t i = 0; i < facts->policies_len; i++) m.policies[i] = tci_codec_policy(arena, &facts->policies[i]);
  if (reply->command == TCI_COMMAND_RELOAD_POLICIES) m.n_changed = tci_codec_names(arena, facts->changed, &m.changed);
  pack(&m.base, out);
}

void tci_codec_reply(const tci_reply *reply, const tci_server_facts *facts, tci_buf *out) {
  tci_arena arena = {0};
  switch (reply->kind) {
    case TCI_REPLY_STATUS: break; /* an empty message has no bytes */
    case TCI_REPLY_PLAN: plan_reply(&arena, reply, out); break;
    case TCI_REPLY_NODES: nodes_reply(&arena, reply, out); break;
    case TCI_REPLY_REGISTERED: registered_reply(&arena, reply, out); break;
    case TCI_REPLY_RUNNERS: runners_reply(&arena, reply, facts, out); break;
    case TCI_REPLY_ACKNOWLEDGED: acknowledged_reply(out); break;
    case TCI_REPLY_EXECUTION: execution_reply(&arena, reply, out); break;
    case TCI_REPLY_EXECUTIONS: executions_reply(&arena, reply, out); break;
    case TCI_REPLY_SERVER_INFO: server_info_reply(&arena, facts, out); break;
    case TCI_REPLY_EXPLANATION: explanation_reply(&arena, reply, out); break;
    case TCI_REPLY_POLICIES: policies_reply(&arena, reply, facts, out); break;
  }
  tci_arena_deinit(&arena);
}

/* ---- watch ---- */

enum { EVENT_BYTES = 1024 }; /* of an event without its node */

static size_t omitted_fields(tci_arena *arena, unsigned omitted, char ***out) {
  static const struct {
    tci_omitted bit;
    const char *name;
  } names[] = {
      {TCI_OMITTED_KIND, "kind"},
      {TCI_OMITTED_OPTIONS, "options"},
      {TCI_OMITTED_ARGS, "args"},
      {TCI_OMITTED_DEPENDENCIES, "dependencies"},
      {TCI_OMITTED_ASSIGNMENTS, "assignments"},
      {TCI_OMITTED_RESULTS, "results"},
      {TCI_OMITTED_ATTEMPTS, "attempts"},
      {TCI_OMITTED_ATTEMPT_DETAILS, "attempts.details"},
      {TCI_OMITTED_ATTEMPT_PROGRESS, "attempts.progress"},
  };
  enum { NAMES = sizeof names / sizeof *names };
  size_t len = 0;
  *out = tci_arena_array(arena, char *, NAMES);
  for (size_t i = 0; i < NAMES; i++)
    if (omitted & names[i].bit) (*out)[len++] = (char *)names[i].name; /* packing only reads it */
  return len;
}

void tci_codec_watch_place(uint64_t sequence, bool more, tci_buf *out) {
  /* Fields of a message may come in any order, so what is encoded once for many watchers can come first. */
  Tci__Wire__V1__WorkPlanEvent m = TCI__WIRE__V1__WORK_PLAN_EVENT__INIT;
  m.sequence = sequence;
  m.more_current = more;
  pack(&m.base, out);
}

void tci_codec_watch_event(const tci_watch_event *event, size_t bytes_max, tci_buf *out) {
  tci_arena arena = {0};
  size_t room = bytes_max - (bytes_max / 2 < EVENT_BYTES ? bytes_max / 2 : EVENT_BYTES); /* of the node */
  Tci__Wire__V1__WorkPlanEvent m = TCI__WIRE__V1__WORK_PLAN_EVENT__INIT;
  Tci__Wire__V1__CheckEvent check = TCI__WIRE__V1__CHECK_EVENT__INIT;
  Tci__Wire__V1__StageEvent stage = TCI__WIRE__V1__STAGE_EVENT__INIT;
  Tci__Wire__V1__WorkPlanCompletedEvent completed = TCI__WIRE__V1__WORK_PLAN_COMPLETED_EVENT__INIT;
  m.timestamp = tci_codec_time(&arena, event->at_us);
  if (event->check) {
    check.check_id = tci_codec_text(&arena, event->check->node.id);
    check.old_state = (Tci__Wire__V1__CheckState)event->old_state;
    check.new_state = (Tci__Wire__V1__CheckState)event->new_state;
    check.check = tci_codec_check(&arena, event->check);
    check.check->n_omitted_fields = omitted_fields(&arena, event->omitted, &check.check->omitted_fields);
    if (bytes_max < SIZE_MAX) tci_codec_fit_check(&arena, check.check, room);
    m.event_case = TCI__WIRE__V1__WORK_PLAN_EVENT__EVENT_CHECK_EVENT;
    m.check_event = &check;
  } else if (event->stage) {
    stage.stage_id = tci_codec_text(&arena, event->stage->node.id);
    stage.old_state = (Tci__Wire__V1__StageState)event->old_state;
    stage.new_state = (Tci__Wire__V1__StageState)event->new_state;
    stage.stage = tci_codec_stage(&arena, event->stage);
    stage.stage->n_omitted_fields = omitted_fields(&arena, event->omitted, &stage.stage->omitted_fields);
    if (bytes_max < SIZE_MAX) tci_codec_fit_stage(&arena, stage.stage, room);
    m.event_case = TCI__WIRE__V1__WORK_PLAN_EVENT__EVENT_STAGE_EVENT;
    m.stage_event = &stage;
  } else {
    completed.checks_completed = event->checks_completed;
    completed.stages_completed = event->stages_completed;
    completed.has_failures = event->has_failures;
    m.event_case = TCI__WIRE__V1__WORK_PLAN_EVENT__EVENT_COMPLETED_EVENT;
    m.completed_event = &completed;
  }
  pack(&m.base, out);
  tci_arena_deinit(&arena);
}

/* ---- runners ---- */

static Tci__Wire__V1__CheckOptions *check_options(tci_arena *arena, const tci_check *check) {
  Tci__Wire__V1__CheckOptions *m = tci_arena_new(arena, Tci__Wire__V1__CheckOptions);
  tci__wire__v1__check_options__init(m);
  m->check_id = tci_codec_text(arena, check->node.id);
  m->kind = tci_codec_text(arena, check->kind);
  TCI_CODEC_STRUCT(m, CHECK_OPTIONS, OPTIONS, options, check->options);
  return m;
}

void tci_codec_run_request(const tci_attempt *attempt, tci_str callback_address, tci_buf *out) {
  tci_arena arena = {0};
  const tci_stage *stage = attempt->stage;
  /* RunRequest is RunAsyncRequest without the callback address, which is left empty for it. */
  Tci__Wire__V1__RunAsyncRequest m = TCI__WIRE__V1__RUN_ASYNC_REQUEST__INIT;
  m.execution_id = tci_codec_text(&arena, attempt->execution_id);
  m.work_plan_id = tci_codec_text(&arena, stage->node.plan->id);
  m.stage_id = tci_codec_text(&arena, stage->node.id);
  m.attempt_idx = (int32_t)attempt->index;
  TCI_CODEC_STRUCT(&m, RUN_ASYNC_REQUEST, ARGS, args, stage->args);
  m.deadline = tci_codec_time(&arena, attempt->deadline_us);
  m.assigned_check_ids = tci_arena_array(&arena, char *, stage->assignments_len);
  m.check_options = tci_arena_array(&arena, Tci__Wire__V1__CheckOptions *, stage->assignments_len);
  for (size_t i = 0; i < stage->assignments_len; i++) {
    const tci_check *check = stage->assignments[i].check;
    if (!tci_goal_counts(stage->assignments[i].goal)) continue;
    m.assigned_check_ids[m.n_assigned_check_ids++] = tci_codec_text(&arena, check->node.id);
    m.check_options[m.n_check_options++] = check_options(&arena, check);
  }
  if (attempt->mode == TCI_MODE_ASYNC) m.callback_address = tci_codec_text(&arena, callback_address);
  pack(&m.base, out);
  tci_arena_deinit(&arena);
}
