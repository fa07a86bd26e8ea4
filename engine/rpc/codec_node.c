/* codec_node: plan, check, stage, execution, runner -> their messages. Called by codec_reply.c.
 *
 * 1. A message field is there only when it says something: no empty groups, no zero timestamps, no unset retry. Structs are
 *    always there (codec_node.h).
 * 2. The core's numbers are the wire's; the assertions below hold the two lists together.
 */
#include "rpc/codec_node.h"

#define SAME(ours, theirs) \
  _Static_assert((int)(ours) == (int)(TCI__WIRE__V1__##theirs), "core/types.h differs from common.proto")

SAME(TCI_CHECK_PLANNING, CHECK_STATE__CHECK_STATE_PLANNING);
SAME(TCI_CHECK_PLANNED, CHECK_STATE__CHECK_STATE_PLANNED);
SAME(TCI_CHECK_WAITING, CHECK_STATE__CHECK_STATE_WAITING);
SAME(TCI_CHECK_FINAL, CHECK_STATE__CHECK_STATE_FINAL);
SAME(TCI_STAGE_PLANNED, STAGE_STATE__STAGE_STATE_PLANNED);
SAME(TCI_STAGE_ATTEMPTING, STAGE_STATE__STAGE_STATE_ATTEMPTING);
SAME(TCI_STAGE_AWAITING_GROUP, STAGE_STATE__STAGE_STATE_AWAITING_GROUP);
SAME(TCI_STAGE_FINAL, STAGE_STATE__STAGE_STATE_FINAL);
SAME(TCI_ATTEMPT_PENDING, ATTEMPT_STATE__ATTEMPT_STATE_PENDING);
SAME(TCI_ATTEMPT_SCHEDULED, ATTEMPT_STATE__ATTEMPT_STATE_SCHEDULED);
SAME(TCI_ATTEMPT_RUNNING, ATTEMPT_STATE__ATTEMPT_STATE_RUNNING);
SAME(TCI_ATTEMPT_COMPLETE, ATTEMPT_STATE__ATTEMPT_STATE_COMPLETE);
SAME(TCI_ATTEMPT_INCOMPLETE, ATTEMPT_STATE__ATTEMPT_STATE_INCOMPLETE);
SAME(TCI_EXECUTION_PENDING, EXECUTION_STATE__EXECUTION_STATE_PENDING);
SAME(TCI_EXECUTION_DISPATCHED, EXECUTION_STATE__EXECUTION_STATE_DISPATCHED);
SAME(TCI_EXECUTION_RUNNING, EXECUTION_STATE__EXECUTION_STATE_RUNNING);
SAME(TCI_EXECUTION_COMPLETE, EXECUTION_STATE__EXECUTION_STATE_COMPLETE);
SAME(TCI_EXECUTION_FAILED, EXECUTION_STATE__EXECUTION_STATE_FAILED);
SAME(TCI_EXECUTION_CANCELLED, EXECUTION_STATE__EXECUTION_STATE_CANCELLED);
SAME(TCI_MODE_SYNC, EXECUTION_MODE__EXECUTION_MODE_SYNC);
SAME(TCI_MODE_ASYNC, EXECUTION_MODE__EXECUTION_MODE_ASYNC);
SAME(TCI_NODE_CHECK, NODE_TYPE__NODE_TYPE_CHECK);
SAME(TCI_NODE_STAGE, NODE_TYPE__NODE_TYPE_STAGE);
SAME(TCI_PREDICATE_AND, PREDICATE_TYPE__PREDICATE_TYPE_AND);
SAME(TCI_PREDICATE_OR, PREDICATE_TYPE__PREDICATE_TYPE_OR);
SAME(TCI_ON_SUCCESS, DEPENDENCY_CONDITION__DEPENDENCY_CONDITION_ON_SUCCESS);
SAME(TCI_ON_FAILURE, DEPENDENCY_CONDITION__DEPENDENCY_CONDITION_ON_FAILURE);
SAME(TCI_OUTCOME_SUCCEEDED, OUTCOME__OUTCOME_SUCCEEDED);
SAME(TCI_OUTCOME_FAILED, OUTCOME__OUTCOME_FAILED);
SAME(TCI_OUTCOME_CANCELLED, OUTCOME__OUTCOME_CANCELLED);
SAME(TCI_OUTCOME_SKIPPED, OUTCOME__OUTCOME_SKIPPED);
SAME(TCI_REASON_ATTEMPT_COMPLETE, REASON__REASON_ATTEMPT_COMPLETE);
SAME(TCI_REASON_CHECK_FAILED, REASON__REASON_CHECK_FAILED);
SAME(TCI_REASON_NO_RETRIES_LEFT, REASON__REASON_NO_RETRIES_LEFT);
SAME(TCI_REASON_DEPENDENCIES_UNSATISFIED, REASON__REASON_DEPENDENCIES_UNSATISFIED);
SAME(TCI_REASON_CANCELLED, REASON__REASON_CANCELLED);
SAME(TCI_REASON_NO_RESULT, REASON__REASON_NO_RESULT);
SAME(TCI_REASON_RESULTS_FINAL, REASON__REASON_RESULTS_FINAL);
SAME(TCI_REASON_RESULT_FAILED, REASON__REASON_RESULT_FAILED);
SAME(TCI_REASON_WRITTEN, REASON__REASON_WRITTEN);
SAME(TCI_FAILURE_REPORTED, FAILURE_KIND__FAILURE_KIND_REPORTED);
SAME(TCI_FAILURE_REJECTED, FAILURE_KIND__FAILURE_KIND_REJECTED);
SAME(TCI_FAILURE_UNREACHABLE, FAILURE_KIND__FAILURE_KIND_UNREACHABLE);
SAME(TCI_FAILURE_TIMEOUT, FAILURE_KIND__FAILURE_KIND_TIMEOUT);
SAME(TCI_FAILURE_STALE, FAILURE_KIND__FAILURE_KIND_STALE);
SAME(TCI_FAILURE_RUNNER_LOST, FAILURE_KIND__FAILURE_KIND_RUNNER_LOST);
SAME(TCI_FAILURE_ENGINE_RESTART, FAILURE_KIND__FAILURE_KIND_ENGINE_RESTART);
SAME(TCI_FAILURE_PROTOCOL, FAILURE_KIND__FAILURE_KIND_PROTOCOL);
SAME(TCI_FAILURE_CANCELLED, FAILURE_KIND__FAILURE_KIND_CANCELLED);
SAME(TCI_FAILURE_POLICY, FAILURE_KIND__FAILURE_KIND_POLICY);
SAME(TCI_PLAN_ACTIVE, WORK_PLAN_STATE__WORK_PLAN_STATE_ACTIVE);
SAME(TCI_PLAN_SETTLED, WORK_PLAN_STATE__WORK_PLAN_STATE_SETTLED);

enum { US_PER_SECOND = 1000000, NANOS_PER_US = 1000 };

/* ---- values ---- */

char *tci_codec_text(tci_arena *arena, tci_str s) {
  return s.len ? tci_str_z(arena, s) : (char *)protobuf_c_empty_string;
}

Google__Protobuf__Timestamp *tci_codec_time(tci_arena *arena, int64_t wall_us) {
  if (!wall_us) return NULL;
  Google__Protobuf__Timestamp *m = tci_arena_new(arena, Google__Protobuf__Timestamp);
  google__protobuf__timestamp__init(m);
  int64_t us = wall_us % US_PER_SECOND;
  m->seconds = wall_us / US_PER_SECOND - (us < 0); /* nanos count forward, also before 1970 */
  m->nanos = (int32_t)((us < 0 ? us + US_PER_SECOND : us) * NANOS_PER_US);
  return m;
}

ProtobufCBinaryData tci_codec_struct(tci_str encoded) {
  return (ProtobufCBinaryData){encoded.len, (uint8_t *)encoded.ptr}; /* packing only reads it */
}

static Tci__Wire__V1__Failure *failure(tci_arena *arena, const tci_failure *from) {
  if (!from->present) return NULL;
  Tci__Wire__V1__Failure *m = tci_arena_new(arena, Tci__Wire__V1__Failure);
  tci__wire__v1__failure__init(m);
  m->message = tci_codec_text(arena, from->message);
  m->occurred_at = tci_codec_time(arena, from->occurred_us);
  m->kind = (Tci__Wire__V1__FailureKind)from->kind;
  return m;
}

static Tci__Wire__V1__DependencyGroup *group(tci_arena *arena, const tci_group *from) {
  if (from->predicate == TCI_PREDICATE_UNKNOWN && !from->len) return NULL;
  Tci__Wire__V1__DependencyGroup *m = tci_arena_new(arena, Tci__Wire__V1__DependencyGroup);
  tci__wire__v1__dependency_group__init(m);
  m->predicate = (Tci__Wire__V1__PredicateType)from->predicate;
  m->n_dependencies = from->len;
  m->dependencies = tci_arena_array(arena, Tci__Wire__V1__Dependency *, from->len);
  for (size_t i = 0; i < from->len; i++) {
    Tci__Wire__V1__Dependency *d = m->dependencies[i] = tci_arena_new(arena, Tci__Wire__V1__Dependency);
    tci__wire__v1__dependency__init(d);
    d->target_type = (Tci__Wire__V1__NodeType)from->edges[i].target->kind;
    d->target_id = tci_codec_text(arena, from->edges[i].target->id);
    d->condition = (Tci__Wire__V1__DependencyCondition)from->edges[i].condition;
  }
  return m;
}

static Tci__Wire__V1__ProgressEntry **progress(tci_arena *arena, const tci_attempt *attempt) {
  Tci__Wire__V1__ProgressEntry **list = tci_arena_array(arena, Tci__Wire__V1__ProgressEntry *, attempt->progress.len);
  for (size_t i = 0; i < attempt->progress.len; i++) {
    const tci_progress *from = &attempt->progress.items[i];
    Tci__Wire__V1__ProgressEntry *m = list[i] = tci_arena_new(arena, Tci__Wire__V1__ProgressEntry);
    tci__wire__v1__progress_entry__init(m);
    m->message = tci_codec_text(arena, from->message);
    m->timestamp = tci_codec_time(arena, from->at_us);
    TCI_CODEC_STRUCT(m, PROGRESS_ENTRY, DETAILS, details, from->details);
  }
  return list;
}

/* ---- plan and check ---- */

Tci__Wire__V1__WorkPlan *tci_codec_plan(tci_arena *arena, const tci_plan *plan) {
  Tci__Wire__V1__WorkPlan *m = tci_arena_new(arena, Tci__Wire__V1__WorkPlan);
  tci__wire__v1__work_plan__init(m);
  m->id = tci_codec_text(arena, plan->id);
  m->created_at = tci_codec_time(arena, plan->created_us);
  m->updated_at = tci_codec_time(arena, plan->updated_us);
  m->version = plan->version;
  m->state = (Tci__Wire__V1__WorkPlanState)plan->state;
  m->outcome = (Tci__Wire__V1__Outcome)plan->outcome;
  m->policy = tci_codec_text(arena, plan->policy);
  m->n_metadata = plan->metadata.len;
  m->metadata = tci_arena_array(arena, Tci__Wire__V1__WorkPlan__MetadataEntry *, plan->metadata.len);
  for (size_t i = 0; i < plan->metadata.len; i++) {
    m->metadata[i] = tci_arena_new(arena, Tci__Wire__V1__WorkPlan__MetadataEntry);
    tci__wire__v1__work_plan__metadata_entry__init(m->metadata[i]);
    m->metadata[i]->key = tci_codec_text(arena, plan->metadata.items[i].key);
    m->metadata[i]->value = tci_codec_text(arena, plan->metadata.items[i].value);
  }
  return m;
}

static Tci__Wire__V1__CheckResult *result(tci_arena *arena, const tci_result *from) {
  Tci__Wire__V1__CheckResult *m = tci_arena_new(arena, Tci__Wire__V1__CheckResult);
  tci__wire__v1__check_result__init(m);
  m->id = from->id;
  m->owner_type = tci_codec_text(arena, from->owner_type);
  m->owner_id = tci_codec_text(arena, from->owner_id);
  TCI_CODEC_STRUCT(m, CHECK_RESULT, DATA, data, from->data);
  m->created_at = tci_codec_time(arena, from->created_us);
  m->finalized_at = tci_codec_time(arena, from->finalized_us);
  m->failure = failure(arena, &from->failure);
  return m;
}

Tci__Wire__V1__Check *tci_codec_check(tci_arena *arena, const tci_check *check) {
  const tci_node *node = &check->node;
  Tci__Wire__V1__Check *m = tci_arena_new(arena, Tci__Wire__V1__Check);
  tci__wire__v1__check__init(m);
  m->id = tci_codec_text(arena, node->id);
  m->work_plan_id = tci_codec_text(arena, node->plan->id);
  m->state = (Tci__Wire__V1__CheckState)check->state;
  m->kind = tci_codec_text(arena, check->kind);
  TCI_CODEC_STRUCT(m, CHECK, OPTIONS, options, check->options);
  m->n_results = check->results.len;
  m->results = tci_arena_array(arena, Tci__Wire__V1__CheckResult *, check->results.len);
  for (size_t i = 0; i < check->results.len; i++) m->results[i] = result(arena, &check->results.items[i]);
  m->dependencies = group(arena, &node->group);
  m->created_at = tci_codec_time(arena, node->created_us);
  m->updated_at = tci_codec_time(arena, node->updated_us);
  m->version = node->version;
  m->outcome = (Tci__Wire__V1__Outcome)node->outcome;
  m->reason = (Tci__Wire__V1__Reason)node->reason;
  return m;
}

/* ---- stage ---- */

static Tci__Wire__V1__Attempt *attempt(tci_arena *arena, const tci_attempt *from) {
  Tci__Wire__V1__Attempt *m = tci_arena_new(arena, Tci__Wire__V1__Attempt);
  tci__wire__v1__attempt__init(m);
  m->idx = (int32_t)from->index;
  m->state = (Tci__Wire__V1__AttemptState)from->state;
  /* Who works on it: the client that claimed it, or the runner it was given to. */
  m->process_uid = tci_codec_text(arena, from->process_uid.len ? from->process_uid : from->runner_id);
  TCI_CODEC_STRUCT(m, ATTEMPT, DETAILS, details, from->details);
  m->n_progress = from->progress.len;
  m->progress = progress(arena, from);
  m->created_at = tci_codec_time(arena, from->created_us);
  m->updated_at = tci_codec_time(arena, from->updated_us);
  m->failure = failure(arena, &from->failure);
  return m;
}

static Tci__Wire__V1__RetryPolicy *retry(tci_arena *arena, const tci_retry *from) {
  if (!from->max_attempts && !from->backoff_ms && !from->backoff_ms_max) return NULL;
  Tci__Wire__V1__RetryPolicy *m = tci_arena_new(arena, Tci__Wire__V1__RetryPolicy);
  tci__wire__v1__retry_policy__init(m);
  m->max_attempts = (int32_t)from->max_attempts;
  m->backoff_ms = from->backoff_ms;
  m->backoff_ms_max = from->backoff_ms_max;
  return m;
}

static Tci__Wire__V1__Timeouts *timeouts(tci_arena *arena, const tci_timeouts *from) {
  if (!from->execution_ms && !from->stale_ms) return NULL;
  Tci__Wire__V1__Timeouts *m = tci_arena_new(arena, Tci__Wire__V1__Timeouts);
  tci__wire__v1__timeouts__init(m);
  m->execution_ms = from->execution_ms;
  m->stale_ms = from->stale_ms;
  return m;
}

Tci__Wire__V1__Stage *tci_codec_stage(tci_arena *arena, const tci_stage *stage) {
  const tci_node *node = &stage->node;
  Tci__Wire__V1__Stage *m = tci_arena_new(arena, Tci__Wire__V1__Stage);
  tci__wire__v1__stage__init(m);
  m->id = tci_codec_text(arena, node->id);
  m->work_plan_id = tci_codec_text(arena, node->plan->id);
  m->state = (Tci__Wire__V1__StageState)stage->state;
  TCI_CODEC_STRUCT(m, STAGE, ARGS, args, stage->args);
  m->n_attempts = stage->attempts.len;
  m->attempts = tci_arena_array(arena, Tci__Wire__V1__Attempt *, stage->attempts.len);
  for (size_t i = 0; i < stage->attempts.len; i++) m->attempts[i] = attempt(arena, stage->attempts.items[i]);
  m->n_assignments = stage->assignments_len;
  m->assignments = tci_arena_array(arena, Tci__Wire__V1__Assignment *, stage->assignments_len);
  for (size_t i = 0; i < stage->assignments_len; i++) {
    Tci__Wire__V1__Assignment *a = m->assignments[i] = tci_arena_new(arena, Tci__Wire__V1__Assignment);
    tci__wire__v1__assignment__init(a);
    a->target_check_id = tci_codec_text(arena, stage->assignments[i].check->node.id);
    a->goal_state = (Tci__Wire__V1__CheckState)stage->assignments[i].goal;
  }
  m->dependencies = group(arena, &node->group);
  m->created_at = tci_codec_time(arena, node->created_us);
  m->updated_at = tci_codec_time(arena, node->updated_us);
  m->version = node->version;
  m->execution_mode = (Tci__Wire__V1__ExecutionMode)stage->mode;
  m->runner_type = tci_codec_text(arena, stage->runner_type);
  m->outcome = (Tci__Wire__V1__Outcome)node->outcome;
  m->reason = (Tci__Wire__V1__Reason)node->reason;
  m->priority = (int32_t)stage->priority;
  m->retry = retry(arena, &stage->retry);
  m->timeouts = timeouts(arena, &stage->timeouts);
  return m;
}

/* ---- execution and runner ---- */

Tci__Wire__V1__StageExecution *tci_codec_execution(tci_arena *arena, const tci_attempt *from) {
  const tci_stage *stage = from->stage;
  Tci__Wire__V1__StageExecution *m = tci_arena_new(arena, Tci__Wire__V1__StageExecution);
  tci__wire__v1__stage_execution__init(m);
  m->work_plan_id = tci_codec_text(arena, stage->node.plan->id);
  m->stage_id = tci_codec_text(arena, stage->node.id);
  m->attempt_idx = (int32_t)from->index;
  m->state = (Tci__Wire__V1__ExecutionState)from->execution;
  m->execution_mode = (Tci__Wire__V1__ExecutionMode)from->mode;
  m->runner_type = tci_codec_text(arena, stage->runner_type);
  m->runner_id = tci_codec_text(arena, from->runner_id);
  m->created_at = tci_codec_time(arena, from->created_us);
  m->dispatched_at = tci_codec_time(arena, from->dispatched_us);
  m->started_at = tci_codec_time(arena, from->started_us);
  m->finished_at = tci_codec_time(arena, from->finished_us);
  m->deadline = tci_codec_time(arena, from->deadline_us);
  m->not_before = tci_codec_time(arena, from->not_before_us);
  m->failure = failure(arena, &from->failure);
  m->n_progress = from->progress.len;
  m->progress = progress(arena, from);
  m->attempt_state = (Tci__Wire__V1__AttemptState)from->state;
  m->runner_execution_id = tci_codec_text(arena, from->runner_execution_id);
  m->n_decisions = tci_codec_decisions(arena, &from, 1, &m->decisions);
  m->n_excluded_runners = tci_codec_encoded_names(arena, from->exclude, &m->excluded_runners);
  m->n_admission_keys = tci_codec_encoded_names(arena, from->keys, &m->admission_keys);
  return m;
}

Tci__Wire__V1__StageRunnerInfo *tci_codec_runner(tci_arena *arena, const tci_runner *runner) {
  Tci__Wire__V1__StageRunnerInfo *m = tci_arena_new(arena, Tci__Wire__V1__StageRunnerInfo);
  tci__wire__v1__stage_runner_info__init(m);
  m->runner_id = tci_codec_text(arena, runner->runner_id);
  m->registration_id = tci_codec_text(arena, runner->registration_id);
  m->runner_type = tci_codec_text(arena, runner->runner_type);
  m->address = tci_codec_text(arena, runner->address);
  m->supported_modes = tci_arena_array(arena, Tci__Wire__V1__ExecutionMode, TCI_MODES);
  for (int mode = TCI_MODE_SYNC; mode < TCI_MODES; mode++)
    if (runner->modes[mode]) m->supported_modes[m->n_supported_modes++] = (Tci__Wire__V1__ExecutionMode)mode;
  m->max_concurrent = (int32_t)runner->max_concurrent;
  m->current_load = (int32_t)runner->load;
  m->registered_at = tci_codec_time(arena, runner->registered_us);
  m->last_heartbeat = tci_codec_time(arena, runner->heartbeat_us);
  m->expires_at = tci_codec_time(arena, runner->expires_us);
  m->n_metadata = runner->metadata.len;
  m->metadata = tci_arena_array(arena, Tci__Wire__V1__StageRunnerInfo__MetadataEntry *, runner->metadata.len);
  for (size_t i = 0; i < runner->metadata.len; i++) {
    m->metadata[i] = tci_arena_new(arena, Tci__Wire__V1__StageRunnerInfo__MetadataEntry);
    tci__wire__v1__stage_runner_info__metadata_entry__init(m->metadata[i]);
    m->metadata[i]->key = tci_codec_text(arena, runner->metadata.items[i].key);
    m->metadata[i]->value = tci_codec_text(arena, runner->metadata.items[i].value);
  }
  return m;
}
