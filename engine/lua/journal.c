/* journal: core.journal: the records of a journal file as tables, one after another (store/read.c). For replays.
 *
 * 1. What a change looks like follows the table of core/change.h: a new field needs no line here, a new enum one.
 * 2. The file is open while the visitor runs. Everything of Lua happens in a protected call per record: an error stops the
 *    visit, the file is closed, then the error goes on.
 */
#include <string.h>

#include "core/change.h"
#include "core/policy.h"
#include "google/protobuf/struct.pb-c.h"
#include "lua/message.h"
#include "store/store.h"
#include "turboci/v1/service.pb-c.h"

enum { MESSAGE_BYTES = 1024 };
enum { VISITOR = 1, PLAN_IDS = 2, RECORD_VISIT = 3, FAULT = 4 }; /* places on the stack of core.journal */

typedef struct {
  lua_State *L;
  tci_arena *arena; /* for one record */
  const tci_store_record *record;
  int64_t at_us;   /* never falls */
  bool unreadable; /* what stopped the visit was a record, not the visitor */
  bool failed;     /* the text, or the visitor's error, is at FAULT */
} visit;

/* ---- names ---- */

static const char *const type_names[] = {
    NULL,           "PLAN_CREATED",  "PLAN_STATE",    "CHECK_CREATED", "CHECK_UPDATED", "CHECK_STATE",
    "CHECK_RESULT", "STAGE_CREATED", "STAGE_UPDATED", "STAGE_STATE",   "EDGES",         "ATTEMPT",
    "PROGRESS",     "RUNNER",        "RUNNER_GONE",   "POLICY",        "PLAN_ASIDE",
};
enum { TYPES = sizeof type_names / sizeof type_names[0] };

/* Which enum the `state` of a change is of. */
static const ProtobufCEnumDescriptor *state_enum(uint64_t type) {
  switch (type) {
    case TCI_CHANGE_PLAN_STATE: return &turboci__v1__work_plan_state__descriptor;
    case TCI_CHANGE_CHECK_CREATED:
    case TCI_CHANGE_CHECK_STATE: return &turboci__v1__check_state__descriptor;
    case TCI_CHANGE_STAGE_CREATED:
    case TCI_CHANGE_STAGE_STATE: return &turboci__v1__stage_state__descriptor;
    case TCI_CHANGE_ATTEMPT: return &turboci__v1__attempt_state__descriptor;
    default: return NULL;
  }
}

static const ProtobufCEnumDescriptor *enum_of(const tci_change *change, size_t offset) {
  switch (offset) {
    case offsetof(tci_change, state): return state_enum(change->type);
    case offsetof(tci_change, outcome): return &turboci__v1__outcome__descriptor;
    case offsetof(tci_change, reason): return &turboci__v1__reason__descriptor;
    case offsetof(tci_change, mode): return &turboci__v1__execution_mode__descriptor;
    case offsetof(tci_change, execution): return &turboci__v1__execution_state__descriptor;
    case offsetof(tci_change, failure_kind): return &turboci__v1__failure_kind__descriptor;
    default: return NULL;
  }
}

/* A number that has no name (yet) stays one. */
static void push_enum(lua_State *L, const ProtobufCEnumDescriptor *type, uint64_t value) {
  const ProtobufCEnumValue *known = type ? protobuf_c_enum_descriptor_get_value(type, (int)value) : NULL;
  if (known)
    lua_pushstring(L, tci_message_enum_short(type, known->name));
  else
    lua_pushinteger(L, (lua_Integer)value);
}

static void push_name(lua_State *L, const tci_change *change, size_t offset, uint64_t value) {
  static const char *const policy_states[] = {NULL, "LIVE", "GONE", "OPEN"};
  if (offset == offsetof(tci_change, type) && value < TYPES) {
    lua_pushstring(L, type_names[value]);
  } else if (offset == offsetof(tci_change, state) && change->type == TCI_CHANGE_POLICY && value < 4) {
    lua_pushstring(L, policy_states[value]);
  } else if (offset == offsetof(tci_change, mode) && change->type == TCI_CHANGE_RUNNER) {
    lua_newtable(L);
    for (uint64_t mode = 1; mode < TCI_MODES; mode++) {
      if (!(value >> mode & 1)) continue;
      push_enum(L, enum_of(change, offset), mode);
      lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
  } else {
    push_enum(L, enum_of(change, offset), value);
  }
}

/* ---- values: each pushes one, or stops the visit ---- */

static int unreadable(visit *v, const char *what) {
  v->unreadable = true;
  return luaL_error(v->L, "plan %I, sequence %I: %s cannot be read", (LUAI_UACINT)v->record->plan_key,
                    (LUAI_UACINT)v->record->sequence, what);
}

static void set_str(lua_State *L, const char *key, tci_str value) {
  if (!value.len) return;
  tci_lua_push_str(L, value);
  lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, int64_t value) {
  if (!value) return;
  lua_pushinteger(L, value);
  lua_setfield(L, -2, key);
}

/* { { node = 3, condition = "ON_SUCCESS" }, predicate = "AND" }; of assignments { node = 1, goal = "FINAL" }. */
static void push_edges(visit *v, tci_str bytes, bool are_assignments) {
  lua_State *L = v->L;
  tci_edges_reader reader;
  uint64_t predicate;
  size_t len;
  if (!tci_edges_open(bytes, &reader, &predicate, &len)) unreadable(v, "a list of edges");
  lua_createtable(L, (int)len, 1);
  for (lua_Integer i = 1; tci_edges_next(&reader); i++) {
    lua_createtable(L, 0, 2);
    set_integer(L, "node", (int64_t)reader.node);
    push_enum(L,
              are_assignments ? &turboci__v1__check_state__descriptor : &turboci__v1__dependency_condition__descriptor,
              reader.number);
    lua_setfield(L, -2, are_assignments ? "goal" : "condition");
    lua_rawseti(L, -2, i);
  }
  if (are_assignments) return;
  push_enum(L, &turboci__v1__predicate_type__descriptor, predicate);
  lua_setfield(L, -2, "predicate");
}

static void push_pairs(visit *v, tci_str bytes) {
  tci_pairs pairs;
  if (!tci_pairs_decode(bytes, v->arena, &pairs)) unreadable(v, "metadata");
  lua_createtable(v->L, 0, (int)pairs.len);
  for (size_t i = 0; i < pairs.len; i++) {
    tci_lua_push_str(v->L, pairs.items[i].key);
    tci_lua_push_str(v->L, pairs.items[i].value);
    lua_rawset(v->L, -3);
  }
}

static void push_ids(lua_State *L, tci_ids ids) {
  lua_createtable(L, (int)ids.len, 0);
  for (size_t i = 0; i < ids.len; i++) {
    tci_lua_push_str(L, ids.items[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

static void push_decision(visit *v, tci_str bytes) {
  lua_State *L = v->L;
  tci_decision_record d;
  if (!tci_decision_decode(bytes, v->arena, &d)) unreadable(v, "a decision");
  lua_createtable(L, 0, 10);
  set_str(L, "hook", tci_str_from(tci_hook_name(d.hook)));
  set_str(L, "policy", d.policy);
  set_str(L, "version", d.version);
  set_str(L, "reason", d.reason);
  set_str(L, "fault", d.fault);
  set_str(L, "runner_id", d.runner_id);
  set_integer(L, "at_us", d.at_us);
  set_integer(L, "after_us", d.after_us);
  set_integer(L, "candidates_total", d.candidates_total);
  set_integer(L, "execution_ms", d.execution_ms);
  set_integer(L, "stale_ms", d.stale_ms);
  set_integer(L, "queue_ms", d.queue_ms);
  set_integer(L, "priority", d.priority);
  lua_pushboolean(L, d.again);
  lua_setfield(L, -2, "again");
  push_ids(L, d.exclude);
  lua_setfield(L, -2, "exclude");
  lua_createtable(L, (int)d.keys_len, 0);
  for (size_t i = 0; i < d.keys_len; i++) {
    lua_createtable(L, 0, 2);
    set_str(L, "key", d.keys[i].key);
    set_integer(L, "limit", d.keys[i].limit);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "keys");
  lua_createtable(L, (int)d.candidates_len, 0);
  for (size_t i = 0; i < d.candidates_len; i++) {
    lua_createtable(L, 0, 2);
    set_str(L, "runner_id", d.candidates[i].runner_id);
    lua_pushinteger(L, d.candidates[i].load);
    lua_setfield(L, -2, "load");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "candidates");
}

static void push_struct(visit *v, tci_str bytes) {
  tci_message_path root = {.name = TCI_STR("bytes")};
  if (!tci_message_decode(v->L, &google__protobuf__struct__descriptor, &root, bytes)) unreadable(v, "a Struct");
}

static void push_text(visit *v, const tci_change_field *field, tci_str bytes) {
  tci_ids ids;
  switch (field->shape) {
    case TCI_FIELD_STRUCT: push_struct(v, bytes); break;
    case TCI_FIELD_EDGES: push_edges(v, bytes, field->offset == offsetof(tci_change, assignments)); break;
    case TCI_FIELD_PAIRS: push_pairs(v, bytes); break;
    case TCI_FIELD_DECISION: push_decision(v, bytes); break;
    case TCI_FIELD_IDS:
      if (!tci_ids_decode(bytes, v->arena, &ids)) unreadable(v, "a list of ids");
      push_ids(v->L, ids);
      break;
    default: tci_lua_push_str(v->L, bytes); break;
  }
}

/* Pushes the member; false: it is not given. */
static bool push_field(visit *v, const tci_change *change, const tci_change_field *field) {
  const char *member = (const char *)change + field->offset;
  if (field->shape > TCI_FIELD_NAME) {
    const tci_str *bytes = (const tci_str *)(const void *)member;
    if (bytes->len) push_text(v, field, *bytes);
    return bytes->len > 0;
  }
  uint64_t value;
  memcpy(&value, member, sizeof value);
  if (!value) return false;
  switch (field->shape) {
    case TCI_FIELD_NAME: push_name(v->L, change, field->offset, value); break;
    case TCI_FIELD_FLAG: lua_pushboolean(v->L, true); break;
    case TCI_FIELD_SIGNED: lua_pushinteger(v->L, tci_unzigzag(value)); break;
    default: lua_pushinteger(v->L, (lua_Integer)value); break;
  }
  return true;
}

static void push_changes(visit *v, tci_record_reader *reader) {
  lua_State *L = v->L;
  lua_createtable(L, (int)reader->changes, 0);
  tci_change change;
  int more;
  for (lua_Integer i = 1; (more = tci_record_next(reader, &change)) > 0; i++) {
    lua_createtable(L, 0, 8);
    for (size_t f = 0; f < tci_change_fields_len; f++)
      if (push_field(v, &change, &tci_change_fields[f])) lua_setfield(L, -2, tci_change_fields[f].name);
    lua_rawseti(L, -2, i);
  }
  if (more < 0) unreadable(v, "a change");
}

/* ---- the visit ---- */

/* In a protected call: visitor, plan ids, visit. */
static int visit_record(lua_State *L) {
  visit *v = lua_touserdata(L, 3);
  const tci_store_record *record = v->record;
  tci_record_reader reader;
  tci_arena_reset(v->arena);
  if (!tci_record_open(record->bytes, &reader)) unreadable(v, "the record");
  if (reader.wall_us > v->at_us) v->at_us = reader.wall_us;
  if (record->plan_id.len) {
    tci_lua_push_str(L, record->plan_id);
    lua_rawseti(L, 2, (lua_Integer)record->plan_key);
  }
  lua_pushvalue(L, 1);
  lua_createtable(L, 0, 8);
  lua_rawgeti(L, 2, (lua_Integer)record->plan_key);
  lua_setfield(L, -2, "plan_id");
  lua_pushinteger(L, (lua_Integer)record->plan_key);
  lua_setfield(L, -2, "plan_key");
  set_integer(L, "sequence", (int64_t)record->sequence);
  set_integer(L, "version", (int64_t)reader.version);
  lua_pushinteger(L, v->at_us);
  lua_setfield(L, -2, "at_us");
  lua_pushboolean(L, record->settled);
  lua_setfield(L, -2, "settled");
  tci_lua_push_str(L, record->bytes);
  lua_setfield(L, -2, "bytes");
  push_changes(v, &reader);
  lua_setfield(L, -2, "changes");
  lua_call(L, 1, 0);
  return 0;
}

static bool on_record(void *ctx, const tci_store_record *record) {
  visit *v = ctx;
  lua_State *L = v->L;
  v->record = record;
  lua_pushvalue(L, RECORD_VISIT);
  lua_pushvalue(L, VISITOR);
  lua_pushvalue(L, PLAN_IDS);
  lua_pushlightuserdata(L, v);
  if (lua_pcall(L, 3, 0, 0) == LUA_OK) return true;
  v->failed = true;
  lua_replace(L, FAULT);
  return false;
}

static int journal(lua_State *L) {
  tci_str path = tci_lua_check_str(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  lua_rotate(L, 1, 1); /* visitor, path */
  lua_newtable(L);
  lua_insert(L, PLAN_IDS);
  lua_pushcfunction(L, visit_record);
  lua_insert(L, RECORD_VISIT);
  lua_pushnil(L);
  lua_insert(L, FAULT); /* the path stays above */
  visit v = {.L = L, .arena = tci_lua_push_arena(L)};
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  char message[MESSAGE_BYTES];
  tci_status status = tci_store_read(path.ptr, on_record, &v, message, sizeof message);
  if (v.failed && !v.unreadable) {
    lua_pushvalue(L, FAULT);
    return lua_error(L);
  }
  if (!v.failed && status.code == TCI_OK) {
    lua_pushboolean(L, true);
    return 1;
  }
  lua_pushnil(L);
  if (v.failed)
    lua_pushfstring(L, "%s: %s: it was written by a newer turboci, or is corrupt", path.ptr, lua_tostring(L, FAULT));
  else
    lua_pushstring(L, status.message);
  return 2;
}

void tci_lua_open_journal(lua_State *L) {
  lua_pushcfunction(L, journal);
  lua_setfield(L, -2, "journal");
}
