/* accidents: the clock, policies that come and go, restarts. */
#include "world.h"

/* ---- the clock, and accidents ---- */

void pass_time(sim *s, int64_t us) {
  s->f.now.mono_us += us;
  s->f.now.wall_us += us;
}

void move_clock(sim *s) {
  int64_t due = tci_core_next_due_us(s->f.core), us = pick(s, 3000000);
  if (due != INT64_MAX && chance(s, 40)) us = due > s->f.now.mono_us ? due - s->f.now.mono_us : 0;
  if (chance(s, 5)) us = (int64_t)roll(s, 120) * 1000000;
  pass_time(s, us);
  if (chance(s, 3)) s->f.now.wall_us += ((int64_t)roll(s, 7200) - 3600) * 1000000; /* somebody sets it */
  fx_tick(&s->f);
}

/* The process is stopped, or the engine is busy for long, and all the while the queue fills; only then is it told that time has
 * passed (core/event.h). Nobody who has spoken meanwhile is late. */
void pause_with_full_queue(sim *s) {
  int64_t due = tci_core_next_due_us(s->f.core), us = 1000 * (1 + (int64_t)roll(s, chance(s, 50) ? 2000 : 100000));
  if (due != INT64_MAX && due > s->f.now.mono_us && chance(s, 40)) us = due - s->f.now.mono_us + pick(s, 2000000);
  if (chance(s, 50))
    s->f.now.wall_us += us; /* stopped: the engine's own clock is, too */
  else
    pass_time(s, us);
  int64_t from_us = s->f.heard_us, to_us = s->f.now.mono_us;
  for (int n = pick(s, 10); n > 0; n--) {
    int runner = pick(s, EXCLUDABLE);
    if (chance(s, 40) && s->runners[runner].here)
      heartbeat(s, runner);
    else
      a_runner_speaks(s);
    judge(s);
  }
  if (chance(s, 30) && to_us > from_us) { /* not all that arrived by now was read, but up to here */
    fx_step(&s->f, &(tci_event){.kind = TCI_EVENT_TICK,
                                .heard_us = from_us + 1 + (int64_t)roll(s, (uint64_t)(to_us - from_us))});
    judge(s);
  }
  fx_tick(&s->f);
}

/* ---- policies come and go ---- */

tci_str roll_policy(sim *s) { /* or none of that name */
  int number = pick(s, POLICIES + 1);
  return number < POLICIES ? policy_names[number] : TCI_STR("nobody");
}

static sim_policy *roll_version(sim *s, int number, bool good) {
  sim_policy *p = sim_policy_new(&s->f.arena, number, roll(s, UINT64_MAX), good);
  p->heard = hear;
  return p;
}

void roll_set(sim *s, bool good) {
  sim_set *set = tci_arena_new(&s->f.arena, sim_set);
  bool empty = chance(s, good ? 20 : 10);
  for (int i = 0; i < POLICIES; i++) {
    sim_circuit *c = &s->circuits[i];
    const sim_policy *p = c->policy;
    if (!p || good || chance(s, 40)) p = roll_version(s, i, good);
    if (empty || !chance(s, 80)) p = NULL;
    if (p != c->policy) *c = (sim_circuit){.policy = p};
    if (p) set->list[set->set.len++] = &p->policy;
  }
  set->set.policies = set->list;
  if (!empty && chance(s, 80)) set->set.server = roll_policy(s);
  for (int i = 0; i < TYPES && !empty; i++)
    if (chance(s, 40))
      set->types[set->set.types.len++] = (tci_pair){tci_str_from(tci_fmt(&s->f.arena, "t%d", i)), roll_policy(s)};
  set->set.types.items = set->types;
  if (chance(s, 25)) set->set.shadow = &roll_version(s, SHADOW, good)->policy;
  s->set = empty && chance(s, 30) ? NULL : set;
  s->f.policies = s->set ? &s->set->set : NULL;
  s->may_void = s->must_void = s->f.steps;
}

void swap_policies(sim *s, bool good) {
  while (tci_core_next_due_us(s->f.core) <= s->f.now.mono_us) { /* what is due asks those of before */
    fx_tick(&s->f);
    judge(s);
  }
  roll_set(s, good);
  fx_step(&s->f, &(tci_event){.kind = TCI_EVENT_POLICIES, .policies = s->f.policies});
}

/* A restart forgets faults in a row, and waits; circuits go by the wall clock. */
static void policies_restart(sim *s) {
  if (s->scripted && chance(s, 30)) roll_set(s, false); /* other files meanwhile */
  s->epoch++;
  s->may_void = s->must_void = s->f.steps;
  for (int i = 0; i < POLICIES; i++) {
    sim_circuit *c = &s->circuits[i];
    int64_t left = c->until_wall_us - s->f.now.wall_us, most = s->f.limits.policy_circuit_ms * 1000;
    c->row = 0;
    c->until_us = s->f.now.mono_us + (left < 0 ? 0 : left > most ? most : left);
  }
}

void begin_epoch(sim *s) {
  for (int i = 0; i < RUNNERS; i++) s->runners[i].heard_us = s->f.now.mono_us; /* a full ttl for everybody */
  for (size_t i = 0; i < s->executions.len; i++) s->executions.items[i]->survived_restart = true;
  policies_restart(s);
}

/* The journal is read by another core, or by another engine. */
static void load_again(sim *s) {
  if (s->shell) {
    stream_ended(s, 0);
    shell_reopen(s);
    return;
  }
  fx_fall_asleep(&s->f);
  if (s->plans_len && s->plans[0].len && chance(s, 30)) ask_why(s, &s->plans[0]); /* reads go on */
}

static void watch_all(sim *s) {
  for (int i = 0; i < s->plans_len; i++) {
    s->f.plan_id = s->plans[i].id;
    if (!s->plans[i].was_settled && fx_plan(&s->f)->state == TCI_PLAN_SETTLED)
      s->plans[i].completed++; /* nobody watched */
    fx_watch(&s->f, (uint64_t)i + 1, "checks stages progress");
  }
}

void start_again(sim *s, bool calls_die) {
  s->f.same_turn = false;
  int64_t before_us = ++s->f.now.wall_us; /* what the restart itself dispatches is not from before it */
  for (size_t i = 0; calls_die && i < s->executions.len; i++) s->executions.items[i]->calling = false;
  begin_epoch(s);
  load_again(s);
  if (s->shell && chance(s, 15)) store_fail(1, TCI_UNAVAILABLE); /* the first commit of a process may fail, too */
  fx_step(&s->f, &(tci_event){.kind = calls_die ? TCI_EVENT_RESTARTED : TCI_EVENT_RELOADED});
  store_fail(0, TCI_OK);
  if (s->f.asleep) until_awake(s);
  for (size_t i = 0; calls_die && i < s->executions.len; i++) {
    const sim_execution *e = s->executions.items[i];
    const tci_attempt *a = attempt_of(s, e);
    if (tci_execution_is_live(a) && !(e->async && a->accepted) && a->dispatched_us < before_us)
      fx_fail("oracle: a call survived a restart");
  }
  if (!s->shell) watch_all(s);
}
