/* runners: registrations, and what runners say: answers, progress, completions, in time and late. */
#include "world.h"

void register_runner(sim *s, int i, bool healthy) {
  static const char *const modes[] = {"sync", "async", "both"};
  char id[4] = {'r', (char)('0' + i), 0}, type[4] = {'t', (char)('0' + (healthy ? i % TYPES : pick(s, s->types))), 0};
  int64_t ttl_ms = healthy ? s->f.limits.runner_ttl_ms_max : 1000 * (1 + pick(s, s->steady ? 900 : 60));
  const char *mode = healthy ? "both" : modes[pick(s, 3)];
  tci_command cmd = fx_register_command(tci_fmt(&s->f.arena, "%s", id), tci_fmt(&s->f.arena, "%s", type), mode,
                                        healthy ? 0 : pick(s, 4), ttl_ms);
  s->runners[i] = (sim_runner){.here = true, .heard_us = s->f.now.mono_us, .ttl_us = ttl_ms * 1000, .command = cmd};
  const tci_reply *reply = fx_command(&s->f, cmd);
  if (reply->status.code != TCI_OK) fx_fail("oracle: a runner is refused: %s", reply->status.message);
}

void heartbeat(sim *s, int i) {
  s->runners[i].heard_us = s->f.now.mono_us;
  const tci_reply *reply = fx_command(&s->f, s->runners[i].command);
  if (reply->status.code != TCI_OK) fx_fail("oracle: a heartbeat is refused: %s", reply->status.message);
}

void unregister_runner(sim *s) {
  char id[4] = {'r', (char)('0' + pick(s, EXCLUDABLE)), 0};
  if (!s->runners[id[1] - '0'].here) return;
  s->unregistering = true;
  tci_str registration = tci_str_copy(&s->f.arena, fx_runner(&s->f, id)->registration_id);
  fx_command(&s->f, (tci_command){.kind = TCI_COMMAND_UNREGISTER_RUNNER, .registration_id = registration});
}

const char *roll_completion(sim *s, const sim_execution *e, bool healthy) {
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

tci_event roll_answer(sim *s, const sim_execution *e, bool healthy) {
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = e->id;
  if (!healthy && chance(s, 25)) {
    event.answer.code = (tci_code)(1 + pick(s, 16));
    event.answer.message = TCI_STR("so it goes");
  } else if (!healthy && chance(s, 4)) {
    event.answer.unreadable = true;
    event.answer.message = TCI_STR("gibberish");
  } else if (e->async) {
    event.answer.accepted = healthy || chance(s, 85);
  } else {
    const char *text = tci_fmt(&s->f.arena, "%s", roll_completion(s, e, healthy));
    event.answer.completion = fx_parse_completion(&s->f.arena, text);
  }
  return event;
}

void send_answer(sim *s, sim_execution *e, bool healthy) {
  tci_event event = roll_answer(s, e, healthy);
  e->calling = false;
  e->answered = true;
  if (event.answer.code == TCI_OK) e->spoke_us = s->f.now.mono_us;
  fx_step(&s->f, &event);
}

/* UpdateStageExecution and CompleteStageExecution, at any time, also long after. What is not live changes nothing. */
void call_back(sim *s, sim_execution *e, bool healthy) {
  bool live = tci_execution_is_live(attempt_of(s, e));
  bool quiet = is_quiet(s);
  s->f.plan_id = s->plans[e->plan].id;
  const tci_reply *reply;
  if (!healthy && chance(s, 40)) {
    reply = fx_command(&s->f, fx_update_command(&s->f, e->id, chance(s, 80) ? "half way" : ""));
    if (reply->status.code == TCI_OK) e->spoke_us = s->f.now.mono_us;
    if (quiet && live != (reply->status.code == TCI_OK)) fx_fail("oracle: progress was %s", live ? "refused" : "taken");
  } else {
    if (!e->last[0] || !chance(s, 50)) snprintf(e->last, sizeof e->last, "%s", roll_completion(s, e, healthy));
    reply = fx_command(&s->f, fx_complete_command(&s->f, e->id, tci_fmt(&s->f.arena, "%s", e->last)));
    if (quiet && live && reply->status.code == TCI_OK && tci_execution_is_live(attempt_of(s, e)))
      fx_fail("oracle: a completion had no effect");
    if (quiet && live && reply->status.code == TCI_OK) memcpy(e->taken, e->last, sizeof e->taken);
  }
  if (quiet && !live && s->f.update.records.len) fx_fail("oracle: a late callback changed something");
}

/* The end of an execution is told again: the same words are fine while nothing came after them, others never are. */
static void complete_again(sim *s, sim_execution *e) {
  const tci_attempt *a = attempt_of(s, e);
  if (!e->taken[0] || !is_quiet(s)) return;
  bool same = chance(s, 60), last = a == tci_stage_attempt(a->stage);
  s->f.plan_id = s->plans[e->plan].id;
  const char *text = tci_fmt(&s->f.arena, "%s%s", e->taken, same ? "" : " details=other:words");
  const tci_reply *reply = fx_command(&s->f, fx_complete_command(&s->f, e->id, text));
  if (reply->status.code != (same && last ? TCI_OK : TCI_FAILED_PRECONDITION))
    fx_fail("oracle: a completion is told again (%s) and answered %s", same ? "the same" : "another",
            tci_code_name(reply->status.code));
  if (s->f.update.records.len) fx_fail("oracle: a completion that is told again changed something");
}

/* The answer to a call comes although the execution is over: a second time, or after its deadline, or after a restart. */
static void answer_late(sim *s, sim_execution *e) {
  if (tci_execution_is_live(attempt_of(s, e)) || !is_quiet(s)) return;
  send_answer(s, e, false);
  if (s->f.update.records.len) fx_fail("oracle: a late answer changed something");
}

static sim_execution *roll_execution(sim *s) { /* mostly one of the last */
  size_t len = s->executions.len;
  if (!len) return NULL;
  size_t back = chance(s, 80) && len > 6 ? 6 : len;
  return s->executions.items[len - 1 - (size_t)pick(s, (int)back)];
}

void a_runner_speaks(sim *s) {
  sim_execution *e = roll_execution(s);
  if (!e) return;
  if (e->calling && chance(s, 70))
    send_answer(s, e, false);
  else
    call_back(s, e, false);
}

/* Everything a runner says may come twice. */
void a_runner_repeats(sim *s) {
  sim_execution *e = roll_execution(s);
  for (int tries = 0; e && !e->taken[0] && tries < 5; tries++) e = roll_execution(s);
  if (!e) return;
  if (e->taken[0] && chance(s, 70))
    complete_again(s, e);
  else
    answer_late(s, e);
}
