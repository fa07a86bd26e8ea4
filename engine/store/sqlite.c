/* sqlite: the journal in one SQLite file: append, find, load.
 *
 * 1. One connection does all writing and all checkpointing (SQLite 3.40 can corrupt a WAL that two of them reset). Its
 *    transactions are IMMEDIATE and closed before a function returns; so is every reading statement.
 * 2. An append is one transaction: BEGIN, the records, the commit's number, COMMIT (fsync), then the watermark. Its
 *    number is raised by a compare-and-set: should anybody else ever have written, the append fails.
 * 3. Whatever fails, the transaction is rolled back before the error is answered. UNAVAILABLE and RESOURCE_EXHAUSTED
 *    leave a store that works; after DATA_LOSS `lost` is set and nothing touches the file any more: what the page cache
 *    holds after a failed fsync is anybody's guess, and only a fresh recovery reads what is really there.
 * 4. Checkpoints are ours, not wal_autocheckpoint's, which swallows their errors: an fsync of the database that failed
 *    there would be tried again, might then succeed, and the WAL that still held the truth would be overwritten.
 * 5. Every row carries a checksum over all of it, checked whenever it is read. A wrong one is DATA_LOSS for the reader
 *    but no reason to leave the connection: the file is as readable as before.
 *
 * Callers: the engine, on its thread.
 */
#define _GNU_SOURCE 1
#include "store/sqlite.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/vec.h"

enum {
  CHECK_APPENDS = 64,        /* the free disk is looked at after so many appends */
  CHECK_BYTES = 1024 * 1024, /* or so many bytes */
  CHECKPOINT_PAGES = 1000,   /* SQLite's own default */
};
static const uint64_t PLAN_KEY_MAX = INT64_MAX / 2; /* keys are counted up from 1: one like this was not counted to */

const char *const tci_sql_texts[TCI_SQL_LEN] = {
    [TCI_SQL_BEGIN] = "BEGIN IMMEDIATE",
    [TCI_SQL_COMMIT] = "COMMIT",
    [TCI_SQL_ROLLBACK] = "ROLLBACK",
    [TCI_SQL_ADD_RECORD] = "INSERT INTO journal (plan_key, sequence, settled, checksum, bytes) VALUES (?1,?2,?3,?4,?5)",
    [TCI_SQL_ADD_PLAN] =
        "INSERT INTO plan (key, id, settled, sequence, checksum)"
        " VALUES (?1, ?2, ?3, ?4, tci_plan_sum(?1, ?3, ?2, ?4))",
    [TCI_SQL_MOVE_PLAN] =
        "UPDATE plan SET settled=?2, sequence=?3, checksum=tci_plan_sum(key, ?2, id, ?3) WHERE key=?1",
    [TCI_SQL_COUNT_COMMIT] = "UPDATE meta SET commits = ?1 + 1, sequence = ?2, plans = ?3 WHERE commits = ?1",
    [TCI_SQL_FIND] = "SELECT key FROM plan WHERE id = ?1", /* read from the index alone */
    [TCI_SQL_MAX_KEY] = "SELECT ifnull(max(key), 0) FROM plan",
    [TCI_SQL_PLAN] = "SELECT key, settled, id, sequence, checksum FROM plan WHERE key = ?1",
    [TCI_SQL_RECORDS] =
        "SELECT sequence, settled, bytes, checksum FROM journal WHERE plan_key = ?1 AND sequence > ?2 "
        "ORDER BY sequence",
    [TCI_SQL_PLANS] = "SELECT key, settled, id, sequence, checksum FROM plan NOT INDEXED ORDER BY key",
    [TCI_SQL_PLANS_BY_ID] = "SELECT key, id FROM plan ORDER BY id", /* read from the index alone */
    [TCI_SQL_LAST_RECORD] =
        "SELECT sequence, settled, bytes, checksum FROM journal WHERE plan_key = ?1"
        " ORDER BY sequence DESC LIMIT 1",
};

/* What the rows of the table plan say. */
typedef struct {
  TCI_VEC(uint64_t) keys; /* of those that are not settled */
  uint64_t ids_sum;       /* of all keys with their ids, in any order */
  int64_t rows, damaged;
} open_rows_found;

static tci_status check_disk(tci_store *store, int64_t bytes);
static int write_all(tci_store *store, const tci_store_record *records, size_t len, int64_t *runners, int64_t *plans);
static int write_record(tci_store *store, const tci_store_record *record);
static int write_plan(tci_store *store, const tci_store_record *record);
static tci_status undo(tci_store *store, int rc);
static void raise_mark(tci_store *store);
static tci_status checkpoint(tci_store *store);
static tci_status load_plan(tci_store *store, uint64_t plan_key, uint64_t after, tci_store_visitor visit, void *ctx);
static tci_status load_records(tci_store *store, tci_store_record *record, size_t *damaged, tci_store_visitor visit,
                               void *ctx);
static const char *plan_fault(const tci_sqlite_plan *plan, const tci_store_record *last);
static bool read_record(sqlite3_stmt *row, tci_store_record *record);
static tci_status open_rows(tci_store *store, open_rows_found *found);
static tci_status check_index(tci_store *store, const open_rows_found *found);
static tci_status check_index_of_whole_rows(tci_store *store);
static int find_key(tci_store *store, tci_str plan_id, uint64_t *out_key);
static uint64_t plan_sum(uint64_t key, bool settled, tci_str id, uint64_t sequence);
static int bind_bytes(sqlite3_stmt *statement, int at, tci_str bytes);
static int bind_text(sqlite3_stmt *statement, int at, tci_str text);
static int run(sqlite3_stmt *statement);
static tci_status still_lost(const tci_store *store);

tci_status tci_store_append(tci_store *store, const tci_store_record *records, size_t len) {
  if (store->lost) return still_lost(store);
  if (len == 0) return TCI_STATUS_OK;
  int64_t bytes = 0;
  for (size_t i = 0; i < len; i++) bytes += (int64_t)records[i].bytes.len;
  TCI_TRY(check_disk(store, bytes));

  int64_t runners = store->runners_sequence, plans = store->plans;
  int rc = write_all(store, records, len, &runners, &plans);
  if (rc != SQLITE_OK) return undo(store, rc);
  store->runners_sequence = runners;
  store->plans = plans;
  store->mark.commits++;
  store->count.commits++;
  store->count.records += (int64_t)len;
  store->count.journal_bytes += bytes;
  raise_mark(store);
  return checkpoint(store);
}

tci_status tci_store_find(tci_store *store, tci_str plan_id, uint64_t *out_key) {
  *out_key = 0;
  if (store->lost) return still_lost(store);
  uint64_t key = 0;
  int rc = find_key(store, plan_id, &key);
  if (rc == SQLITE_DONE) return TCI_STATUS_OK;
  sqlite3_stmt *row = store->statements[TCI_SQL_PLAN];
  if (rc == SQLITE_ROW) rc = sqlite3_bind_int64(row, 1, (sqlite3_int64)key);
  if (rc == SQLITE_OK) rc = sqlite3_step(row);
  tci_status status = TCI_STATUS_OK;
  tci_sqlite_plan plan = {0};
  if (rc == SQLITE_ROW)
    status = tci_sqlite_read_plan(store, row, &plan);
  else if (rc == SQLITE_DONE)
    status =
        tci_sqlite_fail(store, TCI_DATA_LOSS,
                        "plan %llu: the index of ids knows it, and its row is gone: restore the journal from a backup",
                        (unsigned long long)key);
  else
    status = tci_sqlite_status(store, rc, "looking for a plan");
  *out_key = plan.key;
  sqlite3_reset(row);
  return status;
}

/* What the index of ids says: SQLITE_ROW, SQLITE_DONE when there is none, or an error. */
static int find_key(tci_store *store, tci_str plan_id, uint64_t *out_key) {
  sqlite3_stmt *find = store->statements[TCI_SQL_FIND];
  int rc = bind_text(find, 1, plan_id);
  if (rc == SQLITE_OK) rc = sqlite3_step(find);
  if (rc == SQLITE_ROW) *out_key = (uint64_t)sqlite3_column_int64(find, 0);
  sqlite3_reset(find);
  return rc;
}

tci_status tci_store_max_key(tci_store *store, uint64_t *out_key) {
  *out_key = 0;
  if (store->lost) return still_lost(store);
  sqlite3_stmt *max = store->statements[TCI_SQL_MAX_KEY];
  int rc = sqlite3_step(max);
  tci_status status = TCI_STATUS_OK;
  if (rc == SQLITE_ROW) *out_key = (uint64_t)sqlite3_column_int64(max, 0);
  if (rc == SQLITE_ROW && *out_key >= PLAN_KEY_MAX)
    status =
        tci_sqlite_fail(store, TCI_DATA_LOSS,
                        "corrupt: there is a plan %llu, after which there can be none: check the disk and restore the "
                        "journal from a backup",
                        (unsigned long long)*out_key);
  else if (rc != SQLITE_ROW)
    status = tci_sqlite_status(store, rc, "looking for the newest plan");
  sqlite3_reset(max);
  return status;
}

bool tci_store_is_lost(const tci_store *store) { return store->lost; }

tci_status tci_store_ready(tci_store *store) {
  if (store->lost) return still_lost(store);
  store->disk_low = true; /* so that it is looked at */
  return check_disk(store, 0);
}

tci_status tci_store_load(tci_store *store, uint64_t plan_key, tci_store_visitor visit, void *ctx) {
  return tci_store_load_after(store, plan_key, 0, visit, ctx);
}

tci_status tci_store_load_after(tci_store *store, uint64_t plan_key, uint64_t after, tci_store_visitor visit,
                                void *ctx) {
  if (store->lost) return still_lost(store);
  tci_status status = load_plan(store, plan_key, after, visit, ctx);
  sqlite3_reset(store->statements[TCI_SQL_RECORDS]);
  sqlite3_reset(store->statements[TCI_SQL_PLAN]);
  return status;
}

tci_status tci_store_salvage(tci_store *store, uint64_t plan_key, tci_store_visitor visit, void *ctx,
                             size_t *out_damaged) {
  *out_damaged = 0;
  if (store->lost) return still_lost(store);
  tci_store_record record = {.plan_key = plan_key};
  tci_status status = load_records(store, &record, out_damaged, visit, ctx);
  sqlite3_reset(store->statements[TCI_SQL_RECORDS]);
  return status;
}

tci_status tci_store_open_plans(tci_store *store, uint64_t **out_keys, size_t *out_len) {
  *out_keys = NULL;
  *out_len = 0;
  if (store->lost) return still_lost(store);
  open_rows_found found = {0};
  tci_status status = open_rows(store, &found);
  sqlite3_reset(store->statements[TCI_SQL_PLANS]);
  if (status.code == TCI_OK && found.rows != store->plans)
    status = tci_sqlite_fail(store, TCI_DATA_LOSS,
                             "the table of plans has %lld rows and should have %lld: the disk has lost some of it: "
                             "restore the journal from a backup",
                             (long long)found.rows, (long long)store->plans);
  if (status.code == TCI_OK) status = check_index(store, &found);
  if (status.code != TCI_OK) {
    tci_vec_free(&found.keys);
    return status;
  }
  *out_keys = found.keys.items;
  *out_len = found.keys.len;
  return TCI_STATUS_OK;
}

void tci_store_name(tci_store *store, uint64_t plan_key, char *out, size_t size) {
  snprintf(out, size, "#%llu", (unsigned long long)plan_key);
  if (store->lost) return;
  sqlite3_stmt *find = store->statements[TCI_SQL_PLAN];
  tci_sqlite_plan plan;
  char kept[sizeof store->message]; /* this is asked for while an error is being told */
  memcpy(kept, store->message, sizeof kept);
  if (sqlite3_bind_int64(find, 1, (sqlite3_int64)plan_key) == SQLITE_OK && sqlite3_step(find) == SQLITE_ROW &&
      tci_sqlite_read_plan(store, find, &plan).code == TCI_OK)
    snprintf(out, size, "%.*s", TCI_STR_ARG(tci_sqlite_column(find, 2)));
  sqlite3_reset(find);
  memcpy(store->message, kept, sizeof kept);
}

tci_store_counters tci_store_count(const tci_store *store) { return store->count; }

tci_status tci_sqlite_status(tci_store *store, int rc, const char *doing) {
  tci_code code = TCI_UNAVAILABLE;
  const char *remedy = "nothing was written; try again";
  switch (rc & 0xff) {
    case SQLITE_FULL:
      code = TCI_RESOURCE_EXHAUSTED;
      remedy = "nothing was written; free some disk space";
      store->disk_low = true;
      break;
    case SQLITE_TOOBIG:
      code = TCI_RESOURCE_EXHAUSTED;
      remedy = "nothing was written; one record must stay below 1,000,000,000 bytes";
      break;
    case SQLITE_IOERR:
      if (rc == SQLITE_IOERR_NOMEM) break;
      if (rc == SQLITE_IOERR_SHMSIZE) { /* there is no room for the WAL's index, and nothing was begun */
        code = TCI_RESOURCE_EXHAUSTED;
        remedy = "the disk is full: free some space; nothing was written";
        store->disk_low = true;
        break;
      }
      code = TCI_DATA_LOSS;
      remedy = "check the disk, then start again: what was acknowledged is recovered from the file";
      break;
    case SQLITE_NOTADB:
      code = TCI_DATA_LOSS;
      remedy =
          "it is no SQLite database, or its first page is corrupt: restore the journal from a backup, or name "
          "another file";
      break;
    case SQLITE_CORRUPT:
      code = TCI_DATA_LOSS;
      remedy = "the file is corrupt: check the disk and restore the journal from a backup";
      break;
    case SQLITE_CONSTRAINT: /* memory and disk disagree about what there is */
      code = TCI_DATA_LOSS;
      remedy =
          "the journal holds this already: it was changed by another program, or this is a defect; start again to "
          "load what is there";
      break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: remedy = "another program has the file locked: end it; nothing was written"; break;
    default: break;
  }
  if (code == TCI_DATA_LOSS) store->lost = true;
  const char *detail =
      store->db && sqlite3_extended_errcode(store->db) == rc ? sqlite3_errmsg(store->db) : sqlite3_errstr(rc);
  return tci_sqlite_fail(store, code, "%s failed: %s (SQLite %d): %s", doing, detail, rc, remedy);
}

tci_status tci_sqlite_fail(tci_store *store, tci_code code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int len = store->path[0] ? snprintf(store->message, sizeof store->message, "%.400s: ", store->path) : 0;
  vsnprintf(store->message + len, sizeof store->message - (size_t)len, format, args);
  va_end(args);
  return (tci_status){code, store->message};
}

void tci_sqlite_plan_sum(sqlite3_context *context, int len, sqlite3_value **args) {
  tci_assert(len == 4);
  tci_str id = {(const char *)sqlite3_value_blob(args[2]), (size_t)sqlite3_value_bytes(args[2])};
  uint64_t key = (uint64_t)sqlite3_value_int64(args[0]);
  sqlite3_result_int64(context, (sqlite3_int64)plan_sum(key, sqlite3_value_int(args[1]) != 0, id,
                                                        (uint64_t)sqlite3_value_int64(args[3])));
}

/* Is there room, and is the file still where it was? Asked now and then: it costs two system calls. */
static tci_status check_disk(tci_store *store, int64_t bytes) {
  if (!store->path[0]) return TCI_STATUS_OK;
  store->appends_unchecked++;
  store->bytes_unchecked += bytes;
  bool first = store->count.commits == 0;
  if (!first && !store->disk_low && store->appends_unchecked < CHECK_APPENDS && store->bytes_unchecked < CHECK_BYTES)
    return TCI_STATUS_OK;
  int moved = 0;
  if (sqlite3_file_control(store->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved) {
    store->lost = true;
    return tci_sqlite_fail(
        store, TCI_DATA_LOSS,
        "the file was moved, replaced or deleted while it was in use: put it back, then start again");
  }
  struct statvfs disk;
  if (statvfs(store->path, &disk) != 0)
    return tci_sqlite_fail(store, TCI_UNAVAILABLE, "cannot read the free disk space: %s", strerror(errno));
  uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
  store->disk_low = free_bytes < (uint64_t)store->free_bytes_min + (uint64_t)bytes;
  if (store->disk_low)
    return tci_sqlite_fail(
        store, TCI_RESOURCE_EXHAUSTED,
        "%llu bytes of disk are free and %lld must stay free: nothing was written; free some disk space",
        (unsigned long long)free_bytes, (long long)store->free_bytes_min);
  store->appends_unchecked = store->bytes_unchecked = 0;
  return TCI_STATUS_OK;
}

/* SQLITE_OK: committed. Anything else: a transaction may be open. *runners and *plans are raised: what meta says. */
static int write_all(tci_store *store, const tci_store_record *records, size_t len, int64_t *runners, int64_t *plans) {
  int rc = run(store->statements[TCI_SQL_BEGIN]);
  for (size_t i = 0; i < len && rc == SQLITE_OK; i++) {
    const tci_store_record *record = &records[i];
    rc = write_record(store, record);
    if (record->plan_key == 0) *runners = (int64_t)record->sequence;
    *plans += record->plan_id.len > 0;
    /* Of records that follow each other the last one says what the row must say. */
    bool last = record->plan_id.len > 0 || i + 1 == len || records[i + 1].plan_key != record->plan_key;
    if (rc == SQLITE_OK && record->plan_key && last) rc = write_plan(store, record);
  }
  if (rc != SQLITE_OK) return rc;
  sqlite3_stmt *count = store->statements[TCI_SQL_COUNT_COMMIT];
  if ((rc = sqlite3_bind_int64(count, 1, (sqlite3_int64)store->mark.commits)) != SQLITE_OK) return rc;
  if ((rc = sqlite3_bind_int64(count, 2, *runners)) != SQLITE_OK) return rc;
  if ((rc = sqlite3_bind_int64(count, 3, *plans)) != SQLITE_OK) return rc;
  if ((rc = run(count)) != SQLITE_OK) return rc;
  if (sqlite3_changes(store->db) != 1) return SQLITE_CONSTRAINT; /* somebody else has appended */
  return run(store->statements[TCI_SQL_COMMIT]);
}

static int write_record(tci_store *store, const tci_store_record *record) {
  tci_assert(record->plan_key <= INT64_MAX && record->sequence <= INT64_MAX);
  tci_assert(record->plan_key != 0 || (record->plan_id.len == 0 && !record->settled));
  sqlite3_stmt *add = store->statements[TCI_SQL_ADD_RECORD];
  int rc = sqlite3_bind_int64(add, 1, (sqlite3_int64)record->plan_key);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(add, 2, (sqlite3_int64)record->sequence);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int(add, 3, record->settled);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(add, 4, (sqlite3_int64)tci_sqlite_record_sum(record));
  if (rc == SQLITE_OK) rc = bind_bytes(add, 5, record->bytes);
  return rc == SQLITE_OK ? run(add) : rc;
}

/* The plan's row: made by the record that creates the plan, moved by every other. */
static int write_plan(tci_store *store, const tci_store_record *record) {
  bool created = record->plan_id.len > 0;
  sqlite3_stmt *plan = store->statements[created ? TCI_SQL_ADD_PLAN : TCI_SQL_MOVE_PLAN];
  int settled_at = created ? 3 : 2;
  int rc = sqlite3_bind_int64(plan, 1, (sqlite3_int64)record->plan_key);
  if (rc == SQLITE_OK && created) rc = bind_text(plan, 2, record->plan_id);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int(plan, settled_at, record->settled);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(plan, settled_at + 1, (sqlite3_int64)record->sequence);
  return rc == SQLITE_OK ? run(plan) : rc;
}

static tci_status undo(tci_store *store, int rc) {
  tci_status status = tci_sqlite_status(store, rc, "appending to the journal"); /* before its text is overwritten */
  if (store->lost) return status;                                               /* closing rolls back */
  if (sqlite3_get_autocommit(store->db)) return status; /* no transaction was begun, or SQLite rolled it back */
  int undone = run(store->statements[TCI_SQL_ROLLBACK]);
  if (undone == SQLITE_OK) return status;
  store->lost = true;
  return tci_sqlite_fail(store, TCI_DATA_LOSS,
                         "rolling back failed: %s (SQLite %d), after SQLite %d: check the disk, then start again",
                         sqlite3_errmsg(store->db), undone, rc);
}

/* A mark that stays behind guards less, but never wrongly: no reason to refuse what is already durable. */
static void raise_mark(tci_store *store) {
  if (store->mark_fd < 0) return;
  bool written = tci_mark_write(store->mark_fd, &store->mark);
  if (!written && !store->mark_failing)
    tci_log(TCI_LOG_WARN, "watermark_failed", "file=\"%s.mark\" error=\"%s\"", store->path, strerror(errno));
  store->mark_failing = !written;
}

/* Moves the WAL into the database when it has grown. The commit before it is durable either way. */
static tci_status checkpoint(tci_store *store) {
  if (store->wal_pages < CHECKPOINT_PAGES) return TCI_STATUS_OK;
  int rc = sqlite3_wal_checkpoint_v2(store->db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
  if (rc == SQLITE_OK) return TCI_STATUS_OK;
  tci_status status = tci_sqlite_status(store, rc, "moving the WAL into the database");
  /* A full disk or a reader in the way: the WAL grows on, and the next commit tries again. */
  return status.code == TCI_DATA_LOSS ? status : TCI_STATUS_OK;
}

static tci_status load_plan(tci_store *store, uint64_t plan_key, uint64_t after, tci_store_visitor visit, void *ctx) {
  tci_store_record record = {.plan_key = plan_key, .sequence = after};
  tci_sqlite_plan plan = {.sequence = plan_key ? 0 : (uint64_t)store->runners_sequence};
  int rc;
  if (plan_key != 0) {
    sqlite3_stmt *row = store->statements[TCI_SQL_PLAN];
    if ((rc = sqlite3_bind_int64(row, 1, (sqlite3_int64)plan_key)) == SQLITE_OK) rc = sqlite3_step(row);
    if (rc == SQLITE_ROW) {
      TCI_TRY(tci_sqlite_read_plan(store, row, &plan));
      if (!after) record.plan_id = tci_sqlite_column(row, 2); /* lives until the statement is reset */
    } else if (rc != SQLITE_DONE) {
      return tci_sqlite_status(store, rc, "loading a plan");
    }
  }
  TCI_TRY(load_records(store, &record, NULL, visit, ctx));
  if (sqlite3_stmt_busy(store->statements[TCI_SQL_RECORDS])) return TCI_STATUS_OK; /* the visitor stopped */
  if (!record.bytes.ptr) record.settled = plan.settled;                            /* there was none behind `after` */
  const char *fault = plan_fault(&plan, &record);
  if (!fault) return TCI_STATUS_OK;
  return tci_sqlite_fail(store, TCI_DATA_LOSS, "plan %llu is damaged: %s: restore the journal from a backup",
                         (unsigned long long)plan_key, fault);
}

/* Whether row and records fit each other. `last`: the last record; sequence 0: there was none. plan->key 0: no row. */
static const char *plan_fault(const tci_sqlite_plan *plan, const tci_store_record *last) {
  if (last->plan_key && !plan->key && last->sequence) return "it has records but no row in the table of plans";
  if (plan->key && !last->sequence) return "it has no records";
  if (last->sequence != plan->sequence)
    return "its last record is not the one that it must have: the disk has lost a page of one or the other";
  if (last->settled != plan->settled) return "its row and its last record disagree on whether it is settled";
  return NULL;
}

/* Visits all records behind record->sequence; `record` is the last one then; its sequence stays when there was none. damaged: NULL when a record that
 * does not match its checksum is an error; else it is left out, and counted. */
static tci_status load_records(tci_store *store, tci_store_record *record, size_t *damaged, tci_store_visitor visit,
                               void *ctx) {
  sqlite3_stmt *rows = store->statements[TCI_SQL_RECORDS];
  int rc = sqlite3_bind_int64(rows, 1, (sqlite3_int64)record->plan_key);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(rows, 2, (sqlite3_int64)record->sequence);
  while (rc == SQLITE_OK && (rc = sqlite3_step(rows)) == SQLITE_ROW) {
    rc = SQLITE_OK;
    bool whole = read_record(rows, record);
    if (!whole && damaged) {
      ++*damaged;
      continue;
    }
    if (!whole)
      return tci_sqlite_fail(
          store, TCI_DATA_LOSS,
          "plan %llu, sequence %llu: the record does not match its checksum: the disk has changed it; "
          "restore the journal from a backup",
          (unsigned long long)record->plan_key, (unsigned long long)record->sequence);
    if (!visit(ctx, record)) return TCI_STATUS_OK;
    record->plan_id = (tci_str){NULL, 0}; /* the first one only */
  }
  return rc == SQLITE_DONE ? TCI_STATUS_OK : tci_sqlite_status(store, rc, "loading the records of a plan");
}

/* A row of sequence, settled, bytes, checksum. False: it does not match its checksum. */
static bool read_record(sqlite3_stmt *row, tci_store_record *record) {
  record->sequence = (uint64_t)sqlite3_column_int64(row, 0);
  record->settled = sqlite3_column_int(row, 1) != 0;
  record->bytes = tci_sqlite_column(row, 2);
  return tci_sqlite_record_sum(record) == (uint64_t)sqlite3_column_int64(row, 3);
}

/* Whether a plan is settled is what its row says, unless that does not match its checksum or is older than the last
 * record: the disk may have lost the page with the row, and a plan with work left must not sleep. Then the last record says
 * it; in doubt it is not settled. */
static bool is_settled(tci_store *store, const tci_sqlite_plan *plan, bool whole) {
  if (whole && !plan->settled) return false;
  sqlite3_stmt *last = store->statements[TCI_SQL_LAST_RECORD];
  tci_store_record record = {.plan_key = plan->key};
  bool found = sqlite3_bind_int64(last, 1, (sqlite3_int64)plan->key) == SQLITE_OK && sqlite3_step(last) == SQLITE_ROW;
  bool settled = whole && !(found && (uint64_t)sqlite3_column_int64(last, 0) > plan->sequence);
  if (!settled) settled = found && read_record(last, &record) && record.settled;
  sqlite3_reset(last);
  return settled;
}

/* All rows, not only those of open plans: a flipped `settled` must be found, not leave a plan asleep for ever. */
static tci_status open_rows(tci_store *store, open_rows_found *found) {
  sqlite3_stmt *rows = store->statements[TCI_SQL_PLANS];
  int rc;
  while ((rc = sqlite3_step(rows)) == SQLITE_ROW) {
    tci_sqlite_plan plan = {.key = (uint64_t)sqlite3_column_int64(rows, 0)};
    found->rows++;
    found->ids_sum += tci_siphash(plan.key, 0, tci_sqlite_column(rows, 2));
    bool whole = tci_sqlite_read_plan(store, rows, &plan).code == TCI_OK;
    if (!whole) tci_log(TCI_LOG_ERROR, "plan_damaged", "error=\"%s\"", store->message);
    found->damaged += !whole;
    if (!is_settled(store, &plan, whole)) tci_vec_push(&found->keys, plan.key);
  }
  return rc == SQLITE_DONE ? TCI_STATUS_OK : tci_sqlite_status(store, rc, "listing the open plans");
}

/* The index says where an id is: one that has lost a page would deny a plan that was acknowledged. It can be made again from
 * rows that are whole. The id of a damaged row may be right nowhere but in the index, so then it is only looked at. */
static tci_status check_index(tci_store *store, const open_rows_found *found) {
  if (found->damaged) return check_index_of_whole_rows(store);
  sqlite3_stmt *rows = store->statements[TCI_SQL_PLANS_BY_ID];
  uint64_t sum = 0;
  int rc;
  while ((rc = sqlite3_step(rows)) == SQLITE_ROW)
    sum += tci_siphash((uint64_t)sqlite3_column_int64(rows, 0), 0, tci_sqlite_column(rows, 1));
  sqlite3_reset(rows);
  if (rc == SQLITE_DONE && sum == found->ids_sum) return TCI_STATUS_OK;
  if (rc == SQLITE_DONE) rc = sqlite3_exec(store->db, "REINDEX plan", NULL, NULL, NULL);
  if (rc != SQLITE_OK) return tci_sqlite_status(store, rc, "mending the index of plan ids");
  tci_log(TCI_LOG_WARN, "index_mended", "file=\"%s\" index=\"ids of plans\" remedy=\"check the disk\"", store->path);
  return TCI_STATUS_OK;
}

static tci_status check_index_of_whole_rows(tci_store *store) {
  sqlite3_stmt *rows = store->statements[TCI_SQL_PLANS];
  bool fits = true;
  int rc, found = SQLITE_OK;
  while (fits && (rc = sqlite3_step(rows)) == SQLITE_ROW) {
    tci_sqlite_plan plan;
    uint64_t key = 0;
    if (tci_sqlite_read_plan(store, rows, &plan).code != TCI_OK) continue;
    found = find_key(store, tci_sqlite_column(rows, 2), &key);
    fits = found == SQLITE_ROW && key == plan.key;
  }
  sqlite3_reset(rows);
  if (fits) return rc == SQLITE_DONE ? TCI_STATUS_OK : tci_sqlite_status(store, rc, "looking at the index of plan ids");
  if (found != SQLITE_ROW && found != SQLITE_DONE)
    return tci_sqlite_status(store, found, "looking at the index of plan ids");
  return tci_sqlite_fail(
      store, TCI_DATA_LOSS,
      "the index of plan ids does not fit the table of plans, which is damaged itself: check the disk "
      "and restore the journal from a backup");
}

tci_status tci_sqlite_read_plan(tci_store *store, sqlite3_stmt *row, tci_sqlite_plan *out) {
  *out = (tci_sqlite_plan){(uint64_t)sqlite3_column_int64(row, 0), (uint64_t)sqlite3_column_int64(row, 3),
                           sqlite3_column_int(row, 1) != 0};
  uint64_t sum = plan_sum(out->key, out->settled, tci_sqlite_column(row, 2), out->sequence);
  if (sum == (uint64_t)sqlite3_column_int64(row, 4)) return TCI_STATUS_OK;
  return tci_sqlite_fail(store, TCI_DATA_LOSS,
                         "plan %llu: its row does not match its checksum: the disk has changed it; restore the journal "
                         "from a backup",
                         (unsigned long long)out->key);
}

/* The keys are the hash's key, so a row that turns up in another one's place does not match either. */
uint64_t tci_sqlite_record_sum(const tci_store_record *record) {
  return tci_siphash(record->plan_key * 2 + record->settled, record->sequence, record->bytes);
}

/* With sequence 0 it is the sum that version 1 of the schema had, which knew none. */
static uint64_t plan_sum(uint64_t key, bool settled, tci_str id, uint64_t sequence) {
  return tci_siphash(key * 2 + settled, ~sequence, id);
}

/* Bound without a copy: the statement runs before the caller's bytes go. NULL would be SQL's NULL. */
static int bind_bytes(sqlite3_stmt *statement, int at, tci_str bytes) {
  return sqlite3_bind_blob64(statement, at, bytes.len ? bytes.ptr : "", bytes.len, SQLITE_STATIC);
}

static int bind_text(sqlite3_stmt *statement, int at, tci_str text) {
  return sqlite3_bind_text64(statement, at, text.len ? text.ptr : "", text.len, SQLITE_STATIC, SQLITE_UTF8);
}

tci_str tci_sqlite_column(sqlite3_stmt *statement, int at) {
  const char *ptr = sqlite3_column_blob(statement, at); /* first: it may move what _bytes measures */
  return (tci_str){ptr ? ptr : "", (size_t)sqlite3_column_bytes(statement, at)};
}

/* For statements without rows. */
static int run(sqlite3_stmt *statement) {
  int rc = sqlite3_step(statement);
  sqlite3_reset(statement);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The text of what lost it is still there: nothing writes over it. */
static tci_status still_lost(const tci_store *store) { return (tci_status){TCI_DATA_LOSS, store->message}; }
