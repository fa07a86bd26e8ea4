/* loop: see loop.h. One wait, one turn, one commit; then effects.
 *
 * Invariants: it wakes for an item, for a timer that is due, and on the way to one now and then, to know how long it stood
 * still when it did; timers are judged only up to where everything that had arrived was stepped; a stream is ended once;
 * a lost store ends the process (crash-only: the restart recovers). What waits for a slow reader waits in the engine
 * (app/streams.h): rpc gets little at a time, and says when it has run low.
 */
#define _GNU_SOURCE 1
#include "app/loop.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/vec.h"

/* A runner's RPC in flight. */
typedef struct {
  tci_loop *loop;
  tci_str execution_id;
  tci_mode mode;
  uint64_t handle;
  tci_link unanswered; /* RunAsync, in loop->unanswered until it is given up */
  int64_t give_up_us;  /* on the engine's clock */
} runner_call;

enum {
  STORE_LOST_EXIT = 74,      /* sysexits' EX_IOERR */
  SENDING_BYTES = 256 << 10, /* what a stream may have handed to rpc and not sent yet, but for one message */
};

/* A nap is an eighth of the way to the next timer: of a standstill that begins in it at most that much goes unnoticed. */
enum { NAPS = 8, NAP_US_MIN = 50000, NAP_US_MAX = 10000000 };
/* Later than that is a standstill. A turn may take longer: a disk that is slow all the time must not slow the clock. */
enum { LATE_US = 20000, TURN_US = 250000, STANDSTILL_TOLD_US = 500000 };

#define KEY(ptr_to_u64) ((tci_str){(const char *)(ptr_to_u64), sizeof(uint64_t)})

tci_item *tci_item_new(tci_item_kind kind) {
  tci_item *item = tci_calloc(1, sizeof *item);
  item->kind = kind;
  item->arrived_us = tci_clock_mono_us();
  return item;
}

void tci_item_free(tci_item *item) {
  tci_arena_deinit(&item->arena);
  free(item);
}

void tci_loop_stir(void *arg) {
  tci_loop *loop = arg;
  if (atomic_exchange(&loop->stirred, true)) return;
  tci_item *item = tci_item_new(TCI_ITEM_EVENT);
  item->event.kind = TCI_EVENT_POLICIES; /* without policies: look at the folders */
  tci_queue_push(&loop->queue, &item->link);
}

/* ---- streams ---- */

static void stream_open(tci_loop *loop, tci_stream *stream) {
  stream->position = loop->stream_list.len;
  tci_vec_push(&loop->stream_list, stream);
  tci_map_put(&loop->streams, KEY(&stream->token), stream);
}

static void stream_end_as(tci_loop *loop, uint64_t token, tci_status status, bool at_once) {
  tci_stream *stream = tci_map_remove(&loop->streams, KEY(&token));
  if (!stream) return; /* ended before */
  tci_stream *last = loop->stream_list.items[loop->stream_list.len - 1];
  last->position = stream->position;
  tci_vec_swap_remove(&loop->stream_list, stream->position);
  if (at_once)
    tci_rpc_abort(stream->call, status);
  else
    tci_rpc_reply(stream->call, status, (tci_str){0});
  free(stream); /* no handler looks at it after the reply */
}

static void stream_end(tci_loop *loop, uint64_t token, tci_status status) { stream_end_as(loop, token, status, false); }

/* On the rpc thread: the queue below the engine has run low. */
void tci_loop_stream_sent(tci_loop *loop, tci_stream *stream, size_t pending_bytes) {
  if (pending_bytes > SENDING_BYTES / 2 || !atomic_exchange(&stream->full, false)) return;
  tci_item *item = tci_item_new(TCI_ITEM_SENT);
  item->event.token = stream->token;
  tci_queue_push(&loop->queue, &item->link);
}

/* From now on nothing that happens is missed: the watcher hears of it even when it has nothing to tell yet. */
static void stream_accepted(tci_loop *loop, uint64_t token) {
  const tci_stream *stream = tci_token_is_stream(token) ? tci_map_get(&loop->streams, KEY(&token)) : NULL;
  if (stream) tci_rpc_call_set_stream(stream->call);
}

static tci_time engine_now(const tci_loop *loop) {
  tci_time now = tci_clock_now();
  now.mono_us -= loop->stood_us;
  return now;
}

/* ---- sink ---- */

static void sink_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  tci_loop *loop = ctx;
  if (tci_token_is_stream(token))
    stream_end(loop, token, status); /* a watch that was refused */
  else
    tci_rpc_reply((tci_rpc_call *)(uintptr_t)token, status, message);
}

static void on_runner_done(void *ctx, tci_status status, tci_str message) {
  runner_call *call = ctx;
  tci_item *item = tci_item_new(TCI_ITEM_EVENT);
  tci_answer *answer = &item->event.answer;
  item->event.kind = TCI_EVENT_ANSWER;
  tci_arena_init(&item->arena, (size_t)call->loop->limits.message_arena_bytes_max);
  answer->execution_id = tci_str_copy(&item->arena, call->execution_id);
  bool too_large = tci_rpc_was_too_large(call->loop->client, status);
  answer->code = too_large ? TCI_OK : status.code;
  if (too_large)
    tci_codec_answer_unread(&call->loop->limits, &item->arena, answer);
  else if (status.code == TCI_OK)
    tci_codec_answer(call->mode, tci_str_copy(&item->arena, message), &call->loop->limits, &item->arena, answer);
  else
    answer->message = tci_str_copy(&item->arena, tci_str_from(status.message));
  tci_queue_push(&call->loop->queue, &item->link);
}

static void sink_dispatch(void *ctx, tci_str execution_id, tci_mode mode, tci_str address, const char *method,
                          tci_str request, int64_t timeout_us) {
  tci_loop *loop = ctx;
  runner_call *call = tci_calloc(1, sizeof *call);
  *call = (runner_call){.loop = loop, .execution_id = tci_str_dup(execution_id), .mode = mode};
  tci_map_put(&loop->calls, call->execution_id, call);
  tci_arena scratch = {0};
  const tci_rpc_sink sink = {.ctx = call, .on_done = on_runner_done};
  call->handle = tci_rpc_start_told(loop->client, tci_str_z(&scratch, address), method, request, timeout_us, &sink);
  tci_arena_deinit(&scratch);
  if (mode != TCI_MODE_ASYNC) return;
  call->give_up_us = engine_now(loop).mono_us + loop->limits.accept_timeout_ms * 1000;
  tci_list_push(&loop->unanswered, &call->unanswered);
}

/* Who calls back and never answers RunAsync has the work, or had it: nobody waits for that answer any more. */
static void give_up_unanswered(tci_loop *loop) {
  while (!tci_list_empty(&loop->unanswered)) {
    runner_call *call = tci_container(loop->unanswered.next, runner_call, unanswered);
    if (call->give_up_us > loop->heard_us) return;
    tci_link_remove(&call->unanswered);
    tci_rpc_cancel(loop->client, call->handle);
  }
}

static void call_free(runner_call *call) {
  if (tci_link_in(&call->unanswered)) tci_link_remove(&call->unanswered);
  tci_str_free(&call->execution_id);
  free(call);
}

static void sink_cancel(void *ctx, tci_str execution_id) {
  tci_loop *loop = ctx;
  const runner_call *call = tci_map_get(&loop->calls, execution_id);
  if (call) tci_rpc_cancel(loop->client, call->handle);
}

static bool sink_watch(void *ctx, uint64_t token, uint64_t sequence, tci_str message) {
  (void)sequence;
  tci_loop *loop = ctx;
  tci_stream *stream = tci_map_get(&loop->streams, KEY(&token));
  if (!stream) return true;
  /* Before the message goes: it may have left already when tci_rpc_send returns. */
  atomic_store(&stream->full, true);
  if (tci_rpc_send(stream->call, message) > SENDING_BYTES) return false;
  atomic_store(&stream->full, false);
  return true;
}

static void end_all_streams(tci_loop *loop, tci_status status) {
  while (loop->stream_list.len) stream_end(loop, loop->stream_list.items[loop->stream_list.len - 1]->token, status);
}

static void sink_watch_end(void *ctx, uint64_t token, tci_status status, bool at_once) {
  if (token)
    stream_end_as(ctx, token, status, at_once);
  else
    end_all_streams(ctx, status);
}

const tci_sink tci_loop_sink = {NULL, sink_reply, sink_dispatch, sink_cancel, sink_watch, sink_watch_end};

/* ---- time ---- */

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static void on_read_out(void *ctx) {
  tci_loop *loop = ctx;
  tci_queue_push(&loop->queue, &tci_item_new(TCI_ITEM_HEARD)->link);
}

/* The engine was away for so long. Its clock was, too; and before anybody is judged, the sockets are read. */
static void stood_still(tci_loop *loop, int64_t us) {
  loop->stood_us += us;
  tci_engine_note_standstill(loop->engine, us);
  if (us >= STANDSTILL_TOLD_US)
    tci_log(TCI_LOG_WARN, "standstill", "ms=%lld action=\"leases and deadlines are moved by it\"",
            (long long)(us / 1000));
  if (loop->reading_out) return;
  loop->reading_out = true;
  tci_rpc_read_out(loop->rpc, on_read_out, loop);
}

/* Monotonic; 0: there is work now; INT64_MAX: never. What is due waits until the sockets are read out. */
static int64_t due_at(const tci_loop *loop) {
  int64_t due = tci_engine_next_due_us(loop->engine);
  if (due == 0) return 0;
  if (loop->draining && !tci_list_empty(&loop->unanswered)) /* the end waits for them */
    due = min64(due, tci_container(loop->unanswered.next, runner_call, unanswered)->give_up_us);
  due = loop->reading_out || due == INT64_MAX ? INT64_MAX : due + loop->stood_us;
  return loop->draining ? min64(due, loop->drain_by_us) : due;
}

static int64_t nap_until(int64_t now_us, int64_t due_us) {
  if (due_us == INT64_MAX) return due_us;
  int64_t nap = (due_us - now_us) / NAPS;
  nap = nap < NAP_US_MIN ? NAP_US_MIN : min64(nap, NAP_US_MAX);
  return min64(due_us, now_us + nap);
}

/* Waits for items or until something is due. */
static tci_queue_item *next_items(tci_loop *loop) {
  for (;;) {
    int64_t now_us = tci_clock_mono_us(), due_us = due_at(loop);
    int64_t until_us = due_us <= now_us ? 0 : nap_until(now_us, due_us);
    tci_queue_item *items = tci_queue_take(&loop->queue, (size_t)loop->limits.turn_events_max, 0);
    if (!items && until_us) {
      tci_memory_give_back(&loop->memory, now_us); /* there is nothing else to do */
      items = tci_queue_take(&loop->queue, (size_t)loop->limits.turn_events_max, until_us);
    }
    int64_t woke_us = tci_clock_mono_us();
    if (until_us && until_us != INT64_MAX && woke_us - until_us > LATE_US) stood_still(loop, woke_us - until_us);
    if (items || due_at(loop) <= woke_us) return items;
  }
}

/* Up to when is everything known that arrived? With all of the queue taken, up to the taking (`now`); else up to when the last one
 * came that was. */
static void hear(tci_loop *loop, const tci_queue_item *taken, tci_time now) {
  size_t len = 0;
  int64_t last_us = 0;
  for (; taken; taken = taken->next, len++) {
    const tci_item *item = (const tci_item *)(const void *)taken;
    last_us = item->arrived_us;
    if (item->kind == TCI_ITEM_HEARD) loop->reading_out = false;
  }
  if (loop->reading_out) return;
  int64_t heard_us = len == (size_t)loop->limits.turn_events_max ? last_us - loop->stood_us : now.mono_us;
  if (heard_us > loop->heard_us) loop->heard_us = heard_us;
}

/* ---- the turn ---- */

static void add_event(tci_loop *loop, const tci_event *event, tci_time now) {
  tci_vec_push(&loop->events, *event);
  tci_event *added = &loop->events.items[loop->events.len - 1];
  added->now = now;
  tci_rng_bytes(&loop->rng, added->random, sizeof added->random);
}

static void begin_drain(tci_loop *loop) {
  if (loop->draining) return;
  loop->draining = true;
  loop->drain_by_us = tci_clock_mono_us() + loop->limits.drain_timeout_ms * 1000;
  tci_engine_drain(loop->engine);
  tci_log(TCI_LOG_INFO, "draining", "open_calls=%zu timeout_ms=%lld", tci_engine_open_calls(loop->engine),
          (long long)loop->limits.drain_timeout_ms);
}

/* What an item means to the loop before the engine sees its event. */
static void take(tci_loop *loop, tci_item *item, tci_time now) {
  tci_vec_push(&loop->items, item);
  if (item->kind == TCI_ITEM_DRAIN || item->kind == TCI_ITEM_LEAVE) begin_drain(loop);
  if (item->kind == TCI_ITEM_LEAVE) loop->drain_by_us = 0;
  if (item->kind == TCI_ITEM_SENT) tci_engine_stream_ready(loop->engine, item->event.token);
  if (item->kind != TCI_ITEM_EVENT) return;
  const tci_event *event = &item->event;
  if (event->kind == TCI_EVENT_POLICIES) atomic_store(&loop->stirred, false); /* before the folders are looked at */
  if (event->kind == TCI_EVENT_COMMAND && tci_token_is_stream(event->token)) stream_open(loop, item->stream);
  if (event->kind == TCI_EVENT_ANSWER) {
    runner_call *call = tci_map_remove(&loop->calls, event->answer.execution_id);
    if (call) call_free(call);
  }
  add_event(loop, event, now);
}

static void after_turn(tci_loop *loop) {
  size_t event = 0, kept = 0;
  for (size_t i = 0; i < loop->items.len; i++) {
    tci_item *item = loop->items.items[i];
    if (item->kind == TCI_ITEM_EVENT && loop->later.items[event++]) {
      loop->items.items[kept++] = item;
      continue;
    }
    if (item->kind == TCI_ITEM_EVENT && item->event.kind == TCI_EVENT_UNWATCH)
      stream_end(loop, item->event.token, (tci_status){TCI_CANCELLED, "the watcher went away"});
    if (item->kind == TCI_ITEM_EVENT && item->event.kind == TCI_EVENT_COMMAND) {
      atomic_fetch_sub(&loop->queued, 1);
      stream_accepted(loop, item->event.token);
    }
    tci_item_free(item);
  }
  loop->items.len = kept;
  loop->events.len = 0;
}

/* Calls end before their answers are committed, and the other way round: a runner may have called back before. */
static bool drained(const tci_loop *loop) {
  return loop->draining &&
         ((tci_engine_open_calls(loop->engine) == 0 && loop->calls.len == 0 && loop->items.len == 0) ||
          tci_clock_mono_us() >= loop->drain_by_us);
}

static void turn(tci_loop *loop, tci_queue_item *taken) {
  int64_t start_us = tci_clock_mono_us(), cpu_us = tci_clock_thread_cpu_us();
  tci_time now = engine_now(loop);
  for (size_t i = 0; i < loop->items.len; i++) add_event(loop, &loop->items.items[i]->event, now);
  if (!loop->behind) hear(loop, taken, now);
  while (taken) {
    tci_item *item = (tci_item *)(void *)taken;
    taken = taken->next;
    take(loop, item, now);
  }
  if (loop->events.len == 0 || tci_engine_next_due_us(loop->engine) <= loop->heard_us)
    add_event(loop, &(tci_event){.kind = TCI_EVENT_TICK, .heard_us = loop->heard_us}, now);
  tci_vec_reserve(&loop->later, loop->events.len);
  size_t looked_at, len = loop->events.len;
  tci_status status = tci_engine_turn_some(loop->engine, loop->events.items, len, loop->later.items, &looked_at);
  loop->behind = looked_at < len;
  if (status.code != TCI_OK) {
    tci_log(TCI_LOG_ERROR, "store_lost", "code=%s error=\"%s\" action=\"exit; a restart recovers\"",
            tci_code_name(status.code), status.message);
    _exit(STORE_LOST_EXIT); /* nothing of this process may touch the file again */
  }
  int64_t took_us = tci_clock_mono_us() - start_us;
  tci_engine_note_turn(loop->engine, took_us, tci_clock_thread_cpu_us() - cpu_us);
  after_turn(loop);
  give_up_unanswered(loop);
  if (took_us > TURN_US) stood_still(loop, took_us - TURN_US);
}

/* A command that the engine never saw. */
static void refuse(const tci_item *item, tci_status why) {
  tci_rpc_reply(item->call, why, (tci_str){0});
  free(item->stream);
}

static void turn_away(tci_loop *loop, tci_queue_item *at, tci_status why) {
  while (at) {
    tci_item *item = (tci_item *)(void *)at;
    at = at->next;
    if (item->kind == TCI_ITEM_HEARD) loop->reading_out = false;
    if (item->kind == TCI_ITEM_EVENT && item->event.kind == TCI_EVENT_COMMAND) refuse(item, why);
    if (item->kind == TCI_ITEM_EVENT && item->event.kind == TCI_EVENT_ANSWER) {
      runner_call *call = tci_map_remove(&loop->calls, item->event.answer.execution_id);
      if (call) call_free(call);
    }
    tci_item_free(item);
  }
}

/* Requests that came while the loop was ending still get an answer; nobody reads out for it any more. Of those that a turn had
 * put off, the streams were ended with the others. */
static void turn_away_the_rest(tci_loop *loop) {
  const tci_status stopped = {TCI_UNAVAILABLE, "the server has stopped"};
  for (size_t i = 0; i < loop->items.len; i++) {
    tci_item *item = loop->items.items[i];
    if (item->event.kind == TCI_EVENT_COMMAND && !tci_token_is_stream(item->event.token))
      tci_rpc_reply(item->call, stopped, (tci_str){0});
    tci_item_free(item);
  }
  loop->items.len = 0;
  for (tci_queue_item *at; (at = tci_queue_take(&loop->queue, SIZE_MAX, loop->reading_out ? INT64_MAX : 0));)
    turn_away(loop, at, stopped);
}

void tci_loop_run(tci_loop *loop) {
  pthread_setname_np(pthread_self(), "tci-engine"); /* for people, and for the spec that counts its wake-ups */
  while (!drained(loop)) turn(loop, loop->behind ? NULL : next_items(loop));
  end_all_streams(loop,
                  (tci_status){TCI_UNAVAILABLE, "the server is stopping; resume with after_sequence when it is back"});
  turn_away_the_rest(loop);
  tci_engine_counters c = tci_engine_count(loop->engine);
  tci_log(TCI_LOG_INFO, "stopped", "turns=%lld longest_turn_cpu_us=%lld turns_over_budget=%lld", (long long)c.turns,
          (long long)c.longest_turn_cpu_us, (long long)c.turns_over_budget);
}

void tci_loop_deinit(tci_loop *loop) {
  turn_away_the_rest(loop);
  tci_engine_close(loop->engine);
  tci_queue_deinit(&loop->queue);
  tci_map_deinit(&loop->streams);
  tci_map_deinit(&loop->calls);
  tci_vec_free(&loop->stream_list);
  tci_vec_free(&loop->events);
  tci_vec_free(&loop->later);
  tci_vec_free(&loop->items);
}
