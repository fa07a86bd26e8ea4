/* asked: the part of the oracle that is about policies: who is asked what and when, whether what was said is what happens, and
 * whether whoever waits has a reason to.
 *
 * It is built from what the policies of policies.h were asked and answered. A question without an answer leaves a note in the
 * update; those are believed only when this program comes to the same.
 */
#include "world.h"

/* ---- what is asked ---- */

/* NULL: nobody was asked about it yet. */
sim_asked *was_asked(const sim *s, const tci_attempt *a) {
  return a->execution_id.len ? tci_map_get(&s->asked, a->execution_id) : NULL;
}

static sim_asked *asked_of(sim *s, const tci_attempt *a) {
  sim_asked *k = was_asked(s, a);
  int64_t wait = a->not_before_us ? a->not_before_us - s->f.now.wall_us : 0;
  if (!k) { /* it is new */
    k = tci_arena_new(&s->f.arena, sim_asked);
    k->id = tci_str_copy(&s->f.arena, a->execution_id);
    k->ready_us = s->f.now.mono_us + wait;
    k->epoch = s->epoch;
    k->seen_step = s->f.steps;
    k->seen_us = s->f.now.mono_us;
    if (k->id.len) tci_map_put(&s->asked, k->id, k);
  } else if (k->epoch != s->epoch) { /* since the restart: time is what the wall clock says */
    int64_t most = a->not_before_us ? a->not_before_us - a->created_us : 0;
    int64_t since = s->f.now.wall_us - (a->not_before_us > a->created_us ? a->not_before_us : a->created_us);
    if (wait > most) wait = most;
    k->ready_us = s->f.now.mono_us + (wait > 0 ? wait : since > 0 ? -since : 0);
    k->epoch = s->epoch;
    k->seen_us = s->f.now.mono_us;
    k->hold_us = k->queue_us = k->execution_ms = k->stale_ms = 0;
  }
  return k;
}

static tci_str attached_name(const sim *s, const tci_stage *stage) {
  for (int i = 0; i < s->plans_len; i++)
    if (tci_str_eq(s->plans[i].id, stage->node.plan->id) && s->plans[i].policy.len) return s->plans[i].policy;
  for (size_t i = 0; s->set && i < s->set->set.types.len; i++)
    if (tci_str_eq(s->set->types[i].key, stage->runner_type)) return s->set->types[i].value;
  return s->set ? s->set->set.server : (tci_str){0};
}

int policy_number(tci_str name) {
  for (int i = 0; i < POLICIES; i++)
    if (tci_str_eq(policy_names[i], name)) return i;
  return -1;
}

/* The one that decides; NULL: the built-in. */
static const sim_policy *attached(const sim *s, const tci_stage *stage) {
  int number = policy_number(attached_name(s, stage));
  return number < 0 ? NULL : s->circuits[number].policy;
}

bool is_open(const sim *s, const sim_policy *p) {
  const sim_circuit *c = &s->circuits[p->number];
  return c->open && s->f.now.mono_us < c->until_us;
}

static void hear_fault(sim *s, int number) {
  sim_circuit *c = &s->circuits[number];
  if (++c->row < s->f.limits.policy_faults_max && !c->open) return;
  int64_t us = s->f.limits.policy_circuit_ms * 1000;
  c->open = true;
  c->until_us = s->f.now.mono_us + us;
  c->until_wall_us = s->f.now.wall_us + us;
  c->changed = s->may_void = s->f.steps;
  c->word = s->words;
  s->opened++;
  if (s->f.steps - 1 > s->must_void) s->must_void = s->f.steps - 1;
}

/* What nobody was asked leaves nothing but a note. */
void read_notes(sim *s) {
  for (; s->notes < s->f.update.notes.len; s->notes++) {
    const tci_note *note = &s->f.update.notes.items[s->notes];
    s->opened -= note->kind == TCI_NOTE_CIRCUIT_OPEN;
    s->closed -= note->kind == TCI_NOTE_CIRCUIT_CLOSED;
    if (note->kind == TCI_NOTE_FAULT && s->faults-- == 0) fx_fail("oracle: a fault that nobody made");
    if (note->kind != TCI_NOTE_UNASKED) continue;
    if (note->hook != TCI_HOOK_RETRY || s->turn != s->f.turns || s->spent < s->f.limits.policy_instructions_per_turn)
      fx_fail("oracle: a policy was not asked: %.*s", TCI_STR_ARG(note->text));
    asked_of(s, tci_stage_attempt(note->stage))->said[note->hook].excused = s->f.steps;
  }
}

static unsigned excluded_from(const sim *s, const tci_attempt *a) {
  const sim_asked *k = a->index > 1 ? was_asked(s, a->stage->attempts.items[a->index - 2]) : NULL;
  return k && k->said[TCI_HOOK_RETRY].step && !k->said[TCI_HOOK_RETRY].fault ? k->excludes : 0;
}

static bool is_excluded(const sim *s, const tci_attempt *a, tci_str runner) {
  return excluded_from(s, a) >> (runner.ptr[1] - '0') & 1;
}

/* Its lease is over, though it may not have been judged yet: it gets no work. */
bool is_late(const sim *s, const tci_runner *r) {
  const sim_runner *known = &s->runners[r->runner_id.ptr[1] - '0'];
  return s->f.now.mono_us >= known->heard_us + known->ttl_us;
}

/* With `lately` also those who are passed over no longer, but nobody has looked yet. */
static bool has_room(const sim *s, const tci_runner *r, const tci_attempt *a, bool lately) {
  int64_t at_us = lately ? s->f.now.mono_us : s->f.heard_us;
  return tci_str_eq(r->runner_type, a->stage->runner_type) && r->modes[a->mode] &&
         (!r->max_concurrent || r->load < r->max_concurrent) && r->passed_over_until_us <= at_us && !is_late(s, r);
}

/* About one execution, all that is asked in a row counts as one question. */
static void count_question(sim *s, tci_hook hook, const sim_asked *k) {
  bool first = hook == TCI_HOOK_ADMIT || hook == TCI_HOOK_PRIORITY ||
               (hook == TCI_HOOK_SELECT && k->said[TCI_HOOK_ADMIT].step != s->f.steps) ||
               (hook == TCI_HOOK_TIMEOUT && k->said[TCI_HOOK_PRIORITY].step != s->f.steps);
  s->questions += first;
  if (s->questions > s->f.limits.policy_asks_per_turn) fx_fail("oracle: too many questions in a turn");
}

static void hear_admit(sim *s, sim_asked *k, const tci_question *q, const tci_decision *d) {
  bool room = false;
  for (size_t i = 0; i < s->f.core->runner_list.len; i++)
    room |= has_room(s, s->f.core->runner_list.items[i], q->attempt, true);
  if (!room) fx_fail("oracle: admit is asked and nobody has room");
  k->keys_len = (int)d->keys_len;
  for (size_t i = 0; i < d->keys_len; i++) {
    k->keys[i] = d->keys[i].key.ptr[1] - '0';
    k->limits[i] = d->keys[i].limit;
  }
}

static void hear_select(sim *s, sim_asked *k, const tci_question *q, const tci_decision *d) {
  if (!q->candidates_len) fx_fail("oracle: nobody to choose from");
  for (size_t i = 0; i < q->candidates_len; i++) {
    const tci_runner *r = q->candidates[i];
    if (is_excluded(s, q->attempt, r->runner_id) || !r->modes[q->attempt->mode] ||
        !tci_str_eq(r->runner_type, q->stage->runner_type) || (r->max_concurrent && r->load >= r->max_concurrent))
      fx_fail("oracle: runner %.*s is no candidate", TCI_STR_ARG(r->runner_id));
  }
  if (d->runner) snprintf(k->runner, sizeof k->runner, "%.*s", TCI_STR_ARG(d->runner->runner_id));
}

static void hear_retry(sim_asked *k, const tci_decision *d) {
  k->again = d->again;
  k->after_us = d->after_us;
  k->excludes = 0;
  for (size_t i = 0; i < d->exclude.len; i++) k->excludes |= 1u << (d->exclude.items[i].ptr[1] - '0');
}

static void hear_timeout(sim_asked *k, const tci_decision *d) {
  k->execution_ms = d->execution_ms;
  k->stale_ms = d->stale_ms;
  k->queue_us = d->queue_ms ? k->ready_us + d->queue_ms * 1000 : 0;
}

static void hear_hook(sim *s, tci_hook hook, const tci_question *q, const tci_decision *d) {
  sim_asked *k = asked_of(s, q->attempt);
  bool waits = hook == TCI_HOOK_ADMIT || hook == TCI_HOOK_SELECT;
  if (waits && k->hold_us > s->f.now.mono_us && k->hold_step > s->may_void)
    fx_fail("oracle: asked again before the wait was over");
  if (!waits && k->once[hook] == s->epoch + 1) fx_fail("oracle: %s is asked twice", tci_hook_name(hook));
  count_question(s, hook, k);
  k->once[hook] = s->epoch + 1;
  k->said[hook].step = s->f.steps;
  k->said[hook].word = ++s->words;
  k->said[hook].fault = d->fault;
  k->said[hook].wait = d->wait;
  if (waits) {
    int64_t least = s->f.limits.policy_wait_ms_min * 1000;
    k->hold_us = d->wait && d->wait_us ? s->f.now.mono_us + (d->wait_us < least ? least : d->wait_us) : 0;
    k->hold_step = s->f.steps;
  }
  if (d->fault) return;
  switch (hook) {
    case TCI_HOOK_ADMIT: hear_admit(s, k, q, d); break;
    case TCI_HOOK_SELECT: hear_select(s, k, q, d); break;
    case TCI_HOOK_RETRY: hear_retry(k, d); break;
    case TCI_HOOK_TIMEOUT: hear_timeout(k, d); break;
    case TCI_HOOK_PRIORITY: k->priority = d->says ? d->priority : INT64_MAX; break;
    case TCI_HOOKS: break;
  }
}

void hear(const sim_policy *p, tci_hook hook, const tci_question *q, const tci_decision *d) {
  sim *s = &world;
  read_notes(s);
  if (s->turn != s->f.turns) s->spent = s->questions = 0;
  s->turn = s->f.turns;
  /* Whoever is asked whether it may run is asked where, too. */
  if (s->spent >= s->f.limits.policy_instructions_per_turn && hook != TCI_HOOK_SELECT && hook != TCI_HOOK_TIMEOUT)
    fx_fail("oracle: asked when the turn is used up");
  s->spent += d->cost;
  if (p->number == SHADOW) return;
  if (p != attached(s, q->stage)) fx_fail("oracle: the wrong policy is asked: %s", p->version);
  if (!(p->policy.hooks >> hook & 1)) fx_fail("oracle: it has no %s", tci_hook_name(hook));
  if (is_open(s, p)) fx_fail("oracle: asked while its circuit is open");
  sim_circuit *c = &s->circuits[p->number];
  hear_hook(s, hook, q, d);
  if (d->fault) {
    s->faults++;
    hear_fault(s, p->number);
    return;
  }
  c->row = 0;
  if (c->open) c->changed = s->f.steps;
  s->closed += c->open;
  c->open = false;
}

void judge_circuits(sim *s) {
  for (int i = 0; i < POLICIES; i++) {
    const sim_circuit *c = &s->circuits[i];
    bool open, here = c->policy != NULL;
    int64_t until_us;
    if (tci_core_policy_state(s->f.core, policy_names[i], &open, &until_us) != here)
      fx_fail("oracle: policy p%d is %s", i, here ? "not there" : "there");
    bool should = here && is_open(s, c->policy);
    if (open != should) fx_fail("oracle: the circuit of p%d is %s", i, open ? "open" : "closed");
    if (open && until_us != c->until_wall_us && !s->epoch)
      fx_fail("oracle: the circuit of p%d closes at another time", i);
  }
}

/* Whether its answer in this step decided, by all appearance; it must have been asked, or there is a reason why not. */
static bool decided(const sim *s, const sim_asked *k, const tci_stage *stage, tci_hook hook, bool used) {
  const sim_policy *p = attached(s, stage);
  if (!p || !(p->policy.hooks >> hook & 1)) return false;
  const sim_circuit *c = &s->circuits[p->number];
  if (k->said[hook].step == s->f.steps) {
    /* Its circuit opened afterwards, and it was looked at once more. */
    bool overruled = c->changed == s->f.steps && c->word > k->said[hook].word && (k->said[hook].wait || !used);
    return !k->said[hook].fault && !overruled;
  }
  if (k->said[hook].excused != s->f.steps && c->changed != s->f.steps && !is_open(s, p))
    fx_fail("oracle: stage %.*s goes and %s was not asked", TCI_STR_ARG(stage->node.id), tci_hook_name(hook));
  return false;
}

static void judge_record(sim *s, const tci_attempt *a) {
  tci_decision_record record = {.hook = TCI_HOOKS}; /* the last one */
  bool told[TCI_HOOKS] = {false};
  for (size_t i = 0; i < a->decisions.len; i++) {
    if (!tci_decision_decode(a->decisions.items[i], &s->f.arena, &record)) fx_fail("oracle: a record is broken");
    told[record.hook] |= record.fault.len > 0;
  }
  const sim_policy *p = attached(s, a->stage);
  tci_str name = attached_name(s, a->stage);
  if (p && !(p->policy.hooks >> TCI_HOOK_SELECT & 1)) name = (tci_str){0};
  if (record.hook != TCI_HOOK_SELECT || !tci_str_eq(record.runner_id, a->runner_id) || record.candidates_len == 0 ||
      record.candidates_total < (int64_t)record.candidates_len || !tci_str_eq(record.policy, name) ||
      (p && name.len && !tci_str_eq(record.version, p->policy.version)))
    fx_fail("oracle: the decision is not on record");
  bool named = record.candidates_total > (int64_t)record.candidates_len;
  for (size_t i = 0; i < record.candidates_len; i++) {
    const tci_runner *r = tci_map_get(&s->f.core->runners, record.candidates[i].runner_id);
    if (!r || (record.candidates[i].load > r->load && !s->several))
      fx_fail("oracle: a candidate that is none is on record");
    named |= tci_str_eq(r->runner_id, a->runner_id);
  }
  if (!named) fx_fail("oracle: the runner is not among the candidates on record");
  const sim_asked *k = was_asked(s, a);
  for (int hook = 0; hook < TCI_HOOKS; hook++) {
    bool counts = hook == TCI_HOOK_PRIORITY || hook == TCI_HOOK_TIMEOUT ? k->once[hook] == s->epoch + 1
                                                                        : k->said[hook].step == s->f.steps;
    if (hook != TCI_HOOK_RETRY && counts && k->said[hook].fault && !told[hook])
      fx_fail("oracle: a fault of %s is not on record", tci_hook_name((tci_hook)hook));
  }
}

/* It was sent just now: by the last word of its policy. */
void judge_decision(sim *s, sim_execution *e, const tci_attempt *a) {
  sim_asked *k = asked_of(s, a);
  if (k->hold_us > s->f.now.mono_us && k->hold_step > s->may_void) fx_fail("oracle: sent before the wait was over");
  bool there = tci_str_eq(a->runner_id, tci_str_from(k->runner));
  if (is_excluded(s, a, a->runner_id)) fx_fail("oracle: sent to a runner that was excluded");
  if (decided(s, k, a->stage, TCI_HOOK_SELECT, there) && (k->said[TCI_HOOK_SELECT].wait || !there))
    fx_fail("oracle: sent where select did not say");
  size_t keys = 0;
  tci_ids held = {0};
  if (decided(s, k, a->stage, TCI_HOOK_ADMIT, a->keys.len > 0 || !k->keys_len)) {
    if (k->said[TCI_HOOK_ADMIT].wait) fx_fail("oracle: sent and not admitted");
    for (int i = 0; i < k->keys_len; i++) {
      int key = k->keys[i];
      if (s->live[key] >= k->limits[i]) fx_fail("oracle: more than the limit of key k%d are live", key);
      if (!tci_ids_has(a->keys, key_names[key])) fx_fail("oracle: it does not hold its key k%d", key);
      keys += !e->keys[key];
      e->keys[key] = 1;
    }
    for (int key = 0; key < KEYS; key++) s->live[key] += e->keys[key];
  }
  if (!tci_ids_decode(a->keys, &s->f.arena, &held) || held.len != keys) fx_fail("oracle: it holds other keys");
  if ((k->execution_ms && k->execution_ms != a->execution_ms) || (k->stale_ms && k->stale_ms != a->stale_ms))
    fx_fail("oracle: it has another deadline than the policy gave it");
  judge_record(s, a);
}

/* ---- who waits, and why ---- */

/* Asks the policy, when it would be asked. False: a fault. */
static bool ask_again(sim *s, const sim_policy *p, tci_hook hook, const tci_attempt *a, tci_runner **runners,
                      size_t len, tci_decision *out) {
  tci_rng rng = {0};
  tci_question q = {&s->f.limits, s->f.now, &rng, &s->f.arena, a->stage, a, runners, len, false};
  *out = (tci_decision){0};
  if (p && p->policy.hooks >> hook & 1 && !is_open(s, p)) sim_answer(p, hook, &q, out);
  return !out->fault;
}

static void judge_held(const sim *s, const tci_attempt *a, const sim_asked *k) {
  if (k->hold_us != a->hold_until_us || k->hold_us <= s->f.heard_us || k->hold_step <= s->must_void)
    fx_fail("oracle: stage %.*s waits and nobody told it to", TCI_STR_ARG(a->stage->node.id));
}

static void judge_parked(const sim *s, const tci_attempt *a, const sim_asked *k) {
  if (k->said[TCI_HOOK_ADMIT].step > s->must_void)
    for (int i = 0; i < k->keys_len; i++)
      if (tci_str_eq(key_names[k->keys[i]], a->parked->key->name) && s->live[k->keys[i]] >= k->limits[i]) return;
  fx_fail("oracle: stage %.*s waits for key %.*s, which has room", TCI_STR_ARG(a->stage->node.id),
          TCI_STR_ARG(a->parked->key->name));
}

/* It is ready, and these could take it: the policy must say wait when it is asked now. */
static void judge_idle(sim *s, const tci_attempt *a, tci_runner **runners, size_t len) {
  const sim_policy *p = attached(s, a->stage);
  tci_decision d;
  if (!ask_again(s, p, TCI_HOOK_ADMIT, a, NULL, 0, &d) || d.wait) return;
  for (size_t i = 0; i < d.keys_len; i++)
    if (s->live[d.keys[i].key.ptr[1] - '0'] >= d.keys[i].limit) return;
  if (!ask_again(s, p, TCI_HOOK_SELECT, a, runners, len, &d) || d.wait) return;
  fx_fail("oracle: stage %.*s is ready, runner %.*s has room", TCI_STR_ARG(a->stage->node.id),
          TCI_STR_ARG(runners[0]->runner_id));
}

/* What is asked once was asked, since nothing kept anybody from it; and it counts. */
static void judge_intake(const sim *s, const tci_attempt *a, const sim_asked *k) {
  const sim_policy *p = attached(s, a->stage);
  for (tci_hook hook = TCI_HOOK_TIMEOUT; hook <= TCI_HOOK_PRIORITY; hook++) {
    bool should = p && p->policy.hooks >> hook & 1 && k->seen_step > s->must_void;
    should = should && s->circuits[p->number].until_us <= k->seen_us; /* its circuit was not open */
    if (should && k->once[hook] != s->epoch + 1)
      fx_fail("oracle: %s of stage %.*s is not asked", tci_hook_name(hook), TCI_STR_ARG(a->stage->node.id));
  }
  bool said = k->once[TCI_HOOK_PRIORITY] == s->epoch + 1 && !k->said[TCI_HOOK_PRIORITY].fault;
  int64_t most = s->f.limits.priority_max, want = k->priority > most ? most : k->priority < -most ? -most : k->priority;
  if (said && k->priority != INT64_MAX && a->priority != want)
    fx_fail("oracle: stage %.*s has another priority", TCI_STR_ARG(a->stage->node.id));
}

static void judge_pending(sim *s, const tci_attempt *a) {
  const sim_asked *k = asked_of(s, a);
  if (s->f.update.more || k->ready_us > s->f.heard_us) return;
  if (!tci_link_in(&a->queued)) fx_fail("oracle: the backoff of %.*s is over", TCI_STR_ARG(a->stage->node.id));
  if (k->queue_us && k->queue_us <= s->f.heard_us && k->said[TCI_HOOK_TIMEOUT].step < s->f.steps &&
      k->once[TCI_HOOK_TIMEOUT] == s->epoch + 1)
    fx_fail("oracle: %.*s has waited for too long", TCI_STR_ARG(a->stage->node.id));
  judge_intake(s, a, k);
  tci_runner *runners[RUNNERS];
  size_t len = 0;
  bool room = false;
  for (size_t i = 0; i < s->f.core->runner_list.len; i++) {
    tci_runner *r = s->f.core->runner_list.items[i];
    if (!has_room(s, r, a, false)) continue;
    room = true;
    if (!is_excluded(s, a, r->runner_id)) runners[len++] = r;
  }
  if (a->hold_until_us)
    judge_held(s, a, k);
  else if (a->parked && room)
    judge_parked(s, a, k);
  else if (!a->parked && len)
    judge_idle(s, a, runners, len);
}

/* Whoever is ready has been sent, if anybody could take it and nobody said wait: a look at everybody by everybody. */
void judge_readiness(sim *s) {
  for (size_t e = 0; e < s->f.core->plan_list.len; e++) {
    const tci_plan *plan = s->f.core->plan_list.items[e];
    for (size_t i = 0; i < plan->nodes.len; i++) {
      if (plan->nodes.items[i]->kind != TCI_NODE_STAGE) continue;
      const tci_stage *stage = tci_node_stage(plan->nodes.items[i]);
      const tci_attempt *a = tci_stage_attempt(stage);
      if (!a || !a->execution || !tci_attempt_is_open(a)) continue;
      if (a->execution == TCI_EXECUTION_PENDING)
        judge_pending(s, a);
      else if (!s->f.update.more && a->deadline_mono_us <= s->f.heard_us)
        fx_fail("oracle: the deadline of %.*s passed unnoticed", TCI_STR_ARG(stage->node.id));
    }
  }
}
