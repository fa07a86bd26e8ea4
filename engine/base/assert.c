/* assert: says which assumption was wrong, then stops with a core.
 *
 * Callers: the macros of assert.h only.
 */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void tci_assert_fail(const char *expr, const char *file, int line) {
  fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expr);
  fflush(stderr);
  abort();
}
