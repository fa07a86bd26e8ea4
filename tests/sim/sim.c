/* sim: the core in a hostile world, by seed. Random plans, runners, answers, clocks and restarts; after every event the
 * invariants and an oracle that trusts nothing but what this program wrote itself. Then the faults stop, and every plan must settle.
 *
 *     sim                        seeds 1 to 200, some of them twice: the same seed must leave the same trace
 *     sim --seed N [--steps M]   one seed; --seeds N how many, --verbose a line each
 *
 * Every failure prints its seed and step.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core_fixture.h"

enum { PLANS = 3, NODES = 40, DEPS = 5, CHECKS = 4, TYPES = 3, RUNNERS = 5, TEXT = 4000 };

typedef struct {
  char id[16];
  bool is_check, any, pulled, async;
  int type;
  int deps[DEPS], conditions[DEPS], deps_len;
  int checks[CHECKS], checks_len;
  bool counts[CHECKS];
} sim_node; /* as this program wrote it */

typedef struct {
  tci_str id;
  sim_node nodes[NODES];
  int len;
  /* what was seen of each node after the last step */
  struct {
    bool final, just; /* just now */
    uint64_t hash;
    int64_t version;
    size_t attempts;
  } seen[NODES];
  int64_t version;
  uint64_t watched;
  int touched;            /* steps that changed it since the last look */
  int settled, completed; /* times */
  bool was_settled;
} sim_plan;

typedef struct {
  tci_str id, stage;
  int plan;
  bool async, calling, over; /* the RPC is in flight; it ended before the last restart or by itself */
  int64_t sent_us;
  bool survived_restart, left; /* left: its runner unregistered and may still finish it */
  char last[300];              /* the last completion it was given */
} sim_execution;

typedef struct {
  bool here;
  int64_t heard_us, ttl_us;
} sim_runner; /* "r0" ... */

typedef struct {
  uint64_t seed, rng, hash;
  int step, steps;
  fx f;
  sim_plan plans[PLANS];
  int plans_len;
  TCI_VEC(sim_execution *) executions;
  sim_runner runners[RUNNERS];
  unsigned weights[12]; /* swarm: what this seed likes to do */
  bool unregistering;
  char text[TEXT];
} sim;

static sim world;

static void die(const char *message) {
  fflush(stdout);
  fprintf(stderr, "sim: seed %llu, step %d: %s\n  replay: sim --seed %llu --steps %d\n", (unsigned long long)world.seed,
          world.step, message, (unsigned long long)world.seed, world.steps);
  exit(1);
}

/* An assertion of the core: it prints itself. */
static void on_abort(int signal_number) {
  (void)signal_number;
  die("the core stopped");
}

static uint64_t roll(sim *s, uint64_t bound) { /* splitmix64 */
  uint64_t z = (s->rng += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % bound;
}

static bool chance(sim *s, unsigned percent) { return roll(s, 100) < percent; }
static int pick(sim *s, int len) { return (int)roll(s, (uint64_t)len); }

static void say(sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(sim *s, const char *format, ...) { /* appends to s->text */
  size_t len = strlen(s->text);
  va_list args;
  va_start(args, format);
  vsnprintf(s->text + len, TEXT - len, format, args);
  va_end(args);
}

static void mix(sim *s, tci_str bytes) { s->hash = tci_siphash(s->hash, 3, bytes); }

/* ---- the oracle ---- */

static tci_node *core_node(sim *s, const sim_plan *p, int i) {
  tci_plan *plan = tci_core_plan(s->f.core, p->id);
  if (!plan) fx_fail("a plan is gone");
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

static const tci_result *result_of(const tci_check *c, const char *stage) {
  for (size_t i = 0; i < c->results.len; i++)
    if (tci_str_eq(c->results.items[i].owner_type, TCI_STR("stage")) &&
        tci_str_eq(c->results.items[i].owner_id, tci_str_from(stage)))
      return &c->results.items[i];
  return NULL;
}

static bool has_failed_result(const tci_check *c) {
  for (size_t i = 0; i < c->results.len; i++)
    if (c->results.items[i].finalized_us && c->results.items[i].failure.present) return true;
  return false;
}

static void judge_check(sim *s, const sim_plan *p, int at, const tci_check *c) {
  const sim_node *n = &p->nodes[at];
  int known = truth(s, p, n), stages = 0, open = 0;
  for (int i = 0; i < p->len; i++)
    for (int k = 0; !p->nodes[i].is_check && k < p->nodes[i].checks_len; k++) {
      if (p->nodes[i].checks[k] != at || !p->nodes[i].counts[k]) continue;
      const tci_result *r = result_of(c, p->nodes[i].id);
      stages++;
      open += !(r && r->finalized_us) && !tci_node_is_final(core_node(s, p, i));
    }
  bool failed = has_failed_result(c);
  if (!p->seen[at].just && c->state == TCI_CHECK_FINAL)
    open = 0; /* stages may be assigned to it later: they run in vain */
  if (c->state != TCI_CHECK_FINAL) {
    if (stages && !open) fx_fail("oracle: check %s has all its results and is not FINAL", n->id);
    if (known >= 0 && c->state == TCI_CHECK_PLANNED) fx_fail("oracle: check %s lags behind its dependencies", n->id);
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
static bool retries_left(const sim *s, const tci_stage *stage, size_t index) {
  const tci_attempt *last = stage->attempts.items[index - 1];
  int64_t delivery = 0, other = 0;
  for (size_t i = 0; i < index; i++) {
    if (is_delivery(stage->attempts.items[i]))
      delivery++;
    else
      other++;
  }
  int64_t own = stage->retry.max_attempts ? stage->retry.max_attempts : s->f.limits.attempts_max;
  if (stage->retry.max_attempts || stage->retry.backoff_ms || stage->retry.backoff_ms_max)
    return delivery + other < own;
  if (is_delivery(last)) return delivery < s->f.limits.delivery_attempts_max;
  return last->failure.kind != TCI_FAILURE_REPORTED && other < s->f.limits.attempts_max;
}

static bool failed_a_check(sim *s, const sim_plan *p, const sim_node *n) {
  for (int i = 0; i < n->checks_len; i++) {
    const tci_result *r = result_of((tci_check *)core_node(s, p, n->checks[i]), n->id);
    bool missing =
        r && r->failure.message.len > 6 && memcmp(r->failure.message.ptr, "stage ", 6) == 0; /* added by the engine */
    if (r && r->finalized_us && r->failure.present && !missing) return true;
  }
  return false;
}

static void judge_stage(sim *s, sim_plan *p, int at, const tci_stage *stage) {
  const sim_node *n = &p->nodes[at];
  for (size_t i = p->seen[at].attempts; i > 0 && i < stage->attempts.len; i++)
    if (!retries_left(s, stage, i)) fx_fail("oracle: stage %s has no retry left after attempt %zu", n->id, i);
  p->seen[at].attempts = stage->attempts.len;
  int known = truth(s, p, n);
  const tci_attempt *last = tci_stage_attempt(stage);
  if (known >= 0 && stage->state == TCI_STAGE_PLANNED) fx_fail("oracle: stage %s lags behind its dependencies", n->id);
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
             stage->node.outcome == TCI_OUTCOME_FAILED && (n->pulled || !retries_left(s, stage, stage->attempts.len));
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

/* FINAL is for ever; a version rises by 1 exactly when something changed. */
static bool judge_history(sim *s, sim_plan *p, int at, const tci_node *node) {
  tci_node same = *node;
  tci_buf *text = &s->f.other;
  tci_buf_clear(text);
  fx_dump_node(node, false, text);
  uint64_t hash = quick_hash(text);
  bool known = p->seen[at].version > 0, changed = !known || hash != p->seen[at].hash;
  int64_t rise = same.version - p->seen[at].version;
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

static void judge_plan(sim *s, sim_plan *p) {
  const tci_plan *plan = tci_core_plan(s->f.core, p->id);
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

static sim_runner *runner_of(sim *s, tci_str id) { return &s->runners[id.ptr[1] - '0']; }
static tci_attempt *attempt_of(sim *s, const sim_execution *e);

static void judge_runners(sim *s) {
  for (int i = 0; i < RUNNERS; i++) {
    char id[4] = {'r', (char)('0' + i), 0};
    sim_runner *r = &s->runners[i];
    bool here = fx_runner(&s->f, id) != NULL, due = s->f.now.mono_us >= r->heard_us + r->ttl_us;
    if (here && !r->here) fx_fail("oracle: runner %s came from nowhere", id);
    if (here && due && !s->f.update.more) fx_fail("oracle: runner %s should have expired", id);
    if (!here && r->here && !due && !s->unregistering) fx_fail("oracle: runner %s expired early", id);
    r->here = here;
  }
  for (size_t i = 0; i < s->executions.len; i++) {
    sim_execution *e = s->executions.items[i];
    const tci_attempt *a = attempt_of(s, e);
    if (!e->async || !tci_execution_is_live(a) || tci_map_get(&s->f.core->registrations, a->registration_id)) continue;
    e->left |= s->unregistering;
    if (!e->left) fx_fail("oracle: a runner expired and his work did not");
  }
}

/* Whoever is ready has been sent, if anybody could take it: a look at everybody by everybody. */
static void judge_readiness(sim *s) {
  if (s->f.update.more) return;
  for (size_t e = 0; e < s->f.core->plan_list.len; e++) {
    const tci_plan *plan = s->f.core->plan_list.items[e];
    for (size_t i = 0; i < plan->nodes.len; i++) {
      if (plan->nodes.items[i]->kind != TCI_NODE_STAGE) continue;
      const tci_stage *stage = tci_node_stage(plan->nodes.items[i]);
      const tci_attempt *a = tci_stage_attempt(stage);
      if (!a || !a->execution || !tci_attempt_is_open(a)) continue;
      if (tci_execution_is_live(a) && a->deadline_mono_us <= s->f.now.mono_us)
        fx_fail("oracle: the deadline of %.*s passed unnoticed", TCI_STR_ARG(stage->node.id));
      if (a->execution != TCI_EXECUTION_PENDING || a->ready_mono_us > s->f.now.mono_us) continue;
      for (size_t k = 0; k < s->f.core->runner_list.len; k++) {
        const tci_runner *r = s->f.core->runner_list.items[k];
        if (tci_str_eq(r->runner_type, stage->runner_type) && r->modes[a->mode] &&
            (!r->max_concurrent || r->load < r->max_concurrent) && r->passed_over_until_us <= s->f.now.mono_us)
          fx_fail("oracle: stage %.*s is ready, runner %.*s has room", TCI_STR_ARG(stage->node.id),
                  TCI_STR_ARG(r->runner_id));
      }
    }
  }
}

static sim_execution *execution_of(sim *s, tci_str id) {
  for (size_t i = s->executions.len; i > 0; i--)
    if (tci_str_eq(s->executions.items[i - 1]->id, id)) return s->executions.items[i - 1];
  return NULL;
}

static tci_attempt *attempt_of(sim *s, const sim_execution *e) {
  tci_stage *stage = tci_plan_stage(tci_core_plan(s->f.core, s->plans[e->plan].id), e->stage);
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
  if (!r || !r->modes[a->mode] || !tci_str_eq(r->runner_type, a->stage->runner_type) ||
      s->f.now.mono_us >= runner_of(s, r->runner_id)->heard_us + runner_of(s, r->runner_id)->ttl_us)
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
                       .sent_us = s->f.now.mono_us};
  tci_vec_push(&s->executions, e);
}

static void see_watch(sim *s, const tci_effect *effect) {
  sim_plan *p = &s->plans[effect->token - 1];
  const tci_watch_event *w = &effect->watch;
  if (w->sequence <= p->watched) fx_fail("oracle: the watch goes backwards");
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
    if (a->failure.kind != TCI_FAILURE_TIMEOUT || e->survived_restart) continue;
    int64_t least = a->mode == TCI_MODE_ASYNC && !a->accepted && s->f.limits.accept_timeout_ms < a->execution_ms
                        ? s->f.limits.accept_timeout_ms
                        : a->execution_ms;
    bool said_so =
        tci_str_cmp(a->failure.message, TCI_STR("DEADLINE_EXCEEDED")) > 0 && a->failure.message.ptr[0] == 'D';
    if (!said_so && s->f.now.mono_us - e->sent_us < least * 1000) fx_fail("oracle: an attempt timed out early");
  }
}

static void after_step(fx *f, bool quiet, void *ctx) {
  (void)quiet;
  sim *s = ctx;
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
    if (e->kind == TCI_EFFECT_DISPATCH) see_dispatch(s, e);
    if (e->kind == TCI_EFFECT_WATCH) see_watch(s, e);
  }
}

/* Not in after_step: a write must have been taken over into sim_plan first. */
static void judge(sim *s) {
  for (int i = 0; i < s->plans_len; i++) judge_plan(s, &s->plans[i]);
  judge_runners(s);
  judge_readiness(s);
  judge_timeouts(s);
  s->unregistering = false;
  tci_buf_clear(&s->f.told);
  for (int i = 0; i < FX_STREAMS; i++) tci_buf_clear(&s->f.streams[i]);
}

/* A step now is about its event alone: no timer is due before it. */
static bool is_quiet(const sim *s) { return tci_core_next_due_us(s->f.core) > s->f.now.mono_us && !s->f.update.more; }

/* ---- plans ---- */

static bool reaches(const sim_plan *p, int from, int to, bool *seen) {
  if (from == to) return true;
  if (seen[from]) return false;
  seen[from] = true;
  for (int i = 0; i < p->nodes[from].deps_len; i++)
    if (reaches(p, p->nodes[from].deps[i], to, seen)) return true;
  for (int i = 0; p->nodes[from].is_check && i < p->len; i++)
    for (int k = 0; k < p->nodes[i].checks_len; k++)
      if (p->nodes[i].checks[k] == from && p->nodes[i].counts[k] && reaches(p, i, to, seen)) return true;
  return false;
}

static bool is_cyclic(const sim_plan *p) {
  for (int i = 0; i < p->len; i++) {
    for (int k = 0; k < p->nodes[i].deps_len; k++)
      if (reaches(p, p->nodes[i].deps[k], i, (bool[NODES]){0})) return true;
    for (int k = 0; k < p->nodes[i].checks_len; k++)
      if (p->nodes[i].counts[k] && reaches(p, i, p->nodes[i].checks[k], (bool[NODES]){0})) return true;
  }
  return false;
}

static void say_edges(sim *s, const sim_plan *p, const sim_node *n) {
  say(s, n->any ? " any=" : " after=");
  for (int i = 0; i < n->deps_len; i++)
    say(s, "%s%s%s%s", i ? "," : "", p->nodes[n->deps[i]].is_check ? "@" : "", p->nodes[n->deps[i]].id,
        n->conditions[i] == 1   ? "+"
        : n->conditions[i] == 2 ? "!"
                                : "");
}

static void say_checks(sim *s, const sim_plan *p, const sim_node *n) {
  for (int i = 0; i < n->checks_len; i++)
    say(s, "%s%s%s", i ? "," : " checks=", p->nodes[n->checks[i]].id, n->counts[i] ? "" : ":WAITING");
}

static void roll_deps(sim *s, sim_node *n, int below) {
  n->deps_len = 0;
  n->any = chance(s, 35);
  for (int k = chance(s, 70) ? pick(s, DEPS) : 0; k > 0 && below > 0; k--) {
    n->conditions[n->deps_len] = pick(s, 3);
    if (n->conditions[n->deps_len] == 2 && chance(s, 50)) n->conditions[n->deps_len] = 1;
    n->deps[n->deps_len++] = pick(s, below);
  }
}

static void roll_checks(sim *s, const sim_plan *p, sim_node *n, int from) {
  n->checks_len = 0;
  for (int k = pick(s, CHECKS); k > 0; k--) {
    int check = from + pick(s, p->len - from);
    bool taken = !p->nodes[check].is_check;
    for (int i = 0; i < n->checks_len; i++) taken |= n->checks[i] == check;
    if (taken) continue;
    n->counts[n->checks_len] = chance(s, 85);
    n->checks[n->checks_len++] = check;
  }
}

static const tci_reply *write_text(sim *s, const sim_plan *p) {
  return fx_command(&s->f, fx_parse_write(&s->f.arena, p->id, s->text));
}

static void adopt(sim_plan *p, const sim_plan *next) {
  memcpy(p->nodes, next->nodes, sizeof p->nodes);
  p->len = next->len;
}

static void add_nodes(sim *s, sim_plan *p) {
  static sim_plan next;
  next = *p;
  int first = p->len, n = 1 + pick(s, 8);
  if (first + n > NODES) return;
  next.len = first + n;
  for (int i = first; i < next.len; i++) {
    sim_node *node = &next.nodes[i];
    *node =
        (sim_node){.is_check = chance(s, 40), .type = pick(s, TYPES), .async = chance(s, 50), .pulled = chance(s, 10)};
    snprintf(node->id, sizeof node->id, "%c%d", node->is_check ? 'c' : 's', i);
    roll_deps(s, node, i);
  }
  /* Mostly to later checks, which cannot close a circle; sometimes to any. */
  for (int i = first; i < next.len; i++)
    if (!next.nodes[i].is_check) roll_checks(s, &next, &next.nodes[i], chance(s, 90) ? i : 0);
  s->text[0] = '\0';
  for (int k = 0; k < n; k++) {
    int i = first + (k * 7 + 3) % n; /* in another order, when n is no multiple of 7 */
    if (n % 7 == 0) i = first + k;
    const sim_node *node = &next.nodes[i];
    say(s, "%s%s%s", k ? "; " : "", node->is_check ? "@" : "", node->id);
    if (node->is_check) {
      if (chance(s, 80)) say(s, " state=PLANNED");
    } else {
      if (!node->pulled) say(s, " runner=t%d", node->type);
      if (node->async) say(s, " mode=async");
      if (chance(s, 30)) say(s, " priority=%d", pick(s, 3) - 1);
      if (chance(s, 25)) say(s, " attempts=%d", 1 + pick(s, 4));
      if (chance(s, 25)) say(s, " backoff=%d", 1 + pick(s, 3000));
      if (chance(s, 40)) say(s, " timeout=%d", 1 + pick(s, 60000));
      if (chance(s, 30)) say(s, " stale=%d", 1 + pick(s, 20000));
      say_checks(s, &next, node);
    }
    if (node->deps_len) say_edges(s, &next, node);
  }
  const tci_reply *reply = write_text(s, p);
  if (is_cyclic(&next)) {
    if (reply->status.code != TCI_INVALID_ARGUMENT || !strstr(reply->status.message, "cycle"))
      fx_fail("oracle: a cycle was not refused: %s", s->text);
    return;
  }
  if (reply->status.code != TCI_OK) fx_fail("oracle: refused: %s", reply->status.message);
  adopt(p, &next);
}

static int core_state(sim *s, const sim_plan *p, int at) { /* of a stage; -1 for a check */
  return p->nodes[at].is_check ? -1 : (int)tci_node_stage(core_node(s, p, at))->state;
}

/* Other edges for a node that exists. */
static void rewire(sim *s, sim_plan *p) {
  static sim_plan next;
  next = *p;
  int at = pick(s, p->len);
  for (int tries = 0; tries < 6 && chance(s, 80) && core_state(s, p, at) != TCI_STAGE_PLANNED; tries++)
    at = pick(s, p->len);
  sim_node *n = &next.nodes[at];
  s->text[0] = '\0';
  say(s, "%s%s", n->is_check ? "@" : "", n->id);
  bool deps = n->is_check || chance(s, 30);
  if (deps) {
    roll_deps(s, n, chance(s, 80) ? at : p->len);
    say_edges(s, &next, n);
  } else {
    roll_checks(s, &next, n, 0);
    if (!n->checks_len) return;
    say_checks(s, &next, n);
  }
  const tci_node *node = core_node(s, p, at);
  bool early = n->is_check ? ((const tci_check *)node)->state <= TCI_CHECK_PLANNED
                           : ((const tci_stage *)node)->state == TCI_STAGE_PLANNED;
  early = early && is_quiet(s);
  const tci_reply *reply = write_text(s, p);
  if (is_cyclic(&next)) {
    if (reply->status.code == TCI_OK) fx_fail("oracle: a cycle was not refused: %s", s->text);
    return;
  }
  if (reply->status.code == TCI_OK)
    adopt(p, &next);
  else if (early || reply->status.code != TCI_FAILED_PRECONDITION)
    fx_fail("oracle: refused: %s", reply->status.message);
}

static void client_writes(sim *s, sim_plan *p) {
  static const char *const checks[] = {
      "state=PLANNED",        "state=FINAL",          "state=FINAL result=me:1 failure=no",
      "result=me:1 data=k:v", "result=me:2 finalize", "opt=a:1",
      "opt=a:2 kind=lint",    "state=WAITING",        "state=PLANNING"};
  static const char *const stages[] = {"state=FINAL",
                                       "opt=a:1",
                                       "opt=b:2 priority=5",
                                       "state=ATTEMPTING",
                                       "state=PLANNED",
                                       "uid=me",
                                       "uid=you",
                                       "uid=me attempt=COMPLETE",
                                       "uid=me failure=no",
                                       "progress=hm uid=me",
                                       "uid=me attempt=COMPLETE state=FINAL",
                                       "attempts=2 timeout=5000",
                                       "runner=t9"};
  int at = pick(s, p->len);
  s->text[0] = '\0';
  say(s, "%s%s ", p->nodes[at].is_check ? "@" : "", p->nodes[at].id);
  if (p->nodes[at].is_check)
    say(s, "%s", checks[pick(s, 9)]);
  else
    say(s, "%s", stages[pick(s, p->nodes[at].pulled ? 12 : 13)]);
  if (chance(s, 10)) say(s, " version=%d", pick(s, 9));
  if (chance(s, 5)) say(s, "; s%d after=nobody", pick(s, NODES));
  bool becomes_t9 = strstr(s->text, "runner=t9") != NULL;
  if (becomes_t9) return; /* a type without runners would never settle */
  write_text(s, p);
}

/* ---- runners and what they say ---- */

static void register_runner(sim *s, int i, bool healthy) {
  static const char *const modes[] = {"sync", "async", "both"};
  char id[4] = {'r', (char)('0' + i), 0}, type[4] = {'t', (char)('0' + (healthy ? i % TYPES : pick(s, TYPES))), 0};
  int64_t ttl_ms = healthy ? s->f.limits.runner_ttl_ms_max : 1000 * (1 + pick(s, 60));
  s->runners[i] = (sim_runner){true, s->f.now.mono_us, ttl_ms * 1000};
  fx_register(&s->f, id, type, healthy ? "both" : modes[pick(s, 3)], healthy ? 0 : pick(s, 4), ttl_ms);
}

static void unregister_runner(sim *s) {
  char id[4] = {'r', (char)('0' + pick(s, RUNNERS)), 0};
  if (!s->runners[id[1] - '0'].here) return;
  s->unregistering = true;
  tci_str registration = tci_str_copy(&s->f.arena, fx_runner(&s->f, id)->registration_id);
  fx_command(&s->f, (tci_command){.kind = TCI_COMMAND_UNREGISTER_RUNNER, .registration_id = registration});
}

static const char *roll_completion(sim *s, const sim_execution *e, bool healthy) {
  const sim_plan *p = &s->plans[e->plan];
  const sim_node *n = p->nodes;
  while (n->is_check || !tci_str_eq(tci_str_from(n->id), e->stage)) n++;
  unsigned dice = healthy ? 0 : (unsigned)roll(s, 100);
  s->text[0] = '\0';
  say(s, "%s", dice < 85 ? "FINAL" : dice < 92 ? "AWAITING_GROUP" : dice < 96 ? "PLANNED" : "-");
  for (int i = 0; i < n->checks_len; i++) {
    if (chance(s, 20)) continue;
    const char *id = p->nodes[n->checks[i]].id;
    switch (pick(s, 6)) {
      case 0: say(s, " @%s!bad", id); break;
      case 1: say(s, " @%s=k:v%d", id, pick(s, 3)); break;
      case 2: say(s, " @%s?k:v", id); break;
      case 3: say(s, " @%s?", id); break;
      default: say(s, " @%s", id);
    }
  }
  if (!healthy && chance(s, 15)) say(s, " failure=boom");
  if (!healthy && chance(s, 3)) say(s, " @elsewhere");
  if (chance(s, 20)) say(s, " details=k:%d", pick(s, 5));
  return s->text;
}

static void send_answer(sim *s, sim_execution *e, bool healthy) {
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = e->id;
  e->calling = false;
  if (!healthy && chance(s, 25)) {
    event.answer.code = (tci_code)(1 + pick(s, 16));
    event.answer.message = TCI_STR("so it goes");
  } else if (!healthy && chance(s, 4)) {
    event.answer.unreadable = true;
    event.answer.message = TCI_STR("gibberish");
  } else if (e->async) {
    event.answer.accepted = healthy || chance(s, 85);
  } else {
    event.answer.completion = fx_parse_completion(&s->f.arena, roll_completion(s, e, healthy));
  }
  fx_step(&s->f, &event);
}

/* UpdateStageExecution and CompleteStageExecution, at any time, also long after. What is not live changes nothing. */
static void call_back(sim *s, sim_execution *e, bool healthy) {
  bool live = tci_execution_is_live(attempt_of(s, e));
  bool quiet = is_quiet(s);
  const tci_reply *reply;
  if (!healthy && chance(s, 40)) {
    reply = fx_command(&s->f, fx_update_command(&s->f, e->id, chance(s, 80) ? "half way" : ""));
    if (quiet && live != (reply->status.code == TCI_OK)) fx_fail("oracle: progress was %s", live ? "refused" : "taken");
  } else {
    if (!e->last[0] || !chance(s, 50)) snprintf(e->last, sizeof e->last, "%s", roll_completion(s, e, healthy));
    reply = fx_command(&s->f, fx_complete_command(&s->f, e->id, tci_fmt(&s->f.arena, "%s", e->last)));
    if (quiet && live && reply->status.code == TCI_OK && tci_execution_is_live(attempt_of(s, e)))
      fx_fail("oracle: a completion had no effect");
  }
  if (quiet && !live && s->f.update.records.len) fx_fail("oracle: a late callback changed something");
}

static sim_execution *roll_execution(sim *s) { /* mostly one of the last */
  size_t len = s->executions.len;
  if (!len) return NULL;
  size_t back = chance(s, 80) && len > 6 ? 6 : len;
  return s->executions.items[len - 1 - (size_t)pick(s, (int)back)];
}

static void a_runner_speaks(sim *s) {
  sim_execution *e = roll_execution(s);
  if (!e) return;
  if (e->calling && chance(s, 70))
    send_answer(s, e, false);
  else
    call_back(s, e, false);
}

/* ---- the clock, and accidents ---- */

static void move_clock(sim *s) {
  int64_t due = tci_core_next_due_us(s->f.core), us = pick(s, 3000000);
  if (due != INT64_MAX && chance(s, 40)) us = due > s->f.now.mono_us ? due - s->f.now.mono_us : 0;
  if (chance(s, 5)) us = (int64_t)roll(s, 120) * 1000000;
  s->f.now.mono_us += us;
  s->f.now.wall_us += us;
  if (chance(s, 3)) s->f.now.wall_us += ((int64_t)roll(s, 7200) - 3600) * 1000000; /* somebody sets it */
  fx_tick(&s->f);
}

static void start_again(sim *s, bool calls_die) {
  int64_t before_us = ++s->f.now.wall_us; /* what the restart itself dispatches is not from before it */
  for (int i = 0; i < RUNNERS; i++) s->runners[i].heard_us = s->f.now.mono_us; /* a full ttl for everybody */
  for (size_t i = 0; i < s->executions.len; i++) {
    s->executions.items[i]->survived_restart = true;
    if (calls_die) s->executions.items[i]->calling = false;
  }
  fx_restart(&s->f, calls_die ? TCI_EVENT_RESTARTED : TCI_EVENT_RELOADED);
  for (size_t i = 0; calls_die && i < s->executions.len; i++) {
    const sim_execution *e = s->executions.items[i];
    const tci_attempt *a = attempt_of(s, e);
    if (tci_execution_is_live(a) && !(e->async && a->accepted) && a->dispatched_us < before_us)
      fx_fail("oracle: a call survived a restart");
  }
  for (int i = 0; i < s->plans_len; i++) {
    s->f.plan_id = s->plans[i].id;
    if (!s->plans[i].was_settled && fx_plan(&s->f)->state == TCI_PLAN_SETTLED)
      s->plans[i].completed++; /* nobody watched */
    fx_watch(&s->f, (uint64_t)i + 1, "checks stages progress");
  }
}

static void create_plan(sim *s) {
  if (s->plans_len == PLANS) return;
  tci_str id = fx_create(&s->f);
  s->plans[s->plans_len] = (sim_plan){.id = id, .version = 1};
  s->plans_len++;
  fx_watch(&s->f, (uint64_t)s->plans_len, "checks stages progress");
}

static void act(sim *s) {
  unsigned total = 0, at = 0;
  for (size_t i = 0; i < 12; i++) total += s->weights[i];
  unsigned dice = (unsigned)roll(s, total);
  while (dice >= s->weights[at]) dice -= s->weights[at++];
  sim_plan *p = s->plans_len ? &s->plans[pick(s, s->plans_len)] : NULL;
  if (!p || (at > 2 && at < 5 && !p->len)) at = p ? 1 : 0;
  switch (at) {
    case 0: create_plan(s); break;
    case 1:
    case 2: add_nodes(s, p); break;
    case 3: rewire(s, p); break;
    case 4: client_writes(s, p); break;
    case 5: register_runner(s, pick(s, RUNNERS), false); break;
    case 6: unregister_runner(s); break;
    case 7:
    case 8: a_runner_speaks(s); break;
    case 9: move_clock(s); break;
    case 10: start_again(s, true); break;
    default: start_again(s, false); break;
  }
}

/* ---- when the faults stop ---- */

static void client_finishes(sim *s, const sim_plan *p) {
  for (int i = 0; i < p->len; i++) {
    tci_node *node = core_node(s, p, i);
    if (tci_node_is_final(node)) continue;
    s->text[0] = '\0';
    if (p->nodes[i].is_check && !tci_node_check(node)->stages.len) {
      say(s, "@%s state=FINAL", p->nodes[i].id);
    } else if (p->nodes[i].is_check) {
      continue;
    } else if (p->nodes[i].pulled && tci_stage_attempt(tci_node_stage(node))) {
      tci_attempt *a = tci_stage_attempt(tci_node_stage(node));
      say(s, "%s state=FINAL", p->nodes[i].id);
      if (tci_attempt_is_open(a))
        say(s, " attempt=COMPLETE uid=%.*s", TCI_STR_ARG(a->process_uid.len ? a->process_uid : TCI_STR("me")));
    } else {
      continue;
    }
    const tci_reply *reply = write_text(s, p);
    if (reply->status.code != TCI_OK) fx_fail("liveness: %s", reply->status.message);
    judge(s);
  }
}

static bool all_settled(const sim *s) {
  for (int i = 0; i < s->plans_len; i++)
    if (s->plans[i].len && !s->plans[i].was_settled) return false;
  return true;
}

_Noreturn static void tell_open(sim *s) {
  s->text[0] = '\0';
  for (int i = 0; i < s->plans_len; i++) {
    s->f.plan_id = s->plans[i].id;
    for (int k = 0; k < s->plans[i].len; k++) {
      const sim_node *n = &s->plans[i].nodes[k];
      if (tci_node_is_final(core_node(s, &s->plans[i], k))) continue;
      const char *id = tci_fmt(&s->f.arena, "%s%s", n->is_check ? "@" : "", n->id);
      say(s, " %d:%s (%s)", i, id, fx_text(&s->f, id));
    }
  }
  fx_fail("liveness: a plan does not settle:%s", s->text);
}

/* Everybody alive says what they have to say; true when anything came of it. */
static bool everybody_speaks(sim *s) {
  uint64_t steps = s->f.steps;
  for (int i = 0; i < s->plans_len; i++) client_finishes(s, &s->plans[i]);
  for (size_t i = 0; i < s->executions.len; i++) {
    sim_execution *e = s->executions.items[i];
    if (e->calling)
      send_answer(s, e, true);
    else if (e->async && tci_execution_is_live(attempt_of(s, e)))
      call_back(s, e, true);
    else
      continue;
    judge(s);
  }
  return s->f.steps != steps;
}

static void settle_down(sim *s) {
  for (int round = 0; !all_settled(s); round++) {
    if (round == 2000) tell_open(s);
    for (int i = 0; i < RUNNERS && round % 50 == 0; i++) {
      register_runner(s, i, true);
      judge(s);
    }
    fx_drain(&s->f);
    judge(s);
    if (everybody_speaks(s)) continue;
    int64_t due = tci_core_next_due_us(s->f.core), us = due > s->f.now.mono_us ? due - s->f.now.mono_us : 0;
    if (all_settled(s) || due == INT64_MAX) continue;
    s->f.now.wall_us += us;
    s->f.now.mono_us += us;
    fx_tick(&s->f);
    judge(s);
  }
}

/* ---- one seed ---- */

static void roll_swarm(sim *s) {
  static const unsigned usual[12] = {4, 14, 10, 12, 14, 14, 3, 40, 40, 30, 1, 1};
  for (int i = 0; i < 12; i++)
    s->weights[i] = chance(s, 20) && i > 2 ? usual[i] / 4 : usual[i] * (1 + (unsigned)roll(s, 3));
  s->f.limits.policy_asks_per_turn = 1 + pick(s, 6);
  s->f.limits.turn_timers_max = 1 + pick(s, 4);
  s->f.limits.progress_entries_max = 1 + pick(s, 4);
  s->f.limits.execution_timeout_ms = 60000;
  s->f.limits.stale_timeout_ms = 20000;
  s->f.limits.delivery_attempts_max = 1 + pick(s, 8);
  s->f.limits.attempts_max = 1 + pick(s, 4);
  fx_renew(&s->f);
}

static uint64_t run_seed(uint64_t seed, int steps) {
  sim *s = &world;
  memset(s, 0, sizeof *s);
  s->seed = s->rng = seed;
  s->steps = steps;
  fx_init(&s->f);
  s->f.seed = seed;
  s->f.after_step = after_step;
  s->f.ctx = s;
  s->f.compare_every = 16;
  roll_swarm(s);
  for (; s->step < steps; s->step++) {
    act(s);
    judge(s);
  }
  settle_down(s);
  fx_verify(&s->f);
  mix(s, tci_buf_str(&s->f.dump));
  tci_vec_free(&s->executions);
  fx_deinit(&s->f);
  return s->hash;
}

int main(int argc, char **argv) {
  uint64_t first = 1, seeds = 200;
  int steps = 150;
  bool verbose = false;
  fx_on_failure = die;
  signal(SIGABRT, on_abort);
  for (int i = 1; i < argc; i++) {
    bool has_value = i + 1 < argc;
    if (strcmp(argv[i], "--verbose") == 0)
      verbose = true;
    else if (has_value && strcmp(argv[i], "--seed") == 0)
      first = strtoull(argv[++i], NULL, 0), seeds = 1;
    else if (has_value && strcmp(argv[i], "--seeds") == 0)
      seeds = strtoull(argv[++i], NULL, 0);
    else if (has_value && strcmp(argv[i], "--steps") == 0)
      steps = atoi(argv[++i]);
    else
      return fprintf(stderr, "usage: sim [--seed N] [--seeds N] [--steps N] [--verbose]\n"), 2;
  }
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    uint64_t hash = run_seed(seed, steps);
    bool twice = seeds == 1 || seed % 20 == 0;
    if (twice && run_seed(seed, steps) != hash) die("the same seed left another trace");
    if (verbose) printf("seed %llu: %016llx\n", (unsigned long long)seed, (unsigned long long)hash);
  }
  printf("sim: %llu seeds of %d steps, from %llu\n", (unsigned long long)seeds, steps, (unsigned long long)first);
  return 0;
}
