/* streams: watchers with filters, snapshots and resumption, against a log of every change that was committed.
 *
 * The log is read from the bytes of the journal, not from what the core says of its changes. Of it each stream must be told, in
 * order, exactly what its filter lets through, from where it began; never before it is committed; and it must be level whenever
 * the engine has nothing left to do. A stream that was cut resumes behind any event it has heard.
 */
#include "store/store.h"
#include "turboci/v1/service.pb-c.h"
#include "world.h"

enum { FIRST_TOKEN = 100 };

/* ---- the log ---- */

static void log_node(sim_plan *p, sim_change *entry, const tci_change *c) {
  bool created = c->type == TCI_CHANGE_CHECK_CREATED || c->type == TCI_CHANGE_STAGE_CREATED;
  if (created) {
    if (p->log_nodes == NODES) fx_fail("oracle: the journal has more nodes than were written");
    snprintf(p->logged[p->log_nodes].id, sizeof p->logged[0].id, "%.*s", TCI_STR_ARG(c->id));
    p->logged[p->log_nodes].is_check = c->type == TCI_CHANGE_CHECK_CREATED;
  }
  entry->node = created ? p->log_nodes++ : (int)c->node - 1;
  int *state = &p->logged[entry->node].state;
  entry->version = (int64_t)c->version;
  entry->old_state = created || c->created ? 0 : *state;
  if (created || c->type == TCI_CHANGE_CHECK_STATE || c->type == TCI_CHANGE_STAGE_STATE) *state = (int)c->state;
  entry->new_state = *state;
  entry->silent = c->edges_follow;
  entry->busy = c->type == TCI_CHANGE_ATTEMPT || c->type == TCI_CHANGE_PROGRESS || c->move_follows;
}

void streams_log(sim *s, const tci_store_record *r) {
  tci_record_reader reader;
  tci_change c;
  if (!r->plan_key) return;
  sim_plan *p = &s->plans[r->plan_key - 1];
  if (!tci_record_open(r->bytes, &reader)) fx_fail("oracle: a record makes no sense");
  uint64_t sequence = r->sequence - reader.changes;
  while (tci_record_next(&reader, &c) > 0) {
    sim_change entry = {.sequence = ++sequence, .node = -1};
    if (c.type == TCI_CHANGE_PLAN_CREATED) continue;
    if (c.type == TCI_CHANGE_PLAN_STATE) {
      if (c.state != TCI_PLAN_SETTLED) continue;
      p->completed++;
    } else {
      log_node(p, &entry, &c);
    }
    tci_vec_push(&p->log, entry);
  }
  p->sequence = r->sequence;
}

/* ---- what a stream is to be told ---- */

static bool passes(const sim_stream *w, const sim_plan *p, int node, int state) {
  bool is_check = p->logged[node].is_check;
  if (is_check ? !w->checks : !w->stages) return false;
  if (w->only[0] && strcmp(w->only, p->logged[node].id) != 0) return false;
  unsigned states = is_check ? w->check_states : w->stage_states;
  return !states || states >> (state / 10) & 1;
}

static bool concerns(const sim_stream *w, const sim_plan *p, const sim_change *c) {
  if (c->silent || (c->busy && !w->progress)) return false;
  if (c->node < 0) return true;
  return passes(w, p, c->node, c->new_state) && w->nodes[c->node].shown && c->version > w->nodes[c->node].covered;
}

static sim_stream *stream_of(sim *s, uint64_t token) {
  for (int i = 0; i < STREAMS; i++)
    if (s->streams[i].open && s->streams[i].token == token) return &s->streams[i];
  fx_fail("oracle: a stream that is not open is told something");
}

_Noreturn static void wrong(const sim_stream *w, const char *what, const sim_change *c, const char *id) {
  fx_fail("oracle: stream %llu (plan %d, %s%s%s%s, after %llu): %s: sequence %llu, %s %d>%d version %lld",
          (unsigned long long)w->token, w->plan, w->checks ? "checks " : "", w->stages ? "stages " : "",
          w->progress ? "progress " : "", w->current ? "current " : "", (unsigned long long)w->after, what,
          (unsigned long long)c->sequence, id, c->old_state, c->new_state, (long long)c->version);
}

/* The state a node had when it was at this version, or is about to leave it with. */
static bool was_so(const sim_plan *p, const sim_change *heard) {
  for (size_t i = p->log.len; i > 0; i--) {
    const sim_change *c = &p->log.items[i - 1];
    if (c->node == heard->node && c->version == heard->version && c->new_state == heard->new_state) return true;
  }
  return false;
}

/* A node as it is, for include_current. */
static void hear_current(sim_stream *w, const sim_plan *p, const sim_change *heard) {
  const char *id = p->logged[heard->node].id;
  for (int i = heard->node + 1; i < p->log_nodes; i++)
    if (w->nodes[i].covered) wrong(w, "shown out of order", heard, id);
  if (!was_so(p, heard)) wrong(w, "it was never so", heard, id);
  w->nodes[heard->node].shown = true;
  w->nodes[heard->node].covered = heard->version;
}

static void hear_change(sim_stream *w, const sim_plan *p, const sim_change *heard) {
  const char *id = heard->node < 0 ? "completed" : p->logged[heard->node].id;
  for (; w->at < p->log.len; w->at++) {
    const sim_change *c = &p->log.items[w->at];
    if (!concerns(w, p, c)) continue;
    bool same = c->node == heard->node && c->old_state == heard->old_state && c->new_state == heard->new_state &&
                c->version == heard->version && c->sequence == heard->sequence;
    if (same) {
      w->at++;
      return;
    }
    if (w->at >= w->soft)
      wrong(w, "it should have heard something else", c, c->node < 0 ? "completed" : p->logged[c->node].id);
  }
  wrong(w, "nothing of the kind is committed", heard, id);
}

static int logged_node(const sim_plan *p, const char *id, bool is_check) {
  for (int i = 0; i < p->log_nodes; i++)
    if (p->logged[i].is_check == is_check && strcmp(p->logged[i].id, id) == 0) return i;
  fx_fail("oracle: a stream tells of %s, which is not committed", id);
}

static void read_event(const sim_plan *p, const Turboci__V1__WorkPlanEvent *e, sim_change *out) {
  if (e->event_case == TURBOCI__V1__WORK_PLAN_EVENT__EVENT_CHECK_EVENT) {
    const Turboci__V1__CheckEvent *c = e->check_event;
    *out = (sim_change){.node = logged_node(p, c->check_id, true), .version = c->check->version};
    out->old_state = (int)c->old_state;
    out->new_state = (int)c->new_state;
    if ((int)c->check->state != out->new_state) fx_fail("oracle: an event and its check disagree");
  } else if (e->event_case == TURBOCI__V1__WORK_PLAN_EVENT__EVENT_STAGE_EVENT) {
    const Turboci__V1__StageEvent *c = e->stage_event;
    *out = (sim_change){.node = logged_node(p, c->stage_id, false), .version = c->stage->version};
    out->old_state = (int)c->old_state;
    out->new_state = (int)c->new_state;
    if ((int)c->stage->state != out->new_state) fx_fail("oracle: an event and its stage disagree");
  } else {
    *out = (sim_change){.node = -1};
  }
  out->sequence = e->sequence;
}

void stream_hears(sim *s, uint64_t token, uint64_t sequence, tci_str message) {
  sim_stream *w = stream_of(s, token);
  const sim_plan *p = &s->plans[w->plan];
  Turboci__V1__WorkPlanEvent *e = turboci__v1__work_plan_event__unpack(NULL, message.len, (const uint8_t *)message.ptr);
  if (!e) fx_fail("oracle: an event makes no sense");
  sim_change heard;
  read_event(p, e, &heard);
  turboci__v1__work_plan_event__free_unpacked(e, NULL);
  mix(s, message);
  const char *id = heard.node < 0 ? "completed" : p->logged[heard.node].id;
  if (heard.sequence != sequence || sequence < w->last) wrong(w, "sequences fall", &heard, id);
  w->last = sequence;
  if (sequence > p->sequence) wrong(w, "it is not committed", &heard, id);
  if (heard.node >= 0 && !passes(w, p, heard.node, heard.new_state)) wrong(w, "the filter", &heard, id);
  if (w->current && heard.node >= 0 && !w->nodes[heard.node].shown && heard.old_state == 0)
    hear_current(w, p, &heard);
  else if (w->current && heard.node < 0 && w->settled)
    w->settled = false; /* the end of the plan as it is */
  else if (!w->loose)
    hear_change(w, p, &heard);
  else if (heard.node >= 0 && !was_so(p, &heard))
    wrong(w, "it was never so", &heard, id);
}

void stream_ended(sim *s, uint64_t token) {
  for (int i = 0; i < STREAMS; i++)
    if (!token || s->streams[i].token == token) s->streams[i].open = false;
}

void stream_refused(sim *s, uint64_t token, tci_code code) {
  sim_stream *w = stream_of(s, token);
  w->open = false;
  bool ahead = w->after > s->plans[w->plan].sequence;
  if (code != TCI_UNAVAILABLE && !(ahead && code == TCI_OUT_OF_RANGE)) fx_fail("oracle: a stream is refused");
}

/* Everything is done: then everybody has heard everything. */
void judge_streams(sim *s) {
  if (!s->shell || s->f.update.more || s->f.asleep) return;
  for (int i = 0; i < STREAMS; i++) {
    sim_stream *w = &s->streams[i];
    const sim_plan *p = &s->plans[w->plan];
    if (!w->open || w->loose) continue;
    for (; w->at < p->log.len; w->at++)
      if (w->at >= w->soft && concerns(w, p, &p->log.items[w->at]))
        wrong(w, "it has not heard", &p->log.items[w->at], "something");
    w->soft = 0;
    for (int node = 0; node < p->log_nodes && w->current; node++)
      if (!w->nodes[node].shown && passes(w, p, node, p->logged[node].state)) fx_fail("oracle: a snapshot has a hole");
    if (w->settled) fx_fail("oracle: a snapshot of a settled plan does not say so");
  }
}

/* ---- what watchers do: come, go, come back ---- */

static void open_stream(sim *s, sim_stream *w) {
  const sim_plan *p = &s->plans[w->plan];
  w->token = FIRST_TOKEN + s->tokens++;
  tci_event event = {.kind = TCI_EVENT_COMMAND, .token = w->token};
  event.command.kind = TCI_COMMAND_WATCH_PLAN;
  event.command.plan_id = p->id;
  tci_filter *f = &event.command.watch_plan.filter;
  *f = (tci_filter){.include_checks = w->checks,
                    .include_stages = w->stages,
                    .check_states = w->check_states,
                    .stage_states = w->stage_states};
  tci_str only[1] = {tci_str_from(w->only)};
  if (w->only[0]) f->check_ids = f->stage_ids = (tci_ids){only, 1};
  event.command.watch_plan.include_current = w->current;
  event.command.watch_plan.include_progress = w->progress;
  event.command.watch_plan.after_sequence = w->after;
  w->open = true;
  w->at = 0;
  uint64_t from = w->after ? w->after : p->sequence;
  while (w->at < p->log.len && p->log.items[w->at].sequence <= from) w->at++;
  w->last = w->after;
  w->settled = w->current && p->was_settled;
  for (int i = 0; i < NODES; i++) w->nodes[i].shown = !w->current || i >= p->log_nodes;
  w->soft = w->after || is_quiet(s) ? 0 : SIZE_MAX; /* what is due comes first, and then it is watched */
  fx_step(&s->f, &event);
}

static void roll_filter(sim *s, sim_stream *w) {
  const sim_plan *p = &s->plans[w->plan];
  w->checks = chance(s, 75);
  w->stages = chance(s, 75);
  w->progress = chance(s, 50);
  if (chance(s, 15)) w->check_states = (unsigned)roll(s, 63) & 0x1eu;
  if (chance(s, 15)) w->stage_states = (unsigned)roll(s, 63) & 0x1eu;
  if (p->len && chance(s, 15)) memcpy(w->only, p->nodes[pick(s, p->len)].id, sizeof w->only);
}

void somebody_watches(sim *s, const sim_plan *p) {
  sim_stream *w = &s->streams[pick(s, STREAMS)];
  if (w->open) {
    fx_step(&s->f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = w->token});
    w->open = false;
    return;
  }
  bool again = w->token && chance(s, 70); /* or from before, when it says that its reader has crashed */
  if (again && w->last) {
    uint64_t back = chance(s, 30) ? roll(s, w->last) : 0;
    w->after = w->last - back;
    w->current = false;
    memset(w->nodes, 0, sizeof w->nodes);
  } else {
    *w = (sim_stream){.plan = (int)(p - s->plans)};
    roll_filter(s, w);
    w->current = chance(s, 40);
    if (!w->current && chance(s, 40)) w->after = 1 + roll(s, p->sequence + 1);
  }
  w->loose = w->current && (w->check_states || w->stage_states);
  open_stream(s, w);
}
