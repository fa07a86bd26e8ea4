/* guess: see guess.h. */
#include "base/guess.h"

enum { BYTES_MAX = 64 }; /* longer words are no typos */

static size_t least(size_t a, size_t b, size_t c) {
  size_t ab = a < b ? a : b;
  return ab < c ? ab : c;
}

/* Three rows of the table of edits are enough: a swap looks two back. */
static size_t edits(tci_str a, tci_str b) {
  size_t rows[3][BYTES_MAX + 1];
  for (size_t j = 0; j <= b.len; j++) rows[0][j] = j;
  for (size_t i = 1; i <= a.len; i++) {
    size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
    row[0] = i;
    for (size_t j = 1; j <= b.len; j++) {
      row[j] = least(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a.ptr[i - 1] != b.ptr[j - 1]));
      bool swapped = i > 1 && j > 1 && a.ptr[i - 1] == b.ptr[j - 2] && a.ptr[i - 2] == b.ptr[j - 1];
      if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
    }
  }
  return rows[a.len % 3][b.len];
}

tci_guess tci_guess_start(tci_str word) { return (tci_guess){.word = word, .distance = word.len / 3 + 2}; }

void tci_guess_offer(tci_guess *guess, tci_str name) {
  if (guess->word.len > BYTES_MAX || name.len > BYTES_MAX) return;
  size_t far = edits(guess->word, name);
  if (far >= name.len || far > guess->distance) return;
  if (far == guess->distance && guess->best.len && tci_str_cmp(name, guess->best) >= 0) return;
  guess->distance = far;
  guess->best = name;
}

const char *tci_guess_among(const char *word, const char *const *names) {
  tci_guess guess = tci_guess_start(tci_str_from(word));
  for (; *names; names++) tci_guess_offer(&guess, tci_str_from(*names));
  return guess.best.ptr; /* one of them: it ends in NUL */
}

const char *tci_guess_text(const tci_guess *guess, tci_arena *arena) {
  return guess->best.len ? tci_fmt(arena, "; did you mean '%.*s'?", TCI_STR_ARG(guess->best)) : "";
}
