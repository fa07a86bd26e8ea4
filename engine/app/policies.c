/* policies: see policies.h.
 *
 * An entry is a name with a file, a script, or both: a script with an error is that of an older text of the file.
 * Called by app/engine.c.
 */
#include "app/policies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/folder.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/vec.h"
#include "script/script.h"

enum { MESSAGE_BYTES = 1024, NAMES_TOLD_MAX = 20 };

typedef struct {
  tci_str name, path, error; /* heap; error: why the file as it is was not taken over */
  tci_script *script;        /* NULL: never loaded */
  bool found;                /* by the present search */
  int64_t gone_us;           /* its file is away, and the policy goes then; 0: it is there */
  unsigned faults_told;      /* of this version: 1u << tci_hook */
} entry;

typedef struct {
  tci_policy_set set;
  const tci_policy *policies[];
} generation;

/* A look at the folders, over several turns. */
typedef struct {
  bool under_way, patient;
  bool differs; /* a script came, changed or went */
  int64_t mono_us;
  tci_arena arena; /* of this look */
  tci_policy_files files;
  size_t next; /* of the files; behind them the shadow's */
  tci_ids changed;
} look;

struct tci_policies {
  tci_policies_options options; /* what it points to is in the arena */
  look look;
  int64_t due_us;
  tci_arena arena;
  TCI_VEC(entry *) entries; /* sorted by name */
  entry shadow;
  TCI_VEC(tci_str) passed_over; /* heap: paths that were logged as no policies */
  generation *current;          /* NULL: nothing is configured */
  TCI_VEC(generation *) old_sets;
  TCI_VEC(tci_script *) old_scripts;
};

#define LOG(p, level, ...)                                \
  do {                                                    \
    if (!(p)->options.quiet) tci_log(level, __VA_ARGS__); \
  } while (0)

/* ---- entries ---- */

static void entry_free(entry *e) {
  tci_script_close(e->script);
  tci_str_free(&e->name);
  tci_str_free(&e->path);
  tci_str_free(&e->error);
}

/* Its place, or where it belongs. */
static size_t place_of(const tci_policies *p, tci_str name) {
  size_t low = 0, high = p->entries.len;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    if (tci_str_cmp(p->entries.items[mid]->name, name) < 0)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

static entry *entry_find(const tci_policies *p, tci_str name) {
  size_t at = place_of(p, name);
  return at < p->entries.len && tci_str_eq(p->entries.items[at]->name, name) ? p->entries.items[at] : NULL;
}

static entry *entry_add(tci_policies *p, tci_str name) {
  entry *e = tci_calloc(1, sizeof *e);
  e->name = tci_str_dup(name);
  size_t at = place_of(p, name);
  tci_vec_push(&p->entries, e);
  memmove(p->entries.items + at + 1, p->entries.items + at, (p->entries.len - 1 - at) * sizeof(entry *));
  p->entries.items[at] = e;
  return e;
}

static void entry_remove(tci_policies *p, size_t at) {
  entry *e = p->entries.items[at];
  memmove(p->entries.items + at, p->entries.items + at + 1, (--p->entries.len - at) * sizeof(entry *));
  entry_free(e);
  free(e);
}

/* The core may still have it. */
static void retire(tci_policies *p, entry *e) {
  if (e->script) tci_vec_push(&p->old_scripts, e->script);
  e->script = NULL;
}

static const char *version_of(const entry *e, tci_arena *arena) {
  return e->script ? tci_str_z(arena, tci_script_policy(e->script)->version) : "";
}

/* ---- taking files over ---- */

static void refused(tci_policies *p, entry *e, const char *message) {
  if (tci_str_eq(e->error, tci_str_from(message))) return; /* told before */
  tci_str_assign(&e->error, tci_str_from(message));
  tci_arena scratch = {0};
  LOG(p, TCI_LOG_WARN, "policy_refused", "name=%.*s path=\"%.*s\" error=\"%s\" keeps=%s", TCI_STR_ARG(e->name),
      TCI_STR_ARG(e->path), message, e->script ? version_of(e, &scratch) : "nothing");
  tci_arena_deinit(&scratch);
}

/* Its file is not there, but may be on its way. */
static bool may_come_back(tci_policies *p, entry *e) {
  if (!e->script || !p->look.patient) return false;
  if (!e->gone_us) e->gone_us = p->look.mono_us + p->options.limits.policy_gone_ms * 1000;
  if (p->look.mono_us >= e->gone_us) return false;
  if (e->gone_us < p->due_us) p->due_us = e->gone_us;
  return true;
}

/* Brings the entry up to the file at `path`. True when its script is another one now; *is_new_version: and its text too. */
static bool take_over(tci_policies *p, entry *e, const char *path, bool *is_new_version) {
  *is_new_version = false;
  bool same_path = e->script && strcmp(tci_script_path(e->script), path) == 0;
  if (e->script && !same_path && access(tci_script_path(e->script), F_OK) != 0 && may_come_back(p, e)) return false;
  tci_str_assign(&e->path, tci_str_from(path));
  if (same_path && !tci_script_is_stale(e->script)) {
    e->gone_us = 0;
    if (e->error.len) LOG(p, TCI_LOG_INFO, "policy_mended", "name=%.*s", TCI_STR_ARG(e->name));
    tci_str_free(&e->error);
    return false;
  }
  const tci_script_options options = {p->options.limits, p->options.folders, p->options.fuse};
  char message[MESSAGE_BYTES] = "";
  tci_script *script = NULL;
  tci_status status = tci_script_open(&options, path, &script, message, sizeof message);
  if (status.code != TCI_OK && access(path, F_OK) != 0) { /* it went between the search and now */
    e->found = false;
    if (!may_come_back(p, e)) tci_str_assign(&e->error, TCI_STR("its file is gone"));
    return false;
  }
  e->gone_us = 0;
  if (status.code != TCI_OK) {
    refused(p, e, message[0] ? message : status.message);
    return false;
  }
  tci_str version = tci_script_policy(script)->version;
  *is_new_version = !e->script || !tci_str_eq(tci_script_policy(e->script)->version, version);
  if (*is_new_version) e->faults_told = 0;
  retire(p, e);
  e->script = script;
  tci_str_free(&e->error);
  return true;
}

/* The names that it is attached to, as words in `out`: "server", "type:X". */
static void attached_to(const tci_policies *p, tci_str name, tci_arena *arena, tci_ids *out) {
  const tci_policies_options *o = &p->options;
  *out = (tci_ids){tci_arena_array(arena, tci_str, o->types.len + 1), 0};
  if (o->server && tci_str_eq(name, tci_str_from(o->server))) out->items[out->len++] = TCI_STR("server");
  for (size_t i = 0; i < o->types.len; i++)
    if (tci_str_eq(name, o->types.items[i].value))
      out->items[out->len++] = tci_str_from(tci_fmt(arena, "type:%.*s", TCI_STR_ARG(o->types.items[i].key)));
}

static void log_gone(const tci_policies *p, tci_str name) {
  tci_arena scratch = {0};
  tci_ids at;
  attached_to(p, name, &scratch, &at);
  for (size_t i = 0; i < at.len; i++)
    LOG(p, TCI_LOG_WARN, "policy_missing", "name=%.*s attached_to=%.*s action=\"the built-in default decides\"",
        TCI_STR_ARG(name), TCI_STR_ARG(at.items[i]));
  tci_arena_deinit(&scratch);
}

/* Its folder is one of those that could not be read now. */
static bool is_out_of_sight(const tci_policies *p, const tci_policy_files *files, const entry *e) {
  for (size_t i = 0; i < p->options.folders.len; i++) {
    tci_str folder = p->options.folders.items[i];
    if (folder.len && folder.ptr[folder.len - 1] == '/') folder.len--;
    bool inside =
        e->path.len > folder.len && e->path.ptr[folder.len] == '/' && memcmp(e->path.ptr, folder.ptr, folder.len) == 0;
    if (files->faults[i] && inside) return true;
  }
  return false;
}

/* There is room: see begin_look. */
static void add_name(look *l, tci_str name) { l->changed.items[l->changed.len++] = tci_str_copy(&l->arena, name); }

/* Logged once for each path. */
static void pass_over(tci_policies *p, tci_str path, const char *why) {
  for (size_t i = 0; i < p->passed_over.len; i++)
    if (tci_str_eq(p->passed_over.items[i], path)) return;
  tci_vec_push(&p->passed_over, tci_str_dup(path));
  LOG(p, TCI_LOG_WARN, "policy_passed_over", "path=\"%.*s\" why=\"%s\"", TCI_STR_ARG(path), why);
}

static void log_search(tci_policies *p, const tci_policy_files *files) {
  for (size_t i = 0; i < p->options.folders.len; i++)
    if (files->faults[i])
      LOG(p, TCI_LOG_WARN, "policy_folder_unreadable", "folder=\"%.*s\" error=\"%s\" action=\"its policies stay\"",
          TCI_STR_ARG(p->options.folders.items[i]), files->faults[i]);
  for (size_t i = 0; i < files->misnamed.len; i++)
    pass_over(p, files->misnamed.items[i], "a policy is called by letters, digits, '_' and '-'");
}

/* What was not found goes. */
static void drop_gone(tci_policies *p) {
  const tci_policy_files *files = &p->look.files;
  for (size_t i = 0; i < p->entries.len; i++) p->entries.items[i]->found = false;
  for (size_t i = 0; i < files->len; i++) {
    entry *e = entry_find(p, files->items[i].name);
    if (e) e->found = true;
  }
  for (size_t i = p->entries.len; i-- > 0;) {
    entry *e = p->entries.items[i];
    if (e->found || is_out_of_sight(p, files, e) || may_come_back(p, e)) continue;
    if (e->script) {
      p->look.differs = true;
      add_name(&p->look, e->name);
      log_gone(p, e->name);
    }
    retire(p, e);
    entry_remove(p, i);
  }
}

static void take_file(tci_policies *p, const tci_policy_file *file) {
  entry *e = entry_find(p, file->name);
  if (e && e->script && is_out_of_sight(p, &p->look.files, e)) return; /* this file is of a later folder */
  if (!e && p->entries.len >= (size_t)p->options.limits.policies_max) {
    pass_over(p, tci_str_from(file->path), "there are too many policies (limit policies_max)");
    return;
  }
  bool is_new;
  if (!e) e = entry_add(p, file->name);
  if (take_over(p, e, file->path, &is_new)) p->look.differs = true;
  if (is_new) add_name(&p->look, e->name);
}

static void take_shadow(tci_policies *p) {
  if (!p->options.shadow) return;
  entry *e = &p->shadow;
  bool is_new;
  e->found = true;
  if (take_over(p, e, p->options.shadow, &is_new)) p->look.differs = true;
  bool gone = !e->found && e->script && !may_come_back(p, e);
  if (gone) LOG(p, TCI_LOG_WARN, "policy_missing", "name=%.*s attached_to=shadow", TCI_STR_ARG(e->name));
  if (gone) retire(p, e);
  if (gone) p->look.differs = true;
  if (is_new || gone) add_name(&p->look, e->name);
}

/* ---- the set ---- */

static void make_set(tci_policies *p) {
  const tci_policies_options *o = &p->options;
  generation *g = tci_calloc(1, sizeof *g + p->entries.len * sizeof g->policies[0]);
  for (size_t i = 0; i < p->entries.len; i++)
    if (p->entries.items[i]->script) g->policies[g->set.len++] = tci_script_policy(p->entries.items[i]->script);
  g->set.policies = g->policies;
  g->set.server = tci_str_from(o->server);
  g->set.types = o->types;
  g->set.shadow = p->shadow.script ? tci_script_policy(p->shadow.script) : NULL;
  if (p->current) tci_vec_push(&p->old_sets, p->current);
  p->current = g;
}

const tci_policy_set *tci_policies_set(const tci_policies *p) { return p->current ? &p->current->set : NULL; }

/* ---- the look ---- */

static void begin_look(tci_policies *p, bool patient, int64_t mono_us) {
  look *l = &p->look;
  tci_arena_reset(&l->arena);
  *l = (look){.under_way = true, .patient = patient, .mono_us = mono_us, .arena = l->arena};
  p->due_us = INT64_MAX;
  tci_policy_files_find(&p->options.folders, &l->arena, &l->files);
  /* Every entry may go, every file may come, and so may the shadow. */
  l->changed = (tci_ids){tci_arena_array(&l->arena, tci_str, p->entries.len + l->files.len + 1), 0};
  drop_gone(p);
}

/* As much as a question may take: then whatever else the turn has to do comes first. */
static bool took_long(const tci_policies *p, int64_t from_us) {
  return p->options.fuse && tci_clock_thread_cpu_us() - from_us > p->options.limits.policy_cpu_ms_max * 1000;
}

tci_look tci_policies_look(tci_policies *p, bool patient, int64_t mono_us, tci_ids *changed, int64_t *cpu_us) {
  look *l = &p->look;
  int64_t from_us = p->options.fuse ? tci_clock_thread_cpu_us() : 0;
  if (!l->under_way) {
    begin_look(p, patient, mono_us);
    log_search(p, &l->files);
  }
  for (int64_t n = 0; n < p->options.limits.policy_files_per_turn && l->under_way; n++) {
    if (took_long(p, from_us)) break;
    if (l->next < l->files.len) {
      take_file(p, &l->files.items[l->next++]);
    } else {
      take_shadow(p);
      l->under_way = false;
    }
  }
  *cpu_us = p->options.fuse ? tci_clock_thread_cpu_us() - from_us : 0;
  *changed = l->changed;
  if (l->under_way) return TCI_LOOK_GOES_ON;
  if (l->differs) make_set(p);
  return l->differs ? TCI_LOOK_DIFFERS : TCI_LOOK_SAME;
}

int64_t tci_policies_due_us(const tci_policies *p) { return p->due_us; }

void tci_policies_forget(tci_policies *p) {
  if (p->look.under_way) return; /* what it replaced so far is in force */
  for (size_t i = 0; i < p->old_sets.len; i++) free(p->old_sets.items[i]);
  for (size_t i = 0; i < p->old_scripts.len; i++) tci_script_close(p->old_scripts.items[i]);
  p->old_sets.len = p->old_scripts.len = 0;
}

/* ---- open ---- */

static void copy_options(tci_policies *p, const tci_policies_options *options) {
  tci_policies_options *o = &p->options;
  *o = *options;
  o->folders.items = tci_arena_array(&p->arena, tci_str, o->folders.len + 1);
  for (size_t i = 0; i < o->folders.len; i++) o->folders.items[i] = tci_str_copy(&p->arena, options->folders.items[i]);
  o->types.items = tci_arena_array(&p->arena, tci_pair, o->types.len + 1);
  for (size_t i = 0; i < o->types.len; i++) {
    o->types.items[i].key = tci_str_copy(&p->arena, options->types.items[i].key);
    o->types.items[i].value = tci_str_copy(&p->arena, options->types.items[i].value);
  }
  if (o->server) o->server = tci_str_z(&p->arena, tci_str_from(o->server));
  if (o->shadow) o->shadow = tci_str_z(&p->arena, tci_str_from(o->shadow));
}

/* The file's name without its folder and suffix. */
static tci_str name_of(const char *path) {
  const char *slash = strrchr(path, '/');
  tci_str name = tci_str_from(slash ? slash + 1 : path);
  if (name.len > 4 && memcmp(name.ptr + name.len - 4, ".lua", 4) == 0) name.len -= 4;
  return name;
}

/* "a, b, c and 4 more"; those that run. */
static const char *known_names(const tci_policies *p, tci_arena *arena) {
  const char *text = "";
  size_t told = 0, all = 0;
  for (size_t i = 0; i < p->entries.len; i++) {
    const entry *e = p->entries.items[i];
    if (!e->script || ++all > NAMES_TOLD_MAX) continue;
    text = tci_fmt(arena, "%s%s%.*s", text, told++ ? ", " : "", TCI_STR_ARG(e->name));
  }
  if (all == 0) return "none";
  return all > told ? tci_fmt(arena, "%s and %zu more", text, all - told) : text;
}

/* An attached policy has to be there when the server starts: later it may go, and the built-in decides. */
static tci_status must_be_there(const tci_policies *p, tci_str name, const char *where, char *message, size_t size) {
  const entry *e = entry_find(p, name);
  if (e && e->script) return TCI_STATUS_OK;
  tci_arena scratch = {0};
  if (e)
    snprintf(message, size, "policy '%.*s' (%s): %.*s; mend the file, or attach another policy", TCI_STR_ARG(name),
             where, TCI_STR_ARG(e->error));
  else if (p->options.folders.len == 0)
    snprintf(message, size, "policy '%.*s' (%s): no policies folder is given; name the one that has %.*s.lua",
             TCI_STR_ARG(name), where, TCI_STR_ARG(name));
  else
    snprintf(message, size, "policy '%.*s' (%s) is in none of the policies folders; known are: %s", TCI_STR_ARG(name),
             where, known_names(p, &scratch));
  tci_arena_deinit(&scratch);
  return (tci_status){e ? TCI_INVALID_ARGUMENT : TCI_NOT_FOUND, message};
}

static tci_status check_attached(const tci_policies *p, char *message, size_t size) {
  const tci_policies_options *o = &p->options;
  if (o->server) TCI_TRY(must_be_there(p, tci_str_from(o->server), "the server's default", message, size));
  for (size_t i = 0; i < o->types.len; i++) {
    char where[MESSAGE_BYTES];
    snprintf(where, sizeof where, "for runner type '%.*s'", TCI_STR_ARG(o->types.items[i].key));
    TCI_TRY(must_be_there(p, o->types.items[i].value, where, message, size));
  }
  if (!o->shadow || p->shadow.script) return TCI_STATUS_OK;
  snprintf(message, size, "shadow policy %s: %.*s; mend the file, or start without it", o->shadow,
           TCI_STR_ARG(p->shadow.error));
  return (tci_status){TCI_INVALID_ARGUMENT, message};
}

static tci_status load_files(tci_policies *p, char *message, size_t size) {
  const tci_policy_files *files = &p->look.files;
  begin_look(p, false, 0);
  p->look.under_way = false;
  for (size_t i = 0; i < p->options.folders.len; i++) {
    if (!files->faults[i]) continue;
    snprintf(message, size, "policies folder '%.*s': %s; make it, or name another",
             TCI_STR_ARG(p->options.folders.items[i]), files->faults[i]);
    return (tci_status){TCI_NOT_FOUND, message};
  }
  log_search(p, files);
  for (size_t i = 0; i < files->len; i++) take_file(p, &files->items[i]);
  take_shadow(p);
  return TCI_STATUS_OK;
}

tci_status tci_policies_open(const tci_policies_options *options, tci_policies **out, char *message, size_t size) {
  *out = NULL;
  tci_policies *p = tci_calloc(1, sizeof *p);
  copy_options(p, options);
  if (p->options.shadow) p->shadow.name = tci_str_dup(name_of(p->options.shadow));
  tci_status status = load_files(p, message, size);
  if (status.code == TCI_OK) status = check_attached(p, message, size);
  if (status.code != TCI_OK) {
    tci_policies_close(p);
    return status;
  }
  if (p->options.folders.len || p->options.shadow) make_set(p);
  *out = p;
  return TCI_STATUS_OK;
}

void tci_policies_close(tci_policies *p) {
  if (!p) return;
  p->look.under_way = false;
  tci_policies_forget(p);
  tci_vec_free(&p->old_sets);
  tci_vec_free(&p->old_scripts);
  free(p->current);
  while (p->entries.len) entry_remove(p, p->entries.len - 1);
  tci_vec_free(&p->entries);
  entry_free(&p->shadow);
  for (size_t i = 0; i < p->passed_over.len; i++) tci_str_free(&p->passed_over.items[i]);
  tci_vec_free(&p->passed_over);
  tci_arena_deinit(&p->look.arena);
  tci_arena_deinit(&p->arena);
  free(p);
}

/* ---- looking ---- */

static tci_policy_info info_of(const entry *e) {
  tci_policy_info info = {.name = e->name, .path = e->path, .error = e->error};
  if (!e->script) return info;
  const tci_policy *policy = tci_script_policy(e->script);
  tci_script_stats stats = tci_script_count(e->script);
  info.version = policy->version;
  info.hooks = policy->hooks;
  info.calls = stats.calls;
  info.faults = stats.faults;
  info.p50_ns = stats.p50_ns;
  info.p99_ns = stats.p99_ns;
  info.last_fault = tci_str_from(stats.last_fault);
  return info;
}

static int by_name(const void *a, const void *b) {
  return tci_str_cmp(((const tci_policy_info *)a)->name, ((const tci_policy_info *)b)->name);
}

/* An attached name without a file gets a line of its own, once. */
static size_t add_missing(const tci_policies *p, tci_str name, tci_policy_info *all, size_t len) {
  if (entry_find(p, name)) return len;
  for (size_t i = 0; i < len; i++)
    if (tci_str_eq(all[i].name, name)) return len;
  all[len] = (tci_policy_info){.name = name, .error = TCI_STR("its file is gone; the built-in default decides")};
  return len + 1;
}

void tci_policies_info(const tci_policies *p, const tci_core *core, tci_arena *arena, tci_policy_info **out,
                       size_t *out_len) {
  const tci_policies_options *o = &p->options;
  tci_policy_info *all = tci_arena_array(arena, tci_policy_info, p->entries.len + o->types.len + 2);
  size_t len = 0;
  for (size_t i = 0; i < p->entries.len; i++) all[len++] = info_of(p->entries.items[i]);
  if (o->server) len = add_missing(p, tci_str_from(o->server), all, len);
  for (size_t i = 0; i < o->types.len; i++) len = add_missing(p, o->types.items[i].value, all, len);
  if (len) qsort(all, len, sizeof *all, by_name);
  for (size_t i = 0; i < len; i++) {
    attached_to(p, all[i].name, arena, &all[i].attached_to);
    tci_core_policy_state(core, all[i].name, &all[i].circuit_open, &all[i].circuit_until_us);
  }
  if (o->shadow) {
    all[len] = info_of(&p->shadow);
    all[len].attached_to = (tci_ids){tci_arena_new(arena, tci_str), 1};
    all[len++].attached_to.items[0] = TCI_STR("shadow");
  }
  *out = all;
  *out_len = len;
}

bool tci_policies_first_fault(tci_policies *p, tci_str name, tci_str version, tci_hook hook) {
  entry *e = entry_find(p, name);
  if (!e || !e->script || !tci_str_eq(tci_script_policy(e->script)->version, version)) e = &p->shadow;
  if (!e->script || !tci_str_eq(tci_script_policy(e->script)->version, version)) return false;
  bool first = !(e->faults_told >> hook & 1);
  e->faults_told |= 1u << hook;
  return first;
}
