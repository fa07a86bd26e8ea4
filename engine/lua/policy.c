/* policy: core.policy: one policy file in the sandbox that the engine uses (script/script.h), asked about views made of
 * tables (view.c). For specs of policies, `turboci policy check` and replays.
 *
 * 1. Nothing of an answer depends on the machine: no fuse, no clock, the view's own seed.
 * 2. A policy is asked from the thread of its lua_State only, as the engine asks from one thread only.
 */
#include <string.h>

#include "lua/view.h"
#include "script/script.h"

static const char POLICY_TYPE[] = "turboci.Policy";
static const uint64_t SERIAL_START = (uint64_t)1 << 32; /* the samples that a policy is tried on have small ones */
enum { MESSAGE_BYTES = 2048 };

typedef struct {
  tci_script *script; /* NULL: closed, or never opened */
  tci_arena arena;    /* what the options point to */
  tci_limits limits;
  uint64_t serial; /* of the views it was asked about */
} policy_box;

static int policy_close(lua_State *L) {
  policy_box *box = luaL_checkudata(L, 1, POLICY_TYPE);
  tci_script_close(box->script);
  box->script = NULL;
  tci_arena_deinit(&box->arena);
  return 0;
}

static policy_box *check(lua_State *L) {
  policy_box *box = luaL_checkudata(L, 1, POLICY_TYPE);
  if (!box->script) luaL_error(L, "this policy is closed");
  return box;
}

static int policy_open(lua_State *L) {
  static const char *const names[] = {"folders", "limits", NULL};
  luaL_checktype(L, 1, LUA_TSTRING);
  lua_settop(L, 2);
  tci_lua_check_options(L, 2, names);
  policy_box *box = memset(lua_newuserdatauv(L, sizeof *box, 0), 0, sizeof *box);
  luaL_setmetatable(L, POLICY_TYPE);
  tci_script_options options = {.fuse = false};
  tci_lua_option_limits(L, 2, &options.limits);
  tci_lua_option_list(L, 2, "folders", &box->arena, &options.folders);
  box->limits = options.limits;
  box->serial = SERIAL_START;
  char message[MESSAGE_BYTES] = "";
  tci_status status = tci_script_open(&options, lua_tostring(L, 1), &box->script, message, sizeof message);
  if (status.code == TCI_OK) return 1;
  box->script = NULL;
  lua_pushnil(L);
  lua_pushstring(L, message);
  return 2;
}

/* ---- answers: each pushes one ---- */

static void push_seconds(lua_State *L, int64_t us) {
  if (us % 1000000 == 0)
    lua_pushinteger(L, us / 1000000);
  else
    lua_pushnumber(L, (lua_Number)us / 1e6);
}

static void push_wait(lua_State *L, const tci_decision *decision) {
  lua_createtable(L, 0, 1);
  push_seconds(L, decision->wait_us);
  lua_setfield(L, -2, "wait");
}

static void push_selected(lua_State *L, const tci_decision *decision) {
  if (!decision->wait && decision->runner)
    tci_lua_push_str(L, decision->runner->runner_id);
  else if (decision->wait_us > 0)
    push_wait(L, decision);
  else
    lua_pushnil(L);
}

static void push_retry(lua_State *L, const tci_decision *decision) {
  if (!decision->again) return lua_pushnil(L);
  lua_createtable(L, 0, 2);
  push_seconds(L, decision->after_us);
  lua_setfield(L, -2, "after");
  lua_createtable(L, (int)decision->exclude.len, 0);
  for (size_t i = 0; i < decision->exclude.len; i++) {
    tci_lua_push_str(L, decision->exclude.items[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "exclude");
}

static void push_timeouts(lua_State *L, const tci_decision *decision) {
  const struct {
    const char *name;
    int64_t ms;
  } parts[] = {{"execution", decision->execution_ms}, {"stale", decision->stale_ms}, {"queue", decision->queue_ms}};
  lua_newtable(L);
  bool any = false;
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    if (parts[i].ms == 0) continue;
    any = true;
    push_seconds(L, parts[i].ms * 1000);
    lua_setfield(L, -2, parts[i].name);
  }
  if (any) return;
  lua_pop(L, 1);
  lua_pushnil(L);
}

static void push_admission(lua_State *L, const tci_decision *decision) {
  if (decision->wait) return push_wait(L, decision);
  if (decision->keys_len == 0) return lua_pushnil(L);
  lua_createtable(L, 0, 1);
  lua_createtable(L, (int)decision->keys_len, 0);
  for (size_t i = 0; i < decision->keys_len; i++) {
    lua_createtable(L, 0, 2);
    tci_lua_push_str(L, decision->keys[i].key);
    lua_setfield(L, -2, "key");
    lua_pushinteger(L, decision->keys[i].limit);
    lua_setfield(L, -2, "limit");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "keys");
}

static void push_answer(lua_State *L, tci_hook hook, const tci_decision *decision) {
  switch (hook) {
    case TCI_HOOK_SELECT: return push_selected(L, decision);
    case TCI_HOOK_RETRY: return push_retry(L, decision);
    case TCI_HOOK_TIMEOUT: return push_timeouts(L, decision);
    case TCI_HOOK_PRIORITY: return decision->says ? lua_pushinteger(L, decision->priority) : lua_pushnil(L);
    case TCI_HOOK_ADMIT: return push_admission(L, decision);
    case TCI_HOOKS: break;
  }
  lua_pushnil(L);
}

/* ---- asking ---- */

static tci_hook check_hook(lua_State *L, int arg, const tci_policy *policy) {
  tci_str name = tci_lua_check_str(L, arg);
  tci_guess guess = tci_guess_start(name);
  for (int i = 0; i < TCI_HOOKS; i++) {
    tci_guess_offer(&guess, tci_str_from(tci_hook_name((tci_hook)i)));
    if (!tci_str_eq(name, tci_str_from(tci_hook_name((tci_hook)i)))) continue;
    if (policy->hooks & 1u << i) return (tci_hook)i;
    tci_lua_push_str(L, policy->name);
    luaL_error(L, "policy '%s' has no hook '%s'", lua_tostring(L, -1), name.ptr);
  }
  lua_pushfstring(L, "no hook is called '%s'%s", name.ptr, tci_lua_push_guess(L, &guess));
  luaL_argerror(L, arg, lua_tostring(L, -1));
  return TCI_HOOKS;
}

static int policy_ask(lua_State *L) {
  lua_settop(L, 3);
  policy_box *box = check(L);
  const tci_policy *policy = tci_script_policy(box->script);
  tci_hook hook = check_hook(L, 2, policy);
  if (lua_isnil(L, 3)) {
    lua_newtable(L);
    lua_replace(L, 3);
  }
  tci_view *view = tci_lua_check_view(L, 3, hook, &box->limits, &box->serial);
  tci_decision decision = {0};
  policy->ask(policy->self, hook, &view->question, &decision);
  lua_createtable(L, 0, 4);
  if (decision.fault) {
    lua_pushstring(L, decision.fault);
    lua_setfield(L, -2, "fault");
  } else {
    push_answer(L, hook, &decision);
    lua_setfield(L, -2, "answer");
  }
  if (decision.reason.len) {
    tci_lua_push_str(L, decision.reason);
    lua_setfield(L, -2, "reason");
  }
  lua_pushinteger(L, decision.cost);
  lua_setfield(L, -2, "cost");
  return 1;
}

static int push_hooks(lua_State *L, const tci_policy *policy) {
  lua_newtable(L);
  for (int i = 0, n = 0; i < TCI_HOOKS; i++) {
    if (!(policy->hooks & 1u << i)) continue;
    lua_pushstring(L, tci_hook_name((tci_hook)i));
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

/* Fields, then methods (upvalue 1). */
static int policy_index(lua_State *L) {
  const policy_box *box = luaL_checkudata(L, 1, POLICY_TYPE);
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL || lua_type(L, 2) != LUA_TSTRING || !box->script) return 1;
  const char *name = lua_tostring(L, 2);
  const tci_policy *policy = tci_script_policy(box->script);
  if (strcmp(name, "name") == 0) return tci_lua_push_str(L, policy->name), 1;
  if (strcmp(name, "version") == 0) return tci_lua_push_str(L, policy->version), 1;
  if (strcmp(name, "path") == 0) return lua_pushstring(L, tci_script_path(box->script)), 1;
  return strcmp(name, "hooks") == 0 ? push_hooks(L, policy) : 1;
}

void tci_lua_open_policy(lua_State *L) {
  const luaL_Reg methods[] = {{"ask", policy_ask}, {"close", policy_close}, {NULL, NULL}};
  tci_lua_class(L, POLICY_TYPE, methods, policy_close);
  luaL_newmetatable(L, POLICY_TYPE); /* there already: pushes it */
  luaL_newlib(L, methods);
  lua_pushcclosure(L, policy_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_pushcfunction(L, policy_open);
  lua_setfield(L, -2, "policy");
}
