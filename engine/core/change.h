/* change: the facts that move the model, and their encoding.
 *
 * A change has one subject (plan, node, runner) and absolute values, never deltas. It is encoded as protobuf wire
 * fields by the table in change.c: a newer engine reads every older journal, and fields it does not know yet are skipped.
 * A record is the changes of one step to one plan, behind a small header.
 */
#ifndef TCI_CORE_CHANGE_H
#define TCI_CORE_CHANGE_H

#include "base/wire.h"
#include "core/event.h"
#include "core/types.h"

typedef enum { /* written to disk: numbers are for ever */
               TCI_CHANGE_PLAN_CREATED = 1,
               TCI_CHANGE_PLAN_STATE = 2,
               TCI_CHANGE_CHECK_CREATED = 3,
               TCI_CHANGE_CHECK_UPDATED = 4, /* kind, options */
               TCI_CHANGE_CHECK_STATE = 5,
               TCI_CHANGE_CHECK_RESULT = 6, /* added, or replaced whole */
               TCI_CHANGE_STAGE_CREATED = 7,
               TCI_CHANGE_STAGE_UPDATED = 8, /* args, mode, runner_type, priority, retry, timeouts */
               TCI_CHANGE_STAGE_STATE = 9,
               TCI_CHANGE_EDGES = 10,   /* dependencies and assignments of a node, each replaced whole when given */
               TCI_CHANGE_ATTEMPT = 11, /* created, or moved: fields not given stay */
               TCI_CHANGE_PROGRESS = 12,
               TCI_CHANGE_RUNNER = 13, /* registered, or a heartbeat that changes something: all fields */
               TCI_CHANGE_RUNNER_GONE = 14,
               TCI_CHANGE_POLICY = 15,     /* plan 0: a version taken over, gone, or its circuit */
               TCI_CHANGE_PLAN_ASIDE = 16, /* plan 0: a damaged plan, its reason, and the keys that stay held */
} tci_change_type;

/* Moments are microseconds since 1970, some 36,000 years of them. */
#define TCI_MOMENT_US_MAX ((int64_t)1 << 60)

/* One flat struct for all types; a zero is 'not given' and is not written. */
typedef struct {
  uint64_t type;
  uint64_t node; /* index + 1 */
  uint64_t version;
  uint64_t state, outcome, reason;
  tci_str id;           /* of the plan, node, runner */
  tci_str kind;         /* of the check; runner_type */
  tci_str bytes;        /* options, args, result data, details */
  tci_str dependencies; /* tci_edges_… below */
  tci_str assignments;
  uint64_t mode;     /* of a runner: a bit per mode */
  uint64_t priority; /* zigzag */
  uint64_t retry_max, backoff_ms, backoff_ms_max;
  uint64_t execution_ms, stale_ms;
  uint64_t attempt, execution;
  tci_str execution_id, process_uid, runner_id, registration_id, runner_execution_id;
  uint64_t not_before_us, deadline_us;
  uint64_t accepted;
  uint64_t failed, failure_kind;
  tci_str failure_message;
  uint64_t failure_us;
  uint64_t has_digest, digest0, digest1;
  tci_str message; /* of a progress entry; PLAN_ASIDE: why */
  uint64_t result; /* id */
  tci_str owner_type, owner_id;
  uint64_t finalized;
  tci_str address;
  uint64_t max_concurrent, ttl_ms;
  tci_str metadata;
  uint64_t at_us;         /* of a progress entry, as its writer gave it; RUNNER_GONE: its last heartbeat */
  uint64_t edges_follow;  /* CREATED: the node is whole only after its EDGES change */
  uint64_t created;       /* EDGES: completes a creation */
  uint64_t move_follows;  /* RESULT: the check becomes FINAL with it: watchers are told once */
  tci_str policy;         /* of a plan */
  tci_str policy_version; /* POLICY; its state is a tci_policy_state */
  tci_str decision;       /* ATTEMPT: one more on record */
  tci_str exclude, keys;  /* ATTEMPT, PLAN_ASIDE: encoded ids */
  uint64_t until_us;      /* POLICY: wall; end of the open circuit */
  uint64_t entry;    /* PROGRESS: place among all entries of the attempt, from 0, where some may be missing before it */
  uint64_t plan_key; /* PLAN_ASIDE */
} tci_change;

/* What the members are called and hold: for whoever shows or studies changes. */
typedef enum {
  TCI_FIELD_NUMBER,
  TCI_FIELD_SIGNED, /* zigzag */
  TCI_FIELD_FLAG,
  TCI_FIELD_NAME,     /* a value of an enum; which one depends on the change. Of a runner, mode: bits */
  TCI_FIELD_TEXT,     /* UTF-8 */
  TCI_FIELD_STRUCT,   /* an encoded google.protobuf.Struct */
  TCI_FIELD_EDGES,    /* tci_edges_… below */
  TCI_FIELD_PAIRS,    /* tci_pairs_decode */
  TCI_FIELD_IDS,      /* tci_ids_decode */
  TCI_FIELD_DECISION, /* tci_decision_decode */
} tci_field_shape;

typedef struct {
  uint16_t number; /* on disk */
  tci_field_shape shape;
  const char *name;
  size_t offset; /* in tci_change: a uint64_t for the first four, else a tci_str */
  uint64_t most; /* of the first four: no engine writes more */
} tci_change_field;

extern const tci_change_field tci_change_fields[];
extern const size_t tci_change_fields_len;

void tci_change_encode(const tci_change *change, tci_buf *out);
/* False when the bytes are malformed. Strings point into `bytes`. */
bool tci_change_decode(tci_str bytes, tci_change *out);
/* Of a change that was read: static text when a number in it is one that no engine writes; NULL: all are in range. */
const char *tci_change_fault(const tci_change *change);

static inline uint64_t tci_zigzag(int64_t v) { return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63); }
static inline int64_t tci_unzigzag(uint64_t v) { return (int64_t)(v >> 1) ^ -(int64_t)(v & 1); }

static inline void tci_change_set_failure(tci_change *c, const tci_failure *f) {
  c->failed = f->present;
  c->failure_kind = f->kind;
  c->failure_message = f->message;
  c->failure_us = (uint64_t)f->occurred_us;
}

/* Edges inside a change: the target's index + 1 and a small number (condition or goal). */
void tci_edges_put(tci_buf *out, uint64_t node, uint64_t number);
void tci_edges_put_predicate(tci_buf *out, tci_predicate predicate);
typedef struct {
  tci_wire_reader reader;
  uint64_t node, number;
} tci_edges_reader;
/* Reads the predicate (0 when there is none) and counts the edges; false when malformed. */
bool tci_edges_open(tci_str bytes, tci_edges_reader *reader, uint64_t *predicate, size_t *len);
bool tci_edges_next(tci_edges_reader *reader);

/* Pairs inside a change. Decoded pairs point into `bytes`; items live in `arena`. */
void tci_pairs_encode(tci_pairs pairs, tci_buf *out);
bool tci_pairs_decode(tci_str bytes, tci_arena *arena, tci_pairs *out);

/* Ids inside a change, likewise. */
void tci_ids_encode(tci_ids ids, tci_buf *out);
bool tci_ids_decode(tci_str bytes, tci_arena *arena, tci_ids *out);
bool tci_ids_has(tci_str bytes, tci_str id); /* encoded; false when malformed */

/* The record: header, then changes. */
typedef struct {
  uint64_t format;  /* 1 */
  int64_t wall_us;  /* of the step */
  uint64_t version; /* of the plan after it */
  uint64_t order;   /* of the step among those of the same microsecond, from 0 */
  size_t changes;
  tci_wire_reader reader;
} tci_record_reader;
enum { TCI_RECORD_FORMAT = 1 };
void tci_record_put_header(tci_buf *out, int64_t wall_us, uint64_t version);
/* Also of the header, so that the order of steps is known across plans. 0 is not written. */
void tci_record_put_order(tci_buf *out, uint64_t order);
void tci_record_put_change(tci_buf *out, const tci_change *change, tci_buf *scratch);
bool tci_record_open(tci_str bytes, tci_record_reader *reader);
/* 1: *out is the next change; 0: the end; -1: malformed. */
int tci_record_next(tci_record_reader *reader, tci_change *out);

#endif
