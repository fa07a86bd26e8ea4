/* time: a moment on both clocks, in microseconds. Only a type, so that the core may include it: the shell reads
 * the clocks (base/clock.h) and the core gets `now` with its events. */
#ifndef TCI_BASE_TIME_H
#define TCI_BASE_TIME_H

#include <stdint.h>

typedef struct {
  int64_t mono_us; /* monotonic: durations, deadlines, expiries */
  int64_t wall_us; /* since 1970 UTC: shown and stored only */
} tci_time;

#endif
