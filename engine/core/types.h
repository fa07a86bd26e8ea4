/* types: the states, outcomes and reasons of the engine. Numbers are the wire's (proto/turboci/v1/common.proto). */
#ifndef TCI_CORE_TYPES_H
#define TCI_CORE_TYPES_H

#include <stddef.h>

#include "base/str.h"

typedef enum {
  TCI_CHECK_UNKNOWN = 0,
  TCI_CHECK_PLANNING = 10,
  TCI_CHECK_PLANNED = 20,
  TCI_CHECK_WAITING = 30,
  TCI_CHECK_FINAL = 40,
} tci_check_state;

typedef enum {
  TCI_STAGE_UNKNOWN = 0,
  TCI_STAGE_PLANNED = 10,
  TCI_STAGE_ATTEMPTING = 20,
  TCI_STAGE_AWAITING_GROUP = 30,
  TCI_STAGE_FINAL = 40,
} tci_stage_state;

typedef enum {
  TCI_ATTEMPT_UNKNOWN = 0,
  TCI_ATTEMPT_PENDING = 10,
  TCI_ATTEMPT_SCHEDULED = 20,
  TCI_ATTEMPT_RUNNING = 30,
  TCI_ATTEMPT_COMPLETE = 40,
  TCI_ATTEMPT_INCOMPLETE = 50,
} tci_attempt_state;

typedef enum {
  TCI_EXECUTION_NONE = 0, /* a pulled stage has none */
  TCI_EXECUTION_PENDING = 10,
  TCI_EXECUTION_DISPATCHED = 20,
  TCI_EXECUTION_RUNNING = 30,
  TCI_EXECUTION_COMPLETE = 40,
  TCI_EXECUTION_FAILED = 50,
  TCI_EXECUTION_CANCELLED = 60,
} tci_execution_state;

typedef enum { TCI_MODE_UNKNOWN = 0, TCI_MODE_SYNC = 1, TCI_MODE_ASYNC = 2 } tci_mode;
enum { TCI_MODES = 3 }; /* arrays indexed by tci_mode */

typedef enum { TCI_NODE_UNKNOWN = 0, TCI_NODE_CHECK = 1, TCI_NODE_STAGE = 2 } tci_node_kind;
typedef enum { TCI_PREDICATE_UNKNOWN = 0, TCI_PREDICATE_AND = 1, TCI_PREDICATE_OR = 2 } tci_predicate;
typedef enum { TCI_ON_FINAL = 0, TCI_ON_SUCCESS = 1, TCI_ON_FAILURE = 2 } tci_condition;

typedef enum {
  TCI_OUTCOME_UNKNOWN = 0,
  TCI_OUTCOME_SUCCEEDED = 1,
  TCI_OUTCOME_FAILED = 2,
  TCI_OUTCOME_CANCELLED = 3,
  TCI_OUTCOME_SKIPPED = 4,
} tci_outcome;

typedef enum {
  TCI_REASON_UNKNOWN = 0,
  TCI_REASON_ATTEMPT_COMPLETE = 1,         /* stage: its attempt completed */
  TCI_REASON_CHECK_FAILED = 2,             /* stage: it finalised a check with a failure */
  TCI_REASON_NO_RETRIES_LEFT = 3,          /* stage: its last attempt failed and retry gave up */
  TCI_REASON_DEPENDENCIES_UNSATISFIED = 4, /* stage or check: skipped */
  TCI_REASON_CANCELLED = 5,
  TCI_REASON_NO_RESULT = 6,     /* check: a stage ended without the result it owed */
  TCI_REASON_RESULTS_FINAL = 7, /* check: all results are in and none is a failure */
  TCI_REASON_RESULT_FAILED = 8, /* check: a result carries a failure */
  TCI_REASON_WRITTEN = 9,       /* a client wrote FINAL */
} tci_reason;

typedef enum {
  TCI_FAILURE_UNKNOWN = 0,
  TCI_FAILURE_REPORTED = 1,
  TCI_FAILURE_REJECTED = 2,
  TCI_FAILURE_UNREACHABLE = 3,
  TCI_FAILURE_TIMEOUT = 4,
  TCI_FAILURE_STALE = 5,
  TCI_FAILURE_RUNNER_LOST = 6,
  TCI_FAILURE_ENGINE_RESTART = 7,
  TCI_FAILURE_PROTOCOL = 8,
  TCI_FAILURE_CANCELLED = 9,
  TCI_FAILURE_POLICY = 10,
} tci_failure_kind;

/* Of a policy, by its file and its behaviour. */
typedef enum {
  TCI_POLICY_LIVE = 1, /* its circuit is closed */
  TCI_POLICY_GONE = 2, /* its file is */
  TCI_POLICY_OPEN = 3, /* too many faults in a row: the built-in default decides for a while */
} tci_policy_state;

typedef enum { TCI_PLAN_UNKNOWN = 0, TCI_PLAN_ACTIVE = 10, TCI_PLAN_SETTLED = 20 } tci_plan_state;

/* What failed and when. `present` tells an empty failure from none. */
typedef struct {
  bool present;
  tci_failure_kind kind;
  tci_str message;
  int64_t occurred_us; /* wall; 0: not said */
} tci_failure;

typedef struct {
  tci_str key, value;
} tci_pair;

/* Sorted by key, keys unique. */
typedef struct {
  tci_pair *items;
  size_t len;
} tci_pairs;

/* What a stage says of its own retries and timeouts; 0 is 'not said'. */
typedef struct {
  int64_t max_attempts, backoff_ms, backoff_ms_max;
} tci_retry;

typedef struct {
  int64_t execution_ms, stale_ms;
} tci_timeouts;

/* Names as on the wire without prefix: "PLANNED", "NO_RETRIES_LEFT". Static; "?" outside the table. */
const char *tci_check_state_name(int state);
const char *tci_stage_state_name(int state);
const char *tci_attempt_state_name(int state);
const char *tci_execution_state_name(int state);
const char *tci_node_kind_name(int kind); /* "check", "stage" */
const char *tci_failure_kind_name(int kind);
const char *tci_outcome_name(int outcome);

#endif
