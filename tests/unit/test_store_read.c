/* store/read: a journal is read in the order of time, whoever else has it open, and nothing of it is changed. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "core/change.h"
#include "store/store.h"

static char folder[64], db[128], message[1024];
static uint64_t step_order; /* of the next records */

/* ---- helpers ---- */

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/tci-read-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(db, sizeof db, "%s/c i?#%%.db", folder); /* nothing in a path means anything */
  message[0] = '\0';
  step_order = 0;
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  chmod(folder, 0700);
  DIR *dir = opendir(folder);
  for (struct dirent *entry; (entry = readdir(dir));) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    unlink(path);
  }
  closedir(dir);
  return rmdir(folder);
}

static const char *beside(const char *suffix) {
  static char path[4][160];
  static unsigned next;
  char *out = path[next++ % 4];
  snprintf(out, sizeof path[0], "%s%s", db, suffix);
  return out;
}

/* Names and bytes of all files of the folder but SQLite's scratch file. */
static uint64_t fingerprint(void) {
  uint64_t sum = 0;
  DIR *dir = opendir(folder);
  for (struct dirent *entry; (entry = readdir(dir));) {
    size_t len = strlen(entry->d_name);
    if (entry->d_name[0] == '.' || (len > 4 && strcmp(entry->d_name + len - 4, "-shm") == 0)) continue;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    uint64_t hash = 1469598103934665603u;
    for (const char *c = entry->d_name; *c; c++) hash = (hash ^ (uint8_t)*c) * 1099511628211u;
    FILE *file = fopen(path, "rb");
    for (int c; (c = fgetc(file)) != EOF;) hash = (hash ^ (uint8_t)c) * 1099511628211u;
    fclose(file);
    sum += hash;
  }
  closedir(dir);
  return sum;
}

static tci_store *open_store(void) {
  tci_store *store;
  tci_status status = tci_store_open(&(tci_store_options){.path = db}, &store, message, sizeof message);
  if (status.code != TCI_OK) fail_msg("open: %s", status.message);
  return store;
}

/* One record of `changes` changes whose messages say `text`. */
static void append(tci_store *store, uint64_t plan, uint64_t sequence, int64_t wall_us, int changes, const char *text,
                   const char *plan_id) {
  tci_buf bytes = {0}, scratch = {0};
  tci_record_put_header(&bytes, wall_us, 1);
  tci_record_put_order(&bytes, step_order);
  for (int i = 0; i < changes; i++)
    tci_record_put_change(&bytes, &(tci_change){.type = TCI_CHANGE_PROGRESS, .message = tci_str_from(text)}, &scratch);
  tci_store_record record = {plan, sequence, tci_buf_str(&bytes), tci_str_from(plan_id), false};
  tci_status status = tci_store_append(store, &record, 1);
  if (status.code != TCI_OK) fail_msg("append: %s", status.message);
  tci_buf_deinit(&bytes);
  tci_buf_deinit(&scratch);
}

static void append_bytes(tci_store *store, uint64_t plan, uint64_t sequence, const char *bytes, const char *plan_id) {
  tci_store_record record = {plan, sequence, tci_str_from(bytes), tci_str_from(plan_id), false};
  assert_int_equal(tci_store_append(store, &record, 1).code, TCI_OK);
}

/* What a read gives, as text: "1/2 [p] one | 0/1 up | ". */
typedef struct {
  char text[4096];
  size_t len;
  int stop_after;
} told;

static bool tell(void *ctx, const tci_store_record *record) {
  told *t = ctx;
  tci_record_reader reader;
  tci_change change;
  assert_true(tci_record_open(record->bytes, &reader));
  assert_int_equal(tci_record_next(&reader, &change), 1);
  t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "%d/%d ", (int)record->plan_key,
                             (int)record->sequence);
  if (record->plan_id.len)
    t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "[%.*s] ", TCI_STR_ARG(record->plan_id));
  t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "%.*s | ", TCI_STR_ARG(change.message));
  return --t->stop_after != 0;
}

static void reads(const char *path, const char *text) {
  told t = {0};
  tci_status status = tci_store_read(path, tell, &t, message, sizeof message);
  if (status.code != TCI_OK) fail_msg("read: %s: %s", tci_code_name(status.code), status.message);
  assert_string_equal(t.text, text);
}

static void refuses(const char *path, tci_code code, const char *part, const char *part2) {
  told t = {0};
  tci_status status = tci_store_read(path, tell, &t, message, sizeof message);
  if (status.code != code) fail_msg("%s, not %s: %s", tci_code_name(status.code), tci_code_name(code), message);
  assert_ptr_equal(status.message, message);
  if (!strstr(message, part) || !strstr(message, part2)) fail_msg("\"%s\": %s, %s", message, part, part2);
}

static void sql(const char *path, const char *text) {
  sqlite3 *raw;
  assert_int_equal(sqlite3_open(path, &raw), SQLITE_OK);
  char *fault = NULL;
  if (sqlite3_exec(raw, text, NULL, NULL, &fault) != SQLITE_OK) fail_msg("%s", fault);
  sqlite3_close(raw);
}

static void copy_file(const char *from, const char *to) {
  FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
  assert_true(in && out);
  for (int c; (c = fgetc(in)) != EOF;) fputc(c, out);
  fclose(in);
  fclose(out);
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }

/* ---- the order ---- */

static void records_come_in_order_of_time_then_of_plans(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 2, 1, 200, 1, "late", "b");
  append(store, 1, 2, 100, 2, "early", "a");
  append(store, 0, 1, 200, 1, "runner", "");
  append(store, 1, 3, 200, 1, "also", "");
  append(store, 2, 4, 300, 3, "last", "");
  tci_store_close(store);
  reads(db, "1/2 [a] early | 0/1 runner | 1/3 also | 2/1 [b] late | 2/4 last | ");
}

static void steps_of_one_microsecond_come_in_their_order(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 2, 1, 100, 1, "first", "b");
  step_order = 1;
  append(store, 1, 1, 100, 1, "second", "a");
  append(store, 0, 1, 100, 1, "of the same step", "");
  step_order = 2;
  append(store, 2, 2, 100, 1, "third", "");
  step_order = 0; /* a restart, and a clock that stood still: never before what the plan had */
  append(store, 2, 3, 100, 1, "fourth", "");
  tci_store_close(store);
  reads(db, "2/1 [b] first | 0/1 of the same step | 1/1 [a] second | 2/2 third | 2/3 fourth | ");
}

static void a_clock_that_jumped_back_never_turns_a_plan_around(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1000, 1, "a1", "a");
  append(store, 1, 2, 400, 1, "a2", "");
  append(store, 2, 1, 500, 1, "b1", "b");
  append(store, 1, 3, 1001, 1, "a3", "");
  tci_store_close(store);
  reads(db, "2/1 [b] b1 | 1/1 [a] a1 | 1/2 a2 | 1/3 a3 | ");
}

static void an_empty_journal_has_no_records_and_a_visitor_may_stop(void **state) {
  (void)state;
  tci_store *store = open_store();
  tci_store_close(store);
  reads(db, "");
  store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  append(store, 1, 2, 2, 1, "two", "");
  tci_store_close(store);
  told t = {.stop_after = 1};
  assert_int_equal(tci_store_read(db, tell, &t, message, sizeof message).code, TCI_OK);
  assert_string_equal(t.text, "1/1 [a] one | ");
}

/* ---- nobody is disturbed ---- */

static void a_journal_at_rest_is_left_as_it_is(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  tci_store_close(store);
  uint64_t before = fingerprint();
  chmod(db, 0400);
  reads(db, "1/1 [a] one | ");
  assert_false(exists(beside("-wal")));
  assert_false(exists(beside("-shm")));
  assert_true(fingerprint() == before);
}

static void a_live_journal_is_read_beside_its_server(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  uint64_t before = fingerprint();
  reads(db, "1/1 [a] one | "); /* from the WAL: nothing was moved into the database yet */
  assert_true(fingerprint() == before);
  append(store, 1, 2, 2, 1, "two", "");
  reads(db, "1/1 [a] one | 1/2 two | ");
  tci_store_close(store);
  reads(db, "1/1 [a] one | 1/2 two | ");
}

typedef struct {
  told t;
  tci_store *store;
  uint64_t sequence;
} writing;

static bool write_meanwhile(void *ctx, const tci_store_record *record) {
  writing *w = ctx;
  append(w->store, 1, ++w->sequence, 1, 1, "meanwhile", "");
  return tell(&w->t, record);
}

static void a_reader_sees_one_moment_and_a_server_writes_on(void **state) {
  (void)state;
  writing w = {.store = open_store(), .sequence = 2};
  append(w.store, 1, 1, 1, 1, "one", "a");
  append(w.store, 1, 2, 2, 1, "two", "");
  tci_status status = tci_store_read(db, write_meanwhile, &w, message, sizeof message);
  assert_int_equal(status.code, TCI_OK);
  assert_string_equal(w.t.text, "1/1 [a] one | 1/2 two | ");
  tci_store_close(w.store);
}

enum { MANY = 1100, FAT_BYTES = 65536 };

typedef struct {
  tci_store *store;
  int seen;
  uint64_t sequence; /* of plan 2 */
  off_t wal_bytes;   /* the most there ever were */
} filling;

static bool fill_meanwhile(void *ctx, const tci_store_record *record) {
  static char fat[FAT_BYTES + 1];
  filling *f = ctx;
  f->seen++;
  assert_int_equal(record->sequence, f->seen);
  if (f->seen % 4) return true;
  memset(fat, 'x', FAT_BYTES);
  f->sequence++;
  append(f->store, 2, f->sequence, 1, 1, fat, f->sequence == 1 ? "b" : "");
  struct stat info;
  assert_int_equal(stat(beside("-wal"), &info), 0);
  if (info.st_size > f->wal_bytes) f->wal_bytes = info.st_size;
  return true;
}

/* 17 MiB are written meanwhile; a WAL that a reader holds would have all of them. */
static void a_reader_does_not_make_the_wal_of_a_server_grow(void **state) {
  (void)state;
  filling f = {.store = open_store()};
  tci_buf bytes[MANY] = {{0}}, scratch = {0};
  tci_store_record records[MANY];
  for (int i = 0; i < MANY; i++) {
    tci_record_put_header(&bytes[i], i + 1, 1);
    tci_record_put_change(&bytes[i], &(tci_change){.type = TCI_CHANGE_PROGRESS, .message = TCI_STR("x")}, &scratch);
    records[i] = (tci_store_record){1, (uint64_t)i + 1, tci_buf_str(&bytes[i]), {"a", i == 0}, false};
  }
  assert_int_equal(tci_store_append(f.store, records, MANY).code, TCI_OK);
  tci_status status = tci_store_read(db, fill_meanwhile, &f, message, sizeof message);
  if (status.code != TCI_OK) fail_msg("read: %s", status.message);
  assert_int_equal(f.seen, MANY);
  assert_true(f.wal_bytes < 8 << 20);
  tci_store_close(f.store);
  for (int i = 0; i < MANY; i++) tci_buf_deinit(&bytes[i]);
  tci_buf_deinit(&scratch);
}

static bool open_meanwhile(void *ctx, const tci_store_record *record) {
  (void)record;
  tci_store **store = ctx;
  *store = open_store();
  return true;
}

static void a_server_that_comes_meanwhile_is_noticed(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  tci_store_close(store);
  tci_status status = tci_store_read(db, open_meanwhile, &store, message, sizeof message);
  tci_store_close(store);
  assert_int_equal(status.code, TCI_UNAVAILABLE);
  assert_non_null(strstr(message, "try again"));
}

static void copies_are_read_with_and_without_their_wal(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  tci_store_close(store);
  store = open_store();
  append(store, 1, 2, 2, 1, "two", "");
  char copy[160], wal[170];
  snprintf(copy, sizeof copy, "%s/copy.db", folder);
  snprintf(wal, sizeof wal, "%s-wal", copy);
  copy_file(db, copy);
  reads(copy, "1/1 [a] one | ");
  copy_file(beside("-wal"), wal);
  tci_store_close(store);
  uint64_t before = fingerprint();
  reads(copy, "1/1 [a] one | 1/2 two | ");
  assert_true(fingerprint() == before);
}

/* ---- refused ---- */

static void what_is_no_journal_is_refused_by_name(void **state) {
  (void)state;
  refuses("", TCI_INVALID_ARGUMENT, "path", "empty");
  refuses(db, TCI_NOT_FOUND, db, "no such file");
  assert_false(exists(db));
  refuses(folder, TCI_INVALID_ARGUMENT, folder, "no regular file");
  FILE *file = fopen(db, "wb");
  fclose(file);
  refuses(db, TCI_FAILED_PRECONDITION, "no journal in it", "--db");
  file = fopen(db, "wb");
  for (int i = 0; i < 4096; i++) fputc("not a database "[i % 15], file);
  fclose(file);
  refuses(db, TCI_DATA_LOSS, "no SQLite database", "name another file");
  unlink(db);
  sql(db, "CREATE TABLE cats (name TEXT)");
  refuses(db, TCI_FAILED_PRECONDITION, "another program", "name another file");
}

static void a_file_that_cannot_be_read_is_refused(void **state) {
  (void)state;
  if (geteuid() == 0) skip(); /* may read everything */
  tci_store *store = open_store();
  tci_store_close(store);
  chmod(db, 0000);
  refuses(db, TCI_PERMISSION_DENIED, db, "cannot be read");
}

static void a_newer_schema_is_refused_naming_both_versions(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  tci_store_close(store);
  sql(db, "PRAGMA user_version = 7");
  refuses(db, TCI_FAILED_PRECONDITION, "version 7", "versions up to 2");
}

static void damage_is_found(void **state) {
  (void)state;
  tci_store *store = open_store();
  append(store, 1, 1, 1, 1, "one", "a");
  append(store, 1, 2, 2, 1, "two", "");
  append(store, 1, 3, 3, 1, "three", "");
  tci_store_close(store);
  sql(db, "UPDATE journal SET settled = 1 WHERE sequence = 3");
  refuses(db, TCI_DATA_LOSS, "sequence 3", "checksum");
  sql(db, "UPDATE journal SET settled = 0; DELETE FROM journal WHERE sequence = 2");
  refuses(db, TCI_DATA_LOSS, "sequence 3", "missing");
  sql(db, "DELETE FROM journal WHERE sequence = 3; DELETE FROM plan");
  refuses(db, TCI_DATA_LOSS, "plan 1", "no row");
}

static void records_of_an_unknown_form_are_refused(void **state) {
  (void)state;
  tci_store *store = open_store();
  append_bytes(store, 4, 1, "\x08\x02\x22\x00", "a"); /* format 2 */
  tci_store_close(store);
  refuses(db, TCI_DATA_LOSS, "plan 4, sequence 1", "cannot read");
}

int main(void) {
  tci_log_set_level(TCI_LOG_ERROR);
#define CLAIM(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
  const struct CMUnitTest tests[] = {
      CLAIM(records_come_in_order_of_time_then_of_plans),
      CLAIM(steps_of_one_microsecond_come_in_their_order),
      CLAIM(a_clock_that_jumped_back_never_turns_a_plan_around),
      CLAIM(an_empty_journal_has_no_records_and_a_visitor_may_stop),
      CLAIM(a_journal_at_rest_is_left_as_it_is),
      CLAIM(a_live_journal_is_read_beside_its_server),
      CLAIM(a_reader_sees_one_moment_and_a_server_writes_on),
      CLAIM(a_reader_does_not_make_the_wal_of_a_server_grow),
      CLAIM(a_server_that_comes_meanwhile_is_noticed),
      CLAIM(copies_are_read_with_and_without_their_wal),
      CLAIM(what_is_no_journal_is_refused_by_name),
      CLAIM(a_file_that_cannot_be_read_is_refused),
      CLAIM(a_newer_schema_is_refused_naming_both_versions),
      CLAIM(damage_is_found),
      CLAIM(records_of_an_unknown_form_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
