/* oracle: a naive second opinion on plans and nodes: states, outcomes, versions. seen.c has the rest. */
#include "world.h"

/* ---- nodes ---- */

tci_node *core_node(sim *s, const sim_plan *p, int i) {
  tci_plan *plan = plan_of(s, p);
  tci_str id = tci_str_from(p->nodes[i].id);
  tci_node *node = p->nodes[i].is_check ? (tci_node *)tci_plan_check(plan, id) : (tci_node *)tci_plan_stage(plan, id);
  if (!node) fx_fail("%s is gone", p->nodes[i].id);
  return node;
}

/* What the dependencies, as written, come to: 1 satisfied, 0 unsatisfied, -1 not known yet. */
static int truth(sim *s, const sim_plan *p, const sim_node *n) {
  int yes = 0, no = 0;
  for (int i = 0; i < n->deps_len; i++) {
    const tci_node *target = core_node(s, p, n->deps[i]);
    if (!tci_node_is_final(target)) continue;
    bool fine = n->conditions[i] == 0 || (n->conditions[i] == 1 && target->outcome == TCI_OUTCOME_SUCCEEDED) ||
                (n->conditions[i] == 2 && target->outcome == TCI_OUTCOME_FAILED);
    if (fine)
      yes++;
    else
      no++;
  }
  if (n->any && n->deps_len) return yes > 0 ? 1 : no == n->deps_len ? 0 : -1;
  return no > 0 ? 0 : yes == n->deps_len ? 1 : -1;
}

/* What follows from this step goes on in the next. */
static bool goes_on_later(const sim *s) { return s->f.update.more || s->f.asleep; }

/* What stage n has said of its k-th check, or somebody in its name since it was assigned to it. */
static const tci_result *result_of(const tci_check *c, const sim_node *n, int k) {
  for (size_t i = c->results.len; i > 0 && c->results.items[i - 1].id > n->joined[k]; i--)
    if (tci_str_eq(c->results.items[i - 1].owner_type, TCI_STR("stage")) &&
        tci_str_eq(c->results.items[i - 1].owner_id, tci_str_from(n->id)))
      return &c->results.items[i - 1];
  return NULL;
}

static bool has_failed_result(const tci_check *c) {
  for (size_t i = 0; i < c->results.len; i++)
    if (c->results.items[i].finalized_us && c->results.items[i].failure.present) return true;
  return false;
}

/* What clients wrote into it is there, as they wrote it. */
static void judge_said(const sim_node *n, const tci_check *c) {
  for (int k = 0; k < n->said_len; k++) {
    const tci_result *r = NULL;
    for (size_t i = 0; i < c->results.len && !r; i++)
      if (tci_str_eq(c->results.items[i].owner_type, TCI_STR("me")) &&
          tci_str_eq(c->results.items[i].owner_id, tci_str_from(n->said[k].owner)))
        r = &c->results.items[i];
    if (!r || (n->said[k].final && !r->finalized_us) || (n->said[k].failed && !r->failure.present))
      fx_fail("oracle: check %s has lost result me:%s", n->id, n->said[k].owner);
  }
}

static void judge_check(sim *s, const sim_plan *p, int at, const tci_check *c) {
  const sim_node *n = &p->nodes[at];
  int known = truth(s, p, n), stages = 0, open = 0;
  for (int i = 0; i < p->len; i++)
    for (int k = 0; !p->nodes[i].is_check && k < p->nodes[i].checks_len; k++) {
      if (p->nodes[i].checks[k] != at || !p->nodes[i].counts[k]) continue;
      const tci_result *r = result_of(c, &p->nodes[i], k);
      stages++;
      open += !(r && r->finalized_us) && !tci_node_is_final(core_node(s, p, i));
    }
  judge_said(n, c);
  bool failed = has_failed_result(c);
  if (c->state == TCI_CHECK_FINAL && (!p->seen[at].just || !s->was_quiet))
    open = 0; /* stages may be assigned to it later: they run in vain */
  if (c->state != TCI_CHECK_FINAL) {
    bool late = goes_on_later(s);
    if (stages && !open && !late) fx_fail("oracle: check %s has all its results and is not FINAL", n->id);
    if (known >= 0 && c->state == TCI_CHECK_PLANNED && !late)
      fx_fail("oracle: check %s lags behind its dependencies", n->id);
    if (known != 1 && c->state == TCI_CHECK_WAITING) fx_fail("oracle: check %s waits too early", n->id);
    return;
  }
  bool fine = false;
  switch (c->node.reason) {
    case TCI_REASON_DEPENDENCIES_UNSATISFIED: fine = known == 0 && c->node.outcome == TCI_OUTCOME_SKIPPED; break;
    case TCI_REASON_RESULTS_FINAL: fine = !failed && !open && c->node.outcome == TCI_OUTCOME_SUCCEEDED; break;
    case TCI_REASON_RESULT_FAILED:
    case TCI_REASON_NO_RESULT: fine = failed && !open && c->node.outcome == TCI_OUTCOME_FAILED; break;
    case TCI_REASON_WRITTEN: fine = c->node.outcome == (failed ? TCI_OUTCOME_FAILED : TCI_OUTCOME_SUCCEEDED); break;
    default: break;
  }
  if (!fine)
    fx_fail("oracle: check %s: outcome %d reason %d with %d open results", n->id, (int)c->node.outcome,
            (int)c->node.reason, open);
}

static bool is_delivery(const tci_attempt *a) {
  return a->failure.kind == TCI_FAILURE_REJECTED || a->failure.kind == TCI_FAILURE_UNREACHABLE;
}

/* Were there retries left when the attempt with this index failed? */
static bool retries_left(const sim *s, const tci_stage *stage, tci_retry own_words, size_t index) {
  const tci_attempt *last = stage->attempts.items[index - 1];
  int64_t delivery = 0, other = 0;
  for (size_t i = 0; i < index; i++) {
    if (is_delivery(stage->attempts.items[i]))
      delivery++;
    else
      other++;
  }
  int64_t own = own_words.max_attempts ? own_words.max_attempts : s->f.limits.attempts_max;
  if (own_words.max_attempts || own_words.backoff_ms || own_words.backoff_ms_max) return delivery + other < own;
  if (is_delivery(last)) return delivery < s->f.limits.delivery_attempts_max;
  return last->failure.kind != TCI_FAILURE_REPORTED && other < s->f.limits.attempts_max;
}

/* Is there another attempt after the one with this index, by what was said? */
static bool goes_on(const sim *s, const tci_stage *stage, tci_retry own_words, size_t index) {
  const sim_asked *k = was_asked(s, stage->attempts.items[index - 1]);
  bool said = k && k->said[TCI_HOOK_RETRY].step && !k->said[TCI_HOOK_RETRY].fault;
  return said ? k->again : retries_left(s, stage, own_words, index);
}

/* before: what the stage said of retries when it was last looked at. In a turn of several steps a client may have changed
 * that before the attempt failed, or after it. */
static void judge_retry(sim *s, const sim_node *n, const tci_stage *stage, tci_retry before, size_t index) {
  if (!goes_on(s, stage, stage->retry, index) && !goes_on(s, stage, before, index))
    fx_fail("oracle: stage %s has no retry left after attempt %zu", n->id, index);
  const tci_attempt *failed = stage->attempts.items[index - 1], *next = stage->attempts.items[index];
  const sim_asked *k = was_asked(s, failed);
  if (!k || !k->said[TCI_HOOK_RETRY].step || k->said[TCI_HOOK_RETRY].fault) return;
  if (next->not_before_us != (k->after_us ? next->created_us + k->after_us : 0))
    fx_fail("oracle: the next attempt of stage %s does not come when the policy said", n->id);
  tci_decision_record record = {.hook = TCI_HOOKS};
  unsigned excludes = 0;
  if (failed->decisions.len)
    tci_decision_decode(failed->decisions.items[failed->decisions.len - 1], &s->f.arena, &record);
  for (size_t i = 0; i < record.exclude.len; i++) excludes |= 1u << (record.exclude.items[i].ptr[1] - '0');
  if (record.hook != TCI_HOOK_RETRY || !record.again || record.after_us != k->after_us || excludes != k->excludes)
    fx_fail("oracle: the retry of stage %s is not on record", n->id);
}

/* Nobody took it in time: not before its time. */
static void judge_end(const sim *s, const sim_node *n, const tci_attempt *a) {
  if (a->failure.kind != TCI_FAILURE_TIMEOUT || a->dispatched_us || !a->execution) return;
  const sim_asked *k = was_asked(s, a);
  if (!k || !k->queue_us || s->f.now.mono_us < k->queue_us)
    fx_fail("oracle: attempt %u of stage %s did not wait as long as it may", a->index, n->id);
}

static bool failed_a_check(sim *s, const sim_plan *p, const sim_node *n) {
  for (int i = 0; i < n->checks_len; i++) {
    const tci_result *r = result_of((tci_check *)core_node(s, p, n->checks[i]), n, i);
    bool missing =
        r && r->failure.message.len > 6 && memcmp(r->failure.message.ptr, "stage ", 6) == 0; /* added by the engine */
    if (r && r->finalized_us && r->failure.present && !missing) return true;
  }
  return false;
}

enum { PERCENT_BYTES = 22 }; /* the engine adds them to every entry: "percent" */

/* Of progress the last entries are kept, within their limits. */
static void judge_progress(const sim *s, const sim_node *n, const tci_attempt *a) {
  size_t bytes = 0;
  for (size_t i = 0; i < a->progress.len; i++)
    bytes += a->progress.items[i].message.len + a->progress.items[i].details.len;
  if (bytes != a->progress_bytes || (int64_t)bytes > s->f.limits.progress_bytes_max + PERCENT_BYTES ||
      (int64_t)a->progress.len > s->f.limits.progress_entries_max)
    fx_fail("oracle: attempt %u of stage %s keeps %zu entries, %zu bytes of progress, counted as %zu", a->index, n->id,
            a->progress.len, bytes, a->progress_bytes);
}

static void judge_stage(sim *s, sim_plan *p, int at, const tci_stage *stage) {
  const sim_node *n = &p->nodes[at];
  for (size_t i = p->seen[at].attempts; i > 0 && i < stage->attempts.len; i++)
    judge_retry(s, n, stage, p->seen[at].retry, i);
  tci_retry before = p->seen[at].retry;
  p->seen[at].retry = stage->retry;
  p->seen[at].attempts = stage->attempts.len;
  for (size_t *i = &p->seen[at].ended; *i < stage->attempts.len; ++*i) {
    if (tci_attempt_is_open(stage->attempts.items[*i])) break;
    judge_end(s, n, stage->attempts.items[*i]);
  }
  int known = truth(s, p, n);
  const tci_attempt *last = tci_stage_attempt(stage);
  if (last) judge_progress(s, n, last);
  if (known >= 0 && stage->state == TCI_STAGE_PLANNED && !goes_on_later(s))
    fx_fail("oracle: stage %s lags behind its dependencies", n->id);
  if (known != 1 && stage->attempts.len) fx_fail("oracle: stage %s ran before its time", n->id);
  if (stage->state != TCI_STAGE_FINAL) return;
  bool fine = false;
  switch (stage->node.reason) {
    case TCI_REASON_DEPENDENCIES_UNSATISFIED:
      fine = known == 0 && !last && stage->node.outcome == TCI_OUTCOME_SKIPPED;
      break;
    case TCI_REASON_WRITTEN: fine = !last && stage->node.outcome == TCI_OUTCOME_SKIPPED; break;
    case TCI_REASON_NO_RETRIES_LEFT:
      fine = last && last->state == TCI_ATTEMPT_INCOMPLETE && last->failure.present &&
             stage->node.outcome == TCI_OUTCOME_FAILED &&
             (n->pulled || !goes_on(s, stage, stage->retry, stage->attempts.len) ||
              !goes_on(s, stage, before, stage->attempts.len));
      break;
    case TCI_REASON_ATTEMPT_COMPLETE:
    case TCI_REASON_CHECK_FAILED: fine = last && last->state == TCI_ATTEMPT_COMPLETE; break;
    default: break;
  }
  if (!fine)
    fx_fail("oracle: stage %s: outcome %d, reason %d", n->id, (int)stage->node.outcome, (int)stage->node.reason);
}

/* At the moment it becomes FINAL: later a client may still finalise a result in the stage's name. */
static void judge_outcome(sim *s, const sim_plan *p, int at, const tci_node *node) {
  if (node->reason != TCI_REASON_ATTEMPT_COMPLETE && node->reason != TCI_REASON_CHECK_FAILED) return;
  bool failed = failed_a_check(s, p, &p->nodes[at]);
  if (failed != (node->outcome == TCI_OUTCOME_FAILED) || failed != (node->reason == TCI_REASON_CHECK_FAILED))
    fx_fail("oracle: stage %s completed with outcome %d", p->nodes[at].id, (int)node->outcome);
}

static uint64_t quick_hash(const tci_buf *text) { /* FNV-1a, eight bytes a time */
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < text->len; i += 8) {
    uint64_t word = 0;
    memcpy(&word, text->ptr + i, text->len - i < 8 ? text->len - i : 8);
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  return hash;
}

static bool reports(const tci_node *node) {
  const tci_attempt *a = node->kind == TCI_NODE_STAGE ? tci_stage_attempt((const tci_stage *)node) : NULL;
  return a && a->progress_pending;
}

/* FINAL is for ever; a version rises by 1 exactly when something changed. */
static bool judge_history(sim *s, sim_plan *p, int at, const tci_node *node) {
  tci_node same = *node;
  tci_buf *text = &s->f.other;
  tci_buf_clear(text);
  fx_dump_node(node, false, text);
  uint64_t hash = quick_hash(text);
  bool known = p->seen[at].version > 0, changed = !known || hash != p->seen[at].hash;
  int64_t rise = same.version - p->seen[at].version;
  bool reported = p->seen[at].reports;
  p->seen[at].reports = reports(node);
  if (reported || p->seen[at].reports) changed = rise > 0;
  if (rise < changed || rise > (changed ? p->touched : 0))
    fx_fail("oracle: %s went from version %lld to %lld and %s", p->nodes[at].id, (long long)p->seen[at].version,
            (long long)same.version, changed ? "changed" : "did not change");
  if (p->seen[at].final && changed) fx_fail("oracle: %s was FINAL and changed", p->nodes[at].id);
  if (!p->seen[at].final && tci_node_is_final(node)) judge_outcome(s, p, at, node);
  p->seen[at].just = tci_node_is_final(node) && !p->seen[at].final;
  p->seen[at].final = tci_node_is_final(node);
  p->seen[at].hash = hash;
  p->seen[at].version = node->version;
  return changed;
}

/* Plans leave memory only when nothing is under way in them and nobody watches. */
static void judge_absent(const sim *s, const sim_plan *p, const tci_plan *plan) {
  bool watched = false;
  for (int i = 0; i < STREAMS; i++) watched |= s->streams[i].open && &s->plans[s->streams[i].plan] == p;
  if (plan->live_attempts || watched)
    fx_fail("oracle: a plan that %s left memory", watched ? "is watched" : "is at work");
}

void judge_plan(sim *s, sim_plan *p) {
  const tci_plan *plan = plan_of(s, p);
  if (!tci_core_has_plan(s->f.core, p->id)) judge_absent(s, p, plan);
  int open = 0;
  bool changed = false, failed = false;
  for (int i = 0; i < p->len; i++) {
    const tci_node *node = core_node(s, p, i);
    p->seen[i].just = false;
    if (p->touched || s->step % 16 == 0) changed |= judge_history(s, p, i, node);
    open += !tci_node_is_final(node);
    failed |= node->outcome == TCI_OUTCOME_FAILED;
    if (p->nodes[i].is_check)
      judge_check(s, p, i, (const tci_check *)node);
    else
      judge_stage(s, p, i, (const tci_stage *)node);
  }
  if ((int)plan->nodes.len != p->len)
    fx_fail("oracle: the plan has %zu nodes, %d were written", plan->nodes.len, p->len);
  bool settled = p->len && !open;
  if (settled != (plan->state == TCI_PLAN_SETTLED))
    fx_fail("oracle: the plan has %d open nodes and is in state %d", open, (int)plan->state);
  if (settled && plan->outcome != (failed ? TCI_OUTCOME_FAILED : TCI_OUTCOME_SUCCEEDED))
    fx_fail("oracle: the plan's outcome is %d", (int)plan->outcome);
  p->settled += settled && (!p->was_settled || changed);
  p->was_settled = settled;
  if (p->completed != p->settled) fx_fail("oracle: settled %d times, told %d times", p->settled, p->completed);
  if (plan->version != p->version + p->touched)
    fx_fail("oracle: the plan went from version %lld to %lld", (long long)p->version, (long long)plan->version);
  p->version = plan->version;
  p->touched = 0;
}
