/* event: everything that may alter state. Commands are decoded by rpc/codec; runner answers and the clock come
 * from the shell. All strings are borrowed from the event's own arena and copied by the core where kept.
 *
 * The codec guarantees of a command: sizes and depth within limits, valid UTF-8, no control characters in ids,
 * Structs canonical (base/wire.h), pairs sorted and unique, enum values known. Everything else is checked by
 * the core: presence, existence, transitions.
 */
#ifndef TCI_CORE_EVENT_H
#define TCI_CORE_EVENT_H

#include "base/status.h"
#include "base/time.h"
#include "core/types.h"

/* ---- commands ---- */

typedef enum {
  TCI_COMMAND_NONE,
  TCI_COMMAND_CREATE_PLAN,
  TCI_COMMAND_GET_PLAN,
  TCI_COMMAND_WRITE_NODES,
  TCI_COMMAND_QUERY_NODES,
  TCI_COMMAND_WATCH_PLAN,
  TCI_COMMAND_REGISTER_RUNNER,
  TCI_COMMAND_UNREGISTER_RUNNER,
  TCI_COMMAND_LIST_RUNNERS,
  TCI_COMMAND_UPDATE_EXECUTION,
  TCI_COMMAND_COMPLETE_EXECUTION,
  TCI_COMMAND_GET_EXECUTION,
  TCI_COMMAND_LIST_EXECUTIONS,
  TCI_COMMAND_GET_SERVER_INFO,
  TCI_COMMAND_EXPLAIN_NODE,
  TCI_COMMAND_LIST_POLICIES,   /* answered by the shell */
  TCI_COMMAND_RELOAD_POLICIES, /* answered by the shell, after a POLICIES event */
} tci_command_kind;

typedef struct {
  tci_node_kind target_kind;
  tci_str target_id;
  tci_condition condition;
} tci_dependency;

typedef struct {
  bool given; /* false: the write leaves the dependencies alone */
  tci_predicate predicate;
  tci_dependency *items;
  size_t len;
} tci_dependencies;

typedef struct {
  tci_str check_id;
  tci_check_state goal; /* counts when FINAL or UNKNOWN */
} tci_assignment_write;

typedef struct {
  tci_str owner_type, owner_id, data;
  bool finalize;
  tci_failure failure;
} tci_result_write;

typedef struct {
  tci_str id;
  tci_check_state state; /* UNKNOWN: not said */
  tci_str kind, options;
  tci_dependencies dependencies;
  bool has_result;
  tci_result_write result;
  int64_t expected_version; /* 0: not given */
} tci_check_write;

typedef struct {
  tci_attempt_state state;
  tci_str process_uid, details;
  bool has_progress;
  tci_str progress_message, progress_details;
  int64_t progress_us; /* wall as the client gave it; 0: not given */
  tci_failure failure;
} tci_attempt_write;

typedef struct {
  tci_str id;
  tci_stage_state state;
  tci_str args;
  tci_assignment_write *assignments;
  size_t assignments_len; /* 0: left alone */
  tci_dependencies dependencies;
  bool has_attempt;
  tci_attempt_write attempt;
  tci_mode mode;       /* UNKNOWN: not said */
  tci_str runner_type; /* empty: not said; a new stage without one is pulled */
  int64_t expected_version;
  int64_t priority; /* 0: not said */
  tci_retry retry;
  tci_timeouts timeouts;
} tci_stage_write;

typedef struct {
  tci_str check_id;
  tci_check_state state;
  tci_str data;
  bool finalize;
  tci_failure failure;
} tci_check_update;

/* What a runner says at the end, by RunResponse or CompleteStageExecution. */
typedef struct {
  tci_stage_state stage_state; /* UNKNOWN, the wire's default, arrives as FINAL unless there is a failure */
  tci_check_update *updates;
  size_t updates_len;
  tci_failure failure;
  tci_str details;
  uint64_t digest[2]; /* of the whole, in canonical form: the same words give the same digest */
} tci_completion;

/* A set of states: a bit per state/10. 0: all. */
typedef uint32_t tci_states;
static inline tci_states tci_state_bit(int state) { return (tci_states)1 << (state / 10); }

typedef struct {
  tci_str *items;
  size_t len;
} tci_ids;

typedef struct {
  bool include_checks, include_stages;
  tci_ids check_ids, stage_ids;          /* empty: all */
  tci_states check_states, stage_states; /* empty: all */
} tci_filter;

/* Which part of a list: so many entries from a position on, in order of creation. Entries never go and never change places, so
 * a position is good for ever. */
typedef struct {
  int64_t size;  /* 0: all */
  uint64_t from; /* what a reply's `next` said; 0: the beginning */
} tci_page;

typedef struct {
  tci_command_kind kind;
  tci_page page;   /* QUERY_NODES, LIST_EXECUTIONS */
  tci_str plan_id; /* every command about one plan, executions included: the loop loads that plan first */
  union {
    struct {
      tci_pairs metadata;
      tci_str policy; /* empty: not said */
    } create_plan;
    struct {
      tci_check_write *checks;
      size_t checks_len;
      tci_stage_write *stages;
      size_t stages_len;
      int64_t expected_plan_version; /* 0: not given */
      bool omit_nodes;
    } write_nodes;
    tci_filter query_nodes;
    struct {
      tci_filter filter;
      bool include_current;    /* first the matching nodes as they are */
      bool include_progress;   /* attempt and progress changes too */
      bool omit_unchanged;     /* tell of a node only what changed; see tci_watch_event */
      uint64_t after_sequence; /* 0: from now on; else include_current is not looked at */
    } watch_plan;
    struct {
      tci_str runner_id, runner_type, address;
      bool modes[TCI_MODES];  /* none: SYNC */
      int64_t max_concurrent; /* 0: unlimited */
      int64_t ttl_ms;         /* 0: runner_ttl_ms */
      tci_pairs metadata;     /* empty: keep what was known */
    } register_runner;
    tci_str registration_id; /* unregister_runner */
    tci_str runner_type;     /* list_runners; empty: all */
    struct {
      tci_str execution_id, message, details;
      int64_t progress_percent;
    } update_execution;
    struct {
      tci_str execution_id;
      tci_completion completion;
    } complete_execution;
    struct {
      tci_str execution_id; /* or plan, stage and attempt (0: the latest) */
      tci_str stage_id;
      int64_t attempt;
    } get_execution;
    struct {
      tci_str stage_id; /* empty: all */
      tci_states states;
    } list_executions;
    struct {
      tci_str stage_id, check_id; /* one of them */
    } explain_node;
  };
} tci_command;

/* ---- events ---- */

/* Time. `now.mono_us` of an event is the engine's own clock: it runs like the monotonic one, and stands still while the
 * engine does. So a standstill (a stopped process, a commit that hangs) moves every lease, deadline and timeout by its
 * length, without one of them being touched; to the core it is a jump of the wall clock and nothing else.
 *
 * Timers are judged by a TICK and by nothing else, and only up to `heard_us`: the shell sends it when everything that had
 * arrived by then was stepped. So a heartbeat or an answer that waited in the queue is never overtaken by the lease or the
 * deadline that it keeps. A pause of length P with a full queue is: wall_us += P, mono_us as it was; step what arrived
 * meanwhile; then TICK. A long queue with no pause is: mono_us += P, wall_us += P, the same steps, then TICK. */
typedef enum {
  TCI_EVENT_TICK,       /* what arrived was stepped, timers may be judged; or work was left over */
  TCI_EVENT_COMMAND,    /* a client asks */
  TCI_EVENT_ANSWER,     /* a runner's RPC ended */
  TCI_EVENT_UNWATCH,    /* a watch stream is gone */
  TCI_EVENT_RESTARTED,  /* first event after the journal was loaded: no call survived */
  TCI_EVENT_RELOADED,   /* first event after a failed commit: calls in flight are still there */
  TCI_EVENT_POLICIES,   /* other policies from now on */
  TCI_EVENT_QUARANTINE, /* before RESTARTED: a plan that was not loaded, since its journal is damaged */
} tci_event_kind;

typedef struct {
  tci_str execution_id;
  tci_code code;   /* how the RPC ended */
  tci_str message; /* of the status, when not OK */
  bool accepted;   /* RunAsync, when OK */
  tci_str runner_execution_id;
  tci_completion completion; /* Run, when OK */
  bool unreadable;           /* OK, but the bytes made no sense: PROTOCOL; `message` says why */
  bool too_large;            /* OK, but over a limit that `message` names: the attempt fails as REPORTED */
} tci_answer;

/* What is kept of a plan that is set aside. */
typedef struct {
  uint64_t plan_key;
  tci_str plan_id, reason; /* reason: for people */
  tci_str keys;            /* admission keys that stay held, encoded ids (core/change.h) */
} tci_quarantine;

typedef struct {
  tci_event_kind kind;
  tci_time now;
  uint8_t random[32];
  uint64_t token; /* COMMAND: names the request in REPLY effects, and the stream in WATCH effects; UNWATCH */
  union {
    tci_command command;
    tci_answer answer;
    int64_t heard_us; /* TICK: on the engine's clock; timers due by then fire. 0: by `now` */
    tci_quarantine quarantine;
    const struct tci_policy_set *policies; /* POLICIES; the core keeps the pointer until the next such event */
  };
} tci_event;

#endif
