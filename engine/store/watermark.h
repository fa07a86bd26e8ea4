/* watermark: how many commits a journal must have, kept outside of it. Inside of the store only. */
#ifndef TCI_STORE_WATERMARK_H
#define TCI_STORE_WATERMARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { TCI_INSTANCE_BYTES = 16 };

typedef struct {
  bool found; /* false: there is none (yet), the rest is zero */
  uint8_t instance[TCI_INSTANCE_BYTES];
  uint64_t commits;
} tci_mark;

/* Reads <path>.mark. Missing, empty and all-zero files are `found` = false. DATA_LOSS: damaged beyond reading. */
TCI_MUST_USE tci_status tci_mark_read(const char *path, tci_mark *out, char *message, size_t size);
/* Creates or rewrites <path>.mark, durably, and leaves it open for tci_mark_write. */
TCI_MUST_USE tci_status tci_mark_open(const char *path, const tci_mark *mark, int *out_fd, char *message, size_t size);
/* One pwrite, not fsynced. False (and errno) when it failed. */
TCI_MUST_USE bool tci_mark_write(int fd, const tci_mark *mark);

#endif
