/* attempt: one try of a stage, from its creation to the question whether there is another.
 *
 * Invariants: a stage has at most one open attempt, the last one; an execution that waits is in exactly one queue or has
 * a backoff timer; one that is live belongs to its runner's list (its load) and has a timer. Every move goes
 * through tci_emit; tci_attempt_place puts the attempt where its new state belongs.
 */
#include <string.h>

#include "core/internal.h"

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

static tci_change change_of(const tci_attempt *a, tci_change_type type) {
  return (tci_change){.type = type, .node = a->stage->node.index + 1u, .attempt = a->index};
}

/* ---- birth ---- */

/* "plan:stage:attempt:secret": needs no index, and 128 secret bits fence it. */
static tci_str new_execution_id(tci_core *core, const tci_stage *stage, uint64_t index) {
  char secret[33];
  tci_rng_hex(&core->rng, 16, secret);
  return tci_str_from(tci_fmt(&core->update->arena, "%.*s:%u:%llu:%s", TCI_STR_ARG(stage->node.plan->id),
                              (unsigned)stage->node.index, (unsigned long long)index, secret));
}

bool tci_execution_id_parse(tci_str id, tci_str *plan_id, uint32_t *stage_index, uint32_t *attempt) {
  size_t colons[3], n = 0;
  for (size_t i = id.len; i > 0 && n < 3; i--)
    if (id.ptr[i - 1] == ':') colons[n++] = i - 1;
  if (n < 3 || colons[2] == 0 || id.len - colons[0] != 33) return false;
  uint64_t numbers[2] = {0, 0};
  for (int k = 0; k < 2; k++) {
    size_t from = colons[2 - k] + 1, to = colons[1 - k];
    if (from == to || to - from > 10) return false;
    for (size_t i = from; i < to; i++) {
      if (id.ptr[i] < '0' || id.ptr[i] > '9') return false;
      numbers[k] = numbers[k] * 10 + (uint64_t)(id.ptr[i] - '0');
    }
    if (numbers[k] > UINT32_MAX) return false;
  }
  *plan_id = (tci_str){id.ptr, colons[2]};
  *stage_index = (uint32_t)numbers[0];
  *attempt = (uint32_t)numbers[1];
  return true;
}

tci_attempt *tci_attempt_by_id(tci_core *core, tci_str execution_id, tci_status *status) {
  tci_arena *arena = &core->update->arena;
  if (!execution_id.len) {
    *status = (tci_status){TCI_INVALID_ARGUMENT, "execution_id is empty; give the one that came with the request"};
    return NULL;
  }
  tci_str plan_id = {0};
  uint32_t stage_index, index;
  tci_plan *plan = NULL;
  if (tci_execution_id_parse(execution_id, &plan_id, &stage_index, &index)) plan = tci_map_get(&core->plans, plan_id);
  if (plan && plan->whole && stage_index < plan->nodes.len && plan->nodes.items[stage_index]->kind == TCI_NODE_STAGE) {
    tci_stage *stage = tci_node_stage(plan->nodes.items[stage_index]);
    if (index >= 1 && index <= stage->attempts.len) {
      tci_attempt *a = stage->attempts.items[index - 1];
      if (tci_str_eq(a->execution_id, execution_id)) return a;
    }
  }
  const char *aside = plan ? NULL : tci_why_set_aside(core, plan_id);
  if (aside) {
    *status = (tci_status){TCI_DATA_LOSS, aside};
    return NULL;
  }
  *status = (tci_status){TCI_NOT_FOUND, tci_fmt(arena, "execution_id '%.*s' names no execution of this server",
                                                TCI_STR_ARG(execution_id))};
  return NULL;
}

static void attempt_create(tci_core *core, tci_stage *stage, int64_t after_us, tci_str exclude) {
  tci_change c = {.type = TCI_CHANGE_ATTEMPT,
                  .node = stage->node.index + 1u,
                  .attempt = stage->attempts.len + 1,
                  .state = TCI_ATTEMPT_PENDING,
                  .exclude = exclude};
  if (stage->runner_type.len) {
    c.execution = TCI_EXECUTION_PENDING;
    c.execution_id = new_execution_id(core, stage, c.attempt);
    if (after_us > 0) c.not_before_us = (uint64_t)(core->now.wall_us + after_us);
  }
  tci_emit(core, stage->node.plan, &c);
}

void tci_stage_start(tci_core *core, tci_stage *stage) {
  tci_emit(
      core, stage->node.plan,
      &(tci_change){.type = TCI_CHANGE_STAGE_STATE, .node = stage->node.index + 1u, .state = TCI_STAGE_ATTEMPTING});
  attempt_create(core, stage, 0, (tci_str){0});
}

/* ---- moves ---- */

void tci_attempt_move(tci_core *core, tci_attempt *a, tci_attempt_state state, tci_execution_state execution) {
  tci_change c = change_of(a, TCI_CHANGE_ATTEMPT);
  c.state = state;
  c.execution = execution;
  tci_emit(core, a->stage->node.plan, &c);
}

void tci_attempt_progress(tci_core *core, tci_attempt *a, tci_str message, tci_str details, int64_t at_us) {
  tci_change c = change_of(a, TCI_CHANGE_PROGRESS);
  c.message = message;
  c.bytes = details;
  c.at_us = (uint64_t)at_us;
  tci_emit(core, a->stage->node.plan, &c);
}

/* ---- progress ----
 *
 * An attempt keeps the last progress_entries_max of what its runner reports, and no more of it is worth a journal. A runner that
 * reports much more than that (the log of a build) is not refused: the entries are told and kept in memory at once, and
 * go on record when there is credit for their bytes, those that are still kept then; at the latest when the attempt ends. Credit is
 * what an attempt may keep, and comes back at progress_journal_bytes_per_s. */

enum { ENTRY_BYTES = 128 }; /* of one in the journal, without its texts */

static int64_t pending_bytes(const tci_core *core, const tci_attempt *a) {
  int64_t bytes = 0;
  for (size_t i = a->progress.len - a->progress_pending; i < a->progress.len; i++)
    bytes += ENTRY_BYTES + (int64_t)(a->progress.items[i].message.len + a->progress.items[i].details.len);
  return min64(bytes, core->limits.progress_bytes_max);
}

static int64_t credit(tci_core *core, tci_attempt *a) {
  int64_t most = core->limits.progress_bytes_max, rate = core->limits.progress_journal_bytes_per_s;
  int64_t passed = core->now.mono_us - a->progress_credit_us;
  if (!a->progress_credit_us || passed / 1000000 >= most / rate + 1)
    a->progress_credit = most;
  else
    a->progress_credit = min64(most, a->progress_credit + passed * rate / 1000000);
  a->progress_credit_us = core->now.mono_us;
  return a->progress_credit;
}

void tci_attempt_flush(tci_core *core, tci_attempt *a) {
  size_t n = a->progress_pending;
  if (!n) return;
  int64_t heard_us = a->heard_mono_us;
  a->progress_credit = credit(core, a) - pending_bytes(core, a);
  tci_progress *entries = tci_arena_array(&core->update->arena, tci_progress, n);
  tci_progress_take_pending(core, a, entries);
  core->hushed = true;
  for (size_t i = 0; i < n; i++) {
    tci_change c = change_of(a, TCI_CHANGE_PROGRESS);
    c.message = entries[i].message;
    c.bytes = entries[i].details;
    c.at_us = (uint64_t)entries[i].at_us;
    c.entry = a->progress_dropped + a->progress.len;
    tci_emit(core, a->stage->node.plan, &c);
  }
  core->hushed = false;
  a->heard_mono_us = heard_us;
}

void tci_attempt_report(tci_core *core, tci_attempt *a, tci_str message, tci_str details) {
  int64_t bytes = min64(ENTRY_BYTES + (int64_t)(message.len + details.len), core->limits.progress_bytes_max);
  if (!a->progress_pending && credit(core, a) >= bytes) {
    a->progress_credit -= bytes;
    tci_attempt_progress(core, a, message, details, 0);
    return;
  }
  a->progress_pending++;
  tci_progress_add(core, a, message, details, core->now.wall_us);
  a->updated_us = core->now.wall_us;
  int64_t missing = pending_bytes(core, a) - credit(core, a);
  a->progress_flush_us = core->now.mono_us;
  if (missing > 0) a->progress_flush_us += missing * 1000000 / core->limits.progress_journal_bytes_per_s + 1;
  tci_attempt_place(core, a); /* it lives */
  tci_plan *plan = a->stage->node.plan;
  tci_change told = change_of(a, TCI_CHANGE_PROGRESS);
  if (!tci_list_empty(&plan->watchers)) tci_watch_notify(core, plan, &told, (int)a->stage->state);
}

void tci_stage_finish(tci_core *core, tci_stage *stage, tci_outcome outcome, tci_reason reason) {
  tci_emit(core, stage->node.plan,
           &(tci_change){.type = TCI_CHANGE_STAGE_STATE,
                         .node = stage->node.index + 1u,
                         .state = TCI_STAGE_FINAL,
                         .outcome = outcome,
                         .reason = reason});
}

void tci_attempt_decided(tci_core *core, tci_attempt *a, const tci_decision_record *record) {
  tci_buf_clear(&core->decision);
  tci_decision_encode(record, &core->decision);
  tci_change c = change_of(a, TCI_CHANGE_ATTEMPT);
  c.decision = tci_buf_str(&core->decision);
  tci_emit(core, a->stage->node.plan, &c);
}

void tci_attempt_leaves_queue(tci_core *core, tci_attempt *a) {
  for (size_t i = 0; i < a->undecided.len; i++) {
    tci_change c = change_of(a, TCI_CHANGE_ATTEMPT);
    c.decision = a->undecided.items[i];
    tci_emit(core, a->stage->node.plan, &c);
    tci_str_free(&a->undecided.items[i]);
  }
  tci_vec_free(&a->undecided);
}

/* A script's word on it is kept; what the built-in says follows from the failure. */
static void note_retry(tci_core *core, tci_attempt *a, const tci_decision *d, tci_decision_record *record) {
  record->again = d->again;
  record->after_us = d->after_us;
  record->exclude = d->exclude;
  tci_attempt_decided(core, a, record);
}

void tci_attempt_fail(tci_core *core, tci_attempt *a, tci_failure_kind kind, tci_str message,
                      const tci_completion *completion) {
  tci_stage *stage = a->stage;
  tci_attempt_flush(core, a);
  tci_attempt_leaves_queue(core, a);
  tci_change c = change_of(a, TCI_CHANGE_ATTEMPT);
  c.state = TCI_ATTEMPT_INCOMPLETE;
  c.execution = TCI_EXECUTION_FAILED;
  c.failed = true;
  c.failure_kind = kind;
  c.failure_message = message;
  if (completion) {
    if (completion->failure.occurred_us) c.failure_us = (uint64_t)completion->failure.occurred_us;
    c.has_digest = true;
    c.digest0 = completion->digest[0];
    c.digest1 = completion->digest[1];
  }
  /* Whether it is retried decides where the check updates go, and retry must see the failure: so it moves first. */
  tci_emit(core, stage->node.plan, &c);
  tci_decision d;
  tci_decision_record record;
  tci_ask(core, tci_attached(core, tci_attempt_pool(core, a), stage), TCI_HOOK_RETRY, a, NULL, 0, &d, &record);
  d.after_us = clamp(d.after_us, 0, core->limits.duration_ms_max * 1000);
  d.again = d.again && stage->attempts.len < (size_t)core->limits.attempts_per_stage_max;
  if (record.policy.len) note_retry(core, a, &d, &record);
  if (d.again) {
    if (completion) tci_completion_keep(core, a, completion);
    tci_buf exclude = {0};
    tci_ids_encode(d.exclude, &exclude);
    attempt_create(core, stage, d.after_us, tci_buf_str(&exclude));
    tci_buf_deinit(&exclude);
    return;
  }
  if (completion) tci_completion_apply(core, a, completion);
  tci_stage_finish(core, stage, TCI_OUTCOME_FAILED, TCI_REASON_NO_RETRIES_LEFT);
}

void tci_attempt_abort(tci_core *core, tci_attempt *a, tci_failure_kind kind, tci_str message) {
  tci_effect_add(core, TCI_EFFECT_CANCEL)->attempt = a;
  tci_attempt_fail(core, a, kind, message, NULL);
}

/* ---- place: queue, timers, runner ---- */

static bool answers_late(const tci_attempt *a) { return a->mode == TCI_MODE_ASYNC && !a->accepted; }
static bool awaits_answer(const tci_attempt *a) { return a->mode == TCI_MODE_SYNC || !a->accepted; }

static void arm(tci_core *core, tci_attempt *a) {
  int64_t due = a->deadline_mono_us;
  if (answers_late(a))
    due = min64(due, a->accept_mono_us);
  else if (a->mode == TCI_MODE_ASYNC)
    due = min64(due, a->heard_mono_us + a->stale_ms * 1000);
  if (a->progress_pending) due = min64(due, a->progress_flush_us);
  a->timer.kind = TCI_TIMER_ATTEMPT;
  tci_heap_set(&core->timers, &a->timer, due);
}

static void leave_runner(tci_core *core, tci_attempt *a) {
  if (!tci_link_in(&a->live)) return;
  tci_link_remove(&a->live);
  a->runner->load--;
  a->runner->revision = ++core->revisions;
  if (a->runner->pool) tci_pool_wake(core, a->runner->pool);
  a->runner = NULL;
}

static void count_call(tci_core *core, tci_attempt *a, bool calling) {
  core->calls_open += calling;
  core->calls_open -= a->calling;
  a->calling = calling;
}

void tci_attempt_unplace(tci_core *core, tci_attempt *a) {
  if (tci_link_in(&a->queued)) tci_ready_remove(core, a);
  tci_heap_clear(&core->timers, &a->timer);
  leave_runner(core, a);
  tci_keys_give(core, a);
  count_call(core, a, false);
}

static void enqueue(tci_core *core, tci_attempt *a) {
  tci_heap_clear(&core->timers, &a->timer);
  tci_ready_add(core, a);
}

void tci_attempt_arm_queued(tci_core *core, tci_attempt *a) {
  int64_t due = a->hold_until_us ? a->hold_until_us : INT64_MAX;
  if (a->queue_mono_us) due = min64(due, a->queue_mono_us);
  a->timer.kind = TCI_TIMER_ATTEMPT;
  if (due == INT64_MAX)
    tci_heap_clear(&core->timers, &a->timer);
  else
    tci_heap_set(&core->timers, &a->timer, due);
}

static void join_runner(tci_core *core, tci_attempt *a) {
  tci_runner *r = tci_map_get(&core->registrations, a->registration_id);
  if (!r || tci_link_in(&a->live)) return;
  a->runner = r;
  tci_list_push(&r->live, &a->live);
  r->load++;
  r->revision = ++core->revisions;
}

/* When it was used, and how its executions ended, is shown to policies: as long as this model lives, and never by a load, or
 * reading an old plan would change what is decided. */
static void remember_use(tci_core *core, tci_runner *r) {
  if (!r) return;
  r->last_used = ++core->use_order;
  r->last_used_us = core->now.wall_us;
}

static void remember_end(const tci_attempt *a) {
  if (!a->runner) return;
  a->runner->recent = a->runner->recent << 1 | (a->execution == TCI_EXECUTION_FAILED);
  if (a->runner->recent_len < 32) a->runner->recent_len++;
}

/* A refusal or an unreachable runner: nobody gets work there for a while. Rebuilt state, so part of placing. */
static void pass_over(tci_core *core, tci_attempt *a) {
  bool refused = a->failure.kind == TCI_FAILURE_REJECTED || a->failure.kind == TCI_FAILURE_UNREACHABLE;
  tci_runner *r = refused ? tci_map_get(&core->registrations, a->registration_id) : NULL;
  if (!r) return;
  r->passed_over_until_us = core->now.mono_us + core->limits.pass_over_ms * 1000;
  tci_runner_arm(core, r);
}

void tci_attempt_place(tci_core *core, tci_attempt *a) {
  if (a->execution == TCI_EXECUTION_NONE) return;
  if (core->loading) { /* who seems to be under way joins when the plan is whole: it may be over in the next record */
    if (tci_execution_is_live(a)) return;
    leave_runner(core, a);
    tci_keys_give(core, a);
    return;
  }
  if (!tci_attempt_is_open(a)) {
    remember_end(a);
    tci_attempt_unplace(core, a);
    if (a->failure.present) pass_over(core, a);
    return;
  }
  if (a->execution == TCI_EXECUTION_PENDING) {
    if (tci_link_in(&a->queued) || a->timer.position) return;
    a->ready_mono_us = core->now.mono_us + (a->not_before_us ? a->not_before_us - core->now.wall_us : 0);
    if (a->ready_mono_us > core->now.mono_us) {
      a->timer.kind = TCI_TIMER_ATTEMPT;
      tci_heap_set(&core->timers, &a->timer, a->ready_mono_us);
    } else {
      enqueue(core, a);
    }
    return;
  }
  if (!a->deadline_mono_us) { /* it just went live */
    if (tci_link_in(&a->queued)) tci_ready_remove(core, a);
    join_runner(core, a);
    remember_use(core, a->runner);
    tci_keys_take(core, a);
    tci_str_free(&a->hold_text);
    a->deadline_mono_us = core->now.mono_us + a->execution_ms * 1000;
    a->accept_mono_us = core->now.mono_us + core->limits.accept_timeout_ms * 1000;
  }
  count_call(core, a, awaits_answer(a));
  a->heard_mono_us = core->now.mono_us;
  arm(core, a);
}

void tci_attempt_rejoin(tci_core *core, tci_attempt *a) {
  if (!tci_execution_is_live(a)) return;
  join_runner(core, a);
  tci_keys_take(core, a);
}

void tci_attempt_restart(tci_core *core, tci_attempt *a) {
  if (!tci_attempt_is_open(a) || a->execution == TCI_EXECUTION_NONE) return;
  if (a->execution == TCI_EXECUTION_PENDING) {
    if (tci_link_in(&a->queued) || a->timer.position) return; /* born between the load and this: placed already */
    int64_t wait = a->not_before_us ? a->not_before_us - core->now.wall_us : 0;
    wait = clamp(wait, 0, a->not_before_us ? a->not_before_us - a->created_us : 0);
    /* Of its time in the queue none is lost: a queue timeout counts from when it was ready. */
    int64_t since = core->now.wall_us - (a->not_before_us > a->created_us ? a->not_before_us : a->created_us);
    a->ready_mono_us = core->now.mono_us + (wait > 0 ? wait : -clamp(since, 0, INT64_MAX));
    a->timer.kind = TCI_TIMER_ATTEMPT;
    if (wait > 0)
      tci_heap_set(&core->timers, &a->timer, a->ready_mono_us);
    else
      enqueue(core, a);
    return;
  }
  int64_t left = clamp(a->deadline_us - core->now.wall_us, 0, a->execution_ms * 1000);
  a->deadline_mono_us = core->now.mono_us + left;
  a->accept_mono_us = core->now.mono_us + core->limits.accept_timeout_ms * 1000;
  a->heard_mono_us = core->now.mono_us;
  count_call(core, a, awaits_answer(a));
  arm(core, a);
}

static tci_str seconds(tci_core *core, const char *before, int64_t ms) {
  return tci_str_from(
      tci_fmt(&core->update->arena, "%s %lld.%03d s", before, (long long)(ms / 1000), (int)(ms % 1000)));
}

/* The end of a backoff, of its time in the queue, or of a wait that the policy asked for. */
static void timer_while_pending(tci_core *core, tci_attempt *a) {
  if (!tci_link_in(&a->queued)) {
    enqueue(core, a);
  } else if (a->queue_mono_us && core->heard_us >= a->queue_mono_us) {
    tci_attempt_fail(core, a, TCI_FAILURE_TIMEOUT, seconds(core, "no runner took it within", a->queue_ms), NULL);
  } else {
    if (a->hold_until_us) tci_ready_return(core, a);
    tci_attempt_arm_queued(core, a);
  }
}

void tci_attempt_timer(tci_core *core, tci_attempt *a) {
  int64_t now = core->heard_us;
  if (a->execution == TCI_EXECUTION_PENDING) {
    timer_while_pending(core, a);
    return;
  }
  if (a->progress_pending && now >= a->progress_flush_us) tci_attempt_flush(core, a);
  if (now >= a->deadline_mono_us) {
    tci_attempt_abort(core, a, TCI_FAILURE_TIMEOUT, seconds(core, "the deadline passed after", a->execution_ms));
  } else if (answers_late(a) && now >= a->accept_mono_us) {
    tci_attempt_abort(core, a, TCI_FAILURE_TIMEOUT,
                      seconds(core, "RunAsync was not answered within", core->limits.accept_timeout_ms));
  } else if (!answers_late(a) && a->mode == TCI_MODE_ASYNC && now >= a->heard_mono_us + a->stale_ms * 1000) {
    tci_attempt_abort(core, a, TCI_FAILURE_STALE, seconds(core, "nothing was heard from the runner for", a->stale_ms));
  } else {
    arm(core, a);
  }
}
