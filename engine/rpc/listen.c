/* listen: takes an address for a server, or says clearly why not.
 *
 * 1. gRPC binds a unix path over a stale socket and over a live server's alike. So the path is guarded by an flock on
 *    "<path>.lock": who holds the lock owns the path. The kernel drops it with the process, whatever kills it.
 * 2. The lock file is removed by its owner only, while it holds the lock; who gets a lock checks that the file it
 *    locked is still the one in the folder.
 * 3. TCP: SO_REUSEPORT is off (server.c), so a taken port is refused by the kernel.
 * 4. The address that is told can be dialled on this machine: of one that listens everywhere it is the loopback.
 *
 * Callers: server.c.
 */
#define _GNU_SOURCE 1
#include "rpc/rpc_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <grpc/grpc_security.h>

#include "base/assert.h"

enum { HOST_BYTES_MAX = 255 };

static tci_status listen_unix(grpc_server *server, const char *path, tci_rpc_listener *out, char *message, size_t size);
static tci_status listen_tcp(grpc_server *server, const char *address, tci_rpc_listener *out, char *message,
                             size_t size);
static tci_status lock_path(const char *path, tci_rpc_listener *out, char *message, size_t size);
static tci_status clear_stale(const char *path, char *message, size_t size);
static bool same_file(int fd, const char *path);
static int bind_errno(const char *host, const char *port);
static bool is_everywhere(const char *host);
static bool split(const char *address, char host[HOST_BYTES_MAX + 1], const char **port);
static int add_port(grpc_server *server, const char *address);
static tci_status refuse(tci_code code, char *message, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

tci_status tci_rpc_listen(grpc_server *server, const char *address, tci_rpc_listener *out, char *message, size_t size) {
  *out = (tci_rpc_listener){.lock_fd = -1};
  tci_status status = strncmp(address, "unix:", 5) == 0 ? listen_unix(server, address + 5, out, message, size)
                                                        : listen_tcp(server, address, out, message, size);
  if (status.code != TCI_OK) tci_rpc_unlisten(out);
  return status;
}

void tci_rpc_unlisten(tci_rpc_listener *listener) {
  if (listener->lock_fd >= 0) {
    unlink(listener->lock_path);
    close(listener->lock_fd);
  }
  free(listener->lock_path);
  free(listener->address);
  *listener = (tci_rpc_listener){.lock_fd = -1};
}

static tci_status listen_unix(grpc_server *server, const char *path, tci_rpc_listener *out, char *message,
                              size_t size) {
  if (strncmp(path, "//", 2) == 0) path += 2; /* unix:///path */
  if (!*path) return refuse(TCI_INVALID_ARGUMENT, message, size, "cannot listen on \"unix:\": the path is missing");
  size_t path_bytes_max = sizeof((struct sockaddr_un *)0)->sun_path - 1;
  if (strlen(path) > path_bytes_max)
    return refuse(TCI_INVALID_ARGUMENT, message, size,
                  "cannot listen on \"unix:%s\": a socket's path has at most %zu bytes", path, path_bytes_max);
  for (const char *at = path; *at; at++) /* gRPC reads targets as URIs: these would mean another path */
    if ((unsigned char)*at <= ' ' || strchr("%?#\x7f", *at))
      return refuse(TCI_INVALID_ARGUMENT, message, size,
                    "cannot listen on \"unix:%s\": a socket's path may hold no spaces and none of %% ? #", path);
  TCI_TRY(lock_path(path, out, message, size));
  TCI_TRY(clear_stale(path, message, size));
  out->address = tci_malloc(strlen(path) + 6);
  sprintf(out->address, "unix:%s", path);
  if (add_port(server, out->address) == 0)
    return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"unix:%s\": the socket could not be made there",
                  path);
  return TCI_STATUS_OK;
}

/* Takes "<path>.lock" or says who has it. */
static tci_status lock_path(const char *path, tci_rpc_listener *out, char *message, size_t size) {
  out->lock_path = tci_malloc(strlen(path) + 6);
  sprintf(out->lock_path, "%s.lock", path);
  for (;;) {
    int fd = open(out->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
      return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"unix:%s\": %s: %s", path, out->lock_path,
                    strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      char pid[16] = "";
      ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
      pid[n > 0 ? strspn(pid, "0123456789") : 0] = '\0';
      close(fd);
      return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"unix:%s\": another server is there%s%s", path,
                    *pid ? ", process " : "", pid);
    }
    if (same_file(fd, out->lock_path)) {
      out->lock_fd = fd;
      break;
    }
    close(fd); /* its owner just removed it: this lock guards nothing */
  }
  char pid[16];
  int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
  /* For people only: it may fail. */
  if (ftruncate(out->lock_fd, 0) == 0) (void)!pwrite(out->lock_fd, pid, (size_t)len, 0);
  return TCI_STATUS_OK;
}

/* With the lock held: what is at `path` is a dead server's socket, unless somebody listens there without our lock. */
static tci_status clear_stale(const char *path, char *message, size_t size) {
  struct stat at;
  if (lstat(path, &at) != 0) return TCI_STATUS_OK; /* nothing there, or binding will tell */
  if (!S_ISSOCK(at.st_mode))
    return refuse(TCI_INVALID_ARGUMENT, message, size,
                  "cannot listen on \"unix:%s\": there is a file that is not a socket", path);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strcpy(address.sun_path, path); /* its length was checked */
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool dead = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno == ECONNREFUSED;
  if (fd >= 0) close(fd);
  if (!dead)
    return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"unix:%s\": some other program listens there",
                  path);
  if (unlink(path) != 0)
    return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"unix:%s\": removing the stale socket: %s", path,
                  strerror(errno));
  return TCI_STATUS_OK;
}

static bool same_file(int fd, const char *path) {
  struct stat opened, named;
  return fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

static tci_status listen_tcp(grpc_server *server, const char *address, tci_rpc_listener *out, char *message,
                             size_t size) {
  char host[HOST_BYTES_MAX + 1], everywhere[16];
  const char *port;
  if (address[0] == ':' && strlen(address) < 7) { /* ":50051" is every address of this machine, as in Go */
    snprintf(everywhere, sizeof everywhere, "0.0.0.0%s", address);
    address = everywhere;
  }
  if (!split(address, host, &port))
    return refuse(TCI_INVALID_ARGUMENT, message, size,
                  "cannot listen on \"%.300s\": an address is \"host:port\", \":port\" (everywhere), \"[ipv6]:port\" "
                  "or \"unix:/path\"",
                  address);
  int bound = add_port(server, address);
  if (bound == 0) {
    int error = bind_errno(host, port);
    if (error < 0)
      return refuse(TCI_INVALID_ARGUMENT, message, size, "cannot listen on \"%s\": %s", address, gai_strerror(error));
    return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"%s\": %s", address,
                  error == 0            ? "the address could not be bound"
                  : error == EADDRINUSE ? "the port is taken, perhaps by another server"
                                        : strerror(error));
  }
  const char *dialled = address;
  size_t head = (size_t)(port - address);
  if (is_everywhere(host)) {
    dialled = strchr(host, ':') ? "[::1]:" : "127.0.0.1:";
    head = strlen(dialled);
  }
  out->address = tci_malloc(head + 6);
  memcpy(out->address, dialled, head);
  snprintf(out->address + head, 6, "%d", bound);
  return TCI_STATUS_OK;
}

static bool is_everywhere(const char *host) {
  struct in_addr v4;
  struct in6_addr v6;
  if (inet_pton(AF_INET, host, &v4) == 1) return v4.s_addr == htonl(INADDR_ANY);
  return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

/* "host:port" and "[ipv6]:port"; `port` points into the address. */
static bool split(const char *address, char host[HOST_BYTES_MAX + 1], const char **port) {
  const char *colon = strrchr(address, ':');
  if (!colon || colon == address) return false;
  const char *from = address, *to = colon;
  if (*from == '[') {
    if (to[-1] != ']') return false;
    from++, to--;
  } else if (memchr(from, ':', (size_t)(to - from))) {
    return false;
  }
  if (to <= from || to - from > HOST_BYTES_MAX) return false;
  memcpy(host, from, (size_t)(to - from));
  host[to - from] = '\0';
  *port = colon + 1;
  size_t digits = strspn(*port, "0123456789");
  return digits > 0 && digits <= 5 && (*port)[digits] == '\0' && atoi(*port) <= 65535;
}

/* gRPC says only that it failed: tries once more for the reason. Negative: getaddrinfo's; 0: none found. */
static int bind_errno(const char *host, const char *port) {
  struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
  int error = getaddrinfo(host, port, &wanted, &found);
  if (error) return error;
  for (struct addrinfo *at = found; at && !error; at = at->ai_next) {
    int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol), on = 1;
    if (fd < 0) {
      error = errno;
      continue;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* as gRPC does */
    if (bind(fd, at->ai_addr, at->ai_addrlen) != 0) error = errno;
    close(fd);
  }
  freeaddrinfo(found);
  return error;
}

static int add_port(grpc_server *server, const char *address) {
  grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
  tci_rpc_log_mute(true);
  int port = grpc_server_add_http2_port(server, address, credentials);
  tci_rpc_log_mute(false);
  grpc_server_credentials_release(credentials);
  return port;
}

static tci_status refuse(tci_code code, char *message, size_t size, const char *format, ...) {
  va_list args;
  va_start(args, format);
  if (size) vsnprintf(message, size, format, args);
  va_end(args);
  return (tci_status){code, size ? message : "cannot listen on the address"};
}
