/* reads: lists of nodes and executions that are asked for, read a part at a time.
 *
 * A page is one part. A list asked for as a whole may be large, and its parts are read over as many turns as it takes, the
 * oldest list first: what one turn encodes for all of them is bounded (turn_reply_bytes_max), and but for the list at hand
 * nothing waits here that is larger than its request. Each part shows its nodes as they are when it is read.
 *
 * The engine steps the core for each part; here is what is between. Called by app/engine.c alone.
 */
#ifndef TCI_APP_READS_H
#define TCI_APP_READS_H

#include "core/core.h"
#include "rpc/codec.h"

/* One list that is being read. */
typedef struct tci_read {
  tci_event event; /* the command, with the next part as its page */
  bool paged;      /* it asked for a page */
  bool kept;       /* it has waited: its command is its own, and it is the oldest until it is done */
  bool done;       /* `status` and `bytes` are its answer */
  tci_status status;
  tci_buf bytes;
  tci_arena arena; /* of the command, once it is kept */
} tci_read;

typedef struct {
  const tci_limits *limits;          /* borrowed */
  int64_t left;                      /* of turn_reply_bytes_max */
  TCI_VEC(tci_read *) waiting, over; /* oldest first; answered in this turn */
  size_t waiting_bytes;              /* of the requests that wait */
} tci_reads;

void tci_reads_free(tci_reads *reads);
static inline void tci_reads_begin_turn(tci_reads *reads) { reads->left = reads->limits->turn_reply_bytes_max; }

bool tci_is_read(const tci_event *event); /* a command for such a list */
tci_read *tci_read_new(tci_reads *reads, const tci_event *event);
/* Takes the reply to read->event in: it is done, or read->event is that of the next part. */
void tci_read_take(tci_reads *reads, tci_read *read, const tci_reply *reply);
/* It is done, and to be freed with the turn; or it is not, and waits. */
void tci_reads_put(tci_reads *reads, tci_read *read);
/* The one to go on with in this turn; NULL: none, or enough was read. It is taken out, until it is put again. */
tci_read *tci_reads_next(tci_reads *reads);
void tci_reads_forget_turn(tci_reads *reads);

#endif
