/* clock: the system's clocks and its randomness.
 *
 * Callers: the shell (loop, server, log, queue), and map.c for its secret. Never the core.
 */
#define _GNU_SOURCE 1
#include "base/clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include "base/assert.h"

static int64_t read_us(clockid_t clock);

tci_time tci_clock_now(void) {
  return (tci_time){.mono_us = read_us(CLOCK_MONOTONIC), .wall_us = read_us(CLOCK_REALTIME)};
}

int64_t tci_clock_mono_us(void) { return read_us(CLOCK_MONOTONIC); }

int64_t tci_clock_mono_ns(void) {
  struct timespec now;
  int failed = clock_gettime(CLOCK_MONOTONIC, &now);
  tci_assert(!failed);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t tci_clock_thread_cpu_us(void) { return read_us(CLOCK_THREAD_CPUTIME_ID); }

void tci_clock_random(void *out, size_t bytes) {
  uint8_t *at = out;
  while (bytes > 0) {
    ssize_t n = getrandom(at, bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    tci_assert(n > 0); /* no secret is better than a guessable one, and no engine is better than no secret */
    at += n;
    bytes -= (size_t)n;
  }
}

static int64_t read_us(clockid_t clock) {
  struct timespec now;
  int failed = clock_gettime(clock, &now);
  tci_assert(!failed);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}
