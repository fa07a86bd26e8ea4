/* wire: reading and writing protobuf's wire format, and google.protobuf.Struct values without decoding them.
 *
 * A Struct on the wire, all that this file knows of it:
 *
 *   Struct    1 fields: repeated Entry          Value     1 null: varint    2 number: 64 bits   3 string
 *   Entry     1 key: string   2 value: Value              4 bool: varint    5 struct: Struct    6 list: List
 *   List      1 values: repeated Value
 *
 * 1. The canonical form says what a protobuf parser would have understood: of equal keys the last entry counts, of
 *    several kinds in a Value the last one, a field of a wrong wire type is unknown. A message field that stands
 *    twice is merged with itself: hence messages come as several `parts`, read one after another.
 * 2. Everything is checked, also what is then dropped.
 * 3. Entries always have their key and their value; null is 0, true is 1, a number keeps its 64 bits. Text is not
 *    checked for UTF-8: that is done at the door.
 * 4. A level of nesting is a Struct or a List, the outermost Struct being level 1; recursion ends at depth_max.
 * 5. The form is written from its end to its start, so that a length is known when its prefix is due: the time is
 *    linear, but for the sorting.
 *
 * Callers: the codec (canonical form of options, args, results), the core (merge, set), the store's journal. The
 * inputs of merge and set are our own canonical bytes: malformed ones there are a programmer's error. What is
 * appended to `out` must not lie in `out`.
 */
#include "base/wire.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/vec.h"

enum {
  NUMBER_MAX = 536870911,
  VARINT_BYTES_MAX = 10,
  STRUCT_FIELDS = 1,
  ENTRY_KEY = 1,
  ENTRY_VALUE = 2,
  LIST_VALUES = 1,
};

typedef enum {
  KIND_NONE = 0,
  KIND_NULL = 1,
  KIND_NUMBER = 2,
  KIND_STRING = 3,
  KIND_BOOL = 4,
  KIND_STRUCT = 5,
  KIND_LIST = 6,
} value_kind;

/* Bytes that grow towards their start. */
typedef struct {
  uint8_t *bytes;
  size_t start, cap; /* bytes[start..cap) is written */
} back_buf;

typedef struct {
  tci_str key;
  size_t part_first, part_count; /* its Value's parts; at least one */
} struct_entry;

typedef struct {
  back_buf out;
  TCI_VEC(tci_str) parts;        /* a stack: every message under work has its parts here */
  TCI_VEC(struct_entry) entries; /* a stack: every Struct under work has its entries here */
} canon;

static bool struct_write(canon *c, size_t part_first, size_t part_count, int depth_left);
static size_t varint_encode(uint64_t value, uint8_t out[VARINT_BYTES_MAX]);
static size_t back_len(const back_buf *out);
static void field_next(tci_wire_reader *reader, tci_wire_field *out);
static tci_str entry_key(const tci_wire_field *entry);

/* ---- fields ---- */

bool tci_wire_varint(tci_wire_reader *reader, uint64_t *out) {
  uint64_t value = 0;
  const uint8_t *at = reader->at;
  for (int i = 0; i < VARINT_BYTES_MAX && at < reader->end; i++) {
    uint8_t byte = *at++;
    if (i == VARINT_BYTES_MAX - 1 && byte > 1) return false; /* over 64 bits */
    value |= (uint64_t)(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      reader->at = at;
      *out = value;
      return true;
    }
  }
  return false;
}

static bool fixed(tci_wire_reader *reader, size_t bytes, uint64_t *out) {
  if ((size_t)(reader->end - reader->at) < bytes) return false;
  *out = 0;
  for (size_t i = 0; i < bytes; i++) *out |= (uint64_t)reader->at[i] << (8 * i);
  reader->at += bytes;
  return true;
}

bool tci_wire_next(tci_wire_reader *reader, tci_wire_field *out) {
  if (reader->at == reader->end) return false;
  tci_wire_reader r = *reader; /* the caller's stays before malformed bytes: never at the end */
  uint64_t tag, length;
  if (!tci_wire_varint(&r, &tag) || tag >> 3 == 0 || tag >> 3 > NUMBER_MAX) return false;
  *out = (tci_wire_field){.number = (uint32_t)(tag >> 3), .type = (tci_wire_type)(tag & 7)};
  switch (out->type) {
    case TCI_WIRE_VARINT:
      if (!tci_wire_varint(&r, &out->value)) return false;
      break;
    case TCI_WIRE_I64:
      if (!fixed(&r, 8, &out->value)) return false;
      break;
    case TCI_WIRE_I32:
      if (!fixed(&r, 4, &out->value)) return false;
      break;
    case TCI_WIRE_LEN:
      if (!tci_wire_varint(&r, &length) || length > (uint64_t)(r.end - r.at)) return false;
      out->bytes = (tci_str){(const char *)r.at, (size_t)length};
      r.at += length;
      break;
    default: return false; /* groups, and what was never given out */
  }
  *reader = r;
  return true;
}

void tci_wire_put_varint(tci_buf *buf, uint64_t value) {
  buf->len += varint_encode(value, (uint8_t *)tci_buf_reserve(buf, VARINT_BYTES_MAX));
}

void tci_wire_put_uint(tci_buf *buf, uint32_t number, uint64_t value) {
  tci_wire_put_varint(buf, (uint64_t)number << 3 | TCI_WIRE_VARINT);
  tci_wire_put_varint(buf, value);
}

void tci_wire_put_bytes(tci_buf *buf, uint32_t number, tci_str bytes) {
  tci_wire_put_varint(buf, (uint64_t)number << 3 | TCI_WIRE_LEN);
  tci_wire_put_varint(buf, bytes.len);
  tci_buf_add(buf, bytes);
}

/* ---- Struct ---- */

bool tci_struct_canonical(tci_str s, int depth_max, tci_buf *out) {
  canon c = {.out = {NULL, 0, 0}};
  tci_vec_push(&c.parts, s);
  bool ok = struct_write(&c, 0, 1, depth_max);
  if (ok && c.out.bytes) tci_buf_add(out, (tci_str){(const char *)c.out.bytes + c.out.start, back_len(&c.out)});
  free(c.out.bytes);
  tci_vec_free(&c.parts);
  tci_vec_free(&c.entries);
  return ok;
}

void tci_struct_merge(tci_str base, tci_str over, tci_buf *out) {
  tci_wire_reader a = tci_wire_read(base), b = tci_wire_read(over);
  tci_wire_field entry_a, entry_b;
  field_next(&a, &entry_a);
  field_next(&b, &entry_b);
  while (entry_a.number || entry_b.number) {
    int order = !entry_a.number ? 1 : !entry_b.number ? -1 : tci_str_cmp(entry_key(&entry_a), entry_key(&entry_b));
    tci_wire_put_bytes(out, STRUCT_FIELDS, order < 0 ? entry_a.bytes : entry_b.bytes);
    if (order <= 0) field_next(&a, &entry_a);
    if (order >= 0) field_next(&b, &entry_b);
  }
}

void tci_struct_set(tci_str s, tci_str key, tci_str value, tci_buf *out) {
  tci_buf entry = {0}, one = {0};
  tci_wire_put_bytes(&entry, ENTRY_KEY, key);
  tci_wire_put_bytes(&entry, ENTRY_VALUE, value);
  tci_wire_put_bytes(&one, STRUCT_FIELDS, tci_buf_str(&entry));
  tci_struct_merge(s, tci_buf_str(&one), out);
  tci_buf_deinit(&entry);
  tci_buf_deinit(&one);
}

void tci_value_put_string(tci_buf *out, tci_str s) { tci_wire_put_bytes(out, KIND_STRING, s); }

void tci_value_put_number(tci_buf *out, double number) {
  uint64_t bits;
  memcpy(&bits, &number, sizeof bits);
  tci_buf_byte(out, KIND_NUMBER << 3 | TCI_WIRE_I64);
  for (int i = 0; i < 8; i++) tci_buf_byte(out, (uint8_t)(bits >> (8 * i)));
}

void tci_value_put_struct(tci_buf *out, tci_str encoded_struct) {
  tci_wire_put_bytes(out, KIND_STRUCT, encoded_struct);
}

void tci_value_put_list(tci_buf *out, tci_str values) {
  tci_buf list = {0};
  tci_wire_reader reader = tci_wire_read(values);
  while (reader.at != reader.end) {
    uint64_t length;
    bool ok = tci_wire_varint(&reader, &length) && length <= (uint64_t)(reader.end - reader.at);
    tci_assert(ok);
    tci_wire_put_bytes(&list, LIST_VALUES, (tci_str){(const char *)reader.at, (size_t)length});
    reader.at += length;
  }
  tci_wire_put_bytes(out, KIND_LIST, tci_buf_str(&list));
  tci_buf_deinit(&list);
}

/* ---- merge ---- */

/* The next entry of a canonical Struct, or number 0 at its end. */
static void field_next(tci_wire_reader *reader, tci_wire_field *out) {
  *out = (tci_wire_field){.number = 0};
  bool more = tci_wire_next(reader, out);
  tci_assert(more ? out->number == STRUCT_FIELDS && out->type == TCI_WIRE_LEN : reader->at == reader->end);
}

static tci_str entry_key(const tci_wire_field *entry) {
  tci_wire_reader reader = tci_wire_read(entry->bytes);
  tci_wire_field key;
  bool ok = tci_wire_next(&reader, &key) && key.number == ENTRY_KEY && key.type == TCI_WIRE_LEN;
  tci_assert(ok);
  return key.bytes;
}

/* ---- canonical form: writing backwards ---- */

static void back_bytes(back_buf *out, const void *bytes, size_t len) {
  if (len == 0) return;
  if (len > out->start) {
    size_t used = out->cap - out->start, cap = out->cap ? out->cap : 256;
    while (cap < used + len) cap *= 2;
    uint8_t *wider = tci_malloc(cap);
    if (used) memcpy(wider + cap - used, out->bytes + out->start, used);
    free(out->bytes);
    *out = (back_buf){wider, cap - used, cap};
  }
  out->start -= len;
  memcpy(out->bytes + out->start, bytes, len);
}

static void back_varint(back_buf *out, uint64_t value) {
  uint8_t bytes[VARINT_BYTES_MAX];
  back_bytes(out, bytes, varint_encode(value, bytes));
}

static void back_tag(back_buf *out, uint32_t number, tci_wire_type type) { back_varint(out, number << 3 | type); }

/* How much is written; the mark to measure a message from, or to go back to. */
static size_t back_len(const back_buf *out) { return out->cap - out->start; }

static void back_rewind(back_buf *out, size_t len) { out->start = out->cap - len; }

/* Closes a message field whose content was written since `mark`. */
static void back_close(back_buf *out, uint32_t number, size_t mark) {
  back_varint(out, back_len(out) - mark);
  back_tag(out, number, TCI_WIRE_LEN);
}

/* ---- canonical form: the messages; each writes what its parts say, or returns false when they are malformed ---- */

static value_kind kind_of(const tci_wire_field *field) {
  static const tci_wire_type types[] = {
      [KIND_NULL] = TCI_WIRE_VARINT, [KIND_NUMBER] = TCI_WIRE_I64, [KIND_STRING] = TCI_WIRE_LEN,
      [KIND_BOOL] = TCI_WIRE_VARINT, [KIND_STRUCT] = TCI_WIRE_LEN, [KIND_LIST] = TCI_WIRE_LEN,
  };
  bool known = field->number >= KIND_NULL && field->number <= KIND_LIST && types[field->number] == field->type;
  return known ? (value_kind)field->number : KIND_NONE;
}

static bool value_write(canon *c, size_t part_first, size_t part_count, int depth_left);

static bool list_write(canon *c, size_t part_first, size_t part_count, int depth_left) {
  if (depth_left <= 0) return false;
  size_t first = c->parts.len;
  for (size_t i = part_first; i < part_first + part_count; i++) {
    tci_wire_reader reader = tci_wire_read(c->parts.items[i]);
    tci_wire_field field;
    while (tci_wire_next(&reader, &field))
      if (field.number == LIST_VALUES && field.type == TCI_WIRE_LEN) tci_vec_push(&c->parts, field.bytes);
    if (reader.at != reader.end) return false;
  }
  for (size_t i = c->parts.len; i > first; i--) {
    size_t mark = back_len(&c->out);
    if (!value_write(c, i - 1, 1, depth_left - 1)) return false;
    back_close(&c->out, LIST_VALUES, mark);
  }
  c->parts.len = first;
  return true;
}

/* The kind that the parts from part_first to the top of the stack are of. */
static bool message_write(canon *c, value_kind kind, size_t part_first, int depth_left) {
  size_t count = c->parts.len - part_first;
  return kind == KIND_STRUCT ? struct_write(c, part_first, count, depth_left)
                             : list_write(c, part_first, count, depth_left);
}

static void scalar_write(canon *c, const tci_wire_field *field) {
  switch ((value_kind)field->number) {
    case KIND_NULL: back_varint(&c->out, 0); break;
    case KIND_BOOL: back_varint(&c->out, field->value != 0); break;
    case KIND_STRING:
      back_bytes(&c->out, field->bytes.ptr, field->bytes.len);
      back_varint(&c->out, field->bytes.len);
      break;
    case KIND_NUMBER:
      for (int i = 7; i >= 0; i--) back_bytes(&c->out, &(uint8_t){(uint8_t)(field->value >> (8 * i))}, 1);
      break;
    default: tci_unreachable();
  }
  back_tag(&c->out, field->number, field->type);
}

/* A Value's last kind; for Struct and List all the parts since another kind was set. */
static bool value_write(canon *c, size_t part_first, size_t part_count, int depth_left) {
  size_t mark = back_len(&c->out), run = c->parts.len;
  value_kind kind = KIND_NONE;
  tci_wire_field last = {.number = 0};
  for (size_t i = part_first; i < part_first + part_count; i++) {
    tci_wire_reader reader = tci_wire_read(c->parts.items[i]);
    tci_wire_field field;
    while (tci_wire_next(&reader, &field)) {
      value_kind next = kind_of(&field);
      if (next == KIND_NONE) continue;
      if (next != kind && kind >= KIND_STRUCT) { /* overruled, but checked all the same */
        if (!message_write(c, kind, run, depth_left)) return false;
        back_rewind(&c->out, mark);
        c->parts.len = run;
      }
      kind = next;
      last = field;
      if (kind >= KIND_STRUCT) tci_vec_push(&c->parts, field.bytes);
    }
    if (reader.at != reader.end) return false;
  }
  if (kind >= KIND_STRUCT) {
    if (!message_write(c, kind, run, depth_left)) return false;
    back_close(&c->out, kind, mark);
    c->parts.len = run;
  } else if (kind != KIND_NONE) {
    scalar_write(c, &last);
  }
  return true;
}

/* Pushes an entry: its last key, and all its Value's parts. */
static bool entry_read(canon *c, tci_str bytes) {
  struct_entry entry = {.part_first = c->parts.len};
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field field;
  while (tci_wire_next(&reader, &field)) {
    if (field.type != TCI_WIRE_LEN) continue;
    if (field.number == ENTRY_KEY) entry.key = field.bytes;
    if (field.number == ENTRY_VALUE) tci_vec_push(&c->parts, field.bytes);
  }
  if (reader.at != reader.end) return false;
  /* A part even for a Value that is not there: part_first tells equal keys apart by their order. */
  if (c->parts.len == entry.part_first) tci_vec_push(&c->parts, TCI_STR(""));
  entry.part_count = c->parts.len - entry.part_first;
  tci_vec_push(&c->entries, entry);
  return true;
}

static int entry_order(const void *left, const void *right) {
  const struct_entry *a = left, *b = right;
  int order = tci_str_cmp(a->key, b->key);
  return order ? order : (a->part_first > b->part_first) - (a->part_first < b->part_first);
}

static bool struct_write(canon *c, size_t part_first, size_t part_count, int depth_left) {
  if (depth_left <= 0) return false;
  size_t parts = c->parts.len, first = c->entries.len;
  for (size_t i = part_first; i < part_first + part_count; i++) {
    tci_wire_reader reader = tci_wire_read(c->parts.items[i]);
    tci_wire_field field;
    while (tci_wire_next(&reader, &field))
      if (field.number == STRUCT_FIELDS && field.type == TCI_WIRE_LEN && !entry_read(c, field.bytes)) return false;
    if (reader.at != reader.end) return false;
  }
  size_t count = c->entries.len - first;
  if (count > 1) qsort(c->entries.items + first, count, sizeof *c->entries.items, entry_order);
  for (size_t i = c->entries.len; i > first; i--) {
    struct_entry entry = c->entries.items[i - 1]; /* a copy: the stack moves when it grows */
    bool overruled = i - first < count && tci_str_eq(entry.key, c->entries.items[i].key);
    size_t mark = back_len(&c->out);
    if (!value_write(c, entry.part_first, entry.part_count, depth_left - 1)) return false;
    if (overruled) {
      back_rewind(&c->out, mark);
      continue;
    }
    back_close(&c->out, ENTRY_VALUE, mark);
    back_bytes(&c->out, entry.key.ptr, entry.key.len);
    back_varint(&c->out, entry.key.len);
    back_tag(&c->out, ENTRY_KEY, TCI_WIRE_LEN);
    back_close(&c->out, STRUCT_FIELDS, mark);
  }
  c->entries.len = first;
  c->parts.len = parts;
  return true;
}

/* ---- varints ---- */

static size_t varint_encode(uint64_t value, uint8_t out[VARINT_BYTES_MAX]) {
  size_t n = 0;
  for (; value >= 0x80; value >>= 7) out[n++] = (uint8_t)(value | 0x80);
  out[n++] = (uint8_t)value;
  return n;
}
