/* folder: which files of the policy folders are policies, by name. Looks and never opens a file. */
#ifndef TCI_APP_FOLDER_H
#define TCI_APP_FOLDER_H

#include "core/event.h"

typedef struct {
  tci_str name;     /* "warm_first", of warm_first.lua */
  const char *path; /* folder/warm_first.lua */
} tci_policy_file;

/* All of it lives in the arena that it was made in. */
typedef struct {
  tci_policy_file *items; /* sorted by name; of equal names the one in the first folder */
  size_t len;
  tci_ids misnamed;    /* paths of .lua files whose names cannot be names of policies */
  const char **faults; /* of each folder: why it could not be read; NULL: it was */
} tci_policy_files;

/* A policy is a file NAME.lua, or a link to one; NAME of letters, digits, '_' and '-', not starting with '_': those are
 * libraries, for require. */
void tci_policy_files_find(const tci_ids *folders, tci_arena *arena, tci_policy_files *out);

#endif
