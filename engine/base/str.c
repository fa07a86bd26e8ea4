/* str: counted bytes, a growing buffer, and the one place that formats text.
 *
 * 1. A tci_str with len 0 may have any ptr, NULL included; no function here reads it.
 * 2. Formatting is bounded: whatever a peer sends, a message has at most FMT_BYTES_MAX bytes.
 *
 * Callers: everybody. What is added to a buffer must not lie inside that buffer.
 */
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

enum { FMT_BYTES_MAX = 4000, BUF_BYTES_MIN = 64 };

static size_t utf8_length(const uint8_t *at, size_t left);

tci_str tci_str_from(const char *c_string) {
  return c_string ? (tci_str){c_string, strlen(c_string)} : (tci_str){NULL, 0};
}

bool tci_str_eq(tci_str a, tci_str b) { return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0); }

int tci_str_cmp(tci_str a, tci_str b) {
  size_t common = a.len < b.len ? a.len : b.len;
  int order = common ? memcmp(a.ptr, b.ptr, common) : 0;
  return order ? order : (a.len > b.len) - (a.len < b.len);
}

tci_str tci_str_copy(tci_arena *arena, tci_str s) {
  if (s.len == 0) return TCI_STR("");
  char *copy = tci_arena_alloc(arena, s.len);
  if (!copy) return (tci_str){NULL, 0};
  memcpy(copy, s.ptr, s.len);
  return (tci_str){copy, s.len};
}

tci_str tci_str_dup(tci_str s) {
  if (s.len == 0) return (tci_str){NULL, 0};
  char *copy = tci_malloc(s.len);
  memcpy(copy, s.ptr, s.len);
  return (tci_str){copy, s.len};
}

void tci_str_assign(tci_str *heap, tci_str s) {
  tci_str copy = tci_str_dup(s); /* before the old one goes: s may lie in it */
  tci_str_free(heap);
  *heap = copy;
}

void tci_str_free(tci_str *heap) {
  free((char *)heap->ptr);
  *heap = (tci_str){NULL, 0};
}

char *tci_str_z(tci_arena *arena, tci_str s) {
  char *copy = tci_arena_alloc(arena, s.len + 1);
  if (!copy) return NULL;
  if (s.len) memcpy(copy, s.ptr, s.len);
  copy[s.len] = '\0';
  return copy;
}

bool tci_str_is_utf8(tci_str s) {
  const uint8_t *bytes = (const uint8_t *)s.ptr;
  for (size_t i = 0; i < s.len;) {
    size_t length = utf8_length(bytes + i, s.len - i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

char *tci_fmt(tci_arena *arena, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *text = tci_vfmt(arena, format, args);
  va_end(args);
  return text;
}

char *tci_vfmt(tci_arena *arena, const char *format, va_list args) {
  static char nothing[] = "...";
  char text[FMT_BYTES_MAX + 1];
  int wanted = vsnprintf(text, sizeof text, format, args);
  tci_assert(wanted >= 0);
  size_t len = (size_t)wanted;
  if (len > FMT_BYTES_MAX) {
    len = FMT_BYTES_MAX - 3;
    /* Not through the middle of a character: these texts go where only UTF-8 may. */
    while (len > 0 && ((uint8_t)text[len] & 0xc0) == 0x80) len--;
    memcpy(text + len, "...", 3);
    len += 3;
  }
  char *copy = tci_str_z(arena, (tci_str){text, len});
  return copy ? copy : nothing; /* the arena is at its cap; there is still something to say */
}

void tci_buf_deinit(tci_buf *buf) {
  free(buf->ptr);
  *buf = (tci_buf){NULL, 0, 0};
}

void tci_buf_clear(tci_buf *buf) { buf->len = 0; }

char *tci_buf_reserve(tci_buf *buf, size_t bytes) {
  tci_assert(bytes <= SIZE_MAX / 4 && buf->len <= SIZE_MAX / 4);
  size_t want = buf->len + bytes;
  if (want > buf->cap || !buf->ptr) {
    size_t cap = buf->cap ? buf->cap : BUF_BYTES_MIN;
    while (cap < want) cap *= 2;
    buf->ptr = tci_realloc(buf->ptr, cap);
    buf->cap = cap;
  }
  return buf->ptr + buf->len;
}

void tci_buf_add(tci_buf *buf, tci_str s) {
  if (s.len == 0) return;
  memcpy(tci_buf_reserve(buf, s.len), s.ptr, s.len);
  buf->len += s.len;
}

void tci_buf_byte(tci_buf *buf, uint8_t byte) {
  *tci_buf_reserve(buf, 1) = (char)byte;
  buf->len++;
}

/* Bytes of the character at `at`, 0 when there is no well-formed one. Only the second byte has a range that
 * depends on the first: that is where overlong forms, surrogates and numbers over U+10FFFF are refused. */
static size_t utf8_length(const uint8_t *at, size_t left) {
  uint8_t lead = at[0], low = 0x80, high = 0xbf;
  size_t length;
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0; /* a continuation byte, or the lead of an overlong pair */
  if (lead < 0xe0) {
    length = 2;
  } else if (lead < 0xf0) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead < 0xf5) {
    length = 4;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    return 0;
  }
  if (length > left || at[1] < low || at[1] > high) return 0;
  for (size_t i = 2; i < length; i++)
    if ((at[i] & 0xc0) != 0x80) return 0;
  return length;
}
