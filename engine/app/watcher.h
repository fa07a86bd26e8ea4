/* watcher: says that files of the policy folders changed. One small thread that sleeps in the kernel until it is so. */
#ifndef TCI_APP_WATCHER_H
#define TCI_APP_WATCHER_H

#include "core/event.h"

typedef struct tci_folder_watcher tci_folder_watcher;

/* Calls `changed` on the watcher's thread after a .lua file of a folder was written, moved or deleted, or a folder itself
 * was replaced; once or more for a burst. What happens after the return is not missed. NULL: the system has no more of
 * what it takes (logged). */
tci_folder_watcher *tci_folder_watcher_open(const tci_ids *folders, void (*changed)(void *ctx), void *ctx);
/* Ends the thread: `changed` is not called any more. NULL is fine. */
void tci_folder_watcher_close(tci_folder_watcher *watcher);

#endif
