/* answer: what a hook returned, as a decision. Nobody's word is taken: types, ranges and keys are checked, tables are
 * read as they are (no script code runs), and what is wrong is told in one line.
 *
 * Called by script.c, after the call, with the two results on top of the stack.
 */
#include "script/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { EXCLUDE_MAX = 256 };

typedef struct {
  tci_script *s;
  lua_State *L;
  const tci_question *q;
  tci_hook hook;
  tci_decision *out;
  char *text; /* what is wrong */
  size_t size;
} answer;

static bool wrong(const answer *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool wrong(const answer *a, const char *format, ...) {
  char what[TCI_FAULT_BYTES], whole[TCI_FAULT_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  lua_Debug function;
  lua_pushvalue(a->L, TCI_AT_HOOKS + (int)a->hook);
  lua_getinfo(a->L, ">S", &function);
  if (function.linedefined > 0) /* where the hook is: it may be in another file */
    snprintf(whole, sizeof whole, "%s:%d: %s: ", function.short_src, function.linedefined, tci_hook_name(a->hook));
  else
    snprintf(whole, sizeof whole, "%s: %s: ", a->s->file, tci_hook_name(a->hook));
  strncat(whole, what, sizeof whole - strlen(whole) - 1);
  tci_text_clean(tci_str_from(whole), a->text, a->size);
  return false;
}

static const char *expected(tci_hook hook) {
  switch (hook) {
    case TCI_HOOK_SELECT: return "a runner, nil or { wait = seconds }";
    case TCI_HOOK_RETRY: return "nil or { after = seconds, exclude = { runners } }";
    case TCI_HOOK_TIMEOUT: return "nil or { execution = seconds, stale = seconds, queue = seconds }";
    case TCI_HOOK_PRIORITY: return "nil or an integer";
    case TCI_HOOK_ADMIT: return "nil, { key = text, limit = n }, { keys = { ... } } or { wait = seconds }";
    case TCI_HOOKS: break;
  }
  return "?";
}

static bool wrong_type(const answer *a, int at) {
  return wrong(a, "expected %s, got a %s", expected(a->hook), luaL_typename(a->L, at));
}

/* ---- tables ---- */

/* True when the table has no other keys than `names`. Of several strange ones the first by name is told. */
static bool keys_are_known(const answer *a, int table, const char *const *names) {
  lua_State *L = a->L;
  const char *unknown = NULL;
  int strange = LUA_TNONE;
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      if (lua_type(L, -2) > strange) strange = lua_type(L, -2);
      continue;
    }
    const char *key = lua_tostring(L, -2);
    size_t i = 0;
    while (names[i] && strcmp(key, names[i]) != 0) i++;
    if (!names[i] && (!unknown || strcmp(key, unknown) < 0)) unknown = key;
  }
  if (strange != LUA_TNONE)
    return wrong(a, "expected %s, got a table with a key that is a %s", expected(a->hook), lua_typename(L, strange));
  if (!unknown) return true;
  const char *near = tci_guess_among(unknown, names);
  if (near) return wrong(a, "unknown key '%.60s' in the answer; did you mean '%s'?", unknown, near);
  return wrong(a, "unknown key '%.60s' in the answer; expected %s", unknown, expected(a->hook));
}

/* Pushes a field; its type. */
static int field(const answer *a, int table, const char *name) {
  lua_pushstring(a->L, name);
  return lua_rawget(a->L, table);
}

/* A length of time, clamped to duration_ms_max; *us is left alone when it is not said. */
static bool read_seconds(const answer *a, int table, const char *name, int64_t *us) {
  int type = field(a, table, name);
  lua_Number seconds = lua_tonumber(a->L, -1);
  lua_pop(a->L, 1);
  if (type == LUA_TNIL) return true;
  if (type != LUA_TNUMBER)
    return wrong(a, "%s: expected a number of seconds, got a %s", name, lua_typename(a->L, type));
  if (!isfinite(seconds)) return wrong(a, "%s: expected a number of seconds, got one that is not finite", name);
  if (seconds < 0) return wrong(a, "%s: expected a number of seconds, got a negative one", name);
  lua_Number most = (lua_Number)a->s->limits.duration_ms_max / 1e3;
  *us = llround((seconds < most ? seconds : most) * 1e6);
  return true;
}

static bool read_ms(const answer *a, int table, const char *name, int64_t *ms) {
  int64_t us = -1;
  if (!read_seconds(a, table, name, &us)) return false;
  if (us == 0) return wrong(a, "%s: expected more than 0 seconds", name);
  if (us > 0) *ms = us < 1000 ? 1 : (us + 500) / 1000;
  return true;
}

static tci_str keep(const answer *a, tci_str text) { return tci_str_copy(a->q->arena, text); }

/* A name at the top of the stack: text of 1 to id_bytes_max bytes. */
static bool read_name(const answer *a, const char *what, tci_str *out) {
  lua_State *L = a->L;
  if (lua_type(L, -1) != LUA_TSTRING) return wrong(a, "%s: expected a text, got a %s", what, luaL_typename(L, -1));
  tci_str text;
  text.ptr = lua_tolstring(L, -1, &text.len);
  if (!text.len) return wrong(a, "%s: it is empty", what);
  if (text.len > (size_t)a->s->limits.id_bytes_max)
    return wrong(a, "%s: %zu bytes, over the limit id_bytes_max (%lld)", what, text.len,
                 (long long)a->s->limits.id_bytes_max);
  if (!tci_str_is_utf8(text)) return wrong(a, "%s: it is not UTF-8", what);
  for (size_t i = 0; i < text.len; i++)
    if ((uint8_t)text.ptr[i] < ' ' || text.ptr[i] == 127) return wrong(a, "%s: it holds a control character", what);
  *out = keep(a, text);
  return true;
}

/* Replaces the list at the top by what it holds (it may be a view); its length, or -1. */
static int64_t read_list(const answer *a, const char *what, int64_t max) {
  lua_State *L = a->L;
  if (lua_type(L, -1) != LUA_TTABLE) {
    wrong(a, "%s: expected a list, got a %s", what, luaL_typename(L, -1));
    return -1;
  }
  tci_view_data(L, -1);
  lua_remove(L, -2);
  int64_t len = (int64_t)lua_rawlen(L, -1), n = 0;
  if (len > max) {
    wrong(a, "%s: more than %lld entries", what, (long long)max);
    return -1;
  }
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
    if (++n > len) { /* a hole, or a name */
      lua_pop(L, 2);
      wrong(a, "%s: expected a list, 1 to n without holes", what);
      return -1;
    }
  return len;
}

/* ---- the hooks; the answer is at `at` ---- */

static bool read_wait(const answer *a, int at) {
  static const char *const names[] = {"wait", NULL};
  int64_t us = -1;
  if (!keys_are_known(a, at, names) || !read_seconds(a, at, "wait", &us)) return false;
  if (us < 0) return wrong(a, "expected %s, got a table without wait", expected(a->hook));
  a->out->wait = true;
  a->out->wait_us = us;
  return true;
}

static bool read_select(const answer *a, int at) {
  lua_State *L = a->L;
  int type = lua_type(L, at);
  if (type == LUA_TNIL) {
    a->out->wait = true;
    return true;
  }
  if (type == LUA_TSTRING) {
    tci_str id;
    id.ptr = lua_tolstring(L, at, &id.len);
    for (size_t i = 0; i < a->q->candidates_len && !a->out->runner; i++)
      if (tci_str_eq(a->q->candidates[i]->runner_id, id)) a->out->runner = a->q->candidates[i];
    return a->out->runner || wrong(a, "'%.60s' is not one of ctx.runners", id.ptr);
  }
  if (type != LUA_TTABLE) return wrong_type(a, at);
  int kind = tci_view_kind(L, at);
  if (!kind) return read_wait(a, at);
  if (kind != TCI_VIEW_RUNNER) return wrong(a, "expected %s, got another view", expected(a->hook));
  a->out->runner = tci_view_candidate(L, at);
  return a->out->runner || wrong(a, "expected one of ctx.runners, got a runner of another call");
}

static bool has(const tci_ids *ids, tci_str id) {
  for (size_t i = 0; i < ids->len; i++)
    if (tci_str_eq(ids->items[i], id)) return true;
  return false;
}

static bool read_exclude(const answer *a) {
  lua_State *L = a->L;
  int64_t len = read_list(a, "exclude", EXCLUDE_MAX);
  if (len < 0) return false;
  tci_ids *ids = &a->out->exclude;
  ids->items = tci_arena_array(a->q->arena, tci_str, (size_t)len + 1);
  for (int64_t i = 1; i <= len; i++) {
    lua_rawgeti(L, -1, i);
    if (tci_view_runner_id(L, -1)) {
      lua_remove(L, -2);
      if (lua_isnil(L, -1)) { /* an attempt that never had a runner */
        lua_pop(L, 1);
        continue;
      }
    }
    tci_str id;
    if (!read_name(a, "exclude", &id)) return false;
    lua_pop(L, 1);
    if (!has(ids, id)) ids->items[ids->len++] = id;
  }
  return true;
}

static bool read_retry(const answer *a, int at) {
  static const char *const names[] = {"after", "exclude", NULL};
  if (lua_isnil(a->L, at)) return true;
  if (!lua_istable(a->L, at) || tci_view_kind(a->L, at)) return wrong_type(a, at);
  if (!keys_are_known(a, at, names) || !read_seconds(a, at, "after", &a->out->after_us)) return false;
  a->out->again = true;
  return field(a, at, "exclude") == LUA_TNIL || read_exclude(a);
}

static bool read_timeout(const answer *a, int at) {
  static const char *const names[] = {"execution", "stale", "queue", NULL};
  if (lua_isnil(a->L, at)) return true;
  if (!lua_istable(a->L, at) || tci_view_kind(a->L, at)) return wrong_type(a, at);
  return keys_are_known(a, at, names) && read_ms(a, at, "execution", &a->out->execution_ms) &&
         read_ms(a, at, "stale", &a->out->stale_ms) && read_ms(a, at, "queue", &a->out->queue_ms);
}

static bool read_priority(const answer *a, int at) {
  if (lua_isnil(a->L, at)) return true;
  if (lua_type(a->L, at) != LUA_TNUMBER) return wrong_type(a, at);
  int64_t most = a->s->limits.priority_max;
  lua_Number n = lua_tonumber(a->L, at);
  if (!isfinite(n) || floor(n) != n) return wrong(a, "expected nil or an integer, got a number that is none");
  a->out->says = true;
  a->out->priority = n > (lua_Number)most ? most : n < -(lua_Number)most ? -most : (int64_t)n;
  return true;
}

/* { key = , limit = } at `at` */
static bool read_key(const answer *a, int at, tci_admission *out) {
  lua_State *L = a->L;
  field(a, at, "key");
  if (!read_name(a, "key", &out->key)) return false;
  int type = field(a, at, "limit");
  lua_Number limit = lua_tonumber(L, -1);
  lua_pop(L, 2);
  if (type != LUA_TNUMBER) return wrong(a, "limit: expected an integer from 1, got a %s", lua_typename(L, type));
  if (!isfinite(limit) || floor(limit) != limit || limit < 1) return wrong(a, "limit: expected an integer from 1");
  out->limit = limit < 1e9 ? (int64_t)limit : 1000000000;
  return true;
}

static bool read_keys(const answer *a) {
  static const char *const names[] = {"key", "limit", NULL};
  lua_State *L = a->L;
  int64_t len = read_list(a, "keys", a->s->limits.admission_keys_max);
  if (len < 0) return false;
  a->out->keys = tci_arena_array(a->q->arena, tci_admission, (size_t)len + 1);
  for (int64_t i = 1; i <= len; i++) {
    lua_rawgeti(L, -1, i);
    int at = lua_gettop(L);
    if (!lua_istable(L, at) || tci_view_kind(L, at))
      return wrong(a, "keys: expected { key = text, limit = n }, got a %s", luaL_typename(L, at));
    tci_admission *key = &a->out->keys[a->out->keys_len];
    if (!keys_are_known(a, at, names) || !read_key(a, at, key)) return false;
    for (size_t k = 0; k < a->out->keys_len; k++)
      if (tci_str_eq(a->out->keys[k].key, key->key)) return wrong(a, "keys: '%.*s' twice", TCI_STR_ARG(key->key));
    a->out->keys_len++;
    lua_pop(L, 1);
  }
  return true;
}

static bool read_admit(const answer *a, int at) {
  static const char *const names[] = {"key", "limit", "keys", "wait", NULL};
  static const char *const single[] = {"key", "limit", NULL}, *const several[] = {"keys", NULL};
  lua_State *L = a->L;
  if (lua_isnil(L, at)) return true;
  if (!lua_istable(L, at) || tci_view_kind(L, at)) return wrong_type(a, at);
  if (!keys_are_known(a, at, names)) return false;
  bool waits = field(a, at, "wait") != LUA_TNIL, many = field(a, at, "keys") != LUA_TNIL;
  if (waits) return read_wait(a, at);
  if (many) return keys_are_known(a, at, several) && read_keys(a);
  lua_pop(L, 2);
  a->out->keys = tci_arena_array(a->q->arena, tci_admission, 1);
  if (!keys_are_known(a, at, single)) return false;
  if (field(a, at, "key") == LUA_TNIL) return wrong(a, "expected %s, got a table without key", expected(a->hook));
  if (!read_key(a, at, a->out->keys)) return false;
  a->out->keys_len = 1;
  return true;
}

static bool read_reason(const answer *a, int at) {
  lua_State *L = a->L;
  if (lua_isnil(L, at)) return true;
  if (lua_type(L, at) != LUA_TSTRING)
    return wrong(a, "the second value is the reason, a text; got a %s", luaL_typename(L, at));
  tci_str text;
  text.ptr = lua_tolstring(L, at, &text.len);
  size_t max = (size_t)a->s->limits.policy_reason_bytes_max;
  size_t size = (text.len < max ? text.len : max) + 1;
  char *copy = tci_arena_alloc(a->q->arena, size);
  if (!copy) return true;
  tci_text_clean(text, copy, size);
  a->out->reason = tci_str_from(copy);
  return true;
}

bool tci_answer_read(tci_script *s, const tci_question *q, tci_hook hook, tci_decision *out, char *text, size_t size) {
  const answer a = {s, s->L, q, hook, out, text, size};
  int at = lua_gettop(s->L) - 1;
  bool good = false;
  switch (hook) {
    case TCI_HOOK_SELECT: good = read_select(&a, at); break;
    case TCI_HOOK_RETRY: good = read_retry(&a, at); break;
    case TCI_HOOK_TIMEOUT: good = read_timeout(&a, at); break;
    case TCI_HOOK_PRIORITY: good = read_priority(&a, at); break;
    case TCI_HOOK_ADMIT: good = read_admit(&a, at); break;
    case TCI_HOOKS: break;
  }
  return good && read_reason(&a, at + 1);
}
