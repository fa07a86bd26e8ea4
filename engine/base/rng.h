/* rng: a keyed stream (ChaCha20) over the 32 random bytes an event carries, and keyed/unkeyed hashes.
 * Same key, same bytes: the core asks nobody else for randomness. */
#ifndef TCI_BASE_RNG_H
#define TCI_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

typedef struct {
  uint32_t state[16];
  uint8_t block[64];
  size_t used; /* of block */
} tci_rng;

void tci_rng_init(tci_rng *rng, const uint8_t seed[32]);
void tci_rng_bytes(tci_rng *rng, void *out, size_t bytes);
uint64_t tci_rng_u64(tci_rng *rng);
/* Uniform in [0, bound); bound > 0. */
uint64_t tci_rng_below(tci_rng *rng, uint64_t bound);
/* `bytes` random bytes as 2*bytes lower-case hex digits, NUL-terminated. */
void tci_rng_hex(tci_rng *rng, size_t bytes, char *out);

/* SipHash-2-4. */
uint64_t tci_siphash(uint64_t k0, uint64_t k1, tci_str data);

#endif
