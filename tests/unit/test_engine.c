/* engine: commit, then speak: nothing gets out before the turn's one commit; a commit that fails never happened, for anybody;
 * what left memory comes back; a stream resumes where it was; other policies come between turns, and are on record. */
#define _GNU_SOURCE 1
#include "core_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "app/engine.h"
#include "base/log.h"
#include "fault_vfs.h"
#include "turboci/v1/service.pb-c.h"

enum { TOKENS = 16, CALLS = 64 };

typedef struct {
  tci_engine *engine;
  tci_engine_options options;
  tci_time now;
  uint64_t turns;
  tci_arena arena;
  char folder[64], db[96], policies[96], message[1024];
  tci_str policies_folder;
  int64_t commits_before; /* of the turn under way */
  bool changes;           /* it is to commit something */
  /* what the sink got */
  tci_code codes[TOKENS];
  char texts[TOKENS][400];
  size_t reply_len[TOKENS];
  tci_buf bodies[TOKENS]; /* of the replies */
  int replies[TOKENS];
  tci_buf streams[TOKENS]; /* "sequence length bytes" */
  char told[2000];         /* "run s1 / cancel s1 / end 0 " */
  char calls[CALLS][128];  /* execution ids */
  size_t calls_len;
} world;

/* ---- the sink ---- */

static void is_committed(const world *w) {
  if (w->changes && tci_engine_count(w->engine).commits != w->commits_before + 1)
    fail_msg("it spoke before the commit");
}

static void tell(world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void tell(world *w, const char *format, ...) {
  size_t len = strlen(w->told);
  va_list args;
  va_start(args, format);
  vsnprintf(w->told + len, sizeof w->told - len, format, args);
  va_end(args);
}

static void on_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  world *w = ctx;
  is_committed(w);
  w->replies[token]++;
  w->codes[token] = status.code;
  w->reply_len[token] = message.len;
  tci_buf_clear(&w->bodies[token]);
  tci_buf_add(&w->bodies[token], message);
  snprintf(w->texts[token], sizeof w->texts[token], "%s", status.message ? status.message : "");
}

static void on_dispatch(void *ctx, tci_str id, tci_mode mode, tci_str address, const char *method, tci_str request,
                        int64_t us) {
  world *w = ctx;
  is_committed(w);
  assert_true(request.len > 0 && us > 0);
  assert_true(tci_str_eq(address, TCI_STR("127.0.0.1:50061")));
  assert_string_equal(method,
                      mode == TCI_MODE_SYNC ? "/turboci.v1.StageRunner/Run" : "/turboci.v1.StageRunner/RunAsync");
  assert_true(w->calls_len < CALLS);
  snprintf(w->calls[w->calls_len++], sizeof w->calls[0], "%.*s", TCI_STR_ARG(id));
  tell(w, "run ");
}

static void on_cancel(void *ctx, tci_str id) {
  is_committed(ctx);
  assert_true(id.len > 0);
  tell(ctx, "cancel ");
}

static bool on_watch(void *ctx, uint64_t token, uint64_t sequence, tci_str message) {
  world *w = ctx;
  is_committed(w);
  char head[60];
  int n = snprintf(head, sizeof head, "\n%llu %zu ", (unsigned long long)sequence, message.len);
  tci_buf_add(&w->streams[token], (tci_str){head, (size_t)n});
  tci_buf_add(&w->streams[token], message);
  return true;
}

static void on_watch_end(void *ctx, uint64_t token, tci_status status, bool at_once) {
  (void)at_once;
  tell(ctx, "end %d %s ", (int)token, tci_code_name(status.code));
}

static const tci_sink sink = {NULL, on_reply, on_dispatch, on_cancel, on_watch, on_watch_end};

/* ---- the world ---- */

static void fill_random(world *w, uint8_t random[32]) {
  for (uint64_t i = 0; i < 4; i++) {
    uint64_t key[2] = {w->turns, i}, word = tci_siphash(9, 9, (tci_str){(const char *)key, sizeof key});
    memcpy(random + 8 * i, &word, 8);
  }
  w->turns++;
}

static void open_engine(world *w) {
  tci_sink mine = sink;
  mine.ctx = w;
  w->changes = false;
  tci_status status = tci_engine_open(&w->options, &mine, w->now, &w->engine, w->message, sizeof w->message);
  if (status.code != TCI_OK) fail_msg("open: %s", status.message);
}

static tci_status start_engine(world *w) {
  uint8_t random[32];
  fill_random(w, random);
  return tci_engine_start(w->engine, w->now, random);
}

static void reopen(world *w) {
  tci_engine_close(w->engine);
  open_engine(w);
  assert_int_equal(start_engine(w).code, TCI_OK);
}

static int world_setup(void **state) {
  world *w = calloc(1, sizeof *w);
  *state = w;
  fx_on_failure = core_test_fail;
  strcpy(w->folder, "/tmp/tci-engine-XXXXXX");
  if (!mkdtemp(w->folder)) return -1;
  snprintf(w->db, sizeof w->db, "%s/ci.db", w->folder);
  snprintf(w->policies, sizeof w->policies, "%s/policies", w->folder);
  w->now = (tci_time){.mono_us = 1000000, .wall_us = 1700000000000000};
  static tci_str allowed[] = {TCI_STR("loopback")};
  w->options = (tci_engine_options){.limits = tci_limits_default(),
                                    .store = {.path = w->db},
                                    .callback_address = "127.0.0.1:1",
                                    .allowed_addresses = {allowed, 1},
                                    .version = "test"};
  return 0;
}

static int world_teardown(void **state) {
  world *w = *state;
  fault_disarm();
  tci_engine_close(w->engine);
  fault_uninstall();
  static const char *const suffixes[] = {"", "-wal", "-shm", ".mark", ".lock", "-journal"};
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s%s", w->db, suffixes[i]);
    unlink(path);
  }
  static const char *const scripts[] = {"choice", "other"};
  for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s.lua", w->policies, scripts[i]);
    unlink(path);
  }
  rmdir(w->policies);
  rmdir(w->folder);
  for (int i = 0; i < TOKENS; i++) {
    tci_buf_deinit(&w->streams[i]);
    tci_buf_deinit(&w->bodies[i]);
  }
  tci_arena_deinit(&w->arena);
  free(w);
  return 0;
}

static void forget(world *w) {
  memset(w->replies, 0, sizeof w->replies);
  w->told[0] = '\0';
  w->calls_len = 0;
  for (int i = 0; i < TOKENS; i++) tci_buf_clear(&w->streams[i]);
}

static tci_status turn(world *w, tci_event *events, size_t len, bool changes) {
  for (size_t i = 0; i < len; i++) {
    events[i].now = w->now;
    fill_random(w, events[i].random);
  }
  w->changes = changes;
  w->commits_before = tci_engine_count(w->engine).commits;
  return tci_engine_turn(w->engine, events, len);
}

static tci_event command(uint64_t token, tci_command cmd) {
  return (tci_event){.kind = TCI_EVENT_COMMAND, .token = token, .command = cmd};
}

static tci_event writes(world *w, uint64_t token, tci_str plan, const char *text) {
  return command(token, fx_parse_write(&w->arena, plan, text));
}

/* One event, one turn; it must be fine. */
static void one(world *w, tci_event event, bool changes) {
  assert_int_equal(turn(w, &event, 1, changes).code, TCI_OK);
  if (event.kind == TCI_EVENT_COMMAND && event.command.kind != TCI_COMMAND_WATCH_PLAN &&
      w->codes[event.token] != TCI_OK)
    fail_msg("%s: %s", tci_code_name(w->codes[event.token]), w->texts[event.token]);
}

static void tick(world *w, int64_t ms) {
  w->now.mono_us += ms * 1000;
  w->now.wall_us += ms * 1000;
  tci_event event = {.kind = TCI_EVENT_TICK};
  assert_int_equal(turn(w, &event, 1, false).code, TCI_OK);
}

static tci_str create(world *w) {
  one(w, command(1, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN}), true);
  const tci_core *core = tci_engine_core(w->engine);
  return tci_str_copy(&w->arena, core->plan_list.items[core->plan_list.len - 1]->id);
}

static tci_event answer(world *w, size_t call, const char *completion) {
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = tci_str_from(tci_str_z(&w->arena, tci_str_from(w->calls[call])));
  event.answer.completion = fx_parse_completion(&w->arena, completion);
  return event;
}

static tci_command get(tci_str plan) { return (tci_command){.kind = TCI_COMMAND_GET_PLAN, .plan_id = plan}; }

static tci_command watch(tci_str plan, uint64_t after) {
  tci_command cmd = {.kind = TCI_COMMAND_WATCH_PLAN, .plan_id = plan};
  cmd.watch_plan.filter.include_checks = cmd.watch_plan.filter.include_stages = true;
  cmd.watch_plan.include_progress = true;
  cmd.watch_plan.after_sequence = after;
  return cmd;
}

static tci_stage *stage_of(world *w, tci_str plan, const char *id) {
  return tci_plan_stage(tci_core_plan(tci_engine_core(w->engine), plan), tci_str_from(id));
}

static void dump(world *w, tci_buf *out) { fx_dump(tci_engine_core(w->engine), true, out); }

static void begin(world *w) {
  open_engine(w);
  assert_int_equal(start_engine(w).code, TCI_OK);
  one(w, command(2, fx_register_command("r", "go", "both", 0, 86400000)), true);
}

/* ---- commit, then speak ---- */

static void a_turn_is_one_commit_and_nothing_gets_out_before(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, command(4, watch(plan, 0)), false);
  tci_event events[] = {writes(w, 5, plan, "a runner=go"), writes(w, 6, plan, "b runner=go mode=async"),
                        writes(w, 7, plan, "@c"), command(8, get(plan))};
  assert_int_equal(turn(w, events, 4, true).code, TCI_OK); /* the sink looks at the commits */
  assert_int_equal(tci_engine_count(w->engine).commits, w->commits_before + 1);
  assert_string_equal(w->told, "run run ");
  for (int token = 5; token <= 8; token++) assert_int_equal(w->replies[token], 1);
  assert_true(w->reply_len[8] > 0);
  assert_true(w->streams[4].len > 0);
  assert_int_equal(tci_engine_open_calls(w->engine), 2);
}

static void reads_and_refusals_commit_nothing(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  tci_event events[] = {command(5, get(plan)), writes(w, 6, plan, "s after=typo"), {.kind = TCI_EVENT_TICK}};
  int64_t commits = tci_engine_count(w->engine).commits;
  assert_int_equal(turn(w, events, 3, false).code, TCI_OK);
  assert_int_equal(tci_engine_count(w->engine).commits, commits);
  assert_int_equal(w->codes[6], TCI_INVALID_ARGUMENT);
  assert_int_equal(turn(w, NULL, 0, false).code, TCI_OK);
}

static void what_was_acknowledged_is_there_after_a_restart(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@c opt=a:1; s runner=go checks=c; t runner=none"), true);
  one(w, answer(w, 0, "FINAL @c=k:v"), true);
  tci_buf before = {0}, after = {0};
  dump(w, &before);
  tci_engine_close(w->engine);
  open_engine(w);
  dump(w, &after);
  fx_same(&before, &after, "a restart changed the model (before, after)");
  assert_int_equal(start_engine(w).code, TCI_OK);
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
  tci_buf_deinit(&before);
  tci_buf_deinit(&after);
}

static void the_first_turn_dispatches_what_waited(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "s runner=go"), true);
  forget(w);
  reopen(w);
  assert_string_equal(w->told, ""); /* a retry after the restart backs off */
  tick(w, 1000);
  assert_string_equal(w->told, "run ");
  assert_int_equal(stage_of(w, plan, "s")->attempts.items[0]->failure.kind, TCI_FAILURE_ENGINE_RESTART);
}

/* What is logged while the engine opens again, into `out`, which it ends with a zero byte. */
static void reopen_and_read_log(world *w, char *out, size_t size) {
  FILE *log = tmpfile();
  int before = dup(STDERR_FILENO);
  assert_true(log && before >= 0);
  dup2(fileno(log), STDERR_FILENO);
  tci_log_set_level(TCI_LOG_INFO);
  reopen(w);
  tci_log_set_level(TCI_LOG_OFF);
  dup2(before, STDERR_FILENO);
  close(before);
  rewind(log);
  out[fread(out, 1, size - 1, log)] = '\0';
  fclose(log);
}

static void the_start_with_many_plans_tells_how_far_it_has_come(void **state) {
  world *w = *state;
  enum { PLANS = 2100 };
  begin(w);
  char log[2000];
  reopen_and_read_log(w, log, sizeof log);
  assert_null(strstr(log, "recovering"));
  tci_event *events = tci_calloc(PLANS, sizeof *events);
  for (int i = 0; i < PLANS; i++) events[i] = command(1, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN});
  assert_int_equal(turn(w, events, PLANS, true).code, TCI_OK);
  free(events);
  reopen_and_read_log(w, log, sizeof log);
  fx_contains(log, "recovering plans=1000 of=2100 journal_bytes=");
  fx_contains(log, "recovering plans=2000 of=2100 journal_bytes=");
  assert_int_equal(tci_engine_core(w->engine)->plan_list.len, PLANS);
}

/* ---- a commit that fails ---- */

static void no_disk(void) { fault_arm(FAULT_WRITE, FAULT_WAL, 1, SQLITE_FULL, false); }

static void a_failed_commit_never_happened(void **state) {
  world *w = *state;
  fault_install();
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go"), true);
  one(w, command(4, watch(plan, 0)), false);
  forget(w);
  tci_buf before = {0}, after = {0};
  dump(w, &before);
  no_disk();
  tci_event events[] = {command(5, get(plan)), writes(w, 6, plan, "b runner=go"), writes(w, 7, plan, "c after=typo")};
  assert_int_equal(turn(w, events, 3, false).code, TCI_OK);
  fault_disarm();
  for (int token = 5; token <= 7; token++) { /* the whole turn, reads and refusals too */
    assert_int_equal(w->replies[token], 1);
    assert_int_equal(w->codes[token], TCI_UNAVAILABLE);
    fx_contains(w->texts[token], "outcome is unknown");
    assert_int_equal(w->reply_len[token], 0);
  }
  assert_string_equal(w->told, "end 0 UNAVAILABLE "); /* every stream; no dispatch */
  assert_int_equal(w->streams[4].len, 0);
  dump(w, &after);
  fx_same(&before, &after, "a failed commit left something (before, after)");
  tci_buf_deinit(&before);
  tci_buf_deinit(&after);
}

static void after_a_failed_commit_reads_are_served_and_then_it_wakes(void **state) {
  world *w = *state;
  fault_install();
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go; b runner=go after=a; w runner=go mode=async timeout=5000 attempts=1"), true);
  tci_event write = writes(w, 6, plan, "@lost");
  no_disk();
  assert_int_equal(turn(w, &write, 1, false).code, TCI_OK);
  forget(w);
  assert_int_equal(tci_engine_next_due_us(w->engine), w->now.mono_us + 1000000);
  one(w, command(5, get(plan)), false);
  assert_int_equal(turn(w, &write, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[6], TCI_UNAVAILABLE); /* writes have to wait */
  tci_event done = {.kind = TCI_EVENT_ANSWER};
  done.answer.execution_id = tci_str_copy(&w->arena, stage_of(w, plan, "a")->attempts.items[0]->execution_id);
  done.answer.completion = fx_parse_completion(&w->arena, "FINAL");
  assert_int_equal(turn(w, &done, 1, false).code, TCI_OK); /* an answer is not lost */
  assert_int_equal(stage_of(w, plan, "a")->state, TCI_STAGE_ATTEMPTING);
  tick(w, 1000); /* still no disk: it cannot say that it woke */
  assert_string_equal(w->told, "end 0 UNAVAILABLE ");
  fault_disarm();
  forget(w);
  tick(w, 1000); /* it failed, so that it waits longer */
  assert_int_equal(stage_of(w, plan, "a")->state, TCI_STAGE_ATTEMPTING);
  tick(w, 1000);
  assert_int_equal(stage_of(w, plan, "a")->state, TCI_STAGE_FINAL);
  assert_string_equal(w->told, "run ");                  /* b */
  assert_int_equal(tci_engine_open_calls(w->engine), 2); /* and w's RunAsync */
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
  one(w, writes(w, 6, plan, "@found"), true);
  tick(w, 3000); /* and the timers run: w's deadline */
  assert_string_equal(w->told, "run cancel ");
}

static void calls_of_the_last_engine_are_dead_even_when_the_first_commit_fails(void **state) {
  world *w = *state;
  fault_install();
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "s runner=go"), true);
  tci_engine_close(w->engine);
  open_engine(w);
  no_disk();
  assert_int_equal(start_engine(w).code, TCI_OK);
  fault_disarm();
  assert_int_equal(stage_of(w, plan, "s")->attempts.len, 1);
  tick(w, 1000);
  assert_int_equal(stage_of(w, plan, "s")->attempts.len, 2);
  assert_int_equal(stage_of(w, plan, "s")->attempts.items[0]->failure.kind, TCI_FAILURE_ENGINE_RESTART);
  assert_int_equal(tci_engine_open_calls(w->engine), 0);
}

static void a_full_disk_does_not_throw_the_model_away_again_and_again(void **state) {
  world *w = *state;
  w->options.store.free_bytes_min = INT64_MAX / 2; /* which no disk has */
  open_engine(w);
  assert_int_equal(start_engine(w).code, TCI_OK);
  const tci_core *core = NULL;
  tci_event event = command(2, fx_register_command("r", "go", "both", 0, 86400000));
  for (int second = 0; second < 5; second++) {
    assert_int_equal(turn(w, &event, 1, false).code, TCI_OK);
    assert_int_equal(w->codes[2], TCI_UNAVAILABLE);
    if (second == 0) core = tci_engine_core(w->engine);
    assert_ptr_equal(tci_engine_core(w->engine), core);
    tick(w, 1000);
  }
  fx_contains(w->texts[2], "bytes of disk are free"); /* why, not only that */
  assert_string_equal(w->told, "end 0 UNAVAILABLE ");
}

/* ---- damage ---- */

/* Past the store's back, while no engine runs. */
static void harm(world *w, const char *sql_text) {
  sqlite3 *raw;
  assert_int_equal(sqlite3_open(w->db, &raw), SQLITE_OK);
  char *text = NULL;
  if (sqlite3_exec(raw, sql_text, NULL, NULL, &text) != SQLITE_OK) fail_msg("%s", text);
  sqlite3_close(raw);
}

static void refused(world *w, tci_command cmd, tci_code code, const char *part) {
  tci_event event = command(9, cmd);
  w->replies[9] = 0;
  assert_int_equal(turn(w, &event, 1, false).code, TCI_OK);
  assert_int_equal(w->replies[9], 1);
  assert_int_equal(w->codes[9], code);
  fx_contains(w->texts[9], part);
}

static void a_damaged_settled_plan_is_refused_alone_and_nothing_of_it_stays(void **state) {
  world *w = *state;
  begin(w);
  tci_str old = create(w), live = create(w);
  one(w, writes(w, 5, old, "@c state=FINAL opt=a:1"), true);
  one(w, writes(w, 5, live, "@open; s runner=go"), true);
  tci_engine_close(w->engine);
  harm(w, "UPDATE journal SET bytes = zeroblob(20) WHERE plan_key = 1 AND sequence > 1");
  open_engine(w);
  assert_int_equal(start_engine(w).code, TCI_OK);
  for (int i = 0; i < 3; i++) {
    refused(w, get(old), TCI_DATA_LOSS, "does not match its checksum");
    assert_null(tci_core_plan(tci_engine_core(w->engine), old));
  }
  refused(w, watch(old, 1), TCI_DATA_LOSS, "plan 1");
  assert_int_equal(tci_engine_count(w->engine).damaged_reads, 4);
  one(w, writes(w, 6, live, "@more"), true);
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

static void a_damaged_open_plan_refuses_the_start_until_it_is_set_aside(void **state) {
  world *w = *state;
  fault_install();
  begin(w);
  tci_str lost = create(w), live = create(w);
  one(w, writes(w, 5, lost, "s runner=go"), true);
  one(w, writes(w, 5, live, "s runner=go"), true);
  tci_engine_close(w->engine);
  w->engine = NULL;
  harm(w, "DELETE FROM journal WHERE plan_key = 1 AND sequence > 1");
  tci_sink mine = sink;
  mine.ctx = w;
  tci_status status = tci_engine_open(&w->options, &mine, w->now, &w->engine, w->message, sizeof w->message);
  assert_int_equal(status.code, TCI_DATA_LOSS);
  fx_contains(status.message, tci_fmt(&w->arena, "--quarantine '%.*s'", TCI_STR_ARG(lost)));

  tci_str names[] = {lost};
  w->options.quarantine = (tci_ids){names, 1};
  open_engine(w);
  no_disk(); /* the first commit, which says so, may fail like any other */
  assert_int_equal(start_engine(w).code, TCI_OK);
  fault_disarm();
  tick(w, 1000);
  refused(w, get(lost), TCI_DATA_LOSS, "was set aside");
  one(w, writes(w, 6, live, "@more"), true);

  w->options.quarantine = (tci_ids){NULL, 0};
  reopen(w); /* it stays set aside */
  refused(w, get(lost), TCI_DATA_LOSS, "was set aside");
  one(w, command(5, get(live)), false);

  w->options.quarantine = (tci_ids){names, 1}; /* whoever leaves the option in is not refused */
  reopen(w);
  tci_engine_close(w->engine);
  w->engine = NULL;
  names[0] = live;
  status = tci_engine_open(&w->options, &mine, w->now, &w->engine, w->message, sizeof w->message);
  assert_int_equal(status.code, TCI_INVALID_ARGUMENT);
  fx_contains(status.message, "no damaged plan of that name");
  w->options.quarantine = (tci_ids){NULL, 0};
}

static void a_failed_fsync_loses_the_store(void **state) {
  world *w = *state;
  fault_install();
  begin(w);
  tci_str plan = create(w);
  forget(w);
  fault_arm(FAULT_SYNC, FAULT_WAL, 1, SQLITE_IOERR_FSYNC, true);
  tci_event write = writes(w, 6, plan, "s runner=go");
  assert_int_equal(turn(w, &write, 1, false).code, TCI_DATA_LOSS);
  assert_int_equal(w->replies[6], 0); /* nobody may think anything */
  assert_string_equal(w->told, "");
}

static void a_damaged_journal_is_refused_by_name(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@c"), true);
  tci_engine_close(w->engine);
  w->engine = NULL;
  sqlite3 *db;
  assert_int_equal(sqlite3_open(w->db, &db), SQLITE_OK);
  assert_int_equal(sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
  FILE *file = fopen(w->db, "r+b"); /* one bit of the check's record */
  assert_non_null(file);
  static char bytes[1 << 20];
  size_t len = fread(bytes, 1, sizeof bytes, file);
  char *at = memmem(bytes, len, plan.ptr, plan.len);
  assert_non_null(at);
  fseek(file, at - bytes + 3, SEEK_SET);
  fputc(at[3] ^ 1, file);
  fclose(file);
  tci_sink mine = sink;
  mine.ctx = w;
  assert_int_equal(tci_engine_open(&w->options, &mine, w->now, &w->engine, w->message, sizeof w->message).code,
                   TCI_DATA_LOSS);
  assert_null(w->engine);
  fx_contains(w->message, "ci.db");
}

/* ---- draining ---- */

static void a_draining_engine_finishes_and_begins_nothing(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go; b runner=go after=a; c runner=go mode=async"), true);
  forget(w);
  tci_engine_drain(w->engine);
  tci_event events[] = {command(5, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN}), writes(w, 6, plan, "@x"),
                        command(7, fx_register_command("new", "go", "both", 0, 0)), command(8, get(plan)),
                        command(9, fx_register_command("r", "go", "both", 0, 86400000))};
  assert_int_equal(turn(w, events, 5, false).code, TCI_OK);
  for (int token = 5; token <= 7; token++) {
    assert_int_equal(w->codes[token], TCI_UNAVAILABLE);
    fx_contains(w->texts[token], "stopping");
  }
  assert_int_equal(w->codes[8], TCI_OK);
  assert_int_equal(w->codes[9], TCI_OK); /* a heartbeat */
  assert_int_equal(tci_engine_open_calls(w->engine), 2);
  tci_event done = {.kind = TCI_EVENT_ANSWER};
  done.answer.execution_id = tci_str_copy(&w->arena, stage_of(w, plan, "a")->attempts.items[0]->execution_id);
  done.answer.completion = fx_parse_completion(&w->arena, "FINAL");
  one(w, done, true);
  assert_int_equal(tci_engine_open_calls(w->engine), 1); /* c's RunAsync */
  assert_string_equal(w->told, "");                      /* b waits for the next engine */
  tci_command complete = {.kind = TCI_COMMAND_COMPLETE_EXECUTION, .plan_id = plan};
  complete.complete_execution.execution_id =
      tci_str_copy(&w->arena, stage_of(w, plan, "c")->attempts.items[0]->execution_id);
  complete.complete_execution.completion = fx_parse_completion(&w->arena, "FINAL");
  one(w, command(5, complete), true);
  assert_int_equal(stage_of(w, plan, "c")->state, TCI_STAGE_FINAL);
  assert_int_equal(tci_engine_open_calls(w->engine), 0); /* it called back: it had the work */
}

/* ---- memory ---- */

static void settled_plans_are_loaded_when_they_are_named(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@c state=FINAL"), true);
  reopen(w);
  assert_false(tci_core_has_plan(tci_engine_core(w->engine), plan));
  one(w, command(5, get(plan)), false);
  assert_true(tci_core_has_plan(tci_engine_core(w->engine), plan));
  reopen(w);
  one(w, writes(w, 5, plan, "@d after=@c state=PLANNED"), true); /* active again */
  assert_int_equal(tci_plan_check(tci_core_plan(tci_engine_core(w->engine), plan), TCI_STR("d"))->state,
                   TCI_CHECK_WAITING);
  reopen(w);
  assert_true(tci_core_has_plan(tci_engine_core(w->engine), plan));
  tci_event unknown = command(5, get(TCI_STR("wp-nobody")));
  assert_int_equal(turn(w, &unknown, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[5], TCI_NOT_FOUND);
}

static void idle_plans_are_evicted_and_come_back_whole(void **state) {
  world *w = *state;
  w->options.limits.plans_in_memory_max = 1;
  begin(w);
  tci_str plans[3];
  for (int i = 0; i < 3; i++) {
    plans[i] = create(w);
    one(w, writes(w, 5, plans[i], "@gate; p runner=go after=@gate"), true);
  }
  assert_int_equal(tci_engine_core(w->engine)->plan_list.len, 1);
  for (int i = 0; i < 3; i++) {
    forget(w);
    one(w, writes(w, 5, plans[i], "@gate state=FINAL"), true);
    assert_string_equal(w->told, "run "); /* now it has work under way and stays */
  }
  assert_int_equal(tci_engine_core(w->engine)->plan_list.len, 3);
  for (int i = 0; i < 3; i++) {
    tci_event done = {.kind = TCI_EVENT_ANSWER};
    done.answer.execution_id = tci_str_copy(&w->arena, stage_of(w, plans[i], "p")->attempts.items[0]->execution_id);
    done.answer.completion = fx_parse_completion(&w->arena, "FINAL");
    one(w, done, true);
  }
  assert_int_equal(tci_engine_core(w->engine)->plan_list.len, 1);
  tci_event events[] = {command(5, get(plans[0])), command(6, get(plans[1])), command(7, get(plans[2]))};
  assert_int_equal(turn(w, events, 3, false).code, TCI_OK);
  for (int token = 5; token <= 7; token++) assert_int_equal(w->codes[token], TCI_OK);
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

/* ---- turns that are short ---- */

static int64_t cpu_us;
static int64_t ten_ms_each(void) { return cpu_us += 10000; }

static tci_status turn_some(world *w, tci_event *events, size_t len, bool *later, size_t *looked_at) {
  for (size_t i = 0; i < len; i++) {
    events[i].now = w->now;
    fill_random(w, events[i].random);
  }
  w->changes = false;
  return tci_engine_turn_some(w->engine, events, len, later, looked_at);
}

static void a_turn_that_has_had_its_time_leaves_the_rest_to_the_next(void **state) {
  world *w = *state;
  w->options.cpu_us = ten_ms_each;
  w->options.limits.turn_cpu_ms_max = 50;
  begin(w);
  tci_str plan = create(w);
  forget(w);
  tci_event events[] = {command(4, get(plan)), command(5, get(plan)), command(6, get(plan)), command(7, get(plan))};
  bool later[4];
  size_t looked_at;
  assert_int_equal(turn_some(w, events, 4, later, &looked_at).code, TCI_OK);
  assert_int_equal(looked_at, 3); /* it began at 10, and after these is at 40 */
  for (int i = 0; i < 4; i++) {
    assert_int_equal(later[i], i == 3);
    assert_int_equal(w->replies[4 + i], i < 3);
  }
  assert_int_equal(tci_engine_next_due_us(w->engine), 0);
  cpu_us += 1000000; /* one is stepped, come what may */
  assert_int_equal(turn_some(w, &events[3], 1, later, &looked_at).code, TCI_OK);
  assert_int_equal(w->replies[7], 1);
  tci_engine_note_turn(w->engine, 90000, 49999);
  assert_int_equal(tci_engine_count(w->engine).turns_over_budget, 0);
  tci_engine_note_turn(w->engine, 90000, 50001);
  assert_int_equal(tci_engine_count(w->engine).turns_over_budget, 1);
}

static void a_list_that_takes_long_is_read_over_turns(void **state) {
  world *w = *state;
  w->options.limits.page_entries_max = 1; /* of a part, too */
  w->options.limits.turn_cpu_ms_max = 50;
  w->options.cpu_us = ten_ms_each;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@a; @b; @c; @d; @e; @f; @g; @h"), true);
  forget(w);
  tci_event query = command(6, (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan});
  query.command.query_nodes.include_checks = true;
  bool later;
  size_t looked_at, turns = 1;
  assert_int_equal(turn_some(w, &query, 1, &later, &looked_at).code, TCI_OK);
  assert_false(later);
  tci_event nothing = {.kind = TCI_EVENT_TICK};
  for (; !w->replies[6]; turns++) {
    assert_int_equal(tci_engine_next_due_us(w->engine), 0);
    assert_true(turns < 20);
    assert_int_equal(turn_some(w, &nothing, 1, &later, &looked_at).code, TCI_OK);
  }
  assert_true(turns >= 3); /* with 25 ms of each for it */
  assert_int_equal(w->codes[6], TCI_OK);
  assert_true(w->reply_len[6] > 8 * 20);
}

/* A write of one check whose record is larger than a piece. */
static void one_large(world *w, tci_str plan, const char *text) {
  enum { BYTES = 600000 };
  char *fill = tci_arena_alloc(&w->arena, BYTES);
  memset(fill, 'x', BYTES);
  tci_buf value = {0}, fat = {0};
  tci_value_put_string(&value, (tci_str){fill, BYTES});
  tci_struct_set((tci_str){0}, TCI_STR("k"), tci_buf_str(&value), &fat);
  tci_event event = writes(w, 5, plan, text);
  event.command.write_nodes.checks[0].options = tci_buf_str(&fat);
  event.command.write_nodes.omit_nodes = true;
  one(w, event, true);
  tci_buf_deinit(&value);
  tci_buf_deinit(&fat);
}

/* Another plan is there, and this one is not in memory any more. */
static void push_out(world *w, tci_str plan) {
  create(w);
  one(w, command(5, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS}), false);
  assert_false(tci_core_has_plan(tci_engine_core(w->engine), plan));
}

/* A plan of this id with a journal of several megabytes, out of memory. */
static tci_str large_plan_on_disk(world *w) {
  w->options.limits.plans_in_memory_max = 1;
  begin(w);
  tci_str plan = create(w);
  for (int i = 0; i < 4; i++) one_large(w, plan, tci_fmt(&w->arena, "@c%d", i));
  push_out(w, plan);
  return plan;
}

static void a_large_plan_comes_back_in_pieces_and_others_go_on(void **state) {
  world *w = *state;
  tci_str plan = large_plan_on_disk(w);
  forget(w);
  tci_event events[] = {command(4, get(plan)),
                        command(5, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS}),
                        command(6, get(plan)),
                        {.kind = TCI_EVENT_UNWATCH, .token = 6}};
  bool later[4];
  size_t looked_at, turns = 0;
  assert_int_equal(turn_some(w, events, 4, later, &looked_at).code, TCI_OK);
  assert_int_equal(looked_at, 4);
  assert_true(later[0] && !later[1] && later[2] && later[3]); /* what follows one that waits, waits behind it */
  assert_int_equal(w->replies[5], 1);
  tci_event again[] = {events[0], events[2], events[3]};
  do {
    assert_int_equal(tci_engine_next_due_us(w->engine), 0);
    assert_int_equal(turn_some(w, again, 3, later, &looked_at).code, TCI_OK);
    assert_true(turns++ < 10);
  } while (later[0]);
  assert_true(turns > 1);
  assert_int_equal(w->codes[4], TCI_OK);
  assert_int_equal(w->replies[4] + w->replies[6], 2);
  assert_int_equal(tci_core_plan(tci_engine_core(w->engine), plan)->nodes.len, 4);
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

/* The same, and its first piece, which is back in memory, ends while s is still under way. */
static tci_str half_a_plan(world *w) {
  w->options.limits.plans_in_memory_max = 1;
  fault_install();
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "s runner=go attempts=1"), true);
  one_large(w, plan, "@first state=FINAL");
  one_large(w, plan, "@second state=FINAL");
  one(w, answer(w, 0, "FINAL"), true);
  push_out(w, plan);
  tci_event event = command(4, get(plan));
  bool later;
  size_t looked_at;
  w->replies[4] = 0;
  assert_int_equal(turn_some(w, &event, 1, &later, &looked_at).code, TCI_OK);
  assert_true(later);
  assert_int_equal(stage_of(w, plan, "s")->state, TCI_STAGE_ATTEMPTING);
  return plan;
}

/* Its other pieces come; then it is as it was, and can be written to. */
static void comes_back_whole(world *w, tci_str plan) {
  tci_event event = command(4, get(plan));
  bool later;
  size_t looked_at, turns = 0;
  do {
    assert_int_equal(turn_some(w, &event, 1, &later, &looked_at).code, TCI_OK);
    assert_true(turns++ < 10);
  } while (later);
  assert_int_equal(w->codes[4], TCI_OK);
  assert_int_equal(stage_of(w, plan, "s")->node.outcome, TCI_OUTCOME_SUCCEEDED);
  assert_int_equal(tci_engine_open_calls(w->engine), 0);
  one(w, writes(w, 5, plan, "@more"), true);
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

static void what_comes_for_half_a_plan_does_not_move_it(void **state) {
  world *w = *state;
  tci_str plan = half_a_plan(w);
  const tci_core *core = tci_engine_core(w->engine);
  assert_int_equal(core->runner_list.items[0]->load, 0); /* it has no work under way */
  assert_null(tci_core_check(core, &w->arena));
  tci_event late = answer(w, 0, "failure=late"); /* the call was cancelled, say */
  bool later;
  size_t looked_at;
  assert_int_equal(turn_some(w, &late, 1, &later, &looked_at).code, TCI_OK);
  comes_back_whole(w, plan);
}

static void a_runner_that_is_lost_takes_nothing_of_half_a_plan_with_it(void **state) {
  world *w = *state;
  tci_str plan = half_a_plan(w);
  w->now.mono_us += 90000000000;
  tci_event event = {.kind = TCI_EVENT_TICK};
  bool later;
  size_t looked_at;
  assert_int_equal(turn_some(w, &event, 1, &later, &looked_at).code, TCI_OK);
  assert_int_equal(tci_engine_core(w->engine)->runner_list.len, 0);
  comes_back_whole(w, plan);
}

static void a_model_that_wakes_leaves_half_a_plan_alone(void **state) {
  world *w = *state;
  tci_str plan = half_a_plan(w);
  no_disk();
  tci_event event = command(6, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN}), read = command(4, get(plan));
  bool later;
  size_t looked_at;
  assert_int_equal(turn_some(w, &event, 1, &later, &looked_at).code, TCI_OK);
  fault_disarm();
  assert_null(tci_core_plan(tci_engine_core(w->engine), plan));
  tci_event events[] = {read};
  assert_int_equal(turn_some(w, events, 1, &later, &looked_at).code, TCI_OK); /* it sleeps, and reads go on */
  assert_true(later);
  w->now.mono_us += 1000000;
  assert_int_equal(turn_some(w, events, 1, &later, &looked_at).code, TCI_OK);
  comes_back_whole(w, plan);
}

/* ---- streams ---- */

/* The text of a stream from the first event after this sequence. */
static tci_buf rest_after(const tci_buf *stream, uint64_t sequence) {
  const char *at = stream->ptr, *end = at + stream->len;
  while (at < end) {
    char *next;
    if (strtoull(at + 1, &next, 10) > sequence) break;
    size_t len = strtoull(next + 1, &next, 10);
    at = next + 1 + len;
  }
  return (tci_buf){(char *)at, (size_t)(end - at), 0};
}

static void a_stream_resumes_after_any_sequence_as_if_it_had_never_stopped(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  begin(w);
  tci_str plan = create(w);
  one(w, command(3, watch(plan, 0)), false);
  one(w,
      writes(w, 5, plan,
             "@c state=PLANNED opt=a:1; s runner=go checks=c attempts=2 backoff=1; t runner=go mode=async after=s+"),
      true);
  one(w, answer(w, 0, "FINAL failure=flaky details=k:v"), true);
  tick(w, 10);
  one(w, answer(w, 1, "FINAL @c=k:v"), true);
  one(w, writes(w, 5, plan, "@d; t priority=4"), true);
  uint64_t last = tci_core_plan(tci_engine_core(w->engine), plan)->sequence;
  assert_true(last > 20);
  for (uint64_t after = 1; after <= last; after++) {
    tci_buf_clear(&w->streams[4]);
    /* In the turn of a write before it and of one behind it. */
    tci_event events[] = {writes(w, 5, plan, tci_fmt(&w->arena, "@x%d", (int)after)), command(4, watch(plan, after)),
                          writes(w, 6, plan, tci_fmt(&w->arena, "@y%d", (int)after))};
    assert_int_equal(turn(w, events, 3, true).code, TCI_OK);
    tci_buf rest = rest_after(&w->streams[3], after);
    fx_same(&rest, &w->streams[4], "the resumed stream differs (live, resumed)");
    one(w, (tci_event){.kind = TCI_EVENT_UNWATCH, .token = 4}, false);
  }
}

static void a_stream_of_a_plan_that_left_memory_resumes(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, command(3, watch(plan, 0)), false);
  one(w, writes(w, 5, plan, "@c state=FINAL"), true);
  tci_buf live = w->streams[3];
  w->streams[3] = (tci_buf){0};
  reopen(w);
  one(w, command(4, watch(plan, 1)), false);
  fx_same(&live, &w->streams[4], "the resumed stream differs (live, resumed)");
  tci_buf_deinit(&live);
  tci_event future = command(5, watch(plan, 99));
  assert_int_equal(turn(w, &future, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[5], TCI_OUT_OF_RANGE);
}

/* ---- the door ---- */

static void a_reply_over_the_limit_is_refused(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  w->options.limits.reply_bytes_max = 1000;
  begin(w);
  tci_str plan = create(w);
  for (int i = 0; i < 20; i++) one(w, writes(w, 5, plan, tci_fmt(&w->arena, "@c%d opt=key:value", i)), true);
  tci_event query = command(6, (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan});
  query.command.query_nodes.include_checks = true;
  assert_int_equal(turn(w, &query, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[6], TCI_RESOURCE_EXHAUSTED);
  fx_contains(w->texts[6], "reply_bytes_max");
  tci_str id = TCI_STR("c3");
  query.command.query_nodes.check_ids = (tci_ids){&id, 1};
  one(w, query, false);
  assert_true(w->reply_len[6] > 0);
}

static void a_long_list_is_read_over_turns_and_others_come_in_between(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  w->options.limits.turn_reply_bytes_max = 1; /* one part a turn */
  w->options.limits.page_entries_max = 3;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@a; @b; @c; @d; @e; @f; @g"), true);
  tci_event query = command(6, (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan});
  query.command.query_nodes.include_checks = true;
  tci_event second = query, other = command(8, (tci_command){.kind = TCI_COMMAND_GET_PLAN, .plan_id = plan});
  second.token = 7;
  w->reply_len[6] = w->reply_len[7] = w->reply_len[8] = 0;
  tci_event events[] = {query, second, other};
  assert_int_equal(turn(w, events, 3, false).code, TCI_OK);
  assert_true(w->reply_len[8] > 0);
  assert_int_equal(w->reply_len[6] + w->reply_len[7], 0);
  assert_int_equal(tci_engine_next_due_us(w->engine), 0);
  one(w, writes(w, 9, plan, "@h"), true); /* what comes meanwhile is told, too */
  int ticks = 0;
  for (; !w->reply_len[7] && ticks < 20; ticks++) {
    assert_true(w->reply_len[6] || !w->reply_len[7]); /* the oldest first */
    tick(w, 0);
  }
  assert_in_range(ticks, 3, 6);
  assert_int_equal(w->codes[6], TCI_OK);
  assert_int_equal(w->reply_len[6], w->reply_len[7]);
  assert_true(tci_engine_next_due_us(w->engine) > 0);
}

static void what_waits_to_be_read_is_bounded_by_its_bytes(void **state) {
  world *w = *state;
  w->options.limits.turn_reply_bytes_max = w->options.limits.page_entries_max = 1;
  w->options.limits.reads_waiting_bytes_max = 1;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@a; @b; @c"), true);
  tci_event queries[] = {command(6, (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan}),
                         command(7, (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan})};
  for (int i = 0; i < 2; i++) queries[i].command.query_nodes.include_checks = true;
  w->replies[6] = w->replies[7] = 0;
  assert_int_equal(turn(w, queries, 2, false).code, TCI_OK);
  assert_int_equal(w->codes[7], TCI_RESOURCE_EXHAUSTED);
  fx_contains(w->texts[7], "reads_waiting_bytes_max");
  for (int n = 0; n < 10 && !w->replies[6]; n++) tick(w, 0);
  assert_int_equal(w->codes[6], TCI_OK);
  assert_int_equal(turn(w, &queries[1], 1, false).code, TCI_OK); /* there is room again */
  for (int n = 0; n < 10 && w->replies[7] < 2; n++) tick(w, 0);
  assert_int_equal(w->codes[7], TCI_OK);
}

static void nobody_waits_for_a_list_that_will_not_be_read(void **state) {
  world *w = *state;
  fault_install();
  w->options.limits.turn_reply_bytes_max = w->options.limits.page_entries_max = 1;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@a; @b; @c; @d; @e"), true);
  tci_event query = command(6, (tci_command){.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan});
  query.command.query_nodes.include_checks = true;
  w->codes[6] = w->codes[7] = TCI_OK;
  assert_int_equal(turn(w, &query, 1, false).code, TCI_OK);
  tci_event write = writes(w, 8, plan, "@lost");
  no_disk();
  assert_int_equal(turn(w, &write, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[6], TCI_UNAVAILABLE); /* what it was shown so far may not have happened */
  fault_disarm();
  query.token = 7;
  assert_int_equal(turn(w, &query, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[7], TCI_OK);
  reopen(w);
  assert_int_equal(w->codes[7], TCI_UNAVAILABLE);
}

static void addresses_outside_the_allow_list_are_refused(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  begin(w);
  tci_command cmd = fx_register_command("q", "go", "sync", 0, 0);
  cmd.register_runner.address = TCI_STR("10.9.8.7:1");
  tci_event event = command(5, cmd);
  assert_int_equal(turn(w, &event, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[5], TCI_PERMISSION_DENIED);
  assert_false(tci_core_has_runner(tci_engine_core(w->engine), TCI_STR("q")));
}

static void a_runner_registered_under_another_allow_list_is_not_called(void **state) {
  world *w = *state;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "@gate; s runner=go after=@gate"), true);
  w->options.allowed_addresses = (tci_ids){0};
  reopen(w);
  forget(w);
  one(w, writes(w, 5, plan, "@gate state=FINAL"), true);
  assert_string_equal(w->told, "");
  assert_int_equal(tci_engine_next_due_us(w->engine), 0); /* it fails at once, in a turn of its own */
  tick(w, 0);
  const tci_stage *s = stage_of(w, plan, "s");
  assert_int_equal(s->attempts.items[0]->failure.kind, TCI_FAILURE_UNREACHABLE);
  assert_int_equal(s->attempts.len, 2);
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

static void work_left_over_is_due_at_once(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  w->options.limits.policy_asks_per_turn = 1;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go; b runner=go"), true);
  assert_string_equal(w->told, "run ");
  assert_int_equal(tci_engine_next_due_us(w->engine), 0);
  tick(w, 0);
  assert_string_equal(w->told, "run run ");
  tick(w, 0);
  assert_true(tci_engine_next_due_us(w->engine) > w->now.mono_us);
}

/* A turn in which everything is refused at the door steps nothing: what was left over is still there. */
static void work_left_over_outlives_a_turn_without_a_step(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  w->options.limits.policy_asks_per_turn = 1;
  begin(w);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go; b runner=go"), true);
  tci_command cmd = fx_register_command("q", "go", "sync", 0, 0);
  cmd.register_runner.address = TCI_STR("10.9.8.7:1");
  tci_event event = command(6, cmd);
  assert_int_equal(turn(w, &event, 1, false).code, TCI_OK);
  assert_int_equal(w->codes[6], TCI_PERMISSION_DENIED);
  assert_string_equal(w->told, "run ");
  assert_int_equal(tci_engine_next_due_us(w->engine), 0);
  tick(w, 0);
  assert_string_equal(w->told, "run run ");
}

/* ---- policies ---- */

static const char FIRST[] = "return { select = function(ctx) return ctx.runners[1] end }\n";
static const char LAST[] = "return { select = function(ctx) return ctx.runners[#ctx.runners] end }\n";
static const char BROKEN[] = "return {\n  select = function(ctx) retrun 1 end\n}\n";
static const char SOMETIMES[] =
    "return { select = function(ctx) if ctx.plan.metadata.bad then error 'no idea' end return ctx.runners[1] end }\n";

static void put_policy(world *w, const char *name, const char *text) {
  FILE *file = fopen(tci_fmt(&w->arena, "%s/%s.lua", w->policies, name), "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static void attach_policy(world *w, const char *text) {
  assert_int_equal(mkdir(w->policies, 0700), 0);
  w->policies_folder = tci_str_from(w->policies);
  w->options.policies = (tci_policies_options){.folders = {&w->policies_folder, 1}, .server = "choice"};
  put_policy(w, "choice", text);
}

/* Runners r and q, in this order. */
static void begin_with_policy(world *w, const char *text) {
  attach_policy(w, text);
  begin(w);
  one(w, command(2, fx_register_command("q", "go", "both", 0, 86400000)), true);
}

static void ran_on(world *w, tci_str plan, const char *stage, const char *runner) {
  const tci_stage *s = stage_of(w, plan, stage);
  assert_int_equal(s->attempts.len, 1);
  assert_true(tci_str_eq(s->attempts.items[0]->runner_id, tci_str_from(runner)));
}

static const tci_event files_changed = {.kind = TCI_EVENT_POLICIES};
static const tci_command list_policies = {.kind = TCI_COMMAND_LIST_POLICIES};
static const tci_command reload_policies = {.kind = TCI_COMMAND_RELOAD_POLICIES};

/* What model and journal say of "choice"; "" for nothing, in the test's arena. */
static const char *on_record(world *w) {
  const tci_core *core = tci_engine_core(w->engine);
  for (size_t i = 0; i < core->policy_list.len; i++) {
    const tci_policy_entry *entry = core->policy_list.items[i];
    if (tci_str_eq(entry->name, TCI_STR("choice")) && entry->state != TCI_POLICY_GONE)
      return tci_str_z(&w->arena, entry->version);
  }
  return "";
}

static Turboci__V1__ListPoliciesResponse *listed(world *w) {
  one(w, command(9, list_policies), false);
  Turboci__V1__ListPoliciesResponse *r = turboci__v1__list_policies_response__unpack(
      NULL, w->bodies[9].len, (const uint8_t *)(w->bodies[9].len ? w->bodies[9].ptr : ""));
  assert_non_null(r);
  return r;
}

static void unlist(Turboci__V1__ListPoliciesResponse *r) {
  turboci__v1__list_policies_response__free_unpacked(r, NULL);
}

/* The reply at `token` names this policy as changed, or none ("") and the error of the first one. */
static void reloaded(world *w, uint64_t token, const char *changed, const char *error) {
  assert_int_equal(w->codes[token], TCI_OK);
  Turboci__V1__ReloadPoliciesResponse *r = turboci__v1__reload_policies_response__unpack(
      NULL, w->bodies[token].len, (const uint8_t *)(w->bodies[token].len ? w->bodies[token].ptr : ""));
  assert_non_null(r);
  assert_int_equal(r->n_changed, changed[0] ? 1 : 0);
  if (changed[0]) assert_string_equal(r->changed[0], changed);
  assert_int_equal(r->n_policies, 1);
  if (error[0])
    fx_contains(r->policies[0]->error, error);
  else
    assert_string_equal(r->policies[0]->error, "");
  turboci__v1__reload_policies_response__free_unpacked(r, NULL);
}

static void a_policy_that_changed_decides_from_then_on(void **state) {
  world *w = *state;
  begin_with_policy(w, FIRST);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go"), true);
  ran_on(w, plan, "a", "r");
  const char *before = on_record(w);
  assert_int_equal(strlen(before), 16);
  put_policy(w, "choice", LAST);
  tci_event events[] = {writes(w, 5, plan, "b runner=go"), files_changed, writes(w, 6, plan, "c runner=go")};
  assert_int_equal(turn(w, events, 3, true).code, TCI_OK); /* in one commit with what it decides */
  ran_on(w, plan, "b", "r");
  ran_on(w, plan, "c", "q");
  assert_string_not_equal(on_record(w), before);
  tci_engine_counters counters = tci_engine_count(w->engine);
  assert_int_equal(counters.policy_reloads, 1);
  assert_int_equal(counters.policy_asks, 3);
  assert_true(counters.policy_instructions > 0);
  assert_int_equal(counters.policy_faults, 0);
  put_policy(w, "choice", BROKEN);
  one(w, files_changed, false);
  one(w, writes(w, 5, plan, "d runner=go"), true);
  ran_on(w, plan, "d", "q"); /* the old one goes on */
}

static void a_look_that_finds_nothing_new_commits_nothing(void **state) {
  world *w = *state;
  begin_with_policy(w, FIRST);
  put_policy(w, "other", BROKEN);
  int64_t records = tci_engine_count(w->engine).records, commits = tci_engine_count(w->engine).commits;
  one(w, files_changed, false);
  one(w, command(5, reload_policies), false);
  one(w, files_changed, false);
  assert_int_equal(tci_engine_count(w->engine).records, records);
  assert_int_equal(tci_engine_count(w->engine).commits, commits);
  assert_int_equal(tci_engine_count(w->engine).policy_reloads, 0);
}

static void a_restart_with_the_same_policies_journals_nothing_about_them(void **state) {
  world *w = *state;
  begin_with_policy(w, FIRST);
  const char *version = on_record(w);
  reopen(w);
  assert_string_equal(on_record(w), version);
  int64_t records = tci_engine_count(w->engine).records;
  reopen(w);
  assert_int_equal(tci_engine_count(w->engine).records, records);
  tci_engine_close(w->engine);
  put_policy(w, "choice", LAST); /* while nobody looked */
  open_engine(w);
  assert_string_equal(on_record(w), version);
  assert_int_equal(start_engine(w).code, TCI_OK);
  assert_string_not_equal(on_record(w), version);
}

static void policies_are_listed_and_reloaded_on_request(void **state) {
  world *w = *state;
  begin_with_policy(w, FIRST);
  Turboci__V1__ListPoliciesResponse *r = listed(w);
  assert_int_equal(r->n_policies, 1);
  assert_string_equal(r->policies[0]->name, "choice");
  assert_string_equal(r->policies[0]->version, on_record(w));
  assert_int_equal(r->policies[0]->n_hooks, 1);
  assert_string_equal(r->policies[0]->hooks[0], "select");
  assert_int_equal(r->policies[0]->n_attached_to, 1);
  assert_string_equal(r->policies[0]->attached_to[0], "server");
  fx_contains(r->policies[0]->path, "policies/choice.lua");
  unlist(r);
  one(w, command(5, reload_policies), false);
  reloaded(w, 5, "", "");
  put_policy(w, "choice", LAST);
  tci_event events[] = {command(6, reload_policies), command(7, reload_policies)};
  assert_int_equal(turn(w, events, 2, true).code, TCI_OK);
  reloaded(w, 6, "choice", "");
  assert_int_equal(tci_engine_next_due_us(w->engine), 0); /* one look in a turn */
  tick(w, 0);
  reloaded(w, 7, "", "");
  tci_engine_drain(w->engine); /* and while it stops */
  put_policy(w, "choice", BROKEN);
  one(w, command(5, reload_policies), false);
  reloaded(w, 5, "", "choice.lua:2:");
  put_policy(w, "choice", FIRST);
  one(w, command(5, reload_policies), true);
  reloaded(w, 5, "choice", "");
}

static void without_a_folder_nothing_is_listed_or_reloaded(void **state) {
  world *w = *state;
  w->options.store.path = ":memory:";
  begin(w);
  Turboci__V1__ListPoliciesResponse *r = listed(w);
  assert_int_equal(r->n_policies, 0);
  unlist(r);
  int64_t commits = tci_engine_count(w->engine).commits;
  one(w, command(5, reload_policies), false);
  one(w, files_changed, false);
  assert_int_equal(tci_engine_count(w->engine).commits, commits);
}

static void a_default_that_is_gone_leaves_the_built_in_to_decide(void **state) {
  world *w = *state;
  begin_with_policy(w, LAST);
  tci_str plan = create(w);
  one(w, writes(w, 5, plan, "a runner=go"), true);
  ran_on(w, plan, "a", "q");
  assert_int_equal(unlink(tci_fmt(&w->arena, "%s/choice.lua", w->policies)), 0);
  one(w, files_changed, false);
  tick(w, 2000);
  assert_string_equal(on_record(w), "");
  one(w, writes(w, 5, plan, "b runner=go"), true);
  ran_on(w, plan, "b", "r"); /* the least loaded */
  Turboci__V1__ListPoliciesResponse *r = listed(w);
  assert_int_equal(r->n_policies, 1);
  fx_contains(r->policies[0]->error, "built-in");
  unlist(r);
  put_policy(w, "choice", LAST);
  one(w, files_changed, true);
  one(w, writes(w, 5, plan, "c runner=go; d runner=go"), true);
  ran_on(w, plan, "d", "q");
}

static void a_policy_whose_file_is_being_replaced_goes_on(void **state) {
  world *w = *state;
  begin_with_policy(w, LAST);
  tci_str plan = create(w);
  const char *version = on_record(w), *file = tci_fmt(&w->arena, "%s/choice.lua", w->policies);
  assert_int_equal(unlink(file), 0);
  one(w, files_changed, false);
  assert_true(tci_engine_next_due_us(w->engine) <= w->now.mono_us + 2000000);
  tick(w, 1999);
  tci_command named = {.kind = TCI_COMMAND_CREATE_PLAN};
  named.create_plan.policy = TCI_STR("choice");
  one(w, command(5, named), true);
  one(w, writes(w, 5, plan, "a runner=go"), true);
  ran_on(w, plan, "a", "q");
  put_policy(w, "choice", LAST);
  one(w, files_changed, false);
  tick(w, 60000);
  assert_string_equal(on_record(w), version);
  assert_int_equal(unlink(file), 0);
  one(w, command(5, reload_policies), true); /* somebody says so: it is gone */
  reloaded(w, 5, "choice", "built-in");
}

static void a_look_at_many_files_takes_many_turns_and_ends_as_a_whole(void **state) {
  world *w = *state;
  w->options.limits.policy_files_per_turn = 3;
  begin_with_policy(w, FIRST);
  for (int i = 0; i < 8; i++) put_policy(w, tci_fmt(&w->arena, "zz%d", i), FIRST);
  put_policy(w, "choice", LAST);
  w->bodies[5].len = 0;
  const char *first = on_record(w);
  int64_t turns = tci_engine_count(w->engine).turns;
  one(w, command(5, reload_policies), false);
  tci_str plan = create(w); /* turns go on meanwhile, with what was in force */
  assert_string_equal(on_record(w), first);
  put_policy(w, "zz0", LAST);
  one(w, files_changed, false); /* the look is past it: another one follows */
  assert_int_equal(w->bodies[5].len, 0);
  while (tci_engine_next_due_us(w->engine) == 0) tick(w, 0);
  assert_string_not_equal(on_record(w), first);
  assert_int_equal(tci_engine_count(w->engine).policy_reloads, 2);
  assert_true(tci_engine_count(w->engine).turns - turns >= 8);
  assert_true(w->bodies[5].len > 0);
  one(w, writes(w, 6, plan, "a runner=go"), true);
  ran_on(w, plan, "a", "q");
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

static void a_swap_whose_commit_fails_is_on_record_when_it_wakes(void **state) {
  world *w = *state;
  fault_install();
  begin_with_policy(w, FIRST);
  tci_str plan = create(w);
  const char *first = on_record(w);
  put_policy(w, "choice", LAST);
  no_disk();
  tci_event events[] = {command(5, reload_policies), writes(w, 6, plan, "lost runner=go")};
  assert_int_equal(turn(w, events, 2, false).code, TCI_OK);
  assert_int_equal(w->codes[5], TCI_UNAVAILABLE);
  assert_string_equal(on_record(w), first); /* the disk knows no other */
  fault_disarm();
  tick(w, 1000);
  assert_string_not_equal(on_record(w), first);
  one(w, writes(w, 6, plan, "a runner=go"), true);
  ran_on(w, plan, "a", "q");
  tci_buf before = {0}, after = {0};
  dump(w, &before);
  const char *last = on_record(w);
  tci_engine_close(w->engine);
  open_engine(w);
  dump(w, &after);
  fx_same(&before, &after, "memory and disk differ (memory, disk)");
  assert_string_equal(on_record(w), last);
  tci_buf_deinit(&before);
  tci_buf_deinit(&after);
}

static void a_swap_while_the_model_sleeps_counts_when_it_wakes(void **state) {
  world *w = *state;
  fault_install();
  begin_with_policy(w, FIRST);
  tci_str plan = create(w);
  const char *first = on_record(w);
  tci_event write = writes(w, 6, plan, "@lost");
  no_disk();
  assert_int_equal(turn(w, &write, 1, false).code, TCI_OK);
  put_policy(w, "choice", LAST);
  one(w, command(5, reload_policies), false); /* served: it writes nothing */
  reloaded(w, 5, "choice", "");
  put_policy(w, "choice", SOMETIMES);
  one(w, files_changed, false); /* and once more */
  assert_string_equal(on_record(w), first);
  tick(w, 1000); /* still no disk: loaded again, with the newest */
  assert_string_equal(on_record(w), first);
  put_policy(w, "choice", LAST);
  one(w, files_changed, false);
  fault_disarm();
  tick(w, 2000);
  assert_string_not_equal(on_record(w), first);
  Turboci__V1__ListPoliciesResponse *r = listed(w);
  assert_string_equal(r->policies[0]->version, on_record(w));
  unlist(r);
  one(w, writes(w, 6, plan, "a runner=go"), true);
  ran_on(w, plan, "a", "q");
  assert_null(tci_core_check(tci_engine_core(w->engine), &w->arena));
}

static void a_policy_that_keeps_failing_is_counted_and_listed(void **state) {
  world *w = *state;
  begin_with_policy(w, SOMETIMES);
  tci_pair bad = {TCI_STR("bad"), TCI_STR("yes")};
  tci_command cmd = {.kind = TCI_COMMAND_CREATE_PLAN};
  cmd.create_plan.metadata = (tci_pairs){&bad, 1};
  one(w, command(1, cmd), true);
  const tci_core *core = tci_engine_core(w->engine);
  tci_str plan = tci_str_copy(&w->arena, core->plan_list.items[core->plan_list.len - 1]->id);
  one(w, writes(w, 5, plan, "a runner=go; b runner=go; c runner=go; d runner=go; e runner=go"), true);
  assert_string_equal(w->told, "run run run run run "); /* the built-in decides */
  tci_engine_counters counters = tci_engine_count(w->engine);
  assert_int_equal(counters.policy_faults, 3);
  assert_int_equal(counters.policy_circuits_opened, 1);
  Turboci__V1__ListPoliciesResponse *r = listed(w);
  assert_true(r->policies[0]->circuit_open);
  assert_non_null(r->policies[0]->circuit_until);
  assert_int_equal(r->policies[0]->faults, 3);
  fx_contains(r->policies[0]->last_fault, "no idea");
  unlist(r);
}

static void a_missing_default_stops_the_start_before_the_store_is_touched(void **state) {
  world *w = *state;
  attach_policy(w, FIRST);
  w->options.policies.server = "choise";
  tci_sink mine = sink;
  mine.ctx = w;
  assert_int_not_equal(tci_engine_open(&w->options, &mine, w->now, &w->engine, w->message, sizeof w->message).code,
                       TCI_OK);
  assert_null(w->engine);
  fx_contains(w->message, "policy 'choise'");
  fx_contains(w->message, "choice");
  assert_int_equal(access(w->db, F_OK), -1);
}

#undef CLAIM
#define CLAIM(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void) {
  tci_log_set_level(TCI_LOG_OFF); /* failed commits are errors, and meant here */
  (void)core_test_setup, (void)core_test_teardown;
  const struct CMUnitTest tests[] = {
      CLAIM(a_turn_is_one_commit_and_nothing_gets_out_before),
      CLAIM(reads_and_refusals_commit_nothing),
      CLAIM(what_was_acknowledged_is_there_after_a_restart),
      CLAIM(the_first_turn_dispatches_what_waited),
      CLAIM(the_start_with_many_plans_tells_how_far_it_has_come),
      CLAIM(a_failed_commit_never_happened),
      CLAIM(after_a_failed_commit_reads_are_served_and_then_it_wakes),
      CLAIM(calls_of_the_last_engine_are_dead_even_when_the_first_commit_fails),
      CLAIM(a_full_disk_does_not_throw_the_model_away_again_and_again),
      CLAIM(a_damaged_settled_plan_is_refused_alone_and_nothing_of_it_stays),
      CLAIM(a_damaged_open_plan_refuses_the_start_until_it_is_set_aside),
      CLAIM(a_failed_fsync_loses_the_store),
      CLAIM(a_damaged_journal_is_refused_by_name),
      CLAIM(a_draining_engine_finishes_and_begins_nothing),
      CLAIM(settled_plans_are_loaded_when_they_are_named),
      CLAIM(idle_plans_are_evicted_and_come_back_whole),
      CLAIM(a_turn_that_has_had_its_time_leaves_the_rest_to_the_next),
      CLAIM(a_list_that_takes_long_is_read_over_turns),
      CLAIM(a_large_plan_comes_back_in_pieces_and_others_go_on),
      CLAIM(what_comes_for_half_a_plan_does_not_move_it),
      CLAIM(a_runner_that_is_lost_takes_nothing_of_half_a_plan_with_it),
      CLAIM(a_model_that_wakes_leaves_half_a_plan_alone),
      CLAIM(a_stream_resumes_after_any_sequence_as_if_it_had_never_stopped),
      CLAIM(a_stream_of_a_plan_that_left_memory_resumes),
      CLAIM(a_reply_over_the_limit_is_refused),
      CLAIM(a_long_list_is_read_over_turns_and_others_come_in_between),
      CLAIM(what_waits_to_be_read_is_bounded_by_its_bytes),
      CLAIM(nobody_waits_for_a_list_that_will_not_be_read),
      CLAIM(addresses_outside_the_allow_list_are_refused),
      CLAIM(a_runner_registered_under_another_allow_list_is_not_called),
      CLAIM(work_left_over_is_due_at_once),
      CLAIM(work_left_over_outlives_a_turn_without_a_step),
      CLAIM(a_policy_that_changed_decides_from_then_on),
      CLAIM(a_look_that_finds_nothing_new_commits_nothing),
      CLAIM(a_restart_with_the_same_policies_journals_nothing_about_them),
      CLAIM(policies_are_listed_and_reloaded_on_request),
      CLAIM(without_a_folder_nothing_is_listed_or_reloaded),
      CLAIM(a_default_that_is_gone_leaves_the_built_in_to_decide),
      CLAIM(a_policy_whose_file_is_being_replaced_goes_on),
      CLAIM(a_look_at_many_files_takes_many_turns_and_ends_as_a_whole),
      CLAIM(a_swap_whose_commit_fails_is_on_record_when_it_wakes),
      CLAIM(a_swap_while_the_model_sleeps_counts_when_it_wakes),
      CLAIM(a_policy_that_keeps_failing_is_counted_and_listed),
      CLAIM(a_missing_default_stops_the_start_before_the_store_is_touched),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
