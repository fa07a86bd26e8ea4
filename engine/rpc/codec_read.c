/* codec_read: guard, unpack, and the values that several messages have in common.
 *
 * 1. Nothing is unpacked that tci_scan has not passed: strings hold no NUL (so strlen is exact), enums are known.
 * 2. Structs leave here in canonical form and within node_bytes_max; the same value has the same bytes.
 * 3. The arena's cap may be reached at any allocation: every one is checked.
 *
 * Called by codec.c and codec_write.c.
 */
#include "rpc/codec_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "base/wire.h"
#include "rpc/scan.h"

enum { PATH_BYTES_MAX = 400, STRUCT_DEPTH_MAX = 128, NANOS_PER_SECOND = 1000000000 };

/* The range of google.protobuf.Timestamp: years 1 to 9999. */
#define SECONDS_MIN INT64_C(-62135596800)
#define SECONDS_MAX INT64_C(253402300799)

typedef struct {
  tci_arena *arena;
  bool full;
} unpack_memory;

static void *unpack_alloc(void *data, size_t bytes) {
  unpack_memory *memory = data;
  void *piece = tci_arena_alloc(memory->arena, bytes);
  if (!piece) memory->full = true;
  return piece;
}

static void unpack_free(void *data, void *piece) {
  (void)data;
  (void)piece;
}

tci_status tci_codec_unpack(tci_codec_reader *r, const tci_codec_message *message, tci_str bytes,
                            ProtobufCMessage **out) {
  r->message = message->guard->short_name;
  TCI_TRY(tci_scan(message->guard, bytes, r->limits, r->arena));
  unpack_memory memory = {.arena = r->arena};
  ProtobufCAllocator allocator = {.alloc = unpack_alloc, .free = unpack_free, .allocator_data = &memory};
  const uint8_t *data = (const uint8_t *)(bytes.len ? bytes.ptr : "");
  *out = protobuf_c_message_unpack(message->form, &allocator, bytes.len, data);
  if (*out) return TCI_STATUS_OK;
  if (memory.full) return tci_codec_full(r);
  /* protobuf-c is stricter than the scan about tags and lengths written with needless bytes. */
  return tci_codec_refuse(r, NULL, NULL, "is not a well-formed protobuf message");
}

/* ---- refusing ---- */

static size_t path_add(char *path, const tci_codec_place *place) {
  if (!place) return 0;
  size_t used = path_add(path, place->up);
  if (used >= PATH_BYTES_MAX - 1) return used;
  int bytes = place->index == SIZE_MAX
                  ? snprintf(path + used, PATH_BYTES_MAX - used, ".%s", place->field)
                  : snprintf(path + used, PATH_BYTES_MAX - used, ".%s[%zu]", place->field, place->index);
  return used + (size_t)bytes;
}

tci_status tci_codec_refuse(tci_codec_reader *r, const tci_codec_place *place, const char *field, const char *what) {
  char path[PATH_BYTES_MAX] = "";
  path_add(path, place);
  return (tci_status){TCI_INVALID_ARGUMENT,
                      tci_fmt(r->arena, "%s%s%s%s: %s", r->message, path, field ? "." : "", field ? field : "", what)};
}

tci_status tci_codec_full(tci_codec_reader *r) {
  (void)r; /* its arena has no room for a text */
  return (tci_status){TCI_RESOURCE_EXHAUSTED,
                      "the request takes more memory than message_arena_bytes_max allows; send less at a time"};
}

void *tci_codec_array(tci_codec_reader *r, size_t n, size_t item_bytes) {
  return tci_arena_zalloc(r->arena, n * item_bytes); /* n is bounded by the bytes of the message */
}

/* ---- values ---- */

tci_status tci_codec_read_natural(tci_codec_reader *r, const tci_codec_place *place, const char *field, int64_t value,
                                  int64_t *out) {
  if (value < 0)
    return tci_codec_refuse(r, place, field, tci_fmt(r->arena, "%" PRId64 " is negative; 0 means not given", value));
  *out = value;
  return TCI_STATUS_OK;
}

tci_status tci_codec_read_struct(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                                 ProtobufCBinaryData value, tci_str *out) {
  *out = (tci_str){NULL, 0};
  if (!value.len) return TCI_STATUS_OK;
  tci_buf_clear(&r->scratch);
  if (!tci_struct_canonical((tci_str){(const char *)value.data, value.len}, STRUCT_DEPTH_MAX, &r->scratch))
    return tci_codec_refuse(r, place, field, "is not a well-formed google.protobuf.Struct");
  tci_str canonical = tci_buf_str(&r->scratch);
  if (canonical.len > (uint64_t)r->limits->node_bytes_max) {
    tci_status status =
        tci_codec_refuse(r, place, field,
                         tci_fmt(r->arena, "is %zu bytes long; at most %" PRId64 " are allowed (node_bytes_max)",
                                 canonical.len, r->limits->node_bytes_max));
    return (tci_status){TCI_OUT_OF_RANGE, status.message};
  }
  if (!canonical.len) return TCI_STATUS_OK;
  *out = tci_str_copy(r->arena, canonical);
  return out->ptr ? TCI_STATUS_OK : tci_codec_full(r);
}

tci_status tci_codec_read_time(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                               const Google__Protobuf__Timestamp *value, int64_t *out) {
  *out = 0;
  if (!value) return TCI_STATUS_OK;
  if (value->seconds < SECONDS_MIN || value->seconds > SECONDS_MAX || value->nanos < 0 ||
      value->nanos >= NANOS_PER_SECOND)
    return tci_codec_refuse(r, place, field, "is not a valid timestamp (years 1 to 9999, nanos 0 to 999999999)");
  *out = value->seconds * 1000000 + value->nanos / 1000;
  return TCI_STATUS_OK;
}

tci_status tci_codec_read_failure(tci_codec_reader *r, const tci_codec_place *place, const char *field,
                                  const Tci__Wire__V1__Failure *value, tci_failure *out) {
  *out = (tci_failure){0};
  if (!value) return TCI_STATUS_OK;
  tci_codec_place here = {place, field, SIZE_MAX};
  TCI_TRY(tci_codec_read_time(r, &here, "occurred_at", value->occurred_at, &out->occurred_us));
  out->message = tci_str_from(value->message);
  out->present = out->message.len || out->occurred_us || value->kind; /* an empty message is 'not given' */
  if (out->present) out->kind = TCI_FAILURE_REPORTED;                 /* the other kinds are the engine's to give */
  return TCI_STATUS_OK;
}

tci_status tci_codec_read_ids(tci_codec_reader *r, size_t n, char **values, tci_ids *out) {
  out->items = tci_codec_array(r, n, sizeof *out->items);
  if (!out->items) return tci_codec_full(r);
  out->len = n;
  for (size_t i = 0; i < n; i++) out->items[i] = tci_str_from(values[i]);
  return TCI_STATUS_OK;
}

static int entry_cmp(const void *a, const void *b) {
  const tci_codec_entry *x = a, *y = b;
  int order = tci_str_cmp(x->pair.key, y->pair.key);
  return order ? order : (x->arrival > y->arrival) - (x->arrival < y->arrival);
}

tci_status tci_codec_read_pairs(tci_codec_reader *r, const char *field, tci_codec_entry *entries, size_t n,
                                tci_pairs *out) {
  *out = (tci_pairs){0};
  if (!n) return TCI_STATUS_OK;
  qsort(entries, n, sizeof *entries, entry_cmp);
  out->items = tci_codec_array(r, n, sizeof *out->items);
  if (!out->items) return tci_codec_full(r);
  size_t bytes = 0;
  for (size_t i = 0; i < n; i++) {
    if (i + 1 < n && tci_str_eq(entries[i].pair.key, entries[i + 1].pair.key)) continue; /* the last one counts */
    out->items[out->len++] = entries[i].pair;
    bytes += entries[i].pair.key.len + entries[i].pair.value.len;
  }
  if (bytes > (uint64_t)r->limits->metadata_bytes_max)
    return tci_codec_refuse(r, NULL, field,
                            tci_fmt(r->arena, "is %zu bytes long; at most %" PRId64 " are allowed (metadata_bytes_max)",
                                    bytes, r->limits->metadata_bytes_max));
  return TCI_STATUS_OK;
}

/* ---- completions ---- */

static void failure_digest(const tci_failure *failure, tci_buf *buf) {
  tci_wire_put_uint(buf, 1, failure->present);
  tci_wire_put_bytes(buf, 2, failure->message);
  tci_wire_put_uint(buf, 3, (uint64_t)failure->occurred_us);
}

/* The digest is journaled: its form must not change. All fields always stand, in this order, lists behind their length;
 * so two completions have the same bytes only when they say the same. */
static void completion_digest(tci_codec_reader *r, tci_completion *c) {
  tci_buf *buf = &r->scratch;
  tci_buf_clear(buf);
  tci_wire_put_uint(buf, 1, c->stage_state);
  tci_wire_put_uint(buf, 2, c->updates_len);
  for (size_t i = 0; i < c->updates_len; i++) {
    const tci_check_update *update = &c->updates[i];
    tci_wire_put_bytes(buf, 1, update->check_id);
    tci_wire_put_uint(buf, 2, update->state);
    tci_wire_put_bytes(buf, 3, update->data);
    tci_wire_put_uint(buf, 4, update->finalize);
    failure_digest(&update->failure, buf);
  }
  failure_digest(&c->failure, buf);
  tci_wire_put_bytes(buf, 3, c->details);
  c->digest[0] = tci_siphash(UINT64_C(0x7475726263692d30), UINT64_C(0x636f6d706c657465), tci_buf_str(buf));
  c->digest[1] = tci_siphash(UINT64_C(0x7475726263692d31), UINT64_C(0x636f6d706c657465), tci_buf_str(buf));
}

static tci_status update_read(tci_codec_reader *r, const tci_codec_place *here, const Tci__Wire__V1__CheckUpdate *m,
                              tci_check_update *out) {
  out->check_id = tci_str_from(m->check_id);
  out->state = (tci_check_state)m->state;
  out->finalize = m->finalize;
  TCI_TRY(tci_codec_read_struct(r, here, "result_data", m->result_data, &out->data));
  return tci_codec_read_failure(r, here, "failure", m->failure, &out->failure);
}

tci_status tci_codec_read_completion(tci_codec_reader *r, Tci__Wire__V1__StageState stage_state, size_t n,
                                     Tci__Wire__V1__CheckUpdate **updates, const Tci__Wire__V1__Failure *failure,
                                     ProtobufCBinaryData details, tci_completion *out) {
  *out = (tci_completion){.stage_state = (tci_stage_state)stage_state, .updates_len = n};
  out->updates = tci_codec_array(r, n, sizeof *out->updates);
  if (!out->updates) return tci_codec_full(r);
  for (size_t i = 0; i < n; i++) {
    tci_codec_place here = {NULL, "check_updates", i};
    TCI_TRY(update_read(r, &here, updates[i], &out->updates[i]));
  }
  TCI_TRY(tci_codec_read_failure(r, NULL, "failure", failure, &out->failure));
  TCI_TRY(tci_codec_read_struct(r, NULL, "details", details, &out->details));
  /* Runners that are done leave the state out. Before the digest: saying it in words the second time is no contradiction. */
  if (out->stage_state == TCI_STAGE_UNKNOWN && !out->failure.present) out->stage_state = TCI_STAGE_FINAL;
  completion_digest(r, out);
  return TCI_STATUS_OK;
}

void tci_codec_failed_completion(tci_codec_reader *r, const char *message, tci_completion *out) {
  *out = (tci_completion){.stage_state = TCI_STAGE_FINAL,
                          .failure = {.present = true, .kind = TCI_FAILURE_REPORTED, .message = tci_str_from(message)}};
  completion_digest(r, out);
}
