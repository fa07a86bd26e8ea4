/* limits: every bound and default duration of the engine, by name. One table: the config file of the program,
 * `turboci serve --limit NAME=VALUE`, GetServerInfo and the error messages all use these names. */
#ifndef TCI_CORE_LIMITS_H
#define TCI_CORE_LIMITS_H

#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

/* X(name, default, what it bounds). Units are last in the name; 0 is not allowed unless said. */
#define TCI_LIMITS(X)                                                                                                 \
  X(id_bytes_max, 256, "a plan, check, stage, runner id or runner type")                                              \
  X(text_bytes_max, 65536, "any other string: a kind, an address, a failure message")                                 \
  X(message_bytes_max, 5242880, "a request, or a runner's answer: node_bytes_max, and room for what is around it")    \
  X(answer_bytes_max, 33554432, "a runner's answer that is read at all; over message_bytes_max it fails the attempt") \
  X(message_depth_max, 64, "nesting of a message")                                                                    \
  X(message_arena_bytes_max, 67108864, "memory that one request may take once it is unpacked")                        \
  X(reply_bytes_max, 33554432, "a reply that is not a page; the client has to be ready to receive it")                \
  X(page_bytes_max, 4194304, "a page, and the reply of a write: what gRPC clients receive without being told")        \
  X(page_entries_max, 1000, "nodes or executions of one page")                                                        \
  X(reads_waiting_bytes_max, 67108864, "requests for lists that wait until those before them are read")               \
  X(turn_reply_bytes_max, 2097152, "nodes and executions encoded for readers in one turn, about")                     \
  X(node_bytes_max, 4194304, "the options of a check, the args of a stage, one result, the details of an attempt")    \
  X(request_bytes_max, 4194304, "a RunRequest: the args of a stage, and the options of all checks it is assigned to") \
  X(turn_request_bytes_max, 8388608, "RunRequests sent in one turn, about")                                           \
  X(metadata_bytes_max, 65536, "the metadata of a plan or runner")                                                    \
  X(nodes_per_plan_max, 1000000, "nodes of one plan")                                                                 \
  X(dependencies_per_node_max, 100000, "dependencies of one node")                                                    \
  X(assignments_per_stage_max, 1000, "checks that one stage is assigned to")                                          \
  X(attempts_per_stage_max, 1000, "attempts of one stage, whatever its own retry or a policy says")                   \
  X(results_per_check_max, 10000, "results that clients write into one check")                                        \
  X(write_nodes_max, 20000, "nodes of one write")                                                                     \
  X(write_edges_max, 100000, "dependencies and assignments of one write, together")                                   \
  X(priority_max, 100, "priorities go from minus this to this")                                                       \
  X(duration_ms_max, 2592000000, "any timeout or backoff: 30 days")                                                   \
  X(plans_in_memory_max, 10000, "plans kept in memory besides those with work under way or a watcher")                \
  X(plans_in_memory_bytes_max, 67108864, "what those plans take, about; one is kept in any case")                     \
  X(runners_max, 10000, "registered runners")                                                                         \
  X(connections_max, 10000, "open connections to the server; more are closed at once")                                \
  X(watchers_max, 10000, "open WatchWorkPlan streams")                                                                \
  X(watch_event_bytes_max, 4194304, "an event of a watch; a larger node comes without its large fields")              \
  X(watch_buffer_bytes_max, 4194304, "events that wait for one slow watcher")                                         \
  X(watch_total_bytes_max, 134217728, "events that wait for all watchers; beyond it the slowest are ended")           \
  X(watch_turn_bytes_max, 1048576, "events encoded in one turn for watchers that start or resume")                    \
  X(watch_turn_changes_max, 8192, "changes and nodes looked at in one turn for watchers that start or resume")        \
  X(watch_resumes_max, 4, "watchers that read the journal at once; more wait for their turn")                         \
  X(queue_requests_max, 10000, "requests that wait for the engine")                                                   \
  X(turn_events_max, 256, "events taken in one turn")                                                                 \
  X(turn_cpu_ms_max, 50, "CPU time of one turn; beyond half of it, no more events are taken into it")                 \
  X(turn_timers_max, 256, "timers fired in one step")                                                                 \
  X(step_changes_max, 5000, "changes of one step; what follows from more goes on in the next ones")                   \
  X(policy_asks_per_turn, 256, "questions to policies about queued executions in one turn")                           \
  X(policy_instructions_max, 20000, "Lua instructions of one policy call, and 100 more for each candidate")           \
  X(policy_instructions_per_turn, 1000000, "Lua instructions of all policy calls in one turn, about")                 \
  X(policy_memory_bytes_max, 1048576, "memory that one policy call may take")                                         \
  X(policy_string_bytes_max, 8192, "a string that a policy makes")                                                    \
  X(policy_source_bytes_max, 65536, "a file of a policy")                                                             \
  X(policy_view_bytes_max, 65536, "the args of a stage that a policy can read; larger ones are not shown")            \
  X(policy_reason_bytes_max, 200, "the reason a policy gives; longer ones are cut")                                   \
  X(policy_table_keys_max, 2048, "keys of one table of a policy that are not those of a list")                        \
  X(policy_cpu_ms_max, 5, "CPU time of one policy call: a fuse, for what instructions do not count")                  \
  X(policy_cpu_ms_per_turn, 20, "CPU time of all policy calls in one turn, about")                                    \
  X(policy_wait_ms_min, 10, "the shortest wait that a policy may ask for; shorter ones are made as long")             \
  X(policy_faults_max, 3, "faults of a policy in a row before its circuit opens")                                     \
  X(policy_circuit_ms, 30000, "how long a policy with an open circuit is not asked")                                  \
  X(policies_max, 1000, "policies in the folders")                                                                    \
  X(policy_files_per_turn, 32, "files of policies that are looked at in one turn")                                    \
  X(policy_gone_ms, 2000, "how long a policy whose file is not there goes on: it may be on its way")                  \
  X(admission_keys_max, 16, "admission keys of one execution")                                                        \
  X(decision_candidates_max, 16, "candidates that the record of a decision names")                                    \
  X(progress_entries_max, 100, "progress entries kept per attempt")                                                   \
  X(progress_bytes_max, 65536, "bytes of progress kept per attempt")                                                  \
  X(progress_journal_bytes_per_s, 1024, "progress of an attempt that goes on record at once, beyond a first burst")   \
  X(accept_timeout_ms, 10000, "how long a runner may take to answer RunAsync")                                        \
  X(execution_timeout_ms, 3600000, "deadline of an execution when its stage gives none")                              \
  X(stale_timeout_ms, 300000, "silence of an async execution when its stage gives no limit")                          \
  X(runner_ttl_ms, 300000, "life of a registration that gives no ttl")                                                \
  X(runner_ttl_ms_max, 86400000, "the longest ttl of a registration")                                                 \
  X(pass_over_ms, 5000, "how long a runner that refused or could not be reached is passed over")                      \
  X(attempts_max, 3, "attempts of a stage that says nothing of retries")                                              \
  X(delivery_attempts_max, 20, "attempts that never got through to a runner")                                         \
  X(backoff_ms, 1000, "the first backoff; each further one is twice as long")                                         \
  X(backoff_ms_max, 60000, "the longest backoff")                                                                     \
  X(drain_timeout_ms, 30000, "how long a stopping server waits for calls to runners")

/* X(name, the most it may be), of those that end up in an int; the others may be up to 10^12. */
#define TCI_LIMITS_MOST(X) X(message_bytes_max, 2147483647)

typedef struct {
#define TCI_LIMITS_FIELD(name, value, doc) int64_t name;
  TCI_LIMITS(TCI_LIMITS_FIELD)
#undef TCI_LIMITS_FIELD
} tci_limits;

tci_limits tci_limits_default(void);
/* Sets a limit by name; values below 1 or over the most that it may be are refused. INVALID_ARGUMENT (text in `arena`)
 * names one that is near when there is none of that name. */
TCI_MUST_USE tci_status tci_limits_set(tci_limits *limits, tci_str name, int64_t value, tci_arena *arena);

/* name, value and meaning of every limit, for --help and GetServerInfo. */
typedef struct {
  const char *name, *doc;
  size_t offset; /* of the int64_t in tci_limits */
} tci_limit_info;
extern const tci_limit_info tci_limit_infos[];
extern const size_t tci_limit_infos_len;
/* The most that it may be. */
int64_t tci_limit_most(const tci_limit_info *info);

#endif
