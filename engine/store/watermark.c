/* watermark: how many commits a journal must have, kept outside of it.
 *
 * SQLite takes a WAL frame whose checksum is wrong for the end of the WAL: one flipped bit silently drops that commit
 * and all after it, and every integrity check says ok. So each append also writes its number here, and a journal that
 * comes back with fewer commits than its mark is refused.
 *
 * 1. The mark is written after the commit it counts is durable. So no crash and no power loss can leave it ahead of the
 *    journal: a mark that is ahead means that the journal lost something.
 * 2. It is not fsynced: it may lag behind after a power loss, and then it guards a little less, never wrongly.
 * 3. Two slots, a disk sector each, are written in turn: a torn write leaves the other one, one commit older.
 * 4. A missing file is accepted (the caller logs it): the first open has none, a journal may have been copied
 *    without it, and deleting it is how an operator accepts a loss. The file is fsynced with its folder when it is
 *    created, so a crash does not make one go missing.
 * 5. A file with bytes in it and no valid slot is no crash's doing, so it is not taken for a missing one.
 *
 * Callers: sqlite_open.c (read, open), sqlite.c (write).
 */
#define _GNU_SOURCE 1
#include "store/watermark.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/str.h"
#include "store/text.h"

/* A slot: magic (8), instance (16), commits (8), SipHash of these 32 (8); numbers are little-endian. */
enum { SECTOR_BYTES = 512, SLOTS = 2, SUM_AT = 32, SLOT_BYTES = 40, FILE_BYTES = SLOTS * SECTOR_BYTES };
static const char magic[8] = {'T', 'C', 'I', 'm', 'a', 'r', 'k', '1'};

static void slot_put(uint8_t *slot, const tci_mark *mark);
static bool slot_get(const uint8_t *slot, tci_mark *out);
static void put_u64(uint8_t *at, uint64_t value);
static uint64_t get_u64(const uint8_t *at);
static bool sync_folder(const char *path);

tci_status tci_mark_read(const char *path, tci_mark *out, char *message, size_t size) {
  *out = (tci_mark){0};
  char name[PATH_MAX + 8];
  snprintf(name, sizeof name, "%s.mark", path);
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return TCI_STATUS_OK;
    return tci_text(errno == EACCES ? TCI_PERMISSION_DENIED : TCI_UNAVAILABLE, message, size,
                    "cannot open the watermark %.400s: %s", name, strerror(errno));
  }
  uint8_t bytes[FILE_BYTES] = {0};
  ssize_t len = pread(fd, bytes, sizeof bytes, 0);
  int fault = errno;
  close(fd);
  if (len < 0)
    return tci_text(TCI_DATA_LOSS, message, size, "cannot read the watermark %.400s: %s", name, strerror(fault));
  bool blank = true;
  for (size_t i = 0; i < sizeof bytes && blank; i++) blank = bytes[i] == 0;
  if (blank) return TCI_STATUS_OK; /* created, and then the power went before the first write was on the disk */
  for (size_t i = 0; i < SLOTS; i++) {
    tci_mark mark;
    if (slot_get(bytes + i * SECTOR_BYTES, &mark) && (!out->found || mark.commits > out->commits)) *out = mark;
  }
  if (out->found) return TCI_STATUS_OK;
  return tci_text(
      TCI_DATA_LOSS, message, size,
      "the watermark %.400s is damaged, so it cannot say whether the journal is whole: check the disk; delete "
      "the file to go on without it",
      name);
}

tci_status tci_mark_open(const char *path, const tci_mark *mark, int *out_fd, char *message, size_t size) {
  char name[PATH_MAX + 8];
  snprintf(name, sizeof name, "%s.mark", path);
  int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return tci_text(errno == EACCES ? TCI_PERMISSION_DENIED : TCI_UNAVAILABLE, message, size,
                    "cannot open the watermark %.400s: %s", name, strerror(errno));
  uint8_t bytes[FILE_BYTES] = {0};
  for (size_t i = 0; i < SLOTS; i++) slot_put(bytes + i * SECTOR_BYTES, mark);
  errno = ENOSPC; /* what a short write means */
  if (pwrite(fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes && fsync(fd) == 0 && sync_folder(path)) {
    *out_fd = fd;
    return TCI_STATUS_OK;
  }
  tci_status status = tci_text(errno == ENOSPC ? TCI_RESOURCE_EXHAUSTED : TCI_DATA_LOSS, message, size,
                               "cannot write the watermark %.400s: %s", name, strerror(errno));
  close(fd);
  return status;
}

bool tci_mark_write(int fd, const tci_mark *mark) {
  uint8_t slot[SLOT_BYTES];
  slot_put(slot, mark);
  off_t at = (off_t)(mark->commits % SLOTS) * SECTOR_BYTES;
  errno = ENOSPC;
  return pwrite(fd, slot, sizeof slot, at) == (ssize_t)sizeof slot;
}

static void slot_put(uint8_t *slot, const tci_mark *mark) {
  memcpy(slot, magic, sizeof magic);
  memcpy(slot + sizeof magic, mark->instance, TCI_INSTANCE_BYTES);
  put_u64(slot + sizeof magic + TCI_INSTANCE_BYTES, mark->commits);
  put_u64(slot + SUM_AT, tci_siphash(0, 0, (tci_str){(const char *)slot, SUM_AT}));
}

static bool slot_get(const uint8_t *slot, tci_mark *out) {
  if (memcmp(slot, magic, sizeof magic) != 0) return false;
  if (get_u64(slot + SUM_AT) != tci_siphash(0, 0, (tci_str){(const char *)slot, SUM_AT})) return false;
  out->found = true;
  memcpy(out->instance, slot + sizeof magic, TCI_INSTANCE_BYTES);
  out->commits = get_u64(slot + sizeof magic + TCI_INSTANCE_BYTES);
  return true;
}

static void put_u64(uint8_t *at, uint64_t value) {
  for (int i = 0; i < 8; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_u64(const uint8_t *at) {
  uint64_t value = 0;
  for (int i = 0; i < 8; i++) value |= (uint64_t)at[i] << (8 * i);
  return value;
}

static bool sync_folder(const char *path) {
  char folder[PATH_MAX];
  snprintf(folder, sizeof folder, "%s", path);
  char *slash = strrchr(folder, '/');
  slash[slash == folder] = '\0'; /* the path is absolute; "/name" is in "/" */
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  bool synced = fsync(fd) == 0;
  close(fd);
  return synced;
}
