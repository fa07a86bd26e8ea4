/* wire: protobuf's wire format, the little of it that is needed without descriptors: varints, tags, lengths.
 * The journal's changes are written with it, and google.protobuf.Struct values are merged and brought into
 * canonical form with it, without ever being decoded.
 */
#ifndef TCI_BASE_WIRE_H
#define TCI_BASE_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

typedef enum { TCI_WIRE_VARINT = 0, TCI_WIRE_I64 = 1, TCI_WIRE_LEN = 2, TCI_WIRE_I32 = 5 } tci_wire_type;

typedef struct {
  const uint8_t *at, *end;
} tci_wire_reader;

typedef struct {
  uint32_t number; /* 1..536870911 */
  tci_wire_type type;
  uint64_t value; /* VARINT, I64, I32 */
  tci_str bytes;  /* LEN */
} tci_wire_field;

static inline tci_wire_reader tci_wire_read(tci_str s) {
  const uint8_t *at = (const uint8_t *)s.ptr;
  return (tci_wire_reader){at, s.len ? at + s.len : at};
}
/* True and *out filled, or false at the end or at malformed bytes (then reader->at != reader->end).
 * Groups (wire types 3 and 4) and varints over 10 bytes are malformed. */
bool tci_wire_next(tci_wire_reader *reader, tci_wire_field *out);
bool tci_wire_varint(tci_wire_reader *reader, uint64_t *out);

void tci_wire_put_varint(tci_buf *buf, uint64_t value);
void tci_wire_put_uint(tci_buf *buf, uint32_t number, uint64_t value); /* tag + varint, zero included */
void tci_wire_put_bytes(tci_buf *buf, uint32_t number, tci_str bytes); /* tag + length + bytes, empty included */

/* An encoded google.protobuf.Struct, its entries in key order. */
/* Appends the canonical form of `s` to out: entries sorted by key at every level, of equal keys the last one
 * kept, unknown fields dropped, each Value with just its last set kind. False when the bytes are malformed or nested deeper than
 * depth_max. The same value always gives the same bytes. */
bool tci_struct_canonical(tci_str s, int depth_max, tci_buf *out);
/* Appends the merge of two canonical Structs: over's entries replace base's, key by key at the top level. */
void tci_struct_merge(tci_str base, tci_str over, tci_buf *out);
/* Appends `s` with one entry more (or replaced): key = an encoded google.protobuf.Value. */
void tci_struct_set(tci_str s, tci_str key, tci_str value, tci_buf *out);
/* Appends an encoded google.protobuf.Value: */
void tci_value_put_string(tci_buf *out, tci_str s);
void tci_value_put_number(tci_buf *out, double number);
void tci_value_put_struct(tci_buf *out, tci_str encoded_struct);
/* ... a list of the Values that lie one after another in `values`, each as (varint length, bytes). */
void tci_value_put_list(tci_buf *out, tci_str values);

#endif
