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
} tci_reply_kind;

typedef struct {
  tci_command_kind command;
  tci_reply_kind kind;
  tci_status status;
  const tci_plan *plan;
  const tci_check **checks;
  size_t checks_len;
  const tci_stage **stages;
  size_t stages_len;
  const tci_runner **runners; /* REGISTERED: one */
  size_t runners_len;
  const tci_attempt **attempts; /* EXECUTION: one */
  size_t attempts_len;
} tci_reply;

/* One watch event. The node is a copy made at the moment of the change (arrays in the update's arena). */
typedef struct {
  uint64_t sequence;
  int64_t at_us;          /* wall */
  const tci_check *check; /* one of check, stage, or neither: the plan is complete */
  const tci_stage *stage;
  int old_state, new_state;
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

typedef struct {
  tci_arena arena;
  TCI_VEC(tci_record) records;
  TCI_VEC(tci_effect) effects;
  bool more;  /* work was left over: step again with a TICK in the next turn */
} tci_update; /* `{0}` to start with; reused from step to step */

void tci_update_deinit(tci_update *update);

#endif
