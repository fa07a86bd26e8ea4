/* streams: what each open watch is sent, and when. Between the core, which says what is told, and the sink, which takes it.
 *
 *     a step's WATCH effects -> encoded once for all who are told the same -> (commit) -> queue of the stream -> sink
 *     nodes owed, the journal for who resumes  -> as much as the reader takes, within the budget of the turn ---^
 *
 * Invariants: nothing reaches the sink before the commit of the turn that caused it; a stream gets its messages in order; at
 * most watch_buffer_bytes_max, and one message more, wait for it, and watch_total_bytes_max for all; who starts or resumes is
 * read for only while the sink takes. Called by app/engine.c alone.
 */
#ifndef TCI_APP_STREAMS_H
#define TCI_APP_STREAMS_H

#include "app/sink.h"
#include "core/core.h"
#include "store/store.h"

typedef struct tci_streams tci_streams;

/* Limits, sink and store are borrowed. */
tci_streams *tci_streams_new(const tci_limits *limits, const tci_sink *sink, tci_store *store);
void tci_streams_free(tci_streams *streams); /* NULL is fine */

/* A step has opened the core's watcher `token`. */
void tci_streams_open(tci_streams *streams, tci_core *core, uint64_t token);
void tci_streams_close(tci_streams *streams, uint64_t token); /* its reader went away; no such stream: fine */
void tci_streams_close_all(tci_streams *streams);

/* Encodes the WATCH effects of a step; kept until the turn is over. */
void tci_streams_collect(tci_streams *streams, tci_core *core, const tci_update *update);
void tci_streams_release(tci_streams *streams, tci_core *core); /* it is committed: they go out */
void tci_streams_forget(tci_streams *streams);                  /* it is not */

/* The sink takes more on this stream. Between turns. */
void tci_streams_ready(tci_streams *streams, tci_core *core, uint64_t token);
/* At the end of a turn, when store and core agree: tells some of what is owed, reads some of what was missed. */
void tci_streams_work(tci_streams *streams, tci_core *core);
bool tci_streams_is_due(const tci_streams *streams); /* there is more such work that can be done now */

#endif
