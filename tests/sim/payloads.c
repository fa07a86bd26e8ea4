/* payloads: texts that are as long as a limit allows, or a little longer: taken whole, or refused by the limit's name.
 *
 * How long something becomes is worked out here, from how a google.protobuf.Struct is written, and not asked of the engine.
 */
#include "world.h"

enum { AROUND = 3, KEY = 3 /* of "fat" */ };

static int64_t varint(int64_t n) { return n < 1 << 7 ? 1 : n < 1 << 14 ? 2 : n < 1 << 21 ? 3 : 4; }
static int64_t field(int64_t len) { return 1 + varint(len) + len; } /* tag, length, bytes */

/* One entry of a Struct: its key, and a Value that is a string of `len` bytes. */
static int64_t entry(int64_t len) { return field(field(KEY) + field(field(len))); }

/* The length of the text with which `rest` more bytes come to the limit, or near it. */
static int64_t roll_len(sim *s, int64_t rest, int64_t limit) {
  int64_t wanted = limit - AROUND + pick(s, 2 * AROUND + 1), len = wanted > rest + 100 ? wanted - rest - 100 : 1;
  while (rest + entry(len + 1) <= wanted) len++;
  return len;
}

/* `before`, and then a text as long as that. */
static const char *text_of(sim *s, const char *before, int64_t len) {
  size_t head = strlen(before);
  char *text = tci_arena_alloc(&s->f.arena, head + (size_t)len + 1);
  memcpy(text, before, head);
  memset(text + head, 'x', (size_t)len);
  text[head + (size_t)len] = '\0';
  return text;
}

static void judge_size(const tci_reply *reply, const char *what, int64_t bytes, int64_t limit, const char *name) {
  bool fits = bytes <= limit, taken = reply->status.code == TCI_OK;
  if (fits != taken || (!taken && (reply->status.code != TCI_INVALID_ARGUMENT || !strstr(reply->status.message, name))))
    fx_fail("oracle: %s of %lld bytes, the limit %s is %lld: %s %s", what, (long long)bytes, name, (long long)limit,
            tci_code_name(reply->status.code), taken ? "" : reply->status.message);
}

/* Options or args grow by a text, or it is replaced by another one. */
static void fat_options(sim *s, sim_plan *p, int at) {
  sim_node *n = &p->nodes[at];
  tci_node *node = core_node(s, p, at);
  int64_t limit = s->f.limits.node_bytes_max;
  int64_t old = (int64_t)(n->is_check ? tci_node_check(node)->options.len : tci_node_stage(node)->args.len);
  int64_t rest = old - (n->fat ? entry(n->fat) : 0), len = roll_len(s, rest, limit);
  const char *text = text_of(s, tci_fmt(&s->f.arena, "%s%s opt=fat:", n->is_check ? "@" : "", n->id), len);
  const tci_reply *reply = fx_command(&s->f, fx_parse_write(&s->f.arena, p->id, text));
  judge_size(reply, n->is_check ? "options" : "args", rest + entry(len), limit, "node_bytes_max");
  if (reply->status.code == TCI_OK) n->fat = len;
}

static void fat_result(sim *s, const sim_plan *p, int at) {
  int64_t limit = s->f.limits.node_bytes_max, len = roll_len(s, 0, limit);
  const char *text = text_of(s, tci_fmt(&s->f.arena, "@%s result=fat:%d data=fat:", p->nodes[at].id, s->step), len);
  const tci_reply *reply = fx_command(&s->f, fx_parse_write(&s->f.arena, p->id, text));
  judge_size(reply, "a result", entry(len), limit, "node_bytes_max");
}

static void fat_progress(sim *s) {
  for (size_t i = s->executions.len; i > 0; i--) {
    sim_execution *e = s->executions.items[i - 1];
    if (!tci_execution_is_live(attempt_of(s, e))) continue;
    int64_t limit = s->f.limits.progress_bytes_max, len = limit - AROUND + pick(s, 2 * AROUND + 1);
    s->f.plan_id = s->plans[e->plan].id;
    const tci_reply *reply = fx_command(&s->f, fx_update_command(&s->f, e->id, text_of(s, "", len)));
    judge_size(reply, "progress", len, limit, "progress_bytes_max");
    if (reply->status.code == TCI_OK) e->spoke_us = s->f.now.mono_us;
    return;
  }
}

void payload(sim *s, sim_plan *p) {
  int at = pick(s, p->len);
  if (!is_quiet(s)) return;
  if (chance(s, 25))
    fat_progress(s);
  else if (tci_node_is_final(core_node(s, p, at)))
    return;
  else if (p->nodes[at].is_check && chance(s, 50))
    fat_result(s, p, at);
  else
    fat_options(s, p, at);
}
