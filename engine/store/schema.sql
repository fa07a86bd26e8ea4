/* schema: the tables of a TurboCI journal, version 1 (PRAGMA user_version). sqlite_open.c includes this file: it is C
 * string literals and nothing else, so that the program carries its schema and the build needs no step for it. The SQL
 * comments travel along: `sqlite3 FILE .schema` shows them.
 *
 * A version is never edited once it was released. A change is a new file with the steps from this version to the next
 * one, one line more in the migrations of sqlite_open.c.
 */
"CREATE TABLE meta ("
"\n  one      INTEGER PRIMARY KEY CHECK (one = 1), -- a single row"
"\n  format   TEXT    NOT NULL,                    -- of journal.bytes; they name their own versions inside"
"\n  created  INTEGER NOT NULL,                    -- wall clock, microseconds since 1970"
"\n  instance BLOB    NOT NULL,                    -- 16 random bytes: this journal and no other (FILE.mark)"
"\n  commits  INTEGER NOT NULL                     -- appends so far; never less than FILE.mark says"
"\n) STRICT;"
"\n"
"CREATE TABLE plan ("
"\n  key      INTEGER PRIMARY KEY,"
"\n  id       TEXT    NOT NULL UNIQUE COLLATE BINARY,"
"\n  settled  INTEGER NOT NULL,                    -- 0 or 1, as in the plan's last record"
"\n  checksum INTEGER NOT NULL                     -- SipHash of all three"
"\n) STRICT;"
"\n"
"CREATE TABLE journal ("
"\n  plan_key INTEGER NOT NULL,                    -- 0: what has no plan (the runners)"
"\n  sequence INTEGER NOT NULL,                    -- of the last change in bytes"
"\n  settled  INTEGER NOT NULL,                    -- 0 or 1: the plan after this record"
"\n  checksum INTEGER NOT NULL,                    -- SipHash of the other four"
"\n  bytes    BLOB    NOT NULL,                    -- the changes of one step"
"\n  PRIMARY KEY (plan_key, sequence)"
"\n) STRICT, WITHOUT ROWID;"
