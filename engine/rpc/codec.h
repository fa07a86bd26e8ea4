/* codec: protobuf bytes <-> commands, replies, runner messages. The only translator between wire and core.
 *
 * Unpacking uses a build-time copy of the .proto files in which google.protobuf.Struct is `bytes` (package
 * tci.wire); a scan by the true descriptors (rpc/scan.c) guards the door before anything is unpacked.
 * Pure functions; any thread.
 */
#ifndef TCI_RPC_CODEC_H
#define TCI_RPC_CODEC_H

#include "core/event.h"
#include "core/limits.h"
#include "core/update.h"

typedef enum { TCI_SERVICE_ORCHESTRATOR, TCI_SERVICE_STAGE_RUNNER } tci_service;

/* One line of methods.def. */
typedef struct {
  const char *name;               /* "WriteNodes" */
  const char *path;               /* "/turboci.v1.TurboCIOrchestrator/WriteNodes" */
  const char *request, *response; /* full message names, "turboci.v1.WriteNodesRequest" */
  tci_service service;
  tci_command_kind command; /* ORCHESTRATOR */
  bool stream;              /* the response is a stream */
} tci_method;

extern const tci_method tci_methods[];
extern const size_t tci_methods_len;
const tci_method *tci_method_by_path(tci_str path); /* NULL: unknown */

/* Reads a request into `out`, all memory in `arena` (give it a cap: limits->message_arena_bytes_max). INVALID_ARGUMENT or
 * RESOURCE_EXHAUSTED (text in `arena` or static) names message and field path: "WriteNodesRequest.stages[2].id: ...". A
 * completion that is over a limit is not refused: it is one that fails its attempt and says so, because what it ends has ended.
 * For commands on executions and for plan commands out->plan_id is set (from the execution id when it parses, else empty). */
TCI_MUST_USE tci_status tci_codec_command(const tci_method *method, tci_str request, const tci_limits *limits,
                                          tci_arena *arena, tci_command *out);

/* What only the shell knows, for GetServerInfo. */
typedef struct {
  tci_str key;
  int64_t value;
} tci_counter;
/* One policy, for ListPolicies and ReloadPolicies. */
typedef struct {
  tci_str name, version, path;
  unsigned hooks;      /* 1u << tci_hook */
  tci_ids attached_to; /* "server", "type:X", "shadow" */
  int64_t calls, faults, p50_ns, p99_ns;
  bool circuit_open;
  int64_t circuit_until_us; /* wall */
  tci_str last_fault, error;
} tci_policy_info;
typedef struct {
  const char *version;
  int64_t started_us; /* wall */
  const tci_limits *limits;
  tci_counter *counters;
  size_t counters_len;
  tci_policy_info *policies; /* ListPolicies, ReloadPolicies */
  size_t policies_len;
  tci_ids changed; /* ReloadPolicies */
} tci_server_facts;

/* Appends the response message of an OK reply. `facts` (NULL: no limits) is needed by SERVER_INFO and
 * POLICIES, and tells RUNNERS how much fits. */
void tci_codec_reply(const tci_reply *reply, const tci_server_facts *facts, tci_buf *out);
/* The same for a part of a list of nodes or executions: appends what fits into bytes_max, no further entry once it is `enough`,
 * and says in *next where to go on (0: the end). Parts that are appended one after another are one reply. RESOURCE_EXHAUSTED
 * (static text): not even the first entry fits.
 * `paged`: this is a page of the client's. Such an entry comes without its large fields, and the page ends with its token. */
TCI_MUST_USE tci_status tci_codec_reply_part(const tci_reply *reply, const tci_command *command, bool paged,
                                             size_t bytes_max, size_t enough, tci_buf *out, uint64_t *next);
/* Appends a WorkPlanEvent but for what differs from watcher to watcher, and that. Together they are the message. A node
 * over bytes_max comes without its fattest fields, which its omitted_fields names. */
void tci_codec_watch_event(const tci_watch_event *event, size_t bytes_max, tci_buf *out);
void tci_codec_watch_place(uint64_t sequence, bool more, tci_buf *out);

/* Appends the RunRequest (SYNC) or RunAsyncRequest (ASYNC) of an attempt; callback_address: where the runner reports. */
void tci_codec_run_request(const tci_attempt *attempt, tci_str callback_address, tci_buf *out);
/* Reads RunResponse or RunAsyncResponse bytes into out (accepted, completion, ...). Nonsense sets out->unreadable, what is over
 * a limit out->too_large, and out->message says why. Copies nothing: `response` must outlive `out`, or live in `arena`. */
void tci_codec_answer(tci_mode mode, tci_str response, const tci_limits *limits, tci_arena *arena, tci_answer *out);

/* The same for an answer that was too long to be received (answer_bytes_max). */
void tci_codec_answer_unread(const tci_limits *limits, tci_arena *arena, tci_answer *out);

/* Where a runner may be reached: the address it registered, brought into dialable form (":50061" and "0.0.0.0:50061" ->
 * "127.0.0.1:50061", "[::]:1" -> "[::1]:1"), and checked against the allow-list. `allowed` holds hosts ("127.0.0.1",
 * "10.1.2.3", "build-7.example") and unix socket folders ("unix:/run/turboci/"); loopback is "loopback". PERMISSION_DENIED or
 * INVALID_ARGUMENT (text in `arena`) otherwise. */
TCI_MUST_USE tci_status tci_address_resolve(tci_str address, const tci_ids *allowed, tci_arena *arena, tci_str *out);
/* INVALID_ARGUMENT (text in `arena`): an entry of an allow-list that no address could ever match, and what is right. */
TCI_MUST_USE tci_status tci_address_check_list(const tci_ids *allowed, tci_arena *arena);

#endif
