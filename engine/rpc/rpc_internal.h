/* rpc_internal: what poll.c, listen.c, server.c and client.c share. Nobody else includes it.
 *
 * A tag is the address of a tci_rpc_tag inside the object that waits; the polling thread calls its `done`. Between
 * starting something with a tag and its `done` the object must stay: each such stretch holds a reference (server.c)
 * or is counted (client.c).
 */
#ifndef TCI_RPC_RPC_INTERNAL_H
#define TCI_RPC_RPC_INTERNAL_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>

#include <pthread.h>

#include "rpc/rpc.h"

/* What a server takes when it is not told: gRPC's own default. */
#define TCI_RPC_MESSAGE_BYTES_MAX (4 << 20)
/* Headers of one call; ours need a few hundred bytes. gRPC answers RESOURCE_EXHAUSTED before we see the call. */
#define TCI_RPC_METADATA_BYTES_MAX (8 << 10)
/* A status text before percent-encoding, which at worst triples it: it still fits the header limit. */
#define TCI_RPC_TEXT_BYTES_MAX 1024
/* Calls in progress on one connection; more wait in the client without an error. 1,000 and not 100: one runner host
 * or one embedding program keeps all its watches (64 and more) and its calls on a single connection, and a call that
 * waits silently behind long watches looks like a hang. What a peer can pin down with it is bounded by the requests
 * it may have in (limits of the engine), not by this number. */
#define TCI_RPC_STREAMS_MAX 1000
/* A TCP connection is accepted once its peer has said something, or is silent for so long. Who says no more, or nothing that is
 * HTTP/2, is pinged like everybody and hung up on 40 s after the accept. */
#define TCI_RPC_HELLO_S 5

/* Pings. A client may ping every 10 s, with or without calls; the second is for late and early packets. The server
 * pings too: a watcher whose machine died is noticed after 30 + 10 s and does not hold its buffers for hours. */
#define TCI_RPC_PING_INTERVAL_MS_MIN 9000
#define TCI_RPC_SERVER_PING_MS 30000
/* Streams go to our own server, which permits this. */
#define TCI_RPC_STREAM_PING_MS 30000
/* Unary calls go to runners in any language, and gRPC servers left at their defaults end a connection whose client
 * pings more often than every 5 minutes (GOAWAY too_many_pings: at 30 s a quiet Run died after 120 s, measured). So a
 * dead runner's machine is noticed by its lease and the deadline first, and by this at last. */
#define TCI_RPC_UNARY_PING_MS 310000
#define TCI_RPC_PING_TIMEOUT_MS 10000

/* Reconnecting: at once, then after 0.1 s, growing to 1 s: runners restart often and are near. gRPC's "minimum
 * backoff" is in truth the time that one attempt to connect may take. */
#define TCI_RPC_BACKOFF_MS_MIN 100
#define TCI_RPC_BACKOFF_MS_MAX 1000
#define TCI_RPC_CONNECT_MS_MAX 5000

typedef struct tci_rpc_tag {
  void (*done)(struct tci_rpc_tag *tag, bool ok); /* on the polling thread */
} tci_rpc_tag;

struct tci_rpc {
  grpc_completion_queue *cq;
  pthread_t thread;
  /* A call to nobody, never started: an empty batch on it wakes the polling thread. */
  grpc_channel *nowhere;
  grpc_call *nudge;
  tci_rpc_tag nudge_tag;
  void (*read_out)(void *ctx); /* who waits for tci_rpc_read_out */
  void *read_out_ctx;
};

bool tci_rpc_on_thread(const tci_rpc *rpc);
/* Hands a tag over to the queue; call it right before whatever starts the operation. Only ThreadSanitizer cares. */
void tci_rpc_tag_leaves(tci_rpc_tag *tag);
/* Starts a batch on a call; the caller serializes batches of one call. A refusal is our own error: asserts. */
void tci_rpc_batch(grpc_call *call, const grpc_op *ops, size_t ops_len, tci_rpc_tag *tag);

/* Bytes of a received message, in one piece: `heap` is to be freed, or NULL when `bytes` lies in the buffer itself. */
tci_str tci_rpc_buffer_bytes(grpc_byte_buffer *buffer, char **heap);
grpc_byte_buffer *tci_rpc_buffer_new(tci_str bytes); /* a copy */

/* A status text fit for the wire and for a proto string: cut on a character's boundary, valid UTF-8, no NUL. Returns
 * the length; `out` is terminated. */
size_t tci_rpc_text(tci_str text, char out[TCI_RPC_TEXT_BYTES_MAX + 1]);
grpc_arg tci_rpc_arg(const char *key, int value);
void tci_rpc_cond_init(pthread_cond_t *cond); /* on CLOCK_MONOTONIC */
/* A thread to which no signal is delivered. */
void tci_rpc_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg, const char *name);

/* ---- listen.c ---- */

enum { TCI_RPC_LISTENERS_MAX = 8 }; /* addresses that one host name stands for */

typedef struct {
  char *address;   /* as clients dial it */
  char *lock_path; /* NULL: not a unix socket */
  int lock_fd;
  int fds[TCI_RPC_LISTENERS_MAX]; /* listening, not blocking */
  size_t fds_len;
} tci_rpc_listener;

/* Listens at the address; nothing is held after a refusal (its text is in `message`). */
TCI_MUST_USE tci_status tci_rpc_listen(const char *address, tci_rpc_listener *out, char *message, size_t size);
/* Nobody can connect any more; the address is still ours where that can be. Twice is fine. */
void tci_rpc_listen_stop(tci_rpc_listener *listener);
/* Gives the address back. */
void tci_rpc_unlisten(tci_rpc_listener *listener);

/* ---- accept.c ---- */

typedef struct tci_rpc_acceptor tci_rpc_acceptor;

/* Hands connections to a server that has started, from now on; the listener stays the caller's, and longer than this. */
tci_rpc_acceptor *tci_rpc_accept(grpc_server *server, const tci_rpc_listener *listener, int64_t connections_max);
/* Before the server shuts down. */
void tci_rpc_accept_stop(tci_rpc_acceptor *acceptor);

#endif
