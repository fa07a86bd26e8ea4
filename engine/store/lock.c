/* lock: who may use a journal.
 *
 * 1. The lock is flock(2) on <db>.lock: the kernel drops it when the process dies, so a stale file locks nobody out.
 *    Not on the database itself: closing any descriptor of that file would drop SQLite's own fcntl locks.
 * 2. The file is never removed: a process that waits on a removed file and one that creates it anew would both own it.
 * 3. The pid inside is only for the message. It is written after the lock was taken and emptied before it is released.
 *
 * Callers: sqlite_open.c.
 */
#define _GNU_SOURCE 1
#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/text.h"

static tci_status folder_fault(const char *folder, char *message, size_t size);
static tci_status held_by_other(const char *path, int fd, char *message, size_t size);

tci_status tci_lock_resolve(const char *path, char *out, size_t out_size, char *message, size_t size) {
  if (!path || !path[0])
    return tci_text(TCI_INVALID_ARGUMENT, message, size, "the database path is empty: name a file");
  if (strlen(path) >= PATH_MAX)
    return tci_text(TCI_INVALID_ARGUMENT, message, size, "the database path is longer than %d bytes", PATH_MAX - 1);
  char real[PATH_MAX], folder[PATH_MAX];
  struct stat info;
  if (stat(path, &info) == 0) {
    if (S_ISDIR(info.st_mode))
      return tci_text(TCI_INVALID_ARGUMENT, message, size,
                      "database path %.400s is a directory: name a file, as in %.400s/turboci.db", path, path);
    if (!S_ISREG(info.st_mode))
      return tci_text(TCI_INVALID_ARGUMENT, message, size, "database path %.400s is not a regular file", path);
    if (!realpath(path, real))
      return tci_text(TCI_INVALID_ARGUMENT, message, size, "database path %.400s: %s", path, strerror(errno));
  } else if (lstat(path, &info) == 0) { /* the lock would be beside the link, and the database elsewhere */
    return tci_text(TCI_INVALID_ARGUMENT, message, size, "database path %.400s is a symbolic link that leads nowhere",
                    path);
  } else if (errno != ENOENT && errno != EACCES) {
    return tci_text(TCI_INVALID_ARGUMENT, message, size, "database path %.400s: %s", path, strerror(errno));
  } else {
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (!name[0]) /* it ends in a slash */
      return tci_text(TCI_INVALID_ARGUMENT, message, size, "database path %.400s names no file", path);
    size_t folder_len = (size_t)(name - path);
    memcpy(folder, path, folder_len);
    strcpy(folder + folder_len, folder_len ? "" : ".");
    if (!realpath(folder, real)) return folder_fault(folder, message, size);
    size_t len = strlen(real);
    int more = snprintf(real + len, sizeof real - len, "%s%s", real[len - 1] == '/' ? "" : "/", name);
    if (more < 0 || (size_t)more >= sizeof real - len)
      return tci_text(TCI_INVALID_ARGUMENT, message, size, "the database path is longer than %d bytes", PATH_MAX - 1);
  }
  /* Room for the suffixes of the files beside it. */
  if (strlen(real) + sizeof "-journal" > out_size)
    return tci_text(TCI_INVALID_ARGUMENT, message, size, "the database path is too long: %zu bytes", strlen(real));
  strcpy(out, real);

  char *slash = strrchr(real, '/');
  slash[slash == real] = '\0'; /* "/name" is in "/" */
  if (access(real, W_OK | X_OK) != 0) return folder_fault(real, message, size);
  return TCI_STATUS_OK;
}

tci_status tci_lock_take(const char *path, int *out_fd, char *message, size_t size) {
  char name[PATH_MAX + 8];
  snprintf(name, sizeof name, "%s.lock", path);
  int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return tci_text(errno == EACCES ? TCI_PERMISSION_DENIED : TCI_UNAVAILABLE, message, size,
                    "cannot open the lock file %.400s: %s", name, strerror(errno));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    int fault = errno;
    tci_status status = fault == EWOULDBLOCK
                            ? held_by_other(path, fd, message, size)
                            : tci_text(TCI_UNAVAILABLE, message, size, "cannot lock %.400s: %s", name, strerror(fault));
    close(fd);
    return status;
  }
  char pid[16];
  int len = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
  /* Without its pid the lock still holds; a full disk must not keep a reader out. */
  if (ftruncate(fd, 0) == 0 && pwrite(fd, pid, (size_t)len, 0) < 0) (void)!ftruncate(fd, 0);
  *out_fd = fd;
  return TCI_STATUS_OK;
}

void tci_lock_release(int fd) {
  if (fd < 0) return;
  (void)!ftruncate(fd, 0);
  /* Not left to close(2): a child that was forked and has not exec'd yet shares the lock. */
  flock(fd, LOCK_UN);
  close(fd);
}

static tci_status folder_fault(const char *folder, char *message, size_t size) {
  int fault = errno;
  if (fault == ENOENT || fault == ENOTDIR)
    return tci_text(TCI_FAILED_PRECONDITION, message, size,
                    "the folder of the database, %.400s, does not exist: create it", folder);
  if (fault == EACCES || fault == EROFS)
    return tci_text(TCI_PERMISSION_DENIED, message, size,
                    "the folder of the database, %.400s, cannot be written by user %ld: %s", folder, (long)geteuid(),
                    strerror(fault));
  return tci_text(TCI_INVALID_ARGUMENT, message, size, "the folder of the database, %.400s: %s", folder,
                  strerror(fault));
}

static tci_status held_by_other(const char *path, int fd, char *message, size_t size) {
  char text[16];
  ssize_t len = pread(fd, text, sizeof text - 1, 0);
  text[len > 0 ? len : 0] = '\0';
  long pid = strtol(text, NULL, 10);
  if (pid <= 0)
    return tci_text(TCI_FAILED_PRECONDITION, message, size,
                    "%.400s is in use by another process, which is just starting or stopping: try again", path);
  return tci_text(TCI_FAILED_PRECONDITION, message, size,
                  "%.400s is in use by process %ld: stop it (kill %ld), or give this one another file", path, pid, pid);
}
