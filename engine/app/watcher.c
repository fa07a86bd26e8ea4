/* watcher: inotify on the policy folders.
 *
 * 1. Nobody polls: the thread is in poll(2) without a timeout until the kernel has an event or _close writes the eventfd.
 * 2. A folder that goes, or is a symbolic link, is watched through its parent too: what takes its place is seen.
 * 3. When in doubt it calls: looking at folders in which nothing changed is cheap.
 *
 * Started and stopped by app/server.c.
 */
#define _GNU_SOURCE 1
#include "app/watcher.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"

enum {
  FILES_MASK = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE,
  FOLDER_MASK = FILES_MASK | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | IN_MASK_ADD,
  PARENT_MASK = IN_CREATE | IN_MOVED_TO | IN_ONLYDIR | IN_MASK_ADD,
  NOT_WATCHED = -1,
};

typedef struct {
  const char *path, *parent, *name; /* parent/name is path */
  int watch, parent_watch;
} folder;

struct tci_folder_watcher {
  int events, stop; /* inotify, eventfd */
  pthread_t thread;
  void (*changed)(void *ctx);
  void *ctx;
  tci_arena arena;
  folder *folders;
  size_t len;
};

/* ---- what is watched ---- */

static bool is_used(const tci_folder_watcher *w, int watch) {
  for (size_t i = 0; i < w->len; i++)
    if (w->folders[i].watch == watch || w->folders[i].parent_watch == watch) return true;
  return false;
}

static void watch_folder(tci_folder_watcher *w, folder *f) {
  int before = f->watch;
  f->watch = inotify_add_watch(w->events, f->path, FOLDER_MASK);
  if (before != NOT_WATCHED && !is_used(w, before)) inotify_rm_watch(w->events, before);
}

static bool is_link(const char *path) {
  struct stat st;
  return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

/* The folder that is at the path now. */
static void watch(tci_folder_watcher *w, folder *f) {
  watch_folder(w, f);
  if (f->watch != NOT_WATCHED && !is_link(f->path)) return;
  if (f->parent_watch == NOT_WATCHED) {
    f->parent_watch = inotify_add_watch(w->events, f->parent, PARENT_MASK);
    watch_folder(w, f); /* it may have come in between */
  }
  if (f->watch == NOT_WATCHED && f->parent_watch == NOT_WATCHED)
    tci_log(TCI_LOG_WARN, "policy_folder_unwatched",
            "folder=\"%s\" error=\"%s\" action=\"changes count after a reload that is asked for\"", f->path,
            strerror(errno));
}

/* ---- what happens ---- */

/* Links to files are made complete, files are not: those count when they are closed. */
static bool is_made_complete(const folder *f, const char *name) {
  char path[PATH_MAX];
  size_t at = strlen(f->path), len = strlen(name);
  if (at + 1 + len >= sizeof path) return false;
  memcpy(path, f->path, at);
  path[at] = '/';
  memcpy(path + at + 1, name, len + 1);
  struct stat st;
  return lstat(path, &st) == 0 && (S_ISLNK(st.st_mode) || st.st_nlink > 1);
}

static bool is_script(const char *name) {
  size_t len = strlen(name);
  return len > 4 && strcmp(name + len - 4, ".lua") == 0;
}

/* True when it may matter to a policy. */
static bool happened_in(const folder *f, const struct inotify_event *event, const char *name) {
  if (event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED)) return true;
  /* A mounted folder is exchanged by renaming a link "..data" inside of it, to which all its files are links. */
  if (event->mask & IN_MOVED_TO && strncmp(name, "..", 2) == 0) return true;
  if (!is_script(name)) return false;
  return !(event->mask & IN_CREATE) || is_made_complete(f, name);
}

static bool take(tci_folder_watcher *w, const struct inotify_event *event) {
  const char *name = event->len ? event->name : "";
  bool matters = (event->mask & IN_Q_OVERFLOW) != 0;
  for (size_t i = 0; i < w->len; i++) {
    folder *f = &w->folders[i];
    bool here = f->watch == event->wd, above = f->parent_watch == event->wd, moved = false;
    if (here && happened_in(f, event, name)) {
      matters = true;
      moved = event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED);
    }
    if (above && strcmp(name, f->name) == 0) matters = moved = true;
    if (event->mask & IN_IGNORED) { /* the kernel has forgotten it */
      if (here) f->watch = NOT_WATCHED;
      if (above) f->parent_watch = NOT_WATCHED;
    }
    if (moved) watch(w, f);
  }
  return matters;
}

static bool take_all(tci_folder_watcher *w) {
  _Alignas(struct inotify_event) char bytes[4096];
  bool matters = false;
  ssize_t len;
  while ((len = read(w->events, bytes, sizeof bytes)) > 0) {
    const struct inotify_event *event;
    for (const char *at = bytes; at < bytes + len; at += sizeof *event + event->len) {
      event = (const struct inotify_event *)(const void *)at;
      if (take(w, event)) matters = true;
    }
  }
  return matters;
}

static void *run(void *arg) {
  tci_folder_watcher *w = arg;
  pthread_setname_np(pthread_self(), "tci-policies");
  struct pollfd fds[] = {{.fd = w->events, .events = POLLIN}, {.fd = w->stop, .events = POLLIN}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) {
      tci_assert(errno == EINTR);
      continue;
    }
    if (fds[1].revents) return NULL;
    if (take_all(w)) w->changed(w->ctx);
  }
}

/* ---- life ---- */

static folder folder_of(tci_arena *arena, tci_str path) {
  while (path.len > 1 && path.ptr[path.len - 1] == '/') path.len--;
  folder f = {.path = tci_str_z(arena, path), .parent = ".", .watch = NOT_WATCHED, .parent_watch = NOT_WATCHED};
  const char *slash = strrchr(f.path, '/');
  f.name = slash ? slash + 1 : f.path;
  if (slash) f.parent = tci_str_z(arena, (tci_str){f.path, slash == f.path ? 1 : (size_t)(slash - f.path)});
  return f;
}

tci_folder_watcher *tci_folder_watcher_open(const tci_ids *folders, void (*changed)(void *ctx), void *ctx) {
  tci_folder_watcher *w = tci_calloc(1, sizeof *w);
  w->changed = changed;
  w->ctx = ctx;
  w->folders = tci_arena_array(&w->arena, folder, folders->len + 1);
  w->len = folders->len;
  w->events = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  w->stop = eventfd(0, EFD_CLOEXEC);
  for (size_t i = 0; i < w->len; i++) w->folders[i] = folder_of(&w->arena, folders->items[i]);
  if (w->events >= 0 && w->stop >= 0) {
    for (size_t i = 0; i < w->len; i++) watch(w, &w->folders[i]);
    if (pthread_create(&w->thread, NULL, run, w) == 0) return w;
  }
  tci_log(TCI_LOG_WARN, "policies_unwatched", "error=\"%s\" action=\"changes count after a reload that is asked for\"",
          strerror(errno));
  if (w->events >= 0) close(w->events);
  if (w->stop >= 0) close(w->stop);
  tci_arena_deinit(&w->arena);
  free(w);
  return NULL;
}

void tci_folder_watcher_close(tci_folder_watcher *w) {
  if (!w) return;
  const uint64_t one = 1;
  tci_assert(write(w->stop, &one, sizeof one) == sizeof one);
  pthread_join(w->thread, NULL);
  close(w->events);
  close(w->stop);
  tci_arena_deinit(&w->arena);
  free(w);
}
