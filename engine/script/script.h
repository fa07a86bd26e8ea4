/* script: a policy in Lua. Opens a file into a sandbox of its own and stands behind core/policy.h.
 *
 * 1. One policy is one lua_State with a capped allocator: nothing of one reaches another, and closing it frees all.
 * 2. The same question gets the same answer: no clock, no addresses, no order of hashes; what changes comes in the
 *    view.
 * 3. Nothing a script does stops or stalls the engine: instructions, memory and CPU time of a call are bounded, and a
 *    call that goes wrong is a fault of the decision, never an error of the engine.
 * 4. Engine thread only. Floor 3: knows core's interface (core/policy.h, core/model.h, core/limits.h) and Lua; no
 *    store, no rpc.
 *
 * The contract that people read is policies/README.md; for editors lua/turboci/_meta/policy.lua.
 */
#ifndef TCI_SCRIPT_SCRIPT_H
#define TCI_SCRIPT_SCRIPT_H

#include "base/status.h"
#include "core/policy.h"

typedef struct tci_script tci_script;

typedef struct {
  tci_limits limits; /* the policy_* ones */
  tci_ids folders; /* where `require` looks, first to last: NAME.lua; the file's own folder is looked at before them */
  /* Real servers: a call that takes more than policy_cpu_ms_max of the thread's CPU time is ended. Off where answers
   * must not depend on the machine: tests in virtual time, replays. */
  bool fuse;
} tci_script_options;

/* Compiles `path`, runs it, and tries each hook twice on sample views (script/sample.c): both answers must be sound and
 * the same. INVALID_ARGUMENT (a mistake in the script; *message is "FILE:LINE: what"), NOT_FOUND (no such file),
 * RESOURCE_EXHAUSTED (too large). The text lives in `message` (size bytes); *out is NULL then. Nothing of `options` is
 * kept but the values. */
TCI_MUST_USE tci_status tci_script_open(const tci_script_options *options, const char *path, tci_script **out,
                                        char *message, size_t size);
void tci_script_close(tci_script *script); /* NULL is fine */

/* Name (the file's, without ".lua"), version, hooks, ask. Borrowed: lives as long as the script. */
const tci_policy *tci_script_policy(const tci_script *script);
const char *tci_script_path(const tci_script *script);
/* True when one of the files it was made of (its own, those it required) has other bytes now, or is gone. Reads
 * them. */
bool tci_script_is_stale(const tci_script *script);

typedef struct {
  int64_t calls, faults, instructions;
  int64_t p50_ns, p99_ns; /* of a call, within 10 %; 0: no calls */
  const char *last_fault; /* "" when there was none */
  size_t memory_bytes;    /* held now */
} tci_script_stats;
tci_script_stats tci_script_count(const tci_script *script);

#endif
