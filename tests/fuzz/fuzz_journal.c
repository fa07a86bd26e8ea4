/* fuzz_journal: a journal in which some numbers and bytes are others. It is refused as DATA_LOSS, or it makes a model. Where
 * that keeps the invariants, it is woken and its timers run. Nothing may crash, and no check of the core may fail.
 *
 * The journal is that of a small history with everything in it. The input changes it: six bytes each say which record,
 * which change of it, which field and what it becomes.
 */
#include <string.h>

#include "base/assert.h"
#include "core_fixture.h"

enum { CHANGES_MAX = 4, BYTES_EACH = 6, TICKS = 40 };

static const uint64_t odd_numbers[] = {
    0,         1,          2,         3,          5,          7,          10,          15,    20,
    30,        40,         50,        60,         77,         255,        1000,        60000, 4294967316,
    INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX, 1ULL << 62, 1ULL << 40, 999999999999};
static const tci_str odd_bytes[] = {{"", 0},
                                    {"\x08\x01\x12\x04\x08\x01\x10\x01", 8},
                                    {"\x08\x02\x12\x04\x08\x03\x10\x02\x12\x04\x08\x01\x10\x00", 14},
                                    {"\x12\x04\x08\x01\x10\x28\x12\x04\x08\x01\x10\x28", 12},
                                    {"x", 1},
                                    {"a", 1},
                                    {"s", 1},
                                    {"\xff", 1}};

static fx history;

static void stop(const char *message) {
  (void)message;
  tci_unreachable(); /* the history itself is sound */
}

static void make_history(void) {
  fx *f = &history;
  fx_on_failure = stop;
  fx_init(f);
  fx_register(f, "a", "go", "both", 4, 60000);
  fx_register(f, "b", "py", "async", 0, 0);
  fx_create(f);
  fx_write(
      f,
      "@c kind=lint opt=k:v; @d after=@c+; @e after=@c!; s runner=go checks=c opt=a:1 attempts=3 backoff=10 priority=2;"
      "t runner=py mode=async checks=d after=s timeout=5000 stale=4000; u runner=go after=t,@d+; v checks=e");
  fx_answers(f, "s", "FINAL failure=flaky");
  fx_advance(f, 100);
  fx_answers(f, "s", "FINAL @c=k:v");
  fx_accepts(f, "t", true);
  fx_reports(f, "t", "half");
  fx_write(f, "w runner=go mode=async; x runner=none; @f result=me:1 data=k:v");
  fx_accepts(f, "w", true);
  fx_completes(f, "w", "FINAL");
  fx_unregister(f, "b");
  tci_str first = f->plan_id;
  fx_create(f);
  fx_write(f, "@c; s runner=go checks=c");
  f->plan_id = first;
}

/* The record with one field of one change as the input says; the others as they were. */
static void change(const fx_stored *from, const uint8_t *by, tci_buf *out) {
  tci_record_reader reader;
  tci_change c;
  tci_buf scratch = {0};
  tci_assert(tci_record_open((tci_str){from->bytes, from->bytes_len}, &reader));
  tci_record_put_header(out, reader.wall_us, reader.version);
  tci_record_put_order(out, reader.order);
  size_t which = by[1] % reader.changes;
  const tci_change_field *field = &tci_change_fields[by[2] % tci_change_fields_len];
  for (size_t i = 0; tci_record_next(&reader, &c) > 0; i++) {
    char *member = (char *)&c + field->offset;
    if (i == which && field->shape <= TCI_FIELD_NAME) {
      uint64_t value =
          by[3] & 1 ? (uint64_t)by[4] << (by[5] % 57) : odd_numbers[by[4] % (sizeof odd_numbers / sizeof *odd_numbers)];
      memcpy(member, &value, sizeof value);
    } else if (i == which) {
      tci_str *text = (tci_str *)(void *)member;
      if (by[3] & 1 && text->len)
        text->len = by[4] % text->len;
      else
        *text = odd_bytes[by[4] % (sizeof odd_bytes / sizeof *odd_bytes)];
    }
    tci_record_put_change(out, &c, &scratch);
  }
  tci_buf_deinit(&scratch);
}

static bool load(tci_core *core, const uint8_t *data, size_t changes) {
  const fx *f = &history;
  uint64_t last = 0;
  for (size_t i = 0; i < f->journal.len; i++)
    if (f->journal.items[i].plan_key > last) last = f->journal.items[i].plan_key;
  for (uint64_t key = 0; key <= last; key++) {
    for (size_t i = 0; i < f->journal.len; i++) {
      const fx_stored *stored = &f->journal.items[i];
      if (stored->plan_key != key) continue;
      tci_buf out = {0};
      for (size_t k = 0; k < changes && !out.len; k++)
        if (data[k * BYTES_EACH] % f->journal.len == i) change(stored, data + k * BYTES_EACH, &out);
      tci_record record = {.plan_key = key, .sequence = stored->sequence, .settled = stored->settled};
      record.plan_id = (tci_str){stored->plan_id, stored->plan_id_len};
      record.bytes = out.len ? tci_buf_str(&out) : (tci_str){stored->bytes, stored->bytes_len};
      tci_status status = tci_core_load(core, &record);
      tci_buf_deinit(&out);
      tci_assert(status.code == TCI_OK || status.code == TCI_DATA_LOSS);
      if (status.code != TCI_OK) return false;
    }
    tci_core_loaded(core, key);
  }
  return true;
}

static void live_on(tci_core *core) {
  tci_update update = {0};
  tci_event event = {.kind = TCI_EVENT_RESTARTED, .now = history.now};
  event.now.mono_us += 1000000;
  for (int i = 0; i < TICKS; i++) {
    tci_core_begin_turn(core);
    tci_core_step(core, &event, &update);
    event.kind = TCI_EVENT_TICK;
    event.random[0] = (uint8_t)i;
    int64_t due_us = tci_core_next_due_us(core);
    if (due_us == INT64_MAX && !update.more) break;
    if (update.more || due_us <= event.now.mono_us) continue;
    event.now.wall_us += due_us - event.now.mono_us;
    event.now.mono_us = due_us;
  }
  tci_update_deinit(&update);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!history.journal.len) make_history();
  size_t changes = size / BYTES_EACH < CHANGES_MAX ? size / BYTES_EACH : CHANGES_MAX;
  tci_core *core = tci_core_new(&history.limits, NULL);
  tci_arena arena = {0};
  if (load(core, data, changes) && !tci_core_check(core, &arena)) live_on(core);
  tci_arena_deinit(&arena);
  tci_core_free(core);
  return 0;
}
