/* guess: "did you mean ...?". Start with the word, offer the names there are, ask for the best. */
#ifndef TCI_BASE_GUESS_H
#define TCI_BASE_GUESS_H

#include "base/str.h"

typedef struct {
  tci_str word;
  tci_str best;    /* borrowed from what was offered; empty: nothing is near */
  size_t distance; /* edits to it: letters added, dropped, changed, or two neighbours swapped */
} tci_guess;

tci_guess tci_guess_start(tci_str word);
/* Of names that are as near the first in the order of bytes wins, whatever the order in which they are offered. */
void tci_guess_offer(tci_guess *guess, tci_str name);
/* The best of these names (NULL ends them), or NULL. */
const char *tci_guess_among(const char *word, const char *const *names);
/* "; did you mean 'NAME'?", or "" when nothing is near; in `arena`, or static. */
const char *tci_guess_text(const tci_guess *guess, tci_arena *arena);

#endif
