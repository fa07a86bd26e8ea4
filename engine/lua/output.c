/* output: core.write and its kin: what the program says on its standard streams, by a thread of its own.
 *
 * 1. Lua's thread never waits for a reader: write() queues a copy, the writer thread brings it out. So a stopped pager or
 *    a terminal at 9,600 baud holds up words, never heartbeats.
 * 2. What is queued leaves whole and in order, over both streams, whatever the descriptors are: a slow terminal, a full
 *    pipe, one that somebody else has made non-blocking.
 * 3. A stream that failed stays failed: what is still queued for it is dropped, and write_error() tells. When its reader
 *    is gone the process gets SIGPIPE, as if it had written itself.
 * 4. The writer lives in the registry, made on first use, on duplicates of the descriptors 1 and 2: what the program
 *    does with those (core.redirect) changes nothing here. It ends with the state, when all is out.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/list.h"
#include "lua/module.h"

static const char WRITER_TYPE[] = "turboci.writer", WRITER_KEY[] = "turboci.writer.instance";
enum { STREAMS = 2, FD_MIN = 3 };

typedef struct {
  int fd;
  int failed; /* errno of the write that failed, or 0; under the lock */
} stream;

typedef struct {
  tci_link link;
  stream *to;
  tci_str bytes;
} piece;

typedef struct {
  stream streams[STREAMS]; /* stdout, stderr */
  pthread_t thread;
  bool running; /* Lua's thread: there is a thread to join */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  tci_link queue;         /* of pieces; from here on under the lock */
  size_t bytes_unwritten; /* the piece that is being written included */
  bool ending;
} writer;

/* ---- the writer thread ---- */

/* 0, or the errno that ended it. */
static int write_all(int fd, tci_str bytes) {
  while (bytes.len) {
    ssize_t n = write(fd, bytes.ptr, bytes.len);
    if (n >= 0) {
      bytes.ptr += n;
      bytes.len -= (size_t)n;
    } else if (errno == EAGAIN) {
      poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

static void *writer_run(void *arg) {
  writer *w = arg;
  pthread_mutex_lock(&w->lock);
  for (;;) {
    while (tci_list_empty(&w->queue) && !w->ending) pthread_cond_wait(&w->changed, &w->lock);
    if (tci_list_empty(&w->queue)) break;
    piece *next = tci_container(w->queue.next, piece, link);
    tci_link_remove(&next->link);
    if (!next->to->failed) {
      pthread_mutex_unlock(&w->lock);
      int failed = write_all(next->to->fd, next->bytes);
      if (failed == EPIPE) kill(getpid(), SIGPIPE); /* this thread blocks it: it is for the program */
      pthread_mutex_lock(&w->lock);
      next->to->failed = failed;
    }
    w->bytes_unwritten -= next->bytes.len;
    tci_str_free(&next->bytes);
    free(next);
    if (w->bytes_unwritten == 0) pthread_cond_broadcast(&w->changed);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

static void start(writer *w) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* a thread inherits the mask: signals are the program's */
  int failed = pthread_create(&w->thread, NULL, writer_run, w);
  tci_assert(!failed); /* as out of memory */
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  w->running = true;
}

/* ---- the writer's life ---- */

static int writer_close(lua_State *L) {
  writer *w = luaL_checkudata(L, 1, WRITER_TYPE);
  if (w->running) {
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    int failed = pthread_join(w->thread, NULL); /* it writes what is queued first */
    tci_assert(!failed);
    w->running = false;
  }
  for (int i = 0; i < STREAMS; i++) {
    if (w->streams[i].fd >= 0) close(w->streams[i].fd);
    w->streams[i].fd = -1;
  }
  return 0;
}

/* The writer of this state. */
static writer *get(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, WRITER_KEY) == LUA_TNIL) {
    writer *w = memset(lua_newuserdatauv(L, sizeof *w, 0), 0, sizeof *w);
    luaL_setmetatable(L, WRITER_TYPE);
    tci_list_init(&w->queue);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    for (int i = 0; i < STREAMS; i++) w->streams[i].fd = fcntl(STDOUT_FILENO + i, F_DUPFD_CLOEXEC, FD_MIN);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, WRITER_KEY);
    lua_replace(L, -2);
  }
  writer *w = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return w;
}

/* The argument `arg`: 1 is stdout, 2 is stderr. */
static stream *check_stream(lua_State *L, writer *w, int arg) {
  lua_Integer fd = luaL_checkinteger(L, arg);
  luaL_argcheck(L, fd == STDOUT_FILENO || fd == STDERR_FILENO, arg, "expected 1 (stdout) or 2 (stderr)");
  return &w->streams[fd - STDOUT_FILENO];
}

/* ---- core ---- */

static int core_write(lua_State *L) {
  writer *w = get(L);
  stream *to = check_stream(L, w, 1);
  tci_str bytes = tci_lua_check_str(L, 2);
  if (bytes.len == 0) return 0;
  if (!w->running) start(w);
  piece *next = tci_malloc(sizeof *next);
  *next = (piece){.to = to, .bytes = tci_str_dup(bytes)};
  pthread_mutex_lock(&w->lock);
  tci_list_push(&w->queue, &next->link);
  w->bytes_unwritten += bytes.len;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
  return 0;
}

static int core_unwritten(lua_State *L) {
  writer *w = get(L);
  pthread_mutex_lock(&w->lock);
  size_t bytes = w->bytes_unwritten;
  pthread_mutex_unlock(&w->lock);
  lua_pushinteger(L, (lua_Integer)bytes);
  return 1;
}

static int core_drain(lua_State *L) {
  writer *w = get(L);
  pthread_mutex_lock(&w->lock);
  while (w->bytes_unwritten) pthread_cond_wait(&w->changed, &w->lock);
  pthread_mutex_unlock(&w->lock);
  return 0;
}

static int core_write_error(lua_State *L) {
  writer *w = get(L);
  const stream *of = check_stream(L, w, 1);
  pthread_mutex_lock(&w->lock);
  int failed = of->failed;
  pthread_mutex_unlock(&w->lock);
  if (!failed) return 0;
  lua_pushstring(L, failed == EPIPE ? "EPIPE" : "EIO");
  lua_pushstring(L, strerror(failed));
  return 2;
}

static int core_terminal(lua_State *L) {
  writer *w = get(L);
  int fd = check_stream(L, w, 1)->fd;
  if (!isatty(fd)) return 0;
  struct winsize size = {0};
  ioctl(fd, TIOCGWINSZ, &size); /* one that does not know says 0 */
  lua_pushinteger(L, size.ws_col);
  lua_pushinteger(L, size.ws_row);
  return 2;
}

static int core_redirect(lua_State *L) {
  get(L); /* keeps the one there was */
  if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return luaL_error(L, "stdout cannot be redirected: %s", strerror(errno));
  return 0;
}

static int core_leave(lua_State *L) { _exit((int)luaL_checkinteger(L, 1)); }

void tci_lua_open_output(lua_State *L) {
  const luaL_Reg functions[] = {{"write", core_write},       {"unwritten", core_unwritten},
                                {"drain", core_drain},       {"write_error", core_write_error},
                                {"terminal", core_terminal}, {"redirect", core_redirect},
                                {"leave", core_leave},       {NULL, NULL}};
  tci_lua_class(L, WRITER_TYPE, (const luaL_Reg[]){{NULL, NULL}}, writer_close);
  luaL_setfuncs(L, functions, 0);
}
