/* store: what was acknowledged is there again; what cannot be trusted is refused by name. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/vec.h"
#include "fault_vfs.h"
#include "store/store.h"

static char folder[64], db[96], message[1024];

/* ---- helpers ---- */

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/tci-store-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(db, sizeof db, "%s/ci.db", folder);
  message[0] = '\0';
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  fault_uninstall(); /* a test that failed half way must not fail the next one */
  static const char *const names[] = {"ci.db",  "ci.db-wal", "ci.db-shm", "ci.db.mark", "ci.db.lock",  "ci.db-journal",
                                      "old.db", "link.db",   "old.mark",  "moved.db",   "link.db.lock"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    unlink(path);
  }
  chmod(folder, 0700);
  return rmdir(folder);
}

static const char *beside(const char *suffix) {
  static char path[4][128];
  static unsigned next;
  char *out = path[next++ % 4];
  snprintf(out, sizeof path[0], "%s%s", db, suffix);
  return out;
}

static tci_status try_open(const char *path, int64_t free_bytes_min, tci_store **out) {
  return tci_store_open(&(tci_store_options){.path = path, .free_bytes_min = free_bytes_min}, out, message,
                        sizeof message);
}

static tci_store *open_store(const char *path) {
  tci_store *store;
  tci_status status = try_open(path, 0, &store);
  if (status.code != TCI_OK) fail_msg("open: %s: %s", tci_code_name(status.code), status.message);
  return store;
}

static void assert_contains(const char *text, const char *part) {
  if (!text || !strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text ? text : "(null)", part);
}

static void refuses_to_open(const char *path, tci_code code, const char *part, const char *part2) {
  tci_store *store = (tci_store *)1;
  tci_status status = try_open(path, 0, &store);
  if (status.code != code) fail_msg("%s, not %s: %s", tci_code_name(status.code), tci_code_name(code), status.message);
  assert_null(store);
  assert_ptr_equal(status.message, message);
  assert_contains(message, part);
  assert_contains(message, part2);
}

static tci_store_record record_of(uint64_t plan, uint64_t sequence, const char *bytes, const char *plan_id) {
  return (tci_store_record){plan, sequence, tci_str_from(bytes), tci_str_from(plan_id), false};
}

static void append(tci_store *store, tci_store_record record) {
  tci_status status = tci_store_append(store, &record, 1);
  if (status.code != TCI_OK) fail_msg("append: %s: %s", tci_code_name(status.code), status.message);
}

static void append_fails(tci_store *store, tci_store_record record, tci_code code, const char *part) {
  tci_status status = tci_store_append(store, &record, 1);
  if (status.code != code) fail_msg("%s, not %s: %s", tci_code_name(status.code), tci_code_name(code), status.message);
  assert_contains(status.message, part);
}

/* What a load gives, as text: "1 one [p] 2 two 3 three settled ". */
typedef struct {
  char text[4096];
  size_t len, stop_after;
  uint64_t plan;
} told;

static bool tell(void *ctx, const tci_store_record *record) {
  told *t = ctx;
  assert_int_equal(record->plan_key, t->plan);
  int n = snprintf(t->text + t->len, sizeof t->text - t->len, "%d %.*s ", (int)record->sequence,
                   TCI_STR_ARG(record->bytes));
  t->len += (size_t)n;
  if (record->plan_id.len)
    t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "[%.*s] ", TCI_STR_ARG(record->plan_id));
  if (record->settled) t->len += (size_t)snprintf(t->text + t->len, sizeof t->text - t->len, "settled ");
  return t->stop_after == 0 || --t->stop_after > 0;
}

static bool collect(void *ctx, const tci_store_record *record) {
  tci_buf_add(ctx, record->bytes);
  return true;
}

static void holds(tci_store *store, uint64_t plan, const char *text) {
  told t = {.plan = plan};
  tci_status status = tci_store_load(store, plan, tell, &t);
  if (status.code != TCI_OK) fail_msg("load: %s: %s", tci_code_name(status.code), status.message);
  assert_string_equal(t.text, text);
}

static void load_fails(tci_store *store, uint64_t plan, tci_code code, const char *part, const char *part2) {
  told t = {.plan = plan};
  tci_status status = tci_store_load(store, plan, tell, &t);
  assert_int_equal(status.code, code);
  assert_contains(status.message, part);
  assert_contains(status.message, part2);
}

static void open_plans_are(tci_store *store, const char *text) {
  uint64_t *keys;
  size_t len;
  assert_int_equal(tci_store_open_plans(store, &keys, &len).code, TCI_OK);
  char list[256] = "";
  for (size_t i = 0; i < len; i++) snprintf(list + strlen(list), sizeof list - strlen(list), "%d ", (int)keys[i]);
  free(keys);
  assert_string_equal(list, text);
}

static uint64_t find(tci_store *store, const char *id) {
  uint64_t key = 99;
  assert_int_equal(tci_store_find(store, tci_str_from(id), &key).code, TCI_OK);
  return key;
}

static tci_buf read_file(const char *path) {
  tci_buf out = {0};
  int fd = open(path, O_RDONLY);
  if (fd < 0) return out;
  ssize_t n;
  while ((n = read(fd, tci_buf_reserve(&out, 65536), 65536)) > 0) out.len += (size_t)n;
  close(fd);
  return out;
}

static void write_file(const char *path, tci_str bytes) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, bytes.ptr, bytes.len), bytes.len);
  close(fd);
}

static void copy_file(const char *from, const char *to) {
  tci_buf bytes = read_file(from);
  write_file(to, tci_buf_str(&bytes));
  tci_buf_deinit(&bytes);
}

/* Finds `part` in a file and flips the lowest bit of its first byte. */
static void flip_bit(const char *path, const char *part) {
  tci_buf bytes = read_file(path);
  char *at = memmem(bytes.ptr, bytes.len, part, strlen(part));
  assert_non_null(at);
  *at ^= 1;
  write_file(path, tci_buf_str(&bytes));
  tci_buf_deinit(&bytes);
}

/* Past the store's back. */
static void sql(const char *path, const char *text) {
  sqlite3 *raw;
  assert_int_equal(sqlite3_open(path, &raw), SQLITE_OK);
  char *fault_text = NULL;
  if (sqlite3_exec(raw, text, NULL, NULL, &fault_text) != SQLITE_OK) fail_msg("%s", fault_text);
  sqlite3_close(raw);
}

/* Children end by kill -9, from outside: nothing is closed or flushed, and no leak checker asks what they still held.
 * A child says how far it got through its pipe, numbers from 1 on; 0 asks for the end. */
static int progress_fd;

static void tell_progress(uint64_t number) {
  if (write(progress_fd, &number, sizeof number) != sizeof number) _exit(99);
}

static void ask_to_be_killed(void) {
  tell_progress(0);
  for (;;) pause();
}

/* Returns the last number told by the child (0: none), which is dead then. One that exits by itself has failed. */
static uint64_t in_child(void (*body)(void)) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    progress_fd = ends[1];
    body();
    ask_to_be_killed();
  }
  close(ends[1]);
  uint64_t last = 0, number = 1;
  while (number != 0 && read(ends[0], &number, sizeof number) == sizeof number) last = number ? number : last;
  close(ends[0]);
  if (number == 0) kill(pid, SIGKILL);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
    fail_msg("the child ended with status %#x", (unsigned)status);
  return last;
}

/* For children: no cmocka there. */
static tci_store *child_open(void) {
  tci_store *store;
  if (try_open(db, 0, &store).code != TCI_OK) _exit(2);
  return store;
}

static void child_append(tci_store *store, tci_store_record record) {
  if (tci_store_append(store, &record, 1).code != TCI_OK) _exit(3);
}

/* ---- what is written is there ---- */

static void records_come_back_in_order_whole_and_by_plan(void **state) {
  (void)state;
  const char *paths[] = {db, ":memory:"};
  for (size_t i = 0; i < 2; i++) {
    tci_store *store = open_store(paths[i]);
    tci_store_record first[] = {record_of(1, 2, "one", "plan-a"), record_of(2, 1, "uno", "plan-b"),
                                record_of(0, 1, "runner", "")};
    assert_int_equal(tci_store_append(store, first, 3).code, TCI_OK);
    tci_store_record second[] = {record_of(2, 7, "due", ""), record_of(1, 9, "two", ""), record_of(1, 10, "three", "")};
    second[2].settled = true;
    assert_int_equal(tci_store_append(store, second, 3).code, TCI_OK);
    if (i == 0) {
      tci_store_close(store);
      store = open_store(db);
    }
    holds(store, 0, "1 runner ");
    holds(store, 1, "2 one [plan-a] 9 two 10 three settled ");
    holds(store, 2, "1 uno [plan-b] 7 due ");
    holds(store, 3, "");
    tci_store_close(store);
  }
}

static void bytes_are_bytes_empty_binary_or_large(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  size_t len = 3000000;
  char *large = tci_malloc(len);
  for (size_t i = 0; i < len; i++) large[i] = (char)(i * 7 >> 3);
  tci_store_record records[] = {{1, 1, {NULL, 0}, TCI_STR("p"), false},
                                {1, 2, {"\0\xff\0", 3}, {NULL, 0}, false},
                                {1, 3, {large, len}, {NULL, 0}, false}};
  assert_int_equal(tci_store_append(store, records, 3).code, TCI_OK);
  tci_store_counters count = tci_store_count(store);
  assert_int_equal(count.commits, 1);
  assert_int_equal(count.records, 3);
  assert_int_equal(count.journal_bytes, 3000003);
  tci_store_close(store);
  store = open_store(db);
  assert_int_equal(tci_store_count(store).records, 0);
  tci_buf seen = {0};
  assert_int_equal(tci_store_load(store, 1, collect, &seen).code, TCI_OK);
  assert_int_equal(seen.len, len + 3);
  assert_memory_equal(seen.ptr, "\0\xff\0", 3);
  assert_memory_equal(seen.ptr + 3, large, len);
  tci_buf_deinit(&seen);
  free(large);
  tci_store_close(store);
}

static void a_visitor_may_stop(void **state) {
  (void)state;
  tci_store *store = open_store(":memory:");
  append(store, record_of(1, 1, "one", "p"));
  append(store, record_of(1, 2, "two", ""));
  told t = {.plan = 1, .stop_after = 1};
  assert_int_equal(tci_store_load(store, 1, tell, &t).code, TCI_OK);
  assert_string_equal(t.text, "1 one [p] ");
  holds(store, 1, "1 one [p] 2 two ");
  tci_store_close(store);
}

static void plans_are_found_by_their_exact_id(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  uint64_t max = 9;
  assert_int_equal(tci_store_max_key(store, &max).code, TCI_OK);
  assert_int_equal(max, 0);
  append(store, record_of(3, 1, "x", "Build"));
  append(store, record_of(8, 1, "x", "build"));
  append(store, record_of(5, 1, "x", "build "));
  assert_int_equal(find(store, "Build"), 3);
  assert_int_equal(find(store, "build"), 8);
  assert_int_equal(find(store, "build "), 5);
  assert_int_equal(find(store, "BUILD"), 0);
  assert_int_equal(find(store, ""), 0);
  assert_int_equal(tci_store_max_key(store, &max).code, TCI_OK);
  assert_int_equal(max, 8);
  tci_store_close(store);
}

static void settled_plans_are_not_among_the_open_ones_until_they_are_active_again(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  open_plans_are(store, "");
  append(store, record_of(2, 1, "x", "b"));
  append(store, record_of(1, 1, "x", "a"));
  append(store, record_of(3, 1, "x", "c"));
  open_plans_are(store, "1 2 3 ");
  tci_store_record settled = record_of(2, 2, "y", "");
  settled.settled = true;
  append(store, settled);
  append(store, record_of(1, 2, "y", ""));
  open_plans_are(store, "1 3 ");
  tci_store_close(store);
  store = open_store(db);
  open_plans_are(store, "1 3 ");
  append(store, record_of(2, 3, "z", ""));
  open_plans_are(store, "1 2 3 ");
  holds(store, 2, "1 x [b] 2 y settled 3 z ");
  tci_store_close(store);
}

static void a_commit_is_one_fsync_however_many_records(void **state) {
  (void)state;
  fault_install();
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "x", "p")); /* the WAL's own head is synced with the first one */
  for (uint64_t n = 1; n <= 64; n *= 8) {
    tci_store_record records[64];
    for (uint64_t i = 0; i < n; i++) records[i] = record_of(1, 100 * n + i, "some bytes", "");
    fault_arm(FAULT_SYNC, FAULT_ANY_FILE, 0, 0, false);
    assert_int_equal(tci_store_append(store, records, n).code, TCI_OK);
    assert_int_equal(fault.seen, 1);
  }
  assert_int_equal(tci_store_append(store, NULL, 0).code, TCI_OK);
  assert_int_equal(fault.seen, 1);
  fault_disarm();
  tci_store_close(store);
  fault_uninstall();
}

static void an_append_to_one_plan_writes_three_pages(void **state) {
  (void)state;
  fault_install();
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "x", "p"));
  append(store, record_of(1, 2, "x", ""));
  fault_arm(FAULT_WRITE, FAULT_ANY_FILE, 0, 0, false);
  append(store, record_of(1, 3, "x", ""));
  assert_int_equal(fault.seen,
                   3 * 2); /* the journal's page, the plan's and meta's; a head and a body each in the WAL */
  tci_store_close(store);
  fault_uninstall();
}

static void the_files_are_for_their_owner_only(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "x", "p"));
  const char *suffixes[] = {"", "-wal", ".mark", ".lock"};
  for (size_t i = 0; i < 4; i++) {
    struct stat info;
    assert_int_equal(stat(beside(suffixes[i]), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
  }
  tci_store_close(store);
}

/* ---- refused paths ---- */

static void without_privileges(void) {
  if (geteuid() == 0 && setuid(65534) != 0) _exit(4);
  tci_store *store;
  if (try_open(db, 0, &store).code != TCI_PERMISSION_DENIED) _exit(5);
  if (!strstr(message, folder) || !strstr(message, "cannot be written")) _exit(6);
}

static void read_only_file(void) {
  if (geteuid() == 0 && setuid(65534) != 0) _exit(4);
  tci_store *store;
  if (try_open(db, 0, &store).code != TCI_PERMISSION_DENIED) _exit(7);
  if (!strstr(message, "check its mode and owner")) _exit(8);
}

static void bad_paths_are_refused_by_name(void **state) {
  (void)state;
  char path[8192];
  refuses_to_open("", TCI_INVALID_ARGUMENT, "path is empty", "name a file");
  refuses_to_open(NULL, TCI_INVALID_ARGUMENT, "path is empty", "name a file");
  refuses_to_open(folder, TCI_INVALID_ARGUMENT, folder, "is a directory");
  snprintf(path, sizeof path, "%s/none/", folder);
  refuses_to_open(path, TCI_INVALID_ARGUMENT, path, "names no file");
  snprintf(path, sizeof path, "%s/none/ci.db", folder);
  refuses_to_open(path, TCI_FAILED_PRECONDITION, "/none", "create it");
  refuses_to_open("/dev/null", TCI_INVALID_ARGUMENT, "/dev/null", "not a regular file");
  memset(path, 'x', sizeof path - 1);
  path[sizeof path - 1] = '\0';
  refuses_to_open(path, TCI_INVALID_ARGUMENT, "longer than 4095 bytes", "");
  snprintf(path, sizeof path, "%s/link.db", folder);
  assert_int_equal(symlink("nowhere/at/all", path), 0);
  refuses_to_open(path, TCI_INVALID_ARGUMENT, path, "leads nowhere");
  tci_store *store;
  assert_int_equal(try_open(db, -1, &store).code, TCI_INVALID_ARGUMENT);
  assert_contains(message, "free_bytes_min");
  assert_int_equal(access(db, F_OK), -1);
}

static void folders_and_files_that_cannot_be_written_are_refused(void **state) {
  (void)state;
  assert_int_equal(chmod(folder, 0555), 0);
  in_child(without_privileges);
  assert_int_equal(chmod(folder, 0777), 0);
  tci_store_close(open_store(db));
  assert_int_equal(unlink(beside(".lock")), 0); /* nothing but the database itself is in the way */
  assert_int_equal(unlink(beside(".mark")), 0);
  assert_int_equal(chmod(db, 0444), 0);
  in_child(read_only_file);
}

/* ---- one process at a time ---- */

static void open_what_is_held(void) {
  char holder[64];
  snprintf(holder, sizeof holder, "process %ld", (long)getppid());
  tci_store *second;
  if (try_open(db, 0, &second).code != TCI_FAILED_PRECONDITION) _exit(5);
  if (!strstr(message, holder)) _exit(6);
}

static void a_second_opener_is_told_who_holds_the_file(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  char holder[64];
  snprintf(holder, sizeof holder, "process %ld", (long)getpid());
  refuses_to_open(db, TCI_FAILED_PRECONDITION, holder, "stop it"); /* this very process */
  in_child(open_what_is_held);

  char name[128]; /* another name of the same file is the same file */
  snprintf(name, sizeof name, "%s/link.db", folder);
  assert_int_equal(symlink(db, name), 0);
  refuses_to_open(name, TCI_FAILED_PRECONDITION, holder, db);
  append(store, record_of(1, 1, "still mine", "p"));
  tci_store_close(store);
  store = open_store(name);
  holds(store, 1, "1 still mine [p] ");
  tci_store_close(store);
}

static void lock_and_die(void) { child_append(child_open(), record_of(1, 1, "x", "p")); }

static void a_dead_process_holds_nothing(void **state) {
  (void)state;
  in_child(lock_and_die);
  tci_store *store = open_store(db);
  holds(store, 1, "1 x [p] ");
  tci_store_close(store);
}

/* ---- files that are not to be trusted ---- */

static void other_databases_are_refused_and_left_alone(void **state) {
  (void)state;
  sql(db, "CREATE TABLE accounts (id, money)");
  tci_buf before = read_file(db);
  refuses_to_open(db, TCI_FAILED_PRECONDITION, "another program", "another file");
  tci_buf after = read_file(db);
  assert_true(tci_str_eq(tci_buf_str(&before), tci_buf_str(&after)));
  tci_buf_deinit(&before);
  tci_buf_deinit(&after);
  write_file(db,
             TCI_STR("name = value, or some other text file that is no database at all, and long enough for a head\n"
                     "name = value, or some other text file that is no database at all, and long enough for a head"));
  refuses_to_open(db, TCI_DATA_LOSS, db, "it is no SQLite database");
}

static void a_newer_schema_is_refused_naming_both_versions(void **state) {
  (void)state;
  tci_store_close(open_store(db));
  sql(db, "PRAGMA user_version = 7");
  refuses_to_open(db, TCI_FAILED_PRECONDITION, "version 7", "versions up to 2");
  sql(db, "PRAGMA user_version = 2");
  tci_store_close(open_store(db));
  sql(db, "PRAGMA user_version = 0");
  refuses_to_open(db, TCI_DATA_LOSS, "corrupt", "version 0");
}

static void a_corrupt_page_is_refused(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  for (uint64_t i = 1; i <= 300; i++)
    append(store, record_of(1, i, "a record of some length, to fill pages with", i == 1 ? "p" : ""));
  tci_store_close(store);
  tci_buf bytes = read_file(db);
  assert_true(bytes.len >= 8 * 4096);
  memset(bytes.ptr + 6 * 4096, 0xff, 4096);
  write_file(db, tci_buf_str(&bytes));
  tci_buf_deinit(&bytes);
  refuses_to_open(db, TCI_DATA_LOSS, "corrupt", "restore the journal");
}

static void a_flipped_bit_in_a_row_is_found_when_it_is_loaded(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(4, 1, "whole", "p"));
  append(store, record_of(4, 17, "brittle", ""));
  append(store, record_of(5, 1, "elsewhere", "q"));
  tci_store_close(store);
  flip_bit(db, "brittle");
  store = open_store(db); /* SQLite sees nothing wrong */
  load_fails(store, 4, TCI_DATA_LOSS, "plan 4, sequence 17", "checksum");
  holds(store, 5, "1 elsewhere [q] ");
  tci_store_close(store);
}

static void a_row_in_the_place_of_another_is_found(void **state) {
  (void)state;
  const struct {
    const char *harm, *part;
  } rows[] = {
      {"UPDATE journal SET sequence = 3 WHERE sequence = 2", "plan 1, sequence 3"},
      {"UPDATE journal SET plan_key = 0 WHERE sequence = 2", NULL},
      {"UPDATE journal SET settled = 1 WHERE sequence = 2", "plan 1, sequence 2"},
      {"UPDATE plan SET settled = 1", "plan 1: its row"},
      {"UPDATE plan SET id = 'q'", "plan 1: its row"},
      {"DELETE FROM plan", "no row in the table of plans"},
      {"DELETE FROM journal WHERE plan_key = 1", "no records"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    unlink(db);
    unlink(beside(".mark"));
    tci_store *store = open_store(db);
    append(store, record_of(1, 1, "a", "p"));
    append(store, record_of(1, 2, "b", ""));
    tci_store_close(store);
    sql(db, rows[i].harm);
    store = open_store(db);
    uint64_t *keys, key;
    size_t len;
    if (rows[i].part)
      load_fails(store, 1, TCI_DATA_LOSS, rows[i].part, "backup");
    else
      load_fails(store, 0, TCI_DATA_LOSS, "plan 0, sequence 2", "checksum");
    bool row_lost = strstr(rows[i].harm, "DELETE FROM plan") != NULL;
    assert_int_equal(tci_store_open_plans(store, &keys, &len).code, row_lost ? TCI_DATA_LOSS : TCI_OK);
    assert_int_equal(len, row_lost ? 0 : 1); /* a row that cannot be trusted is one of an open plan */
    free(keys);
    char name[32];
    tci_store_name(store, 1, name, sizeof name);
    bool row_harmed = strstr(rows[i].harm, "UPDATE plan") != NULL;
    assert_string_equal(name, row_lost || row_harmed ? "#1" : "p");
    if (row_harmed) assert_int_equal(tci_store_find(store, TCI_STR("q"), &key).code, i == 4 ? TCI_DATA_LOSS : TCI_OK);
    assert_false(tci_store_is_lost(store));
    tci_store_close(store);
  }
}

/* Two plans; the last appends are one to each, and one to the runners. */
static void two_plans(void) {
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  append(store, record_of(2, 1, "c", "q"));
  append(store, record_of(0, 1, "r", ""));
  tci_store_record records[] = {record_of(1, 2, "b", ""), record_of(2, 2, "d", ""), record_of(0, 2, "s", "")};
  records[1].settled = true;
  assert_int_equal(tci_store_append(store, records, 3).code, TCI_OK);
  tci_store_close(store);
}

static void a_lost_record_at_the_end_is_noticed_whoever_it_belongs_to(void **state) {
  (void)state;
  two_plans();
  sql(db, "DELETE FROM journal WHERE sequence = 2");
  tci_store *store = open_store(db);
  for (uint64_t plan = 0; plan <= 2; plan++) {
    char part[16];
    snprintf(part, sizeof part, "plan %d", (int)plan);
    load_fails(store, plan, TCI_DATA_LOSS, part, "its last record is not the one");
  }
  assert_false(tci_store_is_lost(store));
  tci_store_close(store);
}

/* A disk that says "written" and keeps the old page. What the row says and what the journal holds are on two pages. */
static void a_page_that_was_never_written_is_noticed(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  append(store, record_of(2, 1, "x", "q"));
  tci_store_close(store);
  tci_buf before = read_file(db);
  store = open_store(db);
  append(store, record_of(1, 2, "b", ""));
  append(store, record_of(3, 1, "c", "r"));
  tci_store_close(store);
  tci_buf after = read_file(db);
  size_t lost = 0;
  for (size_t page = 0; page < before.len / 4096; page++) {
    if (memcmp(before.ptr + page * 4096, after.ptr + page * 4096, 4096) == 0) continue;
    if (page == 0) continue; /* SQLite's own head */
    tci_buf damaged = {0};
    tci_buf_add(&damaged, tci_buf_str(&after));
    memcpy(damaged.ptr + page * 4096, before.ptr + page * 4096, 4096);
    write_file(db, tci_buf_str(&damaged));
    tci_buf_deinit(&damaged);
    lost++;
    tci_store *opened = NULL;
    if (try_open(db, 0, &opened).code == TCI_DATA_LOSS) continue; /* meta's: behind its watermark */
    uint64_t *keys = NULL, key = 0;
    size_t len;
    bool noticed = tci_store_open_plans(opened, &keys, &len).code == TCI_DATA_LOSS;
    for (uint64_t plan = 0; plan <= 3 && !noticed; plan++) {
      told t = {.plan = plan};
      noticed = tci_store_load(opened, plan, tell, &t).code == TCI_DATA_LOSS;
    }
    /* Or it was the index of ids, which was mended. */
    if (!noticed) {
      assert_int_equal(tci_store_find(opened, TCI_STR("r"), &key).code, TCI_OK);
      assert_int_equal(key, 3);
      holds(opened, 1, "1 a [p] 2 b ");
      holds(opened, 3, "1 c [r] ");
    }
    free(keys);
    tci_store_close(opened);
  }
  assert_true(lost >= 4); /* the journal's, the plans', their index's, meta's */
  tci_buf_deinit(&before);
  tci_buf_deinit(&after);
}

/* The index of ids is made again from the rows, but the id of a damaged row may be right in the index alone. */
static void the_id_of_a_damaged_row_is_still_known(void **state) {
  (void)state;
  const char id[] = "the-name-of-a-plan";
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", id));
  append(store, record_of(2, 1, "b", "other"));
  tci_store_close(store);
  tci_buf whole = read_file(db);
  const char *at = whole.ptr;
  int places = 0;
  while ((at = memmem(at, whole.len - (size_t)(at - whole.ptr), id, strlen(id)))) {
    tci_buf damaged = {0};
    tci_buf_add(&damaged, tci_buf_str(&whole));
    damaged.ptr[at++ - whole.ptr] ^= 1;
    write_file(db, tci_buf_str(&damaged));
    tci_buf_deinit(&damaged);
    store = open_store(db);
    open_plans_are(store, "1 2 ");
    uint64_t key;
    tci_status status = tci_store_find(store, tci_str_from(id), &key);
    assert_true(status.code == TCI_DATA_LOSS || (status.code == TCI_OK && key == 1));
    assert_int_equal(find(store, "other"), 2);
    assert_false(tci_store_is_lost(store));
    tci_store_close(store);
    places++;
  }
  assert_true(places >= 2); /* the row and the index */
  tci_buf_deinit(&whole);
}

/* The page with the row is from a time when the plan was settled; it has work left since. */
static void a_plan_with_work_left_does_not_sleep_because_its_row_went_back(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  tci_store_record settled = record_of(1, 1, "a", "p");
  settled.settled = true;
  append(store, settled);
  settled = record_of(2, 1, "b", "q");
  settled.settled = true;
  append(store, settled);
  tci_store_close(store);
  char old[128], back[400];
  snprintf(old, sizeof old, "%s/old.db", folder);
  copy_file(db, old);
  store = open_store(db);
  append(store, record_of(1, 2, "more", ""));
  settled = record_of(2, 2, "more, and settled again", "");
  settled.settled = true;
  append(store, settled);
  tci_store_close(store);
  snprintf(back, sizeof back,
           "ATTACH '%s' AS old; UPDATE plan SET (settled, sequence, checksum) ="
           " (SELECT settled, sequence, checksum FROM old.plan AS o WHERE o.key = plan.key)",
           old);
  sql(db, back);
  store = open_store(db);
  open_plans_are(store, "1 "); /* and not 2: of a settled plan it is told when somebody reads it */
  load_fails(store, 1, TCI_DATA_LOSS, "plan 1", "its last record is not the one");
  load_fails(store, 2, TCI_DATA_LOSS, "plan 2", "its last record is not the one");
  tci_store_close(store);
}

/* The page is from a time before some of its rows moved to a new one: both have them. */
static void append_to_all(uint64_t first, uint64_t last) {
  tci_store *store = open_store(db);
  char text[400];
  memset(text, 'x', sizeof text);
  for (uint64_t sequence = first; sequence <= last; sequence++)
    for (uint64_t plan = 1; plan <= 8; plan++) {
      char id[] = {(char)('a' + plan), '\0'};
      append(store,
             (tci_store_record){
                 plan, sequence, {text, sizeof text}, sequence == 1 ? tci_str_from(id) : (tci_str){NULL, 0}, false});
    }
  tci_store_close(store);
}

static void a_page_that_was_split_since_is_refused(void **state) {
  (void)state;
  append_to_all(1, 4);
  tci_buf before = read_file(db);
  append_to_all(5, 12);
  tci_buf after = read_file(db);
  int out_of_order = 0;
  for (size_t at = 4096; at < before.len; at += 4096) {
    tci_buf damaged = {0};
    tci_buf_add(&damaged, tci_buf_str(&after));
    memcpy(damaged.ptr + at, before.ptr + at, 4096);
    write_file(db, tci_buf_str(&damaged));
    tci_buf_deinit(&damaged);
    message[0] = '\0';
    tci_store *store;
    if (try_open(db, 0, &store).code == TCI_OK) tci_store_close(store);
    out_of_order += strstr(message, "out of order: check the disk") != NULL;
  }
  assert_true(out_of_order > 0);
  tci_buf_deinit(&before);
  tci_buf_deinit(&after);
}

static void a_plan_after_which_there_can_be_none_is_refused(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  tci_store_close(store);
  sql(db, "UPDATE plan SET key = 9223372036854775807");
  store = open_store(db);
  uint64_t max;
  tci_status status = tci_store_max_key(store, &max);
  assert_int_equal(status.code, TCI_DATA_LOSS);
  assert_contains(status.message, "after which there can be none");
  assert_false(tci_store_is_lost(store));
  tci_store_close(store);
}

static void what_is_left_of_a_damaged_plan_can_be_salvaged(void **state) {
  (void)state;
  two_plans();
  sql(db, "UPDATE plan SET id = 'z' WHERE key = 2");
  tci_store *store = open_store(db);
  append(store, record_of(1, 3, "brittle", ""));
  append(store, record_of(1, 4, "e", ""));
  tci_store_close(store);
  flip_bit(db, "brittle");
  store = open_store(db);
  load_fails(store, 1, TCI_DATA_LOSS, "plan 1, sequence 3", "checksum");
  told t = {.plan = 1};
  size_t damaged;
  assert_int_equal(tci_store_salvage(store, 1, tell, &t, &damaged).code, TCI_OK);
  assert_string_equal(t.text, "1 a 2 b 4 e ");
  assert_int_equal(damaged, 1);
  open_plans_are(store, "1 "); /* the last record of the other one says that it is settled */
  tci_store_close(store);
}

/* As version 1 wrote it: nothing says what there must be. One row was harmed before. */
static void a_journal_of_the_first_schema_is_brought_up_to_date(void **state) {
  (void)state;
  two_plans();
  sql(db,
      "UPDATE meta SET commits = commits; ALTER TABLE meta DROP COLUMN plans; ALTER TABLE meta DROP COLUMN sequence;"
      "ALTER TABLE plan DROP COLUMN sequence; PRAGMA user_version = 1");
  sqlite3 *raw;
  assert_int_equal(sqlite3_open(db, &raw), SQLITE_OK);
  for (sqlite3_int64 key = 1; key <= 2; key++) {
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_prepare_v2(raw, "UPDATE plan SET checksum = ?1 WHERE key = ?2", -1, &row, NULL),
                     SQLITE_OK);
    uint64_t sum = tci_siphash((uint64_t)key * 2 + (key == 2), UINT64_MAX, key == 1 ? TCI_STR("p") : TCI_STR("q"));
    sqlite3_bind_int64(row, 1, (sqlite3_int64)sum + (key == 2)); /* harmed */
    sqlite3_bind_int64(row, 2, key);
    assert_int_equal(sqlite3_step(row), SQLITE_DONE);
    sqlite3_finalize(row);
  }
  sqlite3_close(raw);
  tci_store *store = open_store(db);
  holds(store, 0, "1 r 2 s ");
  holds(store, 1, "1 a [p] 2 b ");
  load_fails(store, 2, TCI_DATA_LOSS, "plan 2: its row", "checksum");
  append(store, record_of(1, 3, "more", ""));
  holds(store, 1, "1 a [p] 2 b 3 more ");
  open_plans_are(store, "1 ");
  tci_store_close(store);
}

static void whether_an_append_may_succeed_is_known_before(void **state) {
  (void)state;
  tci_store *store;
  assert_int_equal(try_open(db, 1, &store).code, TCI_OK);
  append(store, record_of(1, 1, "x", "p"));
  assert_int_equal(tci_store_ready(store).code, TCI_OK);
  tci_store_close(store);
  assert_int_equal(try_open(db, INT64_MAX / 2, &store).code, TCI_OK);
  tci_status status = tci_store_ready(store);
  assert_int_equal(status.code, TCI_RESOURCE_EXHAUSTED);
  assert_contains(status.message, "free some disk space");
  assert_int_equal(tci_store_ready(store).code, TCI_RESOURCE_EXHAUSTED);
  assert_false(tci_store_is_lost(store));
  tci_store_close(store);
}

/* ---- the watermark ---- */

static void a_journal_behind_its_watermark_is_refused(void **state) {
  (void)state;
  char old[128];
  snprintf(old, sizeof old, "%s/old.db", folder);
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  tci_store_close(store);
  copy_file(db, old);
  store = open_store(db);
  append(store, record_of(1, 2, "b", ""));
  append(store, record_of(1, 3, "c", ""));
  tci_store_close(store);
  copy_file(old, db);
  refuses_to_open(db, TCI_DATA_LOSS, "3 commits were acknowledged and it holds 1", ".mark to accept the loss");
  refuses_to_open(db, TCI_DATA_LOSS, "3 commits were acknowledged and it holds 1", "older copy"); /* and again */
  assert_int_equal(unlink(beside(".mark")), 0);
  store = open_store(db); /* accepted: it counts on from here */
  holds(store, 1, "1 a [p] ");
  append(store, record_of(1, 2, "B", ""));
  tci_store_close(store);
  copy_file(old, db);
  refuses_to_open(db, TCI_DATA_LOSS, "2 commits were acknowledged and it holds 1", "");
}

static void append_four_and_die(void) {
  tci_store *store = child_open();
  child_append(store, record_of(1, 1, "first", "p"));
  child_append(store, record_of(1, 2, "second", ""));
  child_append(store, record_of(1, 3, "third-in-the-wal", ""));
  child_append(store, record_of(1, 4, "fourth", ""));
}

static void a_flipped_bit_in_the_wal_is_refused_and_the_wal_kept(void **state) {
  (void)state;
  in_child(append_four_and_die);
  flip_bit(beside("-wal"), "third-in-the-wal");
  tci_buf before = read_file(beside("-wal"));
  refuses_to_open(db, TCI_DATA_LOSS, "4 commits were acknowledged and it holds 2", "-wal file is damaged");
  tci_buf after = read_file(beside("-wal"));
  assert_true(before.len > 0 && tci_str_eq(tci_buf_str(&before), tci_buf_str(&after)));
  tci_buf_deinit(&after);
  before.ptr[(char *)memmem(before.ptr, before.len, "uhird", 5) - before.ptr] ^= 1; /* the operator repairs it */
  write_file(beside("-wal"), tci_buf_str(&before));
  tci_buf_deinit(&before);
  tci_store *store = open_store(db);
  holds(store, 1, "1 first [p] 2 second 3 third-in-the-wal 4 fourth ");
  tci_store_close(store);
}

static void a_lost_wal_is_refused(void **state) {
  (void)state;
  in_child(append_four_and_die);
  assert_int_equal(unlink(beside("-wal")), 0);
  refuses_to_open(db, TCI_DATA_LOSS, "4 commits were acknowledged and it holds 0", "-wal file is damaged or missing");
}

static void a_lost_or_foreign_journal_is_refused(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  tci_store_close(store);
  char old[128];
  snprintf(old, sizeof old, "%s/old.mark", folder);
  copy_file(beside(".mark"), old);
  unlink(db);
  refuses_to_open(db, TCI_DATA_LOSS, "journal is gone", "remembers 1 commits");
  assert_int_equal(access(db, F_OK), -1);
  unlink(beside(".mark"));
  store = open_store(db); /* another one */
  append(store, record_of(1, 1, "a", "p"));
  tci_store_close(store);
  copy_file(old, beside(".mark"));
  refuses_to_open(db, TCI_DATA_LOSS, "of another journal", "delete");
  unlink(db);
  unlink(beside(".mark"));
  write_file(beside("-wal"), TCI_STR("what was written last"));
  refuses_to_open(db, TCI_DATA_LOSS, "write-ahead log is there", "put it back");
  assert_int_equal(access(beside("-wal"), F_OK), 0);
}

static void a_watermark_may_be_missing_or_torn_but_not_garbage(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  append(store, record_of(1, 2, "b", ""));
  tci_store_close(store);
  unlink(beside(".mark"));
  tci_store_close(open_store(db));
  tci_buf mark = read_file(beside(".mark")); /* made again */
  assert_int_equal(mark.len, 1024);
  write_file(beside(".mark"), TCI_STR(""));
  tci_store_close(open_store(db));
  for (size_t slot = 0; slot < 1024; slot += 512) { /* one slot torn: the other one still guards */
    tci_buf torn = {0};
    tci_buf_add(&torn, tci_buf_str(&mark));
    memset(torn.ptr + slot + 20, 0x55, 8);
    write_file(beside(".mark"), tci_buf_str(&torn));
    tci_store_close(open_store(db));
    tci_buf_deinit(&torn);
  }
  memset(mark.ptr, 0x55, mark.len);
  write_file(beside(".mark"), tci_buf_str(&mark));
  refuses_to_open(db, TCI_DATA_LOSS, ".mark is damaged", "delete the file");
  tci_buf_deinit(&mark);
}

static void the_slots_of_the_watermark_are_written_in_turn(void **state) {
  (void)state;
  in_child(append_four_and_die);
  tci_buf mark = read_file(beside(".mark"));
  assert_int_equal(mark.ptr[24], 4); /* the low byte of the number of commits */
  assert_int_equal(mark.ptr[512 + 24], 3);
  tci_buf_deinit(&mark);
}

/* ---- faults while it runs ---- */

static void too_little_free_disk_refuses_appends_but_not_reads(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  tci_store_close(store);
  assert_int_equal(try_open(db, INT64_MAX, &store).code, TCI_OK);
  append_fails(store, record_of(1, 2, "b", ""), TCI_RESOURCE_EXHAUSTED, "must stay free");
  append_fails(store, record_of(1, 2, "b", ""), TCI_RESOURCE_EXHAUSTED, "must stay free");
  holds(store, 1, "1 a [p] ");
  assert_int_equal(find(store, "p"), 1);
  assert_int_equal(tci_store_count(store).commits, 0);
  tci_store_close(store);
}

static void a_full_disk_writes_nothing_and_the_store_works_on(void **state) {
  (void)state;
  fault_install();
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  char long_text[20000];
  memset(long_text, 'x', sizeof long_text);
  long_text[sizeof long_text - 1] = '\0';
  int failed = 0;
  for (int nth = 1;; nth++) { /* every write that an append does, in its turn */
    fault_arm(FAULT_WRITE, FAULT_WAL, nth, SQLITE_FULL, false);
    tci_store_record records[] = {record_of(1, 2, "b", ""), record_of(2, 1, long_text, "q")};
    tci_status status = tci_store_append(store, records, 2);
    bool struck = fault.hits > 0;
    fault_disarm();
    if (!struck) {
      assert_int_equal(status.code, TCI_OK);
      break;
    }
    failed++;
    assert_int_equal(status.code, TCI_RESOURCE_EXHAUSTED);
    assert_contains(status.message, "nothing was written");
    holds(store, 1, "1 a [p] ");
    assert_int_equal(find(store, "q"), 0);
  }
  assert_true(failed >= 6);
  holds(store, 1, "1 a [p] 2 b ");
  assert_int_equal(find(store, "q"), 2);
  tci_store_close(store);
  fault_uninstall();
  store = open_store(db);
  holds(store, 1, "1 a [p] 2 b ");
  assert_int_equal(tci_store_count(store).commits, 0);
  tci_store_close(store);
}

static void a_failed_fsync_or_write_loses_the_store_but_nothing_acknowledged(void **state) {
  (void)state;
  const struct { int ops, rc; } rows[] = {{FAULT_SYNC, SQLITE_IOERR_FSYNC}, {FAULT_WRITE, SQLITE_IOERR_WRITE}};
  for (size_t i = 0; i < 2; i++) {
    unlink(db);
    unlink(beside("-wal"));
    unlink(beside(".mark"));
    fault_install();
    tci_store *store = open_store(db);
    append(store, record_of(1, 1, "acknowledged", "p"));
    fault_arm(rows[i].ops, FAULT_WAL, 1, rows[i].rc, true);
    append_fails(store, record_of(1, 2, "never", ""), TCI_DATA_LOSS, "check the disk");
    assert_int_equal(fault.hits, 1);
    fault_arm(FAULT_ANY_OP, FAULT_ANY_FILE, 0, 0, false);
    append_fails(store, record_of(1, 2, "never", ""), TCI_DATA_LOSS,
                 "check the disk"); /* though the disk would work again */
    load_fails(store, 1, TCI_DATA_LOSS, "check the disk", "");
    uint64_t key, *keys;
    size_t len;
    assert_int_equal(tci_store_find(store, TCI_STR("p"), &key).code, TCI_DATA_LOSS);
    assert_int_equal(tci_store_max_key(store, &key).code, TCI_DATA_LOSS);
    assert_int_equal(tci_store_open_plans(store, &keys, &len).code, TCI_DATA_LOSS);
    tci_store_close(store);
    assert_int_equal(fault.seen, 0); /* not even closing wrote or synced anything */
    fault_disarm();
    fault_uninstall();
    store = open_store(db);
    told t = {.plan = 1};
    assert_int_equal(tci_store_load(store, 1, tell, &t).code, TCI_OK);
    assert_int_equal(strncmp(t.text, "1 acknowledged [p] ", 19), 0); /* the other one whole or not at all */
    assert_true(t.text[19] == '\0' || strcmp(t.text + 19, "2 never ") == 0);
    tci_store_close(store);
  }
}

/* Appends until the WAL is due to be moved into the database and the fault has struck there. */
static tci_status append_until_struck(tci_store *store) {
  char text[30000];
  memset(text, 'y', sizeof text);
  tci_status status = TCI_STATUS_OK;
  for (uint64_t i = 1; i < 400 && status.code == TCI_OK && fault.hits == 0; i++) {
    tci_store_record record = {1, i, {text, sizeof text}, i == 1 ? TCI_STR("p") : (tci_str){NULL, 0}, false};
    status = tci_store_append(store, &record, 1);
  }
  assert_true(fault.hits > 0);
  return status;
}

static void a_failed_fsync_of_a_checkpoint_is_not_swallowed(void **state) {
  (void)state;
  fault_install();
  tci_store *store = open_store(db);
  fault_arm(FAULT_SYNC, FAULT_DB, 1, SQLITE_IOERR_FSYNC, true);
  assert_int_equal(append_until_struck(store).code, TCI_DATA_LOSS);
  tci_store_close(store);
  fault_disarm();
  fault_uninstall();
  tci_store_close(open_store(db)); /* the watermark is content */
}

static void a_checkpoint_that_finds_the_disk_full_is_tried_again(void **state) {
  (void)state;
  fault_install();
  tci_store *store = open_store(db);
  fault_arm(FAULT_WRITE, FAULT_DB, 1, SQLITE_FULL, true);
  assert_int_equal(append_until_struck(store).code, TCI_OK);
  append(store, record_of(2, 1, "after it", "q"));
  assert_true(fault.seen > 1); /* it wrote to the database after all */
  fault_disarm();
  holds(store, 2, "1 after it [q] ");
  tci_store_close(store);
  fault_uninstall();
}

static int limit_length(sqlite3 *connection, char **fault_text, const void *api) {
  (void)fault_text;
  (void)api;
  sqlite3_limit(connection, SQLITE_LIMIT_LENGTH, 5000);
  return SQLITE_OK;
}

static void a_record_too_big_for_sqlite_is_refused_and_what_went_with_it_undone(void **state) {
  (void)state;
  sqlite3_auto_extension((void (*)(void))limit_length);
  tci_store *store = open_store(db);
  sqlite3_reset_auto_extension();
  append(store, record_of(1, 1, "a", "p"));
  char long_text[6000];
  memset(long_text, 'x', sizeof long_text);
  tci_store_record records[] = {record_of(2, 1, "b", "q"), {1, 2, {long_text, sizeof long_text}, {NULL, 0}, false}};
  tci_status status = tci_store_append(store, records, 2);
  assert_int_equal(status.code, TCI_RESOURCE_EXHAUSTED);
  assert_contains(status.message, "one record");
  holds(store, 1, "1 a [p] ");
  assert_int_equal(find(store, "q"), 0);
  append(store, record_of(1, 2, "smaller", ""));
  holds(store, 1, "1 a [p] 2 smaller ");
  tci_store_close(store);
}

static void a_locked_file_is_unavailable_and_then_works_again(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  sqlite3 *other;
  assert_int_equal(sqlite3_open(db, &other), SQLITE_OK);
  assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
  append_fails(store, record_of(1, 2, "b", ""), TCI_UNAVAILABLE, "another program has the file locked");
  holds(store, 1, "1 a [p] ");
  assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
  append(store, record_of(1, 2, "b", ""));
  holds(store, 1, "1 a [p] 2 b ");
  sqlite3_close(other);
  tci_store_close(store);
}

static void what_contradicts_the_journal_stops_the_store(void **state) {
  (void)state;
  const tci_store_record bad[] = {
      record_of(1, 1, "same sequence", ""),
      record_of(1, 5, "same key", "other"),
      record_of(2, 1, "same id", "p"),
  };
  for (size_t i = 0; i < 3; i++) {
    unlink(db);
    unlink(beside(".mark"));
    tci_store *store = open_store(db);
    append(store, record_of(1, 1, "a", "p"));
    tci_store_record records[] = {record_of(1, 2, "goes with it", ""), bad[i]};
    assert_int_equal(tci_store_append(store, records, 2).code, TCI_DATA_LOSS);
    tci_store_close(store);
    store = open_store(db);
    holds(store, 1, "1 a [p] ");
    holds(store, 2, "");
    tci_store_close(store);
  }
}

static void a_foreign_writer_stops_the_store(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  append(store, record_of(1, 1, "a", "p"));
  sql(db, "UPDATE meta SET commits = commits + 1");
  append_fails(store, record_of(1, 2, "b", ""), TCI_DATA_LOSS, "another program");
  tci_store_close(store);
}

static void a_file_that_was_moved_away_stops_the_store(void **state) {
  (void)state;
  tci_store *store = open_store(db);
  char moved[128];
  snprintf(moved, sizeof moved, "%s/moved.db", folder);
  assert_int_equal(rename(db, moved), 0);
  append_fails(store, record_of(1, 1, "into nowhere", "p"), TCI_DATA_LOSS, "was moved");
  append_fails(store, record_of(1, 1, "into nowhere", "p"), TCI_DATA_LOSS, "was moved");
  tci_store_close(store);
}

static void creating_a_journal_may_fail_anywhere_and_be_tried_again(void **state) {
  (void)state;
  fault_install();
  int failed = 0;
  for (int nth = 1;; nth++) {
    unlink(db);
    unlink(beside("-wal"));
    unlink(beside(".mark"));
    fault_arm(FAULT_ANY_OP, FAULT_ANY_FILE, nth, SQLITE_IOERR_WRITE, false);
    tci_store *store;
    tci_status status = try_open(db, 0, &store);
    bool struck = fault.hits > 0;
    fault_disarm();
    if (status.code == TCI_OK) {
      tci_store_close(store);
      if (!struck) break;
    } else {
      failed++;
    }
    store = open_store(db);
    append(store, record_of(1, 1, "a", "p"));
    holds(store, 1, "1 a [p] ");
    tci_store_close(store);
  }
  assert_true(failed >= 5);
  fault_uninstall();
}

/* ---- kill -9 ---- */

enum { KILL_ROUNDS = 24, KILL_OPS_MAX = 900, KILL_PLANS = 3, KILL_BYTES_MAX = 20000 };

/* The bytes of a record follow from its place, so that anybody can check them. */
static tci_str kill_bytes(uint64_t plan, uint64_t sequence) {
  static char bytes[KILL_PLANS][KILL_BYTES_MAX];
  size_t len = 100 + (sequence * 7919 + plan * 104729) % (KILL_BYTES_MAX - 100);
  memset(bytes[plan], (int)('a' + (sequence + plan) % 26), len);
  return (tci_str){bytes[plan], len};
}

static void kill_append(tci_store *store, uint64_t sequence) {
  tci_store_record records[KILL_PLANS];
  for (uint64_t plan = 0; plan < KILL_PLANS; plan++)
    records[plan] = (tci_store_record){
        plan, sequence, kill_bytes(plan, sequence),
        sequence == 1 && plan > 0 ? (plan == 1 ? TCI_STR("one") : TCI_STR("two")) : (tci_str){NULL, 0},
        plan > 0 && sequence % 3 == 0};
  if (tci_store_append(store, records, KILL_PLANS).code != TCI_OK) _exit(3);
}

/* The child: dies in the middle of its nth write or fsync of these files. */
static uint64_t kill_sequence;
static int kill_files, kill_nth;

static void append_until_killed(void) {
  fault_arm(FAULT_ANY_OP, kill_files, kill_nth, 0, false);
  tci_store *store = child_open();
  for (uint64_t next = kill_sequence + 1;; next++) {
    kill_append(store, next);
    tell_progress(next);
  }
}

static bool kill_check(void *ctx, const tci_store_record *record) {
  uint64_t *last = ctx;
  assert_int_equal(record->sequence, *last + 1);
  assert_true(tci_str_eq(record->bytes, kill_bytes(record->plan_key, record->sequence)));
  assert_int_equal(record->settled, record->plan_key > 0 && record->sequence % 3 == 0);
  *last = record->sequence;
  return true;
}

/* Opens the journal after a kill: every plan has the same records, at least the acknowledged ones. */
static uint64_t kill_verify(uint64_t acknowledged, int round, uint64_t nth) {
  tci_store *store = open_store(db);
  uint64_t last[KILL_PLANS] = {0};
  for (uint64_t plan = 0; plan < KILL_PLANS; plan++)
    assert_int_equal(tci_store_load(store, plan, kill_check, &last[plan]).code, TCI_OK);
  if (last[0] != last[1] || last[0] != last[2] || last[0] < acknowledged || last[0] > acknowledged + 1)
    fail_msg("round %d, operation %d: %d acknowledged, found %d %d %d", round, (int)nth, (int)acknowledged,
             (int)last[0], (int)last[1], (int)last[2]);
  open_plans_are(store, last[0] == 0 || last[0] % 3 == 0 ? "" : "1 2 ");
  tci_store_close(store);
  return last[0];
}

static void what_was_acknowledged_survives_kill_9_anywhere(void **state) {
  (void)state;
  uint64_t seed = 0;
  const char *given = getenv("TCI_SEED");
  if (given)
    seed = strtoull(given, NULL, 0);
  else
    tci_clock_random(&seed, sizeof seed);
  print_message("TCI_SEED=%llu\n", (unsigned long long)seed);
  uint8_t key[32] = {0};
  memcpy(key, &seed, sizeof seed);
  tci_rng rng;
  tci_rng_init(&rng, key);
  fault_install();
  uint64_t sequence = 0;
  for (int round = 0; round < KILL_ROUNDS; round++) {
    /* By turns: soon, later, and in the middle of a checkpoint, the only one to write to the database itself. */
    int files = round % 3 == 2 ? FAULT_DB : FAULT_ANY_FILE;
    uint64_t nth = 1 + tci_rng_below(&rng, round % 3 == 1 ? KILL_OPS_MAX : 60);
    fault_die = ask_to_be_killed;
    kill_sequence = sequence;
    kill_files = files;
    kill_nth = (int)nth;
    uint64_t told_last = in_child(append_until_killed);
    uint64_t acknowledged = told_last ? told_last : sequence;
    sequence = kill_verify(acknowledged, round, nth);
  }
  fault_uninstall();
  assert_true(sequence > KILL_ROUNDS);
}

int main(void) {
  tci_log_set_level(TCI_LOG_ERROR); /* missing watermarks are warnings, and meant here */
#define CLAIM(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
  const struct CMUnitTest tests[] = {
      CLAIM(records_come_back_in_order_whole_and_by_plan),
      CLAIM(bytes_are_bytes_empty_binary_or_large),
      CLAIM(a_visitor_may_stop),
      CLAIM(plans_are_found_by_their_exact_id),
      CLAIM(settled_plans_are_not_among_the_open_ones_until_they_are_active_again),
      CLAIM(a_commit_is_one_fsync_however_many_records),
      CLAIM(an_append_to_one_plan_writes_three_pages),
      CLAIM(the_files_are_for_their_owner_only),
      CLAIM(bad_paths_are_refused_by_name),
      CLAIM(folders_and_files_that_cannot_be_written_are_refused),
      CLAIM(a_second_opener_is_told_who_holds_the_file),
      CLAIM(a_dead_process_holds_nothing),
      CLAIM(other_databases_are_refused_and_left_alone),
      CLAIM(a_newer_schema_is_refused_naming_both_versions),
      CLAIM(a_corrupt_page_is_refused),
      CLAIM(a_flipped_bit_in_a_row_is_found_when_it_is_loaded),
      CLAIM(a_row_in_the_place_of_another_is_found),
      CLAIM(a_lost_record_at_the_end_is_noticed_whoever_it_belongs_to),
      CLAIM(a_page_that_was_never_written_is_noticed),
      CLAIM(the_id_of_a_damaged_row_is_still_known),
      CLAIM(a_plan_with_work_left_does_not_sleep_because_its_row_went_back),
      CLAIM(a_page_that_was_split_since_is_refused),
      CLAIM(a_plan_after_which_there_can_be_none_is_refused),
      CLAIM(what_is_left_of_a_damaged_plan_can_be_salvaged),
      CLAIM(a_journal_of_the_first_schema_is_brought_up_to_date),
      CLAIM(whether_an_append_may_succeed_is_known_before),
      CLAIM(a_journal_behind_its_watermark_is_refused),
      CLAIM(a_flipped_bit_in_the_wal_is_refused_and_the_wal_kept),
      CLAIM(a_lost_wal_is_refused),
      CLAIM(a_lost_or_foreign_journal_is_refused),
      CLAIM(a_watermark_may_be_missing_or_torn_but_not_garbage),
      CLAIM(the_slots_of_the_watermark_are_written_in_turn),
      CLAIM(too_little_free_disk_refuses_appends_but_not_reads),
      CLAIM(a_full_disk_writes_nothing_and_the_store_works_on),
      CLAIM(a_failed_fsync_or_write_loses_the_store_but_nothing_acknowledged),
      CLAIM(a_failed_fsync_of_a_checkpoint_is_not_swallowed),
      CLAIM(a_checkpoint_that_finds_the_disk_full_is_tried_again),
      CLAIM(a_record_too_big_for_sqlite_is_refused_and_what_went_with_it_undone),
      CLAIM(a_locked_file_is_unavailable_and_then_works_again),
      CLAIM(what_contradicts_the_journal_stops_the_store),
      CLAIM(a_foreign_writer_stops_the_store),
      CLAIM(a_file_that_was_moved_away_stops_the_store),
      CLAIM(creating_a_journal_may_fail_anywhere_and_be_tried_again),
      CLAIM(what_was_acknowledged_survives_kill_9_anywhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
