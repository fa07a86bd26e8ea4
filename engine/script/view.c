/* view: what a hook is shown. A view is an empty table whose metatable leads to the data behind it and refuses writing.
 *
 * 1. The metatable of a view begins with its kind; its __index is the data. Scripts cannot reach it.
 * 2. Views of which there is one (the plan, the stage, ...) are tables of the policy that are filled anew in each call
 *    in which they are read; a script that keeps one sees later data, never memory that is gone.
 * 3. What costs is built when it is read: the parts of ctx, the args of the stage, the metadata of a runner. `built`
 *    remembers which parts: when the call has ended they are gone.
 *
 * Callers: script.c (tci_view_begin), library.c and answer.c (kinds and data). Runners are in runners.c, args in
 * args.c.
 */
#include "script/internal.h"

#include "core/change.h"
#include <string.h>

enum { FIXED = 10 /* the fixed places of the stack are found here in the registry, too */ };

enum { PART_PLAN, PART_STAGE, PART_ATTEMPT, PART_ATTEMPTS, PART_FAILURE, PART_DEFAULTS, PARTS };
static const char *const part_names[PARTS] = {"plan", "stage", "attempt", "attempts", "failure", "defaults"};

/* ---- views as such ---- */

static int refuse_write(lua_State *L) {
  static const char *const names[] = {
      "?",
      "?",
      "ctx",
      "ctx.defaults",
      "ctx.plan",
      "ctx.stage",
      "ctx.stage.retry",
      "ctx.stage.timeouts",
      "ctx.stage.args",
      "ctx.attempt",
      "ctx.attempts",
      "an entry of ctx.attempts",
      "a failure",
      "ctx.runners",
      "a runner of ctx.runners",
      "metadata",
  };
  int kind = tci_view_kind(L, 1);
  if (kind != TCI_VIEW_LIBRARY) return luaL_error(L, "%s is read-only", names[kind]);
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
  return luaL_error(L, "cannot set '%s': globals and libraries are read-only; use a local", key);
}

/* Pushes the data of the view at `at`. */
static void push_data(lua_State *L, int at) {
  lua_getmetatable(L, at);
  lua_pushliteral(L, "__index");
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

static int view_len(lua_State *L) {
  if (!tci_view_kind(L, 1)) return luaL_error(L, "not a view");
  push_data(L, 1);
  lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1));
  return 1;
}

static bool is_list(tci_view kind) {
  return kind == TCI_VIEW_RUNNERS || kind == TCI_VIEW_ATTEMPTS || kind == TCI_VIEW_ARGS;
}

void tci_view_new(lua_State *L, tci_view kind, int list, int fields) {
  luaL_checkstack(L, 10, NULL);
  lua_createtable(L, 0, 0);
  lua_createtable(L, list, fields);
  lua_createtable(L, 1, is_list(kind) ? 3 : 2);
  lua_pushinteger(L, kind);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, refuse_write);
  lua_setfield(L, -2, "__newindex");
  if (is_list(kind)) {
    lua_pushcfunction(L, view_len);
    lua_setfield(L, -2, "__len");
  }
  lua_setmetatable(L, -3);
}

int tci_view_kind(lua_State *L, int at) {
  if (lua_type(L, at) != LUA_TTABLE || !lua_getmetatable(L, at)) return 0;
  int kind = lua_rawgeti(L, -1, 1) == LUA_TNUMBER ? (int)lua_tointeger(L, -1) : 0;
  lua_pop(L, 2);
  return kind;
}

void tci_view_data(lua_State *L, int at) {
  at = lua_absindex(L, at);
  int kind = tci_view_kind(L, at);
  if (!kind) {
    lua_pushvalue(L, at);
    return;
  }
  push_data(L, at);
  for (int part = 0; kind == TCI_VIEW_CTX && part < PARTS; part++) { /* invariant 3: reading is building */
    lua_getfield(L, -1, part_names[part]);
    lua_pop(L, 1);
  }
  if (kind == TCI_VIEW_STAGE || kind == TCI_VIEW_RUNNER) {
    lua_getfield(L, -1, kind == TCI_VIEW_STAGE ? "args" : "metadata");
    lua_pop(L, 1);
    if (kind == TCI_VIEW_STAGE) lua_getfield(L, -1, "args_omitted");
    if (kind == TCI_VIEW_STAGE) lua_pop(L, 1);
  }
}

/* ---- filling; the data is on top ---- */

static void set_text(lua_State *L, const char *name, tci_str text) {
  lua_pushlstring(L, text.ptr ? text.ptr : "", text.len);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, int64_t n) {
  lua_pushinteger(L, n);
  lua_setfield(L, -2, name);
}

static void set_seconds(lua_State *L, const char *name, int64_t us) {
  lua_pushnumber(L, (lua_Number)us / 1e6);
  lua_setfield(L, -2, name);
}

static void set_nil_at(lua_State *L, int at, const char *name) {
  lua_pushnil(L);
  lua_setfield(L, at, name);
}

static void set_nil(lua_State *L, const char *name) { set_nil_at(L, lua_gettop(L), name); }

void tci_push_fixed(lua_State *L, int at) { lua_rawgeti(L, LUA_REGISTRYINDEX, FIXED + at); }

static int64_t ready_us(const tci_attempt *a) {
  return a->not_before_us > a->created_us ? a->not_before_us : a->created_us;
}

static int64_t not_negative(int64_t us) { return us > 0 ? us : 0; }

static int64_t ended_us(const tci_question *q, const tci_attempt *a) {
  return a->finished_us ? a->finished_us : q->now.wall_us;
}

/* ---- the parts of ctx: each pushes its value ---- */

static void push_plan(tci_script *s, lua_State *L) {
  const tci_plan *plan = s->question->stage->node.plan;
  tci_push_fixed(L, TCI_AT_PLAN);
  tci_push_fixed(L, TCI_AT_PLAN_DATA);
  set_text(L, "id", plan->id);
  set_seconds(L, "created", plan->created_us);
  if (plan->policy.len)
    set_text(L, "policy", plan->policy);
  else
    set_nil(L, "policy");
  if (tci_metadata_differs(&s->plan_metadata, plan->metadata)) {
    size_t before = s->used_bytes;
    tci_view_metadata(L, plan->metadata);
    lua_setfield(L, -2, "metadata");
    s->plan_bytes = s->used_bytes - before;
    s->view_cost += 10 * (int64_t)plan->metadata.len;
  }
  lua_pop(L, 1);
}

static void set_retry(lua_State *L, const tci_retry *retry) {
  if (!retry->max_attempts && !retry->backoff_ms && !retry->backoff_ms_max) {
    set_nil(L, "retry");
    return;
  }
  tci_view_new(L, TCI_VIEW_RETRY, 0, 3);
  if (retry->max_attempts) set_integer(L, "max_attempts", retry->max_attempts);
  if (retry->backoff_ms) set_seconds(L, "backoff", retry->backoff_ms * 1000);
  if (retry->backoff_ms_max) set_seconds(L, "backoff_max", retry->backoff_ms_max * 1000);
  lua_pop(L, 1);
  lua_setfield(L, -2, "retry");
}

static void set_timeouts(lua_State *L, const tci_timeouts *timeouts) {
  if (!timeouts->execution_ms && !timeouts->stale_ms) {
    set_nil(L, "timeouts");
    return;
  }
  tci_view_new(L, TCI_VIEW_TIMEOUTS, 0, 2);
  if (timeouts->execution_ms) set_seconds(L, "execution", timeouts->execution_ms * 1000);
  if (timeouts->stale_ms) set_seconds(L, "stale", timeouts->stale_ms * 1000);
  lua_pop(L, 1);
  lua_setfield(L, -2, "timeouts");
}

static void push_stage(tci_script *s, lua_State *L) {
  const tci_stage *stage = s->question->stage;
  tci_push_fixed(L, TCI_AT_STAGE);
  tci_push_fixed(L, TCI_AT_STAGE_DATA);
  set_text(L, "id", stage->node.id);
  set_text(L, "runner_type", stage->runner_type);
  set_text(L, "mode", stage->mode == TCI_MODE_ASYNC ? TCI_STR("ASYNC") : TCI_STR("SYNC"));
  set_integer(L, "priority", stage->priority);
  set_seconds(L, "created", stage->node.created_us);
  set_retry(L, &stage->retry);
  set_timeouts(L, &stage->timeouts);
  lua_pop(L, 1);
}

static void push_attempt(tci_script *s, lua_State *L) {
  const tci_question *q = s->question;
  const tci_attempt *a = q->attempt;
  int64_t waited_us = q->now.mono_us - a->ready_mono_us;
  if (s->hook == TCI_HOOK_RETRY) waited_us = (a->dispatched_us ? a->dispatched_us : ended_us(q, a)) - ready_us(a);
  tci_push_fixed(L, TCI_AT_ATTEMPT);
  tci_push_fixed(L, TCI_AT_ATTEMPT_DATA);
  set_integer(L, "index", a->index);
  set_seconds(L, "waited", not_negative(waited_us));
  tci_ids excluded = {NULL, 0};
  (void)tci_ids_decode(a->exclude, q->arena, &excluded);
  set_integer(L, "excluded", (int64_t)excluded.len);
  if (s->hook == TCI_HOOK_RETRY || s->hook == TCI_HOOK_TIMEOUT)
    lua_pushboolean(L, q->elsewhere);
  else
    lua_pushnil(L);
  lua_setfield(L, -2, "elsewhere");
  lua_pop(L, 1);
}

/* A message may be long (a log); in scripts texts may not, so that they can do with it what they like. */
static tci_str start_of(lua_State *L, tci_str text) {
  size_t most = (size_t)tci_script_of(L)->limits.policy_string_bytes_max / 2;
  if (text.len <= most) return text;
  while (most > 0 && ((uint8_t)text.ptr[most] & 0xc0) == 0x80) most--;
  return (tci_str){text.ptr, most};
}

static void push_failure(lua_State *L, const tci_failure *failure) {
  tci_view_new(L, TCI_VIEW_FAILURE, 0, 2);
  set_text(L, "kind", tci_str_from(tci_failure_kind_name(failure->kind)));
  tci_push_text(L, start_of(L, failure->message));
  lua_setfield(L, -2, "message");
  lua_pop(L, 1);
}

static void push_ended(lua_State *L, const tci_question *q, const tci_attempt *a) {
  tci_view_new(L, TCI_VIEW_ENDED, 0, 6);
  set_integer(L, "index", a->index);
  if (a->runner_id.len) set_text(L, "runner", a->runner_id);
  push_failure(L, &a->failure);
  lua_setfield(L, -2, "failure");
  int64_t end_us = ended_us(q, a), until_us = a->dispatched_us ? a->dispatched_us : end_us;
  set_seconds(L, "queued", not_negative(until_us - ready_us(a)));
  if (a->dispatched_us) set_seconds(L, "ran", not_negative(end_us - a->dispatched_us));
  set_seconds(L, "ended", end_us);
  lua_pop(L, 1);
}

static bool has_ended(const tci_script *s, const tci_attempt *a) {
  return !tci_attempt_is_open(a) || (s->hook == TCI_HOOK_RETRY && a == s->question->attempt);
}

static void push_attempts(tci_script *s, lua_State *L) {
  const tci_stage *stage = s->question->stage;
  lua_Integer n = 0;
  for (size_t i = 0; i < stage->attempts.len; i++) {
    const tci_attempt *a = stage->attempts.items[i];
    if (!has_ended(s, a)) continue;
    if (n++ == 0) tci_view_new(L, TCI_VIEW_ATTEMPTS, (int)stage->attempts.len, 0);
    push_ended(L, s->question, a);
    lua_rawseti(L, -2, n);
    s->view_cost += 100;
  }
  if (n)
    lua_pop(L, 1);
  else
    tci_push_fixed(L, TCI_AT_EMPTY_LIST);
}

static void push_defaults(tci_script *s, lua_State *L) {
  const tci_limits *limits = s->question->limits;
  tci_view_new(L, TCI_VIEW_DEFAULTS, 0, 6);
  set_integer(L, "attempts_max", limits->attempts_max);
  set_integer(L, "delivery_attempts_max", limits->delivery_attempts_max);
  set_seconds(L, "backoff", limits->backoff_ms * 1000);
  set_seconds(L, "backoff_max", limits->backoff_ms_max * 1000);
  set_seconds(L, "execution", limits->execution_timeout_ms * 1000);
  set_seconds(L, "stale", limits->stale_timeout_ms * 1000);
  lua_pop(L, 1);
}

/* __index of ctx's data: (data, key). */
static int read_ctx(lua_State *L) {
  tci_script *s = tci_script_of(L);
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  int part = 0;
  while (part < PARTS && strcmp(key, part_names[part]) != 0) part++;
  if (part == PARTS || !s->question || (part == PART_FAILURE && s->hook != TCI_HOOK_RETRY)) return 0;
  luaL_checkstack(L, 20, NULL);
  s->building = true;
  s->view_cost += 60;
  switch (part) {
    case PART_PLAN: push_plan(s, L); break;
    case PART_STAGE: push_stage(s, L); break;
    case PART_ATTEMPT: push_attempt(s, L); break;
    case PART_ATTEMPTS: push_attempts(s, L); break;
    case PART_FAILURE: push_failure(L, &s->question->attempt->failure); break;
    case PART_DEFAULTS: push_defaults(s, L); break;
  }
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  s->built |= 1u << part;
  s->building = false;
  return 1;
}

/* ---- chance ---- */

static int call_random(lua_State *L) {
  tci_script *s = tci_script_of(L);
  if (!s->question) return luaL_error(L, "random is for hooks only");
  tci_sandbox_charge(L, 10);
  tci_rng *rng = s->question->rng;
  int n = lua_gettop(L);
  if (n == 0) {
    lua_pushnumber(L, (lua_Number)(tci_rng_u64(rng) >> 11) * 0x1p-53);
    return 1;
  }
  lua_Integer low = n == 1 ? 1 : tci_check_integer(L, 1), high = tci_check_integer(L, n == 1 ? 1 : 2);
  luaL_argcheck(L, low <= high, n == 1 ? 1 : 2, "interval is empty");
  lua_Unsigned width = (lua_Unsigned)high - (lua_Unsigned)low + 1;
  lua_Unsigned draw = width ? tci_rng_below(rng, width) : tci_rng_u64(rng);
  lua_pushinteger(L, (lua_Integer)((lua_Unsigned)low + draw));
  return 1;
}

/* ---- a state's views, and a call's ---- */

static void set_reader(lua_State *L, lua_CFunction reader) { /* of the data on top */
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, reader);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

void tci_view_open(tci_script *s) {
  static const struct {
    int at;
    tci_view kind;
    bool has_data; /* in the place behind it */
  } views[] = {
      {TCI_AT_CTX, TCI_VIEW_CTX, true},
      {TCI_AT_RUNNERS, TCI_VIEW_RUNNERS, true},
      {TCI_AT_PLAN, TCI_VIEW_PLAN, true},
      {TCI_AT_STAGE, TCI_VIEW_STAGE, true},
      {TCI_AT_ATTEMPT, TCI_VIEW_ATTEMPT, true},
      {TCI_AT_EMPTY_LIST, TCI_VIEW_ATTEMPTS, false},
      {TCI_AT_EMPTY_METADATA, TCI_VIEW_METADATA, false},
  };
  lua_State *L = s->L;
  for (size_t i = 0; i < sizeof views / sizeof *views; i++) {
    tci_view_new(L, views[i].kind, 0, views[i].has_data ? 16 : 0);
    if (views[i].has_data)
      lua_replace(L, views[i].at + 1);
    else
      lua_pop(L, 1);
    lua_replace(L, views[i].at);
  }
  for (int at = TCI_AT_RUNNER_VIEWS; at <= TCI_AT_RUNNER_META; at++) {
    lua_createtable(L, 0, 1);
    lua_replace(L, at);
  }
  lua_pushcfunction(L, tci_view_read_runner);
  lua_setfield(L, TCI_AT_RUNNER_META, "__index");
  lua_pushvalue(L, TCI_AT_CTX_DATA);
  set_reader(L, read_ctx);
  lua_pushcfunction(L, call_random);
  lua_setfield(L, -2, "random");
  lua_pushvalue(L, TCI_AT_STAGE_DATA);
  set_reader(L, tci_args_read);
  lua_pushvalue(L, TCI_AT_PLAN_DATA);
  lua_pushvalue(L, TCI_AT_EMPTY_METADATA);
  lua_setfield(L, -2, "metadata");
  lua_pop(L, 3);
  for (int at = 1; at < TCI_AT_KEYS; at++) {
    lua_pushvalue(L, at);
    lua_rawseti(L, LUA_REGISTRYINDEX, FIXED + at);
  }
  s->hook = TCI_HOOKS;
}

/* What was built for one call is garbage afterwards, and not what a policy keeps. */
void tci_view_end(tci_script *s) {
  lua_State *L = s->L;
  s->question = NULL;
  s->building = true;
  for (unsigned part = 0; s->built >> part; part++) {
    if (!(s->built >> part & 1)) continue;
    lua_pushnil(L);
    lua_setfield(L, TCI_AT_CTX_DATA, part_names[part]);
  }
  s->built = 0;
  if (s->args_values >= 0) { /* they were read */
    set_nil_at(L, TCI_AT_STAGE_DATA, "args");
    set_nil_at(L, TCI_AT_STAGE_DATA, "args_omitted");
  }
  s->building = false;
}

void tci_view_begin(tci_script *s, const tci_question *q, tci_hook hook) {
  lua_State *L = s->L;
  s->building = true;
  if (hook != s->hook) {
    lua_pushstring(L, tci_hook_name(hook));
    lua_setfield(L, TCI_AT_CTX_DATA, "hook");
    if (hook == TCI_HOOK_SELECT)
      lua_pushvalue(L, TCI_AT_RUNNERS);
    else
      lua_pushnil(L);
    lua_setfield(L, TCI_AT_CTX_DATA, "runners");
    s->hook = hook;
  }
  lua_pushnumber(L, (lua_Number)q->now.wall_us / 1e6);
  lua_setfield(L, TCI_AT_CTX_DATA, "now");
  s->question = q;
  s->args_values = -1;
  if (hook == TCI_HOOK_SELECT) tci_view_runners(s, q);
  s->building = false;
}
