/* accept: takes the connections of a server and hands them to gRPC.
 *
 * Ours, because gRPC's own listener is deaf for ever once accept has failed (descriptors run out, say), and because it
 * bounds the number of connections by nothing.
 *
 * 1. No failure ends the listening: what keeps accept from working is waited out.
 * 2. At most connections_max are open. gRPC closes them without a word, so those that were handed over are remembered by
 *    descriptor and inode, and looked at again when there seem to be too many.
 * 3. RESERVED descriptors are for the rest of the process: a connection that gets one of the last is closed at once, and
 *    so is one that is too many. Its peer hears of it, instead of waiting in a queue that nobody empties.
 * 4. Who connects and says nothing costs us nothing for a while (TCP_DEFER_ACCEPT); who falls silent is pinged (server.c).
 *
 * The thread, tci-accept, sleeps in poll(2), without a timeout unless it waits something out. Callers: server.c.
 */
#define _GNU_SOURCE 1
#include "rpc/rpc_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/vec.h"

enum {
  RESERVED = 256,     /* descriptors: the store, runners, policies; of fewer than twice that, half */
  AT_ONCE = 64,       /* before the next look at whether to stop */
  WAIT_MS = 100,      /* between two tries of what cannot be done now, or two looks at what is open */
  TELL_US = 10000000, /* between two lines in the log of the same kind */
};

typedef enum { TAKEN, NOBODY, NOT_NOW } outcome;

typedef struct {
  int fd;
  ino_t inode;
} connection;

struct tci_rpc_acceptor {
  grpc_server *server;
  grpc_server_credentials *credentials;
  struct pollfd polled[TCI_RPC_LISTENERS_MAX + 1]; /* the last one: stop */
  nfds_t listeners;
  pthread_t thread;
  size_t connections_max;
  int descriptor_max;
  TCI_VEC(connection) open; /* and some that were closed since */
  int64_t looked_us;        /* when the list was last looked through */
  int64_t told_us;          /* when the log last heard of a refusal or failure; 0: never */
  size_t untold;            /* since then */
};

static void *accept_run(void *arg);
static outcome accept_one(tci_rpc_acceptor *acceptor, int listener);
static bool has_room(tci_rpc_acceptor *acceptor, int fd);
static void forget_closed(tci_rpc_acceptor *acceptor);
static void tell(tci_rpc_acceptor *acceptor, const char *event, const char *why);

tci_rpc_acceptor *tci_rpc_accept(grpc_server *server, const tci_rpc_listener *listener, int64_t connections_max) {
  tci_rpc_acceptor *acceptor = tci_calloc(1, sizeof *acceptor);
  acceptor->server = server;
  acceptor->credentials = grpc_insecure_server_credentials_create();
  acceptor->connections_max = connections_max ? (size_t)connections_max : SIZE_MAX;
  struct rlimit files;
  int failed = getrlimit(RLIMIT_NOFILE, &files);
  rlim_t most = files.rlim_cur < INT32_MAX ? files.rlim_cur : INT32_MAX;
  acceptor->descriptor_max = (int)(most < 2 * RESERVED ? most / 2 : most - RESERVED);
  for (size_t i = 0; i < listener->fds_len; i++)
    acceptor->polled[acceptor->listeners++] = (struct pollfd){.fd = listener->fds[i], .events = POLLIN};
  int stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  acceptor->polled[acceptor->listeners] = (struct pollfd){.fd = stop, .events = POLLIN};
  failed |= stop < 0;
  tci_assert(!failed); /* as out of memory */
  tci_rpc_thread_start(&acceptor->thread, accept_run, acceptor, "tci-accept");
  return acceptor;
}

void tci_rpc_accept_stop(tci_rpc_acceptor *acceptor) {
  int stop = acceptor->polled[acceptor->listeners].fd;
  eventfd_write(stop, 1);
  int failed = pthread_join(acceptor->thread, NULL);
  tci_assert(!failed);
  close(stop);
  grpc_server_credentials_release(acceptor->credentials);
  tci_vec_free(&acceptor->open);
  free(acceptor);
}

static void *accept_run(void *arg) {
  tci_rpc_acceptor *acceptor = arg;
  struct pollfd *stop = &acceptor->polled[acceptor->listeners];
  for (bool well = true; !stop->revents;) {
    if (well)
      poll(acceptor->polled, acceptor->listeners + 1, -1);
    else
      poll(stop, 1, WAIT_MS);
    well = true;
    for (nfds_t i = 0; i < acceptor->listeners; i++) {
      outcome got = TAKEN;
      for (int n = 0; n < AT_ONCE && got == TAKEN; n++) got = accept_one(acceptor, acceptor->polled[i].fd);
      well = well && got != NOT_NOW;
    }
  }
  return NULL;
}

static outcome accept_one(tci_rpc_acceptor *acceptor, int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno == EAGAIN) return NOBODY;
    if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO || errno == EPERM)
      return TAKEN; /* it is gone again */
    tell(acceptor, "accept_failed", strerror(errno));
    return NOT_NOW;
  }
  struct stat at;
  if (!has_room(acceptor, fd) || fstat(fd, &at) != 0) {
    close(fd);
    return TAKEN;
  }
  if (acceptor->open.len == acceptor->open.cap) forget_closed(acceptor); /* before the list grows */
  tci_vec_push(&acceptor->open, ((connection){fd, at.st_ino}));
  grpc_server_add_channel_from_fd(acceptor->server, fd, acceptor->credentials);
  return TAKEN;
}

static bool has_room(tci_rpc_acceptor *acceptor, int fd) {
  if (fd >= acceptor->descriptor_max) {
    tell(acceptor, "connection_refused", "nearly all descriptors are in use (RLIMIT_NOFILE)");
    return false;
  }
  if (acceptor->open.len >= acceptor->connections_max) forget_closed(acceptor);
  if (acceptor->open.len < acceptor->connections_max) return true;
  tell(acceptor, "connection_refused", "so many are open already (limit connections_max)");
  return false;
}

/* Not again and again while somebody knocks all the time. */
static void forget_closed(tci_rpc_acceptor *acceptor) {
  int64_t now_us = tci_clock_mono_us();
  if (acceptor->looked_us && now_us - acceptor->looked_us < WAIT_MS * 1000) return;
  acceptor->looked_us = now_us;
  size_t kept = 0;
  for (size_t i = 0; i < acceptor->open.len; i++) {
    const connection *c = &acceptor->open.items[i];
    struct stat at;
    if (fstat(c->fd, &at) == 0 && S_ISSOCK(at.st_mode) && at.st_ino == c->inode) acceptor->open.items[kept++] = *c;
  }
  acceptor->open.len = kept;
}

static void tell(tci_rpc_acceptor *acceptor, const char *event, const char *why) {
  int64_t now_us = tci_clock_mono_us();
  acceptor->untold++;
  if (acceptor->told_us && now_us - acceptor->told_us < TELL_US) return;
  tci_log(TCI_LOG_WARN, event, "times=%zu reason=\"%s\"", acceptor->untold, why);
  acceptor->told_us = now_us;
  acceptor->untold = 0;
}
