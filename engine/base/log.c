/* log: one event, one line, one write(2).
 *
 * 1. A line is at most LINE_BYTES_MAX bytes (what a pipe takes whole), its newline included; longer ones end in "...".
 * 2. Control bytes in what is logged become '?': a peer's text can neither start a line of its own nor drive a
 *    terminal.
 *
 * Callers: the shell's rooms. Logging changes errno for nobody.
 */
#define _GNU_SOURCE 1
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { LINE_BYTES_MAX = 4096 };

static atomic_int threshold = TCI_LOG_INFO;

static size_t put_head(char *line, size_t size, tci_log_level level, const char *event);
static void write_all(const char *line, size_t len);

void tci_log_set_level(tci_log_level level) { atomic_store_explicit(&threshold, (int)level, memory_order_relaxed); }

void tci_log(tci_log_level level, const char *event, const char *format, ...) {
  if ((int)level < atomic_load_explicit(&threshold, memory_order_relaxed) || level >= TCI_LOG_OFF) return;
  int saved_errno = errno;
  char line[LINE_BYTES_MAX + 1]; /* one more for vsnprintf's NUL, where the newline goes in a full line */
  size_t len = put_head(line, sizeof line, level, event);
  const size_t len_max = LINE_BYTES_MAX - 1;
  va_list args;
  va_start(args, format);
  int wanted = vsnprintf(line + len, sizeof line - len, format, args);
  va_end(args);
  if (wanted > 0) len += (size_t)wanted;
  if (len > len_max) {
    len = len_max;
    memcpy(line + len - 3, "...", 3);
  }
  if (wanted == 0) len--; /* the space that was to part the event from its fields */
  for (size_t i = 0; i < len; i++)
    if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
  line[len++] = '\n';
  write_all(line, len);
  errno = saved_errno;
}

/* "2024-05-06T07:08:09.123Z warn commit_failed " */
static size_t put_head(char *line, size_t size, tci_log_level level, const char *event) {
  static const char *const names[] = {"debug", "info", "warn", "error"};
  int64_t wall_us = tci_clock_now().wall_us;
  time_t seconds = (time_t)(wall_us / 1000000);
  struct tm utc;
  gmtime_r(&seconds, &utc);
  size_t len = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
  int more = snprintf(line + len, size - len, ".%03dZ %s %.100s ", (int)(wall_us / 1000 % 1000), names[level], event);
  return more > 0 ? len + (size_t)more : len;
}

static void write_all(const char *line, size_t len) {
  while (len > 0) {
    ssize_t n = write(STDERR_FILENO, line, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return; /* nobody reads the log: that is no reason to stop */
    line += n;
    len -= (size_t)n;
  }
}
