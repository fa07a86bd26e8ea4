/* sim: the core in a hostile world, by seed. Random plans, runners, policies, answers, clocks and restarts; after every event
 * the invariants and an oracle that trusts nothing but what this program wrote and was asked itself. Then the faults stop, and
 * every plan must settle.
 *
 *     sim                        seeds 1 to 200, some of them twice: the same seed must leave the same trace
 *     sim --seed N [--steps M]   one seed; --seeds N how many, --verbose a line each
 *
 * Every failure prints its seed and step.
 */
#include "oracle.h"

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
    *node = (sim_node){
        .is_check = chance(s, 40), .type = pick(s, s->types), .async = chance(s, 50), .pulled = chance(s, 10)};
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
  char id[4] = {'r', (char)('0' + i), 0}, type[4] = {'t', (char)('0' + (healthy ? i % TYPES : pick(s, s->types))), 0};
  int64_t ttl_ms = healthy ? s->f.limits.runner_ttl_ms_max : 1000 * (1 + pick(s, s->steady ? 900 : 60));
  s->runners[i] = (sim_runner){true, s->f.now.mono_us, ttl_ms * 1000};
  fx_register(&s->f, id, type, healthy ? "both" : modes[pick(s, 3)], healthy ? 0 : pick(s, 4), ttl_ms);
}

static void unregister_runner(sim *s) {
  char id[4] = {'r', (char)('0' + pick(s, EXCLUDABLE)), 0};
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

/* ---- policies come and go ---- */

static tci_str roll_policy(sim *s) { /* or none of that name */
  int number = pick(s, POLICIES + 1);
  return number < POLICIES ? policy_names[number] : TCI_STR("nobody");
}

static sim_policy *roll_version(sim *s, int number, bool good) {
  sim_policy *p = sim_policy_new(&s->f.arena, number, roll(s, UINT64_MAX), good);
  p->heard = hear;
  return p;
}

static void roll_set(sim *s, bool good) {
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

static void swap_policies(sim *s, bool good) {
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

static tci_explanation_kind reason_to_wait(const sim *s, const tci_attempt *a) {
  const sim_asked *k = was_asked(s, a);
  if (!tci_link_in(&a->queued)) return TCI_EXPLAINS_BACKOFF;
  if (a->parked) return TCI_EXPLAINS_ADMISSION;
  if (!a->hold_until_us) return TCI_EXPLAINS_STATE;
  return k && k->said[TCI_HOOK_SELECT].step == k->hold_step ? TCI_EXPLAINS_POLICY_WAIT : TCI_EXPLAINS_ADMISSION;
}

/* ExplainNode names why a stage waits, and changes nothing. */
static void ask_why(sim *s, const sim_plan *p) {
  const tci_attempt *a = NULL;
  const tci_node *node = core_node(s, p, 0);
  int at = 0;
  for (int tries = 0; tries < 20 && !(a && a->execution == TCI_EXECUTION_PENDING); tries++) {
    at = pick(s, p->len);
    node = core_node(s, p, at);
    a = p->nodes[at].is_check ? NULL : tci_stage_attempt((const tci_stage *)node);
  }
  bool pending = is_quiet(s) && !s->f.asleep && a && a->execution == TCI_EXECUTION_PENDING;
  tci_explanation_kind want = pending ? reason_to_wait(s, a) : TCI_EXPLAINS_STATE;
  tci_command cmd = {.kind = TCI_COMMAND_EXPLAIN_NODE, .plan_id = p->id};
  if (p->nodes[at].is_check)
    cmd.explain_node.check_id = node->id;
  else
    cmd.explain_node.stage_id = node->id;
  bool quiet = is_quiet(s), told = false;
  const tci_reply *reply = fx_command(&s->f, cmd);
  for (size_t i = 0; i < reply->explanations_len; i++) {
    told |= reply->explanations[i].kind == want;
    mix(s, reply->explanations[i].text);
  }
  if (reply->status.code != TCI_OK || !told) fx_fail("oracle: nobody knows why %s waits", p->nodes[at].id);
  if (quiet && s->f.update.records.len) fx_fail("oracle: a question changed something");
}

static void start_again(sim *s, bool calls_die) {
  s->f.same_turn = false;
  int64_t before_us = ++s->f.now.wall_us; /* what the restart itself dispatches is not from before it */
  for (int i = 0; i < RUNNERS; i++) s->runners[i].heard_us = s->f.now.mono_us; /* a full ttl for everybody */
  for (size_t i = 0; i < s->executions.len; i++) {
    s->executions.items[i]->survived_restart = true;
    if (calls_die) s->executions.items[i]->calling = false;
  }
  policies_restart(s);
  fx_fall_asleep(&s->f);
  if (s->plans_len && s->plans[0].len && chance(s, 30)) ask_why(s, &s->plans[0]); /* reads go on */
  fx_step(&s->f, &(tci_event){.kind = calls_die ? TCI_EVENT_RESTARTED : TCI_EVENT_RELOADED});
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
  tci_command cmd = {.kind = TCI_COMMAND_CREATE_PLAN};
  if (s->scripted && chance(s, 50)) cmd.create_plan.policy = roll_policy(s);
  int number = policy_number(cmd.create_plan.policy);
  bool known = !cmd.create_plan.policy.len || (number >= 0 && s->circuits[number].policy);
  const tci_reply *reply = fx_command(&s->f, cmd);
  if (known != (reply->status.code == TCI_OK)) fx_fail("oracle: a policy's name: %s", reply->status.message);
  if (!known) return;
  tci_str id = s->f.plan_id = tci_str_copy(&s->f.arena, reply->plan->id);
  s->plans[s->plans_len] = (sim_plan){.id = id, .policy = cmd.create_plan.policy, .version = 1};
  s->plans_len++;
  fx_watch(&s->f, (uint64_t)s->plans_len, "checks stages progress");
}

static void act(sim *s) {
  unsigned total = 0, at = 0;
  for (size_t i = 0; i < ACTIONS; i++) total += s->weights[i];
  s->f.same_turn = s->turn_shared > 0;
  s->turn_shared = s->turn_shared ? s->turn_shared - 1 : (unsigned)pick(s, 4);
  unsigned dice = (unsigned)roll(s, total);
  while (dice >= s->weights[at]) dice -= s->weights[at++];
  sim_plan *p = s->plans_len ? &s->plans[pick(s, s->plans_len)] : NULL;
  if (!p || ((at == 3 || at == 4 || at == 13) && !p->len)) at = p ? 1 : 0;
  switch (at) {
    case 0: create_plan(s); break;
    case 1:
    case 2: add_nodes(s, p); break;
    case 3: rewire(s, p); break;
    case 4: client_writes(s, p); break;
    case 5: register_runner(s, pick(s, EXCLUDABLE), false); break;
    case 6: unregister_runner(s); break;
    case 7:
    case 8: a_runner_speaks(s); break;
    case 9: move_clock(s); break;
    case 10: start_again(s, true); break;
    case 11: start_again(s, false); break;
    case 12: swap_policies(s, false); break;
    default: ask_why(s, p); break;
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
  static const unsigned usual[ACTIONS] = {4, 14, 10, 12, 14, 24, 3, 40, 40, 30, 1, 1, 4, 4};
  for (int i = 0; i < ACTIONS; i++)
    s->weights[i] = chance(s, 20) && i > 2 ? usual[i] / 4 : usual[i] * (1 + (unsigned)roll(s, 3));
  s->f.limits.policy_asks_per_turn = 1 + pick(s, 6);
  s->f.limits.turn_timers_max = 1 + pick(s, 4);
  s->f.limits.progress_entries_max = 1 + pick(s, 4);
  s->f.limits.execution_timeout_ms = 60000;
  s->f.limits.stale_timeout_ms = 20000;
  s->f.limits.delivery_attempts_max = 1 + pick(s, 8);
  s->f.limits.attempts_max = 1 + pick(s, 4);
  s->f.limits.policy_faults_max = 1 + pick(s, 4);
  s->f.limits.policy_circuit_ms = 1000 * (1 + pick(s, 20));
  if (chance(s, 40)) s->f.limits.policy_instructions_per_turn = 100 + pick(s, 3000);
  s->scripted = chance(s, 75);
  s->types = 1 + pick(s, TYPES);
  s->steady = chance(s, 60);
  if (chance(s, 30)) s->weights[7] = s->weights[8] = 10; /* what runs, runs for long */
  if (!s->scripted) s->weights[12] = 0;
  if (s->scripted) roll_set(s, false);
  fx_renew(&s->f);
  fx_step(&s->f, &(tci_event){.kind = TCI_EVENT_RESTARTED});
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
  tci_map_deinit(&s->asked);
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
