/* codec_policy: decisions, explanations, policies -> their messages. Called by codec_reply.c and codec_node.c.
 *
 * 1. What a script or a file name says may be any bytes, a string of a message is UTF-8: such texts pass words().
 * 2. A record that cannot be decoded is left out: one bad decision hides neither the others nor their attempt.
 */
#include <string.h>

#include "core/change.h"
#include "core/policy.h"
#include "rpc/codec_node.h"

#define SAME(kind)                                                                                          \
  _Static_assert((int)TCI_EXPLAINS_##kind == (int)TCI__WIRE__V1__EXPLANATION_KIND__EXPLANATION_KIND_##kind, \
                 "core/update.h differs from service.proto")

SAME(STATE);
SAME(DEPENDENCY);
SAME(NO_RUNNER);
SAME(ALL_BUSY);
SAME(PASSED_OVER);
SAME(EXCLUDED);
SAME(BACKOFF);
SAME(POLICY_WAIT);
SAME(ADMISSION);
SAME(QUEUED);
SAME(RUNNING);
SAME(DECISION);
SAME(ATTEMPT);
SAME(POLICY_FAULT);
SAME(RESULT);
SAME(CLIENT);

enum { US_PER_MS = 1000, UTF8_BYTES_MAX = 4 };

/* ---- texts ---- */

/* How many bytes the character at the start of `s` has; 0: no character starts there. */
static size_t character(tci_str s) {
  if (!s.ptr[0]) return 0; /* NUL would end the C string */
  for (size_t bytes = 1; bytes <= UTF8_BYTES_MAX && bytes <= s.len; bytes++)
    if (tci_str_is_utf8((tci_str){s.ptr, bytes})) return bytes;
  return 0;
}

/* `s` with '?' for every byte that is not UTF-8. */
static char *words(tci_arena *arena, tci_str s) {
  char *text = tci_codec_text(arena, s);
  if (!s.len || (tci_str_is_utf8(s) && !memchr(s.ptr, 0, s.len))) return text;
  for (size_t i = 0; i < s.len;) {
    size_t bytes = character((tci_str){s.ptr + i, s.len - i});
    if (!bytes) text[i] = '?';
    i += bytes ? bytes : 1;
  }
  return text;
}

size_t tci_codec_names(tci_arena *arena, tci_ids names, char ***out) {
  *out = tci_arena_array(arena, char *, names.len);
  for (size_t i = 0; i < names.len; i++) (*out)[i] = words(arena, names.items[i]);
  return names.len;
}

size_t tci_codec_encoded_names(tci_arena *arena, tci_str encoded, char ***out) {
  tci_ids names = {0};
  if (encoded.len && !tci_ids_decode(encoded, arena, &names)) names.len = 0;
  return tci_codec_names(arena, names, out);
}

/* ---- decisions ---- */

static Tci__Wire__V1__PolicyCandidate *candidate(tci_arena *arena, const tci_candidate *from) {
  Tci__Wire__V1__PolicyCandidate *m = tci_arena_new(arena, Tci__Wire__V1__PolicyCandidate);
  tci__wire__v1__policy_candidate__init(m);
  m->runner_id = words(arena, from->runner_id);
  m->load = from->load;
  return m;
}

static Tci__Wire__V1__AdmissionKey *admission_key(tci_arena *arena, const tci_admission *from) {
  Tci__Wire__V1__AdmissionKey *m = tci_arena_new(arena, Tci__Wire__V1__AdmissionKey);
  tci__wire__v1__admission_key__init(m);
  m->key = words(arena, from->key);
  m->limit = from->limit;
  return m;
}

static Tci__Wire__V1__PolicyDecision *decision(tci_arena *arena, const tci_decision_record *from) {
  Tci__Wire__V1__PolicyDecision *m = tci_arena_new(arena, Tci__Wire__V1__PolicyDecision);
  tci__wire__v1__policy_decision__init(m);
  m->hook = tci_codec_text(arena, tci_str_from(tci_hook_name(from->hook)));
  m->policy = words(arena, from->policy);
  m->version = words(arena, from->version);
  m->reason = words(arena, from->reason);
  m->fault = words(arena, from->fault);
  m->decided_at = tci_codec_time(arena, from->at_us);
  m->runner_id = words(arena, from->runner_id);
  m->n_candidates = from->candidates_len;
  m->candidates = tci_arena_array(arena, Tci__Wire__V1__PolicyCandidate *, from->candidates_len);
  for (size_t i = 0; i < from->candidates_len; i++) m->candidates[i] = candidate(arena, &from->candidates[i]);
  m->candidates_total = from->candidates_total;
  m->again = from->again;
  m->after_ms = from->after_us / US_PER_MS;
  m->n_excluded_runners = tci_codec_names(arena, from->exclude, &m->excluded_runners);
  m->execution_ms = from->execution_ms;
  m->stale_ms = from->stale_ms;
  m->queue_ms = from->queue_ms;
  m->priority = from->priority;
  m->n_admission_keys = from->keys_len;
  m->admission_keys = tci_arena_array(arena, Tci__Wire__V1__AdmissionKey *, from->keys_len);
  for (size_t i = 0; i < from->keys_len; i++) m->admission_keys[i] = admission_key(arena, &from->keys[i]);
  return m;
}

size_t tci_codec_decisions(tci_arena *arena, const tci_attempt *const *attempts, size_t attempts_len,
                           Tci__Wire__V1__PolicyDecision ***out) {
  size_t room = 0, len = 0;
  for (size_t i = 0; i < attempts_len; i++) room += attempts[i]->decisions.len;
  *out = tci_arena_array(arena, Tci__Wire__V1__PolicyDecision *, room);
  for (size_t i = 0; i < attempts_len; i++)
    for (size_t j = 0; j < attempts[i]->decisions.len; j++) {
      tci_decision_record record;
      if (tci_decision_decode(attempts[i]->decisions.items[j], arena, &record))
        (*out)[len++] = decision(arena, &record);
    }
  return len;
}

/* ---- explanations and policies ---- */

Tci__Wire__V1__Explanation *tci_codec_explanation(tci_arena *arena, const tci_explanation *from) {
  Tci__Wire__V1__Explanation *m = tci_arena_new(arena, Tci__Wire__V1__Explanation);
  tci__wire__v1__explanation__init(m);
  m->kind = (Tci__Wire__V1__ExplanationKind)from->kind;
  m->text = words(arena, from->text);
  m->subject = words(arena, from->subject);
  m->attempt_idx = (int32_t)from->attempt;
  return m;
}

Tci__Wire__V1__PolicyInfo *tci_codec_policy(tci_arena *arena, const tci_policy_info *from) {
  Tci__Wire__V1__PolicyInfo *m = tci_arena_new(arena, Tci__Wire__V1__PolicyInfo);
  tci__wire__v1__policy_info__init(m);
  m->name = words(arena, from->name);
  m->version = words(arena, from->version);
  m->path = words(arena, from->path);
  m->hooks = tci_arena_array(arena, char *, TCI_HOOKS);
  for (int hook = TCI_HOOK_SELECT; hook < TCI_HOOKS; hook++)
    if (from->hooks >> hook & 1)
      m->hooks[m->n_hooks++] = tci_codec_text(arena, tci_str_from(tci_hook_name((tci_hook)hook)));
  m->n_attached_to = tci_codec_names(arena, from->attached_to, &m->attached_to);
  m->calls = from->calls;
  m->faults = from->faults;
  m->p50_ns = from->p50_ns;
  m->p99_ns = from->p99_ns;
  m->circuit_open = from->circuit_open;
  m->circuit_until = tci_codec_time(arena, from->circuit_until_us);
  m->last_fault = words(arena, from->last_fault);
  m->error = words(arena, from->error);
  return m;
}
