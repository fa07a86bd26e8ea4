/* runners: the candidates of a select, as views that are kept from call to call and refreshed where they changed.
 *
 * 1. A view belongs to one runner for ever (its serial, its id and type). When another runner takes over its slot, it
 *    gets views of its own; the old ones, should a script have kept them, show what they last showed.
 * 2. The metadata of a runner is made when it is read. Its data holds the slot, under a key that scripts do not see.
 * 3. What changed is set and nothing else. Numbers are compared each time, since a core that was loaded afresh counts
 *    its serials and revisions anew; metadata when the runner has called since, or its revision is another.
 */
#include "script/internal.h"

#include <math.h>
#include <string.h>

static const char slot_key; /* by its address */

static void set_value(lua_State *L, int data, const char *name) { lua_setfield(L, data, name); } /* the one on top */

static void set_load(lua_State *L, int data, const tci_runner *r) {
  lua_pushinteger(L, r->load);
  set_value(L, data, "load");
  if (r->max_concurrent)
    lua_pushinteger(L, r->max_concurrent - r->load);
  else
    lua_pushnumber(L, (lua_Number)HUGE_VAL);
  set_value(L, data, "free");
  if (r->max_concurrent)
    lua_pushinteger(L, r->max_concurrent);
  else
    lua_pushnil(L);
  set_value(L, data, "capacity");
}

static void set_used(lua_State *L, int data, const tci_runner *r) {
  lua_pushinteger(L, (lua_Integer)r->last_used);
  set_value(L, data, "used");
  if (r->last_used_us)
    lua_pushnumber(L, (lua_Number)r->last_used_us / 1e6);
  else
    lua_pushnil(L);
  set_value(L, data, "last_used");
}

static void set_recent(lua_State *L, int data, const tci_runner *r) {
  uint32_t len = r->recent_len < 32 ? r->recent_len : 32;
  uint32_t bits = len < 32 ? r->recent & ((1u << len) - 1) : r->recent;
  int failed = __builtin_popcount(bits);
  lua_pushinteger(L, failed);
  set_value(L, data, "failed");
  lua_pushinteger(L, (int)len - failed);
  set_value(L, data, "succeeded");
  lua_pushboolean(L, len && (bits & 1));
  set_value(L, data, "last_failed");
}

static bool is_as_shown(const tci_shown *shown, const tci_runner *r) {
  return shown->revision == r->revision && shown->load == r->load && shown->capacity == r->max_concurrent &&
         shown->last_used == r->last_used && shown->last_used_us == r->last_used_us && shown->recent == r->recent &&
         shown->recent_len == r->recent_len && shown->registered_us == r->registered_us &&
         shown->heartbeat_us == r->heartbeat_us;
}

static bool is_shown(const tci_shown *shown, const tci_runner *r) {
  size_t id_len = r->runner_id.len, type_len = r->runner_type.len;
  return shown->serial == r->serial && shown->name.len == id_len + 1 + type_len &&
         memcmp(shown->name.ptr, r->runner_id.ptr, id_len) == 0 && shown->name.ptr[id_len] == '\0' &&
         memcmp(shown->name.ptr + id_len + 1, r->runner_type.ptr, type_len) == 0;
}

/* Brings the view up to date; its data is on top. `all`: it is new. */
static void refresh(lua_State *L, tci_shown *shown, const tci_runner *r, bool all) {
  int data = lua_gettop(L);
  if (all || shown->load != r->load || shown->capacity != r->max_concurrent) set_load(L, data, r);
  if (all || shown->last_used != r->last_used || shown->last_used_us != r->last_used_us) set_used(L, data, r);
  if (all || shown->recent != r->recent || shown->recent_len != r->recent_len) set_recent(L, data, r);
  if (shown->has_metadata && tci_metadata_differs(&shown->metadata, r->metadata)) {
    shown->has_metadata = false;
    lua_pushnil(L);
    set_value(L, data, "metadata");
  }
  if (all || shown->registered_us != r->registered_us) {
    lua_pushnumber(L, (lua_Number)r->registered_us / 1e6);
    set_value(L, data, "registered");
  }
  shown->revision = r->revision;
  shown->load = r->load;
  shown->capacity = r->max_concurrent;
  shown->last_used = r->last_used;
  shown->last_used_us = r->last_used_us;
  shown->recent = r->recent;
  shown->recent_len = r->recent_len;
  shown->registered_us = r->registered_us;
  shown->heartbeat_us = r->heartbeat_us;
}

static void make(tci_script *s, tci_shown *shown, const tci_runner *r) {
  lua_State *L = s->L;
  size_t before = s->used_bytes;
  shown->more_bytes = 0;
  shown->has_metadata = false;
  tci_view_new(L, TCI_VIEW_RUNNER, 0, 13);
  int data = lua_gettop(L);
  lua_pushvalue(L, TCI_AT_RUNNER_META);
  lua_setmetatable(L, data);
  lua_pushinteger(L, r->slot);
  lua_rawsetp(L, data, &slot_key);
  lua_pushlstring(L, r->runner_id.ptr, r->runner_id.len);
  set_value(L, data, "id");
  lua_pushlstring(L, r->runner_type.ptr, r->runner_type.len);
  set_value(L, data, "type");
  refresh(L, shown, r, true);
  shown->serial = r->serial;
  tci_buf_clear(&shown->name);
  tci_buf_add(&shown->name, r->runner_id);
  tci_buf_byte(&shown->name, '\0');
  tci_buf_add(&shown->name, r->runner_type);
  lua_rawseti(L, TCI_AT_RUNNER_DATAS, (lua_Integer)r->slot + 1);
  lua_rawseti(L, TCI_AT_RUNNER_VIEWS, (lua_Integer)r->slot + 1);
  s->view_cost += 300;
  shown->bytes = s->used_bytes - before;
}

size_t tci_view_bytes(const tci_script *s) {
  size_t bytes = s->plan_bytes + 128 * s->shown_len; /* the lists */
  for (size_t i = 0; i < s->shown_len; i++) bytes += s->shown[i].bytes + s->shown[i].more_bytes;
  return bytes;
}

void tci_view_forget(tci_script *s) {
  for (size_t i = 0; i < s->shown_len; i++) s->shown[i].serial = 0;
  s->listed_len = 0;
  s->plan_metadata.len = s->plan_bytes = 0;
  s->built = 0;
}

static tci_shown *shown_at(tci_script *s, uint32_t slot) {
  if (slot >= s->shown_len) {
    size_t len = s->shown_len * 2 > (size_t)slot + 1 ? s->shown_len * 2 : (size_t)slot + 1;
    s->shown = tci_realloc(s->shown, len * sizeof *s->shown);
    memset(s->shown + s->shown_len, 0, (len - s->shown_len) * sizeof *s->shown);
    s->shown_len = len;
  }
  return &s->shown[slot];
}

void tci_view_runners(tci_script *s, const tci_question *q) {
  lua_State *L = s->L;
  size_t n = q->candidates_len;
  s->listed = n > s->listed_cap ? tci_vec_grow(s->listed, &s->listed_cap, n, sizeof *s->listed) : s->listed;
  for (size_t i = 0; i < n; i++) {
    const tci_runner *r = q->candidates[i];
    tci_shown *shown = shown_at(s, r->slot);
    bool is_new = !is_shown(shown, r);
    if (is_new) {
      make(s, shown, r);
    } else if (!is_as_shown(shown, r)) {
      lua_rawgeti(L, TCI_AT_RUNNER_DATAS, (lua_Integer)r->slot + 1);
      refresh(L, shown, r, false);
      lua_pop(L, 1);
      s->view_cost += 30;
    }
    shown->call = s->call;
    shown->index = i;
    if (!is_new && i < s->listed_len && s->listed[i] == r->serial) continue;
    lua_rawgeti(L, TCI_AT_RUNNER_VIEWS, (lua_Integer)r->slot + 1);
    lua_rawseti(L, TCI_AT_RUNNERS_DATA, (lua_Integer)i + 1);
    s->listed[i] = r->serial;
    s->view_cost += 3;
  }
  for (size_t i = s->listed_len; i > n; i--) {
    lua_pushnil(L);
    lua_rawseti(L, TCI_AT_RUNNERS_DATA, (lua_Integer)i);
  }
  s->listed_len = n;
  s->view_cost += (int64_t)n;
}

/* The candidate whose data is on top; NULL: it is of another call, or its runner is gone. */
static tci_runner *candidate_of(lua_State *L) {
  tci_script *s = tci_script_of(L);
  const tci_question *q = s->question;
  lua_rawgetp(L, -1, &slot_key);
  size_t slot = (size_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  const tci_shown *shown = slot < s->shown_len ? &s->shown[slot] : NULL;
  if (!q || !shown || shown->call != s->call || shown->index >= q->candidates_len) return NULL;
  tci_push_fixed(L, TCI_AT_RUNNER_DATAS);
  lua_rawgeti(L, -1, (lua_Integer)slot + 1);
  bool same = lua_rawequal(L, -1, -3);
  lua_pop(L, 2);
  return same ? q->candidates[shown->index] : NULL;
}

tci_runner *tci_view_candidate(lua_State *L, int at) {
  if (tci_view_kind(L, at) != TCI_VIEW_RUNNER) return NULL;
  lua_getmetatable(L, at);
  lua_pushliteral(L, "__index");
  lua_rawget(L, -2);
  tci_runner *r = candidate_of(L);
  lua_pop(L, 2);
  return r;
}

int tci_view_read_runner(lua_State *L) {
  tci_script *s = tci_script_of(L);
  bool is_metadata = lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "metadata") == 0;
  if (!is_metadata) return 0;
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  const tci_runner *r = candidate_of(L);
  if (!r) { /* kept from another call */
    tci_push_fixed(L, TCI_AT_EMPTY_METADATA);
    return 1;
  }
  tci_shown *shown = &s->shown[r->slot];
  size_t before = s->used_bytes;
  s->building = true;
  s->view_cost += 20 + 10 * (int64_t)r->metadata.len;
  tci_metadata_differs(&shown->metadata, r->metadata); /* from now on it is known */
  if (r->metadata.len)
    tci_view_metadata(L, r->metadata);
  else
    tci_push_fixed(L, TCI_AT_EMPTY_METADATA);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  shown->has_metadata = true;
  shown->more_bytes = s->used_bytes - before;
  s->building = false;
  return 1;
}

bool tci_view_runner_id(lua_State *L, int at) {
  int kind = tci_view_kind(L, at);
  if (kind != TCI_VIEW_RUNNER && kind != TCI_VIEW_ENDED) return false;
  tci_view_data(L, at);
  lua_pushstring(L, kind == TCI_VIEW_RUNNER ? "id" : "runner");
  lua_rawget(L, -2);
  lua_remove(L, -2);
  return true;
}
