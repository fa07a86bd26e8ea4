/* bench_store: what an append costs, by records in one transaction. One table on standard output.
 *
 * bench_store [FOLDER [SECONDS]]: the file is made in FOLDER (/tmp), a row of the table takes SECONDS (2). The numbers
 * are the disk's: an append is one fsync. Records are 200 bytes, over 50 plans in turn, as a busy engine writes them.
 */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/vec.h"
#include "store/store.h"

enum { RECORD_BYTES = 200, PLANS = 50, BATCH_MAX = 256 };

static char path[4096];
static uint64_t sequence;

static void die(tci_status status) {
  fprintf(stderr, "bench_store: %s: %s\n", tci_code_name(status.code), status.message);
  exit(1);
}

static void remove_files(void) {
  static const char *const suffixes[] = {"", "-wal", "-shm", ".mark", ".lock"};
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
    char name[sizeof path + 8];
    snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
    unlink(name);
  }
}

static void append(tci_store *store, size_t len) {
  char bytes[RECORD_BYTES], ids[PLANS][16];
  tci_store_record records[BATCH_MAX];
  memset(bytes, 'r', sizeof bytes);
  for (size_t i = 0; i < len; i++) {
    uint64_t n = sequence++, plan = 1 + n % PLANS;
    records[i] = (tci_store_record){plan, 1 + n / PLANS, {bytes, sizeof bytes}, {NULL, 0}, false};
    if (n >= PLANS) continue;
    snprintf(ids[n], sizeof ids[n], "plan-%d", (int)plan);
    records[i].plan_id = tci_str_from(ids[n]);
  }
  tci_status status = tci_store_append(store, records, len);
  if (status.code != TCI_OK) die(status);
}

static int by_value(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static void measure(size_t len, int64_t seconds) {
  char message[1024];
  tci_store *store;
  remove_files();
  tci_status status = tci_store_open(&(tci_store_options){.path = path}, &store, message, sizeof message);
  if (status.code != TCI_OK) die(status);
  TCI_VEC(int64_t) took_us = {0};
  sequence = 0;
  append(store, len);
  int64_t start_us = tci_clock_mono_us(), now_us = start_us, end_us = start_us + seconds * 1000000;
  while (now_us < end_us) {
    int64_t before_us = now_us;
    append(store, len);
    now_us = tci_clock_mono_us();
    tci_vec_push(&took_us, now_us - before_us);
  }
  double elapsed_s = (double)(now_us - start_us) / 1e6;
  qsort(took_us.items, took_us.len, sizeof took_us.items[0], by_value);
  printf("%11zu  %9.0f  %9.0f  %7lld  %7lld  %7lld\n", len, (double)took_us.len / elapsed_s,
         (double)(took_us.len * len) / elapsed_s, (long long)took_us.items[took_us.len / 2],
         (long long)took_us.items[took_us.len * 99 / 100], (long long)took_us.items[took_us.len - 1]);
  fflush(stdout);
  tci_vec_free(&took_us);
  tci_store_close(store);
  remove_files();
}

int main(int argc, char **argv) {
  snprintf(path, sizeof path, "%.3900s/bench-store-%ld.db", argc > 1 ? argv[1] : "/tmp", (long)getpid());
  long seconds = argc > 2 ? strtol(argv[2], NULL, 10) : 2;
  if (seconds < 1 || argc > 3) {
    fprintf(stderr, "usage: bench_store [FOLDER [SECONDS]]\n");
    return 2;
  }
  printf("records/txn      txn/s  records/s   p50 us   p99 us   max us\n");
  static const size_t batches[] = {1, 8, 64, BATCH_MAX};
  for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) measure(batches[i], seconds);
  return 0;
}
