/* questions: what is asked and must change nothing. */
#include "world.h"

static tci_explanation_kind reason_to_wait(const sim *s, const tci_attempt *a) {
  const sim_asked *k = was_asked(s, a);
  if (!tci_link_in(&a->queued)) return TCI_EXPLAINS_BACKOFF;
  if (a->parked) return TCI_EXPLAINS_ADMISSION;
  if (!a->hold_until_us) return TCI_EXPLAINS_STATE;
  return k && k->said[TCI_HOOK_SELECT].step == k->hold_step ? TCI_EXPLAINS_POLICY_WAIT : TCI_EXPLAINS_ADMISSION;
}

/* ExplainNode names why a stage waits, and changes nothing. */
void ask_why(sim *s, sim_plan *p) {
  const tci_attempt *a = NULL;
  const tci_node *node = core_node(s, p, 0);
  int at = 0;
  for (int tries = 0; tries < 20 && !(a && a->execution == TCI_EXECUTION_PENDING); tries++) {
    at = pick(s, p->len);
    node = core_node(s, p, at);
    a = p->nodes[at].is_check ? NULL : tci_stage_attempt((const tci_stage *)node);
  }
  bool pending = is_quiet(s) && !s->f.asleep && a && a->execution == TCI_EXECUTION_PENDING;
  tci_explanation_kind want = pending ? reason_to_wait(s, a) : TCI_EXPLAINS_STATE;
  tci_command cmd = {.kind = TCI_COMMAND_EXPLAIN_NODE, .plan_id = p->id};
  if (p->nodes[at].is_check)
    cmd.explain_node.check_id = node->id;
  else
    cmd.explain_node.stage_id = node->id;
  bool quiet = is_quiet(s), told = false;
  const tci_reply *reply = fx_command(&s->f, cmd);
  for (size_t i = 0; i < reply->explanations_len; i++) {
    told |= reply->explanations[i].kind == want;
    mix(s, reply->explanations[i].text);
  }
  if (reply->status.code != TCI_OK || !told) fx_fail("oracle: nobody knows why %s waits", p->nodes[at].id);
  if (quiet && s->f.update.records.len) fx_fail("oracle: a question changed something");
}
