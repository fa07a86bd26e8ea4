/* script: the door (script.h): opening, asking, counting.
 *
 * 1. Between calls the state's stack holds its fixed places (internal.h) and nothing else.
 * 2. A question is answered or faults; whatever it was, the state answers the next one.
 * 3. A state that keeps too much is made anew, which takes as long as loading: not before it was asked RENEW_ASKED times,
 *    and never behind a question that took long itself. Until then its questions are faults at once.
 */
#include "script/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum {
  RENEW_ASKED = 100,
  RENEW_BEHIND_US = 1000,
  VIEWS_COST = 3000, /* of some ten runners: from here on making views takes time that is not the policy's */
};

/* ---- counting ---- */

/* Buckets of an eighth of a power of two. */
static int bucket_of(int64_t ns) {
  if (ns < 16) return ns < 0 ? 0 : (int)ns;
  int power = 63 - __builtin_clzll((unsigned long long)ns);
  int bucket = 16 + (power - 4) * 8 + (int)(ns >> (power - 3) & 7);
  return bucket < TCI_BUCKETS ? bucket : TCI_BUCKETS - 1;
}

static int64_t middle_of(int bucket) {
  if (bucket < 16) return bucket;
  int power = (bucket - 16) / 8 + 4, part = (bucket - 16) % 8;
  int64_t width = (int64_t)1 << (power - 3);
  return ((int64_t)8 + part) * width + width / 2;
}

static void count(tci_script *s, tci_decision *d) {
  int64_t passed_ns = tci_clock_mono_ns() - s->begun_ns;
  d->cpu_us = tci_sandbox_cpu_us(s, passed_ns);
  s->calls++;
  s->instructions += d->cost;
  s->times[bucket_of(passed_ns)]++;
  if (!d->fault) return;
  s->faults++;
  snprintf(s->last_fault, sizeof s->last_fault, "%s", d->fault);
}

/* ---- opening ---- */

/* The folder of `path`, then the given ones. */
static void take_folders(tci_script *s, const tci_script_options *options) {
  const char *slash = strrchr(s->path, '/');
  s->folders = tci_calloc(options->folders.len + 1, sizeof *s->folders);
  s->folders[s->folders_len++] =
      slash ? strndup(s->path, slash == s->path ? 1 : (size_t)(slash - s->path)) : strdup(".");
  for (size_t i = 0; i < options->folders.len; i++)
    if (!tci_str_eq(options->folders.items[i], tci_str_from(s->folders[0])))
      s->folders[s->folders_len++] = strndup(options->folders.items[i].ptr, options->folders.items[i].len);
}

static void open_state(tci_script *s) {
  tci_sandbox_open(s);
  lua_State *L = s->L;
  lua_checkstack(L, 100);
  lua_settop(L, TCI_AT_KEYS - 1);
  lua_pushcfunction(L, tci_sandbox_handler);
  lua_replace(L, TCI_AT_HANDLER);
  tci_library_open(L);
  lua_replace(L, TCI_AT_ENVIRONMENT);
  lua_createtable(L, 0, 4);
  lua_replace(L, TCI_AT_LOADED);
  tci_view_open(s);
}

/* What a policy keeps from call to call is no state of ours, and is bounded as a call is. */
static bool keeps_too_much(const tci_script *s) {
  return s->live_bytes > s->opened_bytes + tci_view_bytes(s) + (size_t)s->limits.policy_memory_bytes_max;
}

/* A fresh state, from the same bytes: what was kept is gone. They may not load this time: the fuse. Returns what it
 * cost. */
static int64_t renew(tci_script *s) {
  char message[TCI_FAULT_BYTES];
  tci_sandbox_close(s);
  tci_view_forget(s);
  open_state(s);
  s->is_whole = tci_load(s, message, sizeof message).code == TCI_OK;
  s->is_full = !s->is_whole;
  s->asked = 0;
  return s->spent + s->view_cost;
}

static void refuse(const tci_script *s, const tci_question *q, tci_decision *out) {
  const char *what = s->is_whole ? tci_fmt(q->arena, "keeps more than %lld bytes from call to call",
                                           (long long)s->limits.policy_memory_bytes_max)
                                 : "took too long when it was loaded again, since it kept too much";
  *out = (tci_decision){.fault = tci_fmt(q->arena, "%s: %s (limit %s)", s->file, what,
                                         s->is_whole ? "policy_memory_bytes_max" : "policy_cpu_ms_max")};
}

/* ---- asking ---- */

static void call(tci_script *s, tci_hook hook, const tci_question *q, tci_decision *out) {
  const tci_limits *limits = &s->limits;
  size_t candidates = hook == TCI_HOOK_SELECT ? q->candidates_len : 0;
  tci_sandbox_begin(s, limits->policy_instructions_max + 100 * (int64_t)candidates,
                    (size_t)limits->policy_memory_bytes_max, limits->policy_cpu_ms_max * 1000);
  tci_view_begin(s, q, hook);
  if (s->view_cost >= VIEWS_COST) tci_sandbox_watch(s);
  char text[TCI_FAULT_BYTES];
  lua_pushvalue(s->L, TCI_AT_HOOKS + (int)hook);
  lua_pushvalue(s->L, TCI_AT_CTX);
  bool good = tci_sandbox_call(s, 1, 2, text, sizeof text) && tci_answer_read(s, q, hook, out, text, sizeof text);
  if (!good) *out = (tci_decision){.fault = tci_fmt(q->arena, "%s", text)};
  out->cost = s->spent + s->view_cost + 100;
  lua_settop(s->L, TCI_AT_KEYS - 1);
  tci_view_end(s);
  if (tci_sandbox_end(s, !good)) s->is_full = keeps_too_much(s);
}

static void ask(void *self, tci_hook hook, const tci_question *q, tci_decision *out) {
  tci_script *s = self;
  if ((unsigned)hook >= TCI_HOOKS || !(s->policy.hooks >> hook & 1)) {
    tci_policy_builtin.ask(tci_policy_builtin.self, hook, q, out);
    return;
  }
  if (s->is_full) {
    tci_sandbox_start_clock(s);
    refuse(s, q, out);
    out->cost = 100;
  } else {
    call(s, hook, q, out);
  }
  count(s, out);
  if (++s->asked < RENEW_ASKED || !s->is_full || out->cpu_us > RENEW_BEHIND_US) return;
  int64_t from_us = s->fuse ? tci_clock_thread_cpu_us() : 0;
  out->cost += renew(s);
  if (s->fuse) out->cpu_us += tci_clock_thread_cpu_us() - from_us;
}

/* ---- the life of a script ---- */

tci_status tci_script_open(const tci_script_options *options, const char *path, tci_script **out, char *message,
                           size_t size) {
  tci_script *s = tci_calloc(1, sizeof *s);
  *out = NULL;
  s->limits = options->limits;
  s->fuse = options->fuse;
  s->path = strdup(path);
  take_folders(s, options);
  open_state(s);
  int64_t from_us = s->fuse ? tci_clock_thread_cpu_us() : 0;
  tci_status status = tci_load(s, message, size);
  s->is_whole = true;
  s->policy.name = tci_str_from(s->name);
  s->policy.version = tci_str_from(s->version);
  s->policy.self = s;
  s->policy.ask = ask;
  if (status.code == TCI_OK) status = tci_sample(s, from_us, message, size);
  if (status.code != TCI_OK) {
    tci_text_clean(tci_str_from(message), message, size);
    tci_script_close(s);
    return status;
  }
  s->calls = s->faults = s->instructions = s->asked = 0;
  s->cpu_seen_ns = 0; /* another thread may be the one that asks */
  memset(s->times, 0, sizeof s->times);
  lua_gc(s->L, LUA_GCCOLLECT);
  s->live_bytes = s->used_bytes - s->stack_bytes;
  *out = s;
  return TCI_STATUS_OK;
}

void tci_script_close(tci_script *s) {
  if (!s) return;
  tci_sandbox_close(s);
  for (size_t i = 0; i < s->shown_len; i++) {
    tci_buf_deinit(&s->shown[i].metadata);
    tci_buf_deinit(&s->shown[i].name);
  }
  free(s->shown);
  free(s->listed);
  tci_buf_deinit(&s->plan_metadata);
  tci_buf_deinit(&s->scratch);
  for (size_t i = 0; i < s->folders_len; i++) free(s->folders[i]);
  free(s->folders);
  for (size_t i = 0; i < s->files.len; i++) {
    free(s->files.items[i].name);
    free(s->files.items[i].path);
    tci_buf_deinit(&s->files.items[i].bytes);
  }
  tci_vec_free(&s->files);
  tci_vec_free(&s->opening);
  free(s->path);
  free(s->name);
  free(s->file);
  free(s);
}

/* ---- looking ---- */

const tci_policy *tci_script_policy(const tci_script *s) { return &s->policy; }

const char *tci_script_path(const tci_script *s) { return s->path; }

bool tci_script_is_stale(const tci_script *s) {
  for (size_t i = 0; i < s->files.len; i++)
    if (tci_file_changed(&s->files.items[i], s->limits.policy_source_bytes_max)) return true;
  return false;
}

/* The time under which `part` of a hundred calls stayed. */
static int64_t percentile(const tci_script *s, int64_t part) {
  int64_t wanted = (s->calls * part + 99) / 100, seen = 0;
  for (int i = 0; i < TCI_BUCKETS && s->calls; i++) {
    seen += s->times[i];
    if (seen >= wanted) return middle_of(i);
  }
  return 0;
}

tci_script_stats tci_script_count(const tci_script *s) {
  return (tci_script_stats){
      .calls = s->calls,
      .faults = s->faults,
      .instructions = s->instructions,
      .p50_ns = percentile(s, 50),
      .p99_ns = percentile(s, 99),
      .last_fault = s->last_fault,
      .memory_bytes = s->used_bytes,
  };
}
