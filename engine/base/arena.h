/* arena: memory that is born one piece at a time and dies all at once.
 *
 * Out of memory aborts (gRPC does the same; the engine is crash-only). A cap is different: it is a declared
 * limit against hostile input, and passing it returns NULL.
 */
#ifndef TCI_BASE_ARENA_H
#define TCI_BASE_ARENA_H

#include <stddef.h>

typedef struct tci_arena_chunk tci_arena_chunk;

typedef struct {
  tci_arena_chunk *chunks; /* newest first */
  size_t used_bytes;       /* handed out, padding included */
  size_t cap_bytes;        /* 0: no cap */
} tci_arena;

/* An empty arena owns nothing; `{0}` is the same as _init with no cap. */
void tci_arena_init(tci_arena *arena, size_t cap_bytes);
/* Frees everything; the arena is empty and usable again. */
void tci_arena_deinit(tci_arena *arena);
/* Forgets everything but keeps one chunk for the next round. */
void tci_arena_reset(tci_arena *arena);
/* Aligned for any type, not zeroed. NULL only when the cap would be passed; aborts when out of memory. */
void *tci_arena_alloc(tci_arena *arena, size_t bytes);
/* Same, zeroed. */
void *tci_arena_zalloc(tci_arena *arena, size_t bytes);

#define tci_arena_new(arena, type) ((type *)tci_arena_zalloc((arena), sizeof(type)))
#define tci_arena_array(arena, type, n) ((type *)tci_arena_zalloc((arena), sizeof(type) * (n)))

/* malloc and friends that abort instead of returning NULL. */
void *tci_malloc(size_t bytes);
void *tci_calloc(size_t n, size_t bytes);
void *tci_realloc(void *ptr, size_t bytes);

#endif
