/* rpc: gRPC core's C API for the rest of the house: one completion queue, one polling thread, bytes in and out.
 *
 * Handlers run on the polling thread and must not block. Functions marked (any thread) may be called from anywhere.
 * No message is decoded here; see rpc/codec.h. Used by app/server.c (the orchestrator) and engine/lua (client and
 * runner host of Lua programs).
 */
#ifndef TCI_RPC_RPC_H
#define TCI_RPC_RPC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

typedef struct tci_rpc tci_rpc;

/* Starts the polling thread. Several may exist in one process. */
tci_rpc *tci_rpc_open(void);
/* Servers and clients of it are closed before. Joins the thread. NULL is fine. */
void tci_rpc_close(tci_rpc *rpc);
/* Wakes the polling thread, which reads whatever the sockets hold by now, hands all of it over (on_call, on_done and the
 * others), and then calls `done`, once; at the latest after two seconds of reading. One at a time, and over before
 * tci_rpc_close. For who was away and wants to know what has arrived before judging who is late. (any thread) */
void tci_rpc_read_out(tci_rpc *rpc, void (*done)(void *ctx), void *ctx);

/* ---- server ---- */

typedef struct tci_rpc_server tci_rpc_server;
typedef struct tci_rpc_call tci_rpc_call; /* one incoming call */

typedef struct {
  void *ctx;
  /* A call arrived with its whole request message (unary and server-streaming alike; for every method name, known or
   * not). It must be answered with tci_rpc_reply, sooner or later, on any thread, exactly once. */
  void (*on_call)(void *ctx, tci_rpc_call *call);
  /* The peer went away or the deadline passed, before the reply. Told at most once, and never after tci_rpc_reply was
   * called; the reply is still due. May be NULL. */
  void (*on_gone)(void *ctx, tci_rpc_call *call);
  /* A tci_rpc_send message left (or never will); `pending_bytes` are still waiting. May be NULL. */
  void (*on_sent)(void *ctx, tci_rpc_call *call, size_t pending_bytes);
} tci_rpc_handler;

typedef struct {
  const char *address; /* "127.0.0.1:50051", ":50051" (every address of this machine), "unix:/path"; port 0 picks one */
  int64_t message_bytes_max; /* 0: 4 MiB */
  int64_t connections_max; /* open at once; what comes beyond is closed at once. 0: as many as there are descriptors */
} tci_rpc_server_options;

/* Refuses an address that is taken (SO_REUSEPORT is off; a unix path is guarded by a lock file beside it, a stale socket
 * of a dead process is replaced). `message` (size bytes) gets the text. */
TCI_MUST_USE tci_status tci_rpc_server_open(tci_rpc *rpc, const tci_rpc_server_options *options,
                                            const tci_rpc_handler *handler, tci_rpc_server **out, char *message,
                                            size_t size);
/* As clients on this machine dial it: "127.0.0.1:43211" (the port that was picked; also of one that listens on 0.0.0.0),
 * "unix:/path". Borrowed from the server. */
const char *tci_rpc_server_address(const tci_rpc_server *server);
/* No new calls are taken (clients see UNAVAILABLE); calls that are in stay. Any thread. */
void tci_rpc_server_stop(tci_rpc_server *server);
/* Stops, waits up to grace_ms for calls that are in, cancels the rest, and frees. Handlers are not called afterwards; calls
 * not replied to yet must still be replied to (the reply goes nowhere) before tci_rpc_close. */
void tci_rpc_server_close(tci_rpc_server *server, int64_t grace_ms);

/* Facts of a call; borrowed until its reply. */
tci_str tci_rpc_call_method(const tci_rpc_call *call);      /* "/turboci.v1.TurboCIOrchestrator/WriteNodes" */
tci_str tci_rpc_call_payload(const tci_rpc_call *call);     /* the request message's bytes */
int64_t tci_rpc_call_deadline_us(const tci_rpc_call *call); /* monotonic; INT64_MAX: none */
void tci_rpc_call_set_user(tci_rpc_call *call, void *user);
void *tci_rpc_call_user(const tci_rpc_call *call);

/* The answer is a stream, and it is open: the peer gets its initial metadata now. Without this (or a tci_rpc_send) an
 * OK reply carries a message, an empty one included, as a unary client expects it. (any thread) */
void tci_rpc_call_set_stream(tci_rpc_call *call);

/* Ends the call: a message (unary, when OK) and the status. The status text is cut at 1,024 bytes and stays valid UTF-8.
 * After it the call is gone for the caller. (any thread) */
void tci_rpc_reply(tci_rpc_call *call, tci_status status, tci_str message);
/* Ends the call like tci_rpc_reply, but at once: what was sent and has not left is let go. (any thread) */
void tci_rpc_abort(tci_rpc_call *call, tci_status status);
/* Server streaming: queues one message (copied), in order; then finish with tci_rpc_reply(call, status, {0}), which leaves after what is
 * queued. Returns the bytes that wait, this message included. (any thread) */
size_t tci_rpc_send(tci_rpc_call *call, tci_str message);

/* ---- client ---- */

typedef struct tci_rpc_client tci_rpc_client;

typedef struct {
  int64_t message_bytes_max; /* of one that it receives; 0: 32 MiB */
} tci_rpc_client_options;    /* NULL: the defaults */

/* Channels are made per target on first use and kept (the least recently used idle one goes beyond 1,000). */
tci_rpc_client *tci_rpc_client_open(tci_rpc *rpc, const tci_rpc_client_options *options);
/* The status of a call that was ended here because its message was longer than message_bytes_max: it is no word of the
 * peer's, though it looks like RESOURCE_EXHAUSTED from there. */
bool tci_rpc_was_too_large(const tci_rpc_client *client, tci_status status);
/* Cancels what is in flight and waits until every callback has run. */
void tci_rpc_client_close(tci_rpc_client *client);

typedef struct {
  void *ctx;
  /* The call ended; unary: `message` is the response when the status is OK. Exactly once, the last callback. Text and
   * bytes are borrowed for the call. */
  void (*on_done)(void *ctx, tci_status status, tci_str message);
  /* Server streaming: one message. May be NULL for unary calls. */
  void (*on_message)(void *ctx, tci_str message);
} tci_rpc_sink;

/* Starts a call. `target` is dialled as it stands ("127.0.0.1:50061", "unix:/path"; "localhost:50061" as both loopback
 * addresses, whatever /etc/hosts says): what may be dialled is the caller's decision. No proxy is ever used. timeout_us < 0:
 * no deadline. `stream`: many messages may come. Returns a handle for tci_rpc_cancel, valid (as a number) for ever.
 * (any thread) */
uint64_t tci_rpc_start(tci_rpc_client *client, const char *target, const char *method, tci_str request,
                       int64_t timeout_us, bool stream, const tci_rpc_sink *sink);
/* The same for a unary call whose deadline is the caller's to judge: the peer is told of timeout_us (> 0) as of any deadline,
 * but here nothing ends the call before tci_rpc_cancel does. gRPC's own timer would beat an answer that lies in the
 * socket already when the process stood still. A peer that gives up by itself when that time is over is reported as
 * DEADLINE_EXCEEDED. (any thread) */
uint64_t tci_rpc_start_told(tci_rpc_client *client, const char *target, const char *method, tci_str request,
                            int64_t timeout_us, const tci_rpc_sink *sink);
/* on_done follows with CANCELLED, unless the call has ended already. (any thread) */
void tci_rpc_cancel(tci_rpc_client *client, uint64_t handle);

#endif
