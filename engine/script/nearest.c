/* nearest: "did you mean ...?" for names in scripts and answers. */
#include "script/internal.h"

#include <string.h>

static size_t smallest(size_t a, size_t b, size_t c) {
  size_t least = a < b ? a : b;
  return least < c ? least : c;
}

/* Edits from one to the other; a swap of neighbours is one. */
static size_t distance(const char *a, const char *b) {
  enum { LONG = 24 };
  size_t n = strlen(a), m = strlen(b), rows[3][LONG + 1];
  if (n > LONG || m > LONG) return LONG;
  for (size_t j = 0; j <= m; j++) rows[0][j] = j;
  for (size_t i = 1; i <= n; i++) {
    size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *before = rows[(i + 1) % 3];
    row[0] = i;
    for (size_t j = 1; j <= m; j++) {
      row[j] = smallest(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
    }
  }
  return rows[n % 3][m];
}

const char *tci_nearest(const char *name, const char *const *names) {
  const char *best = NULL;
  size_t least = strlen(name) / 2 + 1;
  if (least > 4) least = 4;
  for (size_t i = 0; names[i]; i++) {
    size_t d = distance(name, names[i]);
    if (d >= least) continue;
    least = d;
    best = names[i];
  }
  return best;
}
