/* writes: what clients say about nodes that exist: to one, or to several at once.
 *
 * A combined write mixes, in one WriteNodes, results, states, options, other edges and assignments of nodes that exist with new
 * nodes. What it must come to is worked out before: refused whole, taken whole, or (where two things in it contend) either.
 */
#include "world.h"

void roll_words(sim *s, const sim_plan *p) {
  static const char *const checks[] = {
      "state=PLANNED",        "state=FINAL",          "state=FINAL result=me:1 failure=no",
      "result=me:1 data=k:v", "result=me:2 finalize", "opt=a:1",
      "opt=a:2 kind=lint",    "state=WAITING",        "state=PLANNING"};
  static const char *const stages[] = {"state=FINAL",
                                       "opt=a:1",
                                       "opt=b:2 priority=5",
                                       "state=ATTEMPTING",
                                       "state=PLANNED",
                                       "uid=me",
                                       "uid=you",
                                       "uid=me attempt=COMPLETE",
                                       "uid=me failure=no",
                                       "progress=hm uid=me",
                                       "uid=me attempt=COMPLETE state=FINAL",
                                       "attempts=2 timeout=5000",
                                       "runner=t9"};
  int at = pick(s, p->len);
  s->text[0] = '\0';
  say(s, "%s%s ", p->nodes[at].is_check ? "@" : "", p->nodes[at].id);
  if (p->nodes[at].is_check)
    say(s, "%s", checks[pick(s, 9)]);
  else
    say(s, "%s", stages[pick(s, p->nodes[at].pulled ? 12 : 13)]);
  if (chance(s, 10)) say(s, " version=%d", pick(s, 9));
  if (chance(s, 5)) say(s, "; s%d after=nobody", pick(s, NODES));
  if (strstr(s->text, "runner=t9")) s->text[0] = '\0'; /* a type without runners would never settle */
}

void client_writes(sim *s, const sim_plan *p) {
  roll_words(s, p);
  if (s->text[0]) write_text(s, p);
}

/* ---- several at once ---- */

typedef struct {
  sim_plan *next; /* as it will be */
  const sim_plan *now;
  bool wrong;    /* it must be refused */
  bool contends; /* it may be refused */
  int items;
} combination;

static void say_item(sim *s, combination *w, const sim_node *n) {
  say(s, "%s%s%s", w->items++ ? "; " : "", n->is_check ? "@" : "", n->id);
}

static void roll_new_deps(sim *s, combination *w, int at, bool may_change) {
  sim_node *n = &w->next->nodes[at], before = *n;
  roll_deps(s, n, chance(s, 80) ? at : w->next->len);
  if (n->deps_len && !may_change) w->contends = true; /* unless they are the same */
  if (n->deps_len)
    say_edges(s, w->next, n);
  else
    *n = before;
}

static void roll_new_checks(sim *s, combination *w, int at, bool may_change) {
  sim_node *n = &w->next->nodes[at], before = *n;
  roll_checks(s, w->next, n, 0);
  if (n->checks_len && !may_change) w->contends = true;
  if (n->checks_len)
    say_checks(s, w->next, n);
  else
    *n = before;
}

/* A result in a client's name: a new one, one that is there (and may be final already). */
static void roll_result(sim *s, combination *w, int at, bool is_final, bool becomes_final) {
  sim_node *n = &w->next->nodes[at];
  int number = chance(s, 70) ? 10 + pick(s, 90) : pick(s, 4);
  bool failed = chance(s, 35), final = chance(s, 60) || becomes_final;
  char owner[8];
  snprintf(owner, sizeof owner, "%d", number);
  int k = 0;
  while (k < n->said_len && strcmp(n->said[k].owner, owner) != 0) k++;
  bool known = number < 4 || k < n->said_len; /* client_writes makes some of the first ones */
  if (k == SAID) return;
  say(s, " result=me:%d%s%s%s", number, failed ? " failure=no" : "", final && !becomes_final ? " finalize" : "",
      chance(s, 30) ? " data=k:v" : "");
  w->contends |= known;
  w->wrong |= is_final && !known;
  if (k == n->said_len) {
    memset(&n->said[n->said_len++], 0, sizeof n->said[0]);
    snprintf(n->said[k].owner, sizeof owner, "%s", owner);
  }
  n->said[k].final |= final;
  n->said[k].failed |= failed;
}

/* A result in the name of a stage, assigned or not: what it said itself stays. */
static void roll_foreign_result(sim *s, combination *w) {
  const sim_node *stage = &w->now->nodes[pick(s, w->now->len)];
  if (stage->is_check) return;
  bool final = chance(s, 50); /* a failure that is not final counts when nobody makes it so: see complete.c */
  say(s, " result=stage:%s%s", stage->id, !final ? " data=k:w" : chance(s, 40) ? " failure=no finalize" : " finalize");
  w->contends = true;
}

static void combine_check(sim *s, combination *w, int at) {
  const tci_check *check = (const tci_check *)core_node(s, w->now, at);
  bool is_final = check->state == TCI_CHECK_FINAL, becomes_final = chance(s, 25);
  if (is_final && chance(s, 80)) return;
  say_item(s, w, &w->next->nodes[at]);
  if (becomes_final)
    say(s, " state=FINAL");
  else if (check->state == TCI_CHECK_PLANNING && chance(s, 50))
    say(s, " state=PLANNED");
  else if (chance(s, 3)) {
    say(s, " state=WAITING");
    w->wrong |= check->state != TCI_CHECK_WAITING;
  }
  if (chance(s, 55))
    roll_result(s, w, at, is_final, becomes_final);
  else if (chance(s, 20))
    roll_foreign_result(s, w);
  if (chance(s, 25)) {
    say(s, " opt=a:%d", 1000 + s->step);
    w->wrong |= is_final;
    w->contends |= w->next->nodes[at].fat > 0; /* it may have no room for more */
  }
  if (chance(s, 25)) roll_new_deps(s, w, at, check->state <= TCI_CHECK_PLANNED);
}

static void combine_stage(sim *s, combination *w, int at) {
  static const char *const pulled[] = {"uid=me",
                                       "uid=me attempt=COMPLETE",
                                       "uid=me failure=no",
                                       "uid=me attempt=COMPLETE state=FINAL",
                                       "uid=me attempt=COMPLETE state=AWAITING_GROUP",
                                       "uid=me failure=no state=FINAL"};
  const sim_node *n = &w->next->nodes[at];
  const tci_stage *stage = (const tci_stage *)core_node(s, w->now, at);
  bool planned = stage->state == TCI_STAGE_PLANNED;
  if (stage->state == TCI_STAGE_FINAL && chance(s, 80)) return;
  say_item(s, w, n);
  if (planned && chance(s, 15)) say(s, " state=FINAL");
  if (planned || chance(s, 5)) {
    if (chance(s, 70)) roll_new_checks(s, w, at, planned);
    if (chance(s, 25)) roll_new_deps(s, w, at, planned);
  }
  if (chance(s, 15)) {
    say(s, " priority=%d timeout=%d", pick(s, 7) - 3, 1 + pick(s, 60000));
    w->wrong |= stage->state == TCI_STAGE_FINAL;
  }
  if (!n->pulled || stage->state != TCI_STAGE_ATTEMPTING) return;
  say(s, " %s", pulled[pick(s, 6)]);
  w->contends = true; /* somebody else may have claimed it */
}

/* A write that was just taken, or refused, once more: nothing comes of it. */
static void repeat_write(sim *s, const sim_plan *p, tci_code code) {
  char text[TEXT];
  memcpy(text, s->text, TEXT);
  judge(s);
  if (!is_quiet(s)) return;
  memcpy(s->text, text, TEXT);
  const tci_reply *reply = write_text(s, p);
  if (s->f.update.records.len) fx_fail("oracle: the same write twice is not the same as once: %s", text);
  if (code != TCI_OK && reply->status.code == TCI_OK) fx_fail("oracle: refused, then taken: %s", text);
}

/* Nodes in the order in which they are asked to join: mostly a check that is not FINAL, and those that have to do with it. */
static int roll_candidates(sim *s, const sim_plan *p, int out[]) {
  int len = 0, check = pick(s, p->len);
  for (int tries = 0; tries < 20 && (!p->nodes[check].is_check || tci_node_is_final(core_node(s, p, check))); tries++)
    check = pick(s, p->len);
  bool used[NODES] = {false};
  for (int i = 0; i < p->len && chance(s, 95); i++) {
    bool related = i == check;
    for (int k = 0; k < p->nodes[i].checks_len; k++) related |= p->nodes[i].checks[k] == check;
    for (int k = 0; k < p->nodes[i].deps_len; k++) related |= p->nodes[i].deps[k] == check;
    if (!related || !chance(s, 80)) continue;
    used[i] = true;
    out[len++] = i;
  }
  for (int tries = 0; tries < 8; tries++) {
    int at = pick(s, p->len);
    if (!used[at]) out[len++] = at;
    used[at] = true;
  }
  return len;
}

void combined_write(sim *s, sim_plan *p) {
  static sim_plan next;
  next = *p;
  combination w = {.next = &next, .now = p};
  int first = p->len, added = chance(s, 30) ? pick(s, 3) : 0, wanted = 2 + pick(s, 5);
  int candidates[NODES + 8], len = roll_candidates(s, p, candidates);
  if (first + added <= NODES) next.len = first + added;
  roll_nodes(s, &next, first);
  s->text[0] = '\0';
  for (int i = 0; i < len && w.items < wanted; i++) {
    if (next.nodes[candidates[i]].is_check)
      combine_check(s, &w, candidates[i]);
    else
      combine_stage(s, &w, candidates[i]);
  }
  for (int i = first; i < next.len; i++) {
    say(s, "%s", w.items++ ? "; " : "");
    say_new_node(s, &next, &next.nodes[i]);
  }
  if (!w.items) return;
  bool quiet = is_quiet(s);
  const tci_reply *reply = write_text(s, p);
  tci_code code = reply->status.code;
  bool cyclic = is_cyclic(&next);
  if (code == TCI_OK && (cyclic || (w.wrong && quiet))) fx_fail("oracle: not refused: %s", s->text);
  if (code != TCI_OK && quiet && !cyclic && !w.wrong && !w.contends)
    fx_fail("oracle: refused: %s: %s", reply->status.message, s->text);
  if (code == TCI_OK) adopt(p, &next);
  if (quiet && chance(s, 10)) repeat_write(s, p, code);
}
