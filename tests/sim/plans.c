/* plans: what clients write: plans, nodes, other edges, words of their own. */
#include "world.h"

static bool reaches(const sim_plan *p, int from, int to, bool *seen) {
  if (from == to) return true;
  if (seen[from]) return false;
  seen[from] = true;
  for (int i = 0; i < p->nodes[from].deps_len; i++)
    if (reaches(p, p->nodes[from].deps[i], to, seen)) return true;
  for (int i = 0; p->nodes[from].is_check && i < p->len; i++)
    for (int k = 0; k < p->nodes[i].checks_len; k++)
      if (p->nodes[i].checks[k] == from && p->nodes[i].counts[k] && reaches(p, i, to, seen)) return true;
  return false;
}

bool is_cyclic(const sim_plan *p) {
  for (int i = 0; i < p->len; i++) {
    for (int k = 0; k < p->nodes[i].deps_len; k++)
      if (reaches(p, p->nodes[i].deps[k], i, (bool[NODES]){0})) return true;
    for (int k = 0; k < p->nodes[i].checks_len; k++)
      if (p->nodes[i].counts[k] && reaches(p, i, p->nodes[i].checks[k], (bool[NODES]){0})) return true;
  }
  return false;
}

void say_edges(sim *s, const sim_plan *p, const sim_node *n) {
  say(s, n->any ? " any=" : " after=");
  for (int i = 0; i < n->deps_len; i++)
    say(s, "%s%s%s%s", i ? "," : "", p->nodes[n->deps[i]].is_check ? "@" : "", p->nodes[n->deps[i]].id,
        n->conditions[i] == 1   ? "+"
        : n->conditions[i] == 2 ? "!"
                                : "");
}

void say_checks(sim *s, const sim_plan *p, const sim_node *n) {
  for (int i = 0; i < n->checks_len; i++)
    say(s, "%s%s%s", i ? "," : " checks=", p->nodes[n->checks[i]].id, n->counts[i] ? "" : ":WAITING");
}

void roll_deps(sim *s, sim_node *n, int below) {
  n->deps_len = 0;
  n->any = chance(s, 35);
  for (int k = chance(s, 70) ? pick(s, DEPS) : 0; k > 0 && below > 0; k--) {
    n->conditions[n->deps_len] = pick(s, 3);
    if (n->conditions[n->deps_len] == 2 && chance(s, 50)) n->conditions[n->deps_len] = 1;
    n->deps[n->deps_len++] = pick(s, below);
  }
}

/* The last result that a check has now, for a stage that is going to be assigned to it. */
static int64_t joined_at(const sim *s, const sim_plan *p, const sim_node *before, int check) {
  for (int i = 0; i < before->checks_len; i++)
    if (before->checks[i] == check) return before->joined[i];
  const tci_check *there = tci_plan_check(plan_of(s, p), tci_str_from(p->nodes[check].id));
  return there ? (int64_t)there->results.len : 0;
}

void roll_checks(sim *s, const sim_plan *p, sim_node *n, int from) {
  sim_node before = *n;
  n->checks_len = 0;
  for (int k = pick(s, CHECKS); k > 0; k--) {
    int check = from + pick(s, p->len - from);
    bool taken = !p->nodes[check].is_check;
    for (int i = 0; i < n->checks_len; i++) taken |= n->checks[i] == check;
    if (taken) continue;
    n->counts[n->checks_len] = chance(s, 85);
    n->joined[n->checks_len] = joined_at(s, p, &before, check);
    n->checks[n->checks_len++] = check;
  }
}

const tci_reply *write_text(sim *s, const sim_plan *p) {
  return fx_command(&s->f, fx_parse_write(&s->f.arena, p->id, s->text));
}

tci_plan *plan_of(const sim *s, const sim_plan *p) {
  tci_plan *plan = tci_core_plan(s->f.core, p->id);
  if (!plan && s->shell) plan = tci_core_plan(s->f.shadow, p->id);
  if (!plan) fx_fail("a plan is gone");
  return plan;
}

void adopt(sim_plan *p, const sim_plan *next) {
  memcpy(p->nodes, next->nodes, sizeof p->nodes);
  p->len = next->len;
}

void roll_nodes(sim *s, sim_plan *next, int first) {
  for (int i = first; i < next->len; i++) {
    sim_node *node = &next->nodes[i];
    *node = (sim_node){
        .is_check = chance(s, 40), .type = pick(s, s->types), .async = chance(s, 50), .pulled = chance(s, 10)};
    snprintf(node->id, sizeof node->id, "%c%d", node->is_check ? 'c' : 's', i);
    roll_deps(s, node, i);
  }
  /* Mostly to later checks, which cannot close a circle; sometimes to any. */
  for (int i = first; i < next->len; i++)
    if (!next->nodes[i].is_check) roll_checks(s, next, &next->nodes[i], chance(s, 90) ? i : 0);
}

void say_new_node(sim *s, const sim_plan *p, const sim_node *n) {
  say(s, "%s%s", n->is_check ? "@" : "", n->id);
  if (n->is_check) {
    if (chance(s, 80)) say(s, " state=PLANNED");
  } else {
    if (!n->pulled) say(s, " runner=t%d", n->type);
    if (n->async) say(s, " mode=async");
    if (chance(s, 30)) say(s, " priority=%d", pick(s, 3) - 1);
    if (chance(s, 25)) say(s, " attempts=%d", 1 + pick(s, 4));
    if (chance(s, 25)) say(s, " backoff=%d", 1 + pick(s, 3000));
    if (chance(s, 40)) say(s, " timeout=%d", 1 + pick(s, 60000));
    if (chance(s, 30)) say(s, " stale=%d", 1 + pick(s, 20000));
    say_checks(s, p, n);
  }
  if (n->deps_len) say_edges(s, p, n);
}

void add_nodes(sim *s, sim_plan *p) {
  static sim_plan next;
  next = *p;
  int first = p->len, n = 1 + pick(s, 8);
  if (first + n > NODES) return;
  next.len = first + n;
  roll_nodes(s, &next, first);
  s->text[0] = '\0';
  for (int k = 0; k < n; k++) {
    int i = first + (k * 7 + 3) % n; /* in another order, when n is no multiple of 7 */
    if (n % 7 == 0) i = first + k;
    say(s, "%s", k ? "; " : "");
    say_new_node(s, &next, &next.nodes[i]);
  }
  const tci_reply *reply = write_text(s, p);
  if (is_cyclic(&next)) {
    if (reply->status.code != TCI_INVALID_ARGUMENT || !strstr(reply->status.message, "cycle"))
      fx_fail("oracle: a cycle was not refused: %s", s->text);
    return;
  }
  if (reply->status.code != TCI_OK) fx_fail("oracle: refused: %s", reply->status.message);
  adopt(p, &next);
}

static int core_state(sim *s, const sim_plan *p, int at) { /* of a stage; -1 for a check */
  return p->nodes[at].is_check ? -1 : (int)tci_node_stage(core_node(s, p, at))->state;
}

/* Other edges for a node that exists. */
void rewire(sim *s, sim_plan *p) {
  static sim_plan next;
  next = *p;
  int at = pick(s, p->len);
  for (int tries = 0; tries < 6 && chance(s, 80) && core_state(s, p, at) != TCI_STAGE_PLANNED; tries++)
    at = pick(s, p->len);
  sim_node *n = &next.nodes[at];
  s->text[0] = '\0';
  say(s, "%s%s", n->is_check ? "@" : "", n->id);
  bool deps = n->is_check || chance(s, 30);
  if (deps) {
    roll_deps(s, n, chance(s, 80) ? at : p->len);
    say_edges(s, &next, n);
  } else {
    roll_checks(s, &next, n, 0);
    if (!n->checks_len) return;
    say_checks(s, &next, n);
  }
  const tci_node *node = core_node(s, p, at);
  bool early = n->is_check ? ((const tci_check *)node)->state <= TCI_CHECK_PLANNED
                           : ((const tci_stage *)node)->state == TCI_STAGE_PLANNED;
  early = early && is_quiet(s);
  const tci_reply *reply = write_text(s, p);
  if (is_cyclic(&next)) {
    if (reply->status.code == TCI_OK) fx_fail("oracle: a cycle was not refused: %s", s->text);
    return;
  }
  if (reply->status.code == TCI_OK)
    adopt(p, &next);
  else if (early || reply->status.code != TCI_FAILED_PRECONDITION)
    fx_fail("oracle: refused: %s", reply->status.message);
}

void create_plan(sim *s) {
  if (s->plans_len == PLANS) return;
  tci_command cmd = {.kind = TCI_COMMAND_CREATE_PLAN};
  if (s->scripted && chance(s, 50)) cmd.create_plan.policy = roll_policy(s);
  int number = policy_number(cmd.create_plan.policy);
  bool known = !cmd.create_plan.policy.len || (number >= 0 && s->circuits[number].policy);
  const tci_reply *reply = fx_command(&s->f, cmd);
  if (known != (reply->status.code == TCI_OK)) fx_fail("oracle: a policy's name: %s", reply->status.message);
  if (!known) return;
  tci_str id = s->f.plan_id = tci_str_copy(&s->f.arena, reply->plan->id);
  uint64_t sequence = s->plans[s->plans_len].sequence;
  s->plans[s->plans_len] = (sim_plan){.id = id, .policy = cmd.create_plan.policy, .version = 1, .sequence = sequence};
  s->plans_len++;
  if (!s->shell) fx_watch(&s->f, (uint64_t)s->plans_len, "checks stages progress");
}
