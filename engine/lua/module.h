/* module: what the files of turboci.core share. The contract of the Lua module is lua/turboci/_meta/core.lua.
 *
 * 1. A lua_State is touched by its own thread only. What other threads have to say goes through the hub's queue.
 * 2. Lua raises errors by longjmp, at any allocation: C memory and handles live in userdata with finalisers (boxes)
 *    or in structures that such a userdata owns, never in C locals alone.
 * 3. Misuse raises at the caller's level; what may well happen returns nil and a text.
 */
#ifndef TCI_LUA_MODULE_H
#define TCI_LUA_MODULE_H

#include "app/policies.h"
#include "base/guess.h"
#include "core/event.h"
#include "core/limits.h"
#include "rpc/codec.h"
#include "rpc/rpc.h"

#include <lauxlib.h>
#include <lua.h>

int luaopen_turboci_core(lua_State *L);

/* Each adds its functions to the module table on top of the stack. */
void tci_lua_open_messages(lua_State *L);
void tci_lua_open_virtual(lua_State *L);
void tci_lua_open_server(lua_State *L);
void tci_lua_open_hub(lua_State *L);
void tci_lua_open_host(lua_State *L);
void tci_lua_open_policy(lua_State *L);
void tci_lua_open_journal(lua_State *L);
void tci_lua_open_output(lua_State *L);

/* ---- arguments (args.c) ---- */

/* Pushes an empty buffer or arena that the collector frees; also usable as a to-be-closed value. */
tci_buf *tci_lua_push_buf(lua_State *L);
tci_arena *tci_lua_push_arena(lua_State *L);

tci_str tci_lua_check_str(lua_State *L, int arg);
tci_str tci_lua_opt_str(lua_State *L, int arg); /* nil: empty */
void tci_lua_push_str(lua_State *L, tci_str s);
/* A finite number of seconds >= 0 as microseconds. */
int64_t tci_lua_check_seconds(lua_State *L, int arg);
/* "WriteNodes" or its path. */
const tci_method *tci_lua_check_method(lua_State *L, int arg);
/* 0..16; anything else raises. */
tci_code tci_lua_check_code(lua_State *L, int arg);

/* The table at `arg` has no keys but these (NULL-terminated); nil becomes an empty table. */
void tci_lua_check_options(lua_State *L, int arg, const char *const *names);
/* Options by name of the table at `arg` (absolute). Strings are copied into `arena`; NULL when not given. */
const char *tci_lua_option_text(lua_State *L, int arg, const char *name, tci_arena *arena);
/* `limits` is a table of names and integers; misuse raises. */
void tci_lua_option_limits(lua_State *L, int arg, tci_limits *out);
/* A list of strings; false when not given. */
bool tci_lua_option_list(lua_State *L, int arg, const char *name, tci_arena *arena, tci_ids *out);

/* Options policies, policy, policy_for, shadow (server.c); the rest of `out` is zeroed. Misuse raises. */
void tci_lua_option_policies(lua_State *L, int arg, tci_arena *arena, tci_policies_options *out);

/* Makes the metatable `type` (methods are also its __index) and leaves the stack as it was. */
void tci_lua_class(lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction close);

/* Pushes "; did you mean 'NAME'?", or "" when nothing is near. Borrowed from the stack. */
const char *tci_lua_push_guess(lua_State *L, const tci_guess *guess);

#endif
