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
  fx_watch_all(f, 1);
  fx_stream(f, 1, "2+:@a UNKNOWN>PLANNING 4:s UNKNOWN>FINAL ");
  fx_write(f, "@a state=FINAL result=me:1 failure=no");
  fx_stream(f, 1, "6:@a PLANNING>FINAL 7:completed 1+1 failed ");
  fx_watch(f, 2, "checks current");
  fx_watch_all(f, 2);
  fx_stream(f, 2, "6:@a UNKNOWN>FINAL 7:completed 1+1 failed ");
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
  assert_int_equal(tci_core_watch_state(f->core, 2), TCI_WATCH_LIVE);
  assert_int_equal(tci_core_watch_state(f->core, 1), TCI_WATCH_NONE);
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

static tci_record journal_record(const fx *f, size_t i) {
  const fx_stored *s = &f->journal.items[i];
  return (tci_record){s->plan_key, s->sequence, {s->bytes, s->bytes_len}, {s->plan_id, s->plan_id_len}, s->settled};
}

/* Opens stream 9, which was away since `after`. */
static void return_after(fx *f, tci_command watch, uint64_t after) {
  watch.watch_plan.after_sequence = after;
  fx_step(f, &(tci_event){.kind = TCI_EVENT_COMMAND, .token = 9, .command = watch});
}

/* What it missed, a few changes at a time; then it is live. */
static void catch_up(fx *f, tci_buf *out) {
  if (tci_core_watch_state(f->core, 9) == TCI_WATCH_LIVE) return;
  tci_update update = {0};
  tci_replay *replay = tci_replay_new(f->core, 9, tci_core_watch_told(f->core, 9));
  for (size_t i = 0; i < f->journal.len; i++) {
    tci_record record = journal_record(f, i);
    if (record.plan_key == 0) continue;
    assert_int_equal(tci_replay_feed(replay, &record).code, TCI_OK);
    while (!tci_replay_is_used_up(replay)) {
      size_t changes = 2;
      assert_int_equal(tci_replay_more(replay, &changes, &update).code, TCI_OK);
      add_text(out, &update);
    }
    assert_int_equal(tci_replay_sequence(replay), record.sequence);
  }
  tci_replay_free(replay);
  tci_update_deinit(&update);
  tci_core_watch_join(f->core, 9);
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
    return_after(f, s.watch, after);
    catch_up(f, &again);
    const char *from = text_after(&s.live, after);
    tci_buf rest = {(char *)from, (size_t)(s.live.ptr + s.live.len - from), 0};
    fx_same(&rest, &again, "live and replayed streams differ (live, replay)");
    tci_buf_deinit(&again);
    fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 9});
  }
  tci_buf_deinit(&s.live);
}

static void who_was_away_hears_of_each_change_once(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a");
  fx_write(f, "@b");
  tci_command watch = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  watch.watch_plan.filter.include_checks = true;
  return_after(f, watch, 1);
  assert_int_equal(tci_core_watch_state(f->core, 9), TCI_WATCH_AWAY);
  fx_write(f, "@c"); /* it will read of it */
  fx_stream(f, 9, "");
  tci_buf missed = {0};
  catch_up(f, &missed);
  size_t lines = 0;
  for (size_t i = 0; i < missed.len; i++) lines += missed.ptr[i] == '>';
  assert_int_equal(lines, 3);
  tci_buf_deinit(&missed);
  fx_write(f, "@d");
  fx_stream(f, 9, "5:@d UNKNOWN>PLANNING ");
}

static void a_broken_journal_cannot_be_replayed(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a");
  tci_command watch = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  return_after(f, watch, 1);
  tci_replay *replay = tci_replay_new(f->core, 9, 1);
  tci_record broken = journal_record(f, 0);
  broken.bytes = TCI_STR("garbage");
  assert_int_equal(tci_replay_feed(replay, &broken).code, TCI_DATA_LOSS);
  tci_replay_free(replay);
}

/* ---- what is owed ---- */

static void a_snapshot_comes_in_pieces_and_what_moves_meanwhile_is_told(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; @c; @d");
  fx_watch(f, 1, "checks current");
  fx_stream(f, 1, "");
  assert_true(fx_watch_more(f, 1, 2)); /* it looks one ahead */
  fx_stream(f, 1, "2+:@a UNKNOWN>PLANNING ");
  fx_write(f, "@a state=FINAL"); /* known: told at once; whoever resumes after it hears of b to d */
  fx_stream(f, 1, "2+:@a PLANNING>FINAL ");
  fx_write(f, "@b state=FINAL; @c opt=k:v; @e"); /* not known: told when their turn comes */
  fx_stream(f, 1, "");
  assert_true(fx_watch_more(f, 1, 1));
  fx_stream(f, 1, "3+:@b UNKNOWN>FINAL ");
  fx_watch_all(f, 1);
  fx_stream(f, 1, "4+:@c UNKNOWN>PLANNING 7+:@d UNKNOWN>PLANNING 9:@e UNKNOWN>PLANNING ");
  fx_write(f, "@e state=FINAL");
  fx_stream(f, 1, "10:@e PLANNING>FINAL ");
}

static void a_snapshot_passes_over_what_is_filtered_out(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a");
  fx_write(f, "s state=FINAL; t state=FINAL");
  fx_write(f, "@b");
  fx_write(f, "u state=FINAL");
  fx_watch(f, 1, "checks current");
  while (fx_watch_more(f, 1, 1)) continue; /* a look a time */
  fx_stream(f, 1, "6+:@a UNKNOWN>PLANNING 9:@b UNKNOWN>PLANNING ");
  fx_watch(f, 2, "current");
  fx_watch_all(f, 2);
  fx_stream(f, 2, "");
}

static void a_plan_that_settles_during_a_snapshot_is_complete_at_its_end(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b");
  fx_watch(f, 1, "checks current");
  fx_watch_more(f, 1, 2);
  fx_write(f, "@a state=FINAL; @b state=FINAL");
  fx_stream(f, 1, "2+:@a UNKNOWN>PLANNING 2+:@a PLANNING>FINAL ");
  fx_watch_all(f, 1);
  fx_stream(f, 1, "5:@b UNKNOWN>FINAL 6:completed 2+0 ");
}

/* Of each event of a cut snapshot: whoever resumes there ends up with the nodes as they are. */
static void a_cut_snapshot_resumes_after_any_of_its_events(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_write(f, "@c state=PLANNED; @d; s runner=go checks=c; t runner=go after=s+ checks=d");
  fx_answers(f, "s", "FINAL @c=k:v");
  tci_command watch = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  watch.watch_plan.filter.include_checks = watch.watch_plan.filter.include_stages = true;
  watch.watch_plan.include_progress = true;
  const size_t nodes = fx_plan(f)->nodes.len;
  for (size_t cut = 1; cut <= nodes; cut++) {
    bool known[4] = {false};
    uint64_t last = 0;
    fx_watch(f, 1, "checks stages current");
    for (size_t told = 0; told < cut;) {
      size_t looks = 1;
      tci_core_watch_more(f->core, 1, &looks, &f->update);
      for (size_t i = 0; i < f->update.effects.len; i++, told++) {
        const tci_watch_event *w = &f->update.effects.items[i].watch;
        known[w->check ? w->check->node.index : w->stage->node.index] = true;
        last = w->sequence;
      }
    }
    fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 1});
    tci_buf missed = {0};
    return_after(f, watch, last);
    catch_up(f, &missed);
    tci_buf_byte(&missed, 0);
    for (size_t n = 0; n < nodes; n++) {
      if (known[n]) continue;
      tci_buf is = {0};
      fx_dump_node(fx_plan(f)->nodes.items[n], false, &is);
      tci_buf_byte(&is, 0);
      if (!strstr(missed.ptr, is.ptr)) fx_fail("cut after %zu: node %zu is not told as it is:\n%s", cut, n, is.ptr);
      tci_buf_deinit(&is);
    }
    tci_buf_deinit(&missed);
    fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 9});
  }
}

static void who_is_behind_is_told_of_a_node_that_does_not_move_once(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_write(f, "@a; @b; @c");
  fx_watch(f, 1, "checks");
  tci_core_watch_behind(f->core, 1, true);
  fx_write(f, "@a result=me:1 data=k:1"); /* 5 */
  fx_write(f, "@b result=me:1 data=k:1"); /* 6 */
  fx_write(f, "@a result=me:2 data=k:2"); /* 7 */
  fx_stream(f, 1, "");
  assert_int_equal(tci_core_watch_state(f->core, 1), TCI_WATCH_OWED);
  fx_write(f, "@c state=FINAL"); /* 8: a move is told, at the place of what is owed */
  fx_stream(f, 1, "4:@c PLANNING>FINAL ");
  fx_write(f, "@b state=FINAL"); /* 9: with all of b, of which nothing is owed any more */
  fx_stream(f, 1, "4:@b PLANNING>FINAL ");
  assert_false(fx_watch_more(f, 1, 10));
  assert_int_equal(f->update.effects.items[0].watch.check->results.len, 2);
  fx_stream(f, 1, "9:@a PLANNING>PLANNING ");
  tci_core_watch_behind(f->core, 1, false);
  fx_write(f, "@a result=me:3 data=k:3");
  fx_stream(f, 1, "10:@a PLANNING>PLANNING ");
}

/* Progress that is not on record yet goes there without a word: who resumes meanwhile could never hear of it. */
static void who_resumes_is_shown_what_is_not_on_record_yet(void **state) {
  fx *f = *state;
  f->limits.progress_bytes_max = 200; /* less than two entries take in the journal */
  fx_renew(f);
  with_runner(f);
  fx_write(f, "s runner=go mode=async");
  fx_reports(f, "s", "one");
  uint64_t recorded = fx_plan(f)->sequence;
  fx_reports(f, "s", "two");
  assert_int_equal(fx_plan(f)->sequence, recorded);
  tci_command watch = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = f->plan_id};
  watch.watch_plan.filter.include_stages = watch.watch_plan.include_progress = true;
  for (uint64_t after = recorded - 1; after <= recorded; after++) {
    tci_buf missed = {0};
    return_after(f, watch, after);
    if (after < recorded) catch_up(f, &missed);
    assert_int_equal(tci_core_watch_state(f->core, 9), TCI_WATCH_OWED);
    assert_int_equal(tci_core_watch_told(f->core, 9), recorded); /* what is on record was told */
    fx_watch_more(f, 9, 10);
    const tci_stage *told = f->update.effects.items[0].watch.stage;
    assert_int_equal(told->attempts.items[0]->progress.len, 2);
    assert_int_equal(tci_core_watch_state(f->core, 9), TCI_WATCH_LIVE);
    tci_buf_deinit(&missed);
    fx_step(f, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = 9});
  }
}

/* ---- changes only ---- */

static const tci_watch_event *last_event(const fx *f, uint64_t token) {
  const tci_watch_event *found = NULL;
  for (size_t i = 0; i < f->update.effects.len; i++)
    if (f->update.effects.items[i].kind == TCI_EFFECT_WATCH && f->update.effects.items[i].token == token)
      found = &f->update.effects.items[i].watch;
  assert_non_null(found);
  return found;
}

static void who_wants_changes_only_gets_the_result_that_is_new(void **state) {
  fx *f = *state;
  fx_create(f);
  fx_watch(f, 1, "checks stages progress changes");
  fx_watch(f, 2, "checks stages changes"); /* does not hear of all changes: whole nodes */
  fx_write(f, "@a opt=k:v result=me:1 data=k:1");
  fx_write(f, "@a result=you:1 data=k:2");
  fx_write(f, "@a result=me:1 data=k:9");
  const tci_watch_event *w = last_event(f, 1);
  assert_int_equal(w->omitted, TCI_OMITTED_KIND | TCI_OMITTED_OPTIONS | TCI_OMITTED_DEPENDENCIES | TCI_OMITTED_RESULTS);
  assert_int_equal(w->check->results.len, 1);
  assert_int_equal(w->check->results.items[0].id, 1);
  assert_int_equal(w->check->options.len, 0);
  w = last_event(f, 2);
  assert_int_equal(w->omitted, 0);
  assert_int_equal(w->check->results.len, 2);
  fx_write(f, "@a opt=x:y");
  w = last_event(f, 1);
  assert_int_equal(w->omitted, TCI_OMITTED_DEPENDENCIES | TCI_OMITTED_RESULTS);
  assert_int_equal(w->check->results.len, 0);
  assert_true(w->check->options.len > 0);
  fx_write(f, "@b after=@a");
  assert_int_equal(last_event(f, 1)->omitted, 0); /* new: whole */
  assert_int_equal(last_event(f, 1)->check->node.group.len, 1);
}

static void who_wants_changes_only_gets_the_attempt_that_moved(void **state) {
  fx *f = *state;
  with_runner(f);
  fx_watch(f, 1, "checks stages progress changes");
  fx_write(f, "s runner=go mode=async attempts=3 opt=k:v");
  fx_reports(f, "s", "one");
  fx_reports(f, "s", "two");
  const tci_watch_event *w = last_event(f, 1);
  assert_int_equal(w->stage->attempts.len, 1);
  assert_int_equal(w->stage->attempts.items[0]->progress.len, 1);
  assert_true(tci_str_eq(w->stage->attempts.items[0]->progress.items[0].message, TCI_STR("two")));
  assert_true(w->omitted & TCI_OMITTED_ARGS && w->omitted & TCI_OMITTED_ATTEMPT_PROGRESS);
  fx_completes(f, "s", "FINAL failure=flaky details=k:v");
  bool details = false;
  for (size_t i = 0; i < f->update.effects.len; i++) {
    const tci_effect *e = &f->update.effects.items[i];
    if (e->kind != TCI_EFFECT_WATCH || !e->watch.stage->attempts.len) continue;
    assert_int_equal(e->watch.stage->attempts.len, 1);
    bool has = e->watch.stage->attempts.items[0]->details.len > 0;
    assert_int_equal(has, !(e->watch.omitted & TCI_OMITTED_ATTEMPT_DETAILS));
    details |= has;
  }
  assert_true(details);
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
      CLAIM(who_was_away_hears_of_each_change_once),
      CLAIM(a_broken_journal_cannot_be_replayed),
      CLAIM(a_snapshot_comes_in_pieces_and_what_moves_meanwhile_is_told),
      CLAIM(a_snapshot_passes_over_what_is_filtered_out),
      CLAIM(a_plan_that_settles_during_a_snapshot_is_complete_at_its_end),
      CLAIM(a_cut_snapshot_resumes_after_any_of_its_events),
      CLAIM(who_is_behind_is_told_of_a_node_that_does_not_move_once),
      CLAIM(who_resumes_is_shown_what_is_not_on_record_yet),
      CLAIM(who_wants_changes_only_gets_the_result_that_is_new),
      CLAIM(who_wants_changes_only_gets_the_attempt_that_moved),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
