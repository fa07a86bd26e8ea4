/* view: a question to a policy, built from a Lua table (view.c), for core.policy (policy.c). */
#ifndef TCI_LUA_VIEW_H
#define TCI_LUA_VIEW_H

#include "core/policy.h"
#include "lua/message.h"

typedef struct {
  tci_arena *arena; /* everything below is in it */
  tci_question question;
  tci_plan plan;
  tci_stage stage;
  tci_rng rng;
} tci_view;

/* Reads the table at `arg` (absolute) for this hook; what is wrong with it raises. Pushes one value, which keeps the view
 * alive. `serial` counts up: no two views share the names by which a policy's caches know plans and runners. `limits` is
 * borrowed. */
tci_view *tci_lua_check_view(lua_State *L, int arg, tci_hook hook, const tci_limits *limits, uint64_t *serial);

#endif
