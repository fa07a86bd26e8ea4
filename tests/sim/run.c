/* run: one seed: what it likes to do, its steps, and then everybody alive until every plan has settled. */
#include "world.h"

static void act(sim *s) {
  unsigned total = 0;
  for (int i = 0; i < ACTIONS; i++) total += s->weights[i];
  s->f.same_turn = s->turn_shared > 0;
  s->turn_shared = s->turn_shared ? s->turn_shared - 1 : (unsigned)pick(s, 4);
  unsigned dice = (unsigned)roll(s, total);
  sim_action action = 0;
  while (dice >= s->weights[action]) dice -= s->weights[action++];
  sim_plan *p = s->plans_len ? &s->plans[pick(s, s->plans_len)] : NULL;
  bool about_nodes = action == REWIRE || action == WRITE || action == COMBINE || action == ASK_WHY || action == QUERY ||
                     action == PAYLOAD;
  if (s->shell) s->f.same_turn = false;
  if (!p) action = CREATE;
  if (p && !p->len && about_nodes) action = ADD;
  for (int i = 0; i < STREAMS; i++)
    if (chance(s, s->heavy ? 2 : 10)) stream_is_read(s, &s->streams[i]);
  switch (action) {
    case CREATE: create_plan(s); break;
    case ADD: add_nodes(s, p); break;
    case REWIRE: rewire(s, p); break;
    case WRITE: client_writes(s, p); break;
    case COMBINE: combined_write(s, p); break;
    case REGISTER: register_runner(s, pick(s, EXCLUDABLE), false); break;
    case UNREGISTER: unregister_runner(s); break;
    case SPEAK: a_runner_speaks(s); break;
    case REPEAT: a_runner_repeats(s); break;
    case CLOCK: move_clock(s); break;
    case PAUSE: pause_with_full_queue(s); break;
    case RESTART: start_again(s, true); break;
    case RELOAD: start_again(s, false); break;
    case POLICY: swap_policies(s, false); break;
    case ASK_WHY: ask_why(s, p); break;
    case PAYLOAD: payload(s, p); break;
    case QUERY: query(s, p); break;
    case WATCH: somebody_watches(s, p); break;
    case STORM: storm(s); break;
    case DRAIN: drain(s); break;
    case ACTIONS: break;
  }
}

/* ---- when the faults stop ---- */

static void client_finishes(sim *s, const sim_plan *p) {
  for (int i = 0; i < p->len; i++) {
    tci_node *node = core_node(s, p, i);
    if (tci_node_is_final(node)) continue;
    s->text[0] = '\0';
    if (p->nodes[i].is_check && !tci_node_check(node)->assigned.len) {
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
  s->f.same_turn = false;
  if (s->scripted) {
    swap_policies(s, true);
    judge(s);
  }
  for (int round = 0; !all_settled(s); round++) {
    if (round == 2000) tell_open(s);
    for (int i = 0; i < RUNNERS && round % 50 == 0; i++) {
      register_runner(s, i, true);
      judge(s);
    }
    for (int i = 0; i < STREAMS; i++) stream_is_read(s, &s->streams[i]);
    fx_drain(&s->f);
    judge(s);
    if (everybody_speaks(s)) continue;
    int64_t due = tci_core_next_due_us(s->f.core), us = due > s->f.now.mono_us ? due - s->f.now.mono_us : 0;
    if (all_settled(s) || due == INT64_MAX) continue;
    pass_time(s, us);
    fx_tick(&s->f);
    judge(s);
  }
}

/* ---- one seed ---- */

static void roll_swarm(sim *s) {
  static const unsigned usual[ACTIONS] = {
      [CREATE] = 4,  [ADD] = 24,   [REWIRE] = 12, [WRITE] = 14, [COMBINE] = 24, [REGISTER] = 24, [UNREGISTER] = 3,
      [SPEAK] = 80,  [REPEAT] = 8, [CLOCK] = 30,  [PAUSE] = 6,  [RESTART] = 1,  [RELOAD] = 1,    [POLICY] = 4,
      [ASK_WHY] = 4, [QUERY] = 6,  [PAYLOAD] = 4, [WATCH] = 20, [STORM] = 20,   [DRAIN] = 1};
  for (int i = 0; i < ACTIONS; i++)
    s->weights[i] = chance(s, 20) && i > ADD ? usual[i] / 4 : usual[i] * (1 + (unsigned)roll(s, 3));
  s->f.limits.policy_asks_per_turn = 1 + pick(s, 6);
  s->f.limits.turn_timers_max = 1 + pick(s, 4);
  if (chance(s, 25)) s->f.limits.step_changes_max = 2 + pick(s, 30);
  s->f.limits.watch_buffer_bytes_max = 500 + pick(s, 20000);
  s->f.limits.watch_total_bytes_max = 3000 + pick(s, 60000);
  s->f.limits.node_bytes_max = 300 + pick(s, 6000);
  s->f.limits.progress_bytes_max = 100 + pick(s, 2000);
  s->heavy = chance(s, 8);
  if (s->heavy) { /* much goes through, and readers fall behind */
    s->weights[PAYLOAD] = 40;
    s->f.limits.node_bytes_max = 50000 + pick(s, 100000);
    s->f.limits.watch_buffer_bytes_max = s->f.limits.watch_total_bytes_max = 8000000;
  }
  s->f.limits.watch_turn_bytes_max = 100 + pick(s, 5000);
  if (chance(s, 50)) s->f.limits.turn_reply_bytes_max = 100 + pick(s, 5000);
  s->f.limits.watch_turn_changes_max = 3 + pick(s, 60);
  s->f.limits.watch_resumes_max = 1 + pick(s, 3);
  s->f.limits.progress_entries_max = 1 + pick(s, 4);
  s->f.limits.execution_timeout_ms = 60000;
  s->f.limits.stale_timeout_ms = 20000;
  s->f.limits.delivery_attempts_max = 1 + pick(s, 8);
  s->f.limits.attempts_max = 1 + pick(s, 4);
  s->f.limits.policy_faults_max = 1 + pick(s, 4);
  s->f.limits.policy_circuit_ms = 1000 * (1 + pick(s, 20));
  if (chance(s, 40)) s->f.limits.policy_instructions_per_turn = 100 + pick(s, 3000);
  s->shell = chance(s, 40);
  s->scripted = !s->shell && chance(s, 75);
  s->f.limits.plans_in_memory_max = 1 + pick(s, 2);
  s->types = 1 + pick(s, TYPES);
  s->steady = chance(s, 60);
  if (chance(s, 30)) s->weights[SPEAK] = 20; /* what runs, runs for long */
  if (!s->scripted) s->weights[POLICY] = 0;
  if (s->shell)
    s->weights[ASK_WHY] = s->weights[RELOAD] = 0;
  else
    s->weights[WATCH] = s->weights[STORM] = s->weights[DRAIN] = 0;
  if (s->scripted) roll_set(s, false);
  fx_renew(&s->f);
  if (s->shell) shell_open(s);
  fx_step(&s->f, &(tci_event){.kind = TCI_EVENT_RESTARTED});
}

uint64_t run_seed(uint64_t seed, int steps) {
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
  for (int i = 0; i < PLANS; i++) tci_vec_free(&s->plans[i].log);
  for (int i = 0; i < STREAMS; i++) {
    tci_vec_free(&s->streams[i].marks);
    tci_vec_free(&s->streams[i].sequences);
    mirrors_forget(&s->streams[i]);
  }
  if (s->shell) shell_close(s);
  tci_map_deinit(&s->asked);
  fx_deinit(&s->f);
  return s->hash;
}
