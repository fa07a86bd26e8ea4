/* policies: the policy folders: which scripts are loaded, where they are attached, what became of files that changed.
 *
 * 1. A file that cannot be taken over leaves its policy as it was, with the reason kept to be shown; a file that is gone
 *    takes its policy along. A folder that cannot be read leaves all as it was.
 * 2. Editors and deployments take files away and put others into their place: a policy whose file is not there goes on
 *    for policy_gone_ms, and another file of its name counts only then. Somebody who asks for a reload means it at once.
 * 3. A look takes as many turns as it needs, and what it found comes into force as a whole, in the last of them.
 * 4. A script that was replaced lives until tci_policies_forget: the core may still hold the set that it is in.
 * 5. A look that finds nothing new opens nothing and makes no new set.
 * 6. Engine thread only.
 */
#ifndef TCI_APP_POLICIES_H
#define TCI_APP_POLICIES_H

#include "core/core.h"
#include "rpc/codec.h"

typedef struct tci_policies tci_policies;

typedef struct {
  tci_limits limits;  /* the policy_* ones */
  tci_ids folders;    /* of equal names the first folder's counts */
  const char *server; /* name of the server's default; NULL: the built-in */
  tci_pairs types;    /* runner type -> name */
  const char *shadow; /* path of the candidate that is asked too; NULL: none */
  bool fuse;          /* see script/script.h */
  bool quiet;         /* nothing is logged: virtual worlds */
} tci_policies_options;

/* Loads every policy of the folders. A broken file is logged and left out; when one that is attached by name is broken or
 * missing, or a folder cannot be read, the whole is refused (text in `message`, size bytes). Everything is copied. */
TCI_MUST_USE tci_status tci_policies_open(const tci_policies_options *options, tci_policies **out, char *message,
                                          size_t size);
void tci_policies_close(tci_policies *policies); /* NULL is fine; no core holds its sets any more */

/* What the core gets. NULL: no folders and nothing attached. Valid until the first _forget after a look that made
 * another. */
const tci_policy_set *tci_policies_set(const tci_policies *policies);
typedef enum { TCI_LOOK_GOES_ON, TCI_LOOK_SAME, TCI_LOOK_DIFFERS } tci_look;
/* Begins a look at the folders when none is under way, and goes on with it: at most policy_files_per_turn files, and no
 * more once they have taken much CPU time (*cpu_us; 0 without a fuse). GOES_ON: again, in the next turn. DIFFERS: it is
 * over and there is another set. `patient` counts when it begins: see invariant 2. `changed` gets the names of policies
 * that are new, changed or gone, so far; valid until the next look begins. */
tci_look tci_policies_look(tci_policies *policies, bool patient, int64_t mono_us, tci_ids *changed, int64_t *cpu_us);
/* When to look again though nothing stirs (monotonic): a file has been away for long enough. INT64_MAX: never. */
int64_t tci_policies_due_us(const tci_policies *policies);
/* Frees what was replaced: the core holds the present set, and nothing of a turn points into an older one. */
void tci_policies_forget(tci_policies *policies);

/* All of them in order of name, then the shadow; also files that were never loaded and attached names that are not there
 * (`error` says why, the version is empty). Strings live in the arena, in `policies` until its next look, or are static. */
void tci_policies_info(const tci_policies *policies, const tci_core *core, tci_arena *arena, tci_policy_info **out,
                       size_t *out_len);
/* True once for every hook of a version of a policy: its first fault. */
bool tci_policies_first_fault(tci_policies *policies, tci_str name, tci_str version, tci_hook hook);

#endif
