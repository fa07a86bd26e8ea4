/* codec: the table of methods, requests -> commands, runners' answers -> tci_answer. See codec.h; WriteNodes is in
 * codec_write.c, what goes out is in codec_reply.c.
 *
 * 1. Every request and answer passes tci_codec_unpack, which scans it first.
 * 2. A refused request leaves nothing behind but memory of the caller's arena.
 */
#include "rpc/codec.h"

#include <inttypes.h>
#include <string.h>

#include "base/assert.h"
#include "base/wire.h"
#include "core/core.h"
#include "rpc/codec_page.h"
#include "rpc/codec_read.h"
#include "turboci/v1/service.pb-c.h"

enum { MS_PER_SECOND = 1000 };

#define SERVICE_NAME_ORCHESTRATOR "TurboCIOrchestrator"
#define SERVICE_NAME_STAGE_RUNNER "StageRunner"

const tci_method tci_methods[] = {
#define METHOD(service_, name_, snake, response_, command_, stream_) \
  {#name_,                                                           \
   "/turboci.v1." SERVICE_NAME_##service_ "/" #name_,                \
   "turboci.v1." #name_ "Request",                                   \
   "turboci.v1." #response_,                                         \
   TCI_SERVICE_##service_,                                           \
   TCI_COMMAND_##command_,                                           \
   stream_},
#include "rpc/methods.def"
#undef METHOD
};
const size_t tci_methods_len = sizeof tci_methods / sizeof tci_methods[0];

/* The requests of tci_methods, in its order. */
static const tci_codec_message requests[] = {
#define METHOD(service, name, snake, response, command, stream) \
  {&turboci__v1__##snake##_request__descriptor, &tci__wire__v1__##snake##_request__descriptor},
#include "rpc/methods.def"
#undef METHOD
};

static tci_status command_read(tci_codec_reader *r, const ProtobufCMessage *message, tci_command *out);
static bool is_over_a_limit(tci_status status);
static tci_status completion_too_large(tci_codec_reader *r, tci_str request, tci_status why, tci_command *out);
static tci_str execution_plan(tci_str execution_id);

const tci_method *tci_method_by_path(tci_str path) {
  for (size_t i = 0; i < tci_methods_len; i++)
    if (tci_str_eq(path, tci_str_from(tci_methods[i].path))) return &tci_methods[i];
  return NULL;
}

tci_status tci_codec_command(const tci_method *method, tci_str request, const tci_limits *limits, tci_arena *arena,
                             tci_command *out) {
  tci_assert(method->service == TCI_SERVICE_ORCHESTRATOR);
  memset(out, 0, sizeof *out);
  tci_codec_reader r = {.limits = limits, .arena = arena};
  ProtobufCMessage *message;
  tci_status status = tci_codec_unpack(&r, &requests[method - tci_methods], request, &message);
  if (status.code == TCI_OK) {
    out->kind = method->command;
    status = command_read(&r, message, out);
  }
  if (is_over_a_limit(status) && method->command == TCI_COMMAND_COMPLETE_EXECUTION)
    status = completion_too_large(&r, request, status, out);
  if (status.code == TCI_OUT_OF_RANGE) status.code = TCI_INVALID_ARGUMENT;
  tci_buf_deinit(&r.scratch);
  return status;
}

/* ---- what is over a limit ---- */

/* In the codec, OUT_OF_RANGE is a field over its limit. */
static bool is_over_a_limit(tci_status status) {
  return status.code == TCI_OUT_OF_RANGE || status.code == TCI_RESOURCE_EXHAUSTED;
}

/* To refuse it would leave the attempt open, until it is stale and its work is done again, with the same end. */
static tci_status completion_too_large(tci_codec_reader *r, tci_str request, tci_status why, tci_command *out) {
  enum { EXECUTION_ID = 1 };
  tci_str id = {NULL, 0};
  tci_wire_reader reader = tci_wire_read(request);
  tci_wire_field f;
  while (tci_wire_next(&reader, &f))
    if (f.number == EXECUTION_ID && f.type == TCI_WIRE_LEN) id = f.bytes;
  if (!execution_plan(id).len) return why; /* of no execution */
  memset(out, 0, sizeof *out);
  out->kind = TCI_COMMAND_COMPLETE_EXECUTION;
  out->plan_id = execution_plan(id);
  out->complete_execution.execution_id = id;
  tci_codec_failed_completion(r, why.message, &out->complete_execution.completion);
  return TCI_STATUS_OK;
}

/* ---- requests ---- */

#define AS(message, type) ((const Tci__Wire__V1__##type *)(message))

static tci_status create_plan_read(tci_codec_reader *r, const Tci__Wire__V1__CreateWorkPlanRequest *m,
                                   tci_command *out) {
  tci_codec_entry *entries = tci_codec_array(r, m->n_metadata, sizeof *entries);
  if (!entries) return tci_codec_full(r);
  for (size_t i = 0; i < m->n_metadata; i++)
    entries[i] = (tci_codec_entry){{tci_str_from(m->metadata[i]->key), tci_str_from(m->metadata[i]->value)}, i};
  out->create_plan.policy = tci_str_from(m->policy);
  return tci_codec_read_pairs(r, "metadata", entries, m->n_metadata, &out->create_plan.metadata);
}

static tci_status register_read(tci_codec_reader *r, const Tci__Wire__V1__RegisterStageRunnerRequest *m,
                                tci_command *out) {
  out->register_runner.runner_id = tci_str_from(m->runner_id);
  out->register_runner.runner_type = tci_str_from(m->runner_type);
  out->register_runner.address = tci_str_from(m->address);
  for (size_t i = 0; i < m->n_supported_modes; i++)
    if (m->supported_modes[i] != TCI__WIRE__V1__EXECUTION_MODE__EXECUTION_MODE_UNKNOWN)
      out->register_runner.modes[m->supported_modes[i]] = true;
  if (m->max_concurrent < 0)
    return tci_codec_refuse(r, NULL, "max_concurrent",
                            tci_fmt(r->arena, "%" PRId32 " is negative; 0 means unlimited", m->max_concurrent));
  out->register_runner.max_concurrent = m->max_concurrent;
  if (m->ttl_seconds < 0 || m->ttl_seconds > INT64_MAX / MS_PER_SECOND)
    return tci_codec_refuse(r, NULL, "ttl_seconds",
                            tci_fmt(r->arena, "%" PRId64 " is out of range; 0 means the server's default of %" PRId64,
                                    m->ttl_seconds, r->limits->runner_ttl_ms / MS_PER_SECOND));
  out->register_runner.ttl_ms = m->ttl_seconds * MS_PER_SECOND;
  tci_codec_entry *entries = tci_codec_array(r, m->n_metadata, sizeof *entries);
  if (!entries) return tci_codec_full(r);
  for (size_t i = 0; i < m->n_metadata; i++)
    entries[i] = (tci_codec_entry){{tci_str_from(m->metadata[i]->key), tci_str_from(m->metadata[i]->value)}, i};
  return tci_codec_read_pairs(r, "metadata", entries, m->n_metadata, &out->register_runner.metadata);
}

/* The lists are enums as wide as an int (protoc-c sees to that); states are multiples of 10, checked by the scan. */
static tci_states states_read(size_t n, const void *states) {
  _Static_assert(sizeof(Tci__Wire__V1__CheckState) == sizeof(int), "a list of states is a list of ints");
  const int *list = states;
  tci_states mask = 0;
  for (size_t i = 0; i < n; i++) mask |= tci_state_bit(list[i]);
  return mask;
}

static tci_status page_read(tci_codec_reader *r, int32_t size, const char *token, tci_command *out) {
  TCI_TRY(tci_codec_read_natural(r, NULL, "page_size", size, &out->page.size));
  if (!token[0]) return TCI_STATUS_OK;
  if (!size) return tci_codec_refuse(r, NULL, "page_token", "is given without a page_size");
  if (tci_codec_page_open(tci_str_from(token), out)) return TCI_STATUS_OK;
  return tci_codec_refuse(r, NULL, "page_token",
                          "is not a token of this query; give a next_page_token and repeat the query it came from");
}

static tci_status query_read(tci_codec_reader *r, const Tci__Wire__V1__QueryNodesRequest *m, tci_command *out) {
  tci_filter *filter = &out->query_nodes;
  out->plan_id = tci_str_from(m->work_plan_id);
  filter->include_checks = m->include_checks;
  filter->include_stages = m->include_stages;
  TCI_TRY(tci_codec_read_ids(r, m->n_check_ids, m->check_ids, &filter->check_ids));
  TCI_TRY(tci_codec_read_ids(r, m->n_stage_ids, m->stage_ids, &filter->stage_ids));
  filter->check_states = states_read(m->n_check_states, m->check_states);
  filter->stage_states = states_read(m->n_stage_states, m->stage_states);
  return page_read(r, m->page_size, m->page_token, out);
}

static tci_status watch_read(tci_codec_reader *r, const Tci__Wire__V1__WatchWorkPlanRequest *m, tci_command *out) {
  tci_filter *filter = &out->watch_plan.filter;
  out->plan_id = tci_str_from(m->work_plan_id);
  out->watch_plan.after_sequence = m->after_sequence;
  out->watch_plan.include_current = m->include_current;
  out->watch_plan.include_progress = m->include_progress;
  out->watch_plan.omit_unchanged = m->omit_unchanged;
  filter->include_checks = m->include_checks;
  filter->include_stages = m->include_stages;
  TCI_TRY(tci_codec_read_ids(r, m->n_check_id_filter, m->check_id_filter, &filter->check_ids));
  TCI_TRY(tci_codec_read_ids(r, m->n_stage_id_filter, m->stage_id_filter, &filter->stage_ids));
  filter->check_states = states_read(m->n_check_state_filter, m->check_state_filter);
  filter->stage_states = states_read(m->n_stage_state_filter, m->stage_state_filter);
  return TCI_STATUS_OK;
}

/* The plan that an execution id names; empty when it names none (then the core answers). */
static tci_str execution_plan(tci_str execution_id) {
  tci_str plan_id;
  uint32_t stage, attempt;
  return tci_execution_id_parse(execution_id, &plan_id, &stage, &attempt) ? plan_id : (tci_str){NULL, 0};
}

static tci_status update_execution_read(tci_codec_reader *r, const Tci__Wire__V1__UpdateStageExecutionRequest *m,
                                        tci_command *out) {
  out->update_execution.execution_id = tci_str_from(m->execution_id);
  out->plan_id = execution_plan(out->update_execution.execution_id);
  out->update_execution.message = tci_str_from(m->message);
  if (m->progress_percent < 0 || m->progress_percent > 100)
    return tci_codec_refuse(r, NULL, "progress_percent",
                            tci_fmt(r->arena, "%" PRId32 " is not within 0 to 100", m->progress_percent));
  out->update_execution.progress_percent = m->progress_percent;
  return tci_codec_read_struct(r, NULL, "details", m->details, &out->update_execution.details);
}

static tci_status complete_execution_read(tci_codec_reader *r, const Tci__Wire__V1__CompleteStageExecutionRequest *m,
                                          tci_command *out) {
  out->complete_execution.execution_id = tci_str_from(m->execution_id);
  out->plan_id = execution_plan(out->complete_execution.execution_id);
  return tci_codec_read_completion(r, m->stage_state, m->n_check_updates, m->check_updates, m->failure, m->details,
                                   &out->complete_execution.completion);
}

static tci_status get_execution_read(tci_codec_reader *r, const Tci__Wire__V1__GetStageExecutionRequest *m,
                                     tci_command *out) {
  out->get_execution.execution_id = tci_str_from(m->execution_id);
  out->get_execution.stage_id = tci_str_from(m->stage_id);
  out->plan_id = out->get_execution.execution_id.len ? execution_plan(out->get_execution.execution_id)
                                                     : tci_str_from(m->work_plan_id);
  return tci_codec_read_natural(r, NULL, "attempt_idx", m->attempt_idx, &out->get_execution.attempt);
}

static tci_status list_executions_read(tci_codec_reader *r, const Tci__Wire__V1__ListStageExecutionsRequest *m,
                                       tci_command *out) {
  out->plan_id = tci_str_from(m->work_plan_id);
  out->list_executions.stage_id = tci_str_from(m->stage_id);
  out->list_executions.states = states_read(m->n_states, m->states);
  return page_read(r, m->page_size, m->page_token, out);
}

static tci_status explain_read(const Tci__Wire__V1__ExplainNodeRequest *m, tci_command *out) {
  out->plan_id = tci_str_from(m->work_plan_id);
  out->explain_node.stage_id = tci_str_from(m->stage_id);
  out->explain_node.check_id = tci_str_from(m->check_id);
  return TCI_STATUS_OK;
}

static tci_status command_read(tci_codec_reader *r, const ProtobufCMessage *message, tci_command *out) {
  switch (out->kind) {
    case TCI_COMMAND_CREATE_PLAN: return create_plan_read(r, AS(message, CreateWorkPlanRequest), out);
    case TCI_COMMAND_GET_PLAN: out->plan_id = tci_str_from(AS(message, GetWorkPlanRequest)->id); return TCI_STATUS_OK;
    case TCI_COMMAND_WRITE_NODES: return tci_codec_read_write_nodes(r, AS(message, WriteNodesRequest), out);
    case TCI_COMMAND_QUERY_NODES: return query_read(r, AS(message, QueryNodesRequest), out);
    case TCI_COMMAND_WATCH_PLAN: return watch_read(r, AS(message, WatchWorkPlanRequest), out);
    case TCI_COMMAND_REGISTER_RUNNER: return register_read(r, AS(message, RegisterStageRunnerRequest), out);
    case TCI_COMMAND_UNREGISTER_RUNNER:
      out->registration_id = tci_str_from(AS(message, UnregisterStageRunnerRequest)->registration_id);
      return TCI_STATUS_OK;
    case TCI_COMMAND_LIST_RUNNERS:
      out->runner_type = tci_str_from(AS(message, ListStageRunnersRequest)->runner_type);
      return TCI_STATUS_OK;
    case TCI_COMMAND_UPDATE_EXECUTION: return update_execution_read(r, AS(message, UpdateStageExecutionRequest), out);
    case TCI_COMMAND_COMPLETE_EXECUTION:
      return complete_execution_read(r, AS(message, CompleteStageExecutionRequest), out);
    case TCI_COMMAND_GET_EXECUTION: return get_execution_read(r, AS(message, GetStageExecutionRequest), out);
    case TCI_COMMAND_LIST_EXECUTIONS: return list_executions_read(r, AS(message, ListStageExecutionsRequest), out);
    case TCI_COMMAND_EXPLAIN_NODE: return explain_read(AS(message, ExplainNodeRequest), out);
    case TCI_COMMAND_GET_SERVER_INFO:
    case TCI_COMMAND_LIST_POLICIES:
    case TCI_COMMAND_RELOAD_POLICIES: return TCI_STATUS_OK;
    case TCI_COMMAND_NONE: break;
  }
  tci_unreachable();
}

/* ---- answers ---- */

static tci_status answer_read(tci_codec_reader *r, tci_mode mode, tci_str response, tci_answer *out) {
  static const tci_codec_message run = {&turboci__v1__run_response__descriptor,
                                        &tci__wire__v1__run_response__descriptor};
  static const tci_codec_message run_async = {&turboci__v1__run_async_response__descriptor,
                                              &tci__wire__v1__run_async_response__descriptor};
  ProtobufCMessage *message;
  TCI_TRY(tci_codec_unpack(r, mode == TCI_MODE_ASYNC ? &run_async : &run, response, &message));
  if (mode == TCI_MODE_ASYNC) {
    out->accepted = AS(message, RunAsyncResponse)->accepted;
    out->runner_execution_id = tci_str_from(AS(message, RunAsyncResponse)->runner_execution_id);
    return TCI_STATUS_OK; /* estimated_completion: the deadline and the stale limit rule, not the runner's guess */
  }
  const Tci__Wire__V1__RunResponse *m = AS(message, RunResponse);
  return tci_codec_read_completion(r, m->stage_state, m->n_check_updates, m->check_updates, m->failure, m->details,
                                   &out->completion);
}

void tci_codec_answer(tci_mode mode, tci_str response, const tci_limits *limits, tci_arena *arena, tci_answer *out) {
  tci_codec_reader r = {.limits = limits, .arena = arena};
  tci_status status = answer_read(&r, mode, response, out);
  if (status.code != TCI_OK) {
    out->too_large = is_over_a_limit(status);
    out->unreadable = !out->too_large;
    out->completion = (tci_completion){0};
    out->message = tci_str_from(status.message);
  }
  tci_buf_deinit(&r.scratch);
}

void tci_codec_answer_unread(const tci_limits *limits, tci_arena *arena, tci_answer *out) {
  out->too_large = true;
  out->message = tci_str_from(tci_fmt(arena,
                                      "the answer is longer than %" PRId64
                                      " bytes (answer_bytes_max) and was not read; at most %" PRId64
                                      " are allowed (message_bytes_max)",
                                      limits->answer_bytes_max, limits->message_bytes_max));
}
