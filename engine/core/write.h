/* write: a WriteNodes while it is being checked. Shared by write.c (checks and applies), write_check.c (what it would do
 * to single nodes), write_size.c (how large its reply gets), request.c (and the requests to runners) and cycle.c (what it would
 * do to the graph). Everything lives in the update's arena. */
#ifndef TCI_CORE_WRITE_H
#define TCI_CORE_WRITE_H

#include "core/internal.h"

/* What one CheckWrite or StageWrite comes to. */
typedef struct {
  tci_node_kind kind;
  uint64_t index;  /* of the node: existing, or as it will be created */
  size_t position; /* in the request */
  tci_node *node;  /* NULL: it is new */
  tci_str id;
  const tci_check_write *check;
  const tci_stage_write *stage;
  tci_str merged; /* options or args as they will be */
  bool merged_changed, fields_changed;
  bool edges_changed, assignments_changed, result_changed;
  int to_state;      /* 0: stays (a new node: its first state) */
  uint64_t *targets; /* node indexes of the dependencies, when edges_changed */
  size_t targets_len;
  uint64_t *checks; /* node indexes of the assignments, when assignments_changed */
  size_t checks_len;
} tci_prepared;

typedef struct {
  tci_core *core;
  const tci_event *event;
  tci_plan *plan;
  tci_arena *arena;
  tci_prepared *items; /* checks first, then stages, in request order */
  size_t len, created;
  tci_prepared **fresh;             /* those that create nodes: the k-th has index existing + k */
  uint64_t existing;                /* nodes of the plan before the write */
  tci_map by_check_id, by_stage_id; /* -> tci_prepared */
  tci_map by_index;                 /* of those that exist; key: the 8 bytes of tci_prepared.index */
  tci_status status;                /* the first fault */
} tci_write;

/* Records the first fault; false, for `return tci_write_fault(...)`. */
bool tci_write_fault(tci_write *write, const tci_prepared *item, tci_code code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* What the write says of the node with this index; NULL: nothing. */
const tci_prepared *tci_write_item(const tci_write *write, uint64_t index);
bool tci_write_check_item(tci_write *write, tci_prepared *item);
bool tci_write_stage_item(tci_write *write, tci_prepared *item);
/* False, with a fault that prints the path, when the write would close a cycle. */
bool tci_write_is_acyclic(tci_write *write);
/* False, with a fault: a RunRequest would be larger than request_bytes_max. */
bool tci_write_requests_fit(tci_write *write);
/* What the reply takes that shows all nodes as they will be: never less, and not much more. */
size_t tci_write_reply_bytes(const tci_write *write);
void tci_write_apply_attempt(tci_core *core, tci_stage *stage, const tci_attempt_write *write);

#endif
