/* sqlite_open: opening a journal, or saying why not; its schema and migrations; closing.
 *
 * 1. A refused open changes nothing: no new schema, no checkpoint, no WAL deleted on the way out. What is left of the
 *    journal is evidence, and the remedy may need it.
 * 2. Order: the path, the lock, the watermark, then SQLite: whose file it is and how new, is it whole (quick_check), is
 *    it all there (watermark). Only then it is changed: migrated, counted on, marked.
 * 3. A migration is one transaction together with its version number: killed half way, it starts afresh next time.
 *
 * Callers: the engine, once each.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "store/lock.h"
#include "store/sqlite.h"
#include "store/text.h"

enum {
  APPLICATION_ID = 0x54434931, /* "TCI1": what file(1) and we recognise the database by */
  BUSY_TIMEOUT_MS = 250,       /* for a backup program's short lock; the engine stands still meanwhile */
  FREE_BYTES_MIN = 16 * 1024 * 1024,
};

/* migrations[n] leads from version n to n + 1. */
static const char *const migrations[] = {
#include "store/schema.sql"
    ,
#include "store/schema_2.sql"
};
enum { SCHEMA_VERSION = sizeof migrations / sizeof migrations[0] };

static tci_status open_all(tci_store *store, const tci_store_options *options);
static tci_status open_place(tci_store *store, const char *path);
static tci_status open_connection(tci_store *store);
static tci_status check_pages(tci_store *store);
static tci_status check_order(tci_store *store);
static tci_status use_wal(tci_store *store);
static tci_status migrate(tci_store *store, int version);
static tci_status migrate_one(tci_store *store, int version);
static tci_status prepare(tci_store *store);
static tci_status read_meta(tci_store *store, int version, tci_mark *out);
static tci_status check_mark(tci_store *store, const tci_mark *journal);
static tci_status ask_int(tci_store *store, const char *sql, int *out);
static tci_status run_sql(tci_store *store, const char *sql);
static int note_wal(void *ctx, sqlite3 *db, const char *schema, int pages);

tci_status tci_store_open(const tci_store_options *options, tci_store **out, char *message, size_t size) {
  tci_assert(size > 0);
  *out = NULL;
  tci_store *store = tci_calloc(1, sizeof *store);
  store->lock_fd = store->mark_fd = -1;
  tci_status status = open_all(store, options);
  if (status.code == TCI_OK) {
    *out = store;
    return status;
  }
  tci_status copy = tci_text(status.code, message, size, "%s", status.message);
  store->lost = true; /* invariant 1 */
  tci_store_close(store);
  return copy;
}

void tci_store_close(tci_store *store) {
  if (!store) return;
  for (size_t i = 0; i < TCI_SQL_LEN; i++) sqlite3_finalize(store->statements[i]);
  if (store->db && store->lost) sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
  int rc = sqlite3_close(store->db); /* checkpoints, and deletes the WAL when that went well */
  tci_assert(rc == SQLITE_OK);       /* every statement is finalized */
  if (store->mark_fd >= 0) close(store->mark_fd);
  tci_lock_release(store->lock_fd); /* last: until here the files were ours */
  free(store);
}

static tci_status open_all(tci_store *store, const tci_store_options *options) {
  if (options->free_bytes_min < 0)
    return tci_sqlite_fail(store, TCI_INVALID_ARGUMENT, "free_bytes_min is %lld: it must not be negative",
                           (long long)options->free_bytes_min);
  store->free_bytes_min = options->free_bytes_min ? options->free_bytes_min : FREE_BYTES_MIN;
  bool in_memory = options->path && strcmp(options->path, ":memory:") == 0;
  if (!in_memory) TCI_TRY(open_place(store, options->path));

  int version;
  TCI_TRY(open_connection(store));
  TCI_TRY(tci_sqlite_identify(store, &version));
  if (!in_memory) TCI_TRY(check_pages(store));
  tci_mark journal = {0};
  if (version > 0 && !in_memory) TCI_TRY(check_order(store));
  if (version > 0) TCI_TRY(read_meta(store, version, &journal));
  TCI_TRY(check_mark(store, &journal));
  if (!in_memory) TCI_TRY(use_wal(store));
  TCI_TRY(migrate(store, version));
  TCI_TRY(prepare(store));
  TCI_TRY(read_meta(store, SCHEMA_VERSION, &store->mark));
  if (in_memory) return TCI_STATUS_OK;
  return tci_mark_open(store->path, &store->mark, &store->mark_fd, store->message, sizeof store->message);
}

/* The path, the lock, the watermark, and a file to open. */
static tci_status open_place(tci_store *store, const char *path) {
  char real[PATH_MAX];
  TCI_TRY(tci_lock_resolve(path, real, sizeof real, store->message, sizeof store->message));
  TCI_TRY(tci_lock_take(real, &store->lock_fd, store->message, sizeof store->message));
  strcpy(store->path, real);
  TCI_TRY(tci_mark_read(real, &store->mark, store->message, sizeof store->message));
  struct stat info;
  if (stat(real, &info) == 0 && info.st_size > 0) return TCI_STATUS_OK;

  /* There is no journal: was there one? SQLite would delete a WAL that has lost its database. */
  if (store->mark.found && store->mark.commits > 0)
    return tci_sqlite_fail(store, TCI_DATA_LOSS,
                           "the journal is gone, and its watermark remembers %llu commits: put it back, or delete "
                           "%.400s.mark to start with an empty one",
                           (unsigned long long)store->mark.commits, real);
  char wal[PATH_MAX + 8];
  snprintf(wal, sizeof wal, "%s-wal", real);
  if (stat(wal, &info) == 0 && info.st_size > 0)
    return tci_sqlite_fail(store, TCI_DATA_LOSS,
                           "the journal is gone, but its write-ahead log is there: put it back, or delete %.400s to "
                           "start with an empty one",
                           wal);
  /* Ours to create, so that nobody else may read it: execution ids are capabilities. The WAL takes its mode over. */
  int fd = open(real, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return tci_sqlite_fail(store, errno == EACCES ? TCI_PERMISSION_DENIED : TCI_UNAVAILABLE, "cannot create it: %s",
                           strerror(errno));
  close(fd);
  return TCI_STATUS_OK;
}

static tci_status open_connection(tci_store *store) {
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
  int rc = sqlite3_open_v2(store->path[0] ? store->path : ":memory:", &store->db, flags, NULL);
  if (rc != SQLITE_OK) return tci_sqlite_status(store, rc, "opening");
  sqlite3_extended_result_codes(store->db, 1);
  sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS);
  sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  sqlite3_db_config(store->db, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
  sqlite3_db_config(store->db, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
  sqlite3_wal_hook(store->db, note_wal, store); /* in the place of wal_autocheckpoint */
  if (sqlite3_db_readonly(store->db, "main") == 1)
    return tci_sqlite_fail(store, TCI_PERMISSION_DENIED,
                           "the file cannot be written by user %ld: check its mode and owner", (long)geteuid());
  rc = sqlite3_create_function(store->db, "tci_plan_sum", 4, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY,
                               NULL, tci_sqlite_plan_sum, NULL, NULL);
  if (rc != SQLITE_OK) return tci_sqlite_status(store, rc, "opening");
  /* synchronous=FULL: a commit is an fsync. cell_size_check: a damaged page is found when it is read. */
  return run_sql(store,
                 "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA locking_mode = NORMAL;"
                 "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 16777216;");
}

tci_status tci_sqlite_identify(tci_store *store, int *out_version) {
  int application = 0, tables = 0;
  TCI_TRY(ask_int(store, "SELECT count(*) FROM sqlite_schema", &tables));
  TCI_TRY(ask_int(store, "PRAGMA application_id", &application));
  TCI_TRY(ask_int(store, "PRAGMA user_version", out_version));
  if (application == 0 && *out_version == 0 && tables == 0) return TCI_STATUS_OK;
  if (application != APPLICATION_ID)
    return tci_sqlite_fail(store, TCI_FAILED_PRECONDITION,
                           "this is a database of another program (application_id %d): name another file", application);
  if (*out_version > SCHEMA_VERSION)
    return tci_sqlite_fail(
        store, TCI_FAILED_PRECONDITION,
        "its schema has version %d and this program knows versions up to %d: use the newer turboci that "
        "wrote it",
        *out_version, SCHEMA_VERSION);
  if (*out_version < 1)
    return tci_sqlite_fail(store, TCI_DATA_LOSS, "corrupt: a journal with schema version %d: restore it from a backup",
                           *out_version);
  return TCI_STATUS_OK;
}

static tci_status check_pages(tci_store *store) {
  sqlite3_stmt *check;
  int rc = sqlite3_prepare_v2(store->db, "PRAGMA quick_check(1)", -1, &check, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(check);
  tci_status status = TCI_STATUS_OK;
  if (rc == SQLITE_ROW) {
    const char *verdict = (const char *)sqlite3_column_text(check, 0);
    if (!verdict || strcmp(verdict, "ok") != 0)
      status =
          tci_sqlite_fail(store, TCI_DATA_LOSS, "corrupt: %.400s: check the disk and restore the journal from a backup",
                          verdict ? verdict : "no verdict");
  } else {
    status = tci_sqlite_status(store, rc, "checking it");
  }
  sqlite3_finalize(check);
  return status;
}

/* The journal is one tree, and quick_check does not look at the order of its rows. When the disk has lost a page since whose
 * time rows moved to another one, both have them, and what a search finds depends on where it begins. */
static tci_status check_order(tci_store *store) {
  sqlite3_stmt *rows;
  int rc = sqlite3_prepare_v2(store->db, "SELECT plan_key, sequence FROM journal", -1, &rows, NULL);
  sqlite3_int64 plan = -1, sequence = 0;
  bool ordered = true;
  while (rc == SQLITE_OK && ordered && (rc = sqlite3_step(rows)) == SQLITE_ROW) {
    sqlite3_int64 next_plan = sqlite3_column_int64(rows, 0), next = sqlite3_column_int64(rows, 1);
    ordered = next_plan > plan || (next_plan == plan && next > sequence);
    plan = next_plan;
    sequence = next;
    rc = SQLITE_OK;
  }
  tci_status status = TCI_STATUS_OK;
  if (!ordered)
    status =
        tci_sqlite_fail(store, TCI_DATA_LOSS,
                        "corrupt: records of plan %lld are out of order: check the disk and restore the journal from "
                        "a backup",
                        (long long)plan);
  else if (rc != SQLITE_DONE)
    status = tci_sqlite_status(store, rc, "checking it");
  sqlite3_finalize(rows);
  return status;
}

static tci_status use_wal(tci_store *store) {
  sqlite3_stmt *mode;
  int rc = sqlite3_prepare_v2(store->db, "PRAGMA journal_mode = WAL", -1, &mode, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(mode);
  tci_status status = TCI_STATUS_OK;
  if (rc != SQLITE_ROW)
    status = tci_sqlite_status(store, rc, "switching to WAL");
  else if (strcmp((const char *)sqlite3_column_text(mode, 0), "wal") != 0)
    status =
        tci_sqlite_fail(store, TCI_FAILED_PRECONDITION,
                        "its file system has no shared memory for a WAL (a network file system?): use a local disk");
  sqlite3_finalize(mode);
  return status;
}

static tci_status migrate(tci_store *store, int version) {
  for (; version < SCHEMA_VERSION; version++) {
    tci_status status = migrate_one(store, version);
    if (status.code == TCI_OK) continue;
    if (!sqlite3_get_autocommit(store->db)) (void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
  }
  return TCI_STATUS_OK;
}

static tci_status migrate_one(tci_store *store, int version) {
  char sql[128];
  TCI_TRY(run_sql(store, "BEGIN IMMEDIATE"));
  TCI_TRY(run_sql(store, migrations[version]));
  if (version == 0) {
    uint8_t instance[TCI_INSTANCE_BYTES];
    tci_clock_random(instance, sizeof instance);
    sqlite3_stmt *meta;
    int rc =
        sqlite3_prepare_v2(store->db, "INSERT INTO meta VALUES (1, 'turboci-journal-1', ?1, ?2, 0)", -1, &meta, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_int64(meta, 1, tci_clock_now().wall_us);
    if (rc == SQLITE_OK) rc = sqlite3_bind_blob(meta, 2, instance, sizeof instance, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_step(meta);
    sqlite3_finalize(meta);
    if (rc != SQLITE_DONE) return tci_sqlite_status(store, rc, "creating the tables");
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", APPLICATION_ID);
    TCI_TRY(run_sql(store, sql));
  }
  snprintf(sql, sizeof sql, "PRAGMA user_version = %d; COMMIT", version + 1);
  return run_sql(store, sql);
}

static tci_status prepare(tci_store *store) {
  for (size_t i = 0; i < TCI_SQL_LEN; i++) {
    int rc =
        sqlite3_prepare_v3(store->db, tci_sql_texts[i], -1, SQLITE_PREPARE_PERSISTENT, &store->statements[i], NULL);
    if (rc != SQLITE_OK) return tci_sqlite_status(store, rc, "preparing a statement");
  }
  return TCI_STATUS_OK;
}

static tci_status read_meta(tci_store *store, int version, tci_mark *out) {
  sqlite3_stmt *meta;
  const char *sql =
      version < 2 ? "SELECT instance, commits, 0, 0 FROM meta" : "SELECT instance, commits, sequence, plans FROM meta";
  int rc = sqlite3_prepare_v2(store->db, sql, -1, &meta, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(meta);
  tci_status status = TCI_STATUS_OK;
  const void *instance = rc == SQLITE_ROW ? sqlite3_column_blob(meta, 0) : NULL;
  if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
    status = tci_sqlite_status(store, rc, "reading its table meta");
  } else if (!instance || sqlite3_column_bytes(meta, 0) != TCI_INSTANCE_BYTES || sqlite3_column_int64(meta, 1) < 0) {
    status = tci_sqlite_fail(store, TCI_DATA_LOSS,
                             "corrupt: the table meta does not say which journal this is: restore it "
                             "from a backup");
  } else {
    out->found = true;
    memcpy(out->instance, instance, TCI_INSTANCE_BYTES);
    out->commits = (uint64_t)sqlite3_column_int64(meta, 1);
    store->runners_sequence = sqlite3_column_int64(meta, 2);
    store->plans = sqlite3_column_int64(meta, 3);
  }
  sqlite3_finalize(meta);
  return status;
}

/* store->mark is what the watermark says, `journal` what the journal says: not found when it is empty, which it also is
 * when its tables were still in a WAL that was lost. */
static tci_status check_mark(tci_store *store, const tci_mark *journal) {
  const tci_mark *mark = &store->mark;
  if (!mark->found && store->path[0] && journal->commits > 0)
    tci_log(TCI_LOG_WARN, "watermark_missing", "file=\"%s.mark\" commits=%llu", store->path,
            (unsigned long long)journal->commits);
  if (!mark->found || mark->commits == 0) return TCI_STATUS_OK;
  if (journal->found && memcmp(mark->instance, journal->instance, TCI_INSTANCE_BYTES) != 0)
    return tci_sqlite_fail(
        store, TCI_DATA_LOSS,
        "the watermark beside it is of another journal, one with %llu commits: put that one back, or "
        "delete %.400s.mark to go on with this one",
        (unsigned long long)mark->commits, store->path);
  if (journal->commits >= mark->commits) return TCI_STATUS_OK;
  return tci_sqlite_fail(
      store, TCI_DATA_LOSS,
      "the journal is behind its watermark: %llu commits were acknowledged and it holds %llu: its -wal "
      "file is damaged or missing, or this is an older copy. Put the newest files back, or delete "
      "%.400s.mark to accept the loss",
      (unsigned long long)mark->commits, (unsigned long long)journal->commits, store->path);
}

/* The first column of the first row. */
static tci_status ask_int(tci_store *store, const char *sql, int *out) {
  sqlite3_stmt *statement;
  int rc = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(statement);
  tci_status status = TCI_STATUS_OK;
  if (rc == SQLITE_ROW)
    *out = sqlite3_column_int(statement, 0);
  else
    status = tci_sqlite_status(store, rc, "reading its head");
  sqlite3_finalize(statement);
  return status;
}

static tci_status run_sql(tci_store *store, const char *sql) {
  int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
  return rc == SQLITE_OK ? TCI_STATUS_OK : tci_sqlite_status(store, rc, "opening");
}

static int note_wal(void *ctx, sqlite3 *db, const char *schema, int pages) {
  (void)db;
  (void)schema;
  ((tci_store *)ctx)->wal_pages = pages;
  return SQLITE_OK;
}
