/* fault_vfs: SQLite's own file access with faults on demand: the n-th write, fsync or whatever fails, is counted, or
 * ends the process, half of it done. Install it before a store is opened; stores opened then use it.
 */
#ifndef TCI_TEST_FAULT_VFS_H
#define TCI_TEST_FAULT_VFS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>

enum { FAULT_WRITE = 1, FAULT_SYNC = 2, FAULT_ANY_OP = FAULT_WRITE | FAULT_SYNC };
enum { FAULT_DB = 1, FAULT_WAL = 2, FAULT_OTHER = 4, FAULT_ANY_FILE = 7 };

/* What is to happen, and what has happened. */
static struct {
  int ops, files; /* which ones count */
  int countdown;  /* 1: the next one; 0: none */
  int rc;         /* what it answers from then on; 0: it calls fault_die */
  bool once;      /* only that one fails */
  int hits;       /* failed so far */
  int seen;       /* operations of these kinds so far, failed or not */
} fault;

static void (*fault_die)(void); /* does not return */

static void fault_arm(int ops, int files, int countdown, int rc, bool once) {
  memset(&fault, 0, sizeof fault);
  fault.ops = ops;
  fault.files = files;
  fault.countdown = countdown;
  fault.rc = rc;
  fault.once = once;
}

static void fault_disarm(void) { memset(&fault, 0, sizeof fault); }

typedef struct {
  sqlite3_file base;
  int kind;
  sqlite3_file *real; /* right behind this */
} fault_file;

static sqlite3_vfs *fault_real;
static sqlite3_vfs fault_vfs;

/* True when this operation is to fail. */
static bool fault_strikes(const fault_file *file, int op) {
  if (!(fault.ops & op) || !(fault.files & file->kind)) return false;
  fault.seen++;
  if (fault.countdown == 0) return false;
  if (fault.countdown > 1) {
    fault.countdown--;
    return false;
  }
  if (fault.once) fault.countdown = 0;
  fault.hits++;
  return true;
}

#define FAULT_REAL(file) (((fault_file *)(file))->real)

static int fault_write(sqlite3_file *file, const void *bytes, int len, sqlite3_int64 at) {
  if (!fault_strikes((fault_file *)file, FAULT_WRITE))
    return FAULT_REAL(file)->pMethods->xWrite(FAULT_REAL(file), bytes, len, at);
  FAULT_REAL(file)->pMethods->xWrite(FAULT_REAL(file), bytes, len / 2, at); /* torn */
  if (fault.rc == 0) fault_die();
  return fault.rc;
}

static int fault_sync(sqlite3_file *file, int flags) {
  if (!fault_strikes((fault_file *)file, FAULT_SYNC)) return FAULT_REAL(file)->pMethods->xSync(FAULT_REAL(file), flags);
  if (fault.rc == 0) fault_die();
  return fault.rc;
}

static int fault_close(sqlite3_file *file) { return FAULT_REAL(file)->pMethods->xClose(FAULT_REAL(file)); }
static int fault_read(sqlite3_file *file, void *out, int len, sqlite3_int64 at) {
  return FAULT_REAL(file)->pMethods->xRead(FAULT_REAL(file), out, len, at);
}
static int fault_truncate(sqlite3_file *file, sqlite3_int64 size) {
  return FAULT_REAL(file)->pMethods->xTruncate(FAULT_REAL(file), size);
}
static int fault_file_size(sqlite3_file *file, sqlite3_int64 *out) {
  return FAULT_REAL(file)->pMethods->xFileSize(FAULT_REAL(file), out);
}
static int fault_lock(sqlite3_file *file, int level) {
  return FAULT_REAL(file)->pMethods->xLock(FAULT_REAL(file), level);
}
static int fault_unlock(sqlite3_file *file, int level) {
  return FAULT_REAL(file)->pMethods->xUnlock(FAULT_REAL(file), level);
}
static int fault_check_lock(sqlite3_file *file, int *out) {
  return FAULT_REAL(file)->pMethods->xCheckReservedLock(FAULT_REAL(file), out);
}
static int fault_control(sqlite3_file *file, int op, void *arg) {
  return FAULT_REAL(file)->pMethods->xFileControl(FAULT_REAL(file), op, arg);
}
static int fault_sector(sqlite3_file *file) { return FAULT_REAL(file)->pMethods->xSectorSize(FAULT_REAL(file)); }
static int fault_device(sqlite3_file *file) {
  return FAULT_REAL(file)->pMethods->xDeviceCharacteristics(FAULT_REAL(file));
}
static int fault_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **out) {
  return FAULT_REAL(file)->pMethods->xShmMap(FAULT_REAL(file), page, size, extend, out);
}
static int fault_shm_lock(sqlite3_file *file, int offset, int n, int flags) {
  return FAULT_REAL(file)->pMethods->xShmLock(FAULT_REAL(file), offset, n, flags);
}
static void fault_shm_barrier(sqlite3_file *file) { FAULT_REAL(file)->pMethods->xShmBarrier(FAULT_REAL(file)); }
static int fault_shm_unmap(sqlite3_file *file, int remove) {
  return FAULT_REAL(file)->pMethods->xShmUnmap(FAULT_REAL(file), remove);
}

static const sqlite3_io_methods fault_methods = {
    .iVersion = 2,
    .xClose = fault_close,
    .xRead = fault_read,
    .xWrite = fault_write,
    .xTruncate = fault_truncate,
    .xSync = fault_sync,
    .xFileSize = fault_file_size,
    .xLock = fault_lock,
    .xUnlock = fault_unlock,
    .xCheckReservedLock = fault_check_lock,
    .xFileControl = fault_control,
    .xSectorSize = fault_sector,
    .xDeviceCharacteristics = fault_device,
    .xShmMap = fault_shm_map,
    .xShmLock = fault_shm_lock,
    .xShmBarrier = fault_shm_barrier,
    .xShmUnmap = fault_shm_unmap,
};

static int fault_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags) {
  (void)vfs;
  fault_file *mine = (fault_file *)file;
  mine->real = (sqlite3_file *)(mine + 1);
  mine->kind = flags & SQLITE_OPEN_MAIN_DB ? FAULT_DB : flags & SQLITE_OPEN_WAL ? FAULT_WAL : FAULT_OTHER;
  int rc = fault_real->xOpen(fault_real, name, mine->real, flags, out_flags);
  mine->base.pMethods = rc == SQLITE_OK ? &fault_methods : NULL;
  return rc;
}

/* The VFS of every connection that is opened after this. */
static void fault_install(void) {
  fault_real = sqlite3_vfs_find(NULL);
  fault_vfs = *fault_real; /* what is not about open files goes straight to the real one */
  fault_vfs.zName = "fault";
  fault_vfs.szOsFile = (int)sizeof(fault_file) + fault_real->szOsFile;
  fault_vfs.pNext = NULL;
  fault_vfs.xOpen = fault_open;
  sqlite3_vfs_register(&fault_vfs, 1);
}

/* Nothing when it is not installed: for a teardown, too. */
static void fault_uninstall(void) {
  if (fault_real) sqlite3_vfs_unregister(&fault_vfs);
  fault_real = NULL;
  fault_disarm();
}

#endif
