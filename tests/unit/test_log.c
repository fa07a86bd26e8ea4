/* log: one event is one whole line on standard error, whatever is in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/* Standard error into a pipe, to be read back with read_log. */
static int real_stderr, log_pipe[2];

static int divert_stderr(void **state) {
  (void)state;
  real_stderr = dup(STDERR_FILENO);
  if (pipe(log_pipe) != 0) return -1;
  tci_log_set_level(TCI_LOG_INFO);
  return dup2(log_pipe[1], STDERR_FILENO) < 0;
}

static int restore_stderr(void **state) {
  (void)state;
  dup2(real_stderr, STDERR_FILENO);
  close(real_stderr);
  close(log_pipe[0]);
  close(log_pipe[1]);
  return 0;
}

/* What was logged, after an end mark so that an empty log does not block. */
static size_t read_log(char *out, size_t size) {
  if (write(STDERR_FILENO, "$", 1) != 1) fail();
  size_t len = 0;
  while (len == 0 || out[len - 1] != '$') {
    ssize_t n = read(log_pipe[0], out + len, size - 1 - len);
    assert_true(n > 0);
    len += (size_t)n;
  }
  out[--len] = '\0';
  return len;
}

static void an_event_is_a_line_of_time_level_name_and_fields(void **state) {
  (void)state;
  char text[8192];
  errno = EDOM;
  tci_log(TCI_LOG_WARN, "commit_failed", "error=\"%s\" turns=%d", "disk full", 7);
  assert_int_equal(errno, EDOM);
  size_t len = read_log(text, sizeof text);
  assert_true(len > 25);
  static const char shape[] = "0000-00-00T00:00:00.000Z ";
  for (size_t i = 0; shape[i]; i++)
    assert_true(shape[i] == '0' ? text[i] >= '0' && text[i] <= '9' : text[i] == shape[i]);
  assert_string_equal(text + 25, "warn commit_failed error=\"disk full\" turns=7\n");
}

static void events_under_the_level_are_not_written(void **state) {
  (void)state;
  char text[8192];
  tci_log(TCI_LOG_DEBUG, "quiet", "n=%d", 1);
  tci_log_set_level(TCI_LOG_ERROR);
  tci_log(TCI_LOG_WARN, "quiet", "n=%d", 2);
  tci_log_set_level(TCI_LOG_OFF);
  tci_log(TCI_LOG_ERROR, "quiet", "n=%d", 3);
  tci_log(TCI_LOG_OFF, "quiet", "n=%d", 4);
  assert_int_equal(read_log(text, sizeof text), 0);
}

static void control_bytes_cannot_start_a_line(void **state) {
  (void)state;
  char text[8192];
  tci_log(TCI_LOG_INFO, "hello", "name=%s", "a\nb\r\x1b[2J\x7f");
  read_log(text, sizeof text);
  assert_string_equal(text + 25, "info hello name=a?b??[2J?\n");
}

static void an_event_without_fields_ends_after_its_name(void **state) {
  (void)state;
  char text[8192];
  tci_log(TCI_LOG_INFO, "started", "%s", "");
  read_log(text, sizeof text);
  assert_string_equal(text + 25, "info started\n");
}

static void a_long_event_is_cut_to_one_whole_line(void **state) {
  (void)state;
  char text[8192];
  tci_log(TCI_LOG_INFO, "long", "n=%05000d", 1);
  assert_int_equal(read_log(text, sizeof text), 4096);
  assert_string_equal(text + 4096 - 5, "0...\n");
}

#define diverted_test(claim) cmocka_unit_test_setup_teardown(claim, divert_stderr, restore_stderr)

int main(void) {
  const struct CMUnitTest tests[] = {
      diverted_test(an_event_is_a_line_of_time_level_name_and_fields),
      diverted_test(events_under_the_level_are_not_written),
      diverted_test(control_bytes_cannot_start_a_line),
      diverted_test(an_event_without_fields_ends_after_its_name),
      diverted_test(a_long_event_is_cut_to_one_whole_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
