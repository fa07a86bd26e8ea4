/* sqlite: what sqlite.c (the work), sqlite_open.c (opening, refusing, closing) and read.c share. Inside of the store
 * only. */
#ifndef TCI_STORE_SQLITE_H
#define TCI_STORE_SQLITE_H

#include <limits.h>
#include <sqlite3.h>

#include "store/store.h"
#include "store/watermark.h"

typedef enum {
  TCI_SQL_BEGIN,
  TCI_SQL_COMMIT,
  TCI_SQL_ROLLBACK,
  TCI_SQL_ADD_RECORD,
  TCI_SQL_ADD_PLAN,
  TCI_SQL_MOVE_PLAN,
  TCI_SQL_COUNT_COMMIT,
  TCI_SQL_FIND,
  TCI_SQL_MAX_KEY,
  TCI_SQL_PLAN,
  TCI_SQL_RECORDS,
  TCI_SQL_PLANS,
  TCI_SQL_PLANS_BY_ID,
  TCI_SQL_LAST_RECORD,
  TCI_SQL_LEN,
} tci_sql;

extern const char *const tci_sql_texts[TCI_SQL_LEN];

struct tci_store {
  sqlite3 *db;
  sqlite3_stmt *statements[TCI_SQL_LEN];
  char path[PATH_MAX];      /* resolved; "" in memory */
  int lock_fd, mark_fd;     /* -1 in memory */
  tci_mark mark;            /* of the last commit: its number is also meta.commits */
  bool mark_failing;        /* said once, until it works again */
  int64_t runners_sequence; /* of the last record of plan 0, as meta says */
  int64_t plans;            /* rows of the table plan, as meta says */
  int64_t free_bytes_min;
  int64_t appends_unchecked, bytes_unchecked; /* since the disk was last looked at */
  bool disk_low;                              /* look at every append */
  int wal_pages;                              /* after the last commit */
  bool lost;                                  /* DATA_LOSS was answered: the connection is not used again */
  tci_store_counters count;
  char message[1024]; /* the text of the last status */
};

/* The one place where SQLite's errors become ours; marks the store as lost on DATA_LOSS. `doing` is what failed. */
TCI_MUST_USE tci_status tci_sqlite_status(tci_store *store, int rc, const char *doing);
/* UNAVAILABLE and so on with a text of one's own. */
TCI_MUST_USE tci_status tci_sqlite_fail(tci_store *store, tci_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A row of the table plan. */
typedef struct {
  uint64_t key, sequence; /* sequence: of its last record; 0: a journal of version 1, which does not say */
  bool settled;
} tci_sqlite_plan;
/* Reading: a row of key, settled, id, sequence, checksum (checked); the checksum of a record; a column as bytes,
 * borrowed until the statement moves. */
TCI_MUST_USE tci_status tci_sqlite_read_plan(tci_store *store, sqlite3_stmt *row, tci_sqlite_plan *out);
uint64_t tci_sqlite_record_sum(const tci_store_record *record);
tci_str tci_sqlite_column(sqlite3_stmt *statement, int at);
/* Refuses what is not ours or too new; version 0: nobody's yet. */
TCI_MUST_USE tci_status tci_sqlite_identify(tci_store *store, int *out_version);
/* The SQL function tci_plan_sum(key, settled, id, sequence), for sqlite3_create_function. */
void tci_sqlite_plan_sum(sqlite3_context *context, int len, sqlite3_value **args);

#endif
