/* streams: watchers with filters, snapshots and resumption, slow and quick ones, against a log of every committed change.
 *
 * The log is read from the bytes of the journal, not from what the core says of its changes. Of it each stream must be told, in
 * order, exactly what its filter lets through, from where it began; never before it is committed; and whoever reads must be
 * level when the engine has nothing left to do. Only of a node that changes without moving may a slow reader miss steps on the
 * way. A stream that was cut resumes behind any event that it has heard, and what it had not heard comes.
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
  entry->reported = c->type == TCI_CHANGE_PROGRESS;
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
      p->log_settled = c.state == TCI_PLAN_SETTLED;
      if (!p->log_settled) continue;
      p->completed++;
    } else {
      log_node(p, &entry, &c);
    }
    tci_vec_push(&p->log, entry);
  }
  p->sequence = r->sequence;
}

/* ---- what a stream is to be told ---- */

/* By which of its events a stream was told of an entry; 0: it was not. */
enum { MAYBE = 1u << 31 };      /* it need not be */
enum { LAG_BYTES = 128 << 10 }; /* safely less than what makes the engine take a stream for one that is behind */

static uint32_t *mark_of(sim_stream *w, size_t entry) {
  while (w->marks.len <= entry) tci_vec_push(&w->marks, 0);
  return &w->marks.items[entry];
}

static bool passes(const sim_stream *w, const sim_plan *p, int node, int state) {
  bool is_check = p->logged[node].is_check;
  if (is_check ? !w->checks : !w->stages) return false;
  if (w->only[0] && strcmp(w->only, p->logged[node].id) != 0) return false;
  unsigned states = is_check ? w->check_states : w->stage_states;
  return !states || states >> (state / 10) & 1;
}

/* Whether it is to hear of this one, sooner or later. */
static bool concerns(const sim_stream *w, const sim_plan *p, const sim_change *c) {
  if (c->sequence <= w->from || c->silent || (c->busy && !w->progress)) return false;
  return c->node < 0 || passes(w, p, c->node, c->new_state);
}

static bool moves(const sim_change *c) { return c->node < 0 || c->old_state != c->new_state; }

/* What a slow reader is owed of a node that does not move is owed as long as the node is one that it hears of. */
static bool has_left(const sim_stream *w, const sim_plan *p, size_t entry) {
  const sim_change *c = &p->log.items[entry];
  if (!w->lags || moves(c)) return false;
  for (size_t i = entry + 1; i < p->log.len; i++)
    if (p->log.items[i].node == c->node && !passes(w, p, c->node, p->log.items[i].new_state)) return true;
  return false;
}

/* Whether it is to hear of it now: not of nodes that are still to be shown as they are; then the end of the plan comes last. */
static bool expects(sim_stream *w, const sim_plan *p, size_t entry) {
  const sim_change *c = &p->log.items[entry];
  return *mark_of(w, entry) == 0 && !c->reported && concerns(w, p, c) &&
         (c->node < 0 || !w->current || w->shown[c->node]);
}

static sim_stream *stream_of(sim *s, uint64_t token) {
  for (int i = 0; i < STREAMS; i++)
    if (s->streams[i].open && s->streams[i].token == token) return &s->streams[i];
  fx_fail("oracle: a stream that is not open is told something");
}

_Noreturn static void wrong(const sim_stream *w, const sim_plan *p, const sim_change *c, const char *what) {
  fx_fail("oracle: stream %llu (plan %d, %s%s%s%s%s, after %llu): %s: sequence %llu, %s %d>%d version %lld",
          (unsigned long long)w->token, w->plan, w->checks ? "checks " : "", w->stages ? "stages " : "",
          w->progress ? "progress " : "", w->current ? "current " : "", w->slow ? "slow" : "",
          (unsigned long long)w->after, what, (unsigned long long)c->sequence,
          c->node < 0 ? "completed" : p->logged[c->node].id, c->old_state, c->new_state, (long long)c->version);
}

/* A node as it is: all that came of it up to its version is told, what belongs to the same step may be. */
static void hear_current(sim_stream *w, const sim_plan *p, const sim_change *heard) {
  bool was_so = false;
  for (int i = heard->node + 1; i < p->log_nodes && w->more; i++)
    if (w->shown[i]) wrong(w, p, heard, "shown out of order");
  for (size_t i = 0; i < p->log.len; i++) {
    const sim_change *c = &p->log.items[i];
    if (c->node != heard->node || c->version > heard->version) continue;
    *mark_of(w, i) = was_so && c->version == heard->version ? MAYBE : w->heard;
    was_so |= c->version == heard->version && c->new_state == heard->new_state;
  }
  if (!was_so) wrong(w, p, heard, "it was never so");
  w->shown[heard->node] = true;
}

/* Of a node that does not move a reader that lags is shown the last state of many. False: it was never so. */
static bool hear_coalesced(sim_stream *w, const sim_plan *p, const sim_change *heard) {
  bool found = false;
  for (size_t i = 0; i < p->log.len; i++) {
    const sim_change *c = &p->log.items[i];
    if (c->node != heard->node || c->version > heard->version || moves(c) || !concerns(w, p, c)) continue;
    found |= c->new_state == heard->new_state;
    if (*mark_of(w, i) == 0) *mark_of(w, i) = c->version == heard->version ? MAYBE : w->heard;
  }
  return found;
}

/* Progress may be told before it is on record, and then without a sequence of its own. */
static bool is_report(const sim_stream *w, const sim_plan *p, const sim_change *heard) {
  if (!w->progress || heard->node < 0 || moves(heard) || p->logged[heard->node].is_check) return false;
  for (size_t i = p->log.len; i > 0; i--) {
    const sim_change *c = &p->log.items[i - 1];
    if (c->node == heard->node && c->version == heard->version && c->new_state == heard->new_state) return true;
  }
  return false;
}

/* An end of the plan that is over again is not told to who was still being shown the nodes. */
static bool is_past(const sim_plan *p, size_t entry) {
  if (p->log.items[entry].node >= 0) return false;
  for (size_t i = entry + 1; i < p->log.len; i++)
    if (p->log.items[i].node < 0) return true;
  return !p->log_settled;
}

static void hear_change(sim_stream *w, const sim_plan *p, const sim_change *heard) {
  /* Nothing can be owed to it: the sequence is the change's own. */
  bool exact = w->opening || !(w->lags || w->current || (w->after && w->progress));
  for (size_t i = 0; i < p->log.len; i++) {
    const sim_change *c = &p->log.items[i];
    if (c->sequence <= w->from) continue;
    bool same = c->node == heard->node && c->old_state == heard->old_state && c->new_state == heard->new_state &&
                c->version == heard->version && (!exact || c->sequence == heard->sequence);
    bool past = w->current && is_past(p, i);
    bool may = *mark_of(w, i) & MAYBE || (*mark_of(w, i) == 0 && (c->reported || past));
    bool own = c->sequence == heard->sequence; /* of those of which there may be many alike */
    if (same && may && (own || (c->node >= 0 && !c->reported))) {
      *mark_of(w, i) = w->heard;
      return;
    }
    if (past) continue;
    if (!expects(w, p, i)) continue;
    if (same) {
      if (heard->sequence > c->sequence) wrong(w, p, heard, "its sequence is too high");
      *mark_of(w, i) = w->heard;
      return;
    }
    if (w->opening) {
      *mark_of(w, i) = MAYBE;
      continue;
    }
    if (has_left(w, p, i) && !moves(heard)) continue;
    if (w->lags && !moves(heard)) break;
    if (is_report(w, p, heard)) return;
    if (!w->lags || moves(c)) wrong(w, p, c, "it should have heard something else");
    if (c->node == heard->node) *mark_of(w, i) = w->heard; /* the whole node is told */
  }
  if (w->lags && !moves(heard) && hear_coalesced(w, p, heard)) return;
  if (!is_report(w, p, heard)) wrong(w, p, heard, "nothing of the kind is committed");
}

static int logged_node(const sim_plan *p, const char *id, bool is_check) {
  for (int i = 0; i < p->log_nodes; i++)
    if (p->logged[i].is_check == is_check && strcmp(p->logged[i].id, id) == 0) return i;
  fx_fail("oracle: a stream tells of %s, which is not committed", id);
}

static void read_event(const sim_plan *p, const Turboci__V1__WorkPlanEvent *e, sim_change *out) {
  int state = 0;
  if (e->event_case == TURBOCI__V1__WORK_PLAN_EVENT__EVENT_CHECK_EVENT) {
    const Turboci__V1__CheckEvent *c = e->check_event;
    *out = (sim_change){.node = logged_node(p, c->check_id, true), .version = c->check->version};
    out->old_state = (int)c->old_state;
    out->new_state = (int)c->new_state;
    state = (int)c->check->state;
  } else if (e->event_case == TURBOCI__V1__WORK_PLAN_EVENT__EVENT_STAGE_EVENT) {
    const Turboci__V1__StageEvent *c = e->stage_event;
    *out = (sim_change){.node = logged_node(p, c->stage_id, false), .version = c->stage->version};
    out->old_state = (int)c->old_state;
    out->new_state = (int)c->new_state;
    state = (int)c->stage->state;
  } else {
    *out = (sim_change){.node = -1};
  }
  if (state != out->new_state) fx_fail("oracle: an event and its node disagree");
  out->sequence = e->sequence;
}

bool stream_hears(sim *s, uint64_t token, uint64_t sequence, tci_str message) {
  sim_stream *w = stream_of(s, token);
  const sim_plan *p = &s->plans[w->plan];
  Turboci__V1__WorkPlanEvent *e = turboci__v1__work_plan_event__unpack(NULL, message.len, (const uint8_t *)message.ptr);
  if (!e) fx_fail("oracle: an event makes no sense");
  sim_change heard;
  read_event(p, e, &heard);
  w->more = e->more_current;
  if (w->mirrors_all && heard.node >= 0) mirror_hears(w, heard.node, e);
  turboci__v1__work_plan_event__free_unpacked(e, NULL);
  mix(s, message);
  if (w->turn != s->f.turns) w->turn_bytes = 0;
  w->turn = s->f.turns;
  w->turn_bytes += message.len;
  w->lags |= w->turn_bytes > LAG_BYTES; /* whoever is told so much at once is behind, however fast he reads */
  if (w->blocked) wrong(w, p, &heard, "its reader takes no more");
  if (heard.sequence != sequence || sequence < w->last) wrong(w, p, &heard, "sequences fall");
  if (sequence > p->sequence) wrong(w, p, &heard, "it is not committed");
  if (heard.node >= 0 && !passes(w, p, heard.node, heard.new_state)) wrong(w, p, &heard, "the filter");
  w->last = sequence;
  tci_vec_push(&w->sequences, sequence);
  w->heard = (uint32_t)w->sequences.len;
  if (w->current && heard.node >= 0 && !w->shown[heard.node] && heard.old_state == 0)
    hear_current(w, p, &heard);
  else if (!w->loose)
    hear_change(w, p, &heard);
  w->blocked = w->slow && chance(s, 30);
  return !w->blocked;
}

void stream_ended(sim *s, uint64_t token) {
  for (int i = 0; i < STREAMS; i++)
    if (!token || s->streams[i].token == token) s->streams[i].open = s->streams[i].blocked = false;
}

void stream_refused(sim *s, uint64_t token, tci_code code) {
  sim_stream *w = stream_of(s, token);
  w->open = false;
  if (code != TCI_UNAVAILABLE && !(w->ahead && code == TCI_OUT_OF_RANGE)) fx_fail("oracle: a stream is refused");
}

/* Everything is done: then everybody who reads has heard everything. */
void judge_streams(sim *s) {
  if (!s->shell || s->f.update.more || s->f.asleep) return;
  for (int i = 0; i < STREAMS; i++) {
    sim_stream *w = &s->streams[i];
    const sim_plan *p = &s->plans[w->plan];
    if (!w->open || w->loose || w->blocked) continue;
    for (size_t k = 0; k < p->log.len; k++)
      if (expects(w, p, k) && !(w->current && is_past(p, k)) && !has_left(w, p, k))
        wrong(w, p, &p->log.items[k], "it has not heard");
    if (w->mirrors_all) judge_mirrors(s, w);
    for (int node = 0; node < p->log_nodes && w->current; node++)
      if (!w->shown[node] && passes(w, p, node, p->logged[node].state)) fx_fail("oracle: a snapshot has a hole");
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
  event.command.watch_plan.omit_unchanged = chance(s, 30);
  event.command.watch_plan.after_sequence = w->after;
  w->open = true;
  w->ahead = w->after > p->sequence;
  w->slow = w->lags = chance(s, 30);
  w->opening = !is_quiet(s) && !w->after && !w->current;
  fx_step(&s->f, &event);
  for (size_t i = 0; i < p->log.len && w->opening; i++)
    if (expects(w, p, i)) *mark_of(w, i) = MAYBE;
  w->opening = false;
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

/* It was cut behind one of its events; whatever it has not heard by then must be behind the sequence of that event. */
static void resume(sim *s, sim_stream *w) {
  const sim_plan *p = &s->plans[w->plan];
  uint32_t cut = chance(s, 30) ? 1 + (uint32_t)pick(s, (int)w->sequences.len) : (uint32_t)w->sequences.len;
  w->after = w->sequences.items[cut - 1];
  for (size_t i = 0; i < p->log.len; i++) {
    const sim_change *c = &p->log.items[i];
    uint32_t *mark = mark_of(w, i);
    if (!(*mark & MAYBE) && *mark > cut) *mark = 0;
    bool lost = *mark == 0 && !c->reported && concerns(w, p, c) && c->sequence <= w->after &&
                !(w->current && is_past(p, i)) && !has_left(w, p, i);
    if (lost && !w->loose) wrong(w, p, c, "who resumes loses it");
    if (c->sequence > w->after) *mark = 0;
  }
  w->from = w->last = w->after;
  w->sequences.len = 0;
  mirrors_forget(w); /* what it is told again must not be added twice */
  w->current = w->loose = w->more = false;
  if (w->after) open_stream(s, w);
}

static void begin_stream(sim *s, sim_stream *w, const sim_plan *p) {
  tci_vec_free(&w->marks);
  tci_vec_free(&w->sequences);
  mirrors_forget(w);
  *w = (sim_stream){.plan = (int)(p - s->plans)};
  roll_filter(s, w);
  w->current = chance(s, 40);
  if (!w->current && chance(s, 40)) w->after = 1 + roll(s, p->sequence + 1);
  w->from = w->current ? 0 : w->after ? w->after : p->sequence;
  w->loose = w->current && (w->check_states || w->stage_states);
  w->mirrors_all = w->progress && !w->check_states && !w->stage_states;
  for (size_t i = 0; w->current && i < p->log.len; i++)
    if (is_past(p, i)) *mark_of(w, i) = MAYBE;
  open_stream(s, w);
}

void stream_is_read(sim *s, sim_stream *w) {
  if (!w->open || !w->blocked) return;
  w->blocked = false;
  shell_stream_ready(s, w->token);
}

void somebody_watches(sim *s, const sim_plan *p) {
  sim_stream *w = &s->streams[pick(s, STREAMS)];
  if (w->open && w->blocked && chance(s, 60)) {
    stream_is_read(s, w);
  } else if (w->open) {
    fx_step(&s->f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = w->token});
    w->open = w->blocked = false;
  } else if (w->sequences.len && chance(s, 70)) {
    resume(s, w);
  } else {
    begin_stream(s, w, p);
  }
}
