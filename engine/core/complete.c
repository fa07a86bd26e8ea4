/* complete: what runners say: results, progress, completions, answers of RPCs.
 *
 * Invariants: a completion is applied once (its digest tells a repeat from a contradiction); it touches only checks its
 * stage is assigned to; a FINAL check never changes: what comes too late is kept in the attempt's details.
 */
#include <string.h>

#include "core/internal.h"

/* ---- results and checks ---- */

tci_result *tci_check_result(tci_check *check, tci_str owner_type, tci_str owner_id) {
  if (check->by_owner.len) {
    tci_str key = tci_owner_key(owner_type, owner_id);
    size_t place = (uintptr_t)tci_map_get(&check->by_owner, key);
    tci_str_free(&key);
    return place ? &check->results.items[place - 1] : NULL;
  }
  for (size_t i = check->results.len; i > 0; i--) {
    tci_result *r = &check->results.items[i - 1];
    if (tci_str_eq(r->owner_id, owner_id) && tci_str_eq(r->owner_type, owner_type)) return r;
  }
  return NULL;
}

void tci_check_put_result(tci_core *core, tci_check *check, tci_str owner_type, tci_str owner_id, tci_str data,
                          bool finalize, const tci_failure *failure) {
  tci_stage *stage = tci_str_eq(owner_type, TCI_STR("stage")) ? tci_plan_stage(check->node.plan, owner_id) : NULL;
  const tci_assignment *a = stage ? tci_stage_assignment(stage, check) : NULL;
  tci_result *old =
      a ? (a->result ? &check->results.items[a->result - 1] : NULL) : tci_check_result(check, owner_type, owner_id);
  bool counts = a && tci_goal_counts(a->goal) && !a->done;
  tci_change c = {.type = TCI_CHANGE_CHECK_RESULT,
                  .node = check->node.index + 1u,
                  .result = old ? (uint64_t)old->id : check->results.len + 1,
                  .owner_type = owner_type,
                  .owner_id = owner_id,
                  .bytes = data.len || !old ? data : old->data,
                  .finalized = finalize || (old && old->finalized_us),
                  .move_follows = finalize && check->pending == (counts ? 1 : 0)};
  tci_change_set_failure(&c, failure->present || !old ? failure : &old->failure);
  tci_emit(core, check->node.plan, &c);
}

void tci_check_finish(tci_core *core, tci_check *check, tci_outcome outcome, tci_reason reason) {
  tci_emit(core, check->node.plan,
           &(tci_change){.type = TCI_CHANGE_CHECK_STATE,
                         .node = check->node.index + 1u,
                         .state = TCI_CHECK_FINAL,
                         .outcome = outcome,
                         .reason = reason});
}

tci_outcome tci_check_verdict(const tci_check *check, tci_reason *reason) {
  *reason = TCI_REASON_RESULTS_FINAL;
  for (size_t i = 0; i < check->results.len; i++) {
    const tci_result *r = &check->results.items[i];
    if (!r->finalized_us || !r->failure.present) continue;
    *reason = TCI_REASON_RESULT_FAILED;
    return TCI_OUTCOME_FAILED;
  }
  return TCI_OUTCOME_SUCCEEDED;
}

/* Why a stage that is FINAL left no result behind. */
static tci_failure missing_result(tci_core *core, const tci_stage *stage) {
  tci_arena *arena = &core->update->arena;
  const tci_attempt *last = tci_stage_attempt(stage);
  tci_failure failure = {.present = true, .occurred_us = core->now.wall_us};
  const char *why = "no result reported";
  if (stage->node.reason == TCI_REASON_DEPENDENCIES_UNSATISFIED)
    why = "skipped: dependencies unsatisfied";
  else if (stage->node.reason == TCI_REASON_WRITTEN && !last)
    why = "made final by a client before it ran";
  else if (stage->node.outcome == TCI_OUTCOME_CANCELLED)
    why = "cancelled";
  else if (last && last->failure.present) {
    failure.kind = last->failure.kind;
    why = tci_fmt(arena, "no retries left: %.*s", TCI_STR_ARG(last->failure.message));
  }
  failure.message = tci_str_from(tci_fmt(arena, "stage %.*s: %s", TCI_STR_ARG(stage->node.id), why));
  return failure;
}

void tci_check_settle(tci_core *core, tci_check *check) {
  if (check->state == TCI_CHECK_FINAL || check->pending) return;
  if (check->state == TCI_CHECK_PLANNED && check->assigned.len)
    tci_list_settling(core, check); /* its own dependencies may be about to be known, and then they decide */
  else
    tci_check_settle_now(core, check);
}

void tci_check_settle_now(tci_core *core, tci_check *check) {
  bool missing = false;
  for (size_t i = 0; i < check->assigned.len; i++) {
    const tci_assignment *a = check->assigned.items[i];
    const tci_stage *stage = a->stage;
    const tci_result *r = a->result ? &check->results.items[a->result - 1] : NULL;
    if (r && r->finalized_us) continue;
    if (core->changes_left <= 0) {
      tci_list_ended(core, &check->node);
      return;
    }
    tci_failure failure = {0};
    if (!r || (stage->node.outcome != TCI_OUTCOME_SUCCEEDED && !r->failure.present)) {
      failure = missing_result(core, stage);
      missing = true;
    }
    tci_check_put_result(core, check, TCI_STR("stage"), stage->node.id, (tci_str){0}, true, &failure);
  }
  tci_reason reason;
  tci_outcome outcome = tci_check_verdict(check, &reason);
  tci_check_finish(core, check, outcome, missing ? TCI_REASON_NO_RESULT : reason);
}

bool tci_stage_failed_a_check(tci_stage *stage) {
  for (size_t i = 0; i < stage->assignments_len; i++) {
    const tci_assignment *a = &stage->assignments[i];
    if (!a->result) continue;
    const tci_result *r = &a->check->results.items[a->result - 1];
    if (r->finalized_us && r->failure.present) return true;
  }
  return false;
}

/* ---- completions ---- */

const char *tci_completion_fault(tci_core *core, const tci_attempt *attempt, const tci_completion *completion) {
  tci_stage *stage = attempt->stage;
  tci_arena *arena = &core->update->arena;
  for (size_t i = 0; i < completion->updates_len; i++) {
    tci_str id = completion->updates[i].check_id;
    const tci_check *check = tci_plan_check(stage->node.plan, id);
    if (check && tci_stage_assignment(stage, check)) continue;
    return tci_fmt(arena, "check_updates[%zu].check_id: stage '%.*s' is not assigned to a check '%.*s'", i,
                   TCI_STR_ARG(stage->node.id), TCI_STR_ARG(id));
  }
  if (completion->failure.present || completion->stage_state == TCI_STAGE_FINAL ||
      completion->stage_state == TCI_STAGE_AWAITING_GROUP)
    return NULL;
  return tci_fmt(arena,
                 "stage_state: %s ends no stage; give STAGE_STATE_FINAL or STAGE_STATE_AWAITING_GROUP, or a failure",
                 tci_stage_state_name(completion->stage_state));
}

/* Sets one entry of the Struct that `entries` holds. */
static void set_entry(tci_buf *entries, tci_str key, const tci_buf *value) {
  tci_buf with = {0};
  tci_struct_set(tci_buf_str(entries), key, tci_buf_str(value), &with);
  tci_buf_deinit(entries);
  *entries = with;
}

static void put_kept_update(tci_buf *list, const tci_check_update *update) {
  tci_buf entries = {0}, value = {0};
  tci_value_put_string(&value, update->check_id);
  set_entry(&entries, TCI_STR("check_id"), &value);
  if (update->failure.present) {
    tci_buf_clear(&value);
    tci_value_put_string(&value, update->failure.message);
    set_entry(&entries, TCI_STR("failure"), &value);
  }
  if (update->data.len) {
    tci_buf_clear(&value);
    tci_value_put_struct(&value, update->data);
    set_entry(&entries, TCI_STR("data"), &value);
  }
  tci_buf_clear(&value);
  tci_value_put_struct(&value, tci_buf_str(&entries));
  tci_wire_put_varint(list, value.len);
  tci_buf_add(list, tci_buf_str(&value));
  tci_buf_deinit(&entries);
  tci_buf_deinit(&value);
}

/* Writes details, plus the kept updates under one key, into the attempt. */
static void keep(tci_core *core, tci_attempt *a, tci_str details, const tci_buf *updates) {
  tci_buf merged = {0}, value = {0};
  if (updates->len) {
    tci_value_put_list(&value, tci_buf_str(updates));
    tci_struct_set(details, TCI_STR("turboci.check_updates_not_applied"), tci_buf_str(&value), &merged);
    details = tci_buf_str(&merged);
  }
  if (details.len) {
    tci_change c = {
        .type = TCI_CHANGE_ATTEMPT, .node = a->stage->node.index + 1u, .attempt = a->index, .bytes = details};
    tci_emit(core, a->stage->node.plan, &c);
  }
  tci_buf_deinit(&merged);
  tci_buf_deinit(&value);
}

void tci_completion_keep(tci_core *core, tci_attempt *a, const tci_completion *completion) {
  tci_buf updates = {0};
  for (size_t i = 0; i < completion->updates_len; i++) put_kept_update(&updates, &completion->updates[i]);
  keep(core, a, completion->details, &updates);
  tci_buf_deinit(&updates);
}

void tci_completion_apply(tci_core *core, tci_attempt *a, const tci_completion *completion) {
  tci_stage *stage = a->stage;
  tci_buf late = {0};
  for (size_t i = 0; i < completion->updates_len; i++) {
    const tci_check_update *u = &completion->updates[i];
    tci_check *check = tci_plan_check(stage->node.plan, u->check_id);
    bool finalize = u->finalize || u->state == TCI_CHECK_FINAL;
    const tci_assignment *assignment = tci_stage_assignment(stage, check);
    bool said = assignment->result && check->results.items[assignment->result - 1].finalized_us;
    if (check->state == TCI_CHECK_FINAL || said) {
      put_kept_update(&late, u);
    } else if (finalize || u->data.len || u->failure.present) {
      tci_check_put_result(core, check, TCI_STR("stage"), stage->node.id, u->data, finalize, &u->failure);
      if (finalize) tci_check_settle(core, check);
    }
  }
  keep(core, a, completion->details, &late);
  tci_buf_deinit(&late);
}

void tci_complete(tci_core *core, tci_attempt *a, const tci_completion *completion) {
  tci_stage *stage = a->stage;
  tci_attempt_flush(core, a);
  if (a->state == TCI_ATTEMPT_SCHEDULED) tci_attempt_move(core, a, TCI_ATTEMPT_RUNNING, TCI_EXECUTION_RUNNING);
  if (completion->failure.present) {
    tci_attempt_fail(core, a, TCI_FAILURE_REPORTED, completion->failure.message, completion);
    return;
  }
  tci_emit(core, stage->node.plan,
           &(tci_change){.type = TCI_CHANGE_ATTEMPT,
                         .node = stage->node.index + 1u,
                         .attempt = a->index,
                         .state = TCI_ATTEMPT_COMPLETE,
                         .execution = TCI_EXECUTION_COMPLETE,
                         .has_digest = true,
                         .digest0 = completion->digest[0],
                         .digest1 = completion->digest[1]});
  tci_completion_apply(core, a, completion);
  if (completion->stage_state == TCI_STAGE_AWAITING_GROUP)
    tci_emit(core, stage->node.plan,
             &(tci_change){
                 .type = TCI_CHANGE_STAGE_STATE, .node = stage->node.index + 1u, .state = TCI_STAGE_AWAITING_GROUP});
  if (tci_stage_failed_a_check(stage))
    tci_stage_finish(core, stage, TCI_OUTCOME_FAILED, TCI_REASON_CHECK_FAILED);
  else
    tci_stage_finish(core, stage, TCI_OUTCOME_SUCCEEDED, TCI_REASON_ATTEMPT_COMPLETE);
}

/* ---- events ---- */

static void on_async_answer(tci_core *core, tci_attempt *a, const tci_answer *answer) {
  if (!answer->accepted) {
    tci_attempt_fail(core, a, TCI_FAILURE_REJECTED, TCI_STR("the runner did not accept the work"), NULL);
    return;
  }
  tci_emit(core, a->stage->node.plan,
           &(tci_change){.type = TCI_CHANGE_ATTEMPT,
                         .node = a->stage->node.index + 1u,
                         .attempt = a->index,
                         .accepted = true,
                         .runner_execution_id = answer->runner_execution_id});
}

static void on_rpc_error(tci_core *core, tci_attempt *a, const tci_answer *answer) {
  /* It has called back: it has the work, whatever became of the answer to RunAsync. */
  if (a->mode == TCI_MODE_ASYNC && a->accepted) return;
  tci_failure_kind kind = TCI_FAILURE_REPORTED;
  switch (answer->code) {
    case TCI_RESOURCE_EXHAUSTED:
    case TCI_UNIMPLEMENTED: kind = TCI_FAILURE_REJECTED; break;
    case TCI_UNAVAILABLE:
    case TCI_CANCELLED: kind = TCI_FAILURE_UNREACHABLE; break;
    case TCI_DEADLINE_EXCEEDED: kind = TCI_FAILURE_TIMEOUT; break;
    default: break;
  }
  const char *text =
      tci_fmt(&core->update->arena, "%s: %.*s", tci_code_name(answer->code), TCI_STR_ARG(answer->message));
  tci_attempt_fail(core, a, kind, tci_str_from(text), NULL);
}

void tci_on_answer(tci_core *core, const tci_event *event) {
  const tci_answer *answer = &event->answer;
  tci_status status;
  tci_attempt *a = tci_attempt_by_id(core, answer->execution_id, &status);
  if (!a || !tci_execution_is_live(a)) return; /* late: another attempt has the say, or nobody */
  if (answer->code != TCI_OK) {
    on_rpc_error(core, a, answer);
    return;
  }
  if (answer->too_large) { /* the work is done: doing it again would give the same answer */
    if (a->mode == TCI_MODE_SYNC || !a->accepted)
      tci_attempt_fail(core, a, TCI_FAILURE_REPORTED, answer->message, NULL);
    return;
  }
  const char *fault = answer->unreadable ? tci_str_z(&core->update->arena, answer->message) : NULL;
  if (!fault && a->mode == TCI_MODE_SYNC) fault = tci_completion_fault(core, a, &answer->completion);
  if (fault)
    tci_attempt_fail(core, a, TCI_FAILURE_PROTOCOL, tci_str_from(fault), NULL);
  else if (a->mode == TCI_MODE_SYNC)
    tci_complete(core, a, &answer->completion);
  else
    on_async_answer(core, a, answer);
}

/* Refuses what comes for an execution that is no longer (or not yet) with a runner. */
static bool refuse_not_live(tci_core *core, const tci_event *event, const tci_attempt *a) {
  if (tci_execution_is_live(a)) return false;
  const tci_stage *stage = a->stage;
  const tci_attempt *last = tci_stage_attempt(stage);
  if (last != a)
    tci_refuse(core, event, TCI_FAILED_PRECONDITION,
               "execution_id: attempt %u of stage '%.*s' was superseded by attempt %u", a->index,
               TCI_STR_ARG(stage->node.id), last->index);
  else
    tci_refuse(core, event, TCI_FAILED_PRECONDITION,
               "execution_id: the execution of stage '%.*s' (attempt %u) is %s%s%.*s", TCI_STR_ARG(stage->node.id),
               a->index, tci_execution_state_name(a->execution), a->failure.present ? ": " : "",
               TCI_STR_ARG(a->failure.message));
  return true;
}

/* On the wire 0 percent is the same as none said, so every entry has a `percent`, 0 included: who reports 0 finds it. One
 * that the details bring along stands when the field says nothing. */
static void keep_progress(tci_core *core, tci_attempt *a, const tci_command *cmd) {
  tci_str details = cmd->update_execution.details;
  int64_t percent = cmd->update_execution.progress_percent;
  tci_buf value = {0}, entry = {0}, kept = {0};
  tci_value_put_number(&value, (double)percent);
  tci_struct_set((tci_str){0}, TCI_STR("percent"), tci_buf_str(&value), &entry);
  if (percent)
    tci_struct_merge(details, tci_buf_str(&entry), &kept);
  else
    tci_struct_merge(tci_buf_str(&entry), details, &kept);
  tci_attempt_report(core, a, cmd->update_execution.message, tci_buf_str(&kept));
  tci_buf_deinit(&value);
  tci_buf_deinit(&entry);
  tci_buf_deinit(&kept);
}

void tci_on_update_execution(tci_core *core, const tci_event *event) {
  const tci_command *cmd = &event->command;
  tci_status status;
  tci_attempt *a = tci_attempt_by_id(core, cmd->update_execution.execution_id, &status);
  if (!a) {
    tci_refuse(core, event, status.code, "%s", status.message);
    return;
  }
  if (refuse_not_live(core, event, a)) return;
  tci_str kept = cmd->update_execution.details;
  int64_t bytes_max = core->limits.progress_bytes_max;
  if (kept.len + cmd->update_execution.message.len > (size_t)bytes_max) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT,
               "message and details: %zu bytes together, over the limit progress_bytes_max (%lld)",
               kept.len + cmd->update_execution.message.len, (long long)bytes_max);
    return;
  }
  if (a->mode == TCI_MODE_ASYNC && (a->state == TCI_ATTEMPT_SCHEDULED || !a->accepted)) {
    tci_change c = {
        .type = TCI_CHANGE_ATTEMPT, .node = a->stage->node.index + 1u, .attempt = a->index, .accepted = true};
    c.state = TCI_ATTEMPT_RUNNING;
    c.execution = TCI_EXECUTION_RUNNING;
    tci_emit(core, a->stage->node.plan, &c);
  }
  if (cmd->update_execution.progress_percent || kept.len || cmd->update_execution.message.len)
    keep_progress(core, a, cmd);
  else
    tci_attempt_place(core, a); /* a sign of life, nothing to keep */
  tci_answer_ok(core, event, TCI_REPLY_STATUS);
}

void tci_on_complete_execution(tci_core *core, const tci_event *event) {
  const tci_completion *completion = &event->command.complete_execution.completion;
  tci_status status;
  tci_attempt *a = tci_attempt_by_id(core, event->command.complete_execution.execution_id, &status);
  if (!a) {
    tci_refuse(core, event, status.code, "%s", status.message);
    return;
  }
  if (a->mode == TCI_MODE_SYNC) {
    tci_refuse(core, event, TCI_FAILED_PRECONDITION,
               "execution_id: stage '%.*s' runs in mode SYNC; its completion is the answer to Run",
               TCI_STR_ARG(a->stage->node.id));
    return;
  }
  bool again = a->has_digest && a == tci_stage_attempt(a->stage) && !tci_execution_is_live(a) &&
               a->digest[0] == completion->digest[0] && a->digest[1] == completion->digest[1];
  if (!again && refuse_not_live(core, event, a)) return;
  if (!again) {
    const char *fault = tci_completion_fault(core, a, completion);
    if (fault) {
      tci_refuse(core, event, TCI_INVALID_ARGUMENT, "%s", fault);
      return;
    }
    tci_complete(core, a, completion);
  }
  tci_answer_ok(core, event, TCI_REPLY_ACKNOWLEDGED);
}
