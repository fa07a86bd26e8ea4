/* virtual: the real engine (app/engine.h: core, codec, store) with a clock and a transport made of Lua.
 *
 * 1. Nothing here asks the system for time or randomness: both clocks move only in advance, keep_busy and jump_wall, the random
 *    bytes of events come from a stream over the seed. The same calls give the same outputs.
 * 2. Every call that causes something is one turn at the present time; advance runs each turn that falls due at
 *    its own time. Only settle and advance tick.
 * 3. The sink's functions run inside the engine and so never touch Lua: they copy effects into a list, take() hands
 *    them over.
 *
 * Callers: turboci.testing, the specs.
 */
#include <stdlib.h>
#include <string.h>

#include "app/engine.h"
#include "app/server.h"
#include "base/rng.h"
#include "base/vec.h"
#include "lua/module.h"

static const char VIRTUAL_TYPE[] = "turboci.Virtual";
enum { MESSAGE_BYTES = 1024, TURNS_AT_ONCE_MAX = 1000000 };
static const int64_t MONO_START_US = 1000000000; /* not 0, which means 'not yet' in places */

typedef enum { REPLY, DISPATCH, CANCEL, WATCH, WATCH_END } output_kind;

/* One effect; which fields it has depends on its kind, see push_output. */
typedef struct {
  output_kind kind;
  uint64_t token, sequence;
  tci_code code;
  tci_str message, bytes, execution_id, address; /* heap */
  const char *method;
  tci_mode mode;
  int64_t timeout_us;
} output;

typedef struct {
  tci_engine *engine; /* NULL: closed, or never opened */
  tci_arena arena;    /* what `options` points to */
  tci_engine_options options;
  tci_time now;
  tci_rng rng;
  uint64_t next_token;
  bool mute; /* the engine is being thrown away */
  TCI_VEC(output) outputs;
} virtual;

/* ---- the sink ---- */

static void record(virtual *v, output o) {
  if (v->mute) return;
  o.message = tci_str_dup(o.message);
  o.bytes = tci_str_dup(o.bytes);
  o.execution_id = tci_str_dup(o.execution_id);
  o.address = tci_str_dup(o.address);
  tci_vec_push(&v->outputs, o);
}

static void on_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  output o = {.kind = REPLY, .token = token, .code = status.code, .bytes = message};
  o.message = tci_str_from(status.message);
  record(ctx, o);
}

static void on_dispatch(void *ctx, tci_str execution_id, tci_mode mode, tci_str address, const char *method,
                        tci_str request, int64_t timeout_us) {
  output o = {.kind = DISPATCH, .execution_id = execution_id, .mode = mode, .address = address, .method = method};
  o.bytes = request;
  o.timeout_us = timeout_us;
  record(ctx, o);
}

static void on_cancel(void *ctx, tci_str execution_id) {
  record(ctx, (output){.kind = CANCEL, .execution_id = execution_id});
}

static bool on_watch(void *ctx, uint64_t token, uint64_t sequence, tci_str message) {
  record(ctx, (output){.kind = WATCH, .token = token, .sequence = sequence, .bytes = message});
  return true;
}

static void on_watch_end(void *ctx, uint64_t token, tci_status status, bool at_once) {
  (void)at_once;
  output o = {.kind = WATCH_END, .token = token, .code = status.code, .message = tci_str_from(status.message)};
  record(ctx, o);
}

static void output_free(output *o) {
  tci_str_free(&o->message);
  tci_str_free(&o->bytes);
  tci_str_free(&o->execution_id);
  tci_str_free(&o->address);
}

/* ---- the engine's life ---- */

static tci_status start_engine(virtual *v, char *message, size_t size) {
  const tci_sink sink = {v, on_reply, on_dispatch, on_cancel, on_watch, on_watch_end};
  uint8_t random[32];
  tci_rng_bytes(&v->rng, random, sizeof random);
  tci_status status = tci_engine_open(&v->options, &sink, v->now, &v->engine, message, size);
  if (status.code != TCI_OK) return status;
  status = tci_engine_start(v->engine, v->now, random);
  if (status.code != TCI_OK) {
    snprintf(message, size, "%s", status.message);
    tci_engine_close(v->engine);
    v->engine = NULL;
  }
  return (tci_status){status.code, message};
}

static void stop_engine(virtual *v) {
  v->mute = true;
  if (v->engine) tci_engine_close(v->engine);
  v->engine = NULL;
  v->mute = false;
}

static int virtual_close(lua_State *L) {
  virtual *v = luaL_checkudata(L, 1, VIRTUAL_TYPE);
  stop_engine(v);
  for (size_t i = 0; i < v->outputs.len; i++) output_free(&v->outputs.items[i]);
  tci_vec_free(&v->outputs);
  tci_arena_deinit(&v->arena);
  return 0;
}

static virtual *check(lua_State *L) {
  virtual *v = luaL_checkudata(L, 1, VIRTUAL_TYPE);
  if (!v->engine) luaL_error(L, "this engine is closed");
  return v;
}

/* Reads the options at 1 into `v`. */
static void read_options(lua_State *L, virtual *v) {
  const char *database = tci_lua_option_text(L, 1, "database", &v->arena);
  const char *callback = tci_lua_option_text(L, 1, "callback_address", &v->arena);
  v->options.store.path = database ? database : ":memory:";
  v->options.callback_address = callback ? callback : "virtual:0";
  v->options.version = tci_version;
  tci_lua_option_limits(L, 1, &v->options.limits);
  tci_lua_option_policies(L, 1, &v->arena, &v->options.policies);
  v->options.policies.quiet = true; /* a virtual world is asked, it does not talk */
  if (!tci_lua_option_list(L, 1, "allow", &v->arena, &v->options.allowed_addresses)) {
    v->options.allowed_addresses = (tci_ids){tci_arena_new(&v->arena, tci_str), 1};
    v->options.allowed_addresses.items[0] = TCI_STR("loopback");
  }
  int number = 1, integer = 1;
  lua_Number start = lua_getfield(L, 1, "start") == LUA_TNIL ? 1700000000 : lua_tonumberx(L, -1, &number);
  if (!number || !(start >= 0 && start < 253402300800.0)) luaL_error(L, "option 'start': expected seconds since 1970");
  lua_Integer seed = lua_getfield(L, 1, "seed") == LUA_TNIL ? 1 : lua_tointegerx(L, -1, &integer);
  if (!integer) luaL_error(L, "option 'seed': expected an integer");
  lua_pop(L, 2);
  uint8_t key[32] = {0};
  memcpy(key, &seed, sizeof seed);
  tci_rng_init(&v->rng, key);
  v->now = (tci_time){MONO_START_US, (int64_t)(start * 1e6)};
}

static int virtual_open(lua_State *L) {
  static const char *const names[] = {"database", "seed",   "start",      "limits", "allow", "callback_address",
                                      "policies", "policy", "policy_for", "shadow", NULL};
  lua_settop(L, 1);
  tci_lua_check_options(L, 1, names);
  virtual *v = memset(lua_newuserdatauv(L, sizeof *v, 0), 0, sizeof *v);
  luaL_setmetatable(L, VIRTUAL_TYPE);
  read_options(L, v);
  char message[MESSAGE_BYTES] = "";
  tci_status status = tci_address_check_list(&v->options.allowed_addresses, &v->arena);
  if (status.code != TCI_OK)
    snprintf(message, sizeof message, "%s", status.message);
  else if (start_engine(v, message, sizeof message).code == TCI_OK)
    return 1;
  lua_pushnil(L);
  lua_pushstring(L, message);
  return 2;
}

static int virtual_restart(lua_State *L) {
  virtual *v = check(L);
  if (strcmp(v->options.store.path, ":memory:") == 0) {
    lua_pushnil(L);
    lua_pushliteral(L, "nothing would be left of a \":memory:\" database: give a file");
    return 2;
  }
  char message[MESSAGE_BYTES] = "";
  stop_engine(v);
  if (start_engine(v, message, sizeof message).code != TCI_OK) {
    lua_pushnil(L);
    lua_pushstring(L, message);
    return 2;
  }
  lua_pushboolean(L, true);
  return 1;
}

/* ---- turns ---- */

static void turn(lua_State *L, virtual *v, tci_event *events, size_t len) {
  for (size_t i = 0; i < len; i++) {
    events[i].now = v->now;
    tci_rng_bytes(&v->rng, events[i].random, sizeof events[i].random);
  }
  tci_status status = tci_engine_turn(v->engine, events, len);
  if (status.code != TCI_OK) luaL_error(L, "the store is lost: %s", status.message);
}

static void tick(lua_State *L, virtual *v) { turn(L, v, &(tci_event){.kind = TCI_EVENT_TICK}, 1); }

/* Decodes the request at `method`, `bytes` (stack); a refusal is its reply. True: it goes into the turn. */
static bool read_request(lua_State *L, virtual *v, int method, int bytes, tci_arena *arena, tci_event *out) {
  const tci_method *called = tci_lua_check_method(L, method);
  luaL_argcheck(L, called->service == TCI_SERVICE_ORCHESTRATOR, method, "this is a method of runners");
  tci_str request = tci_lua_check_str(L, bytes);
  *out = (tci_event){.kind = TCI_EVENT_COMMAND, .token = ++v->next_token};
  arena->cap_bytes = (size_t)v->options.limits.message_arena_bytes_max;
  tci_status status = tci_codec_command(called, request, &v->options.limits, arena, &out->command);
  if (status.code == TCI_OK) return true;
  on_reply(v, out->token, status, (tci_str){NULL, 0});
  return false;
}

static int virtual_call(lua_State *L) {
  virtual *v = check(L);
  tci_arena *arena = tci_lua_push_arena(L);
  lua_toclose(L, -1);
  tci_event event;
  if (read_request(L, v, 2, 3, arena, &event)) turn(L, v, &event, 1);
  lua_pushinteger(L, (lua_Integer)event.token);
  return 1;
}

static int virtual_calls(lua_State *L) {
  virtual *v = check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  size_t len = lua_rawlen(L, 2), ready = 0;
  lua_createtable(L, (int)len, 0);
  tci_event *events = lua_newuserdatauv(L, (len + 1) * sizeof *events, 0); /* large: not on the stack */
  luaL_checkstack(L, (int)len + LUA_MINSTACK, "too many requests");
  for (size_t i = 0; i < len; i++) {
    tci_arena *arena = tci_lua_push_arena(L); /* one each: its cap is for one request. They stay below. */
    if (lua_rawgeti(L, 2, (lua_Integer)i + 1) != LUA_TTABLE)
      luaL_error(L, "requests[%d]: expected {method, bytes}", (int)i + 1);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2); /* the bytes stay in the caller's table: the command points into them */
    bool good = read_request(L, v, lua_gettop(L) - 1, lua_gettop(L), arena, &events[ready]);
    lua_pushinteger(L, (lua_Integer)events[ready].token);
    lua_rawseti(L, 3, (lua_Integer)i + 1);
    if (good) ready++;
    lua_pop(L, 3);
  }
  if (ready) turn(L, v, events, ready);
  lua_settop(L, 3);
  return 1;
}

static int virtual_answer(lua_State *L) {
  static const char *const modes[] = {"SYNC", "ASYNC", NULL};
  virtual *v = check(L);
  tci_str execution_id = tci_lua_check_str(L, 2);
  tci_mode mode = luaL_checkoption(L, 3, NULL, modes) == 0 ? TCI_MODE_SYNC : TCI_MODE_ASYNC;
  tci_code code = tci_lua_check_code(L, 4);
  tci_str message = tci_lua_opt_str(L, 5), bytes = tci_lua_opt_str(L, 6);
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  tci_arena *arena = tci_lua_push_arena(L);
  lua_toclose(L, -1);
  arena->cap_bytes = (size_t)v->options.limits.message_arena_bytes_max;
  if (code == TCI_OK)
    tci_codec_answer(mode, bytes, &v->options.limits, arena, &event.answer);
  else
    event.answer.message = message;
  event.answer.execution_id = execution_id;
  event.answer.code = code;
  turn(L, v, &event, 1);
  return 0;
}

static int virtual_unwatch(lua_State *L) {
  virtual *v = check(L);
  turn(L, v, &(tci_event){.kind = TCI_EVENT_UNWATCH, .token = (uint64_t)luaL_checkinteger(L, 2)}, 1);
  return 0;
}

/* ---- time ---- */

static int virtual_now(lua_State *L) {
  const virtual *v = check(L);
  lua_pushinteger(L, v->now.mono_us);
  lua_pushinteger(L, v->now.wall_us);
  return 2;
}

/* Runs turns until none is due by now. */
static void settle(lua_State *L, virtual *v) {
  for (int turns = 0; tci_engine_next_due_us(v->engine) <= v->now.mono_us; turns++) {
    if (turns == TURNS_AT_ONCE_MAX) luaL_error(L, "the engine does not come to rest: a timer that is always due");
    tick(L, v);
  }
}

static int virtual_settle(lua_State *L) {
  settle(L, check(L));
  return 0;
}

static int virtual_advance(lua_State *L) {
  virtual *v = check(L);
  int64_t us = luaL_checkinteger(L, 2);
  luaL_argcheck(L, us >= 0 && us < INT64_MAX / 4, 2, "time goes forward, and not for ever");
  int64_t end_us = v->now.mono_us + us;
  for (;;) {
    settle(L, v);
    int64_t due_us = tci_engine_next_due_us(v->engine);
    int64_t step_us = (due_us < end_us ? due_us : end_us) - v->now.mono_us;
    v->now.mono_us += step_us;
    v->now.wall_us += step_us;
    if (due_us > end_us) return 0;
  }
}

static int virtual_keep_busy(lua_State *L) {
  virtual *v = check(L);
  int64_t us = luaL_checkinteger(L, 2);
  luaL_argcheck(L, us >= 0 && us < INT64_MAX / 4, 2, "time goes forward, and not for ever");
  v->now.mono_us += us;
  v->now.wall_us += us;
  return 0;
}

static int virtual_jump_wall(lua_State *L) {
  virtual *v = check(L);
  v->now.wall_us += luaL_checkinteger(L, 2);
  return 0;
}

static int virtual_next_due(lua_State *L) {
  const virtual *v = check(L);
  int64_t due_us = tci_engine_next_due_us(v->engine);
  if (due_us == INT64_MAX) return 0;
  lua_pushinteger(L, due_us > v->now.mono_us ? due_us - v->now.mono_us : 0);
  return 1;
}

/* ---- looking ---- */

static void set_str(lua_State *L, const char *key, tci_str value) {
  tci_lua_push_str(L, value);
  lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, int64_t value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, key);
}

static void push_output(lua_State *L, const output *o) {
  static const char *const types[] = {"reply", "dispatch", "cancel", "watch", "watch_end"};
  lua_createtable(L, 0, 8);
  set_str(L, "type", tci_str_from(types[o->kind]));
  if (o->kind == DISPATCH || o->kind == CANCEL)
    set_str(L, "execution_id", o->execution_id);
  else
    set_integer(L, "token", (int64_t)o->token);
  if (o->kind == REPLY || o->kind == WATCH_END) {
    set_integer(L, "code", o->code);
    set_str(L, "message", o->message);
  }
  if (o->kind == DISPATCH || o->kind == WATCH || (o->kind == REPLY && o->code == TCI_OK)) set_str(L, "bytes", o->bytes);
  if (o->kind == WATCH) set_integer(L, "sequence", (int64_t)o->sequence);
  if (o->kind != DISPATCH) return;
  set_str(L, "mode", o->mode == TCI_MODE_SYNC ? TCI_STR("SYNC") : TCI_STR("ASYNC"));
  set_str(L, "address", o->address);
  set_str(L, "method", tci_str_from(o->method));
  set_integer(L, "timeout_us", o->timeout_us);
}

static int virtual_take(lua_State *L) {
  virtual *v = check(L);
  lua_createtable(L, (int)v->outputs.len, 0);
  for (size_t i = 0; i < v->outputs.len; i++) {
    push_output(L, &v->outputs.items[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  for (size_t i = 0; i < v->outputs.len; i++) output_free(&v->outputs.items[i]);
  v->outputs.len = 0;
  return 1;
}

static int virtual_counters(lua_State *L) {
  tci_engine_counters counters = tci_engine_count(check(L)->engine);
  lua_newtable(L);
  set_integer(L, "turns", counters.turns);
  set_integer(L, "events", counters.events);
  set_integer(L, "commits", counters.commits);
  set_integer(L, "records", counters.records);
  set_integer(L, "journal_bytes", counters.journal_bytes);
  set_integer(L, "longest_turn_us", counters.longest_turn_us);
  set_integer(L, "longest_turn_cpu_us", counters.longest_turn_cpu_us);
  set_integer(L, "standstill_us", counters.standstill_us);
  set_integer(L, "policy_asks", counters.policy_asks);
  set_integer(L, "policy_faults", counters.policy_faults);
  set_integer(L, "policy_instructions", counters.policy_instructions);
  set_integer(L, "policy_circuits_opened", counters.policy_circuits_opened);
  set_integer(L, "policy_reloads", counters.policy_reloads);
  set_integer(L, "shadow_asks", counters.shadow_asks);
  set_integer(L, "shadow_differs", counters.shadow_differs);
  return 1;
}

/* What became of an attempt so far: plan id, place of the stage among the plan's nodes (from 1), index. */
static int virtual_attempt(lua_State *L) {
  const virtual *v = check(L);
  const tci_plan *plan = tci_core_plan(tci_engine_core(v->engine), tci_lua_check_str(L, 2));
  lua_Integer node = luaL_checkinteger(L, 3), index = luaL_checkinteger(L, 4);
  if (!plan || node < 1 || (size_t)node > plan->nodes.len) return 0;
  const tci_node *n = plan->nodes.items[node - 1];
  const tci_stage *stage = n->kind == TCI_NODE_STAGE ? (const tci_stage *)n : NULL;
  if (!stage || index < 1 || (size_t)index > stage->attempts.len) return 0;
  const tci_attempt *a = stage->attempts.items[index - 1];
  lua_createtable(L, 0, 4);
  set_str(L, "runner_id", a->runner_id);
  set_str(L, "execution", tci_str_from(tci_execution_state_name((int)a->execution)));
  set_integer(L, "execution_ms", a->execution_ms);
  set_integer(L, "stale_ms", a->stale_ms);
  return 1;
}

static int virtual_check(lua_State *L) {
  const virtual *v = check(L);
  tci_arena *arena = tci_lua_push_arena(L);
  lua_toclose(L, -1);
  const char *violation = tci_core_check(tci_engine_core(v->engine), arena);
  lua_pushstring(L, violation); /* NULL: nil */
  return 1;
}

void tci_lua_open_virtual(lua_State *L) {
  const luaL_Reg methods[] = {
      {"call", virtual_call},
      {"calls", virtual_calls},
      {"answer", virtual_answer},
      {"unwatch", virtual_unwatch},
      {"take", virtual_take},
      {"now", virtual_now},
      {"advance", virtual_advance},
      {"settle", virtual_settle},
      {"jump_wall", virtual_jump_wall},
      {"next_due", virtual_next_due},
      {"keep_busy", virtual_keep_busy},
      {"restart", virtual_restart},
      {"counters", virtual_counters},
      {"attempt", virtual_attempt},
      {"check", virtual_check},
      {"close", virtual_close},
      {NULL, NULL},
  };
  tci_lua_class(L, VIRTUAL_TYPE, methods, virtual_close);
  lua_pushcfunction(L, virtual_open);
  lua_setfield(L, -2, "virtual");
}
