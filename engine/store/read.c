/* read: the records of a journal file, in the order in which they happened, for whoever studies history.
 *
 * 1. The file is nobody's: a server may be writing to it, or it is a copy. No lock of ours is taken and nothing is
 *    changed: not the database, not the WAL, not the watermark. What is visited is what one moment held.
 * 2. A file without WAL and shared memory is at rest and read as it lies (SQLite would create both). A WAL without
 *    shared memory, of a copy, gets SQLite's scratch file -shm beside it: its index has to live somewhere.
 * 3. Records come in order of time, and of the steps within a microsecond; of one step plan 0 (the runners) first. A
 *    clock that jumped back never puts a record before an earlier one of its plan.
 * 4. Everything that is visited was checked: rows by their checksum, records by their form, plans for gaps.
 * 5. While a transaction reads, the WAL of a live server only grows. One finds the places of all records; then they are
 *    read in slices, each in a short transaction of its own, and none is open while the visitor runs. Records never
 *    change, so that the places stay true.
 *
 * Callers: engine/lua, for `turboci policy replay`.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/vec.h"
#include "core/change.h"
#include "store/sqlite.h"
#include "store/text.h"

enum { READ_BUSY_TIMEOUT_MS = 5000, URI_BYTES = 3 * PATH_MAX + 32, SLICE_RECORDS = 1000, SLICE_BYTES = 1 << 20 };

/* Where a record is, and when it happened. */
typedef struct {
  int64_t at_us;
  uint64_t order, plan_key, sequence; /* order: of its step among those of at_us */
  bool first;                         /* of its plan */
} place;

typedef TCI_VEC(place) places;

/* Records that were read and not visited yet; what they point to is in the arena. */
typedef struct {
  tci_arena arena;
  tci_store_record records[SLICE_RECORDS];
  size_t len, bytes;
} slice;

typedef struct {
  tci_store store; /* for the errors and row readers of sqlite.c; never locked, never written */
  bool at_rest;
  int version; /* of its schema */
} journal;

static tci_status read_all(journal *j, const char *path, tci_store_visitor visit, void *ctx);
static tci_status open_file(journal *j, const char *path);
static tci_status open_connection(journal *j);
static tci_status find_places(journal *j, places *out);
static tci_status add_place(journal *j, places *out, uint64_t plan_key, uint64_t sequence, tci_str bytes);
static tci_status visit_places(journal *j, const places *all, tci_store_visitor visit, void *ctx);
static tci_status read_slice(journal *j, const places *all, size_t *at, slice *out);
static tci_status read_one(journal *j, const place *p, slice *out);
static tci_status run(journal *j, const char *sql);
static tci_status still_at_rest(journal *j);

tci_status tci_store_read(const char *path, tci_store_visitor visit, void *ctx, char *message, size_t size) {
  tci_assert(size > 0);
  journal *j = tci_calloc(1, sizeof *j);
  tci_status status = read_all(j, path, visit, ctx);
  if (status.code != TCI_OK) status = tci_text(status.code, message, size, "%s", status.message);
  for (size_t i = 0; i < TCI_SQL_LEN; i++) sqlite3_finalize(j->store.statements[i]);
  int rc = sqlite3_close(j->store.db); /* read-only: SQLite checkpoints nothing and deletes nothing */
  tci_assert(rc == SQLITE_OK);
  free(j);
  return status;
}

static tci_status read_all(journal *j, const char *path, tci_store_visitor visit, void *ctx) {
  TCI_TRY(open_file(j, path));
  TCI_TRY(open_connection(j));
  places all = {0};
  tci_status status = find_places(j, &all);
  if (status.code == TCI_OK) status = visit_places(j, &all, visit, ctx);
  tci_vec_free(&all);
  return status.code == TCI_OK ? still_at_rest(j) : status;
}

/* ---- opening ---- */

static bool beside(const journal *j, const char *suffix, off_t *bytes) {
  char path[PATH_MAX + 8];
  snprintf(path, sizeof path, "%s%s", j->store.path, suffix);
  struct stat info;
  bool there = stat(path, &info) == 0;
  *bytes = there ? info.st_size : 0;
  return there;
}

static bool is_at_rest(const journal *j) {
  off_t wal, shm;
  beside(j, "-wal", &wal);
  return !beside(j, "-shm", &shm) && wal == 0;
}

static tci_status open_file(journal *j, const char *path) {
  tci_store *store = &j->store;
  if (!path || !path[0]) return tci_sqlite_fail(store, TCI_INVALID_ARGUMENT, "the path of the journal is empty");
  struct stat info;
  int fault = 0;
  if (!realpath(path, store->path) || stat(store->path, &info) != 0) fault = errno;
  if (fault) {
    snprintf(store->path, sizeof store->path, "%s", path);
    if (fault == ENOENT || fault == ENOTDIR) return tci_sqlite_fail(store, TCI_NOT_FOUND, "there is no such file");
    return tci_sqlite_fail(store, fault == EACCES ? TCI_PERMISSION_DENIED : TCI_UNAVAILABLE, "cannot look at it: %s",
                           strerror(fault));
  }
  if (!S_ISREG(info.st_mode)) return tci_sqlite_fail(store, TCI_INVALID_ARGUMENT, "it is no regular file");
  if (access(store->path, R_OK) != 0)
    return tci_sqlite_fail(store, TCI_PERMISSION_DENIED,
                           "the file cannot be read by user %ld: check its mode and owner", (long)geteuid());
  j->at_rest = is_at_rest(j);
  return TCI_STATUS_OK;
}

/* "file:/path?immutable=1"; what means something in a URI is escaped. */
static void uri_of(const char *path, char out[URI_BYTES]) {
  char *at = out + snprintf(out, URI_BYTES, "file:");
  for (; *path; path++) {
    bool plain = strchr("?#%", *path) == NULL && (unsigned char)*path > ' ' && (unsigned char)*path < 0x7f;
    if (plain)
      *at++ = *path;
    else
      at += snprintf(at, 4, "%%%02X", (unsigned char)*path);
  }
  strcpy(at, "?immutable=1");
}

static tci_status open_connection(journal *j) {
  tci_store *store = &j->store;
  char uri[URI_BYTES];
  uri_of(store->path, uri);
  int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
  int rc = j->at_rest ? sqlite3_open_v2(uri, &store->db, flags | SQLITE_OPEN_URI, NULL)
                      : sqlite3_open_v2(store->path, &store->db, flags, NULL);
  if (rc != SQLITE_OK) return tci_sqlite_status(store, rc, "opening");
  sqlite3_extended_result_codes(store->db, 1);
  sqlite3_busy_timeout(store->db, READ_BUSY_TIMEOUT_MS);
  sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
  rc = sqlite3_exec(store->db, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; BEGIN", NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_exec(store->db, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
  if ((rc & 0xff) == SQLITE_CANTOPEN || (rc & 0xff) == SQLITE_READONLY)
    return tci_sqlite_fail(store, TCI_FAILED_PRECONDITION,
                           "its write-ahead log cannot be read here: copy %.400s and its -wal to a folder that you may "
                           "write, and read the copy",
                           store->path);
  if (rc != SQLITE_OK) return tci_sqlite_status(store, rc, "opening");
  TCI_TRY(tci_sqlite_identify(store, &j->version));
  if (j->version == 0)
    return tci_sqlite_fail(store, TCI_FAILED_PRECONDITION, "there is no journal in it: name the file of `--db`");
  return TCI_STATUS_OK;
}

/* A server that came meanwhile may have changed the file under us. */
static tci_status still_at_rest(journal *j) {
  if (!j->at_rest || is_at_rest(j)) return TCI_STATUS_OK;
  return tci_sqlite_fail(&j->store, TCI_UNAVAILABLE, "a server opened it while it was being read: try again");
}

/* ---- the order ---- */

static tci_status prepare(tci_store *store, tci_sql slot, const char *sql) {
  int rc = sqlite3_prepare_v2(store->db, sql, -1, &store->statements[slot], NULL);
  return rc == SQLITE_OK ? TCI_STATUS_OK : tci_sqlite_status(store, rc, "reading the journal");
}

static int compare(const void *x, const void *y) {
  const place *a = x, *b = y;
  if (a->at_us != b->at_us) return a->at_us < b->at_us ? -1 : 1;
  if (a->order != b->order) return a->order < b->order ? -1 : 1;
  if (a->plan_key != b->plan_key) return a->plan_key < b->plan_key ? -1 : 1;
  return a->sequence < b->sequence ? -1 : a->sequence > b->sequence;
}

static tci_status find_places(journal *j, places *out) {
  tci_store *store = &j->store;
  TCI_TRY(prepare(store, TCI_SQL_PLANS, "SELECT plan_key, sequence, bytes FROM journal ORDER BY plan_key, sequence"));
  sqlite3_stmt *rows = store->statements[TCI_SQL_PLANS];
  int rc;
  while ((rc = sqlite3_step(rows)) == SQLITE_ROW)
    TCI_TRY(add_place(j, out, (uint64_t)sqlite3_column_int64(rows, 0), (uint64_t)sqlite3_column_int64(rows, 1),
                      tci_sqlite_column(rows, 2)));
  if (rc != SQLITE_DONE) return tci_sqlite_status(store, rc, "reading the journal");
  TCI_TRY(run(j, "COMMIT"));
  if (out->len) qsort(out->items, out->len, sizeof *out->items, compare);
  return TCI_STATUS_OK;
}

static tci_status add_place(journal *j, places *out, uint64_t plan_key, uint64_t sequence, tci_str bytes) {
  const place *last = out->len && out->items[out->len - 1].plan_key == plan_key ? &out->items[out->len - 1] : NULL;
  tci_record_reader reader;
  const char *fault = NULL;
  if (!tci_record_open(bytes, &reader))
    fault = "a record that this program cannot read";
  else if ((last ? last->sequence : 0) + reader.changes != sequence)
    fault = "a record is missing";
  if (fault)
    return tci_sqlite_fail(&j->store, TCI_DATA_LOSS, "plan %llu, sequence %llu: %s: restore the journal from a backup",
                           (unsigned long long)plan_key, (unsigned long long)sequence, fault);
  place p = {reader.wall_us, reader.order, plan_key, sequence, last == NULL};
  if (last && last->at_us > p.at_us) p.at_us = last->at_us; /* invariant 3 */
  if (last && last->at_us == p.at_us && last->order > p.order) p.order = last->order;
  tci_vec_push(out, p);
  return TCI_STATUS_OK;
}

/* ---- the visit ---- */

static tci_status run(journal *j, const char *sql) {
  int rc = sqlite3_exec(j->store.db, sql, NULL, NULL, NULL);
  return rc == SQLITE_OK ? TCI_STATUS_OK : tci_sqlite_status(&j->store, rc, "reading the journal");
}

static tci_status visit_places(journal *j, const places *all, tci_store_visitor visit, void *ctx) {
  tci_store *store = &j->store;
  TCI_TRY(prepare(
      store, TCI_SQL_PLAN,
      j->version < 2 ? "SELECT key, settled, id, 0, checksum FROM plan WHERE key = ?1" : tci_sql_texts[TCI_SQL_PLAN]));
  TCI_TRY(prepare(store, TCI_SQL_RECORDS,
                  "SELECT settled, bytes, checksum FROM journal WHERE plan_key = ?1 AND sequence = ?2"));
  slice *s = tci_calloc(1, sizeof *s);
  tci_status status = TCI_STATUS_OK;
  bool more = true;
  for (size_t at = 0; more && status.code == TCI_OK && at < all->len;) {
    status = read_slice(j, all, &at, s);
    for (size_t i = 0; more && i < s->len; i++) more = visit(ctx, &s->records[i]);
  }
  tci_arena_deinit(&s->arena);
  free(s);
  return status;
}

/* From *at on, in one transaction. After a fault the slice holds what came before it. */
static tci_status read_slice(journal *j, const places *all, size_t *at, slice *out) {
  tci_arena_reset(&out->arena);
  out->len = out->bytes = 0;
  TCI_TRY(run(j, "BEGIN"));
  tci_status status = TCI_STATUS_OK;
  while (status.code == TCI_OK && *at < all->len && out->len < SLICE_RECORDS && out->bytes < SLICE_BYTES) {
    status = read_one(j, &all->items[(*at)++], out);
    sqlite3_reset(j->store.statements[TCI_SQL_PLAN]);
    sqlite3_reset(j->store.statements[TCI_SQL_RECORDS]);
  }
  TCI_TRY(status);
  return run(j, "COMMIT");
}

static tci_status find_plan_id(journal *j, uint64_t plan_key, tci_str *out) {
  sqlite3_stmt *plan = j->store.statements[TCI_SQL_PLAN];
  int rc = sqlite3_bind_int64(plan, 1, (sqlite3_int64)plan_key);
  if (rc == SQLITE_OK) rc = sqlite3_step(plan);
  if (rc == SQLITE_DONE)
    return tci_sqlite_fail(&j->store, TCI_DATA_LOSS,
                           "plan %llu has records but no row in the table of plans: restore the journal from a backup",
                           (unsigned long long)plan_key);
  if (rc != SQLITE_ROW) return tci_sqlite_status(&j->store, rc, "reading a plan");
  tci_sqlite_plan row;
  TCI_TRY(tci_sqlite_read_plan(&j->store, plan, &row));
  *out = tci_sqlite_column(plan, 2); /* lives until the statement is reset */
  return TCI_STATUS_OK;
}

static tci_status read_one(journal *j, const place *p, slice *out) {
  tci_store_record record = {.plan_key = p->plan_key, .sequence = p->sequence};
  if (p->first && p->plan_key) TCI_TRY(find_plan_id(j, p->plan_key, &record.plan_id));
  sqlite3_stmt *row = j->store.statements[TCI_SQL_RECORDS];
  int rc = sqlite3_bind_int64(row, 1, (sqlite3_int64)p->plan_key);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(row, 2, (sqlite3_int64)p->sequence);
  if (rc == SQLITE_OK) rc = sqlite3_step(row);
  if (rc == SQLITE_DONE)
    return tci_sqlite_fail(&j->store, TCI_UNAVAILABLE,
                           "plan %llu, sequence %llu was there a moment ago: the file is being replaced; try again",
                           (unsigned long long)p->plan_key, (unsigned long long)p->sequence);
  if (rc != SQLITE_ROW) return tci_sqlite_status(&j->store, rc, "reading a record");
  record.settled = sqlite3_column_int(row, 0) != 0;
  record.bytes = tci_sqlite_column(row, 1);
  if (tci_sqlite_record_sum(&record) != (uint64_t)sqlite3_column_int64(row, 2))
    return tci_sqlite_fail(&j->store, TCI_DATA_LOSS,
                           "plan %llu, sequence %llu: the record does not match its checksum: the disk has changed it; "
                           "restore the journal from a backup",
                           (unsigned long long)p->plan_key, (unsigned long long)p->sequence);
  record.bytes = tci_str_copy(&out->arena, record.bytes);
  record.plan_id = tci_str_copy(&out->arena, record.plan_id);
  out->bytes += record.bytes.len;
  out->records[out->len++] = record;
  return TCI_STATUS_OK;
}
