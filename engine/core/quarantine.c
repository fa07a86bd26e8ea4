/* quarantine: plans that an operator has set aside because their journal is damaged.
 *
 * Such a plan is not in memory and never will be: whoever names it is told so. The admission keys that it may still hold
 * stay held, so that nothing is deployed beside what may still be running. Both are in plan 0, like the runners.
 */
#include "core/internal.h"

static tci_set_aside *find(const tci_core *core, tci_str plan_id) { return tci_map_get(&core->aside, plan_id); }

bool tci_core_is_set_aside(const tci_core *core, uint64_t plan_key) {
  for (size_t i = 0; i < core->aside_list.len; i++)
    if (core->aside_list.items[i]->key == plan_key) return true;
  return false;
}

const char *tci_why_set_aside(tci_core *core, tci_str plan_id) {
  const tci_set_aside *plan = find(core, plan_id);
  if (!plan) return NULL;
  return tci_fmt(
      &core->update->arena,
      "work plan '%.*s' was set aside, since its journal is damaged (%.*s): restore the journal from a backup",
      TCI_STR_ARG(plan_id), TCI_STR_ARG(plan->reason));
}

size_t tci_core_set_aside_len(const tci_core *core) { return core->aside_list.len; }

tci_str tci_core_set_aside(const tci_core *core, size_t i, uint64_t *out_key) {
  *out_key = core->aside_list.items[i]->key;
  return core->aside_list.items[i]->id;
}

void tci_on_quarantine(tci_core *core, const tci_event *event) {
  const tci_quarantine *q = &event->quarantine;
  if (tci_core_is_set_aside(core, q->plan_key)) return;
  tci_emit(core, NULL,
           &(tci_change){.type = TCI_CHANGE_PLAN_ASIDE,
                         .id = q->plan_id,
                         .plan_key = q->plan_key,
                         .message = q->reason,
                         .keys = q->keys});
}

const char *tci_quarantine_evolve(tci_core *core, const tci_change *c) {
  if (!c->id.len || !c->plan_key || find(core, c->id)) return "a plan is set aside twice, or without a name";
  tci_set_aside *plan = tci_calloc(1, sizeof *plan);
  plan->id = tci_str_dup(c->id);
  plan->reason = tci_str_dup(c->message);
  plan->keys = tci_str_dup(c->keys);
  plan->key = c->plan_key;
  tci_map_put(&core->aside, plan->id, plan);
  tci_vec_push(&core->aside_list, plan);
  tci_keys_hold(core, plan->keys);
  return NULL;
}

void tci_quarantine_free(tci_core *core) {
  for (size_t i = 0; i < core->aside_list.len; i++) {
    tci_set_aside *plan = core->aside_list.items[i];
    tci_keys_release(core, plan->keys);
    tci_str_free(&plan->id);
    tci_str_free(&plan->reason);
    tci_str_free(&plan->keys);
    free(plan);
  }
  tci_vec_free(&core->aside_list);
  tci_map_deinit(&core->aside);
}
