/* str: counted bytes (tci_str), a growing buffer (tci_buf) and bounded formatting.
 *
 * A tci_str is borrowed and not NUL-terminated; it may hold any bytes.
 */
#ifndef TCI_BASE_STR_H
#define TCI_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"

typedef struct {
  const char *ptr;
  size_t len;
} tci_str;

#define TCI_STR(literal) ((tci_str){"" literal, sizeof(literal) - 1})
/* For "%.*s". */
#define TCI_STR_ARG(s) (int)((s).len), ((s).ptr ? (s).ptr : "")

tci_str tci_str_from(const char *c_string); /* NULL gives the empty string */
bool tci_str_eq(tci_str a, tci_str b);
int tci_str_cmp(tci_str a, tci_str b); /* by bytes, then by length */
/* Copy into an arena (NULL ptr only when the arena's cap is passed) or onto the heap (free(.ptr)). */
tci_str tci_str_copy(tci_arena *arena, tci_str s);
tci_str tci_str_dup(tci_str s); /* the empty string is {NULL, 0} */
/* Replaces a heap string with a copy of `s`; `s` may point into the old one. */
void tci_str_assign(tci_str *heap, tci_str s);
void tci_str_free(tci_str *heap);
/* NUL-terminated copy. */
char *tci_str_z(tci_arena *arena, tci_str s);
bool tci_str_is_utf8(tci_str s); /* well-formed: no surrogates, no overlong forms, up to U+10FFFF */

/* printf into an arena; bounded: texts over 4,000 bytes are cut and end in "...". Never NULL. */
char *tci_fmt(tci_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *tci_vfmt(tci_arena *arena, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

typedef struct {
  char *ptr;
  size_t len, cap;
} tci_buf; /* heap; `{0}` is empty */

void tci_buf_deinit(tci_buf *buf);
void tci_buf_clear(tci_buf *buf); /* keeps the memory */
/* Room for `bytes` more; returns where they go (the caller adds to len). */
char *tci_buf_reserve(tci_buf *buf, size_t bytes);
void tci_buf_add(tci_buf *buf, tci_str s);
void tci_buf_byte(tci_buf *buf, uint8_t byte);
static inline tci_str tci_buf_str(const tci_buf *buf) { return (tci_str){buf->ptr, buf->len}; }

#endif
