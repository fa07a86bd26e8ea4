/* wire: protobuf fields, and the canonical form, merge and set of google.protobuf.Struct.
 *
 * The bytes of Structs were written by another implementation (protobuf 3.21, Python): the left ones as it wrote
 * them or as it would read them, the right ones its deterministic serialisation of what it had read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"

enum { DEPTH = 64 };

/* Hex digits as heap bytes of exactly that size, so that a read past the end is seen. */
static tci_str unhex(const char *hex) {
  size_t len = 0;
  char *bytes = malloc(strlen(hex) / 2 + 1);
  int half = -1;
  for (; *hex; hex++) {
    if (*hex == ' ') continue;
    int digit = *hex <= '9' ? *hex - '0' : *hex - 'a' + 10;
    if (half >= 0) bytes[len++] = (char)(half << 4 | digit);
    half = half >= 0 ? -1 : digit;
  }
  tci_str exact = tci_str_dup((tci_str){bytes, len});
  free(bytes);
  return exact;
}

static void assert_bytes(tci_str got, tci_str want) {
  assert_int_equal(got.len, want.len);
  if (want.len) assert_memory_equal(got.ptr, want.ptr, want.len);
}

static void assert_hex(const tci_buf *got, const char *hex) {
  tci_str want = unhex(hex);
  assert_bytes(tci_buf_str(got), want);
  tci_str_free(&want);
}

/* ---- fields ---- */

static void varints_come_back_as_they_were_put(void **state) {
  (void)state;
  static const uint64_t values[] = {0,         1, 127, 128, 300, 16383, 16384, UINT32_MAX, INT64_MAX, UINT64_MAX - 1,
                                    UINT64_MAX};
  tci_buf buf = {0};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) tci_wire_put_varint(&buf, values[i]);
  tci_wire_reader reader = tci_wire_read(tci_buf_str(&buf));
  uint64_t value;
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    assert_true(tci_wire_varint(&reader, &value));
    assert_true(value == values[i]);
  }
  assert_false(tci_wire_varint(&reader, &value));
  tci_buf_clear(&buf);
  tci_wire_put_varint(&buf, 300);
  tci_wire_put_varint(&buf, UINT64_MAX);
  assert_hex(&buf, "ac02 ffffffffffffffffff01");
  tci_buf_deinit(&buf);
}

static void fields_of_every_type_are_read(void **state) {
  (void)state;
  tci_str bytes = unhex("08 9601  11 0100000000000080  1a 03 616263  25 02000080  fa ff ff ff 0f 00");
  tci_wire_reader reader = tci_wire_read(bytes);
  tci_wire_field field;
  assert_true(tci_wire_next(&reader, &field));
  assert_true(field.number == 1 && field.type == TCI_WIRE_VARINT && field.value == 150);
  assert_true(tci_wire_next(&reader, &field));
  assert_true(field.number == 2 && field.type == TCI_WIRE_I64 && field.value == 0x8000000000000001u);
  assert_true(tci_wire_next(&reader, &field));
  assert_true(field.number == 3 && field.type == TCI_WIRE_LEN && tci_str_eq(field.bytes, TCI_STR("abc")));
  assert_true(tci_wire_next(&reader, &field));
  assert_true(field.number == 4 && field.type == TCI_WIRE_I32 && field.value == 0x80000002u);
  assert_true(tci_wire_next(&reader, &field));
  assert_true(field.number == 536870911 && field.type == TCI_WIRE_LEN && field.bytes.len == 0);
  assert_false(tci_wire_next(&reader, &field));
  assert_ptr_equal(reader.at, reader.end);
  tci_str_free(&bytes);
}

static void put_writes_zero_and_empty_too(void **state) {
  (void)state;
  tci_buf buf = {0};
  tci_wire_put_uint(&buf, 1, 0);
  tci_wire_put_uint(&buf, 16, 300);
  tci_wire_put_bytes(&buf, 2, (tci_str){NULL, 0});
  tci_wire_put_bytes(&buf, 536870911, TCI_STR("ab"));
  assert_hex(&buf, "08 00  80 01 ac 02  12 00  fa ff ff ff 0f 02 61 62");
  tci_buf_deinit(&buf);
}

static void malformed_fields_are_refused_and_the_reader_stays_before_them(void **state) {
  (void)state;
  static const char *const rows[] = {
      "08",                /* no value */
      "80",                /* half a tag */
      "00 00",             /* field number 0 */
      "02 00",             /* the same */
      "80 80 80 80 10 00", /* field number 536870912 */
      "88 80 80 80 80 80 80 80 80 01 00",
      "08 80",                      /* half a varint */
      "08 ffffffffffffffffff02",    /* over 64 bits */
      "08 8080808080808080808001",  /* 11 bytes */
      "11 00000000000000",          /* 7 of 8 */
      "25 000000",                  /* 3 of 4 */
      "0a",                         /* no length */
      "0a 01",                      /* 0 of 1 */
      "0a 05 61626364",             /* 4 of 5 */
      "0a ffffffffffffffffff01 61", /* a length that would wrap the address */
      "0a ffffffffffffffff7f 61",
      "0b 0c", /* a group */
      "0c",
      "0e 00",
      "0f 00", /* types 6 and 7 */
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tci_str bytes = unhex(rows[i]);
    tci_wire_reader reader = tci_wire_read(bytes);
    tci_wire_field field;
    if (tci_wire_next(&reader, &field)) fail_msg("row %zu was accepted", i);
    assert_ptr_equal(reader.at, bytes.ptr);
    tci_buf out = {0};
    if (tci_struct_canonical(bytes, DEPTH, &out)) fail_msg("row %zu became canonical", i);
    assert_int_equal(out.len, 0);
    tci_buf_deinit(&out);
    tci_str_free(&bytes);
  }
}

/* ---- canonical form ---- */

/* {"zeta": null, "alpha": 1.5, "mid": "grüße", "b": true, "a": false, "": "empty key", "nested":
 *   {"y": [1, "two", null, {"k": [], "j": {}}, [true]], "x": {"deep": -0.0}}} */
static const char everything_as_written[] =
    "0a650a066e6573746564125b2a590a3b0a01791236"
    "32340a0911000000000000f03f0a051a0374776f0a0208000a142a120a070a016b120232000a070a016a12022a00"
    "0a0632040a0220010a1a0a017812152a130a110a0464656570120911000000000000008"
    "00a0a0a047a657461120208000a0f0a00120b1a09656d707479206b65790a120a05616c706861120911000000000000f83f"
    "0a100a036d696412091a076772c3bcc39f650a070a0161120220000a070a016212022001";
static const char everything_canonical[] =
    "0a0f0a00120b1a09656d707479206b65790a070a0161120220000a120a05616c706861120911000000000000f83f"
    "0a070a0162120220010a100a036d696412091a076772c3bcc39f65"
    "0a650a066e6573746564125b2a590a1a0a017812152a130a110a046465657012091100000000000000800a3b0a01791236"
    "32340a0911000000000000f03f0a051a0374776f0a0208000a142a120a070a016a12022a000a070a016b12023200"
    "0a0632040a0220010a0a0a047a65746112020800";

static const struct {
  const char *claim, *in, *out;
} canonical_rows[] = {
    {"empty", "", ""},
    {"all kinds, entries sorted at all levels, list order kept", everything_as_written, everything_canonical},
    {"a Value without a kind stays", "0a080a046f6e6c791200", "0a080a046f6e6c791200"},
    {"of equal keys the last counts",
     "0a0e0a016b120911000000000000f03f 0a080a016a12031a0173 0a0e0a016b1209110000000000000040",
     "0a080a016a12031a0173 0a0e0a016b1209110000000000000040"},
    {"of several kinds the last counts", "0a1a0a016b12152a100a0e0a0161120911000000000000f03f1a0173",
     "0a080a016b12031a0173"},
    {"a Struct that stands twice is merged",
     "0a330a016b122e2a100a0e0a0161120911000000000000f03f2a1a0a0e0a01621209110000000000000040 0a080a016112031a0173",
     "0a210a016b121c2a1a0a080a016112031a01730a0e0a01621209110000000000000040"},
    {"but not with one before another kind",
     "0a320a016b122d2a100a0e0a0161120911000000000000f03f11000000000000f03f2a100a0e0a01621209110000000000000040",
     "0a170a016b12122a100a0e0a01621209110000000000000040"},
    {"a List that stands twice is joined", "0a0f0a016b120a32040a02200132020a00", "0a0d0a016b120832060a0220010a00"},
    {"an entry without key has the empty one", "0a021200", "0a040a001200"},
    {"an empty entry has both", "0a00", "0a040a001200"},
    {"a key may come after its value", "0a07120220050a016b", "0a070a016b12022001"},
    {"a Value that stands twice is merged", "0a0b12022a000a016b12022001", "0a070a016b12022001"},
    {"a field of a wrong type is unknown", "0a090a016b120418072001", "0a070a016b12022001"},
    {"unknown fields are dropped, at every level", "1005 0a0c0a016b120720017a0378797a", "0a070a016b12022001"},
    {"varints get their shortest form", "0a89000a016b1283002081 00", "0a070a016b12022001"},
    {"every true is 1", "0a080a016b12032080 02", "0a070a016b12022001"},
    {"every null is 0", "0a070a016b12020807", "0a070a016b12020800"},
    {"text is not looked into", "0a080a01ff12031a01fe", "0a080a01ff12031a01fe"},
    {"a longer key sorts after its beginning", "0a060a026161 1200 0a050a0161 1200 0a060a026100 1200",
     "0a050a01611200 0a060a0261001200 0a060a0261611200"},
};

static void the_canonical_form_is_what_a_parser_understood(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof canonical_rows / sizeof *canonical_rows; i++) {
    tci_str in = unhex(canonical_rows[i].in), want = unhex(canonical_rows[i].out);
    tci_buf out = {0};
    tci_buf_add(&out, TCI_STR("before")); /* it is appended */
    if (!tci_struct_canonical(in, DEPTH, &out)) fail_msg("refused: %s", canonical_rows[i].claim);
    tci_str got = {out.ptr + 6, out.len - 6};
    if (!tci_str_eq(got, want)) fail_msg("wrong bytes: %s", canonical_rows[i].claim);
    assert_memory_equal(out.ptr, "before", 6);
    tci_buf_deinit(&out);
    tci_str_free(&in);
    tci_str_free(&want);
  }
}

static void the_canonical_form_of_a_canonical_form_is_itself(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof canonical_rows / sizeof *canonical_rows; i++) {
    tci_str canonical = unhex(canonical_rows[i].out);
    tci_buf out = {0};
    assert_true(tci_struct_canonical(canonical, DEPTH, &out));
    assert_bytes(tci_buf_str(&out), canonical);
    tci_buf_deinit(&out);
    tci_str_free(&canonical);
  }
}

static void malformed_bytes_are_refused_at_every_level_also_where_they_are_dropped(void **state) {
  (void)state;
  static const char *const rows[] = {
      "0a 01 0a",                                      /* in an entry */
      "0a 05 0a016b 12 01",                            /* the Value is cut */
      "0a 06 0a016b 12 01 20",                         /* in a Value */
      "0a 08 0a016b 12 03 2a 01 0a",                   /* in a nested Struct */
      "0a 08 0a016b 12 03 32 01 0a",                   /* in a List */
      "0a 0a 0a016b 12 05 32 03 0a 01 20",             /* in a List's Value */
      "0a 06 0a016b 12 01 20 0a 07 0a016b 12 02 2001", /* in an entry that a later one replaces */
      "0a 0a 0a016b 12 05 2a 01 0a 20 01",             /* in a kind that a later one replaces */
      "0a 0a 0a016b 12 05 32 01 0a 20 01",
      "0a 0b 0a016b 12 06 2a 01 0a 2a 01 00", /* in one of two parts */
      "0a 07 0a016b 12 02 2001 0b 0c",        /* a group after the entries */
      "0a 07 0a016b 12 02 2b 2c",             /* a group for a kind */
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tci_str in = unhex(rows[i]);
    tci_buf out = {0};
    tci_buf_add(&out, TCI_STR("x"));
    if (tci_struct_canonical(in, DEPTH, &out)) fail_msg("row %zu was accepted", i);
    assert_int_equal(out.len, 1); /* nothing was appended */
    tci_buf_deinit(&out);
    tci_str_free(&in);
  }
}

static void every_cut_of_a_struct_is_refused_or_whole_entries(void **state) {
  (void)state;
  tci_str all = unhex(everything_as_written);
  int accepted = 0;
  for (size_t len = 0; len < all.len; len++) {
    tci_str cut = tci_str_dup((tci_str){all.ptr, len});
    tci_buf out = {0};
    accepted += tci_struct_canonical(cut, DEPTH, &out);
    tci_buf_deinit(&out);
    tci_str_free(&cut);
  }
  assert_int_equal(accepted, 7); /* before each of the seven entries */
  tci_str_free(&all);
}

/* A Struct with `levels` levels, the outermost included; every second one below it a List when `lists`. */
static void nest(tci_buf *out, int levels, bool lists) {
  tci_buf value = {0}, next = {0}, entry = {0};
  tci_value_put_struct(&value, (tci_str){NULL, 0}); /* the innermost level */
  for (int i = 2; i < levels; i++) {
    tci_buf_clear(&next);
    tci_buf_clear(&entry);
    if (lists && i % 2) {
      tci_wire_put_varint(&entry, value.len);
      tci_buf_add(&entry, tci_buf_str(&value));
      tci_value_put_list(&next, tci_buf_str(&entry));
    } else {
      tci_struct_set((tci_str){NULL, 0}, TCI_STR("k"), tci_buf_str(&value), &entry);
      tci_value_put_struct(&next, tci_buf_str(&entry));
    }
    tci_buf swap = value;
    value = next;
    next = swap;
  }
  tci_struct_set((tci_str){NULL, 0}, TCI_STR("k"), tci_buf_str(&value), out);
  tci_buf_deinit(&value);
  tci_buf_deinit(&next);
  tci_buf_deinit(&entry);
}

static void nesting_over_the_depth_is_refused(void **state) {
  (void)state;
  for (int lists = 0; lists < 2; lists++) {
    for (int levels = 62; levels < 67; levels++) {
      tci_buf in = {0}, out = {0};
      nest(&in, levels, lists);
      assert_int_equal(tci_struct_canonical(tci_buf_str(&in), DEPTH, &out), levels <= DEPTH);
      if (levels <= DEPTH) assert_bytes(tci_buf_str(&out), tci_buf_str(&in));
      tci_buf_deinit(&in);
      tci_buf_deinit(&out);
    }
  }
  tci_buf out = {0};
  assert_true(tci_struct_canonical((tci_str){NULL, 0}, 1, &out));
  assert_false(tci_struct_canonical((tci_str){NULL, 0}, 0, &out));
  tci_buf_deinit(&out);
}

static void a_nesting_of_thousands_does_not_exhaust_the_stack(void **state) {
  (void)state;
  tci_buf in = {0}, out = {0};
  nest(&in, 3000, true);
  assert_false(tci_struct_canonical(tci_buf_str(&in), DEPTH, &out));
  tci_buf_deinit(&in);
  tci_buf_deinit(&out);
}

static void a_wide_struct_is_sorted_whatever_its_order(void **state) {
  (void)state;
  enum { KEYS = 20000 };
  tci_buf in = {0}, entry = {0}, out = {0};
  for (uint32_t i = 0; i < KEYS; i++) {
    uint32_t n = i * 7919 % KEYS; /* every number once */
    const char key[] = {'k', (char)(n >> 8), (char)n};
    tci_buf_clear(&entry);
    tci_wire_put_bytes(&entry, 1, (tci_str){key, sizeof key});
    tci_wire_put_bytes(&entry, 2, TCI_STR("\x20\x01"));
    tci_wire_put_bytes(&in, 1, tci_buf_str(&entry));
  }
  assert_true(tci_struct_canonical(tci_buf_str(&in), DEPTH, &out));
  assert_int_equal(out.len, in.len);
  tci_wire_reader reader = tci_wire_read(tci_buf_str(&out));
  tci_wire_field field;
  uint32_t n = 0;
  for (; tci_wire_next(&reader, &field); n++) {
    const char want[] = {0x0a, 3, 'k', (char)(n >> 8), (char)n, 0x12, 2, 0x20, 1};
    assert_bytes(field.bytes, (tci_str){want, sizeof want});
  }
  assert_int_equal(n, KEYS);
  tci_buf_deinit(&in);
  tci_buf_deinit(&entry);
  tci_buf_deinit(&out);
}

/* ---- merge, set, values ---- */

static void a_merge_replaces_by_key_at_the_top_level(void **state) {
  (void)state;
  static const struct {
    const char *base, *over, *out;
  } rows[] = {
      {"", "", ""},
      {"0a050a01611200", "", "0a050a01611200"},
      {"", "0a050a01611200", "0a050a01611200"},
      /* {a: true, c: null} + {b: "s", c: false, d: []} */
      {"0a070a0161120220010a070a016312020800", "0a080a016212031a01730a070a0163120220000a070a016412023200",
       "0a070a0161120220010a080a016212031a01730a070a0163120220000a070a016412023200"},
      /* {k: {a: true}} + {k: {b: true}}: replaced, not merged */
      {"0a100a016b120b2a090a070a016112022001", "0a100a016b120b2a090a070a016212022001",
       "0a100a016b120b2a090a070a016212022001"},
      /* {"": 1, "a": 2} + {"a\0": 3}, with a Value that has no kind */
      {"0a040a0012000a050a01611200", "0a060a0261001200", "0a040a0012000a050a016112000a060a0261001200"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    tci_str base = unhex(rows[i].base), over = unhex(rows[i].over);
    tci_buf out = {0}, canonical = {0};
    tci_struct_merge(base, over, &out);
    assert_hex(&out, rows[i].out);
    assert_true(tci_struct_canonical(tci_buf_str(&out), DEPTH, &canonical));
    assert_bytes(tci_buf_str(&canonical), tci_buf_str(&out));
    tci_buf_deinit(&out);
    tci_buf_deinit(&canonical);
    tci_str_free(&base);
    tci_str_free(&over);
  }
}

static void a_merge_is_what_a_parser_makes_of_both_one_after_the_other(void **state) {
  (void)state;
  tci_str base = unhex(everything_canonical), over = unhex("0a050a016112000a070a01621202200 0 0a050a017a1200");
  tci_buf merged = {0}, joined = {0}, canonical = {0};
  tci_struct_merge(base, over, &merged);
  tci_buf_add(&joined, base);
  tci_buf_add(&joined, over);
  assert_true(tci_struct_canonical(tci_buf_str(&joined), DEPTH, &canonical));
  assert_bytes(tci_buf_str(&merged), tci_buf_str(&canonical));
  tci_buf_deinit(&merged);
  tci_buf_deinit(&joined);
  tci_buf_deinit(&canonical);
  tci_str_free(&base);
  tci_str_free(&over);
}

static void set_adds_or_replaces_one_entry_in_its_place(void **state) {
  (void)state;
  tci_str s = unhex("0a070a0161120220010a070a016312020800");
  tci_str no = unhex("2000");
  tci_buf out = {0};
  tci_struct_set(s, TCI_STR("b"), no, &out);
  assert_hex(&out, "0a070a016112022001 0a070a016212022000 0a070a016312020800");
  tci_buf_clear(&out);
  tci_struct_set(s, TCI_STR("c"), no, &out);
  assert_hex(&out, "0a070a016112022001 0a070a016312022000");
  tci_buf_clear(&out);
  tci_struct_set((tci_str){NULL, 0}, (tci_str){NULL, 0}, no, &out);
  assert_hex(&out, "0a060a0012022000");
  tci_buf_deinit(&out);
  tci_str_free(&s);
  tci_str_free(&no);
}

static void values_are_written_as_protobuf_writes_them(void **state) {
  (void)state;
  tci_buf out = {0}, items = {0}, item = {0};
  tci_value_put_string(&out, TCI_STR("two"));
  assert_hex(&out, "1a0374776f");
  tci_buf_clear(&out);
  tci_value_put_string(&out, (tci_str){NULL, 0});
  assert_hex(&out, "1a00");
  tci_buf_clear(&out);
  tci_value_put_number(&out, 1.5);
  assert_hex(&out, "11000000000000f83f");
  tci_buf_clear(&out);
  tci_value_put_number(&out, -0.0);
  assert_hex(&out, "110000000000000080");
  tci_buf_clear(&out);
  tci_value_put_struct(&out, TCI_STR("\x0a\x05\x0a\x01k\x12\x00"));
  assert_hex(&out, "2a070a050a016b1200");
  tci_buf_clear(&out);
  tci_value_put_list(&out, (tci_str){NULL, 0});
  assert_hex(&out, "3200");
  tci_buf_clear(&out);
  /* [1, "two", <no kind>] */
  tci_value_put_number(&item, 1);
  tci_wire_put_varint(&items, item.len);
  tci_buf_add(&items, tci_buf_str(&item));
  tci_buf_clear(&item);
  tci_value_put_string(&item, TCI_STR("two"));
  tci_wire_put_varint(&items, item.len);
  tci_buf_add(&items, tci_buf_str(&item));
  tci_wire_put_varint(&items, 0);
  tci_value_put_list(&out, tci_buf_str(&items));
  assert_hex(&out, "3214 0a0911000000000000f03f 0a051a0374776f 0a00");
  tci_buf_deinit(&out);
  tci_buf_deinit(&items);
  tci_buf_deinit(&item);
}

static void a_nan_keeps_its_bits(void **state) {
  (void)state;
  tci_buf value = {0}, s = {0}, out = {0};
  tci_value_put_number(&value, NAN);
  tci_struct_set((tci_str){NULL, 0}, TCI_STR("k"), tci_buf_str(&value), &s);
  assert_true(tci_struct_canonical(tci_buf_str(&s), DEPTH, &out));
  assert_bytes(tci_buf_str(&out), tci_buf_str(&s));
  tci_buf_deinit(&value);
  tci_buf_deinit(&s);
  tci_buf_deinit(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(varints_come_back_as_they_were_put),
      cmocka_unit_test(fields_of_every_type_are_read),
      cmocka_unit_test(put_writes_zero_and_empty_too),
      cmocka_unit_test(malformed_fields_are_refused_and_the_reader_stays_before_them),
      cmocka_unit_test(the_canonical_form_is_what_a_parser_understood),
      cmocka_unit_test(the_canonical_form_of_a_canonical_form_is_itself),
      cmocka_unit_test(malformed_bytes_are_refused_at_every_level_also_where_they_are_dropped),
      cmocka_unit_test(every_cut_of_a_struct_is_refused_or_whole_entries),
      cmocka_unit_test(nesting_over_the_depth_is_refused),
      cmocka_unit_test(a_nesting_of_thousands_does_not_exhaust_the_stack),
      cmocka_unit_test(a_wide_struct_is_sorted_whatever_its_order),
      cmocka_unit_test(a_merge_replaces_by_key_at_the_top_level),
      cmocka_unit_test(a_merge_is_what_a_parser_makes_of_both_one_after_the_other),
      cmocka_unit_test(set_adds_or_replaces_one_entry_in_its_place),
      cmocka_unit_test(values_are_written_as_protobuf_writes_them),
      cmocka_unit_test(a_nan_keeps_its_bits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
