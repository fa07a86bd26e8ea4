/* change: one table says which member is which field; encoding and decoding walk it.
 *
 * Field numbers are for ever. A zero is not written: absent and zero are the same.
 */
#include "core/change.h"

#include <string.h>

typedef struct {
  uint16_t number;
  uint16_t is_string;
  size_t offset;
} field;

#define U(number, member) \
  { number, 0, offsetof(tci_change, member) }
#define S(number, member) \
  { number, 1, offsetof(tci_change, member) }
static const field fields[] = {
    U(1, type),
    U(2, node),
    U(3, version),
    U(4, state),
    U(5, outcome),
    U(6, reason),
    S(7, id),
    S(8, kind),
    S(9, bytes),
    S(10, dependencies),
    S(11, assignments),
    U(12, mode),
    U(13, priority),
    U(14, retry_max),
    U(15, backoff_ms),
    U(16, backoff_ms_max),
    U(17, execution_ms),
    U(18, stale_ms),
    U(19, attempt),
    U(20, execution),
    S(21, execution_id),
    S(22, process_uid),
    S(23, runner_id),
    S(24, registration_id),
    S(25, runner_execution_id),
    U(26, not_before_us),
    U(27, deadline_us),
    U(28, accepted),
    U(29, failed),
    U(30, failure_kind),
    S(31, failure_message),
    U(32, failure_us),
    U(33, has_digest),
    U(34, digest0),
    U(35, digest1),
    S(36, message),
    U(37, result),
    S(38, owner_type),
    S(39, owner_id),
    U(40, finalized),
    S(41, address),
    U(42, max_concurrent),
    U(43, ttl_ms),
    S(44, metadata),
    U(45, at_us),
    U(46, edges_follow),
    U(47, created),
    U(48, move_follows),
};
#undef U
#undef S
enum { FIELDS = sizeof fields / sizeof fields[0] };

void tci_change_encode(const tci_change *change, tci_buf *out) {
  for (size_t i = 0; i < FIELDS; i++) {
    const char *member = (const char *)change + fields[i].offset;
    if (fields[i].is_string) {
      const tci_str *s = (const tci_str *)(const void *)member;
      if (s->len) tci_wire_put_bytes(out, fields[i].number, *s);
    } else {
      uint64_t value;
      memcpy(&value, member, sizeof value);
      if (value) tci_wire_put_uint(out, fields[i].number, value);
    }
  }
}

bool tci_change_decode(tci_str bytes, tci_change *out) {
  memset(out, 0, sizeof *out);
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.number > FIELDS) continue; /* a newer engine's field */
    const field *f = &fields[wire.number - 1];
    char *member = (char *)out + f->offset;
    if (f->is_string) {
      if (wire.type != TCI_WIRE_LEN) return false;
      memcpy(member, &wire.bytes, sizeof wire.bytes);
    } else {
      if (wire.type != TCI_WIRE_VARINT) return false;
      memcpy(member, &wire.value, sizeof wire.value);
    }
  }
  return reader.at == reader.end && out->type != 0;
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

/* ---- records ---- */

enum { RECORD_FORMAT_FIELD = 1, RECORD_WALL = 2, RECORD_VERSION = 3, RECORD_CHANGE = 4 };

void tci_record_put_header(tci_buf *out, int64_t wall_us, uint64_t version) {
  tci_wire_put_uint(out, RECORD_FORMAT_FIELD, TCI_RECORD_FORMAT);
  tci_wire_put_uint(out, RECORD_WALL, (uint64_t)wall_us);
  tci_wire_put_uint(out, RECORD_VERSION, version);
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
