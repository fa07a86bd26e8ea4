/* lock: who may use a journal: the one true path of its file, and one process at a time. Inside of the store only. */
#ifndef TCI_STORE_LOCK_H
#define TCI_STORE_LOCK_H

#include <stddef.h>

#include "base/status.h"

/* Where `path` really is: absolute, without symbolic links, so that two names of one file give one lock, one WAL and
 * one watermark. Nothing is created. INVALID_ARGUMENT: empty, too long, a directory or no regular file.
 * FAILED_PRECONDITION: its folder does not exist. PERMISSION_DENIED: the folder cannot be written.
 * The text goes to `message` (`size` bytes). */
TCI_MUST_USE tci_status tci_lock_resolve(const char *path, char *out, size_t out_size, char *message, size_t size);

/* Takes <path>.lock. FAILED_PRECONDITION names the process that holds it. The file stays when the lock goes. */
TCI_MUST_USE tci_status tci_lock_take(const char *path, int *out_fd, char *message, size_t size);
void tci_lock_release(int fd); /* -1 is fine */

#endif
