/* update: what one step leaves behind: records for the journal, effects for the shell to release after the commit.
 *
 * Everything an update points to is borrowed: effects point into the model or the update's arena and are valid
 * until the next step. The shell encodes them at once and keeps the bytes until the commit.
 */
#ifndef TCI_CORE_UPDATE_H
#define TCI_CORE_UPDATE_H

#include "base/status.h"
#include "core/event.h"
#include "core/model.h"
#include "core/policy.h"

/* The changes of one step to one plan (or to plan 0: the runners), encoded. One row of the journal. */
typedef struct {
  uint64_t plan_key; /* 0: what has no plan */
  uint64_t sequence; /* of its last change */
  tci_str bytes;
  tci_str plan_id; /* not empty: the record creates this plan */
  bool settled;    /* the plan is settled after it */
} tci_record;

typedef enum {
  TCI_REPLY_STATUS, /* nothing but the status (not OK), or an empty message of the command's reply type */
  TCI_REPLY_PLAN,   /* CreateWorkPlanResponse, GetWorkPlanResponse */
  TCI_REPLY_NODES,  /* WriteNodesResponse, QueryNodesResponse */
  TCI_REPLY_REGISTERED,
  TCI_REPLY_RUNNERS,
  TCI_REPLY_ACKNOWLEDGED, /* CompleteStageExecutionResponse */
  TCI_REPLY_EXECUTION,    /* GetStageExecutionResponse */
  TCI_REPLY_EXECUTIONS,   /* ListStageExecutionsResponse */
  TCI_REPLY_SERVER_INFO,  /* filled by the shell */
  TCI_REPLY_EXPLANATION,
  TCI_REPLY_POLICIES, /* filled by the shell: ListPoliciesResponse, ReloadPoliciesResponse */
} tci_reply_kind;

typedef enum { /* the wire's ExplanationKind */
               TCI_EXPLAINS_STATE = 1,
               TCI_EXPLAINS_DEPENDENCY = 2,
               TCI_EXPLAINS_NO_RUNNER = 3,
               TCI_EXPLAINS_ALL_BUSY = 4,
               TCI_EXPLAINS_PASSED_OVER = 5,
               TCI_EXPLAINS_EXCLUDED = 6,
               TCI_EXPLAINS_BACKOFF = 7,
               TCI_EXPLAINS_POLICY_WAIT = 8,
               TCI_EXPLAINS_ADMISSION = 9,
               TCI_EXPLAINS_QUEUED = 10,
               TCI_EXPLAINS_RUNNING = 11,
               TCI_EXPLAINS_DECISION = 12,
               TCI_EXPLAINS_ATTEMPT = 13,
               TCI_EXPLAINS_POLICY_FAULT = 14,
               TCI_EXPLAINS_RESULT = 15,
               TCI_EXPLAINS_CLIENT = 16,
} tci_explanation_kind;

typedef struct {
  tci_explanation_kind kind;
  tci_str text, subject; /* in the update's arena, or the model's */
  uint32_t attempt;      /* 0: of none in particular */
} tci_explanation;

typedef struct {
  tci_command_kind command;
  tci_reply_kind kind;
  tci_status status;
  const tci_plan *plan;
  uint64_t next; /* NODES, EXECUTIONS: where the page after this one begins; 0: this is the end */
  const tci_check **checks;
  size_t checks_len;
  const tci_stage **stages;
  size_t stages_len;
  const tci_runner **runners; /* REGISTERED: one */
  size_t runners_len;
  const tci_attempt **attempts; /* EXECUTION: one; EXPLANATION: those whose decisions are told */
  size_t attempts_len;
  tci_explanation *explanations;
  size_t explanations_len;
} tci_reply;

/* What a watch event leaves out of its node, because it did not change. */
typedef enum {
  TCI_OMITTED_KIND = 1 << 0,
  TCI_OMITTED_OPTIONS = 1 << 1,
  TCI_OMITTED_ARGS = 1 << 2,
  TCI_OMITTED_DEPENDENCIES = 1 << 3,
  TCI_OMITTED_ASSIGNMENTS = 1 << 4,
  TCI_OMITTED_RESULTS = 1 << 5,          /* those that are there replace those with the same id */
  TCI_OMITTED_ATTEMPTS = 1 << 6,         /* those that are there replace those with the same index */
  TCI_OMITTED_ATTEMPT_DETAILS = 1 << 7,  /* of the attempts that are there */
  TCI_OMITTED_ATTEMPT_PROGRESS = 1 << 8, /* of the attempts that are there: what is there is to be appended */
} tci_omitted;

/* One watch event. The node is a copy made at the moment of the change (arrays in the update's arena); watchers who are told
 * the same share it: effects with the same node, old_state and omitted are equal but for sequence and more.
 *
 * Whoever resumes after `sequence` loses nothing. For a watcher that is owed nothing it is the change's own; else it is that
 * of the last change before all it is owed, so that it may stand still, but never falls. */
typedef struct {
  uint64_t sequence;
  int64_t at_us;          /* wall */
  const tci_check *check; /* one of check, stage, or neither: the plan is complete */
  const tci_stage *stage;
  int old_state, new_state;
  unsigned omitted; /* tci_omitted: what is left out of check or stage */
  bool more;        /* include_current: there are nodes still to be told of for the first time */
  int checks_completed, stages_completed;
  bool has_failures;
} tci_watch_event;

typedef enum {
  TCI_EFFECT_REPLY,    /* answer request `token` */
  TCI_EFFECT_DISPATCH, /* call the runner */
  TCI_EFFECT_CANCEL,   /* abort the call in flight for `attempt`, if there is one */
  TCI_EFFECT_WATCH,    /* send an event on stream `token` */
} tci_effect_kind;

typedef struct {
  tci_effect_kind kind;
  uint64_t token;
  tci_reply reply;            /* REPLY */
  const tci_attempt *attempt; /* DISPATCH, CANCEL */
  tci_str address;            /* DISPATCH */
  int64_t timeout_us;         /* DISPATCH: of the RPC, from now */
  tci_watch_event watch;      /* WATCH */
} tci_effect;

/* What happened to a policy, for the log and the counters: of no consequence to the model. */
typedef enum {
  TCI_NOTE_FAULT,          /* hook, text: it could not answer, the built-in default decided */
  TCI_NOTE_CIRCUIT_OPEN,   /* text: the last fault */
  TCI_NOTE_CIRCUIT_CLOSED, /* it answers again */
  TCI_NOTE_LIVE,           /* a version was taken over */
  TCI_NOTE_GONE,
  TCI_NOTE_SHADOW,  /* hook, text: it would have decided otherwise */
  TCI_NOTE_UNASKED, /* hook, text: a retry of a turn that had used up its instructions: the built-in default decided */
} tci_note_kind;

typedef struct {
  tci_note_kind kind;
  tci_hook hook;
  tci_str policy, version, text; /* in the arena, or the model's */
  const tci_stage *stage;        /* NULL: of none */
} tci_note;

typedef struct {
  int64_t asks, faults, instructions, shadow_asks, shadow_differs; /* of this step */
} tci_policy_counts;

typedef struct {
  tci_arena arena;
  TCI_VEC(tci_record) records;
  TCI_VEC(tci_effect) effects;
  TCI_VEC(tci_note) notes;
  tci_policy_counts policy;
  bool more;  /* work was left over: step again with a TICK in the next turn */
} tci_update; /* `{0}` to start with; reused from step to step */

void tci_update_deinit(tci_update *update);

#endif
