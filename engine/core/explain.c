/* explain: why a node waits, was skipped, failed, or ran where it ran, in words. Reads the model and asks nobody.
 *
 * Invariants: the first line is the node's state; every node that is not FINAL gets at least one cause; lists are bounded
 * (LINES_MAX of a kind, then how many more there are).
 */
#include "core/internal.h"

enum { LINES_MAX = 20 };

typedef struct {
  tci_core *core;
  tci_arena *arena;
  TCI_VEC(tci_explanation) lines;
} explaining;

static void say(explaining *e, tci_explanation_kind kind, tci_str subject, uint32_t attempt, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static void say(explaining *e, tci_explanation_kind kind, tci_str subject, uint32_t attempt, const char *format, ...) {
  va_list args;
  va_start(args, format);
  tci_explanation line = {kind, tci_str_from(tci_vfmt(e->arena, format, args)), subject, attempt};
  va_end(args);
  tci_vec_push(&e->lines, line);
}

/* "12.345 s" */
static const char *length(explaining *e, int64_t us) {
  if (us < 0) us = 0;
  return tci_fmt(e->arena, "%lld.%03d s", (long long)(us / 1000000), (int)(us / 1000 % 1000));
}

static const char *colon(explaining *e, tci_str text) {
  return text.len ? tci_fmt(e->arena, ": %.*s", TCI_STR_ARG(text)) : "";
}

static const char *node_state_name(const tci_node *node) {
  return node->kind == TCI_NODE_CHECK ? tci_check_state_name((int)((const tci_check *)node)->state)
                                      : tci_stage_state_name((int)((const tci_stage *)node)->state);
}

static const char *reason_words(tci_reason reason) {
  switch (reason) {
    case TCI_REASON_ATTEMPT_COMPLETE: return "its attempt completed";
    case TCI_REASON_CHECK_FAILED: return "it finalised a check with a failure";
    case TCI_REASON_NO_RETRIES_LEFT: return "its last attempt failed and is not retried";
    case TCI_REASON_DEPENDENCIES_UNSATISFIED: return "its dependencies are unsatisfied";
    case TCI_REASON_CANCELLED: return "cancelled";
    case TCI_REASON_NO_RESULT: return "a stage ended without the result it owed";
    case TCI_REASON_RESULTS_FINAL: return "all results are in and none is a failure";
    case TCI_REASON_RESULT_FAILED: return "a result carries a failure";
    case TCI_REASON_WRITTEN: return "a client wrote it";
    case TCI_REASON_UNKNOWN: break;
  }
  return "no reason on record";
}

static void state(explaining *e, const tci_node *node) {
  const char *kind = tci_node_kind_name((int)node->kind);
  if (tci_node_is_final(node))
    say(e, TCI_EXPLAINS_STATE, node->id, 0, "%s '%.*s' is FINAL, %s: %s", kind, TCI_STR_ARG(node->id),
        tci_outcome_name((int)node->outcome), reason_words(node->reason));
  else
    say(e, TCI_EXPLAINS_STATE, node->id, 0, "%s '%.*s' is %s", kind, TCI_STR_ARG(node->id), node_state_name(node));
}

/* ---- dependencies ---- */

static const char *wanted(tci_condition condition) {
  switch (condition) {
    case TCI_ON_FINAL: return "FINAL";
    case TCI_ON_SUCCESS: return "SUCCEEDED";
    case TCI_ON_FAILURE: return "FAILED";
  }
  return "?";
}

static const char *node_now(explaining *e, const tci_node *node) {
  if (!tci_node_is_final(node)) return node_state_name(node);
  return tci_fmt(e->arena, "FINAL, %s", tci_outcome_name((int)node->outcome));
}

/* The edges that keep it waiting (`satisfied` unknown yet), or that were not satisfied. */
static void dependencies(explaining *e, const tci_node *node, bool final) {
  const tci_group *g = &node->group;
  const char *how = g->predicate == TCI_PREDICATE_OR ? "waits for any of its dependencies: " : "waits for ";
  if (final) how = "was skipped because of ";
  size_t n = 0;
  for (size_t i = 0; i < g->len; i++) {
    const tci_edge *edge = &g->edges[i];
    bool tells = final ? edge->counted && !tci_edge_satisfied(edge) : !edge->counted;
    if (!tells || n++ >= LINES_MAX) continue;
    say(e, TCI_EXPLAINS_DEPENDENCY, edge->target->id, 0, "%s%s '%.*s', which is %s and is to be %s", how,
        tci_node_kind_name((int)edge->target->kind), TCI_STR_ARG(edge->target->id), node_now(e, edge->target),
        wanted(edge->condition));
  }
  if (n > LINES_MAX) say(e, TCI_EXPLAINS_DEPENDENCY, node->id, 0, "... and for %zu more", n - LINES_MAX);
}

/* ---- waiting for a runner ---- */

static const char *who(explaining *e, const tci_attachment *at) {
  return at->policy ? tci_fmt(e->arena, "policy '%.*s'", TCI_STR_ARG(at->name)) : "the built-in default";
}

static void policy_state(explaining *e, const tci_attachment *at) {
  if (!at->name.len) return;
  if (!at->policy) {
    say(e, TCI_EXPLAINS_POLICY_FAULT, at->name, 0,
        "there is no policy '%.*s' any more: the built-in default decides; put its file back, or attach another",
        TCI_STR_ARG(at->name));
  } else if (at->entry && at->entry->state == TCI_POLICY_OPEN && e->core->now.mono_us < at->entry->open_mono_us) {
    say(e, TCI_EXPLAINS_POLICY_FAULT, at->name, 0,
        "policy '%.*s' failed too often in a row: the built-in default decides for another %s", TCI_STR_ARG(at->name),
        length(e, at->entry->open_mono_us - e->core->now.mono_us));
  }
}

/* Who could run it in principle, and what is against each. */
static bool runners(explaining *e, const tci_attempt *a, const tci_pool *pool) {
  tci_str type = a->stage->runner_type;
  const char *mode = a->mode == TCI_MODE_SYNC ? "SYNC" : "ASYNC";
  size_t able = 0, busy = 0, slots = 0, n = 0;
  for (size_t i = 0; pool && i < pool->runners.len; i++) {
    const tci_runner *r = pool->runners.items[i];
    if (!r->modes[a->mode]) continue;
    able++;
    if (tci_ids_has(a->exclude, r->runner_id)) {
      if (n++ < LINES_MAX)
        say(e, TCI_EXPLAINS_EXCLUDED, r->runner_id, a->index, "runner '%.*s' is excluded by the retry",
            TCI_STR_ARG(r->runner_id));
    } else if (tci_runner_is_passed_over(e->core, r)) {
      if (n++ < LINES_MAX)
        say(e, TCI_EXPLAINS_PASSED_OVER, r->runner_id, a->index,
            "runner '%.*s' refused work or could not be reached: it is passed over for another %s, or until its "
            "heartbeat",
            TCI_STR_ARG(r->runner_id), length(e, r->passed_over_until_us - e->core->now.mono_us));
    } else if (r->max_concurrent && r->load >= r->max_concurrent) {
      busy++;
      slots += (size_t)r->load;
    }
  }
  if (!able)
    say(e, TCI_EXPLAINS_NO_RUNNER, type, a->index, "no runner of type '%.*s' that takes %s work is registered",
        TCI_STR_ARG(type), mode);
  else if (busy)
    say(e, TCI_EXPLAINS_ALL_BUSY, type, a->index, "%zu of %zu runners of type '%.*s' are busy, with %zu executions",
        busy, able, TCI_STR_ARG(type), slots);
  return !able || busy || n;
}

static void held(explaining *e, const tci_attempt *a, const tci_attachment *at) {
  int64_t left = a->hold_until_us - e->core->now.mono_us;
  const char *again = a->hold_until_us ? tci_fmt(e->arena, "; it is asked again in %s", length(e, left)) : "";
  switch (a->hold) {
    case TCI_HOLD_POLICY:
      say(e, TCI_EXPLAINS_POLICY_WAIT, at->name, a->index, "%s said wait%s%s", who(e, at), colon(e, a->hold_text),
          again);
      return;
    case TCI_HOLD_ADMISSION:
      say(e, TCI_EXPLAINS_ADMISSION, at->name, a->index, "%s does not admit it yet%s%s", who(e, at),
          colon(e, a->hold_text), again);
      return;
    case TCI_HOLD_KEY:
      say(e, TCI_EXPLAINS_ADMISSION, a->hold_text, a->index,
          "admission key '%.*s' is held by %lld executions, and %s lets %lld have it at once",
          TCI_STR_ARG(a->hold_text), (long long)tci_key_live(e->core, a->hold_text), who(e, at),
          (long long)a->key_limit);
      return;
    case TCI_HOLD_NONE: break;
  }
  const tci_pool *pool = tci_attempt_pool(e->core, a);
  if (runners(e, a, pool)) return;
  say(e, TCI_EXPLAINS_QUEUED, a->stage->runner_type, a->index,
      "it is queued with %zu others and is about to be looked at",
      pool ? pool->ready[TCI_MODE_SYNC].len + pool->ready[TCI_MODE_ASYNC].len - 1 : 0);
}

static void pending(explaining *e, const tci_attempt *a) {
  const tci_attachment *at = tci_attached(e->core, tci_attempt_pool(e->core, a), a->stage);
  policy_state(e, at);
  if (!tci_link_in(&a->queued)) {
    say(e, TCI_EXPLAINS_BACKOFF, (tci_str){0}, a->index,
        "attempt %u is not due for another %s: the backoff of the retry", a->index,
        length(e, a->ready_mono_us - e->core->now.mono_us));
    return;
  }
  held(e, a, at);
  if (a->queue_mono_us)
    say(e, TCI_EXPLAINS_QUEUED, (tci_str){0}, a->index, "it gives up in %s when no runner takes it",
        length(e, a->queue_mono_us - e->core->now.mono_us));
}

/* ---- attempts ---- */

static void admission(explaining *e, const tci_attempt *a, const tci_decision_record *r, const char *by) {
  const char *keys = "";
  for (size_t i = 0; i < r->keys_len; i++)
    keys = tci_fmt(e->arena, "%s%s'%.*s' (at most %lld)", keys, i ? ", " : " with key ", TCI_STR_ARG(r->keys[i].key),
                   (long long)r->keys[i].limit);
  say(e, TCI_EXPLAINS_DECISION, r->policy, a->index, "attempt %u: %s admitted it%s%s", a->index, by, keys,
      colon(e, r->reason));
}

static void decision(explaining *e, const tci_attempt *a, const tci_decision_record *r) {
  const char *by = r->policy.len ? tci_fmt(e->arena, "policy '%.*s' (%.*s)", TCI_STR_ARG(r->policy),
                                           TCI_STR_ARG(r->version.len ? r->version : TCI_STR("not there")))
                                 : "the built-in default";
  if (r->fault.len) {
    say(e, TCI_EXPLAINS_POLICY_FAULT, r->policy, a->index,
        "attempt %u: %s could not decide, the built-in default did: %.*s", a->index, by, TCI_STR_ARG(r->fault));
    by = "the built-in default";
  }
  if (r->hook == TCI_HOOK_SELECT)
    say(e, TCI_EXPLAINS_DECISION, r->runner_id, a->index, "attempt %u: %s chose runner '%.*s' of %lld candidate%s%s",
        a->index, by, TCI_STR_ARG(r->runner_id), (long long)r->candidates_total, r->candidates_total == 1 ? "" : "s",
        colon(e, r->reason));
  else if (r->hook == TCI_HOOK_RETRY && r->again)
    say(e, TCI_EXPLAINS_DECISION, r->policy, a->index, "attempt %u: %s wants another attempt after %s%s%s", a->index,
        by, length(e, r->after_us), r->exclude.len ? ", not on the runners it excludes" : "", colon(e, r->reason));
  else if (r->hook == TCI_HOOK_RETRY)
    say(e, TCI_EXPLAINS_DECISION, r->policy, a->index, "attempt %u: %s gave up%s", a->index, by, colon(e, r->reason));
  else if (r->hook == TCI_HOOK_TIMEOUT)
    say(e, TCI_EXPLAINS_DECISION, r->policy, a->index, "attempt %u: %s gives it %s%s%s%s", a->index, by,
        length(e, r->execution_ms * 1000), r->queue_ms ? ", and to wait for a runner " : "",
        r->queue_ms ? length(e, r->queue_ms * 1000) : "", colon(e, r->reason));
  else if (r->hook == TCI_HOOK_PRIORITY)
    say(e, TCI_EXPLAINS_DECISION, r->policy, a->index, "attempt %u: %s gives it priority %lld%s", a->index, by,
        (long long)r->priority, colon(e, r->reason));
  else
    admission(e, a, r, by);
}

static void ended(explaining *e, const tci_attempt *a) {
  const char *on =
      a->runner_id.len ? tci_fmt(e->arena, " on runner '%.*s'", TCI_STR_ARG(a->runner_id)) : " without a runner";
  if (!a->execution) on = "";
  const char *took =
      a->dispatched_us ? tci_fmt(e->arena, " after %s", length(e, a->finished_us - a->dispatched_us)) : "";
  if (a->failure.present)
    say(e, TCI_EXPLAINS_ATTEMPT, a->runner_id, a->index, "attempt %u failed%s%s: %s%s", a->index, on, took,
        tci_failure_kind_name((int)a->failure.kind), colon(e, a->failure.message));
  else
    say(e, TCI_EXPLAINS_ATTEMPT, a->runner_id, a->index, "attempt %u ended%s%s: %s", a->index, on, took,
        tci_attempt_state_name((int)a->state));
}

static void under_way(explaining *e, const tci_attempt *a) {
  if (!a->execution) { /* pulled */
    if (a->process_uid.len)
      say(e, TCI_EXPLAINS_CLIENT, a->process_uid, a->index, "attempt %u is claimed by '%.*s', who is to complete it",
          a->index, TCI_STR_ARG(a->process_uid));
    else
      say(e, TCI_EXPLAINS_CLIENT, (tci_str){0}, a->index,
          "it has no runner_type: attempt %u waits for a client to claim it", a->index);
    return;
  }
  if (a->execution == TCI_EXECUTION_PENDING) {
    pending(e, a);
    return;
  }
  say(e, TCI_EXPLAINS_RUNNING, a->runner_id, a->index,
      "attempt %u is with runner '%.*s' for %s, and may take %s more%s", a->index, TCI_STR_ARG(a->runner_id),
      length(e, e->core->now.wall_us - a->dispatched_us), length(e, a->deadline_mono_us - e->core->now.mono_us),
      a->mode == TCI_MODE_ASYNC && !a->accepted ? "; it has not said yet whether it takes the work" : "");
}

/* Those of retry, or all others. */
static void decisions(explaining *e, const tci_attempt *a, bool retry) {
  for (size_t i = 0; i < a->decisions.len; i++) {
    tci_decision_record r;
    if (tci_decision_decode(a->decisions.items[i], e->arena, &r) && (r.hook == TCI_HOOK_RETRY) == retry)
      decision(e, a, &r);
  }
}

static void attempts(explaining *e, const tci_stage *stage) {
  size_t from = stage->attempts.len > LINES_MAX ? stage->attempts.len - LINES_MAX : 0;
  if (from) say(e, TCI_EXPLAINS_ATTEMPT, (tci_str){0}, 0, "of %zu earlier attempts nothing is told here", from);
  for (size_t i = from; i < stage->attempts.len; i++) {
    const tci_attempt *a = stage->attempts.items[i];
    decisions(e, a, false);
    if (!tci_attempt_is_open(a)) ended(e, a);
    decisions(e, a, true); /* asked once it had ended */
  }
}

static void explain_stage(explaining *e, const tci_stage *stage) {
  const tci_attempt *last = tci_stage_attempt(stage);
  state(e, &stage->node);
  if (stage->state == TCI_STAGE_PLANNED) dependencies(e, &stage->node, false);
  if (stage->node.reason == TCI_REASON_DEPENDENCIES_UNSATISFIED) dependencies(e, &stage->node, true);
  if (stage->state == TCI_STAGE_ATTEMPTING && last) {
    if (tci_attempt_is_open(last))
      under_way(e, last);
    else
      say(e, TCI_EXPLAINS_CLIENT, (tci_str){0}, last->index,
          "its attempt has ended: a client is to write the stage FINAL");
  }
  attempts(e, stage);
}

/* ---- checks ---- */

static void explain_check(explaining *e, const tci_check *check) {
  state(e, &check->node);
  bool final = check->state == TCI_CHECK_FINAL;
  if (check->state == TCI_CHECK_PLANNING)
    say(e, TCI_EXPLAINS_CLIENT, (tci_str){0}, 0, "a client is to write it PLANNED, or to finalise it");
  if (check->state == TCI_CHECK_PLANNED) dependencies(e, &check->node, false);
  if (check->node.reason == TCI_REASON_DEPENDENCIES_UNSATISFIED) dependencies(e, &check->node, true);
  size_t n = 0;
  for (size_t i = 0; !final && i < check->assigned.len; i++) {
    const tci_assignment *a = check->assigned.items[i];
    const tci_stage *stage = a->stage;
    if (a->done || n++ >= LINES_MAX) continue;
    say(e, TCI_EXPLAINS_RESULT, stage->node.id, 0, "waits for the result of stage '%.*s', which is %s",
        TCI_STR_ARG(stage->node.id), node_now(e, &stage->node));
  }
  for (size_t i = 0; i < check->results.len; i++) {
    const tci_result *r = &check->results.items[i];
    if (!r->failure.present || n++ >= LINES_MAX) continue;
    say(e, TCI_EXPLAINS_RESULT, r->owner_id, 0, "the result of %.*s '%.*s' is a failure%s", TCI_STR_ARG(r->owner_type),
        TCI_STR_ARG(r->owner_id), colon(e, r->failure.message));
  }
  if (n > LINES_MAX) say(e, TCI_EXPLAINS_RESULT, check->node.id, 0, "... and %zu more", n - LINES_MAX);
  if (check->state == TCI_CHECK_WAITING && !check->assigned.len)
    say(e, TCI_EXPLAINS_CLIENT, (tci_str){0}, 0, "no stage is assigned to it: a client is to finalise it");
}

/* ---- the command ---- */

void tci_on_explain_node(tci_core *core, const tci_event *event) {
  tci_plan *plan = tci_find_plan(core, event);
  if (!plan) return;
  tci_str stage_id = event->command.explain_node.stage_id, check_id = event->command.explain_node.check_id;
  if (!stage_id.len == !check_id.len) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT, "%s; give one of the two",
               stage_id.len ? "stage_id and check_id are both given" : "stage_id and check_id are both empty");
    return;
  }
  const tci_stage *stage = stage_id.len ? tci_plan_stage(plan, stage_id) : NULL;
  const tci_check *check = check_id.len ? tci_plan_check(plan, check_id) : NULL;
  if (!stage && !check) {
    tci_refuse(core, event, TCI_NOT_FOUND, "%s: plan '%.*s' has no %s '%.*s'", stage_id.len ? "stage_id" : "check_id",
               TCI_STR_ARG(plan->id), stage_id.len ? "stage" : "check",
               TCI_STR_ARG(stage_id.len ? stage_id : check_id));
    return;
  }
  explaining e = {.core = core, .arena = &core->update->arena};
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_EXPLANATION);
  if (stage) {
    explain_stage(&e, stage);
    reply->attempts = tci_arena_array(e.arena, const tci_attempt *, stage->attempts.len + 1);
    for (size_t i = 0; i < stage->attempts.len; i++) reply->attempts[i] = stage->attempts.items[i];
    reply->attempts_len = stage->attempts.len;
  } else {
    explain_check(&e, check);
  }
  reply->explanations = tci_arena_array(e.arena, tci_explanation, e.lines.len);
  for (size_t i = 0; i < e.lines.len; i++) reply->explanations[i] = e.lines.items[i];
  reply->explanations_len = e.lines.len;
  tci_vec_free(&e.lines);
}
