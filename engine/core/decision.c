/* decision: the record of a decision, as it is kept with its attempt and in the journal.
 *
 * Field numbers are for ever. A zero is not written: absent and zero are the same.
 */
#include "base/wire.h"
#include "core/policy.h"

enum {
  HOOK = 1, /* + 1 */
  POLICY = 2,
  VERSION = 3,
  REASON = 4,
  FAULT = 5,
  AT = 6,
  RUNNER = 7,
  CANDIDATE = 8, /* { 1: runner id, 2: load } */
  TOTAL = 9,
  AGAIN = 10,
  AFTER = 11,
  EXCLUDED = 12,
};

static void put_str(tci_buf *out, uint32_t number, tci_str s) {
  if (s.len) tci_wire_put_bytes(out, number, s);
}

static void put_int(tci_buf *out, uint32_t number, int64_t value) {
  if (value) tci_wire_put_uint(out, number, (uint64_t)value);
}

static size_t varint_bytes(uint64_t value) {
  size_t n = 1;
  while (value >>= 7) n++;
  return n;
}

static void put_candidate(tci_buf *out, const tci_candidate *c) {
  size_t len = 1 + varint_bytes(c->runner_id.len) + c->runner_id.len;
  if (c->load) len += 1 + varint_bytes((uint64_t)c->load);
  tci_wire_put_varint(out, CANDIDATE << 3 | TCI_WIRE_LEN);
  tci_wire_put_varint(out, len);
  tci_wire_put_bytes(out, 1, c->runner_id);
  put_int(out, 2, c->load);
}

void tci_decision_encode(const tci_decision_record *r, tci_buf *out) {
  tci_wire_put_uint(out, HOOK, (uint64_t)r->hook + 1);
  put_str(out, POLICY, r->policy);
  put_str(out, VERSION, r->version);
  put_str(out, REASON, r->reason);
  put_str(out, FAULT, r->fault);
  put_int(out, AT, r->at_us);
  put_str(out, RUNNER, r->runner_id);
  for (size_t i = 0; i < r->candidates_len; i++) put_candidate(out, &r->candidates[i]);
  put_int(out, TOTAL, r->candidates_total);
  put_int(out, AGAIN, r->again);
  put_int(out, AFTER, r->after_us);
  for (size_t i = 0; i < r->exclude.len; i++) put_str(out, EXCLUDED, r->exclude.items[i]);
}

static bool get_candidate(tci_str bytes, tci_candidate *out) {
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.number == 1 && wire.type == TCI_WIRE_LEN) out->runner_id = wire.bytes;
    if (wire.number == 2 && wire.type == TCI_WIRE_VARINT) out->load = (int64_t)wire.value;
  }
  return reader.at == reader.end;
}

static bool get_text(tci_decision_record *r, const tci_wire_field *wire) {
  switch (wire->number) {
    case POLICY: r->policy = wire->bytes; break;
    case VERSION: r->version = wire->bytes; break;
    case REASON: r->reason = wire->bytes; break;
    case FAULT: r->fault = wire->bytes; break;
    case RUNNER: r->runner_id = wire->bytes; break;
    case CANDIDATE: return get_candidate(wire->bytes, &r->candidates[r->candidates_len++]);
    case EXCLUDED: r->exclude.items[r->exclude.len++] = wire->bytes; break;
    default: break; /* a newer engine's field */
  }
  return true;
}

static void get_number(tci_decision_record *r, const tci_wire_field *wire) {
  switch (wire->number) {
    case HOOK: r->hook = (tci_hook)(wire->value - 1); break;
    case AT: r->at_us = (int64_t)wire->value; break;
    case TOTAL: r->candidates_total = (int64_t)wire->value; break;
    case AGAIN: r->again = wire->value != 0; break;
    case AFTER: r->after_us = (int64_t)wire->value; break;
    default: break;
  }
}

bool tci_decision_decode(tci_str bytes, tci_arena *arena, tci_decision_record *out) {
  *out = (tci_decision_record){.hook = TCI_HOOKS};
  size_t candidates = 0, excluded = 0;
  tci_wire_field wire;
  tci_wire_reader reader = tci_wire_read(bytes);
  while (tci_wire_next(&reader, &wire)) {
    if (wire.type != TCI_WIRE_LEN) continue;
    candidates += wire.number == CANDIDATE;
    excluded += wire.number == EXCLUDED;
  }
  if (reader.at != reader.end) return false;
  out->candidates = tci_arena_array(arena, tci_candidate, candidates + 1);
  out->exclude.items = tci_arena_array(arena, tci_str, excluded + 1);
  for (reader = tci_wire_read(bytes); tci_wire_next(&reader, &wire);) {
    if (wire.type == TCI_WIRE_LEN && !get_text(out, &wire)) return false;
    if (wire.type == TCI_WIRE_VARINT) get_number(out, &wire);
  }
  return (unsigned)out->hook < TCI_HOOKS;
}
