/* questions: what is asked and must change nothing: why a node is as it is, and the nodes that a filter lets through, against
 * a naive look at them. In the engine a question may bring a plan back into memory; of that, too, nothing must come.
 */
#include "rpc/codec_page.h"
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

typedef struct {
  tci_buf checks, stages; /* "id version " of each that was told */
  size_t len;
} told;

static void add_told(told *t, bool is_check, tci_str id, int64_t version) {
  char text[40];
  tci_buf *out = is_check ? &t->checks : &t->stages;
  tci_buf_add(out, id);
  snprintf(text, sizeof text, " %lld ", (long long)version);
  tci_buf_add(out, tci_str_from(text));
  t->len++;
}

/* Adds what a reply tells. False when there is no page after it; else `cmd` asks for it. */
static bool read_reply(const sim *s, const tci_reply *reply, tci_command *cmd, told *t) {
  if (!s->shell) {
    for (size_t i = 0; i < reply->checks_len; i++)
      add_told(t, true, reply->checks[i]->node.id, reply->checks[i]->node.version);
    for (size_t i = 0; i < reply->stages_len; i++)
      add_told(t, false, reply->stages[i]->node.id, reply->stages[i]->node.version);
    cmd->page.from = reply->next;
    return reply->next != 0;
  }
  tci_str body = shell_body();
  Turboci__V1__QueryNodesResponse *nodes =
      turboci__v1__query_nodes_response__unpack(NULL, body.len, (const uint8_t *)body.ptr);
  if (!nodes) fx_fail("oracle: a reply makes no sense");
  for (size_t i = 0; i < nodes->n_checks; i++)
    add_told(t, true, tci_str_from(nodes->checks[i]->id), nodes->checks[i]->version);
  for (size_t i = 0; i < nodes->n_stages; i++)
    add_told(t, false, tci_str_from(nodes->stages[i]->id), nodes->stages[i]->version);
  bool more = nodes->next_page_token[0] != '\0';
  if (more && !tci_codec_page_open(tci_str_from(nodes->next_page_token), cmd))
    fx_fail("oracle: a page token makes no sense");
  turboci__v1__query_nodes_response__free_unpacked(nodes, NULL);
  return more;
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

/* A list may take the engine some turns. NULL: it did, and other things happened meanwhile. */
static const tci_reply *ask(sim *s, const tci_command *cmd) {
  tci_event event = {.kind = TCI_EVENT_COMMAND, .token = LIST_TOKEN + s->tokens++, .command = *cmd};
  fx_step(&s->f, &event);
  for (int turns = 0;; turns++) {
    for (size_t i = 0; i < s->f.update.effects.len; i++)
      if (s->f.update.effects.items[i].kind == TCI_EFFECT_REPLY && s->f.update.effects.items[i].token == event.token)
        return &s->f.update.effects.items[i].reply;
    if (s->f.update.records.len) return NULL;
    if (turns == 10000) fx_fail("oracle: a question is never answered");
    fx_tick(&s->f);
  }
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
  told all = {.len = 0};
  if (chance(s, 40)) cmd.page.size = 1 + pick(s, 8);
  for (bool more = true; more;) {
    size_t had = all.len;
    const tci_reply *reply = ask(s, &cmd);
    if (!reply) {
      tci_buf_deinit(&all.checks);
      tci_buf_deinit(&all.stages);
      return;
    }
    if (figures(s) != before) fx_fail("oracle: a question changed what is known of a runner's past");
    if (reply->status.code != TCI_OK) fx_fail("oracle: a question is refused: %s", reply->status.message);
    if (s->f.update.records.len) fx_fail("oracle: a question changed something");
    more = read_reply(s, reply, &cmd, &all);
    if (cmd.page.size ? all.len - had > (size_t)cmd.page.size : more) fx_fail("oracle: a page is too long");
  }
  tci_buf_add(&all.checks, tci_buf_str(&all.stages));
  expected_nodes(s, p, &q);
  if (!tci_str_eq(tci_buf_str(&all.checks), tci_str_from(s->text)))
    fx_fail("oracle: asked for nodes, told \"%.*s\", not \"%s\"", (int)all.checks.len, all.checks.ptr, s->text);
  tci_buf_deinit(&all.checks);
  tci_buf_deinit(&all.stages);
}
