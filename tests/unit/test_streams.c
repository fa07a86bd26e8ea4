/* streams: who starts or resumes is read for as fast as it takes, in pieces, within the budget of a turn; what waits is bounded, for
 * each and for all; of a node that does not move a slow reader is shown the last, and no move is ever left out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/engine.h"
#include "base/log.h"
#include "core_fixture.h"
#include "turboci/v1/service.pb-c.h"

enum { TOKENS = 16, EVENTS = 4000 };

/* What a reader remembers of an event. */
typedef struct {
  uint64_t sequence;
  size_t bytes, results, omitted;
  int old_state, new_state;
  bool more;
  char id[12]; /* empty: completed */
} seen;

typedef struct {
  seen events[EVENTS];
  size_t len, bytes;
  long room; /* messages it takes before it is full; -1: never full */
  tci_code ended;
  char why[300];
} reader;

typedef struct {
  tci_engine *engine;
  tci_engine_options options;
  tci_time now;
  uint64_t turns;
  tci_arena arena;
  tci_code code; /* of the last reply */
  reader readers[TOKENS];
} world;

static void failed(const char *message) { fail_msg("%s", message); }

/* ---- the sink ---- */

static void on_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  (void)token, (void)message;
  ((world *)ctx)->code = status.code;
}

static void on_dispatch(void *ctx, tci_str id, tci_mode mode, tci_str address, const char *method, tci_str request,
                        int64_t us) {
  (void)ctx, (void)id, (void)mode, (void)address, (void)method, (void)request, (void)us;
}

static void on_cancel(void *ctx, tci_str id) { (void)ctx, (void)id; }

static bool on_watch(void *ctx, uint64_t token, uint64_t sequence, tci_str message) {
  reader *r = &((world *)ctx)->readers[token];
  Turboci__V1__WorkPlanEvent *m = turboci__v1__work_plan_event__unpack(NULL, message.len, (const uint8_t *)message.ptr);
  assert_non_null(m);
  assert_int_equal(m->sequence, sequence);
  assert_true(r->len < EVENTS && r->ended == TCI_OK);
  assert_int_not_equal(r->room, 0); /* it was told to wait */
  if (r->len) assert_true(sequence >= r->events[r->len - 1].sequence);
  seen *e = &r->events[r->len++];
  *e = (seen){.sequence = sequence, .bytes = message.len, .more = m->more_current};
  r->bytes += message.len;
  if (m->check_event) {
    snprintf(e->id, sizeof e->id, "%s", m->check_event->check_id);
    e->old_state = (int)m->check_event->old_state;
    e->new_state = (int)m->check_event->new_state;
    e->results = m->check_event->check->n_results;
    e->omitted = m->check_event->check->n_omitted_fields;
  }
  turboci__v1__work_plan_event__free_unpacked(m, NULL);
  return r->room < 0 || --r->room > 0;
}

static void on_watch_end(void *ctx, uint64_t token, tci_status status, bool at_once) {
  (void)at_once;
  reader *r = &((world *)ctx)->readers[token];
  r->ended = status.code;
  snprintf(r->why, sizeof r->why, "%s", status.message);
}

/* ---- the world ---- */

static int setup(void **state) {
  world *w = calloc(1, sizeof *w);
  *state = w;
  fx_on_failure = failed;
  w->now = (tci_time){.mono_us = 1000000, .wall_us = 1700000000000000};
  w->options = (tci_engine_options){
      .limits = tci_limits_default(), .store = {.path = ":memory:"}, .callback_address = "", .version = "test"};
  for (int i = 0; i < TOKENS; i++) w->readers[i].room = -1;
  return 0;
}

static int teardown(void **state) {
  world *w = *state;
  tci_engine_close(w->engine);
  tci_arena_deinit(&w->arena);
  free(w);
  return 0;
}

static void turn(world *w, tci_event *events, size_t len) {
  w->now.mono_us += 1000;
  w->now.wall_us += 1000;
  for (size_t i = 0; i < len; i++) {
    events[i].now = w->now;
    uint64_t key[2] = {w->turns++, i};
    memcpy(events[i].random, key, sizeof key);
  }
  assert_int_equal(tci_engine_turn(w->engine, events, len).code, TCI_OK);
}

static void one(world *w, tci_event event) {
  w->code = TCI_OK;
  turn(w, &event, 1);
  assert_int_equal(w->code, TCI_OK);
}

static void tick(world *w) { one(w, (tci_event){.kind = TCI_EVENT_TICK}); }

static tci_event command(uint64_t token, tci_command cmd) {
  return (tci_event){.kind = TCI_EVENT_COMMAND, .token = token, .command = cmd};
}

static tci_event writes(world *w, tci_str plan, const char *text) {
  return command(2, fx_parse_write(&w->arena, plan, text));
}

static void write_one(world *w, tci_str plan, const char *text) { one(w, writes(w, plan, text)); }

static tci_str begin(world *w) {
  const tci_sink sink = {w, on_reply, on_dispatch, on_cancel, on_watch, on_watch_end};
  char message[300] = "";
  const uint8_t random[32] = {1};
  if (tci_engine_open(&w->options, &sink, w->now, &w->engine, message, sizeof message).code != TCI_OK)
    fail_msg("%s", message);
  assert_int_equal(tci_engine_start(w->engine, w->now, random).code, TCI_OK);
  one(w, command(2, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN}));
  return tci_engine_core(w->engine)->plan_list.items[0]->id;
}

static tci_event watches(uint64_t token, tci_str plan, bool current, uint64_t after) {
  tci_command cmd = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = plan};
  cmd.watch_plan.filter.include_checks = true;
  cmd.watch_plan.include_current = current;
  cmd.watch_plan.after_sequence = after;
  return command(token, cmd);
}

/* "@cN opt=k:VVV" with so many bytes of V, for N of [from, to). */
static const char *checks(world *w, int from, int to, int bytes) {
  tci_buf text = {0};
  for (int i = from; i < to; i++) {
    tci_buf_add(&text, tci_str_from(tci_fmt(&w->arena, "%s@c%d opt=k:", i > from ? "; " : "", i)));
    for (int n = 0; n < bytes; n++) tci_buf_byte(&text, 'v');
  }
  const char *copy = tci_str_z(&w->arena, tci_buf_str(&text));
  tci_buf_deinit(&text);
  return copy;
}

static bool is_due(const world *w) { return tci_engine_next_due_us(w->engine) <= w->now.mono_us; }

static void settle(world *w) {
  for (int i = 0; is_due(w); i++) {
    if (i == 10000) fail_msg("it does not come to rest");
    tick(w);
  }
}

static void takes(world *w, uint64_t token, long room) {
  w->readers[token].room = room;
  tci_engine_stream_ready(w->engine, token);
}

/* All there is, a message at a time. */
static void drain(world *w, uint64_t token) {
  size_t before;
  do {
    before = w->readers[token].len;
    takes(w, token, 1);
    settle(w);
  } while (w->readers[token].len > before);
}

/* ---- starting ---- */

static void a_snapshot_is_told_as_fast_as_it_is_taken(void **state) {
  world *w = *state;
  tci_str plan = begin(w);
  for (int i = 0; i < 50; i += 10) write_one(w, plan, checks(w, i, i + 10, 2000));
  reader *r = &w->readers[3];
  r->room = 1;
  one(w, watches(3, plan, true, 0));
  settle(w); /* at rest: it is the reader's turn */
  assert_int_equal(r->len, 1);
  for (size_t n = 2; n <= 50; n++) {
    takes(w, 3, 1);
    settle(w);
    assert_int_equal(r->len, n);
    assert_int_equal(r->events[n - 1].more, n < 50);
  }
  takes(w, 3, -1);
  write_one(w, plan, "@c7 state=FINAL");
  assert_int_equal(r->len, 51);
  assert_string_equal(r->events[50].id, "c7");
}

static void a_turn_tells_its_share_and_no_more(void **state) {
  world *w = *state;
  w->options.limits.watch_turn_bytes_max = 10000;
  tci_str plan = begin(w);
  write_one(w, plan, checks(w, 0, 30, 3000));
  for (uint64_t token = 3; token < 8; token++) one(w, watches(token, plan, true, 0));
  while (is_due(w)) {
    size_t before = 0, after = 0;
    for (int i = 0; i < TOKENS; i++) before += w->readers[i].bytes;
    tick(w);
    for (int i = 0; i < TOKENS; i++) after += w->readers[i].bytes;
    assert_true(after - before < 10000 + 3200);
  }
  for (uint64_t token = 3; token < 8; token++) assert_int_equal(w->readers[token].len, 30);
}

static void a_node_that_is_too_large_comes_without_what_is_large(void **state) {
  world *w = *state;
  w->options.limits.watch_event_bytes_max = 1000;
  tci_str plan = begin(w);
  one(w, watches(3, plan, false, 0));
  write_one(w, plan, checks(w, 0, 1, 100));
  write_one(w, plan, checks(w, 1, 2, 5000));
  reader *r = &w->readers[3];
  assert_int_equal(r->len, 2);
  assert_int_equal(r->events[0].omitted, 0);
  assert_true(r->events[1].omitted > 0 && r->events[1].bytes < 1000);
  assert_string_equal(r->events[1].id, "c1");
}

/* ---- resuming ---- */

static void same_events(const reader *live, const reader *resumed, uint64_t after) {
  size_t i = 0;
  while (i < live->len && live->events[i].sequence <= after) i++;
  assert_int_equal(resumed->len, live->len - i);
  for (size_t k = 0; k < resumed->len; k++) {
    assert_int_equal(resumed->events[k].sequence, live->events[i + k].sequence);
    assert_string_equal(resumed->events[k].id, live->events[i + k].id);
    assert_int_equal(resumed->events[k].new_state, live->events[i + k].new_state);
  }
}

static void a_journal_is_read_in_pieces_and_joins_what_goes_on(void **state) {
  world *w = *state;
  w->options.limits.watch_turn_changes_max = 8;
  tci_str plan = begin(w);
  one(w, watches(3, plan, false, 0));
  for (int i = 0; i < 100; i += 25) write_one(w, plan, checks(w, i, i + 25, 5));
  write_one(w, plan, "@c1 result=me:1 data=k:v; @c2 state=FINAL");
  one(w, watches(4, plan, false, 30));
  for (int i = 100; i < 110; i++) { /* while it reads, things go on */
    assert_true(is_due(w));
    write_one(w, plan, checks(w, i, i + 1, 5));
  }
  settle(w);
  write_one(w, plan, "@c3 state=FINAL");
  assert_int_equal(w->readers[4].events[0].sequence, 31);
  same_events(&w->readers[3], &w->readers[4], 30);
}

static void few_journals_are_read_at_once(void **state) {
  world *w = *state;
  w->options.limits.watch_resumes_max = 1;
  tci_str plan = begin(w);
  one(w, watches(3, plan, false, 0));
  for (int i = 0; i < 60; i += 20) write_one(w, plan, checks(w, i, i + 20, 5));
  w->readers[4].room = 7; /* takes the only place, and then nothing */
  one(w, watches(4, plan, false, 1));
  settle(w);
  assert_int_equal(w->readers[4].len, 7);
  for (uint64_t token = 5; token < 8; token++) one(w, watches(token, plan, false, 1));
  settle(w); /* the others are not kept waiting */
  for (uint64_t token = 5; token < 8; token++) same_events(&w->readers[3], &w->readers[token], 1);
  drain(w, 4);
  same_events(&w->readers[3], &w->readers[4], 1);
}

static void who_leaves_while_its_journal_is_read_is_forgotten(void **state) {
  world *w = *state;
  w->options.limits.watch_turn_changes_max = 3;
  tci_str plan = begin(w);
  write_one(w, plan, checks(w, 0, 30, 5));
  one(w, watches(3, plan, false, 1));
  one(w, watches(4, plan, true, 0));
  assert_true(is_due(w));
  one(w, (tci_event){.kind = TCI_EVENT_UNWATCH, .token = 3});
  one(w, (tci_event){.kind = TCI_EVENT_UNWATCH, .token = 4});
  assert_false(is_due(w));
  takes(w, 3, 1); /* late */
}

/* ---- slow readers ---- */

static void who_kept_up_reads_what_one_turn_said_from_the_journal(void **state) {
  world *w = *state;
  w->options.limits.watch_buffer_bytes_max = 2000;
  tci_str plan = begin(w);
  one(w, watches(4, plan, false, 0));
  w->readers[3].room = 1;
  one(w, watches(3, plan, false, 0));
  write_one(w, plan, checks(w, 0, 100, 20)); /* all at once: far more than the buffer */
  assert_int_equal(w->readers[3].len, 1);
  assert_int_equal(w->readers[3].ended, TCI_OK);
  write_one(w, plan, checks(w, 100, 110, 20));
  drain(w, 3);
  same_events(&w->readers[4], &w->readers[3], 0);
  takes(w, 3, -1);
  write_one(w, plan, "@c5 state=FINAL");
  same_events(&w->readers[4], &w->readers[3], 0);
}

static void who_is_too_slow_is_ended_and_told_where_to_go_on(void **state) {
  world *w = *state;
  w->options.limits.watch_buffer_bytes_max = 2000;
  tci_str plan = begin(w);
  one(w, watches(4, plan, false, 0));
  reader *r = &w->readers[3];
  r->room = 3;
  one(w, watches(3, plan, false, 0));
  for (int i = 0; i < 40; i++) write_one(w, plan, checks(w, i, i + 1, 20));
  assert_int_equal(r->ended, TCI_RESOURCE_EXHAUSTED);
  assert_int_equal(r->len, 3);
  fx_contains(r->why, "watch_buffer_bytes_max");
  uint64_t last = r->events[2].sequence;
  fx_contains(r->why, tci_fmt(&w->arena, "after_sequence=%llu", (unsigned long long)last));
  one(w, watches(5, plan, false, last));
  settle(w);
  same_events(&w->readers[4], &w->readers[5], last);
}

static void a_slow_reader_is_shown_the_last_of_a_node_and_every_move(void **state) {
  world *w = *state;
  tci_str plan = begin(w);
  write_one(w, plan, "@all; @other");
  reader *r = &w->readers[3];
  r->room = 1;
  one(w, watches(3, plan, false, 0));
  /* Whole, each change would be as large as all before it: some 500 MB. */
  for (int i = 0; i < 1000; i++) {
    write_one(w, plan, tci_fmt(&w->arena, "@all result=me:%d data=k:%0900d", i, i));
    if (i % 100 == 0) write_one(w, plan, tci_fmt(&w->arena, "@m%d", i));
    if (i % 100 == 50) write_one(w, plan, tci_fmt(&w->arena, "@m%d state=FINAL", i - 50));
  }
  drain(w, 3);
  assert_int_equal(r->ended, TCI_OK);
  assert_true(r->len < 100);
  size_t moves = 0, results = 0;
  for (size_t i = 0; i < r->len; i++) {
    if (r->events[i].old_state != r->events[i].new_state) moves++;
    if (strcmp(r->events[i].id, "all") == 0) results = r->events[i].results;
  }
  assert_int_equal(moves, 20);
  assert_int_equal(results, 1000);
}

static void all_that_waits_is_bounded(void **state) {
  world *w = *state;
  w->options.limits.watch_total_bytes_max = 20000;
  tci_str plan = begin(w);
  write_one(w, plan, checks(w, 0, 5, 6000));
  for (uint64_t token = 3; token < 9; token++) {
    w->readers[token].room = 1;
    one(w, watches(token, plan, true, 0));
    settle(w);
  }
  size_t ended = 0;
  for (uint64_t token = 3; token < 9; token++) {
    bool first = token < 6; /* those who have taken nothing for longest make room */
    assert_int_equal(w->readers[token].ended, first ? TCI_RESOURCE_EXHAUSTED : TCI_OK);
    if (first) fx_contains(w->readers[token].why, "watch_total_bytes_max");
    ended += first;
  }
  assert_int_equal(ended, 3);
  for (uint64_t token = 6; token < 9; token++) drain(w, token);
  for (uint64_t token = 6; token < 9; token++) assert_int_equal(w->readers[token].len, 5);
}

int main(void) {
  tci_log_set_level(TCI_LOG_ERROR);
#define STREAM(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      STREAM(a_snapshot_is_told_as_fast_as_it_is_taken),
      STREAM(a_turn_tells_its_share_and_no_more),
      STREAM(a_node_that_is_too_large_comes_without_what_is_large),
      STREAM(a_journal_is_read_in_pieces_and_joins_what_goes_on),
      STREAM(few_journals_are_read_at_once),
      STREAM(who_leaves_while_its_journal_is_read_is_forgotten),
      STREAM(who_kept_up_reads_what_one_turn_said_from_the_journal),
      STREAM(who_is_too_slow_is_ended_and_told_where_to_go_on),
      STREAM(a_slow_reader_is_shown_the_last_of_a_node_and_every_move),
      STREAM(all_that_waits_is_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
