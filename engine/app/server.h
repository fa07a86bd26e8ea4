/* server: the whole engine in a box with threads: engine thread (loop.c) + rpc thread, listening; with policy folders
 * one more that waits for their changes (watcher.c).
 * Used by `turboci serve` and by the embedded engine of Lua programs. */
#ifndef TCI_APP_SERVER_H
#define TCI_APP_SERVER_H

#include "app/engine.h"

typedef struct tci_server tci_server;

typedef struct {
  tci_limits limits;
  const char *database;         /* path or ":memory:" */
  const char *listen;           /* "127.0.0.1:50051", "unix:/path"; port 0 picks one */
  const char *callback_address; /* NULL: tci_server_address */
  tci_ids allowed_addresses;    /* besides "loopback" and the folder of a unix `listen` */
  int64_t free_bytes_min;
  tci_policies_options policies; /* folders, server, types, shadow; the rest follows from the above */
} tci_server_options;

/* Returns when the server is recovered and listening. `message` (size bytes) gets the text of a refusal. */
TCI_MUST_USE tci_status tci_server_start(const tci_server_options *options, tci_server **out, char *message,
                                         size_t size);
const char *tci_server_address(const tci_server *server);
/* Graceful: refuses writes, waits up to limits.drain_timeout_ms for calls to runners (Run and RunAsync), commits, frees. */
void tci_server_stop(tci_server *server);
extern const char tci_version[];

#endif
