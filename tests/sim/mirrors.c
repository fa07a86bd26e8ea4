/* mirrors: what a watcher makes of what it is told: the nodes as it knows them, put together from whole ones and from changes
 * (omit_unchanged), must be the nodes as they are. Only for who is told of every change.
 */
#include "rpc/codec.h"
#include "turboci/v1/service.pb-c.h"
#include "world.h"

typedef Turboci__V1__Check check_message;
typedef Turboci__V1__Stage stage_message;
typedef Turboci__V1__Attempt attempt_message;

static bool is_omitted(char **names, size_t len, const char *name) {
  for (size_t i = 0; i < len; i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

#define SWAP(a, b)           \
  do {                       \
    __typeof__(a) kept_ = a; \
    a = b;                   \
    b = kept_;               \
  } while (0)

/* ---- putting together ---- */

/* The results of `old`, where those of `now` replace those of the same id; now gets them all. */
static void merge_results(check_message *old, check_message *now) {
  SWAP(old->results, now->results);
  SWAP(old->n_results, now->n_results);
  for (size_t i = 0; i < old->n_results; i++) {
    size_t at = 0;
    while (at < now->n_results && now->results[at]->id != old->results[i]->id) at++;
    if (at == now->n_results) {
      now->results = tci_realloc(now->results, (at + 1) * sizeof *now->results);
      now->results[now->n_results++] = old->results[i];
      old->results[i] = old->results[--old->n_results];
      i--;
    } else {
      SWAP(now->results[at], old->results[i]);
    }
  }
}

static void merge_check(check_message *old, check_message *now) {
  char **names = now->omitted_fields;
  size_t len = now->n_omitted_fields;
  if (is_omitted(names, len, "kind")) SWAP(old->kind, now->kind);
  if (is_omitted(names, len, "options")) SWAP(old->options, now->options);
  if (is_omitted(names, len, "dependencies")) SWAP(old->dependencies, now->dependencies);
  if (is_omitted(names, len, "results")) merge_results(old, now);
}

/* The entries of `old`, and behind them those of `now`. */
static void append_progress(attempt_message *old, attempt_message *now) {
  size_t len = old->n_progress + now->n_progress;
  old->progress = tci_realloc(old->progress, (len + 1) * sizeof *old->progress);
  for (size_t i = 0; i < now->n_progress; i++) old->progress[old->n_progress + i] = now->progress[i];
  old->n_progress = len;
  now->n_progress = 0;
  SWAP(old->progress, now->progress);
  SWAP(old->n_progress, now->n_progress);
}

static void merge_attempts(stage_message *old, stage_message *now) {
  bool details = is_omitted(now->omitted_fields, now->n_omitted_fields, "attempts.details");
  bool progress = is_omitted(now->omitted_fields, now->n_omitted_fields, "attempts.progress");
  SWAP(old->attempts, now->attempts);
  SWAP(old->n_attempts, now->n_attempts);
  for (size_t i = 0; i < old->n_attempts; i++) { /* those that were told now */
    size_t at = 0;
    while (at < now->n_attempts && now->attempts[at]->idx != old->attempts[i]->idx) at++;
    if (at == now->n_attempts) {
      now->attempts = tci_realloc(now->attempts, (at + 1) * sizeof *now->attempts);
      now->attempts[now->n_attempts++] = old->attempts[i];
      old->attempts[i] = old->attempts[--old->n_attempts];
      i--;
      continue;
    }
    if (details) SWAP(now->attempts[at]->details, old->attempts[i]->details);
    if (progress) append_progress(now->attempts[at], old->attempts[i]);
    SWAP(now->attempts[at], old->attempts[i]);
  }
}

static void merge_stage(stage_message *old, stage_message *now) {
  char **names = now->omitted_fields;
  size_t len = now->n_omitted_fields;
  if (is_omitted(names, len, "args")) SWAP(old->args, now->args);
  if (is_omitted(names, len, "dependencies")) SWAP(old->dependencies, now->dependencies);
  if (is_omitted(names, len, "assignments")) {
    SWAP(old->assignments, now->assignments);
    SWAP(old->n_assignments, now->n_assignments);
  }
  if (is_omitted(names, len, "attempts")) merge_attempts(old, now);
}

/* ---- what it hears ---- */

static void forget(sim_mirror *m) {
  if (m->is_check && m->node) turboci__v1__check__free_unpacked(m->node, NULL);
  if (!m->is_check && m->node) turboci__v1__stage__free_unpacked(m->node, NULL);
  *m = (sim_mirror){0};
}

void mirrors_forget(sim_stream *w) {
  for (int i = 0; i < NODES; i++) forget(&w->mirrors[i]);
}

/* A change of a node of which it has never heard whole says nothing to it. */
void mirror_hears(sim_stream *w, int node, void *event) {
  Turboci__V1__WorkPlanEvent *e = event;
  sim_mirror *m = &w->mirrors[node];
  bool is_check = e->event_case == TURBOCI__V1__WORK_PLAN_EVENT__EVENT_CHECK_EVENT;
  size_t omitted = is_check ? e->check_event->check->n_omitted_fields : e->stage_event->stage->n_omitted_fields;
  if (omitted && !m->node) return;
  sim_mirror now = {.is_check = is_check, .fresh = true};
  if (is_check) {
    now.node = e->check_event->check;
    e->check_event->check = NULL;
    if (omitted) merge_check(m->node, now.node);
  } else {
    now.node = e->stage_event->stage;
    e->stage_event->stage = NULL;
    if (omitted) merge_stage(m->node, now.node);
  }
  forget(m);
  *m = now;
}

/* ---- and whether it is so ---- */

static void drop_time(Google__Protobuf__Timestamp **at) {
  if (*at) google__protobuf__timestamp__free_unpacked(*at, NULL);
  *at = NULL;
}

/* What is not told of: that something went on record later. Of progress the last entries are kept. */
static void make_comparable(sim_mirror *m, const stage_message *like) {
  check_message *check = m->is_check ? m->node : NULL;
  stage_message *stage = m->is_check ? NULL : m->node;
  drop_time(check ? &check->updated_at : &stage->updated_at);
  if (check)
    check->version = 0;
  else
    stage->version = 0;
  for (size_t i = 0; stage && i < stage->n_attempts; i++) {
    attempt_message *a = stage->attempts[i];
    size_t most = like && i < like->n_attempts ? like->attempts[i]->n_progress : a->n_progress;
    drop_time(&a->updated_at);
    for (; a->n_progress > most; a->n_progress--) {
      turboci__v1__progress_entry__free_unpacked(a->progress[0], NULL);
      memmove(a->progress, a->progress + 1, (a->n_progress - 1) * sizeof *a->progress);
    }
  }
}

static void pack(const sim_mirror *m, tci_buf *out) {
  size_t len =
      m->is_check ? turboci__v1__check__get_packed_size(m->node) : turboci__v1__stage__get_packed_size(m->node);
  uint8_t *bytes = (uint8_t *)tci_buf_reserve(out, len + 1);
  out->len += m->is_check ? turboci__v1__check__pack(m->node, bytes) : turboci__v1__stage__pack(m->node, bytes);
}

/* The node as it is, by way of the bytes that somebody would be sent who is shown it whole. */
static sim_mirror node_as_it_is(const tci_node *node) {
  tci_watch_event event = {.check = node->kind == TCI_NODE_CHECK ? (const tci_check *)node : NULL,
                           .stage = node->kind == TCI_NODE_STAGE ? (const tci_stage *)node : NULL};
  tci_buf bytes = {0};
  tci_codec_watch_event(&event, SIZE_MAX, &bytes);
  Turboci__V1__WorkPlanEvent *e = turboci__v1__work_plan_event__unpack(NULL, bytes.len, (const uint8_t *)bytes.ptr);
  if (!e) fx_fail("oracle: a node makes no sense");
  sim_stream w = {.token = 0};
  mirror_hears(&w, 0, e);
  turboci__v1__work_plan_event__free_unpacked(e, NULL);
  tci_buf_deinit(&bytes);
  return w.mirrors[0];
}

void judge_mirrors(sim *s, sim_stream *w) {
  const sim_plan *p = &s->plans[w->plan];
  const tci_plan *plan = plan_of(s, p);
  for (int i = 0; i < p->log_nodes; i++) {
    sim_mirror *m = &w->mirrors[i];
    if (!m->node || !m->fresh) continue;
    m->fresh = false;
    sim_mirror is = node_as_it_is(plan->nodes.items[i]);
    tci_buf known = {0}, real = {0};
    make_comparable(&is, NULL);
    make_comparable(m, is.is_check ? NULL : is.node);
    char **names =
        is.is_check ? ((check_message *)m->node)->omitted_fields : ((stage_message *)m->node)->omitted_fields;
    size_t *len =
        is.is_check ? &((check_message *)m->node)->n_omitted_fields : &((stage_message *)m->node)->n_omitted_fields;
    for (size_t k = 0; k < *len; k++) free(names[k]);
    *len = 0;
    pack(m, &known);
    pack(&is, &real);
    forget(&is);
    if (!tci_str_eq(tci_buf_str(&known), tci_buf_str(&real)))
      fx_fail("oracle: stream %llu knows %s otherwise than it is (%zu bytes, %zu)", (unsigned long long)w->token,
              p->logged[i].id, known.len, real.len);
    tci_buf_deinit(&known);
    tci_buf_deinit(&real);
  }
}
