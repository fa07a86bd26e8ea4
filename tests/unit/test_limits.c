/* limits: one table; every limit can be set by its name and by no other. */
#include "core_test.h"

static int64_t value_of(const tci_limits *limits, const tci_limit_info *info) {
  int64_t value;
  memcpy(&value, (const char *)limits + info->offset, sizeof value);
  return value;
}

static void defaults_are_those_of_the_table(void **state) {
  (void)state;
  tci_limits limits = tci_limits_default();
  assert_int_equal(limits.id_bytes_max, 256);
  assert_int_equal(limits.policy_asks_per_turn, 256);
  assert_int_equal(limits.accept_timeout_ms, 10000);
  assert_int_equal(limits.runner_ttl_ms, 300000);
  assert_int_equal(limits.delivery_attempts_max, 20);
  assert_int_equal(limits.drain_timeout_ms, 30000);
  assert_int_equal(tci_limit_infos_len * sizeof(int64_t), sizeof limits);
  for (size_t i = 0; i < tci_limit_infos_len; i++) {
    assert_true(value_of(&limits, &tci_limit_infos[i]) >= 1);
    assert_true(strlen(tci_limit_infos[i].doc) > 4);
  }
}

static void every_limit_is_set_by_its_name_and_alone(void **state) {
  fx *f = *state;
  for (size_t i = 0; i < tci_limit_infos_len; i++) {
    tci_limits limits = tci_limits_default();
    const tci_limits before = limits;
    assert_int_equal(tci_limits_set(&limits, tci_str_from(tci_limit_infos[i].name), 777777, &f->arena).code, TCI_OK);
    for (size_t k = 0; k < tci_limit_infos_len; k++)
      assert_int_equal(value_of(&limits, &tci_limit_infos[k]),
                       k == i ? 777777 : value_of(&before, &tci_limit_infos[k]));
  }
}

static void refused(fx *f, const char *name, int64_t value, const char *part) {
  tci_limits limits = tci_limits_default();
  const tci_limits before = limits;
  tci_status status = tci_limits_set(&limits, tci_str_from(name), value, &f->arena);
  assert_int_equal(status.code, TCI_INVALID_ARGUMENT);
  fx_contains(status.message, part);
  assert_memory_equal(&limits, &before, sizeof limits);
}

static void values_without_sense_are_refused(void **state) {
  refused(*state, "backoff_ms", 0, "backoff_ms");
  refused(*state, "backoff_ms", -5, "-5");
  refused(*state, "duration_ms_max", INT64_MAX, "duration_ms_max");
  refused(*state, "message_bytes_max", 2147483648, "from 1 to 2147483647"); /* gRPC counts in an int */
  tci_limits limits = tci_limits_default();
  assert_int_equal(tci_limits_set(&limits, TCI_STR("message_bytes_max"), 2147483647, &((fx *)*state)->arena).code,
                   TCI_OK);
}

static void an_unknown_name_is_answered_with_the_nearest(void **state) {
  refused(*state, "runner_ttl", 5, "did you mean 'runner_ttl_ms'");
  refused(*state, "id_bytes_maximum", 5, "'id_bytes_max'");
  refused(*state, "", 5, "no limit is called ''");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CLAIM(defaults_are_those_of_the_table),
      CLAIM(every_limit_is_set_by_its_name_and_alone),
      CLAIM(values_without_sense_are_refused),
      CLAIM(an_unknown_name_is_answered_with_the_nearest),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
