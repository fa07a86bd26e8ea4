/* vec: a typed growing array. TCI_VEC(T) declares {items, len, cap}; zeroed is empty; heap; free(items). */
#ifndef TCI_BASE_VEC_H
#define TCI_BASE_VEC_H

#include <stddef.h>
#include <stdlib.h>

#include "base/arena.h"

#define TCI_VEC(type) \
  struct {            \
    type *items;      \
    size_t len, cap;  \
  }

void *tci_vec_grow(void *items, size_t *cap, size_t want, size_t item_bytes);

#define tci_vec_reserve(v, n) \
  ((n) > (v)->cap ? (void)((v)->items = tci_vec_grow((v)->items, &(v)->cap, (n), sizeof *(v)->items)) : (void)0)
#define tci_vec_push(v, value) (tci_vec_reserve((v), (v)->len + 1), (void)((v)->items[(v)->len++] = (value)))
/* Order is not kept. */
#define tci_vec_swap_remove(v, i) ((void)((v)->items[(i)] = (v)->items[--(v)->len]))
#define tci_vec_free(v) (free((v)->items), (v)->items = NULL, (v)->len = (v)->cap = 0)

#endif
