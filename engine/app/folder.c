/* folder: see folder.h.
 *
 * 1. What is found does not depend on the order in which the file system tells it.
 * 2. A folder that cannot be read is told apart from an empty one.
 *
 * Called by app/policies.c, on the engine thread.
 */
#define _GNU_SOURCE 1
#include "app/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/vec.h"

typedef struct {
  tci_str name;
  const char *path;
  size_t folder; /* its place in the list */
} candidate;

typedef struct {
  tci_arena *arena;
  TCI_VEC(candidate) found;
  TCI_VEC(tci_str) misnamed;
} search;

static const char SUFFIX[] = ".lua";

static bool is_name(tci_str s) {
  for (size_t i = 0; i < s.len; i++) {
    char c = s.ptr[i];
    bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    if (!good) return false;
  }
  return s.len > 0;
}

/* Files, and links to files. */
static bool is_file(DIR *dir, const char *name) {
  struct stat st;
  return fstatat(dirfd(dir), name, &st, 0) == 0 && S_ISREG(st.st_mode);
}

static void consider(search *s, DIR *dir, tci_str folder, size_t place, const char *file) {
  tci_str name = tci_str_from(file);
  size_t suffix = sizeof SUFFIX - 1;
  if (file[0] == '.' || file[0] == '_' || name.len <= suffix) return;
  if (strcmp(file + name.len - suffix, SUFFIX) != 0 || !is_file(dir, file)) return;
  name.len -= suffix;
  bool slash = folder.ptr[folder.len - 1] == '/';
  const char *path = tci_fmt(s->arena, "%.*s%s%s", TCI_STR_ARG(folder), slash ? "" : "/", file);
  if (is_name(name))
    tci_vec_push(&s->found, ((candidate){tci_str_copy(s->arena, name), path, place}));
  else
    tci_vec_push(&s->misnamed, tci_str_from(path));
}

/* NULL, or why it could not be read. */
static const char *search_folder(search *s, tci_str folder, size_t place) {
  if (folder.len == 0) return "it has no name";
  DIR *dir = opendir(tci_str_z(s->arena, folder));
  if (!dir) return tci_fmt(s->arena, "%s", strerror(errno));
  const struct dirent *entry;
  errno = 0;
  while ((entry = readdir(dir))) {
    consider(s, dir, folder, place, entry->d_name);
    errno = 0;
  }
  const char *fault = errno ? tci_fmt(s->arena, "%s", strerror(errno)) : NULL;
  closedir(dir);
  return fault;
}

static int by_name(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  int order = tci_str_cmp(x->name, y->name);
  return order ? order : (x->folder > y->folder) - (x->folder < y->folder);
}

static int by_path(const void *a, const void *b) { return tci_str_cmp(*(const tci_str *)a, *(const tci_str *)b); }

void tci_policy_files_find(const tci_ids *folders, tci_arena *arena, tci_policy_files *out) {
  search s = {.arena = arena};
  *out = (tci_policy_files){.faults = tci_arena_array(arena, const char *, folders->len + 1)};
  for (size_t i = 0; i < folders->len; i++) out->faults[i] = search_folder(&s, folders->items[i], i);
  if (s.found.len) qsort(s.found.items, s.found.len, sizeof *s.found.items, by_name);
  if (s.misnamed.len) qsort(s.misnamed.items, s.misnamed.len, sizeof *s.misnamed.items, by_path);
  out->items = tci_arena_array(arena, tci_policy_file, s.found.len + 1);
  for (size_t i = 0; i < s.found.len; i++) {
    const candidate *c = &s.found.items[i];
    if (out->len && tci_str_eq(out->items[out->len - 1].name, c->name)) continue;
    out->items[out->len++] = (tci_policy_file){c->name, c->path};
  }
  out->misnamed = (tci_ids){tci_arena_array(arena, tci_str, s.misnamed.len + 1), s.misnamed.len};
  for (size_t i = 0; i < s.misnamed.len; i++) out->misnamed.items[i] = s.misnamed.items[i];
  tci_vec_free(&s.found);
  tci_vec_free(&s.misnamed);
}
