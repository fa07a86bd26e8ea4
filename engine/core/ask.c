/* ask: which policy is asked, what becomes of one that fails, and what the shadow would have said.
 *
 * Invariants: an answer that leaves here is sound: a policy that cannot answer is replaced by the built-in default, for this
 * question; policy_faults_max faults in a row open its circuit, which is a change like every decision; versions and circuits
 * live in plan 0's journal, faults in a row and what was asked in a turn are rebuilt state.
 */
#include "core/internal.h"

/* ---- who ---- */

tci_policy_entry *tci_policy_entry_find(const tci_core *core, tci_str name) {
  return tci_map_get(&core->policies, name);
}

static tci_str type_policy(const tci_policy_set *set, tci_str type) {
  if (!set) return (tci_str){0};
  for (size_t i = 0; i < set->types.len; i++)
    if (tci_str_eq(set->types.items[i].key, type)) return set->types.items[i].value;
  return set->server;
}

static void attach(const tci_core *core, tci_attachment *at, tci_str name) {
  if (at->generation == core->policies_generation) return;
  at->generation = core->policies_generation;
  at->name = name;
  at->policy = tci_policy_find(core->set, name);
  at->entry = at->policy ? tci_policy_entry_find(core, name) : NULL;
}

static bool has_hook(const tci_policy *policy, tci_hook hook) { return policy && policy->hooks >> hook & 1; }

const tci_attachment *tci_attached(tci_core *core, tci_pool *pool, const tci_stage *stage) {
  tci_plan *plan = stage->node.plan;
  if (!core->set && !plan->policy.len) return &core->unattached;
  if (plan->policy.len) {
    attach(core, &plan->attached, plan->policy);
    return &plan->attached;
  }
  tci_attachment *at = pool ? &pool->attached : &core->loose;
  if (!pool) at->generation = 0; /* of whatever type was asked for last */
  if (at->generation != core->policies_generation) attach(core, at, type_policy(core->set, stage->runner_type));
  return at;
}

bool tci_asks_script(const tci_attachment *at, tci_hook hook) { return has_hook(at->policy, hook); }

bool tci_asks_shadow(const tci_core *core, tci_hook hook) { return core->set && has_hook(core->set->shadow, hook); }

/* ---- notes ---- */

static void note(tci_core *core, tci_note_kind kind, const tci_policy *policy, tci_hook hook, tci_str text,
                 const tci_stage *stage) {
  tci_note n = {kind, hook, policy->name, policy->version, text, stage};
  tci_vec_push(&core->update->notes, n);
}

/* ---- circuit ---- */

static void circuit(tci_core *core, const tci_policy *policy, tci_policy_state state, int64_t for_ms) {
  tci_change c = {.type = TCI_CHANGE_POLICY, .id = policy->name, .policy_version = policy->version, .state = state};
  if (for_ms) c.until_us = (uint64_t)(core->now.wall_us + for_ms * 1000);
  tci_emit(core, NULL, &c);
}

static void fault(tci_core *core, const tci_attachment *at, tci_hook hook, tci_str text, const tci_stage *stage) {
  tci_policy_entry *entry = at->entry;
  core->update->policy.faults++;
  note(core, TCI_NOTE_FAULT, at->policy, hook, text, stage);
  entry->faults_in_row++;
  if (entry->state != TCI_POLICY_OPEN && entry->faults_in_row < core->limits.policy_faults_max) return;
  circuit(core, at->policy, TCI_POLICY_OPEN, core->limits.policy_circuit_ms);
  note(core, TCI_NOTE_CIRCUIT_OPEN, at->policy, hook, text, stage);
  core->wake_all = true; /* what it held back is decided by the built-in now */
}

static void sound(tci_core *core, const tci_attachment *at, tci_hook hook) {
  at->entry->faults_in_row = 0;
  if (at->entry->state != TCI_POLICY_OPEN) return;
  circuit(core, at->policy, TCI_POLICY_LIVE, 0);
  note(core, TCI_NOTE_CIRCUIT_CLOSED, at->policy, hook, (tci_str){0}, NULL);
}

/* Why it is not asked now; empty: it is. */
static tci_str excuse(tci_core *core, const tci_attachment *at, tci_hook hook) {
  tci_arena *arena = &core->update->arena;
  if (!at->policy)
    return at->name.len ? tci_str_from(tci_fmt(arena, "there is no policy '%.*s' any more", TCI_STR_ARG(at->name)))
                        : (tci_str){0};
  if (!has_hook(at->policy, hook)) return (tci_str){0};
  if (at->entry->state == TCI_POLICY_OPEN && core->now.mono_us < at->entry->open_mono_us)
    return tci_str_from(tci_fmt(arena, "the circuit of policy '%.*s' is open: %lld faults in a row",
                                TCI_STR_ARG(at->name), (long long)core->limits.policy_faults_max));
  return (tci_str){0};
}

/* ---- the question ---- */

static bool same_ids(tci_ids a, tci_ids b) {
  if (a.len != b.len) return false;
  for (size_t i = 0; i < a.len; i++)
    if (!tci_str_eq(a.items[i], b.items[i])) return false;
  return true;
}

static const char *runner_name(tci_core *core, const tci_decision *d) {
  return d->wait ? "wait" : tci_str_z(&core->update->arena, d->runner->runner_id);
}

/* What the shadow would have done otherwise; NULL: the same. */
static const char *difference(tci_core *core, tci_hook hook, const tci_decision *is, const tci_decision *would) {
  tci_arena *arena = &core->update->arena;
  if (would->fault) return would->fault;
  switch (hook) {
    case TCI_HOOK_SELECT:
      if (is->wait == would->wait && is->runner == would->runner) return NULL;
      return tci_fmt(arena, "%s instead of %s", runner_name(core, would), runner_name(core, is));
    case TCI_HOOK_RETRY:
      if (is->again == would->again && is->after_us == would->after_us && same_ids(is->exclude, would->exclude))
        return NULL;
      return tci_fmt(arena, "again=%d after %lld us instead of again=%d after %lld us", would->again,
                     (long long)would->after_us, is->again, (long long)is->after_us);
    case TCI_HOOK_TIMEOUT:
      if (is->execution_ms == would->execution_ms && is->stale_ms == would->stale_ms && is->queue_ms == would->queue_ms)
        return NULL;
      return tci_fmt(arena, "execution %lld ms, stale %lld ms, queue %lld ms instead of %lld, %lld, %lld",
                     (long long)would->execution_ms, (long long)would->stale_ms, (long long)would->queue_ms,
                     (long long)is->execution_ms, (long long)is->stale_ms, (long long)is->queue_ms);
    case TCI_HOOK_PRIORITY:
      if (is->priority == would->priority) return NULL;
      return tci_fmt(arena, "%lld instead of %lld", (long long)would->priority, (long long)is->priority);
    case TCI_HOOK_ADMIT:
      if (is->wait == would->wait && is->keys_len == would->keys_len) return NULL;
      return tci_fmt(arena, "%s with %zu keys instead of %s with %zu", would->wait ? "wait" : "run", would->keys_len,
                     is->wait ? "wait" : "run", is->keys_len);
    case TCI_HOOKS: break;
  }
  return NULL;
}

/* Zeros of timeout, and a priority that was not said, are the built-in's. */
static void complete(tci_hook hook, const tci_question *q, tci_decision *d) {
  if (hook == TCI_HOOK_TIMEOUT && (!d->execution_ms || !d->stale_ms)) {
    tci_decision builtin = {0};
    tci_policy_builtin.ask(NULL, hook, q, &builtin);
    if (!d->execution_ms) d->execution_ms = builtin.execution_ms;
    if (!d->stale_ms) d->stale_ms = builtin.stale_ms;
  }
  if (hook == TCI_HOOK_PRIORITY && !d->says) d->priority = q->stage->priority;
}

static void ask(tci_core *core, const tci_policy *policy, tci_hook hook, const tci_question *q, tci_decision *out) {
  *out = (tci_decision){0};
  policy->ask(policy->self, hook, q, out);
  core->instructions_left -= out->cost;
  core->cpu_left_us -= out->cpu_us;
  core->update->policy.instructions += out->cost;
  if (!out->fault) complete(hook, q, out);
}

static void ask_shadow(tci_core *core, tci_hook hook, tci_question q, tci_rng rng, const tci_decision *is) {
  const tci_policy *shadow = core->set->shadow;
  if (!tci_has_time_to_ask(core)) return;
  q.rng = &rng;
  tci_decision would;
  ask(core, shadow, hook, &q, &would);
  core->update->policy.shadow_asks++;
  const char *text = difference(core, hook, is, &would);
  if (!text) return;
  core->update->policy.shadow_differs++;
  note(core, TCI_NOTE_SHADOW, shadow, hook, tci_str_from(text), q.stage);
}

static bool has_failed(const tci_stage *stage, tci_str runner_id) {
  for (size_t i = 0; i < stage->attempts.len; i++)
    if (tci_str_eq(stage->attempts.items[i]->runner_id, runner_id)) return true;
  return false;
}

/* Ends at the first who has not failed: it looks at no more runners than there are attempts, and one. */
static bool is_elsewhere(const tci_core *core, const tci_attempt *a) {
  const tci_pool *pool = tci_attempt_pool(core, a);
  for (size_t i = 0; pool && i < pool->runners.len; i++) {
    const tci_runner *r = pool->runners.items[i];
    if (r->modes[a->mode] && !has_failed(a->stage, r->runner_id)) return true;
  }
  return false;
}

void tci_ask(tci_core *core, const tci_attachment *at, tci_hook hook, const tci_attempt *attempt,
             tci_runner *const *candidates, size_t len, tci_decision *out, tci_decision_record *record) {
  tci_question q = {&core->limits, core->now, &core->rng, &core->update->arena, attempt->stage, attempt,
                    candidates,    len,       false};
  *record = (tci_decision_record){.hook = hook, .at_us = core->now.wall_us};
  bool shadowed = tci_asks_shadow(core, hook);
  tci_rng before;
  if (shadowed) before = core->rng;
  record->fault = excuse(core, at, hook);
  bool asks = has_hook(at->policy, hook) && !record->fault.len;
  if ((asks || shadowed) && (hook == TCI_HOOK_RETRY || hook == TCI_HOOK_TIMEOUT))
    q.elsewhere = is_elsewhere(core, attempt);
  if (asks && hook == TCI_HOOK_RETRY && !tci_has_time_to_ask(core)) {
    /* A retry cannot wait for the next turn, and this is nobody's fault. Of the others none begins without time
     * (dispatch.c), and who is asked is asked all. */
    record->fault = core->instructions_left <= 0
                        ? TCI_STR("the turn has used up its instructions (limit policy_instructions_per_turn)")
                        : TCI_STR("the turn has used up its CPU time for policies (limit policy_cpu_ms_per_turn)");
    note(core, TCI_NOTE_UNASKED, at->policy, hook, record->fault, attempt->stage);
    asks = false;
  }
  if (asks) {
    core->update->policy.asks++;
    ask(core, at->policy, hook, &q, out);
    if (out->fault) {
      record->fault = tci_str_from(out->fault);
      fault(core, at, hook, record->fault, attempt->stage);
    } else {
      sound(core, at, hook);
    }
  }
  if (asks || record->fault.len) {
    record->policy = at->name;
    if (at->policy) record->version = at->policy->version;
  }
  if (!asks || out->fault) {
    *out = (tci_decision){0};
    tci_policy_builtin.ask(NULL, hook, &q, out);
  }
  record->reason = out->reason;
  if (shadowed) ask_shadow(core, hook, q, before, out);
}

/* ---- other policies ---- */

static void take_over(tci_core *core, const tci_policy *policy) {
  const tci_policy_entry *entry = tci_policy_entry_find(core, policy->name);
  if (entry && entry->state != TCI_POLICY_GONE && tci_str_eq(entry->version, policy->version)) return;
  circuit(core, policy, TCI_POLICY_LIVE, 0);
  note(core, TCI_NOTE_LIVE, policy, TCI_HOOKS, (tci_str){0}, NULL);
}

void tci_policies_sync(tci_core *core) {
  for (size_t i = 0; core->set && i < core->set->len; i++) take_over(core, core->set->policies[i]);
  for (size_t i = 0; i < core->policy_list.len; i++) {
    tci_policy_entry *entry = core->policy_list.items[i];
    if (entry->state == TCI_POLICY_GONE || tci_policy_find(core->set, entry->name)) continue;
    const tci_policy gone = {.name = entry->name, .version = entry->version};
    circuit(core, &gone, TCI_POLICY_GONE, 0);
    note(core, TCI_NOTE_GONE, &gone, TCI_HOOKS, (tci_str){0}, NULL);
  }
  core->policies_generation++; /* attachments are looked up again */
}

void tci_on_policies(tci_core *core, const tci_policy_set *set) {
  core->set = set;
  tci_policies_sync(core);
  core->wake_all = true;
}

/* ---- evolve ---- */

/* What is left of an open circuit counts from now, and is never longer than it was meant. */
static void time_circuit(const tci_core *core, tci_policy_entry *entry) {
  int64_t left = entry->until_us - core->now.wall_us, most = core->limits.policy_circuit_ms * 1000;
  entry->open_mono_us = core->now.mono_us + (left < 0 ? 0 : left > most ? most : left);
}

const char *tci_policy_evolve(tci_core *core, const tci_change *c) {
  if (!c->id.len || c->state < TCI_POLICY_LIVE || c->state > TCI_POLICY_OPEN) return "a policy without name or state";
  tci_policy_entry *entry = tci_policy_entry_find(core, c->id);
  if (!entry) {
    entry = tci_calloc(1, sizeof *entry);
    entry->name = tci_str_dup(c->id);
    tci_map_put(&core->policies, entry->name, entry);
    tci_vec_push(&core->policy_list, entry);
    core->policies_generation++;
  }
  if (!tci_str_eq(entry->version, c->policy_version)) {
    tci_discard(core, (void *)entry->version.ptr);
    entry->version = tci_str_dup(c->policy_version);
  }
  if (c->state == TCI_POLICY_LIVE) entry->faults_in_row = 0; /* it starts afresh, also when it comes back as it was */
  entry->state = (tci_policy_state)c->state;
  entry->until_us = (int64_t)c->until_us;
  time_circuit(core, entry);
  return NULL;
}

void tci_policies_wake(tci_core *core) {
  for (size_t i = 0; i < core->policy_list.len; i++) time_circuit(core, core->policy_list.items[i]);
}

void tci_policies_free(tci_core *core) {
  for (size_t i = 0; i < core->policy_list.len; i++) {
    tci_policy_entry *entry = core->policy_list.items[i];
    tci_str_free(&entry->name);
    tci_str_free(&entry->version);
    free(entry);
  }
  tci_vec_free(&core->policy_list);
  tci_map_deinit(&core->policies);
}

bool tci_core_policy_state(const tci_core *core, tci_str name, bool *circuit_open, int64_t *until_us) {
  const tci_policy_entry *entry = tci_policy_entry_find(core, name);
  *circuit_open = entry && entry->state == TCI_POLICY_OPEN && core->now.mono_us < entry->open_mono_us;
  *until_us = *circuit_open ? entry->until_us : 0;
  return entry && entry->state != TCI_POLICY_GONE;
}
