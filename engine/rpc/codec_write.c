/* codec_write: WriteNodesRequest -> tci_command. Only shapes and ranges; what is missing, unknown or forbidden is the
 * core's to say. Called by codec.c.
 */
#include "rpc/codec_read.h"

static tci_status dependencies_read(tci_codec_reader *r, const Tci__Wire__V1__DependencyGroup *m,
                                    tci_dependencies *out) {
  if (!m || (!m->predicate && !m->n_dependencies)) return TCI_STATUS_OK; /* an empty message is 'not given' */
  out->given = true;
  out->predicate = (tci_predicate)m->predicate;
  out->items = tci_codec_array(r, m->n_dependencies, sizeof *out->items);
  if (!out->items) return tci_codec_full(r);
  out->len = m->n_dependencies;
  for (size_t i = 0; i < out->len; i++) {
    const Tci__Wire__V1__Dependency *d = m->dependencies[i];
    out->items[i] = (tci_dependency){.target_kind = (tci_node_kind)d->target_type,
                                     .target_id = tci_str_from(d->target_id),
                                     .condition = (tci_condition)d->condition};
  }
  return TCI_STATUS_OK;
}

static tci_status result_read(tci_codec_reader *r, const tci_codec_place *place,
                              const Tci__Wire__V1__CheckResultWrite *m, tci_result_write *out) {
  tci_codec_place here = {place, "result", SIZE_MAX};
  out->owner_type = tci_str_from(m->owner_type);
  out->owner_id = tci_str_from(m->owner_id);
  out->finalize = m->finalize;
  TCI_TRY(tci_codec_read_struct(r, &here, "data", m->data, &out->data));
  return tci_codec_read_failure(r, &here, "failure", m->failure, &out->failure);
}

static tci_status check_read(tci_codec_reader *r, const tci_codec_place *here, const Tci__Wire__V1__CheckWrite *m,
                             tci_check_write *out) {
  out->id = tci_str_from(m->id);
  out->state = (tci_check_state)m->state;
  out->kind = tci_str_from(m->kind);
  TCI_TRY(tci_codec_read_natural(r, here, "expected_version", m->expected_version, &out->expected_version));
  TCI_TRY(tci_codec_read_struct(r, here, "options", m->options, &out->options));
  TCI_TRY(dependencies_read(r, m->dependencies, &out->dependencies));
  if (!m->result) return TCI_STATUS_OK;
  const tci_result_write *result = &out->result;
  TCI_TRY(result_read(r, here, m->result, &out->result));
  out->has_result =
      result->owner_type.len || result->owner_id.len || result->data.len || result->finalize || result->failure.present;
  return TCI_STATUS_OK;
}

static tci_status attempt_read(tci_codec_reader *r, const tci_codec_place *place, const Tci__Wire__V1__AttemptWrite *m,
                               tci_attempt_write *out) {
  tci_codec_place here = {place, "current_attempt", SIZE_MAX};
  out->state = (tci_attempt_state)m->state;
  out->process_uid = tci_str_from(m->process_uid);
  TCI_TRY(tci_codec_read_struct(r, &here, "details", m->details, &out->details));
  TCI_TRY(tci_codec_read_failure(r, &here, "failure", m->failure, &out->failure));
  if (!m->progress) return TCI_STATUS_OK;
  tci_codec_place progress = {&here, "progress", SIZE_MAX};
  out->progress_message = tci_str_from(m->progress->message);
  TCI_TRY(tci_codec_read_time(r, &progress, "timestamp", m->progress->timestamp, &out->progress_us));
  TCI_TRY(tci_codec_read_struct(r, &progress, "details", m->progress->details, &out->progress_details));
  out->has_progress = out->progress_message.len || out->progress_details.len || out->progress_us;
  return TCI_STATUS_OK;
}

static tci_status assignments_read(tci_codec_reader *r, const Tci__Wire__V1__StageWrite *m, tci_stage_write *out) {
  out->assignments = tci_codec_array(r, m->n_assignments, sizeof *out->assignments);
  if (!out->assignments) return tci_codec_full(r);
  out->assignments_len = m->n_assignments;
  for (size_t i = 0; i < out->assignments_len; i++)
    out->assignments[i] = (tci_assignment_write){.check_id = tci_str_from(m->assignments[i]->target_check_id),
                                                 .goal = (tci_check_state)m->assignments[i]->goal_state};
  return TCI_STATUS_OK;
}

static tci_status retry_read(tci_codec_reader *r, const tci_codec_place *place, const Tci__Wire__V1__RetryPolicy *m,
                             tci_retry *out) {
  tci_codec_place here = {place, "retry", SIZE_MAX};
  if (!m) return TCI_STATUS_OK;
  TCI_TRY(tci_codec_read_natural(r, &here, "max_attempts", m->max_attempts, &out->max_attempts));
  TCI_TRY(tci_codec_read_natural(r, &here, "backoff_ms", m->backoff_ms, &out->backoff_ms));
  return tci_codec_read_natural(r, &here, "backoff_ms_max", m->backoff_ms_max, &out->backoff_ms_max);
}

static tci_status timeouts_read(tci_codec_reader *r, const tci_codec_place *place, const Tci__Wire__V1__Timeouts *m,
                                tci_timeouts *out) {
  tci_codec_place here = {place, "timeouts", SIZE_MAX};
  if (!m) return TCI_STATUS_OK;
  TCI_TRY(tci_codec_read_natural(r, &here, "execution_ms", m->execution_ms, &out->execution_ms));
  return tci_codec_read_natural(r, &here, "stale_ms", m->stale_ms, &out->stale_ms);
}

static tci_status stage_read(tci_codec_reader *r, const tci_codec_place *here, const Tci__Wire__V1__StageWrite *m,
                             tci_stage_write *out) {
  out->id = tci_str_from(m->id);
  out->state = (tci_stage_state)m->state;
  out->mode = (tci_mode)m->execution_mode;
  out->runner_type = tci_str_from(m->runner_type);
  out->priority = m->priority;
  TCI_TRY(tci_codec_read_natural(r, here, "expected_version", m->expected_version, &out->expected_version));
  TCI_TRY(retry_read(r, here, m->retry, &out->retry));
  TCI_TRY(timeouts_read(r, here, m->timeouts, &out->timeouts));
  TCI_TRY(tci_codec_read_struct(r, here, "args", m->args, &out->args));
  TCI_TRY(assignments_read(r, m, out));
  TCI_TRY(dependencies_read(r, m->dependencies, &out->dependencies));
  if (!m->current_attempt) return TCI_STATUS_OK;
  const tci_attempt_write *attempt = &out->attempt;
  TCI_TRY(attempt_read(r, here, m->current_attempt, &out->attempt));
  out->has_attempt = attempt->state || attempt->process_uid.len || attempt->details.len || attempt->has_progress ||
                     attempt->failure.present;
  return TCI_STATUS_OK;
}

tci_status tci_codec_read_write_nodes(tci_codec_reader *r, const Tci__Wire__V1__WriteNodesRequest *m,
                                      tci_command *out) {
  out->plan_id = tci_str_from(m->work_plan_id);
  out->write_nodes.omit_nodes = m->omit_nodes;
  TCI_TRY(tci_codec_read_natural(r, NULL, "expected_plan_version", m->expected_plan_version,
                                 &out->write_nodes.expected_plan_version));
  out->write_nodes.checks = tci_codec_array(r, m->n_checks, sizeof *out->write_nodes.checks);
  out->write_nodes.stages = tci_codec_array(r, m->n_stages, sizeof *out->write_nodes.stages);
  if (!out->write_nodes.checks || !out->write_nodes.stages) return tci_codec_full(r);
  out->write_nodes.checks_len = m->n_checks;
  out->write_nodes.stages_len = m->n_stages;
  for (size_t i = 0; i < m->n_checks; i++) {
    tci_codec_place here = {NULL, "checks", i};
    TCI_TRY(check_read(r, &here, m->checks[i], &out->write_nodes.checks[i]));
  }
  for (size_t i = 0; i < m->n_stages; i++) {
    tci_codec_place here = {NULL, "stages", i};
    TCI_TRY(stage_read(r, &here, m->stages[i], &out->write_nodes.stages[i]));
  }
  return TCI_STATUS_OK;
}
