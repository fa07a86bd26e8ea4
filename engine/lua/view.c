/* view: what a policy is asked about, built from a Lua table: a plan, a stage with its attempts, runners. For core.policy
 * (policy.c); the form of the table is told in lua/turboci/_meta/core.lua.
 *
 * 1. Everything lives in the view's arena and is a plausible piece of the model: what the engine's core would not show a
 *    policy (a runner without room, a retry of nothing) is refused.
 * 2. What is not said has a fixed value, never the clock's or a random one: the same table is the same question.
 * 3. An unknown key is refused with the nearest name; every refusal raises and names the place.
 */
#include "lua/view.h"

#include "core/change.h"
#include "google/protobuf/struct.pb-c.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const lua_Number NOW_DEFAULT = 1700000000;
enum { RECENT_MAX = 32 };

/* The table on top of the stack, and its name in messages. */
typedef struct {
  lua_State *L;
  tci_arena *arena;
  const char *path;
} table;

/* ---- values of the table on top; false: not given ---- */

/* Raises; the value is on top. */
static void wrong(const table *t, const char *name, const char *expected) {
  luaL_error(t->L, "%s.%s: expected %s, got a %s", t->path, name, expected, luaL_typename(t->L, -1));
}

static table enter(lua_State *L, tci_arena *arena, const char *path, const char *const *names) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (!lua_istable(L, -1)) luaL_error(L, "%s: expected a table, got a %s", path, luaL_typename(L, -1));
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "%s: its keys are names, not a %s", path, luaL_typename(L, -2));
    const char *key = lua_tostring(L, -2);
    tci_guess guess = tci_guess_start(tci_str_from(key));
    const char *const *name = names;
    for (; *name && strcmp(*name, key) != 0; name++) tci_guess_offer(&guess, tci_str_from(*name));
    if (!*name) luaL_error(L, "%s: there is no '%s'%s", path, key, tci_lua_push_guess(L, &guess));
  }
  return (table){L, arena, path};
}

/* Pushes the table called `name` and enters it. */
static bool enter_field(const table *t, const char *name, const char *const *names, table *out) {
  if (lua_getfield(t->L, -1, name) == LUA_TNIL) return lua_pop(t->L, 1), false;
  *out = enter(t->L, t->arena, tci_fmt(t->arena, "%s.%s", t->path, name), names);
  return true;
}

static bool get_seconds(const table *t, const char *name, int64_t *out_us) {
  bool given = lua_getfield(t->L, -1, name) != LUA_TNIL;
  if (given) {
    lua_Number seconds = lua_type(t->L, -1) == LUA_TNUMBER ? lua_tonumber(t->L, -1) : -1;
    if (!(seconds >= 0 && seconds < 9e9)) wrong(t, name, "seconds, from 0 up");
    *out_us = llround(seconds * 1e6);
  }
  lua_pop(t->L, 1);
  return given;
}

static bool get_integer(const table *t, const char *name, lua_Integer min, lua_Integer max, int64_t *out) {
  bool given = lua_getfield(t->L, -1, name) != LUA_TNIL;
  if (given) {
    int exact = 0;
    lua_Integer value = lua_type(t->L, -1) == LUA_TNUMBER ? lua_tointegerx(t->L, -1, &exact) : 0;
    if (!exact) wrong(t, name, "an integer");
    if (value < min || value > max)
      luaL_error(t->L, "%s.%s: %I is out of range (%I to %I)", t->path, name, value, min, max);
    *out = value;
  }
  lua_pop(t->L, 1);
  return given;
}

static bool get_text(const table *t, const char *name, tci_str *out) {
  bool given = lua_getfield(t->L, -1, name) != LUA_TNIL;
  if (given) {
    if (lua_type(t->L, -1) != LUA_TSTRING) wrong(t, name, "a string");
    *out = tci_str_copy(t->arena, tci_lua_check_str(t->L, -1));
  }
  lua_pop(t->L, 1);
  return given;
}

static bool get_flag(const table *t, const char *name, bool *out) {
  bool given = lua_getfield(t->L, -1, name) != LUA_TNIL;
  if (given) {
    if (!lua_isboolean(t->L, -1)) wrong(t, name, "true or false");
    *out = lua_toboolean(t->L, -1);
  }
  lua_pop(t->L, 1);
  return given;
}

static int by_key(const void *a, const void *b) {
  return tci_str_cmp(((const tci_pair *)a)->key, ((const tci_pair *)b)->key);
}

static void get_pairs(const table *t, const char *name, tci_pairs *out) {
  lua_State *L = t->L;
  if (lua_getfield(L, -1, name) != LUA_TNIL) {
    if (!lua_istable(L, -1)) wrong(t, name, "a table of strings");
    size_t len = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) len++;
    out->items = tci_arena_array(t->arena, tci_pair, len + 1);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
      if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "%s.%s: expected names with strings, got a %s with a %s", t->path, name, luaL_typename(L, -2),
                   luaL_typename(L, -1));
      tci_pair *pair = &out->items[out->len++];
      pair->key = tci_str_copy(t->arena, tci_lua_check_str(L, -2));
      pair->value = tci_str_copy(t->arena, tci_lua_check_str(L, -1));
    }
    qsort(out->items, out->len, sizeof *out->items, by_key);
  }
  lua_pop(L, 1);
}

/* Pushes the list called `name`. */
static bool open_list(const table *t, const char *name, size_t *out_len) {
  if (lua_getfield(t->L, -1, name) == LUA_TNIL) return lua_pop(t->L, 1), false;
  if (!lua_istable(t->L, -1)) wrong(t, name, "a list");
  *out_len = lua_rawlen(t->L, -1);
  size_t keys = 0;
  for (lua_pushnil(t->L); lua_next(t->L, -2); lua_pop(t->L, 1)) keys++;
  if (keys != *out_len) luaL_error(t->L, "%s.%s: expected a list, got a table with other keys", t->path, name);
  return true;
}

static char *item_path(const table *t, const char *name, size_t i) {
  return tci_fmt(t->arena, "%s.%s[%zu]", t->path, name, i + 1);
}

/* ---- plan and stage ---- */

static void read_plan(const table *view, tci_plan *plan, int64_t now_us) {
  static const char *const names[] = {"id", "metadata", "policy", "created", NULL};
  plan->id = TCI_STR("plan");
  plan->created_us = plan->updated_us = now_us;
  plan->state = TCI_PLAN_ACTIVE;
  table t;
  if (!enter_field(view, "plan", names, &t)) return;
  get_text(&t, "id", &plan->id);
  get_pairs(&t, "metadata", &plan->metadata);
  get_text(&t, "policy", &plan->policy);
  get_seconds(&t, "created", &plan->created_us);
  lua_pop(t.L, 1);
}

static void get_args(const table *t, tci_str *out) {
  lua_State *L = t->L;
  if (lua_getfield(L, -1, "args") != LUA_TNIL) {
    int top = lua_gettop(L);
    tci_buf *buf = tci_lua_push_buf(L);
    lua_pushvalue(L, top);
    const tci_message_path path = {NULL, tci_str_from(tci_fmt(t->arena, "%s.args", t->path)), 0};
    if (!tci_message_encode(L, &google__protobuf__struct__descriptor, &path, buf))
      luaL_error(L, "%s", lua_tostring(L, -1));
    *out = tci_str_copy(t->arena, tci_buf_str(buf));
    lua_settop(L, top);
  }
  lua_pop(L, 1);
}

static int64_t milliseconds(const table *t, const char *name) {
  int64_t us = 0;
  return get_seconds(t, name, &us) ? (us < 1000 ? 1 : us / 1000) : 0;
}

static void read_stage(const table *view, tci_stage *stage, int64_t now_us) {
  static const char *const names[] = {"id",    "runner_type", "mode",    "priority", "args",
                                      "retry", "timeouts",    "created", NULL};
  static const char *const retry_names[] = {"max_attempts", "backoff", "backoff_max", NULL};
  static const char *const timeout_names[] = {"execution", "stale", NULL};
  stage->node.kind = TCI_NODE_STAGE;
  stage->node.id = TCI_STR("stage");
  stage->node.created_us = stage->node.updated_us = now_us;
  stage->node.version = 1;
  stage->state = TCI_STAGE_ATTEMPTING;
  stage->runner_type = TCI_STR("test");
  stage->mode = TCI_MODE_SYNC;
  table t, inner;
  if (!enter_field(view, "stage", names, &t)) return;
  get_text(&t, "id", &stage->node.id);
  get_text(&t, "runner_type", &stage->runner_type);
  tci_str mode = TCI_STR("SYNC");
  get_text(&t, "mode", &mode);
  if (tci_str_eq(mode, TCI_STR("ASYNC")))
    stage->mode = TCI_MODE_ASYNC;
  else if (!tci_str_eq(mode, TCI_STR("SYNC")))
    luaL_error(t.L, "%s.mode: expected \"SYNC\" or \"ASYNC\"", t.path);
  get_integer(&t, "priority", -1000000, 1000000, &stage->priority);
  get_args(&t, &stage->args);
  if (enter_field(&t, "retry", retry_names, &inner)) {
    get_integer(&inner, "max_attempts", 1, INT32_MAX, &stage->retry.max_attempts);
    stage->retry.backoff_ms = milliseconds(&inner, "backoff");
    stage->retry.backoff_ms_max = milliseconds(&inner, "backoff_max");
    lua_pop(t.L, 1);
  }
  if (enter_field(&t, "timeouts", timeout_names, &inner)) {
    stage->timeouts.execution_ms = milliseconds(&inner, "execution");
    stage->timeouts.stale_ms = milliseconds(&inner, "stale");
    lua_pop(t.L, 1);
  }
  get_seconds(&t, "created", &stage->node.created_us);
  lua_pop(t.L, 1);
}

/* ---- attempts ---- */

static tci_attempt *add_attempt(tci_view *view) {
  tci_attempt *attempt = tci_arena_new(view->arena, tci_attempt);
  attempt->stage = &view->stage;
  attempt->mode = view->stage.mode;
  view->stage.attempts.items[view->stage.attempts.len++] = attempt;
  attempt->index = (uint32_t)view->stage.attempts.len;
  return attempt;
}

static void read_failure(const table *t, tci_failure *out) {
  static const char *const names[] = {"kind", "message", NULL};
  lua_State *L = t->L;
  tci_str kind = TCI_STR("REPORTED");
  int type = lua_getfield(L, -1, "failure");
  if (type == LUA_TSTRING) {
    kind = tci_str_copy(t->arena, tci_lua_check_str(L, -1));
  } else if (type == LUA_TTABLE) {
    table inner = enter(L, t->arena, tci_fmt(t->arena, "%s.failure", t->path), names);
    get_text(&inner, "kind", &kind);
    get_text(&inner, "message", &out->message);
  } else if (type != LUA_TNIL) {
    wrong(t, "failure", "a kind such as \"TIMEOUT\", or { kind =, message = }");
  }
  tci_guess guess = tci_guess_start(kind);
  for (int i = TCI_FAILURE_REPORTED; i <= TCI_FAILURE_POLICY; i++) {
    if (tci_str_eq(kind, tci_str_from(tci_failure_kind_name(i)))) out->kind = (tci_failure_kind)i;
    tci_guess_offer(&guess, tci_str_from(tci_failure_kind_name(i)));
  }
  if (out->kind == TCI_FAILURE_UNKNOWN)
    luaL_error(L, "%s.failure: there is no kind '%s'%s", t->path, tci_str_z(t->arena, kind),
               tci_lua_push_guess(L, &guess));
  out->present = true;
  lua_pop(L, 1);
}

/* One that has ended, `end_us` unless it says otherwise; the next one is ready no earlier. */
static void read_attempt(const table *t, tci_attempt *attempt, int64_t end_us) {
  int64_t queued_us = 0, ran_us = 0;
  bool ran = get_text(t, "runner", &attempt->runner_id);
  ran |= get_seconds(t, "ran", &ran_us);
  get_seconds(t, "queued", &queued_us);
  get_seconds(t, "ended", &end_us);
  read_failure(t, &attempt->failure);
  attempt->failure.occurred_us = end_us;
  attempt->state = TCI_ATTEMPT_INCOMPLETE;
  attempt->execution = TCI_EXECUTION_FAILED;
  attempt->finished_us = attempt->updated_us = end_us;
  if (ran) attempt->dispatched_us = attempt->started_us = end_us - ran_us;
  attempt->created_us = end_us - ran_us - queued_us;
  attempt->ready_mono_us = attempt->created_us;
}

static void read_attempts(const table *view_table, tci_view *view, tci_hook hook, int64_t waited_us) {
  static const char *const names[] = {"runner", "failure", "queued", "ran", "ended", NULL};
  lua_State *L = view_table->L;
  size_t len = 0;
  bool given = open_list(view_table, "attempts", &len);
  view->stage.attempts.items = tci_arena_array(view->arena, tci_attempt *, len + 1);
  view->stage.attempts.cap = len + 1;
  for (size_t i = 0; i < len; i++) add_attempt(view);
  int64_t ready_us = view->question.now.wall_us - waited_us;
  int64_t end_us = hook == TCI_HOOK_RETRY ? view->question.now.wall_us : ready_us;
  for (size_t i = len; i-- > 0;) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    table t = enter(L, view->arena, item_path(view_table, "attempts", i), names);
    read_attempt(&t, view->stage.attempts.items[i], end_us);
    end_us = view->stage.attempts.items[i]->created_us;
    lua_pop(L, 1);
  }
  if (given) lua_pop(L, 1);
  if (hook == TCI_HOOK_RETRY) {
    if (len == 0)
      luaL_error(L,
                 "%s.attempts: retry is asked about the last of them: attempts = { { runner = \"a\", "
                 "failure = \"TIMEOUT\" } }",
                 view_table->path);
    view->question.attempt = view->stage.attempts.items[len - 1];
    return;
  }
  tci_attempt *waiting = add_attempt(view);
  waiting->state = TCI_ATTEMPT_PENDING;
  waiting->execution = TCI_EXECUTION_PENDING;
  waiting->created_us = waiting->updated_us = waiting->ready_mono_us = ready_us;
  view->question.attempt = waiting;
}

/* ---- runners ---- */

/* The newest is in bit 0. */
static void read_recent(const table *t, tci_runner *runner) {
  int64_t succeeded = 0, failed = 0;
  bool last_failed = false;
  get_integer(t, "succeeded", 0, RECENT_MAX, &succeeded);
  get_integer(t, "failed", 0, RECENT_MAX, &failed);
  bool said = get_flag(t, "last_failed", &last_failed);
  if (!said) last_failed = succeeded == 0 && failed > 0;
  if (last_failed && failed == 0) failed = 1;
  if (succeeded + failed > RECENT_MAX)
    luaL_error(t->L, "%s: succeeded and failed are of its last %d executions", t->path, RECENT_MAX);
  if (said && !last_failed && failed > 0 && succeeded == 0)
    luaL_error(t->L, "%s: last_failed = false, but none has succeeded", t->path);
  runner->recent_len = (uint32_t)(succeeded + failed);
  uint64_t ones = ((uint64_t)1 << failed) - 1;
  runner->recent = (uint32_t)(last_failed ? ones : ones << succeeded);
}

static void read_runner(const table *t, tci_runner *runner) {
  static const int64_t most = (int64_t)1 << 53;
  if (!get_text(t, "id", &runner->runner_id) || runner->runner_id.len == 0)
    luaL_error(t->L, "%s: it needs an id", t->path);
  get_text(t, "type", &runner->runner_type);
  get_integer(t, "load", 0, most, &runner->load);
  get_integer(t, "capacity", 1, INT32_MAX, &runner->max_concurrent);
  if (runner->max_concurrent > 0 && runner->load >= runner->max_concurrent)
    luaL_error(t->L, "%s: load %I of %I: who has no room is not shown to a policy", t->path, (lua_Integer)runner->load,
               (lua_Integer)runner->max_concurrent);
  get_pairs(t, "metadata", &runner->metadata);
  get_seconds(t, "registered", &runner->registered_us);
  int64_t used = 0;
  bool used_said = get_integer(t, "used", 0, most, &used);
  bool time_said = get_seconds(t, "last_used", &runner->last_used_us);
  if (!used_said && time_said) used = 1;
  if (!time_said && used > 0) runner->last_used_us = runner->heartbeat_us;
  runner->last_used = (uint64_t)used;
  read_recent(t, runner);
}

static void read_runners(const table *view_table, tci_view *view, uint64_t *serial) {
  static const char *const names[] = {"id",   "type",      "load",      "capacity", "metadata",    "registered",
                                      "used", "last_used", "succeeded", "failed",   "last_failed", NULL};
  lua_State *L = view_table->L;
  size_t len = 0;
  bool given = open_list(view_table, "runners", &len);
  tci_runner **runners = tci_arena_array(view->arena, tci_runner *, len + 1);
  for (size_t i = 0; i < len; i++) {
    tci_runner *runner = runners[i] = tci_arena_new(view->arena, tci_runner);
    const int64_t now_us = view->question.now.wall_us;
    runner->runner_type = view->stage.runner_type;
    runner->registered_us = runner->heartbeat_us = now_us;
    runner->expires_us = now_us + view->question.limits->runner_ttl_ms * 1000;
    runner->expires_mono_us = runner->expires_us;
    runner->modes[TCI_MODE_SYNC] = runner->modes[TCI_MODE_ASYNC] = true;
    tci_list_init(&runner->live);
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    char *path = item_path(view_table, "runners", i);
    if (lua_type(L, -1) == LUA_TSTRING) {
      runner->runner_id = tci_str_copy(view->arena, tci_lua_check_str(L, -1));
    } else {
      table t = enter(L, view->arena, path, names);
      read_runner(&t, runner);
    }
    lua_pop(L, 1);
    runner->registration_id = runner->runner_id;
    runner->serial = ++*serial;
    runner->slot = (uint32_t)i;
    runner->revision = 1;
    for (size_t j = 0; j < i; j++)
      if (tci_str_eq(runners[j]->runner_id, runner->runner_id)) luaL_error(L, "%s: the same id again", path);
  }
  if (given) lua_pop(L, 1);
  view->question.candidates = runners;
  view->question.candidates_len = len;
}

/* ---- the whole ---- */

enum { EXCLUDED_MAX = 256 };

/* Which ones a policy is not shown. */
static void exclude_so_many(tci_view *view, int64_t n) {
  tci_ids ids = {tci_arena_array(view->arena, tci_str, (size_t)n + 1), 0};
  while (ids.len < (size_t)n) ids.items[ids.len++] = TCI_STR("excluded");
  tci_buf bytes = {0};
  tci_ids_encode(ids, &bytes);
  tci_attempt *a = view->stage.attempts.items[view->stage.attempts.len - 1];
  a->exclude = tci_str_copy(view->arena, tci_buf_str(&bytes));
  tci_buf_deinit(&bytes);
}

tci_view *tci_lua_check_view(lua_State *L, int arg, tci_hook hook, const tci_limits *limits, uint64_t *serial) {
  static const char *const names[] = {"now", "seed", "plan", "stage", "attempt", "attempts", "runners", NULL};
  static const char *const attempt_names[] = {"waited", "excluded", "elsewhere", NULL};
  tci_arena *arena = tci_lua_push_arena(L); /* stays on the stack: keeps the view */
  tci_view *view = tci_arena_new(arena, tci_view);
  view->arena = arena;
  lua_pushvalue(L, arg);
  table t = enter(L, arena, "view", names), inner;
  int64_t now_us = (int64_t)(NOW_DEFAULT * 1e6), seed = 1, waited_us = 0, excluded = 0;
  bool elsewhere = true;
  get_seconds(&t, "now", &now_us);
  get_integer(&t, "seed", INT64_MIN, INT64_MAX, &seed);
  uint8_t key[32] = {0};
  memcpy(key, &seed, sizeof seed);
  tci_rng_init(&view->rng, key);
  if (enter_field(&t, "attempt", attempt_names, &inner)) {
    get_seconds(&inner, "waited", &waited_us);
    get_integer(&inner, "excluded", 0, EXCLUDED_MAX, &excluded);
    get_flag(&inner, "elsewhere", &elsewhere);
    lua_pop(L, 1);
  }
  view->question = (tci_question){.limits = limits, .rng = &view->rng, .arena = arena, .stage = &view->stage};
  view->question.now = (tci_time){now_us, now_us}; /* both clocks alike: only distances count */
  view->plan.key = ++*serial;
  view->plan.version = (int64_t)*serial;
  read_plan(&t, &view->plan, now_us);
  view->stage.node.plan = &view->plan;
  read_stage(&t, &view->stage, now_us);
  read_attempts(&t, view, hook, waited_us);
  exclude_so_many(view, excluded);
  view->question.elsewhere = elsewhere;
  read_runners(&t, view, serial);
  if (hook == TCI_HOOK_SELECT && view->question.candidates_len == 0)
    luaL_error(L, "view.runners: select is asked when somebody has room: runners = { \"a\", \"b\" }");
  lua_pop(L, 1);
  return view;
}
