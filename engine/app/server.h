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
  tci_ids quarantine;           /* damaged plans to set aside, see app/recovery.h */
  int64_t free_bytes_min;
  tci_policies_options policies; /* folders, server, types, shadow; the rest follows from the above */
} tci_server_options;

/* Returns when the server is recovered and listening. `message` (size bytes) gets the text of a refusal. */
TCI_MUST_USE tci_status tci_server_start(const tci_server_options *options, tci_server **out, char *message,
                                         size_t size);
const char *tci_server_address(const tci_server *server);
/* Begins to stop, and returns at once: writes are refused, nothing is dispatched any more. Twice is fine. */
void tci_server_drain(tci_server *server);
/* Ends the drain now: calls to runners that are still open are cut off, as by a crash, but everything is closed well. */
void tci_server_leave(tci_server *server);
/* Readable once the drain is over: tci_server_stop then has nothing to wait for. Belongs to the server. */
int tci_server_fd(const tci_server *server);
/* Drains, waits up to limits.drain_timeout_ms for calls to runners (Run and RunAsync), commits, frees. */
void tci_server_stop(tci_server *server);
extern const char tci_version[];

#endif
