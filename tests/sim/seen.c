/* seen: the part of the oracle that is about what leaves the core, and when: runners and their leases, dispatches, deadlines,
 * watch events; and the look at everything after each step.
 */
#include "world.h"

sim_runner *runner_of(sim *s, tci_str id) { return &s->runners[id.ptr[1] - '0']; }

static void judge_runners(sim *s) {
  for (int i = 0; i < RUNNERS; i++) {
    char id[4] = {'r', (char)('0' + i), 0};
    sim_runner *r = &s->runners[i];
    bool here = fx_runner(&s->f, id) != NULL, due = s->f.heard_us >= r->heard_us + r->ttl_us;
    if (here && !r->here) fx_fail("oracle: runner %s came from nowhere", id);
    if (here && due && !s->f.update.more) fx_fail("oracle: runner %s should have expired", id);
    if (!here && r->here && !due && !s->unregistering) fx_fail("oracle: runner %s expired early", id);
    r->here = here;
  }
  for (size_t i = 0; i < s->executions.len; i++) {
    sim_execution *e = s->executions.items[i];
    const tci_attempt *a = attempt_of(s, e);
    if (!tci_execution_is_live(a) || tci_map_get(&s->f.core->registrations, a->registration_id)) continue;
    e->left |= s->unregistering;
    if (!e->left) fx_fail("oracle: a runner expired and his work did not");
  }
}

/* ---- dispatches, and the whole ---- */

static sim_execution *execution_of(sim *s, tci_str id) {
  for (size_t i = s->executions.len; i > 0; i--)
    if (tci_str_eq(s->executions.items[i - 1]->id, id)) return s->executions.items[i - 1];
  return NULL;
}

tci_attempt *attempt_of(sim *s, const sim_execution *e) {
  tci_stage *stage = tci_plan_stage(plan_of(s, &s->plans[e->plan]), e->stage);
  for (size_t i = 0; i < stage->attempts.len; i++)
    if (tci_str_eq(stage->attempts.items[i]->execution_id, e->id)) return stage->attempts.items[i];
  fx_fail("an execution is gone");
}

static void see_dispatch(sim *s, const tci_effect *effect) {
  const tci_attempt *a = effect->attempt;
  if (execution_of(s, a->execution_id)) fx_fail("oracle: an execution is sent twice");
  int plan = 0;
  while (!tci_str_eq(s->plans[plan].id, a->stage->node.plan->id)) plan++;
  const tci_runner *r = a->runner;
  if (!r || !r->modes[a->mode] || !tci_str_eq(r->runner_type, a->stage->runner_type) || is_late(s, r))
    fx_fail("oracle: sent to the wrong runner");
  int64_t load = 0;
  for (size_t i = 0; i < s->executions.len; i++) {
    const tci_attempt *other = attempt_of(s, s->executions.items[i]);
    load += tci_execution_is_live(other) && tci_str_eq(other->registration_id, r->registration_id);
    if (other->stage == a->stage && tci_execution_is_live(other)) fx_fail("oracle: two live executions of one stage");
  }
  if (r->max_concurrent && load >= r->max_concurrent) fx_fail("oracle: a runner gets more than it takes");
  sim_execution *e = tci_arena_new(&s->f.arena, sim_execution);
  *e = (sim_execution){.id = tci_str_copy(&s->f.arena, a->execution_id),
                       .plan = plan,
                       .stage = tci_str_copy(&s->f.arena, a->stage->node.id),
                       .async = a->mode == TCI_MODE_ASYNC,
                       .calling = true,
                       .sent_us = s->f.now.mono_us,
                       .spoke_us = s->f.now.mono_us};
  tci_vec_push(&s->executions, e);
  judge_decision(s, e, a);
}

static void see_watch(sim *s, const tci_effect *effect) {
  sim_plan *p = &s->plans[effect->token - 1];
  const tci_watch_event *w = &effect->watch;
  if (w->sequence < p->watched) fx_fail("oracle: the watch goes backwards");
  p->watched = w->sequence;
  p->completed += !w->check && !w->stage;
}

/* Deadlines end nobody early. */
static void judge_timeouts(sim *s) {
  for (size_t i = 0; i < s->executions.len; i++) {
    sim_execution *e = s->executions.items[i];
    if (e->over) continue;
    const tci_attempt *a = attempt_of(s, e);
    if (tci_execution_is_live(a)) continue;
    e->over = true;
    if (e->survived_restart) continue;
    if (a->failure.kind == TCI_FAILURE_STALE && s->f.heard_us - e->spoke_us < a->stale_ms * 1000)
      fx_fail("oracle: an attempt was given up as silent early");
    if (a->failure.kind != TCI_FAILURE_TIMEOUT) continue;
    int64_t least = a->mode == TCI_MODE_ASYNC && !a->accepted && s->f.limits.accept_timeout_ms < a->execution_ms
                        ? s->f.limits.accept_timeout_ms
                        : a->execution_ms;
    bool said_so =
        tci_str_cmp(a->failure.message, TCI_STR("DEADLINE_EXCEEDED")) > 0 && a->failure.message.ptr[0] == 'D';
    if (!said_so && s->f.heard_us - e->sent_us < least * 1000) fx_fail("oracle: an attempt timed out early");
  }
}

/* Those that ended hold no keys any more; before anybody new gets one. */
static void give_back(sim *s) {
  for (size_t i = 0; i < s->executions.len; i++) {
    sim_execution *e = s->executions.items[i];
    if (e->gave_back || tci_execution_is_live(attempt_of(s, e))) continue;
    e->gave_back = true;
    for (int key = 0; key < KEYS; key++) s->live[key] -= e->keys[key];
  }
}

void after_step(fx *f, bool quiet, void *ctx) {
  sim *s = ctx;
  s->was_quiet = quiet;
  read_notes(s);
  if (s->faults || s->opened || s->closed) fx_fail("oracle: a fault or a circuit went unnoticed");
  for (size_t i = 0; i < f->update.notes.len; i++) {
    mix(s, (tci_str){(const char *)&f->update.notes.items[i].kind, sizeof(tci_note_kind)});
    mix(s, f->update.notes.items[i].text);
  }
  s->notes = 0;
  give_back(s);
  if (!f->asleep) judge_circuits(s);
  for (size_t i = 0; i < f->update.records.len; i++) {
    const tci_record *record = &f->update.records.items[i];
    mix(s, record->bytes);
    if (record->plan_key && !record->plan_id.len) s->plans[record->plan_key - 1].touched++;
  }
  for (size_t i = 0; i < f->update.effects.len; i++) {
    const tci_effect *e = &f->update.effects.items[i];
    mix(s, (tci_str){(const char *)&e->kind, sizeof e->kind});
    if (e->kind == TCI_EFFECT_REPLY) mix(s, tci_str_from(e->reply.status.message));
  }
  for (size_t i = 0; i < f->update.effects.len; i++) {
    const tci_effect *e = &f->update.effects.items[i];
    if (e->kind == TCI_EFFECT_DISPATCH && s->draining) fx_fail("oracle: work is sent while the server drains");
    if (e->kind == TCI_EFFECT_DISPATCH) see_dispatch(s, e);
    if (e->kind == TCI_EFFECT_WATCH) see_watch(s, e);
  }
}

/* Who has answered is not waited for any more. */
static void judge_answers(sim *s) {
  for (size_t i = 0; i < s->executions.len && !s->f.update.more; i++) {
    const sim_execution *e = s->executions.items[i];
    const tci_attempt *a = attempt_of(s, e);
    if (e->answered && tci_execution_is_live(a) && !(e->async && a->accepted)) fx_fail("oracle: an answer was lost");
  }
}

/* Of plans with nothing under way only so many stay in memory. */
static void judge_memory(const sim *s) {
  int64_t idle = 0;
  for (size_t i = 0; s->shell && i < s->f.core->plan_list.len; i++) {
    const tci_plan *plan = s->f.core->plan_list.items[i];
    idle += !plan->live_attempts && !plan->listed && tci_list_empty(&plan->watchers);
  }
  if (!s->f.update.more && idle > s->f.limits.plans_in_memory_max)
    fx_fail("oracle: %lld idle plans are in memory", (long long)idle);
}

/* Whoever asked for a list is told, in this turn or in one of the next. */
static void judge_lists(const sim *s) {
  if (s->shell && !s->f.update.more && !s->f.asleep && shell_waiting_reads())
    fx_fail("oracle: a question was forgotten");
}

/* Not in after_step: a write must have been taken over into sim_plan first. */
void judge(sim *s) {
  for (int i = 0; i < s->plans_len; i++) judge_plan(s, &s->plans[i]);
  judge_memory(s);
  judge_streams(s);
  judge_lists(s);
  if (!s->f.asleep) {
    judge_runners(s);
    judge_answers(s);
    if (!s->draining) judge_readiness(s);
  }
  judge_timeouts(s);
  s->unregistering = false;
  tci_buf_clear(&s->f.told);
  for (int i = 0; i < FX_STREAMS; i++) tci_buf_clear(&s->f.streams[i]);
}

/* A step now is about its event alone: no timer is due before it. */
bool is_quiet(const sim *s) { return !s->f.update.more; }
