/* watch: ordered, gap-free over the filter, each change once; attempts and progress only for those who ask; completed once per
 * settling; a replay tells what the live stream told. */
#include "core_test.h"

static void every_move_is_told_in_order(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_watch(f, 1, "checks stages");
  fx_write(f, "@c state=PLANNED; s runner=go checks=c");
  fx_stream(f, 1, "2:@c UNKNOWN>PLANNED 4:s UNKNOWN>PLANNED 5:@c PLANNED>WAITING 6:s PLANNED>ATTEMPTING ");
  fx_answers(f, "s", "FINAL @c");
  fx_stream(f, 1, "12:@c WAITING>FINAL 13:s ATTEMPTING>FINAL 14:completed 1+1 ");
}

static void a_node_is_told_of_once_it_is_whole(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_watch(f, 1, "stages");
  fx_write(f, "@c; @d; s runner=go checks=c after=@d");
  fx_stream(f, 1, "5:s UNKNOWN>PLANNED ");
  const tci_stage *copy = NULL;
  for (size_t i = 0; i < f->update.effects.len; i++)
    if (f->update.effects.items[i].kind == TCI_EFFECT_WATCH) copy = f->update.effects.items[i].watch.stage;
  assert_int_equal(copy->node.group.len, 1);
  assert_int_equal(copy->assignments_len, 1);
}

static void an_event_has_the_node_as_it_was(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_watch(f, 1, "stages progress");
  fx_write(f, "s runner=go opt=k:v");
  static const tci_stage_state states[] = {TCI_STAGE_PLANNED, TCI_STAGE_ATTEMPTING, TCI_STAGE_ATTEMPTING,
                                           TCI_STAGE_ATTEMPTING, TCI_STAGE_ATTEMPTING};
  static const tci_attempt_state attempts[] = {0, 0, TCI_ATTEMPT_PENDING, TCI_ATTEMPT_SCHEDULED, TCI_ATTEMPT_RUNNING};
  size_t n = 0;
  for (size_t i = 0; i < f->update.effects.len; i++) {
    if (f->update.effects.items[i].kind != TCI_EFFECT_WATCH) continue;
    const tci_stage *s = f->update.effects.items[i].watch.stage;
    assert_true(n < 5);
    assert_int_equal(s->state, states[n]);
    assert_int_equal(s->attempts.len ? (int)s->attempts.items[0]->state : 0, attempts[n]);
    n++;
  }
  assert_int_equal(n, 5);
}

static void progress_is_for_those_who_ask(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c; s runner=go mode=async checks=c");
  fx_watch(f, 1, "checks stages");
  fx_watch(f, 2, "checks stages progress");
  fx_reports(f, "s", "half");
  fx_stream(f, 1, "");
  fx_stream(f, 2, "8:s ATTEMPTING>ATTEMPTING 9:s ATTEMPTING>ATTEMPTING ");
  fx_write(f, "@c opt=a:1; s priority=3");
  fx_stream(f, 1, "10:@c PLANNING>PLANNING 11:s ATTEMPTING>ATTEMPTING ");
  fx_write(f, "@c result=me:1 data=k:v"); /* a result without a move */
  fx_stream(f, 1, "12:@c PLANNING>PLANNING ");
}

static void filters_by_kind_id_and_state(void **state) {
  fx *f = *state;
  fx_create(f);
  tci_event event = {.kind = TCI_EVENT_COMMAND, .token = 1};
  event.command.kind = TCI_COMMAND_WATCH_PLAN;
  event.command.plan_id = f->plan_id;
  tci_str ids[] = {TCI_STR("z"), TCI_STR("b"), TCI_STR("a")};
  event.command.watch_plan.filter = (tci_filter){.include_checks = true, .check_ids = {ids, 3}};
  fx_step(f, &event);
  event.token = 2;
  event.command.watch_plan.filter =
      (tci_filter){.include_checks = true, .check_states = tci_state_bit(TCI_CHECK_FINAL)};
  fx_step(f, &event);
  fx_watch(f, 3, "stages");
  fx_watch(f, 4, ""); /* completed events only */
  fx_write(f, "@a; @b; @c; s state=FINAL");
  fx_write(f, "@b state=FINAL; @a state=FINAL; @c state=FINAL");
  fx_stream(f, 1,
            "2:@a UNKNOWN>PLANNING 3:@b UNKNOWN>PLANNING 7:@b PLANNING>FINAL 8:@a PLANNING>FINAL 10:completed 3+1 ");
  fx_stream(f, 2, "7:@b PLANNING>FINAL 8:@a PLANNING>FINAL 9:@c PLANNING>FINAL 10:completed 3+1 ");
  fx_stream(f, 3, "5:s UNKNOWN>PLANNED 6:s PLANNED>FINAL 10:completed 3+1 ");
  fx_stream(f, 4, "10:completed 3+1 ");
}

static void it_may_start_with_what_is(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; s state=FINAL");
  fx_watch(f, 1, "checks stages current");
  fx_stream(f, 1, "4:@a UNKNOWN>PLANNING 4:s UNKNOWN>FINAL ");
  fx_write(f, "@a state=FINAL result=me:1 failure=no");
  fx_stream(f, 1, "6:@a PLANNING>FINAL 7:completed 1+1 failed ");
  fx_watch(f, 2, "checks current");
  fx_stream(f, 2, "7:@a UNKNOWN>FINAL 7:completed 1+1 failed ");
}

static void completed_is_told_once_per_settling(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_watch(f, 1, "");
  fx_write(f, "s runner=go attempts=2");
  fx_answers(f, "s", "FINAL failure=flaky"); /* never before a retry is decided */
  fx_stream(f, 1, "");
  fx_advance(f, 1000);
  fx_answers(f, "s", "FINAL");
  assert_true(f->streams[1].len > 0);
  tci_buf_clear(&f->streams[1]);
  fx_write(f, "s");
  fx_stream(f, 1, "");
  fx_write(f, "@c");
  fx_stream(f, 1, "");
  fx_write(f, "@c state=FINAL");
  assert_true(f->streams[1].len > 0);
}

static void streams_end_quietly_and_are_counted(void **state) {
  fx *f = *state;
  f->limits.watchers_max = 1;
  fx_renew(f);
  fx_create(f);
  fx_watch(f, 1, "checks");
  tci_command cmd = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  fx_refuses_command(f, TCI_RESOURCE_EXHAUSTED, "watchers_max", cmd);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 5}); /* nobody's */
  fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 1});
  fx_write(f, "@a");
  fx_stream(f, 1, "");
  fx_watch(f, 2, "checks");
  assert_int_equal(tci_core_watch_since(f->core, 2), 2);
  assert_int_equal(tci_core_watch_since(f->core, 1), 0);
}

static void what_cannot_be_watched_is_refused(void **state) {
  fx *f = *state;
  fx_create(f);
  tci_command cmd = {.kind = TCI_COMMAND_WATCH_PLAN};
  fx_refuses_command(f, TCI_INVALID_ARGUMENT, "work_plan_id is empty", cmd);
  cmd.plan_id = TCI_STR("nobody");
  fx_refuses_command(f, TCI_NOT_FOUND, "nobody", cmd);
  cmd.plan_id = f->plan_id;
  cmd.watch_plan.after_sequence = 2;
  fx_refuses_command(f, TCI_OUT_OF_RANGE, "the plan's last sequence is 1", cmd);
}

/* ---- replay ---- */

static void add_text(tci_buf *out, const tci_update *update) {
  for (size_t i = 0; i < update->effects.len; i++) {
    const tci_effect *e = &update->effects.items[i];
    if (e->kind != TCI_EFFECT_WATCH) continue;
    const tci_watch_event *w = &e->watch;
    char text[100];
    int n = snprintf(text, sizeof text, "%llu at %lld %d>%d %d %d %d\n", (unsigned long long)w->sequence,
                     (long long)w->at_us, w->old_state, w->new_state, w->checks_completed, w->stages_completed,
                     w->has_failures);
    tci_buf_add(out, (tci_str){text, (size_t)n});
    if (w->check) fx_dump_node(&w->check->node, false, out);
    if (w->stage) fx_dump_node(&w->stage->node, false, out);
  }
}

typedef struct {
  tci_buf live;
  tci_command watch;
} live_stream;

static void collect_live(fx *f, bool quiet, void *ctx) {
  (void)quiet;
  add_text(&((live_stream *)ctx)->live, &f->update);
}

/* The journal's records through tci_core_replay, from `after` on. */
static void replay(fx *f, tci_command watch, uint64_t after, tci_buf *out) {
  tci_core *scratch = tci_core_new(&f->limits, f->policies);
  tci_update update = {0};
  watch.watch_plan.after_sequence = after;
  for (size_t i = 0; i < f->journal.len; i++) {
    const fx_stored *s = &f->journal.items[i];
    if (s->plan_key == 0) continue;
    tci_record record = {s->plan_key, s->sequence, {s->bytes, s->bytes_len}, {s->plan_id, s->plan_id_len}, s->settled};
    assert_int_equal(tci_core_replay(scratch, &record, &watch, 9, fx_plan(f)->sequence, &update).code, TCI_OK);
    add_text(out, &update);
  }
  tci_core_free(scratch);
  tci_update_deinit(&update);
}

/* The text from the first event after this sequence. */
static const char *text_after(const tci_buf *text, uint64_t sequence) {
  const char *at = text->ptr, *end = text->ptr + text->len;
  while (at < end) {
    if (at[0] != ' ' && strtoull(at, NULL, 10) > sequence) return at;
    const char *next = memchr(at, '\n', (size_t)(end - at));
    at = next + 1;
  }
  return end;
}

static void a_replay_tells_what_the_live_stream_told_from_anywhere(void **state) {
  fx *f = *state;
  live_stream s = {0};
  with_runner(f);
  fx_watch(f, 1, "checks stages progress");
  s.watch = (tci_command){.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  s.watch.watch_plan.filter.include_checks = s.watch.watch_plan.filter.include_stages = true;
  s.watch.watch_plan.include_progress = true;
  f->ctx = &s;
  f->after_step = collect_live;
  fx_write(
      f, "@c state=PLANNED opt=a:1; @d; s runner=go checks=c attempts=2; t runner=go mode=async after=s+,@c checks=d");
  fx_answers(f, "s", "FINAL failure=flaky details=k:v");
  fx_advance(f, 1500);
  fx_answers(f, "s", "FINAL @c=k:v");
  fx_reports(f, "t", "half");
  fx_write(f, "@d result=me:1 data=x:y; t priority=4");
  fx_completes(f, "t", "FINAL");
  fx_write(f, "@e state=FINAL");
  f->after_step = NULL;
  assert_true(s.live.len > 2000);
  for (uint64_t after = 1; after < fx_plan(f)->sequence; after++) {
    tci_buf again = {0};
    replay(f, s.watch, after, &again);
    const char *from = text_after(&s.live, after);
    tci_buf rest = {(char *)from, (size_t)(s.live.ptr + s.live.len - from), 0};
    fx_same(&rest, &again, "live and replayed streams differ (live, replay)");
    tci_buf_deinit(&again);
  }
  tci_buf_deinit(&s.live);
}

static void a_replay_stops_where_the_live_stream_began(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a");
  fx_write(f, "@b");
  tci_command watch = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  watch.watch_plan.filter.include_checks = true;
  watch.watch_plan.after_sequence = 1;
  tci_core *scratch = tci_core_new(&f->limits, f->policies);
  tci_update update = {0};
  size_t told = 0;
  for (size_t i = 0; i < f->journal.len; i++) {
    const fx_stored *s = &f->journal.items[i];
    tci_record record = {s->plan_key, s->sequence, {s->bytes, s->bytes_len}, {s->plan_id, s->plan_id_len}, s->settled};
    assert_int_equal(tci_core_replay(scratch, &record, &watch, 9, 2, &update).code, TCI_OK);
    told += update.effects.len;
  }
  assert_int_equal(told, 1);
  tci_record broken = {.plan_key = 1, .sequence = 4, .bytes = TCI_STR("garbage")};
  assert_int_equal(tci_core_replay(scratch, &broken, &watch, 9, 2, &update).code, TCI_DATA_LOSS);
  tci_core_free(scratch);
  tci_update_deinit(&update);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(every_move_is_told_in_order),
      CLAIM(a_node_is_told_of_once_it_is_whole),
      CLAIM(an_event_has_the_node_as_it_was),
      CLAIM(progress_is_for_those_who_ask),
      CLAIM(filters_by_kind_id_and_state),
      CLAIM(it_may_start_with_what_is),
      CLAIM(completed_is_told_once_per_settling),
      CLAIM(streams_end_quietly_and_are_counted),
      CLAIM(what_cannot_be_watched_is_refused),
      CLAIM(a_replay_tells_what_the_live_stream_told_from_anywhere),
      CLAIM(a_replay_stops_where_the_live_stream_began),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
