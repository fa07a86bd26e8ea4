/* arena: chunks of memory that are freed together, and the allocators that abort instead of returning NULL.
 *
 * 1. `chunks` is newest first and only the first one is filled; a piece too big for a usual chunk gets one of its
 *    own behind it, so that the room left in the first is not lost.
 * 2. used_bytes is the sum of what the chunks handed out, and with a cap it never passes cap_bytes.
 * 3. Chunks double from CHUNK_BYTES_MIN to CHUNK_BYTES_MAX: small requests stay small, big plans need few mallocs.
 *
 * Callers: everybody; tci_vec_grow is behind the macros of vec.h.
 */
#include "base/arena.h"

#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"

enum { CHUNK_BYTES_MIN = 1024, CHUNK_BYTES_MAX = 64 * 1024, VEC_ITEMS_MIN = 8 };

struct tci_arena_chunk {
  tci_arena_chunk *next;
  size_t size, used; /* of data */
  alignas(max_align_t) unsigned char data[];
};

static _Noreturn void out_of_memory(void);
static tci_arena_chunk *chunk_add(tci_arena *arena, size_t bytes);
static void chunks_free(tci_arena_chunk *chunk);

void tci_arena_init(tci_arena *arena, size_t cap_bytes) { *arena = (tci_arena){.cap_bytes = cap_bytes}; }

void tci_arena_deinit(tci_arena *arena) {
  chunks_free(arena->chunks);
  arena->chunks = NULL;
  arena->used_bytes = 0;
}

void tci_arena_reset(tci_arena *arena) {
  /* The biggest of the usual size: one giant request must not leave its memory to all the small ones after it. */
  tci_arena_chunk **best = NULL;
  for (tci_arena_chunk **at = &arena->chunks; *at; at = &(*at)->next)
    if ((*at)->size <= CHUNK_BYTES_MAX && (!best || (*at)->size > (*best)->size)) best = at;
  tci_arena_chunk *kept = NULL;
  if (best) {
    kept = *best;
    *best = kept->next;
    kept->next = NULL;
    kept->used = 0;
  }
  chunks_free(arena->chunks);
  arena->chunks = kept;
  arena->used_bytes = 0;
}

void *tci_arena_alloc(tci_arena *arena, size_t bytes) {
  const size_t align = alignof(max_align_t);
  if (bytes > SIZE_MAX / 2) { /* rounding up must not wrap */
    if (arena->cap_bytes) return NULL;
    out_of_memory();
  }
  size_t need = bytes ? (bytes + align - 1) & ~(align - 1) : align;
  if (arena->cap_bytes && need > arena->cap_bytes - arena->used_bytes) return NULL;
  tci_arena_chunk *chunk = arena->chunks;
  if (!chunk || need > chunk->size - chunk->used) chunk = chunk_add(arena, need);
  void *piece = chunk->data + chunk->used;
  chunk->used += need;
  arena->used_bytes += need;
  return piece;
}

void *tci_arena_zalloc(tci_arena *arena, size_t bytes) {
  void *piece = tci_arena_alloc(arena, bytes);
  if (piece) memset(piece, 0, bytes);
  return piece;
}

void *tci_vec_grow(void *items, size_t *cap, size_t want, size_t item_bytes) {
  size_t next = *cap < VEC_ITEMS_MIN ? VEC_ITEMS_MIN : *cap;
  while (next < want) {
    if (next > SIZE_MAX / 2) out_of_memory();
    next *= 2;
  }
  if (next > SIZE_MAX / item_bytes) out_of_memory();
  items = tci_realloc(items, next * item_bytes);
  *cap = next;
  return items;
}

void *tci_malloc(size_t bytes) {
  void *ptr = malloc(bytes ? bytes : 1);
  if (!ptr) out_of_memory();
  return ptr;
}

void *tci_calloc(size_t n, size_t bytes) {
  void *ptr = n && bytes ? calloc(n, bytes) : calloc(1, 1);
  if (!ptr) out_of_memory();
  return ptr;
}

void *tci_realloc(void *ptr, size_t bytes) {
  ptr = realloc(ptr, bytes ? bytes : 1);
  if (!ptr) out_of_memory();
  return ptr;
}

static _Noreturn void out_of_memory(void) {
  fputs("turboci: out of memory\n", stderr);
  abort();
}

/* A chunk with room for `bytes`, placed as invariant 1 says. */
static tci_arena_chunk *chunk_add(tci_arena *arena, size_t bytes) {
  tci_arena_chunk *first = arena->chunks;
  size_t size = CHUNK_BYTES_MIN;
  if (first) size = first->size < CHUNK_BYTES_MAX / 2 ? first->size * 2 : CHUNK_BYTES_MAX;
  bool own = bytes > size;
  if (own) size = bytes;
  tci_arena_chunk *chunk = tci_malloc(sizeof *chunk + size);
  chunk->size = size;
  chunk->used = 0;
  if (own && first) {
    chunk->next = first->next;
    first->next = chunk;
  } else {
    chunk->next = first;
    arena->chunks = chunk;
  }
  return chunk;
}

static void chunks_free(tci_arena_chunk *chunk) {
  while (chunk) {
    tci_arena_chunk *next = chunk->next;
    free(chunk);
    chunk = next;
  }
}
