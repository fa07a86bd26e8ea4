/* address: where a runner may be reached. What comes out of here is dialled, so nothing passes that gRPC core could
 * read in another way than we did: no schemes, no escapes, no shorthand numbers. Called by app/engine.c.
 *
 * 1. A result is "host:port", "[v6]:port" or "unix:/absolute/path", and its host or folder is on the allow-list.
 * 2. Names are compared, never resolved: a listed name is trusted together with whoever serves its DNS.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "rpc/codec.h"

enum { HOST_BYTES_MAX = 253, PORT_DIGITS_MAX = 5, PORT_MAX = 65535 };

typedef struct {
  int family; /* AF_INET, AF_INET6; AF_UNSPEC: a name */
  struct in_addr v4;
  struct in6_addr v6;
  tci_str name; /* as written, without brackets */
} host;

static tci_status unix_resolve(tci_str address, tci_str path, const tci_ids *allowed, tci_arena *arena, tci_str *out);
static const char *split(tci_str address, tci_str *host_out, tci_str *port_out);
static const char *port_check(tci_str port);
static bool host_read(tci_str text, host *out);
static bool host_allowed(const host *h, const tci_ids *allowed);
static tci_status invalid(tci_str address, const char *why, tci_arena *arena);
static tci_status denied(tci_str address, const tci_ids *allowed, tci_arena *arena);
static bool starts_with(tci_str s, tci_str start);

tci_status tci_address_resolve(tci_str address, const tci_ids *allowed, tci_arena *arena, tci_str *out) {
  *out = (tci_str){NULL, 0};
  for (size_t i = 0; i < address.len; i++)
    if ((uint8_t)address.ptr[i] <= ' ' || (uint8_t)address.ptr[i] >= 0x7f)
      return invalid(address, "it holds a character that is not printable ASCII", arena);
  if (starts_with(address, TCI_STR("unix:")))
    return unix_resolve(address, (tci_str){address.ptr + 5, address.len - 5}, allowed, arena, out);
  tci_str text, port;
  const char *wrong = split(address, &text, &port);
  if (!wrong) wrong = port_check(port);
  if (wrong) return invalid(address, wrong, arena);
  /* A runner that listens everywhere registers its listen address; from here that is this machine. */
  if (!text.len || tci_str_eq(text, TCI_STR("0.0.0.0"))) text = TCI_STR("127.0.0.1");
  if (tci_str_eq(text, TCI_STR("[::]"))) text = TCI_STR("[::1]");
  host h;
  if (!host_read(text, &h))
    return invalid(address, "its host is neither a name nor an IPv4 address nor an IPv6 address in brackets", arena);
  if (!host_allowed(&h, allowed)) return denied(address, allowed, arena);
  const char *resolved = tci_fmt(arena, "%.*s:%.*s", TCI_STR_ARG(text), TCI_STR_ARG(port));
  *out = tci_str_from(resolved);
  return TCI_STATUS_OK;
}

/* ---- unix sockets ---- */

static tci_status unix_resolve(tci_str address, tci_str path, const tci_ids *allowed, tci_arena *arena, tci_str *out) {
  if (starts_with(path, TCI_STR("///"))) path = (tci_str){path.ptr + 2, path.len - 2}; /* unix:///run/x is /run/x */
  if (!path.len || path.ptr[0] != '/' || starts_with(path, TCI_STR("//")))
    return invalid(address, "the path of a unix socket is absolute", arena);
  if (path.len >= sizeof(((struct sockaddr_un *)0)->sun_path))
    return invalid(address, "the path is longer than a unix socket's may be", arena);
  for (size_t i = 0; i < path.len; i++) {
    if (strchr("%?#", path.ptr[i])) return invalid(address, "the path holds one of % ? #", arena);
    tci_str rest = {path.ptr + i, path.len - i};
    bool up = starts_with(rest, TCI_STR("/../")) || tci_str_eq(rest, TCI_STR("/.."));
    if (up) return invalid(address, "the path holds \"..\"", arena);
  }
  for (size_t i = 0; i < allowed->len; i++) {
    tci_str folder = allowed->items[i];
    if (!starts_with(folder, TCI_STR("unix:/"))) continue;
    folder = (tci_str){folder.ptr + 5, folder.len - 5};
    if (folder.ptr[folder.len - 1] == '/') folder.len--;
    if (!starts_with(path, folder) || path.len < folder.len + 2 || path.ptr[folder.len] != '/') continue;
    *out = tci_str_from(tci_fmt(arena, "unix:%.*s", TCI_STR_ARG(path)));
    return TCI_STATUS_OK;
  }
  return denied(address, allowed, arena);
}

/* ---- host and port ---- */

/* At the last colon. Returns what is wrong, or NULL. */
static const char *split(tci_str address, tci_str *host_out, tci_str *port_out) {
  size_t colon = address.len;
  while (colon > 0 && address.ptr[colon - 1] != ':') colon--;
  if (colon == 0) return "it has no port";
  *host_out = (tci_str){address.ptr, colon - 1};
  *port_out = (tci_str){address.ptr + colon, address.len - colon};
  return NULL;
}

static const char *port_check(tci_str port) {
  unsigned number = 0;
  if (!port.len || port.len > PORT_DIGITS_MAX) return "its port is not a number from 1 to 65535";
  for (size_t i = 0; i < port.len; i++) {
    if (port.ptr[i] < '0' || port.ptr[i] > '9') return "its port is not a number from 1 to 65535";
    number = number * 10 + (unsigned)(port.ptr[i] - '0');
  }
  if (number == 0) return "port 0 cannot be dialled; register the port that was picked";
  return number > PORT_MAX ? "its port is not a number from 1 to 65535" : NULL;
}

/* gRPC core would take "dns:50061" for a scheme and a host, not for a host and a port. */
static bool is_scheme(tci_str name) {
  static const char *const schemes[] = {"dns",  "xds",   "ipv4",        "ipv6",       "unix", "unix-abstract",
                                        "http", "https", "passthrough", "google-c2p", "fake", "vsock"};
  for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
    if (name.len == strlen(schemes[i]) && strncasecmp(name.ptr, schemes[i], name.len) == 0) return true;
  return false;
}

static bool is_name(tci_str name) {
  for (size_t i = 0; i < name.len; i++) {
    char c = name.ptr[i];
    bool ok =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
    if (!ok) return false;
  }
  return name.len > 0 && !is_scheme(name);
}

static bool host_read(tci_str text, host *out) {
  char z[HOST_BYTES_MAX + 1];
  bool brackets = text.len >= 2 && text.ptr[0] == '[' && text.ptr[text.len - 1] == ']';
  if (brackets) text = (tci_str){text.ptr + 1, text.len - 2};
  if (!text.len || text.len > HOST_BYTES_MAX) return false;
  memcpy(z, text.ptr, text.len);
  z[text.len] = 0;
  *out = (host){.family = AF_UNSPEC, .name = text};
  if (brackets) {
    out->family = AF_INET6;
    return inet_pton(AF_INET6, z, &out->v6) == 1;
  }
  if (inet_pton(AF_INET, z, &out->v4) == 1) { /* four decimal numbers and nothing else */
    out->family = AF_INET;
    return true;
  }
  return is_name(text);
}

static bool host_is_loopback(const host *h) {
  if (h->family == AF_INET) return ntohl(h->v4.s_addr) >> 24 == 127;
  if (h->family == AF_INET6) return memcmp(&h->v6, &in6addr_loopback, sizeof h->v6) == 0;
  return h->name.len == 9 && strncasecmp(h->name.ptr, "localhost", 9) == 0;
}

static bool host_eq(const host *a, const host *b) {
  if (a->family != b->family) return false;
  if (a->family == AF_INET) return a->v4.s_addr == b->v4.s_addr;
  if (a->family == AF_INET6) return memcmp(&a->v6, &b->v6, sizeof a->v6) == 0;
  return a->name.len == b->name.len && strncasecmp(a->name.ptr, b->name.ptr, a->name.len) == 0;
}

static bool host_allowed(const host *h, const tci_ids *allowed) {
  for (size_t i = 0; i < allowed->len; i++) {
    tci_str entry = allowed->items[i];
    host listed;
    if (tci_str_eq(entry, TCI_STR("loopback")) ? host_is_loopback(h) : host_read(entry, &listed) && host_eq(h, &listed))
      return true;
  }
  return false;
}

/* ---- the list itself ---- */

/* NULL: it may match. */
static const char *entry_fault(tci_str entry, tci_arena *arena) {
  host h;
  tci_str text, port;
  if (tci_str_eq(entry, TCI_STR("loopback")) || host_read(entry, &h)) return NULL;
  if (starts_with(entry, TCI_STR("unix:"))) {
    tci_str folder = {entry.ptr + 5, entry.len - 5};
    return folder.len && folder.ptr[0] == '/' ? NULL : "the folder of unix sockets is absolute: unix:/FOLDER";
  }
  if (!split(entry, &text, &port) && !port_check(port) && host_read(text, &h))
    return tci_fmt(arena, "a host is allowed with all its ports: give %.*s", TCI_STR_ARG(text));
  tci_str brackets = tci_str_from(tci_fmt(arena, "[%.*s]", TCI_STR_ARG(entry)));
  if (host_read(brackets, &h))
    return tci_fmt(arena, "an IPv6 address is in brackets: give %.*s", TCI_STR_ARG(brackets));
  return "hosts are named one by one, without patterns and networks: give a name, an IPv4 address, an IPv6 address in "
         "brackets, or unix:/FOLDER";
}

tci_status tci_address_check_list(const tci_ids *allowed, tci_arena *arena) {
  for (size_t i = 0; i < allowed->len; i++) {
    tci_str entry = allowed->items[i];
    const char *fault = entry_fault(entry, arena);
    if (fault)
      return (tci_status){
          TCI_INVALID_ARGUMENT,
          tci_fmt(arena, "allow \"%.*s\" would never match a runner's address: %s", TCI_STR_ARG(entry), fault)};
  }
  return TCI_STATUS_OK;
}

/* ---- refusing ---- */

static tci_status invalid(tci_str address, const char *why, tci_arena *arena) {
  tci_str shown = {address.ptr, address.len < 200 ? address.len : 200};
  for (size_t i = 0; i < shown.len; i++)
    if ((uint8_t)shown.ptr[i] < ' ' || (uint8_t)shown.ptr[i] >= 0x7f) shown.len = i; /* gRPC cuts texts there, too */
  return (tci_status){
      TCI_INVALID_ARGUMENT,
      tci_fmt(arena, "address \"%.*s\": %s; give host:port, [ipv6]:port or unix:/path, without a scheme",
              TCI_STR_ARG(shown), why)};
}

static tci_status denied(tci_str address, const tci_ids *allowed, tci_arena *arena) {
  tci_buf list = {0};
  for (size_t i = 0; i < allowed->len; i++) {
    if (i) tci_buf_add(&list, TCI_STR(", "));
    bool loopback = tci_str_eq(allowed->items[i], TCI_STR("loopback"));
    tci_buf_add(&list, loopback ? TCI_STR("loopback (127.0.0.0/8, localhost, ::1)") : allowed->items[i]);
  }
  if (!allowed->len) tci_buf_add(&list, TCI_STR("none"));
  size_t shown = address.len < 300 ? address.len : 300;
  tci_status status = {TCI_PERMISSION_DENIED, tci_fmt(arena, "address \"%.*s\" is not allowed; allowed hosts: %.*s",
                                                      (int)shown, address.ptr, TCI_STR_ARG(tci_buf_str(&list)))};
  tci_buf_deinit(&list);
  return status;
}

static bool starts_with(tci_str s, tci_str start) {
  return s.len >= start.len && (!start.len || memcmp(s.ptr, start.ptr, start.len) == 0);
}
