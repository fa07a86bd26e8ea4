/* core_test: what every unit test of engine/core starts with: cmocka, the fixture, a fresh world per test that is verified
 * from scratch when the test ends. */
#ifndef TCI_TEST_CORE_TEST_H
#define TCI_TEST_CORE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core_fixture.h"

static void core_test_fail(const char *message) { fail_msg("%s", message); }

static int core_test_setup(void **state) {
  fx *f = malloc(sizeof *f);
  fx_on_failure = core_test_fail;
  fx_init(f);
  f->seed = 42;
  *state = f;
  return 0;
}

static int core_test_teardown(void **state) {
  fx *f = *state;
  fx_verify(f);
  fx_deinit(f);
  free(f);
  return 0;
}

#define CLAIM(test) cmocka_unit_test_setup_teardown(test, core_test_setup, core_test_teardown)

/* A new plan whose ready stages of type "go" find a runner "r" that does both modes without limit. */
static inline void with_runner(fx *f) {
  fx_register(f, "r", "go", "both", 0, 0);
  fx_create(f);
}

#endif
