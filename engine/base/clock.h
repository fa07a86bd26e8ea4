/* clock: reads the system's clocks and its randomness. For the shell only; banned in engine/core. */
#ifndef TCI_BASE_CLOCK_H
#define TCI_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/time.h"

tci_time tci_clock_now(void);
int64_t tci_clock_mono_us(void);
int64_t tci_clock_mono_ns(void); /* of the same clock, to measure what is short */
/* CPU time that this thread has taken since it started. */
int64_t tci_clock_thread_cpu_us(void);
/* getrandom(2); aborts when the system has none. */
void tci_clock_random(void *out, size_t bytes);

#endif
