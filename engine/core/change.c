/* change: one table says which member is which field; encoding and decoding walk it.
 *
 * Field numbers are for ever. A zero is not written: absent and zero are the same.
 */
#include "core/change.h"

#include <string.h>

#define FIELD(number, shape, member) \
  { number, TCI_FIELD_##shape, #member, offsetof(tci_change, member), UINT64_MAX }
#define BOUND(number, shape, member, most) \
  { number, TCI_FIELD_##shape, #member, offsetof(tci_change, member), most }
/* Durations and counts follow from limits, which are at most 10^12. */
#define COUNT_MAX 1000000000000u
const tci_change_field tci_change_fields[] = {
    FIELD(1, NAME, type),
    BOUND(2, NUMBER, node, UINT32_MAX),
    BOUND(3, NUMBER, version, INT64_MAX),
    BOUND(4, NAME, state, TCI_ATTEMPT_INCOMPLETE),
    BOUND(5, NAME, outcome, TCI_OUTCOME_SKIPPED),
    BOUND(6, NAME, reason, TCI_REASON_WRITTEN),
    FIELD(7, TEXT, id),
    FIELD(8, TEXT, kind),
    FIELD(9, STRUCT, bytes),
    FIELD(10, EDGES, dependencies),
    FIELD(11, EDGES, assignments),
    BOUND(12, NAME, mode, (1u << TCI_MODES) - 1),
    BOUND(13, SIGNED, priority, 2 * COUNT_MAX),
    BOUND(14, NUMBER, retry_max, COUNT_MAX),
    BOUND(15, NUMBER, backoff_ms, COUNT_MAX),
    BOUND(16, NUMBER, backoff_ms_max, COUNT_MAX),
    BOUND(17, NUMBER, execution_ms, COUNT_MAX),
    BOUND(18, NUMBER, stale_ms, COUNT_MAX),
    BOUND(19, NUMBER, attempt, UINT32_MAX),
    BOUND(20, NAME, execution, TCI_EXECUTION_CANCELLED),
    FIELD(21, TEXT, execution_id),
    FIELD(22, TEXT, process_uid),
    FIELD(23, TEXT, runner_id),
    FIELD(24, TEXT, registration_id),
    FIELD(25, TEXT, runner_execution_id),
    BOUND(26, NUMBER, not_before_us, (uint64_t)TCI_MOMENT_US_MAX),
    BOUND(27, NUMBER, deadline_us, (uint64_t)TCI_MOMENT_US_MAX),
    BOUND(28, FLAG, accepted, 1),
    BOUND(29, FLAG, failed, 1),
    BOUND(30, NAME, failure_kind, TCI_FAILURE_POLICY),
    FIELD(31, TEXT, failure_message),
    FIELD(32, NUMBER, failure_us),
    BOUND(33, FLAG, has_digest, 1),
    FIELD(34, NUMBER, digest0),
    FIELD(35, NUMBER, digest1),
    FIELD(36, TEXT, message),
    BOUND(37, NUMBER, result, UINT32_MAX),
    FIELD(38, TEXT, owner_type),
    FIELD(39, TEXT, owner_id),
    BOUND(40, FLAG, finalized, 1),
    FIELD(41, TEXT, address),
    BOUND(42, NUMBER, max_concurrent, INT32_MAX),
    BOUND(43, NUMBER, ttl_ms, COUNT_MAX),
    FIELD(44, PAIRS, metadata),
    FIELD(45, NUMBER, at_us),
    BOUND(46, FLAG, edges_follow, 1),
    BOUND(47, FLAG, created, 1),
    BOUND(48, FLAG, move_follows, 1),
    FIELD(49, TEXT, policy),
    FIELD(50, TEXT, policy_version),
    FIELD(51, DECISION, decision),
    FIELD(52, IDS, exclude),
    FIELD(53, IDS, keys),
    BOUND(54, NUMBER, until_us, (uint64_t)TCI_MOMENT_US_MAX),
    BOUND(55, NUMBER, entry, INT64_MAX),
    FIELD(56, NUMBER, plan_key),
};
#undef FIELD
#undef BOUND
enum { FIELDS = sizeof tci_change_fields / sizeof tci_change_fields[0] };
const size_t tci_change_fields_len = FIELDS;

static bool is_number(const tci_change_field *f) { return f->shape <= TCI_FIELD_NAME; }

void tci_change_encode(const tci_change *change, tci_buf *out) {
  for (size_t i = 0; i < FIELDS; i++) {
    const tci_change_field *f = &tci_change_fields[i];
    const char *member = (const char *)change + f->offset;
    if (is_number(f)) {
      uint64_t value;
      memcpy(&value, member, sizeof value);
      if (value) tci_wire_put_uint(out, f->number, value);
    } else {
      const tci_str *s = (const tci_str *)(const void *)member;
      if (s->len) tci_wire_put_bytes(out, f->number, *s);
    }
  }
}

bool tci_change_decode(tci_str bytes, tci_change *out) {
  memset(out, 0, sizeof *out);
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.number > FIELDS) continue; /* a newer engine's field */
    const tci_change_field *f = &tci_change_fields[wire.number - 1];
    char *member = (char *)out + f->offset;
    if (wire.type != (is_number(f) ? TCI_WIRE_VARINT : TCI_WIRE_LEN)) return false;
    if (is_number(f))
      memcpy(member, &wire.value, sizeof wire.value);
    else
      memcpy(member, &wire.bytes, sizeof wire.bytes);
  }
  return reader.at == reader.end && out->type != 0;
}

const char *tci_change_fault(const tci_change *change) {
  for (size_t i = 0; i < FIELDS; i++) {
    const tci_change_field *f = &tci_change_fields[i];
    uint64_t value;
    if (!is_number(f)) continue;
    memcpy(&value, (const char *)change + f->offset, sizeof value);
    if (value > f->most) return "a number in a change is beyond what it can be";
  }
  bool bits = change->type == TCI_CHANGE_RUNNER;
  return change->mode > TCI_MODE_ASYNC && !bits ? "a mode that there is not" : NULL;
}

/* ---- edges: { 1: predicate } { 2: edge { 1: node, 2: number } }* ---- */

void tci_edges_put_predicate(tci_buf *out, tci_predicate predicate) { tci_wire_put_uint(out, 1, predicate); }

void tci_edges_put(tci_buf *out, uint64_t node, uint64_t number) {
  char at[24];
  tci_buf edge = {at, 0, sizeof at}; /* two varints with tags always fit */
  tci_wire_put_uint(&edge, 1, node);
  tci_wire_put_uint(&edge, 2, number);
  tci_wire_put_bytes(out, 2, tci_buf_str(&edge));
}

bool tci_edges_open(tci_str bytes, tci_edges_reader *reader, uint64_t *predicate, size_t *len) {
  *reader = (tci_edges_reader){.reader = tci_wire_read(bytes)};
  *predicate = 0;
  *len = 0;
  tci_edges_reader scan = *reader;
  tci_wire_field wire;
  while (tci_wire_next(&scan.reader, &wire)) {
    if (wire.number == 1) *predicate = wire.value;
    if (wire.number == 2) ++*len;
  }
  return scan.reader.at == scan.reader.end;
}

bool tci_edges_next(tci_edges_reader *reader) {
  tci_wire_field wire;
  while (tci_wire_next(&reader->reader, &wire)) {
    if (wire.number != 2 || wire.type != TCI_WIRE_LEN) continue;
    reader->node = reader->number = 0;
    tci_wire_reader edge = tci_wire_read(wire.bytes);
    while (tci_wire_next(&edge, &wire)) {
      if (wire.number == 1) reader->node = wire.value;
      if (wire.number == 2) reader->number = wire.value;
    }
    return true;
  }
  return false;
}

/* ---- pairs: { 1: key, 2: value }* in turn ---- */

void tci_pairs_encode(tci_pairs pairs, tci_buf *out) {
  for (size_t i = 0; i < pairs.len; i++) {
    tci_wire_put_bytes(out, 1, pairs.items[i].key);
    tci_wire_put_bytes(out, 2, pairs.items[i].value);
  }
}

bool tci_pairs_decode(tci_str bytes, tci_arena *arena, tci_pairs *out) {
  size_t len = 0;
  tci_wire_field wire;
  tci_wire_reader reader = tci_wire_read(bytes);
  while (tci_wire_next(&reader, &wire)) len += wire.number == 1;
  if (reader.at != reader.end) return false;
  *out = (tci_pairs){tci_arena_array(arena, tci_pair, len), 0};
  for (reader = tci_wire_read(bytes); tci_wire_next(&reader, &wire);) {
    if (wire.type != TCI_WIRE_LEN) return false;
    if (wire.number == 1) out->items[out->len++].key = wire.bytes;
    if (wire.number == 2 && out->len) out->items[out->len - 1].value = wire.bytes;
  }
  return true;
}

/* ---- ids: { 1: id }* ---- */

void tci_ids_encode(tci_ids ids, tci_buf *out) {
  for (size_t i = 0; i < ids.len; i++) tci_wire_put_bytes(out, 1, ids.items[i]);
}

bool tci_ids_decode(tci_str bytes, tci_arena *arena, tci_ids *out) {
  size_t len = 0;
  tci_wire_field wire;
  tci_wire_reader reader = tci_wire_read(bytes);
  while (tci_wire_next(&reader, &wire)) len += wire.number == 1 && wire.type == TCI_WIRE_LEN;
  if (reader.at != reader.end) return false;
  *out = (tci_ids){tci_arena_array(arena, tci_str, len + 1), 0};
  for (reader = tci_wire_read(bytes); tci_wire_next(&reader, &wire);)
    if (wire.number == 1 && wire.type == TCI_WIRE_LEN) out->items[out->len++] = wire.bytes;
  return true;
}

bool tci_ids_has(tci_str bytes, tci_str id) {
  tci_wire_field wire;
  tci_wire_reader reader = tci_wire_read(bytes);
  while (tci_wire_next(&reader, &wire))
    if (wire.number == 1 && wire.type == TCI_WIRE_LEN && tci_str_eq(wire.bytes, id)) return true;
  return false;
}

/* ---- records ---- */

enum { RECORD_FORMAT_FIELD = 1, RECORD_WALL = 2, RECORD_VERSION = 3, RECORD_CHANGE = 4, RECORD_ORDER = 5 };

void tci_record_put_header(tci_buf *out, int64_t wall_us, uint64_t version) {
  tci_wire_put_uint(out, RECORD_FORMAT_FIELD, TCI_RECORD_FORMAT);
  tci_wire_put_uint(out, RECORD_WALL, (uint64_t)wall_us);
  tci_wire_put_uint(out, RECORD_VERSION, version);
}

void tci_record_put_order(tci_buf *out, uint64_t order) {
  if (order) tci_wire_put_uint(out, RECORD_ORDER, order);
}

void tci_record_put_change(tci_buf *out, const tci_change *change, tci_buf *scratch) {
  tci_buf_clear(scratch);
  tci_change_encode(change, scratch);
  tci_wire_put_bytes(out, RECORD_CHANGE, tci_buf_str(scratch));
}

bool tci_record_open(tci_str bytes, tci_record_reader *reader) {
  *reader = (tci_record_reader){.reader = tci_wire_read(bytes)};
  tci_wire_reader scan = reader->reader;
  tci_wire_field wire;
  while (tci_wire_next(&scan, &wire)) {
    switch (wire.number) {
      case RECORD_FORMAT_FIELD: reader->format = wire.value; break;
      case RECORD_WALL: reader->wall_us = (int64_t)wire.value; break;
      case RECORD_VERSION: reader->version = wire.value; break;
      case RECORD_ORDER: reader->order = wire.value; break;
      case RECORD_CHANGE: reader->changes++; break;
      default: break;
    }
  }
  return scan.at == scan.end && reader->format == TCI_RECORD_FORMAT && reader->changes > 0;
}

int tci_record_next(tci_record_reader *reader, tci_change *out) {
  tci_wire_field wire;
  while (tci_wire_next(&reader->reader, &wire)) {
    if (wire.number != RECORD_CHANGE) continue;
    return wire.type == TCI_WIRE_LEN && tci_change_decode(wire.bytes, out) ? 1 : -1;
  }
  return reader->reader.at == reader->reader.end ? 0 : -1;
}
