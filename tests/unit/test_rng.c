/* rng: the published vectors of ChaCha20 and SipHash; the stream is the same however it is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/rng.h"

static const uint8_t zero_seed[32];
static const uint8_t *const some_seed = (const uint8_t *)"a fixed seed of exactly 32 bytes";

static void the_stream_is_chacha20(void **state) {
  (void)state;
  /* RFC 8439, A.1, vectors 1 and 2: key 0, nonce 0, counters 0 and 1. */
  char hex[2 * 128 + 1];
  tci_rng rng;
  tci_rng_init(&rng, zero_seed);
  tci_rng_hex(&rng, 128, hex);
  assert_string_equal(hex,
                      "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
                      "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
                      "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
                      "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f");
}

static void the_block_function_is_the_rfcs(void **state) {
  (void)state;
  /* RFC 8439, 2.3.2: key 00..1f, counter 1, nonce 000000090000004a00000000. */
  uint8_t seed[32];
  for (size_t i = 0; i < sizeof seed; i++) seed[i] = (uint8_t)i;
  char hex[2 * 64 + 1];
  tci_rng rng;
  tci_rng_init(&rng, seed);
  rng.state[12] = 1;
  rng.state[13] = 0x09000000;
  rng.state[14] = 0x4a000000;
  tci_rng_hex(&rng, 64, hex);
  assert_string_equal(hex,
                      "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
                      "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e");
}

static void the_same_seed_gives_the_same_bytes_in_any_pieces(void **state) {
  (void)state;
  uint8_t whole[500], pieces[500];
  tci_rng rng;
  tci_rng_init(&rng, some_seed);
  tci_rng_bytes(&rng, whole, sizeof whole);
  tci_rng_init(&rng, some_seed);
  for (size_t at = 0, n = 0; at < sizeof pieces; at += n, n = (n + 7) % 90) {
    if (n > sizeof pieces - at) n = sizeof pieces - at;
    tci_rng_bytes(&rng, pieces + at, n);
  }
  assert_memory_equal(whole, pieces, sizeof whole);
}

static void a_number_is_the_next_bytes_little_endian(void **state) {
  (void)state;
  tci_rng rng;
  tci_rng_init(&rng, zero_seed);
  assert_true(tci_rng_u64(&rng) == 0x903df1a0ade0b876u);
}

static void the_counter_carries_into_its_upper_half(void **state) {
  (void)state;
  tci_rng rng;
  tci_rng_init(&rng, some_seed);
  rng.state[12] = UINT32_MAX;
  tci_rng_u64(&rng);
  assert_int_equal(rng.state[12], 0);
  assert_int_equal(rng.state[13], 1);
}

static void below_stays_below_and_reaches_everything_evenly(void **state) {
  (void)state;
  enum { BOUND = 7, DRAWS = 70000 };
  int seen[BOUND] = {0};
  tci_rng rng;
  tci_rng_init(&rng, some_seed);
  for (int i = 0; i < DRAWS; i++) {
    uint64_t n = tci_rng_below(&rng, BOUND);
    assert_true(n < BOUND);
    seen[n]++;
  }
  for (int i = 0; i < BOUND; i++) assert_in_range(seen[i], DRAWS / BOUND - 500, DRAWS / BOUND + 500);
  for (int i = 0; i < 100; i++) assert_int_equal(tci_rng_below(&rng, 1), 0);
}

static void below_throws_away_the_surplus_draws(void **state) {
  (void)state;
  /* With bound 2^63 + 1 nearly half of all draws would be counted twice; they have to be drawn again. */
  const uint64_t bound = (UINT64_C(1) << 63) + 1;
  tci_rng rng, raw;
  tci_rng_init(&rng, some_seed);
  tci_rng_init(&raw, some_seed);
  int again = 0;
  for (int i = 0; i < 100; i++) {
    uint64_t want = tci_rng_u64(&raw);
    for (; want < bound - 2; again++) want = tci_rng_u64(&raw);
    uint64_t got = tci_rng_below(&rng, bound);
    assert_true(got < bound);
    assert_true(got == want % bound);
  }
  assert_in_range(again, 50, 200);
}

static void hex_is_lower_case_and_terminated(void **state) {
  (void)state;
  char text[10];
  memset(text, '#', sizeof text);
  tci_rng rng;
  tci_rng_init(&rng, zero_seed);
  tci_rng_hex(&rng, 4, text);
  assert_string_equal(text, "76b8e0ad");
  assert_int_equal(text[9], '#');
  tci_rng_hex(&rng, 0, text);
  assert_string_equal(text, "");
}

static void siphash_gives_the_reference_values(void **state) {
  (void)state;
  /* Key 00..0f, data 00..(n-1); the reference prints the bytes of the little-endian result. */
  static const struct {
    size_t len;
    uint64_t hash;
  } rows[] = {
      {0, 0x726fdb47dd0e0e31u},  {1, 0x74f839c593dc67fdu},  {7, 0xab0200f58b01d137u},  {8, 0x93f5f5799a932462u},
      {15, 0xa129ca6149be45e5u}, {16, 0x3f2acc7f57c29bdbu}, {63, 0x958a324ceb064572u},
  };
  char data[63];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (char)i;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    assert_true(tci_siphash(0x0706050403020100u, 0x0f0e0d0c0b0a0908u, (tci_str){data, rows[i].len}) == rows[i].hash);
  assert_true(tci_siphash(1, 2, (tci_str){NULL, 0}) == tci_siphash(1, 2, TCI_STR("")));
  assert_true(tci_siphash(1, 2, TCI_STR("x")) != tci_siphash(1, 3, TCI_STR("x")));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_stream_is_chacha20),
      cmocka_unit_test(the_block_function_is_the_rfcs),
      cmocka_unit_test(the_same_seed_gives_the_same_bytes_in_any_pieces),
      cmocka_unit_test(a_number_is_the_next_bytes_little_endian),
      cmocka_unit_test(the_counter_carries_into_its_upper_half),
      cmocka_unit_test(below_stays_below_and_reaches_everything_evenly),
      cmocka_unit_test(below_throws_away_the_surplus_draws),
      cmocka_unit_test(hex_is_lower_case_and_terminated),
      cmocka_unit_test(siphash_gives_the_reference_values),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
