/* rng: the ChaCha20 block function (RFC 8439) as a stream, and SipHash-2-4.
 *
 * 1. The same seed gives the same bytes, on every machine: all words are read and written little-endian.
 * 2. `used` counts what was taken of `block`; at sizeof block the next block is made. The 64-bit counter starts at 0.
 *
 * Callers: the core (ids, choices, seeded by its events), the simulator, map.c.
 */
#include "base/rng.h"

#include <string.h>

#include "base/assert.h"

static uint32_t load_u32(const uint8_t *at);
static uint64_t load_u64(const uint8_t *at, size_t bytes);
static void block_next(tci_rng *rng);
static inline void sip_round(uint64_t v[4]);
static inline uint64_t load_word(const uint8_t at[8]);

void tci_rng_init(tci_rng *rng, const uint8_t seed[32]) {
  static const uint8_t constant[] = "expand 32-byte k";
  memset(rng, 0, sizeof *rng);
  for (size_t i = 0; i < 4; i++) rng->state[i] = load_u32(constant + 4 * i);
  for (size_t i = 0; i < 8; i++) rng->state[4 + i] = load_u32(seed + 4 * i);
  rng->used = sizeof rng->block;
}

void tci_rng_bytes(tci_rng *rng, void *out, size_t bytes) {
  uint8_t *at = out;
  while (bytes > 0) {
    if (rng->used == sizeof rng->block) block_next(rng);
    size_t n = sizeof rng->block - rng->used;
    if (n > bytes) n = bytes;
    memcpy(at, rng->block + rng->used, n);
    rng->used += n;
    at += n;
    bytes -= n;
  }
}

uint64_t tci_rng_u64(tci_rng *rng) {
  uint8_t bytes[8];
  tci_rng_bytes(rng, bytes, sizeof bytes);
  return load_u64(bytes, sizeof bytes);
}

uint64_t tci_rng_below(tci_rng *rng, uint64_t bound) {
  tci_assert(bound > 0);
  /* 2^64 mod bound numbers too many would favour the small results; draws below that are thrown away. */
  uint64_t surplus = (0 - bound) % bound, draw;
  do draw = tci_rng_u64(rng);
  while (draw < surplus);
  return draw % bound;
}

void tci_rng_hex(tci_rng *rng, size_t bytes, char *out) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes; i++) {
    uint8_t byte;
    tci_rng_bytes(rng, &byte, 1);
    *out++ = digits[byte >> 4];
    *out++ = digits[byte & 15];
  }
  *out = '\0';
}

uint64_t tci_siphash(uint64_t k0, uint64_t k1, tci_str data) {
  uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                   k1 ^ 0x7465646279746573u};
  const uint8_t *at = (const uint8_t *)data.ptr;
  for (size_t left = data.len;; left -= 8, at += 8) {
    bool last = left < 8;
    uint64_t word = last ? (uint64_t)(data.len & 0xff) << 56 | load_u64(at, left) : load_word(at);
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
    if (last) break;
  }
  v[2] ^= 0xff;
  for (int i = 0; i < 4; i++) sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint32_t load_u32(const uint8_t *at) { return (uint32_t)load_u64(at, 4); }

/* Written out, it is one load: every record and every key is hashed. */
static inline uint64_t load_word(const uint8_t at[8]) {
  return (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24 |
         (uint64_t)at[4] << 32 | (uint64_t)at[5] << 40 | (uint64_t)at[6] << 48 | (uint64_t)at[7] << 56;
}

static uint64_t load_u64(const uint8_t *at, size_t bytes) {
  uint64_t word = 0;
  for (size_t i = 0; i < bytes; i++) word |= (uint64_t)at[i] << (8 * i);
  return word;
}

static uint32_t rotate32(uint32_t x, int by) { return x << by | x >> (32 - by); }

static uint64_t rotate64(uint64_t x, int by) { return x << by | x >> (64 - by); }

static void quarter_round(uint32_t s[16], int a, int b, int c, int d) {
  s[a] += s[b], s[d] = rotate32(s[d] ^ s[a], 16);
  s[c] += s[d], s[b] = rotate32(s[b] ^ s[c], 12);
  s[a] += s[b], s[d] = rotate32(s[d] ^ s[a], 8);
  s[c] += s[d], s[b] = rotate32(s[b] ^ s[c], 7);
}

static void block_next(tci_rng *rng) {
  uint32_t s[16];
  memcpy(s, rng->state, sizeof s);
  for (int i = 0; i < 10; i++) {
    for (int column = 0; column < 4; column++) quarter_round(s, column, column + 4, column + 8, column + 12);
    for (int diagonal = 0; diagonal < 4; diagonal++)
      quarter_round(s, diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4);
  }
  for (size_t i = 0; i < 16; i++) {
    uint32_t word = s[i] + rng->state[i];
    for (size_t j = 0; j < 4; j++) rng->block[4 * i + j] = (uint8_t)(word >> (8 * j));
  }
  rng->used = 0;
  if (++rng->state[12] == 0) rng->state[13]++;
}

static inline __attribute__((always_inline)) void sip_round(uint64_t v[4]) {
  v[0] += v[1], v[1] = rotate64(v[1], 13) ^ v[0], v[0] = rotate64(v[0], 32);
  v[2] += v[3], v[3] = rotate64(v[3], 16) ^ v[2];
  v[0] += v[3], v[3] = rotate64(v[3], 21) ^ v[0];
  v[2] += v[1], v[1] = rotate64(v[1], 17) ^ v[2], v[2] = rotate64(v[2], 32);
}
