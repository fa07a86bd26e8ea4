/* memory: see memory.h. glibc keeps what is freed for the next time: after a storm of large messages that may be hundreds of
 * megabytes, for ever. malloc_trim costs milliseconds, so it is asked only when much more is resident than once was, and in
 * ever longer intervals while that is because the memory is in use. */
#include "app/memory.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

enum { WORTH_BYTES = 32 << 20, PAUSE_US_MIN = 1000000, PAUSE_US_MAX = 60000000 };

static int64_t resident_bytes(void) {
  long long size, resident = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (!f) return 0;
  if (fscanf(f, "%lld %lld", &size, &resident) != 2) resident = 0;
  fclose(f);
  return resident * sysconf(_SC_PAGESIZE);
}

void tci_memory_give_back(tci_memory *m, int64_t now_us) {
  if (now_us < m->next_us) return;
  if (!m->pause_us) m->pause_us = PAUSE_US_MIN;
  m->next_us = now_us + PAUSE_US_MIN;
  int64_t before = resident_bytes();
  if (!m->floor_bytes || before < m->floor_bytes) m->floor_bytes = before;
  if (before < m->floor_bytes + WORTH_BYTES) return;
  malloc_trim(0);
  int64_t gained = before - resident_bytes();
  bool in_vain = gained < WORTH_BYTES / 4;
  m->pause_us = in_vain && m->pause_us < PAUSE_US_MAX / 2 ? 2 * m->pause_us : in_vain ? PAUSE_US_MAX : PAUSE_US_MIN;
  m->next_us = now_us + m->pause_us;
}
