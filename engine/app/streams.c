/* streams: see streams.h. A stream is in one of four states, of which the core knows three (core.h):
 *
 *     LIVE    steps tell it; what the sink does not take waits in its queue
 *     OWED    besides, there are nodes to be told when there is room
 *     AWAY    a replay reads the journal for it, when there is room
 *     ended   it was too slow: more than half of watch_buffer_bytes_max of earlier turns waits, and now the rest is full
 *
 * A stream whose queue runs over with what one turn said (its reader had kept up before) goes AWAY: the journal has it all.
 * Replays are few (watch_resumes_max): each is a model of its own. One whose reader takes nothing is put off when another
 * stream wants its place, and begins anew later.
 */
#include "app/streams.h"

#include <string.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/log.h"
#include "base/vec.h"
#include "rpc/codec.h"

enum {
  SLICE_BYTES = 256 << 10,  /* read for one stream before it is another one's turn */
  BEHIND_BYTES = 256 << 10, /* a stream for which so much waits is shown nodes that do not move once, later */
};

/* An encoded event, shared by the streams that are sent it. */
typedef struct {
  size_t refs, len;
  char bytes[];
} blob;

/* A blob on its way to a stream. */
typedef struct {
  uint64_t token, sequence;
  bool more;
  blob *body;
} parcel;

typedef struct {
  uint64_t token;
  size_t position; /* in `list` */
  tci_link runnable;
  TCI_VEC(parcel) queue;
  size_t first;          /* of the queue: what is before it is sent */
  size_t waiting_bytes;  /* in the queue */
  size_t handed_bytes;   /* taken by the sink since it was last known to be empty, about */
  size_t turn_bytes;     /* collected in this turn */
  size_t carried_bytes;  /* in the queue when this turn's came */
  uint64_t sent, queued; /* sequences of the last event handed over, and of the last one in the queue */
  bool blocked;          /* the sink takes no more */
  uint64_t blocked_turn;
  bool behind; /* as the core was told */
  bool away;
  uint64_t after; /* away: everything up to here is sent or queued */
  tci_replay *replay;
} stream;

struct tci_streams {
  const tci_limits *limits;
  const tci_sink *sink;
  tci_store *store;
  tci_map streams;
  TCI_VEC(stream *) list;
  tci_link runnable; /* OWED or AWAY, and the sink takes more */
  size_t runnable_len;
  size_t replays;
  TCI_VEC(tci_replay *) leaving; /* replays that are over: large models, freed in pieces */
  size_t total_bytes;            /* waiting and handed, of all */
  uint64_t turn;
  TCI_VEC(parcel) parcels; /* of the turn */
  tci_update update;       /* of what is owed or replayed */
  tci_buf scratch;
};

#define KEY(ptr_to_u64) ((tci_str){(const char *)(ptr_to_u64), sizeof(uint64_t)})

/* ---- blobs ---- */

static void blob_release(blob *b) {
  if (--b->refs == 0) free(b);
}

static blob *encode(tci_streams *s, const tci_watch_event *event) {
  tci_buf_clear(&s->scratch);
  tci_codec_watch_event(event, SIZE_MAX, &s->scratch);
  size_t most = (size_t)s->limits->watch_event_bytes_max;
  if (s->scratch.len > most) {
    tci_buf_clear(&s->scratch);
    tci_codec_watch_event(event, most, &s->scratch);
  }
  blob *b = tci_malloc(sizeof *b + s->scratch.len);
  *b = (blob){.refs = 1, .len = s->scratch.len};
  memcpy(b->bytes, s->scratch.ptr, b->len);
  return b;
}

/* ---- life ---- */

tci_streams *tci_streams_new(const tci_limits *limits, const tci_sink *sink, tci_store *store) {
  tci_streams *s = tci_calloc(1, sizeof *s);
  *s = (tci_streams){.limits = limits, .sink = sink, .store = store};
  tci_list_init(&s->runnable);
  return s;
}

void tci_streams_free(tci_streams *s) {
  if (!s) return;
  tci_streams_forget(s);
  tci_streams_close_all(s);
  tci_map_deinit(&s->streams);
  for (size_t i = 0; i < s->leaving.len; i++) tci_replay_free(s->leaving.items[i]);
  tci_vec_free(&s->leaving);
  tci_vec_free(&s->list);
  tci_vec_free(&s->parcels);
  tci_update_deinit(&s->update);
  tci_buf_deinit(&s->scratch);
  free(s);
}

static stream *find(const tci_streams *s, uint64_t token) { return tci_map_get(&s->streams, KEY(&token)); }

static void rest(tci_streams *s, stream *st) {
  if (!tci_link_in(&st->runnable)) return;
  tci_link_remove(&st->runnable);
  s->runnable_len--;
}

static void replay_end(tci_streams *s, stream *st) {
  if (!st->replay) return;
  s->replays--;
  tci_vec_push(&s->leaving, st->replay);
  st->replay = NULL;
}

/* What is to be done for a stream that the sink takes more on. */
static void schedule(tci_streams *s, tci_core *core, stream *st) {
  if (st->blocked || tci_link_in(&st->runnable)) return;
  if (tci_core_watch_state(core, st->token) == TCI_WATCH_LIVE) {
    if (st->behind) tci_core_watch_behind(core, st->token, false);
    st->behind = false;
    return;
  }
  tci_list_push(&s->runnable, &st->runnable);
  s->runnable_len++;
}

void tci_streams_open(tci_streams *s, tci_core *core, uint64_t token) {
  stream *st = tci_calloc(1, sizeof *st);
  st->token = token;
  st->position = s->list.len;
  st->sent = st->queued = st->after = tci_core_watch_told(core, token);
  st->away = tci_core_watch_state(core, token) == TCI_WATCH_AWAY;
  tci_vec_push(&s->list, st);
  tci_map_put(&s->streams, KEY(&st->token), st);
  schedule(s, core, st);
}

void tci_streams_close(tci_streams *s, uint64_t token) {
  stream *st = tci_map_remove(&s->streams, KEY(&token));
  if (!st) return;
  stream *last = s->list.items[s->list.len - 1];
  last->position = st->position;
  tci_vec_swap_remove(&s->list, st->position);
  rest(s, st);
  replay_end(s, st);
  s->total_bytes -= st->waiting_bytes + st->handed_bytes;
  for (size_t i = st->first; i < st->queue.len; i++) blob_release(st->queue.items[i].body);
  tci_vec_free(&st->queue);
  free(st);
}

void tci_streams_close_all(tci_streams *s) {
  while (s->list.len) tci_streams_close(s, s->list.items[s->list.len - 1]->token);
}

static void end_as(tci_streams *s, tci_core *core, stream *st, tci_status status, bool at_once) {
  uint64_t token = st->token;
  tci_streams_close(s, token);
  tci_core_unwatch(core, token);
  s->sink->watch_end(s->sink->ctx, token, status, at_once);
}

/* The engine ends it: the reader is told why, and that what it has not been sent is still there. */
static void end(tci_streams *s, tci_core *core, stream *st, tci_code code, const char *why) {
  tci_arena arena = {0};
  const char *text = tci_fmt(&arena, "%s; resume with after_sequence=%llu", why, (unsigned long long)st->sent);
  end_as(s, core, st, (tci_status){code, text}, false);
  tci_arena_deinit(&arena);
}

/* ---- the queue of a stream ---- */

/* Hands over what the sink takes. */
static void pump(tci_streams *s, stream *st) {
  while (!st->blocked && st->first < st->queue.len) {
    parcel p = st->queue.items[st->first++];
    tci_buf_clear(&s->scratch);
    tci_buf_add(&s->scratch, (tci_str){p.body->bytes, p.body->len});
    tci_codec_watch_place(p.sequence, p.more, &s->scratch);
    st->sent = p.sequence;
    st->waiting_bytes -= p.body->len;
    st->handed_bytes += p.body->len;
    blob_release(p.body);
    st->blocked = !s->sink->watch(s->sink->ctx, st->token, p.sequence, tci_buf_str(&s->scratch));
    if (st->blocked) {
      st->blocked_turn = s->turn;
    } else {
      s->total_bytes -= st->handed_bytes;
      st->handed_bytes = 0;
    }
  }
  if (st->first == st->queue.len) st->first = st->queue.len = 0;
}

/* Takes over the caller's reference. */
static void push(tci_streams *s, stream *st, parcel p) {
  if (st->first > st->queue.len / 2) { /* what is sent gives its place */
    st->queue.len -= st->first;
    memmove(st->queue.items, st->queue.items + st->first, st->queue.len * sizeof *st->queue.items);
    st->first = 0;
  }
  tci_vec_push(&st->queue, p);
  st->waiting_bytes += p.body->len;
  s->total_bytes += p.body->len;
  st->queued = p.sequence;
  pump(s, st);
}

/* Makes room for all: those go whose readers have taken nothing for longest. */
static void bound_total(tci_streams *s, tci_core *core) {
  while (s->total_bytes > (size_t)s->limits->watch_total_bytes_max) {
    stream *slowest = NULL;
    for (size_t i = 0; i < s->list.len; i++) {
      stream *st = s->list.items[i];
      if (st->blocked && (!slowest || st->blocked_turn < slowest->blocked_turn)) slowest = st;
    }
    if (!slowest) return;
    const tci_status status = {TCI_RESOURCE_EXHAUSTED,
                               "more than watch_total_bytes_max wait for all watchers, and this one has taken nothing "
                               "for longest; resume after the last event that arrived"};
    end_as(s, core, slowest, status, true); /* for the memory's sake */
  }
}

void tci_streams_ready(tci_streams *s, tci_core *core, uint64_t token) {
  stream *st = find(s, token);
  if (!st) return;
  st->blocked = false;
  s->total_bytes -= st->handed_bytes;
  st->handed_bytes = 0;
  pump(s, st);
  schedule(s, core, st);
}

/* ---- what steps tell ---- */

static bool is_same(const tci_watch_event *a, const tci_watch_event *b) {
  return (a->check || a->stage) && a->check == b->check && a->stage == b->stage && a->old_state == b->old_state &&
         a->omitted == b->omitted;
}

void tci_streams_collect(tci_streams *s, tci_core *core, const tci_update *update) {
  /* The last two different ones: whole and partial copies of a node alternate. */
  const tci_watch_event *events[2] = {NULL, NULL};
  blob *bodies[2] = {NULL, NULL};
  size_t oldest = 0;
  for (size_t i = 0; i < update->effects.len; i++) {
    if (update->effects.items[i].kind != TCI_EFFECT_WATCH) continue;
    const tci_watch_event *event = &update->effects.items[i].watch;
    stream *st = find(s, update->effects.items[i].token);
    if (!st) continue;
    size_t slot = bodies[0] && is_same(events[0], event) ? 0 : bodies[1] && is_same(events[1], event) ? 1 : oldest;
    bool again = bodies[slot] && is_same(events[slot], event);
    if (!again) {
      bodies[slot] = encode(s, event);
      events[slot] = event;
      oldest = 1 - slot;
    } else {
      bodies[slot]->refs++;
    }
    tci_vec_push(&s->parcels, ((parcel){st->token, event->sequence, event->more, bodies[slot]}));
    st->turn_bytes += bodies[slot]->len;
    if (st->behind || st->waiting_bytes + st->turn_bytes <= BEHIND_BYTES) continue;
    st->behind = true;
    tci_core_watch_behind(core, st->token, true);
  }
}

/* The queue has no room for `bytes` more. */
static void overflow(tci_streams *s, tci_core *core, stream *st) {
  bool slow = st->carried_bytes > (size_t)s->limits->watch_buffer_bytes_max / 2;
  if (slow || tci_core_watch_state(core, st->token) != TCI_WATCH_LIVE) {
    end(s, core, st, TCI_RESOURCE_EXHAUSTED, "the watcher is too slow: more than watch_buffer_bytes_max wait for it");
    return;
  }
  st->away = true;
  st->after = st->queued;
  tci_core_watch_leave(core, st->token, st->after);
}

void tci_streams_release(tci_streams *s, tci_core *core) {
  s->turn++;
  for (size_t i = 0; i < s->parcels.len; i++) {
    stream *st = find(s, s->parcels.items[i].token);
    if (st && st->turn_bytes) {
      st->carried_bytes = st->waiting_bytes;
      st->turn_bytes = 0;
    }
  }
  for (size_t i = 0; i < s->parcels.len; i++) {
    parcel p = s->parcels.items[i];
    stream *st = find(s, p.token);
    bool full = st && st->waiting_bytes && st->waiting_bytes + p.body->len > (size_t)s->limits->watch_buffer_bytes_max;
    if (full && !st->away) overflow(s, core, st);
    st = find(s, p.token);
    if (!st || st->away) {
      blob_release(p.body);
      if (st) schedule(s, core, st);
      continue;
    }
    push(s, st, p);
    if (st->behind) schedule(s, core, st);
  }
  s->parcels.len = 0;
  bound_total(s, core);
}

void tci_streams_forget(tci_streams *s) {
  for (size_t i = 0; i < s->parcels.len; i++) {
    stream *st = find(s, s->parcels.items[i].token);
    if (st) st->turn_bytes = 0;
    blob_release(s->parcels.items[i].body);
  }
  s->parcels.len = 0;
}

/* ---- what is owed, and what was missed ---- */

typedef struct {
  tci_streams *s;
  tci_core *core;
  stream *st;
  size_t changes; /* left, of the turn */
  size_t bytes;   /* left, of the turn */
  size_t slice;   /* left, of this stream */
  bool crowded;   /* there is no place for another replay in this turn */
  tci_status status;
} budget;

static bool may_go_on(const budget *b) { return !b->st->blocked && b->changes && b->bytes && b->slice; }

static void spend(size_t *left, size_t bytes) { *left -= bytes < *left ? bytes : *left; }

static void send_update(budget *b) {
  tci_streams *s = b->s;
  for (size_t i = 0; i < s->update.effects.len; i++) {
    const tci_watch_event *event = &s->update.effects.items[i].watch;
    blob *body = encode(s, event);
    spend(&b->bytes, body->len + 1);
    spend(&b->slice, body->len + 1);
    push(s, b->st, (parcel){b->st->token, event->sequence, event->more, body});
  }
}

static void tell_owed(budget *b) {
  bool more = true;
  while (more && may_go_on(b)) {
    more = tci_core_watch_more(b->core, b->st->token, &b->changes, &b->s->update);
    send_update(b);
  }
}

/* Applies what is left of the present record. */
static void replay_record(budget *b) {
  stream *st = b->st;
  while (b->status.code == TCI_OK && may_go_on(b) && !tci_replay_is_used_up(st->replay)) {
    b->status = tci_replay_more(st->replay, &b->changes, &b->s->update);
    if (b->status.code != TCI_OK) return;
    send_update(b);
    st->after = tci_replay_sequence(st->replay) > st->after ? tci_replay_sequence(st->replay) : st->after;
  }
}

static bool replay_one(void *ctx, const tci_store_record *r) {
  budget *b = ctx;
  const tci_record record = {r->plan_key, r->sequence, r->bytes, r->plan_id, r->settled};
  b->status = tci_replay_feed(b->st->replay, &record);
  replay_record(b);
  return b->status.code == TCI_OK && may_go_on(b) && tci_replay_is_used_up(b->st->replay);
}

/* A place for one more replay. False: all are taken by streams that make use of them. */
static bool take_place(tci_streams *s, const tci_core *core, stream *st) {
  for (size_t i = 0; s->replays >= (size_t)s->limits->watch_resumes_max && i < s->list.len; i++)
    if (s->list.items[i]->blocked) replay_end(s, s->list.items[i]);
  size_t most = (size_t)s->limits->watch_resumes_max;
  if (s->replays >= most || s->leaving.len >= most) return false; /* what leaves takes memory too, for a few turns */
  st->replay = tci_replay_new(core, st->token, st->after);
  s->replays++;
  return true;
}

static void read_missed(budget *b) {
  stream *st = b->st;
  /* To look for a place is to look at all streams: not for each of very many that resume at once. */
  if (!st->replay && !b->crowded) b->crowded = !take_place(b->s, b->core, st);
  if (!st->replay) return;
  const tci_plan *plan = tci_core_watch_plan(b->core, st->token);
  replay_record(b);
  if (b->status.code == TCI_OK && may_go_on(b) && tci_replay_sequence(st->replay) < plan->sequence) {
    tci_status read = tci_store_load_after(b->s->store, plan->key, tci_replay_sequence(st->replay), replay_one, b);
    if (b->status.code == TCI_OK) b->status = read;
  }
  if (b->status.code != TCI_OK || !tci_replay_is_used_up(st->replay) ||
      tci_replay_sequence(st->replay) != plan->sequence)
    return;
  replay_end(b->s, st);
  st->away = false;
  tci_core_watch_join(b->core, st->token);
}

/* A journal that cannot be read: the others go on. */
static void unreadable(budget *b) {
  tci_log(TCI_LOG_ERROR, "watch_unreadable", "code=%s error=\"%s\"", tci_code_name(b->status.code), b->status.message);
  end(b->s, b->core, b->st, b->status.code == TCI_DATA_LOSS ? TCI_DATA_LOSS : TCI_UNAVAILABLE, b->status.message);
}

/* Small ones are gone at once, so that they keep nobody from a place; of a large one a piece goes. */
static void shrink(tci_streams *s) {
  while (s->leaving.len && !tci_replay_shrink(s->leaving.items[s->leaving.len - 1]))
    tci_replay_free(s->leaving.items[--s->leaving.len]);
}

void tci_streams_work(tci_streams *s, tci_core *core) {
  shrink(s);
  budget b = {.s = s,
              .core = core,
              .changes = (size_t)s->limits->watch_turn_changes_max,
              .bytes = (size_t)s->limits->watch_turn_bytes_max};
  for (size_t n = s->runnable_len; n && s->runnable_len && b.changes && b.bytes; n--) {
    b.st = tci_container(s->runnable.next, stream, runnable);
    b.slice = SLICE_BYTES;
    b.status = TCI_STATUS_OK;
    rest(s, b.st);
    if (b.st->away)
      read_missed(&b);
    else
      tell_owed(&b);
    if (b.status.code == TCI_OK)
      schedule(s, core, b.st);
    else
      unreadable(&b);
    bound_total(s, core);
  }
}

bool tci_streams_is_due(const tci_streams *s) { return s->runnable_len > 0 || s->leaving.len > 0; }
