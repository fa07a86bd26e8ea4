/* questions: what is asked and must change nothing: why a node is as it is, and the nodes that a filter lets through, against
 * a naive look at them. In the engine a question may bring a plan back into memory; of that, too, nothing must come.
 */
#include "turboci/v1/service.pb-c.h"
#include "world.h"

/* ---- why ---- */

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

/* ---- nodes ---- */

typedef struct {
  bool checks, stages;
  unsigned check_states, stage_states;
  const char *ids[3];
  size_t ids_len;
} question;

static void roll_question(sim *s, const sim_plan *p, question *q) {
  *q = (question){.checks = chance(s, 75), .stages = chance(s, 75)};
  if (chance(s, 40)) q->check_states = (unsigned)roll(s, 64) & 0x1eu;
  if (chance(s, 40)) q->stage_states = (unsigned)roll(s, 64) & 0x1eu;
  for (int n = chance(s, 30) ? pick(s, 4) : 0; n > 0; n--) q->ids[q->ids_len++] = p->nodes[pick(s, p->len)].id;
}

static bool lets_through(const question *q, const tci_node *node) {
  bool is_check = node->kind == TCI_NODE_CHECK, named = q->ids_len == 0;
  if (is_check ? !q->checks : !q->stages) return false;
  for (size_t i = 0; i < q->ids_len; i++) named |= tci_str_eq(node->id, tci_str_from(q->ids[i]));
  unsigned states = is_check ? q->check_states : q->stage_states;
  int state = is_check ? (int)((const tci_check *)node)->state : (int)((const tci_stage *)node)->state;
  return named && (!states || states >> (state / 10) & 1);
}

/* "id version " of each, checks first. */
static void expected_nodes(sim *s, const sim_plan *p, const question *q) {
  const tci_plan *plan = plan_of(s, p);
  s->text[0] = '\0';
  for (int kind = TCI_NODE_CHECK; kind <= TCI_NODE_STAGE; kind++)
    for (size_t i = 0; i < plan->nodes.len; i++) {
      const tci_node *node = plan->nodes.items[i];
      if ((int)node->kind != kind || !lets_through(q, node)) continue;
      say(s, "%.*s %lld ", TCI_STR_ARG(node->id), (long long)node->version);
    }
}

static void told_nodes(const sim *s, const tci_reply *reply, tci_buf *out) {
  tci_arena arena = {0};
  if (!s->shell) {
    for (size_t i = 0; i < reply->checks_len; i++)
      tci_buf_add(out, tci_str_from(tci_fmt(&arena, "%.*s %lld ", TCI_STR_ARG(reply->checks[i]->node.id),
                                            (long long)reply->checks[i]->node.version)));
    for (size_t i = 0; i < reply->stages_len; i++)
      tci_buf_add(out, tci_str_from(tci_fmt(&arena, "%.*s %lld ", TCI_STR_ARG(reply->stages[i]->node.id),
                                            (long long)reply->stages[i]->node.version)));
  } else {
    tci_str body = shell_body();
    Turboci__V1__QueryNodesResponse *nodes =
        turboci__v1__query_nodes_response__unpack(NULL, body.len, (const uint8_t *)body.ptr);
    if (!nodes) fx_fail("oracle: a reply makes no sense");
    for (size_t i = 0; i < nodes->n_checks; i++)
      tci_buf_add(
          out, tci_str_from(tci_fmt(&arena, "%s %lld ", nodes->checks[i]->id, (long long)nodes->checks[i]->version)));
    for (size_t i = 0; i < nodes->n_stages; i++)
      tci_buf_add(
          out, tci_str_from(tci_fmt(&arena, "%s %lld ", nodes->stages[i]->id, (long long)nodes->stages[i]->version)));
    turboci__v1__query_nodes_response__free_unpacked(nodes, NULL);
  }
  tci_arena_deinit(&arena);
}

/* What policies are shown of a runner's past: no question may change it. */
static uint64_t figures(const sim *s) {
  uint64_t hash = 0;
  for (size_t i = 0; i < s->f.core->runner_list.len; i++) {
    const tci_runner *r = s->f.core->runner_list.items[i];
    const int64_t of[] = {r->load, r->recent, r->recent_len, (int64_t)r->last_used, r->last_used_us};
    hash = tci_siphash(hash, i, (tci_str){(const char *)of, sizeof of});
  }
  return hash;
}

void query(sim *s, const sim_plan *p) {
  question q;
  roll_question(s, p, &q);
  tci_str ids[3];
  for (size_t i = 0; i < q.ids_len; i++) ids[i] = tci_str_from(q.ids[i]);
  tci_command cmd = {.kind = TCI_COMMAND_QUERY_NODES, .plan_id = p->id};
  cmd.query_nodes = (tci_filter){.include_checks = q.checks,
                                 .include_stages = q.stages,
                                 .check_states = q.check_states,
                                 .stage_states = q.stage_states,
                                 .check_ids = {ids, q.ids_len},
                                 .stage_ids = {ids, q.ids_len}};
  if (!is_quiet(s)) return;
  uint64_t before = figures(s);
  const tci_reply *reply = fx_command(&s->f, cmd);
  if (figures(s) != before) fx_fail("oracle: a question changed what is known of a runner's past");
  if (reply->status.code != TCI_OK) fx_fail("oracle: a question is refused: %s", reply->status.message);
  if (s->f.update.records.len) fx_fail("oracle: a question changed something");
  tci_buf told = {0};
  told_nodes(s, reply, &told);
  expected_nodes(s, p, &q);
  if (!tci_str_eq(tci_buf_str(&told), tci_str_from(s->text)))
    fx_fail("oracle: asked for nodes, told \"%.*s\", not \"%s\"", (int)told.len, told.ptr, s->text);
  tci_buf_deinit(&told);
}
