/* corruption: whatever happens to the files of a journal is noticed or harmless. One that was damaged at random is refused, by
 * name; or it is served, and then every plan answers what was acknowledged, or DATA_LOSS. Never anything else.
 *
 * One thing goes wrong at a time: with the watermark gone a lost WAL cannot be noticed (engine/store/watermark.c).
 * TCI_SEED=N repeats a run, TURBOCI_CORRUPTIONS=N makes it longer and tells of every round.
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/engine.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "core_fixture.h"

enum { ROUNDS = 40, PLANS = 24, PHASES = 3, PAGE_BYTES = 4096, WAL_HEAD_BYTES = 32, FRAME_BYTES = PAGE_BYTES + 24 };
enum { DB, WAL, MARK, SHM, FILES };
static const char *const suffixes[FILES] = {"", "-wal", ".mark", "-shm"};

/* The files of a journal at one time. */
typedef struct {
  tci_buf bytes[FILES];
  bool there[FILES];
} files;

/* What an engine says that runs on them. */
typedef struct {
  tci_buf plan, nodes;
} said;

typedef struct {
  char folder[64], db[96], message[1024];
  tci_engine *engine;
  tci_time now;
  uint64_t turns;
  tci_arena arena;
  tci_rng rng;
  /* the reply to the last command */
  tci_status status;
  char text[400];
  tci_buf reply;
  int replies;
  char calls[64][128]; /* execution ids of what was dispatched */
  size_t calls_len;
  /* the journal: as it was at the end of each phase, then as it is damaged, checkpointed or not */
  tci_str plans[PLANS];
  files versions[PHASES], with_wal;
  said expected[PLANS];
  tci_buf runners;
  tci_str aside[PLANS]; /* names that --quarantine gets */
  size_t aside_len;
  char damage[200]; /* of this round, in words */
  uint64_t seed;
  int round;
} world;

/* ---- the engine ---- */

static void on_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  (void)token;
  world *w = ctx;
  w->replies++;
  w->status = status;
  snprintf(w->text, sizeof w->text, "%s", status.message ? status.message : "");
  tci_buf_clear(&w->reply);
  tci_buf_add(&w->reply, message);
}

static void on_dispatch(void *ctx, tci_str id, tci_mode mode, tci_str address, const char *method, tci_str request,
                        int64_t us) {
  (void)mode, (void)address, (void)method, (void)request, (void)us;
  world *w = ctx;
  assert_true(w->calls_len < sizeof w->calls / sizeof w->calls[0]);
  snprintf(w->calls[w->calls_len++], sizeof w->calls[0], "%.*s", TCI_STR_ARG(id));
}

static void on_cancel(void *ctx, tci_str id) { (void)ctx, (void)id; }

static void fill_random(world *w, uint8_t random[32]) {
  for (uint64_t i = 0; i < 4; i++) {
    uint64_t key[2] = {w->turns, i}, word = tci_siphash(9, 9, (tci_str){(const char *)key, sizeof key});
    memcpy(random + 8 * i, &word, 8);
  }
  w->turns++;
}

static void bad(const world *w, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
static void bad(const world *w, const char *format, ...) {
  char text[1600];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  print_error("TCI_SEED=%llu round %d, %s: %s\n", (unsigned long long)w->seed, w->round, w->damage, text);
  fail();
  abort();
}

/* NULL when it is running; else why it is refused. */
static const char *start(world *w) {
  static tci_str allowed[] = {TCI_STR("loopback")};
  const tci_sink sink = {.ctx = w, .reply = on_reply, .dispatch = on_dispatch, .cancel = on_cancel};
  tci_engine_options options = {.limits = tci_limits_default(),
                                .store = {.path = w->db},
                                .callback_address = "127.0.0.1:1",
                                .allowed_addresses = {allowed, 1},
                                .quarantine = {w->aside, w->aside_len},
                                .version = "test"};
  options.limits.plans_in_memory_max = 3; /* so that plans are read from the files when they are asked for */
  tci_status status = tci_engine_open(&options, &sink, w->now, &w->engine, w->message, sizeof w->message);
  if (status.code != TCI_OK) return status.message;
  uint8_t random[32];
  fill_random(w, random);
  status = tci_engine_start(w->engine, w->now, random);
  if (status.code != TCI_OK) bad(w, "it was opened, and then the first turn ended it: %s", status.message);
  return NULL;
}

static void stop(world *w) {
  tci_engine_close(w->engine);
  w->engine = NULL;
}

static void turn(world *w, tci_event event) {
  event.now = w->now;
  fill_random(w, event.random);
  tci_status status = tci_engine_turn(w->engine, &event, 1);
  if (status.code != TCI_OK) bad(w, "a turn ended the engine: %s", status.message);
}

static tci_code ask(world *w, tci_command command) {
  w->replies = 0;
  turn(w, (tci_event){.kind = TCI_EVENT_COMMAND, .token = 2, .command = command});
  if (w->replies != 1) bad(w, "%d replies to one command", w->replies);
  return w->status.code;
}

static void must(world *w, tci_command command) {
  if (ask(w, command) != TCI_OK) bad(w, "%s: %s", tci_code_name(w->status.code), w->text);
}

static tci_code get_plan(world *w, tci_str plan) {
  return ask(w, (tci_command){.kind = TCI_COMMAND_GET_PLAN, .plan_id = plan});
}

static tci_code query(world *w, tci_str plan) {
  tci_command command = {.kind = TCI_COMMAND_QUERY_NODES, .plan_id = plan};
  command.query_nodes.include_checks = command.query_nodes.include_stages = true;
  return ask(w, command);
}

/* ---- a journal ---- */

static void write_to(world *w, size_t plan, const char *text) {
  must(w, fx_parse_write(&w->arena, w->plans[plan], text));
}

static void answer_all(world *w) {
  for (size_t i = 0; i < w->calls_len; i++) {
    tci_event event = {.kind = TCI_EVENT_ANSWER};
    event.answer.execution_id = tci_str_from(w->calls[i]);
    event.answer.completion = fx_parse_completion(&w->arena, "FINAL @c=k:v details=out:put");
    turn(w, event);
  }
  w->calls_len = 0;
}

static const char *filler(world *w, size_t bytes) {
  char *text = tci_arena_alloc(&w->arena, bytes + 1);
  for (size_t i = 0; i < bytes; i++) text[i] = (char)('a' + tci_rng_below(&w->rng, 26));
  text[bytes] = '\0';
  return text;
}

static void create_plans(world *w) {
  for (size_t i = 0; i < PLANS; i++) {
    must(w, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN});
    const tci_core *core = tci_engine_core(w->engine);
    w->plans[i] = tci_str_copy(&w->arena, core->plan_list.items[core->plan_list.len - 1]->id);
    size_t bytes = i % 8 == 3 ? 20000 : 100 + 40 * i; /* some are longer than a page */
    write_to(w, i, tci_fmt(&w->arena, "@c opt=key:%s; s runner=go checks=c", filler(w, bytes)));
  }
  answer_all(w); /* work under way would be another one after each start */
}

/* All plans were settled once; every third one is in the end. */
static void change_plans(world *w) {
  for (size_t i = 0; i < PLANS; i++)
    if (i % 3) write_to(w, i, tci_fmt(&w->arena, "@gate; t runner=none after=@gate; @d opt=x:%s", filler(w, 300)));
}

static void change_plans_again(world *w) {
  for (size_t i = 0; i < PLANS; i++) {
    if (i % 6 == 0) write_to(w, i, "@again state=FINAL opt=a:b");
    if (i % 3 == 1) write_to(w, i, tci_fmt(&w->arena, "@e%zu opt=more:%s", i, filler(w, 500)));
  }
  must(w, fx_register_command("late", "go", "both", 2, 86400000));
}

static bool read_file(const char *path, tci_buf *out) {
  tci_buf_clear(out);
  int fd = open(path, O_RDONLY);
  if (fd < 0) return false;
  ssize_t n;
  while ((n = read(fd, tci_buf_reserve(out, 65536), 65536)) > 0) out->len += (size_t)n;
  close(fd);
  return true;
}

static void take(const world *w, files *out) {
  for (int i = 0; i < FILES; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s%s", w->db, suffixes[i]);
    out->there[i] = read_file(path, &out->bytes[i]);
  }
}

static void put(const world *w, const files *in) {
  for (int i = 0; i < FILES; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s%s", w->db, suffixes[i]);
    unlink(path);
    if (!in->there[i]) continue;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, in->bytes[i].ptr, in->bytes[i].len), in->bytes[i].len);
    close(fd);
  }
}

static void free_files(files *f) {
  for (int i = 0; i < FILES; i++) tci_buf_deinit(&f->bytes[i]);
}

static void copy_files(files *to, const files *from) {
  for (int i = 0; i < FILES; i++) {
    to->there[i] = from->there[i];
    tci_buf_clear(&to->bytes[i]);
    tci_buf_add(&to->bytes[i], tci_buf_str(&from->bytes[i]));
  }
}

static void begin(world *w) {
  const char *why = start(w);
  if (why) bad(w, "a whole journal is refused: %s", why);
}

static void build(world *w) {
  static void (*const phases[PHASES])(world *) = {create_plans, change_plans, change_plans_again};
  begin(w);
  must(w, fx_register_command("r", "go", "both", 0, 86400000));
  for (int i = 0; i < PHASES; i++) {
    phases[i](w);
    if (i == PHASES - 1) take(w, &w->with_wal);
    stop(w); /* this moves the WAL into the database */
    take(w, &w->versions[i]);
    begin(w);
  }
  assert_true(w->with_wal.there[WAL] && w->with_wal.bytes[WAL].len > 4 * FRAME_BYTES);
  assert_true(w->versions[PHASES - 1].bytes[WAL].len == 0);
  for (size_t i = 0; i < PLANS; i++) {
    if (get_plan(w, w->plans[i]) != TCI_OK) bad(w, "%s", w->text);
    tci_buf_add(&w->expected[i].plan, tci_buf_str(&w->reply));
    if (query(w, w->plans[i]) != TCI_OK) bad(w, "%s", w->text);
    tci_buf_add(&w->expected[i].nodes, tci_buf_str(&w->reply));
  }
  must(w, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS});
  tci_buf_add(&w->runners, tci_buf_str(&w->reply));
  stop(w);
}

/* ---- damage ---- */

static size_t below(world *w, size_t bound) { return (size_t)tci_rng_below(&w->rng, bound); }

/* Where a block of the file is: a page, or a page in a frame of the WAL. */
static size_t block(world *w, int file, const tci_buf *bytes) {
  if (file == WAL && bytes->len > WAL_HEAD_BYTES + FRAME_BYTES)
    return WAL_HEAD_BYTES + 24 + FRAME_BYTES * below(w, (bytes->len - WAL_HEAD_BYTES) / FRAME_BYTES);
  return bytes->len > PAGE_BYTES ? PAGE_BYTES * below(w, bytes->len / PAGE_BYTES) : 0;
}

static size_t block_bytes(const tci_buf *bytes, size_t at) {
  return bytes->len - at < PAGE_BYTES ? bytes->len - at : PAGE_BYTES;
}

static void flip(world *w, int file, tci_buf *bytes) {
  (void)file;
  size_t n = 1 + below(w, 8);
  for (size_t i = 0; i < n; i++) bytes->ptr[below(w, bytes->len)] ^= (char)(1 << below(w, 8));
}

static void zero(world *w, int file, tci_buf *bytes) {
  size_t at = block(w, file, bytes), len = block_bytes(bytes, at);
  if (len > 512 && below(w, 2)) at += 512 * below(w, len / 512), len = 512;
  memset(bytes->ptr + at, 0, len);
}

static void scribble(world *w, int file, tci_buf *bytes) {
  size_t at = block(w, file, bytes), len = 1 + below(w, block_bytes(bytes, at));
  tci_rng_bytes(&w->rng, bytes->ptr + at, len);
}

static void swap(world *w, int file, tci_buf *bytes) {
  size_t a = block(w, file, bytes), b = block(w, file, bytes);
  for (size_t i = 0; i < PAGE_BYTES && a + i < bytes->len && b + i < bytes->len; i++) {
    char c = bytes->ptr[a + i];
    bytes->ptr[a + i] = bytes->ptr[b + i];
    bytes->ptr[b + i] = c;
  }
}

static void misdirect(world *w, int file, tci_buf *bytes) {
  size_t a = block(w, file, bytes), b = block(w, file, bytes);
  memmove(bytes->ptr + a, bytes->ptr + b, block_bytes(bytes, a > b ? a : b));
}

/* A write that the disk said it had done: the page is as it was at the end of an earlier phase. */
static void lose_write(world *w, int file, tci_buf *bytes) {
  const tci_buf *old = &w->versions[below(w, PHASES - 1)].bytes[file];
  size_t candidates[1024], len = 0;
  for (size_t at = 0; at + PAGE_BYTES <= bytes->len && at + PAGE_BYTES <= old->len && len < 1024; at += PAGE_BYTES)
    if (memcmp(bytes->ptr + at, old->ptr + at, PAGE_BYTES) != 0) candidates[len++] = at;
  if (len == 0) return;
  size_t at = candidates[below(w, len)];
  memcpy(bytes->ptr + at, old->ptr + at, PAGE_BYTES);
}

static void truncate_it(world *w, int file, tci_buf *bytes) {
  bytes->len = below(w, 2) ? block(w, file, bytes) : below(w, bytes->len);
}

static void append_garbage(world *w, int file, tci_buf *bytes) {
  (void)file;
  size_t len = 1 + below(w, 9000);
  tci_rng_bytes(&w->rng, tci_buf_reserve(bytes, len), len);
  bytes->len += len;
}

static const struct {
  const char *name;
  void (*apply)(world *, int, tci_buf *);
} damages[] = {{"flips bits of", flip},
               {"zeroes part of", zero},
               {"scribbles on", scribble},
               {"swaps pages of", swap},
               {"misdirects pages of", misdirect},
               {"loses a write to", lose_write},
               {"truncates", truncate_it},
               {"appends garbage to", append_garbage},
               {"drops", NULL}};
enum { DAMAGES = sizeof damages / sizeof damages[0] };

static void damage(world *w, files *f) {
  static const int share[] = {DB, DB, DB, DB, DB, DB, WAL, WAL, MARK, SHM};
  int file;
  do file = share[below(w, sizeof share / sizeof share[0])];
  while (!f->there[file] || f->bytes[file].len == 0);
  size_t kind = below(w, DAMAGES);
  if (damages[kind].apply == lose_write) file = DB;
  snprintf(w->damage, sizeof w->damage, "%s ci.db%s (%s)", damages[kind].name, suffixes[file],
           f->there[WAL] && f->bytes[WAL].len ? "with a WAL" : "checkpointed");
  if (damages[kind].apply)
    damages[kind].apply(w, file, &f->bytes[file]);
  else
    f->there[file] = false;
}

/* ---- the claim ---- */

static bool is_aside(const world *w, size_t plan) {
  for (size_t i = 0; i < w->aside_len; i++) {
    char number[24];
    snprintf(number, sizeof number, "#%zu", plan + 1);
    if (tci_str_eq(w->aside[i], w->plans[plan]) || tci_str_eq(w->aside[i], tci_str_from(number))) return true;
  }
  return false;
}

static void is_what_was_acknowledged(world *w, size_t plan, tci_code code, const tci_buf *expected, const char *what) {
  if (code == TCI_DATA_LOSS) {
    bool settled = plan % 3 == 0; /* at the end of build() */
    if (!settled && !is_aside(w, plan))
      bad(w, "plan %zu has work left and sleeps, and nobody was told: %s", plan + 1, w->text);
    return;
  }
  if (code != TCI_OK) bad(w, "%s of plan %zu answers %s: %s", what, plan + 1, tci_code_name(code), w->text);
  if (is_aside(w, plan)) bad(w, "%s of plan %zu is answered, which was set aside", what, plan + 1);
  if (!tci_str_eq(tci_buf_str(&w->reply), tci_buf_str(expected)))
    bad(w, "%s of plan %zu is another one: %zu bytes, not %zu", what, plan + 1, w->reply.len, expected->len);
}

/* Returns how many plans answer DATA_LOSS. */
static size_t all_is_as_acknowledged(world *w, size_t except) {
  size_t lost = 0;
  for (size_t i = 0; i < PLANS; i++) {
    if (i == except) continue;
    is_what_was_acknowledged(w, i, get_plan(w, w->plans[i]), &w->expected[i].plan, "GetWorkPlan");
    lost += w->status.code == TCI_DATA_LOSS;
    is_what_was_acknowledged(w, i, query(w, w->plans[i]), &w->expected[i].nodes, "QueryNodes");
  }
  must(w, (tci_command){.kind = TCI_COMMAND_LIST_RUNNERS});
  if (!tci_str_eq(tci_buf_str(&w->reply), tci_buf_str(&w->runners))) bad(w, "the runners are others");
  return lost;
}

/* What is written into it from now on is there at the next start, as the rest is. */
static void works_on(world *w) {
  const size_t writable = 1; /* an open plan */
  bool whole = get_plan(w, w->plans[writable]) == TCI_OK;
  if (whole) write_to(w, writable, "@afterwards");
  must(w, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN});
  stop(w);
  const char *why = start(w);
  if (why) bad(w, "it was served, and is refused at the next start: %s", why);
  all_is_as_acknowledged(w, writable);
  if ((query(w, w->plans[writable]) == TCI_OK) != whole) bad(w, "plan %zu: %s", writable + 1, w->text);
  if (whole && !memmem(w->reply.ptr, w->reply.len, "afterwards", 10)) bad(w, "a write after the damage is lost");
}

/* Does what a refusal says, as an operator would. True: it is served. */
static bool serve(world *w) {
  static const char OPTION[] = "--quarantine '";
  w->aside_len = 0;
  for (;;) {
    const char *why = start(w);
    if (!why) return true;
    if (!strstr(why, "ci.db")) bad(w, "it is refused, but not by name: %s", why);
    const char *name = strstr(why, OPTION);
    if (!name) return false;
    name += strlen(OPTION);
    size_t len = strcspn(name, "'");
    if (w->aside_len == PLANS) bad(w, "setting plans aside does not help: %s", why);
    w->aside[w->aside_len++] = tci_str_copy(&w->arena, (tci_str){name, len});
  }
}

static void one_round(world *w, bool tell) {
  files f = {0};
  copy_files(&f, below(w, 2) ? &w->with_wal : &w->versions[PHASES - 1]);
  damage(w, &f);
  put(w, &f);
  free_files(&f);
  if (tell) print_message("round %d %s: ", w->round, w->damage);
  if (serve(w)) {
    size_t lost = all_is_as_acknowledged(w, PLANS);
    works_on(w);
    stop(w);
    if (tell) print_message("served, %zu set aside, %zu plans answer DATA_LOSS\n", w->aside_len, lost);
  } else if (tell) {
    print_message("refused: %s\n", w->message);
  }
}

static void damage_is_noticed_or_harmless(void **state) {
  world *w = *state;
  const char *given = getenv("TCI_SEED"), *rounds = getenv("TURBOCI_CORRUPTIONS");
  if (given)
    w->seed = strtoull(given, NULL, 0);
  else
    tci_clock_random(&w->seed, sizeof w->seed);
  print_message("TCI_SEED=%llu\n", (unsigned long long)w->seed);
  uint8_t key[32] = {0};
  memcpy(key, &w->seed, sizeof w->seed);
  tci_rng_init(&w->rng, key);
  build(w);
  int len = rounds ? atoi(rounds) : ROUNDS;
  for (w->round = 1; w->round <= len; w->round++) one_round(w, rounds != NULL);
}

static void on_failure(const char *message) { fail_msg("%s", message); }

static int make_world(void **state) {
  world *w = calloc(1, sizeof *w);
  *state = w;
  fx_on_failure = on_failure;
  strcpy(w->folder, "/tmp/tci-corruption-XXXXXX");
  if (!mkdtemp(w->folder)) return -1;
  snprintf(w->db, sizeof w->db, "%s/ci.db", w->folder);
  w->now = (tci_time){.mono_us = 1000000, .wall_us = 1700000000000000};
  return 0;
}

static int free_world(void **state) {
  world *w = *state;
  stop(w);
  put(w, &(files){0});
  char lock[128];
  snprintf(lock, sizeof lock, "%s.lock", w->db);
  unlink(lock);
  rmdir(w->folder);
  for (size_t i = 0; i < PLANS; i++) {
    tci_buf_deinit(&w->expected[i].plan);
    tci_buf_deinit(&w->expected[i].nodes);
  }
  for (int i = 0; i < PHASES; i++) free_files(&w->versions[i]);
  free_files(&w->with_wal);
  tci_buf_deinit(&w->runners);
  tci_buf_deinit(&w->reply);
  tci_arena_deinit(&w->arena);
  free(w);
  return 0;
}

int main(void) {
  tci_log_set_level(TCI_LOG_OFF); /* damage is told, and meant here */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(damage_is_noticed_or_harmless, make_world, free_world),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
