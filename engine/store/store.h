/* store: the journal on disk. A small interface: find, load, append. SQLite today (store/sqlite.c).
 *
 * Promises: tci_store_append returns OK only when every record is durable (one transaction, fsynced); records of a
 * plan come back in order of sequence, whole. One process at a time holds a store. Engine thread only.
 * Status texts live in the store until its next call (or are static).
 */
#ifndef TCI_STORE_STORE_H
#define TCI_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

typedef struct tci_store tci_store;

typedef struct {
  const char *path;       /* a file, or ":memory:" (no lock, no watermark) */
  int64_t free_bytes_min; /* appends are refused (RESOURCE_EXHAUSTED) below this much free disk; 0: 16 MiB */
} tci_store_options;

/* One row of the journal; the fields mean what they mean in core/update.h's tci_record. */
typedef struct {
  uint64_t plan_key, sequence;
  tci_str bytes;
  tci_str plan_id; /* not empty: creates the plan */
  bool settled;
} tci_store_record;

/* Returns false to stop. What `record` points to is borrowed for the call. */
typedef bool (*tci_store_visitor)(void *ctx, const tci_store_record *record);

/* Opens or creates. Refuses, naming the fault and the remedy: another process holds the file (its pid), a schema newer
 * than this program, a corrupt file (quick_check), a journal that is behind its watermark.
 * On failure *out is NULL and the text lives in `message` (size bytes). */
TCI_MUST_USE tci_status tci_store_open(const tci_store_options *options, tci_store **out, char *message, size_t size);
void tci_store_close(tci_store *store); /* NULL is fine */

/* All records in one transaction. UNAVAILABLE or RESOURCE_EXHAUSTED: nothing was written, the store works on.
 * DATA_LOSS: an fsync, the disk or a rollback failed; the process must log and exit, and not touch the store again. */
TCI_MUST_USE tci_status tci_store_append(tci_store *store, const tci_store_record *records, size_t len);

/* The functions below answer DATA_LOSS for two reasons: the store is lost (then this is true), or what was asked for is
 * damaged, and the rest is as readable as before. */
bool tci_store_is_lost(const tci_store *store);

/* The key of a plan by id: 0 when there is none. */
TCI_MUST_USE tci_status tci_store_find(tci_store *store, tci_str plan_id, uint64_t *out_key);
TCI_MUST_USE tci_status tci_store_max_key(tci_store *store, uint64_t *out_key);
/* Every record of one plan (0: the runners), in order of sequence; the first one carries plan_id. DATA_LOSS when one of
 * them is damaged or missing; then some were visited already. */
TCI_MUST_USE tci_status tci_store_load(tci_store *store, uint64_t plan_key, tci_store_visitor visit, void *ctx);
/* The same from the record behind sequence `after` on, for who reads a plan in pieces: stop when it is enough. */
TCI_MUST_USE tci_status tci_store_load_after(tci_store *store, uint64_t plan_key, uint64_t after,
                                             tci_store_visitor visit, void *ctx);
/* What can still be read of a damaged plan: its records without those that do not match their checksum. *out_damaged
 * counts these. */
TCI_MUST_USE tci_status tci_store_salvage(tci_store *store, uint64_t plan_key, tci_store_visitor visit, void *ctx,
                                          size_t *out_damaged);
/* Keys of all plans that are not settled, ascending, into a heap array (free it). A plan whose row is damaged, or
 * older than its last record, is among them, unless that record says that it is settled. DATA_LOSS when rows are missing.
 * Mends the index of ids, which follows from the rows, when it does not fit them (logged). */
TCI_MUST_USE tci_status tci_store_open_plans(tci_store *store, uint64_t **out_keys, size_t *out_len);
/* What to call a plan: its id, or "#KEY" when its row is damaged or there is none. `out` (size bytes) is filled. */
void tci_store_name(tci_store *store, uint64_t plan_key, char *out, size_t size);
/* Whether an append may succeed now: RESOURCE_EXHAUSTED while the disk is too full. Looks at the disk in any case. */
TCI_MUST_USE tci_status tci_store_ready(tci_store *store);

/* Visits every record of a journal file, in order of time (of one step plan 0 first, then by plan), without holding or
 * changing it: it may be a live server's, or a copy. A plan's first record carries plan_id. OK also when the visitor
 * stops. NOT_FOUND, PERMISSION_DENIED; FAILED_PRECONDITION: another program's, a newer schema, no journal; DATA_LOSS:
 * corrupt; UNAVAILABLE: try again. The text lives in `message` (size bytes). */
TCI_MUST_USE tci_status tci_store_read(const char *path, tci_store_visitor visit, void *ctx, char *message,
                                       size_t size);

typedef struct {
  int64_t commits, records, journal_bytes; /* since open */
} tci_store_counters;
tci_store_counters tci_store_count(const tci_store *store);

#endif
