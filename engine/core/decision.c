/* decision: the record of a decision, as it is kept with its attempt and in the journal.
 *
 * Field numbers are for ever. A zero is not written: absent and zero are the same.
 */
#include "core/change.h"
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
  EXECUTION = 13,
  STALE = 14,
  QUEUE = 15,
  PRIORITY = 16, /* zigzag */
  KEY = 17,      /* { 1: key, 2: limit } */
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

/* { 1: name, 2: n } */
static void put_pair(tci_buf *out, uint32_t number, tci_str name, int64_t n) {
  size_t len = 1 + varint_bytes(name.len) + name.len;
  if (n) len += 1 + varint_bytes((uint64_t)n);
  tci_wire_put_varint(out, number << 3 | TCI_WIRE_LEN);
  tci_wire_put_varint(out, len);
  tci_wire_put_bytes(out, 1, name);
  put_int(out, 2, n);
}

void tci_decision_encode(const tci_decision_record *r, tci_buf *out) {
  tci_wire_put_uint(out, HOOK, (uint64_t)r->hook + 1);
  put_str(out, POLICY, r->policy);
  put_str(out, VERSION, r->version);
  put_str(out, REASON, r->reason);
  put_str(out, FAULT, r->fault);
  put_int(out, AT, r->at_us);
  put_str(out, RUNNER, r->runner_id);
  for (size_t i = 0; i < r->candidates_len; i++)
    put_pair(out, CANDIDATE, r->candidates[i].runner_id, r->candidates[i].load);
  put_int(out, TOTAL, r->candidates_total);
  put_int(out, AGAIN, r->again);
  put_int(out, AFTER, r->after_us);
  for (size_t i = 0; i < r->exclude.len; i++) put_str(out, EXCLUDED, r->exclude.items[i]);
  put_int(out, EXECUTION, r->execution_ms);
  put_int(out, STALE, r->stale_ms);
  put_int(out, QUEUE, r->queue_ms);
  put_int(out, PRIORITY, (int64_t)tci_zigzag(r->priority));
  for (size_t i = 0; i < r->keys_len; i++) put_pair(out, KEY, r->keys[i].key, r->keys[i].limit);
}

static bool get_pair(tci_str bytes, tci_str *name, int64_t *n) {
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field wire;
  while (tci_wire_next(&reader, &wire)) {
    if (wire.number == 1 && wire.type == TCI_WIRE_LEN) *name = wire.bytes;
    if (wire.number == 2 && wire.type == TCI_WIRE_VARINT) *n = (int64_t)wire.value;
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
    case CANDIDATE: {
      tci_candidate *c = &r->candidates[r->candidates_len++];
      return get_pair(wire->bytes, &c->runner_id, &c->load);
    }
    case KEY: {
      tci_admission *a = &r->keys[r->keys_len++];
      return get_pair(wire->bytes, &a->key, &a->limit);
    }
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
    case EXECUTION: r->execution_ms = (int64_t)wire->value; break;
    case STALE: r->stale_ms = (int64_t)wire->value; break;
    case QUEUE: r->queue_ms = (int64_t)wire->value; break;
    case PRIORITY: r->priority = tci_unzigzag(wire->value); break;
    default: break;
  }
}

bool tci_decision_decode(tci_str bytes, tci_arena *arena, tci_decision_record *out) {
  *out = (tci_decision_record){.hook = TCI_HOOKS};
  size_t candidates = 0, excluded = 0, keys = 0;
  tci_wire_field wire;
  tci_wire_reader reader = tci_wire_read(bytes);
  while (tci_wire_next(&reader, &wire)) {
    if (wire.type != TCI_WIRE_LEN) continue;
    candidates += wire.number == CANDIDATE;
    excluded += wire.number == EXCLUDED;
    keys += wire.number == KEY;
  }
  if (reader.at != reader.end) return false;
  out->candidates = tci_arena_array(arena, tci_candidate, candidates + 1);
  out->exclude.items = tci_arena_array(arena, tci_str, excluded + 1);
  out->keys = tci_arena_array(arena, tci_admission, keys + 1);
  for (reader = tci_wire_read(bytes); tci_wire_next(&reader, &wire);) {
    if (wire.type == TCI_WIRE_LEN && !get_text(out, &wire)) return false;
    if (wire.type == TCI_WIRE_VARINT) get_number(out, &wire);
  }
  return (unsigned)out->hook < TCI_HOOKS;
}
