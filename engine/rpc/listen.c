/* listen: takes an address for a server, or says clearly why not.
 *
 * 1. A unix path is there when its server is dead. So it is guarded by an flock on "<path>.lock": who holds the lock owns
 *    the path. The kernel drops it with the process, whatever kills it.
 * 2. The lock file is removed by its owner only, while it holds the lock; who gets a lock checks that the file it
 *    locked is still the one in the folder.
 * 3. TCP: SO_REUSEPORT is off, so a taken port is refused by the kernel.
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
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"

enum { HOST_BYTES_MAX = 255 };

static tci_status listen_unix(const char *path, tci_rpc_listener *out, char *message, size_t size);
static tci_status listen_tcp(const char *address, tci_rpc_listener *out, char *message, size_t size);
static tci_status lock_path(const char *path, tci_rpc_listener *out, char *message, size_t size);
static tci_status clear_stale(const char *path, char *message, size_t size);
static bool same_file(int fd, const char *path);
static int bind_host(const char *host, const char *port, tci_rpc_listener *out);
static int bind_everywhere(const char *port, tci_rpc_listener *out);
static int bind_at(const struct sockaddr *address, socklen_t len, tci_rpc_listener *out);
static uint16_t *port_of(struct sockaddr *address);
static uint16_t bound_port(const tci_rpc_listener *listener);
static bool is_everywhere(const char *host);
static bool split(const char *address, char host[HOST_BYTES_MAX + 1], const char **port);
static tci_status refuse(tci_code code, char *message, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

tci_status tci_rpc_listen(const char *address, tci_rpc_listener *out, char *message, size_t size) {
  *out = (tci_rpc_listener){.lock_fd = -1};
  tci_status status = strncmp(address, "unix:", 5) == 0 ? listen_unix(address + 5, out, message, size)
                                                        : listen_tcp(address, out, message, size);
  if (status.code != TCI_OK) tci_rpc_unlisten(out);
  return status;
}

void tci_rpc_listen_stop(tci_rpc_listener *listener) {
  if (listener->fds_len && listener->lock_path) unlink(listener->address + 5);
  for (size_t i = 0; i < listener->fds_len; i++) close(listener->fds[i]);
  listener->fds_len = 0;
}

void tci_rpc_unlisten(tci_rpc_listener *listener) {
  tci_rpc_listen_stop(listener);
  if (listener->lock_fd >= 0) {
    unlink(listener->lock_path);
    close(listener->lock_fd);
  }
  free(listener->lock_path);
  free(listener->address);
  *listener = (tci_rpc_listener){.lock_fd = -1};
}

static tci_status listen_unix(const char *path, tci_rpc_listener *out, char *message, size_t size) {
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
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strcpy(address.sun_path, path); /* its length was checked */
  int error = bind_at((struct sockaddr *)&address, sizeof address, out);
  if (error)
    return refuse(TCI_UNAVAILABLE, message, size,
                  "cannot listen on \"unix:%s\": the socket could not be made there: %s", path, strerror(error));
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

static tci_status listen_tcp(const char *address, tci_rpc_listener *out, char *message, size_t size) {
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
  int error = is_everywhere(host) ? bind_everywhere(port, out) : bind_host(host, port, out);
  if (error < 0)
    return refuse(TCI_INVALID_ARGUMENT, message, size, "cannot listen on \"%s\": %s", address, gai_strerror(error));
  if (error)
    return refuse(TCI_UNAVAILABLE, message, size, "cannot listen on \"%s\": %s", address,
                  error == EADDRINUSE ? "the port is taken, perhaps by another server" : strerror(error));
  const char *dialled = address;
  size_t head = (size_t)(port - address);
  if (is_everywhere(host)) {
    dialled = strchr(host, ':') ? "[::1]:" : "127.0.0.1:";
    head = strlen(dialled);
  }
  out->address = tci_malloc(head + 6);
  memcpy(out->address, dialled, head);
  snprintf(out->address + head, 6, "%u", bound_port(out));
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

/* All addresses of the name, at one port. Returns 0, an errno, or getaddrinfo's negative number. */
static int bind_host(const char *host, const char *port, tci_rpc_listener *out) {
  struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
  int error = getaddrinfo(host, port, &wanted, &found);
  if (error) return error;
  int missing = EADDRNOTAVAIL;
  for (struct addrinfo *at = found; at && !error && out->fds_len < TCI_RPC_LISTENERS_MAX; at = at->ai_next) {
    if (out->fds_len) *port_of(at->ai_addr) = htons(bound_port(out));
    error = bind_at(at->ai_addr, at->ai_addrlen, out);
    if (error != EADDRNOTAVAIL && error != EAFNOSUPPORT) continue;
    missing = error; /* a name may stand for what this machine does not have: IPv6, say */
    error = 0;
  }
  freeaddrinfo(found);
  return error ? error : out->fds_len ? 0 : missing;
}

/* One socket for IPv6 and IPv4; without IPv6 the other alone. */
static int bind_everywhere(const char *port, tci_rpc_listener *out) {
  const struct sockaddr_in6 both = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
  const struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  int error = bind_at((const struct sockaddr *)&both, sizeof both, out);
  return error && error != EADDRINUSE ? bind_at((const struct sockaddr *)&v4, sizeof v4, out) : error;
}

/* Returns 0 or an errno. What is set here, accepted connections inherit. */
static int bind_at(const struct sockaddr *address, socklen_t len, tci_rpc_listener *out) {
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, off = 0;
  if (fd < 0) return errno;
  if (address->sa_family != AF_UNIX) {
    int hello_s = TCI_RPC_HELLO_S;
    unsigned silence_ms = TCI_RPC_PING_TIMEOUT_MS;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence_ms, sizeof silence_ms);
    setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &hello_s, sizeof hello_s);
  }
  if (address->sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(fd, address, len) == 0 && listen(fd, SOMAXCONN) == 0) {
    out->fds[out->fds_len++] = fd;
    return 0;
  }
  int error = errno;
  close(fd);
  return error;
}

static uint16_t *port_of(struct sockaddr *address) {
  return address->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)(void *)address)->sin6_port
                                        : &((struct sockaddr_in *)(void *)address)->sin_port;
}

static uint16_t bound_port(const tci_rpc_listener *listener) {
  struct sockaddr_storage at;
  socklen_t len = sizeof at;
  int failed = getsockname(listener->fds[0], (struct sockaddr *)&at, &len);
  tci_assert(!failed);
  return ntohs(*port_of((struct sockaddr *)&at));
}

static tci_status refuse(tci_code code, char *message, size_t size, const char *format, ...) {
  va_list args;
  va_start(args, format);
  if (size) vsnprintf(message, size, format, args);
  va_end(args);
  return (tci_status){code, size ? message : "cannot listen on the address"};
}
