/* storms: what only the engine knows, not the core: turns of several steps, commits that fail and take all of them along, answers
 * held until the model is awake again, and the drain before a stop.
 */
#include "app/engine.h"
#include "world.h"

enum { EVENTS = 8, FIRST_TOKEN = 1 };

typedef struct {
  tci_event events[EVENTS];
  sim_execution *answered[EVENTS]; /* by this event; NULL: it is no answer */
  int plan[EVENTS];                /* a write to it; -1: none */
  tci_code codes[EVENTS];
  int replies[EVENTS];
  size_t len;
} turn;

/* ---- what comes in one turn ---- */

static tci_event *add(turn *t) {
  tci_event *event = &t->events[t->len];
  *event = (tci_event){.kind = TCI_EVENT_COMMAND, .token = FIRST_TOKEN + t->len};
  t->plan[t->len++] = -1;
  return event;
}

static void add_answer(sim *s, turn *t) {
  for (size_t i = s->executions.len; i > 0; i--) {
    sim_execution *e = s->executions.items[i - 1];
    if (!e->calling || !chance(s, 40)) continue;
    tci_event *event = add(t);
    *event = roll_answer(s, e, false);
    t->answered[t->len - 1] = e;
    return;
  }
}

static void add_callback(sim *s, turn *t) {
  sim_execution *e = s->executions.len ? s->executions.items[pick(s, (int)s->executions.len)] : NULL;
  if (!e || !e->async) return;
  if (chance(s, 50))
    add(t)->command = fx_update_command(&s->f, e->id, "half way");
  else
    add(t)->command = fx_complete_command(&s->f, e->id, tci_fmt(&s->f.arena, "%s", roll_completion(s, e, false)));
  t->events[t->len - 1].command.plan_id = s->plans[e->plan].id;
}

static void add_heartbeat(sim *s, turn *t) {
  int i = pick(s, EXCLUDABLE);
  if (s->runners[i].here) add(t)->command = s->runners[i].command;
}

static void add_write(sim *s, turn *t) { /* words that leave the nodes' edges as they are; one for a plan */
  int plan = s->plans_len ? pick(s, s->plans_len) : 0;
  for (size_t i = 0; i < t->len; i++)
    if (t->plan[i] == plan) return;
  if (!s->plans[plan].len) return;
  roll_words(s, &s->plans[plan]);
  if (!s->text[0]) return;
  add(t)->command = fx_parse_write(&s->f.arena, s->plans[plan].id, tci_fmt(&s->f.arena, "%s", s->text));
  t->plan[t->len - 1] = plan;
}

static void add_read(sim *s, turn *t) {
  if (!s->plans_len) return;
  tci_command *cmd = &add(t)->command;
  cmd->plan_id = s->plans[pick(s, s->plans_len)].id;
  cmd->kind = chance(s, 50) ? TCI_COMMAND_GET_PLAN : TCI_COMMAND_QUERY_NODES;
  if (cmd->kind != TCI_COMMAND_QUERY_NODES) return;
  cmd->query_nodes.include_checks = cmd->query_nodes.include_stages = true;
  t->events[t->len - 1].token = LIST_TOKEN + s->tokens++; /* it may be answered in a later turn */
}

static void roll_turn(sim *s, turn *t) {
  t->len = 0;
  memset(t->answered, 0, sizeof t->answered);
  for (int wanted = 1 + pick(s, EVENTS - 1), tries = 0; (int)t->len < wanted && tries < 20; tries++) {
    switch (pick(s, 6)) {
      case 0: add_heartbeat(s, t); break;
      case 1: add_read(s, t); break;
      case 2: add_write(s, t); break;
      case 3: add_callback(s, t); break;
      default: add_answer(s, t); break;
    }
  }
  if (!t->len) add(t)->kind = TCI_EVENT_TICK;
}

/* ---- and what came of it ---- */

static void read_replies(sim *s, turn *t) {
  memset(t->replies, 0, sizeof t->replies);
  for (size_t i = 0; i < s->f.update.effects.len; i++) {
    const tci_effect *e = &s->f.update.effects.items[i];
    if (e->kind != TCI_EFFECT_REPLY || e->token >= LIST_TOKEN || e->token == 0) continue;
    t->replies[e->token - FIRST_TOKEN]++;
    t->codes[e->token - FIRST_TOKEN] = e->reply.status.code;
  }
  for (size_t i = 0; i < t->len; i++)
    if (t->replies[i] != (t->events[i].kind == TCI_EVENT_COMMAND && t->events[i].token < LIST_TOKEN))
      fx_fail("oracle: a command is answered %d times", t->replies[i]);
}

static sim_runner *runner_beating(sim *s, const tci_event *event) { /* NULL: the event is no heartbeat */
  bool beats = event->kind == TCI_EVENT_COMMAND && event->command.kind == TCI_COMMAND_REGISTER_RUNNER;
  return beats ? runner_of(s, event->command.register_runner.runner_id) : NULL;
}

static void take_turn(sim *s, turn *t) {
  for (int i = 0; i < RUNNERS; i++) s->runners[i].before_us = s->runners[i].heard_us;
  for (size_t i = 0; i < t->len; i++) {
    sim_runner *r = runner_beating(s, &t->events[i]);
    if (r) r->heard_us = s->f.now.mono_us;
    if (t->answered[i]) t->answered[i]->calling = false;
    if (t->answered[i]) t->answered[i]->answered = true;
    if (t->answered[i] && t->events[i].answer.code == TCI_OK) t->answered[i]->spoke_us = s->f.now.mono_us;
  }
  shell_turn(s, t->events, t->len);
  read_replies(s, t);
  for (size_t i = 0; i < t->len; i++) {
    sim_runner *r = runner_beating(s, &t->events[i]);
    if (r && t->codes[i] != TCI_OK) r->heard_us = r->before_us;
  }
}

static bool is_read(const tci_event *e) {
  return e->command.kind == TCI_COMMAND_GET_PLAN || e->command.kind == TCI_COMMAND_QUERY_NODES;
}

/* Nothing of the turn happened, as far as anybody may know. */
static void judge_failed_turn(sim *s, const turn *t) {
  for (size_t i = 0; i < t->len; i++)
    if (t->replies[i] && t->codes[i] != TCI_UNAVAILABLE)
      fx_fail("oracle: the commit failed and somebody is told %s", tci_code_name(t->codes[i]));
  for (size_t i = 0; i < s->f.update.effects.len; i++)
    if (s->f.update.effects.items[i].kind == TCI_EFFECT_DISPATCH) fx_fail("oracle: the commit failed and work is sent");
  for (int i = 0; i < STREAMS; i++)
    if (s->streams[i].open) fx_fail("oracle: the commit failed and a stream goes on");
  if (s->f.update.records.len) fx_fail("oracle: half a turn was committed");
}

static void judge_asleep(const sim *s, const turn *t) {
  if (s->f.update.records.len) fx_fail("oracle: asleep, and something follows");
  for (size_t i = 0; i < t->len; i++)
    if (t->replies[i] && (t->codes[i] == TCI_UNAVAILABLE) == is_read(&t->events[i]))
      fx_fail("oracle: asleep, and %s is answered %s", is_read(&t->events[i]) ? "a read" : "a write",
              tci_code_name(t->codes[i]));
}

/* From a failed commit to the first that is not: what comes meanwhile, wakings that fail, the waking. */
void until_awake(sim *s) {
  turn t;
  judge(s);
  int64_t after_us = TCI_ENGINE_WAKE_US_MIN, wait_us = after_us; /* it waits longer each time */
  for (bool fails = true; fails;) {
    for (int n = pick(s, 3); n > 0; n--) {
      pass_time(s, pick(s, 200000));
      roll_turn(s, &t);
      take_turn(s, &t);
      judge_asleep(s, &t);
      judge(s);
    }
    fails = chance(s, 25);
    store_fail(fails ? 1 : 0, chance(s, 50) ? TCI_UNAVAILABLE : TCI_RESOURCE_EXHAUSTED);
    if (shell_next_due_us() == INT64_MAX) fx_fail("oracle: it never wakes");
    pass_time(s, wait_us);
    s->f.asleep = false;
    begin_epoch(s);
    t.len = 0;
    add(&t)->kind = TCI_EVENT_TICK;
    t.answered[0] = NULL;
    take_turn(s, &t);
    if (store_failed() > 0) after_us = 2 * after_us < TCI_ENGINE_WAKE_US_MAX ? 2 * after_us : TCI_ENGINE_WAKE_US_MAX;
    wait_us = store_was_full() ? TCI_ENGINE_WAKE_US_MIN : after_us; /* and asks a full disk every second */
    fails = store_failed() > 0 || store_was_full();                 /* it may have had nothing to say */
    store_fail(0, TCI_OK);
    s->f.asleep = fails;
    judge(s);
  }
}

void storm(sim *s) {
  turn t;
  roll_turn(s, &t);
  if (chance(s, 40)) store_fail(1, chance(s, 50) ? TCI_UNAVAILABLE : TCI_RESOURCE_EXHAUSTED);
  take_turn(s, &t);
  bool failed = store_failed() > 0;
  store_fail(0, TCI_OK);
  if (!failed) return;
  judge_failed_turn(s, &t);
  until_awake(s);
}

/* SIGTERM: what runs may end, nothing begins; then the process ends. */
void drain(sim *s) {
  shell_drain();
  s->draining = true;
  for (int n = pick(s, 6); n > 0; n--) {
    turn t;
    if (chance(s, 15)) storm(s);
    roll_turn(s, &t);
    take_turn(s, &t);
    for (size_t i = 0; i < t.len; i++)
      if (t.plan[i] >= 0 && t.codes[i] != TCI_UNAVAILABLE) fx_fail("oracle: a write is taken while the server drains");
    judge(s);
    if (chance(s, 50)) pass_time(s, pick(s, 1000000));
  }
  s->draining = false;
  start_again(s, true);
}
