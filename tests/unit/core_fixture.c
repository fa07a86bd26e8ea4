/* core_fixture: see the header. */
#include "core_fixture.h"

#include <stdio.h>
#include <string.h>

void (*fx_on_failure)(const char *message);

void fx_fail(const char *format, ...) {
  char text[2000];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (fx_on_failure) fx_on_failure(text);
  fprintf(stderr, "%s\n", text);
  abort();
}

/* ---- the dump ---- */

static void put(tci_buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put_number(tci_buf *out, uint64_t value, bool hex) {
  char digits[24], *at = digits + sizeof digits;
  do *--at = hex ? "0123456789abcdef"[value % 16] : (char)('0' + value % 10);
  while ((value = hex ? value / 16 : value / 10) > 0);
  tci_buf_add(out, (tci_str){at, (size_t)(digits + sizeof digits - at)});
}

static void put_signed(tci_buf *out, int64_t value) {
  if (value < 0) tci_buf_add(out, TCI_STR("-"));
  put_number(out, value < 0 ? -(uint64_t)value : (uint64_t)value, false);
}

/* One directive of those that are used here: d, u, zu, lld, llu, llx, s and .*s. Returns what is behind it. */
static const char *put_one(tci_buf *out, const char *at, va_list *args) {
  if (*at == 's') {
    tci_buf_add(out, tci_str_from(va_arg(*args, const char *)));
  } else if (*at == 'd') {
    put_signed(out, va_arg(*args, int));
  } else if (*at == 'u') {
    put_number(out, va_arg(*args, unsigned), false);
  } else if (*at == 'z') {
    put_number(out, va_arg(*args, size_t), false);
    at++;
  } else if (*at == 'l') {
    at += 2;
    if (*at == 'd')
      put_signed(out, va_arg(*args, long long));
    else
      put_number(out, va_arg(*args, unsigned long long), *at == 'x');
  } else { /* .*s */
    int len = va_arg(*args, int);
    tci_buf_add(out, (tci_str){va_arg(*args, const char *), (size_t)len});
    at += 2;
  }
  return at + 1;
}

/* By hand: this is most of what the simulator does, and vsnprintf is half as fast. */
static void put(tci_buf *out, const char *format, ...) {
  va_list args;
  va_start(args, format);
  for (const char *at = format; *at;) {
    size_t len = strcspn(at, "%");
    tci_buf_add(out, (tci_str){at, len});
    at += len;
    if (*at) at = put_one(out, at + 1, &args);
  }
  va_end(args);
}

static void put_str(tci_buf *out, const char *name, tci_str s) {
  if (!s.len) return;
  put(out, " %s=%zu:", name, s.len);
  tci_buf_add(out, s);
}

static void put_int(tci_buf *out, const char *name, int64_t value) {
  if (value) put(out, " %s=%lld", name, (long long)value);
}

static void put_failure(tci_buf *out, const tci_failure *f) {
  if (!f->present) return;
  put(out, " failure=%d@%lld", (int)f->kind, (long long)f->occurred_us);
  put_str(out, "message", f->message);
}

static void put_pairs(tci_buf *out, const tci_pairs *pairs) {
  for (size_t i = 0; i < pairs->len; i++) {
    put_str(out, "key", pairs->items[i].key);
    put_str(out, "value", pairs->items[i].value);
  }
}

static void put_check(tci_buf *out, const tci_check *c, bool rebuilt) {
  put(out, " state=%d", (int)c->state);
  put_str(out, "kind", c->kind);
  put_str(out, "options", c->options);
  if (rebuilt) put(out, " stages=%zu pending=%zu", c->assigned.len, c->pending);
  for (size_t i = 0; i < c->results.len; i++) {
    const tci_result *r = &c->results.items[i];
    put(out, "\n    result %lld created=%lld finalized=%lld", (long long)r->id, (long long)r->created_us,
        (long long)r->finalized_us);
    put_str(out, "type", r->owner_type);
    put_str(out, "owner", r->owner_id);
    put_str(out, "data", r->data);
    put_failure(out, &r->failure);
  }
}

static void put_attempt(tci_buf *out, const tci_attempt *a, bool rebuilt) {
  put(out, "\n    attempt %u state=%d execution=%d mode=%d created=%lld updated=%lld", a->index, (int)a->state,
      (int)a->execution, (int)a->mode, (long long)a->created_us, (long long)a->updated_us);
  put_str(out, "uid", a->process_uid);
  put_str(out, "details", a->details);
  put_failure(out, &a->failure);
  put_str(out, "execution_id", a->execution_id);
  put_str(out, "runner", a->runner_id);
  put_str(out, "registration", a->registration_id);
  put_str(out, "theirs", a->runner_execution_id);
  put_int(out, "accepted", a->accepted);
  put_int(out, "dispatched", a->dispatched_us);
  put_int(out, "started", a->started_us);
  put_int(out, "finished", a->finished_us);
  put_int(out, "not_before", a->not_before_us);
  put_int(out, "deadline", a->deadline_us);
  put_int(out, "execution_ms", a->execution_ms);
  put_int(out, "stale_ms", a->stale_ms);
  if (a->has_digest) put(out, " digest=%llx:%llx", (unsigned long long)a->digest[0], (unsigned long long)a->digest[1]);
  put(out, " progress=%zu bytes=%zu dropped=%llu", a->progress.len, a->progress_bytes,
      (unsigned long long)a->progress_dropped);
  for (size_t i = 0; i < a->progress.len; i++) {
    put(out, "\n      at=%lld", (long long)a->progress.items[i].at_us);
    put_str(out, "message", a->progress.items[i].message);
    put_str(out, "details", a->progress.items[i].details);
  }
  put_str(out, "exclude", a->exclude);
  put_str(out, "keys", a->keys);
  for (size_t i = 0; i < a->decisions.len; i++) put_str(out, "\n      decision", a->decisions.items[i]);
  if (rebuilt) put(out, " with=%s", tci_link_in(&a->live) && a->runner ? "runner" : "nobody");
}

static void put_stage(tci_buf *out, const tci_stage *s, bool rebuilt) {
  put(out, " state=%d mode=%d", (int)s->state, (int)s->mode);
  put_str(out, "args", s->args);
  put_str(out, "type", s->runner_type);
  put_int(out, "priority", s->priority);
  put_int(out, "attempts", s->retry.max_attempts);
  put_int(out, "backoff", s->retry.backoff_ms);
  put_int(out, "backoff_max", s->retry.backoff_ms_max);
  put_int(out, "timeout", s->timeouts.execution_ms);
  put_int(out, "stale", s->timeouts.stale_ms);
  for (size_t i = 0; i < s->assignments_len; i++) {
    const tci_assignment *a = &s->assignments[i];
    put(out, " checks=%u:%d", a->check->node.index, (int)a->goal);
    if (rebuilt) put(out, ":%zu:%d", a->result, a->done);
  }
  for (size_t i = 0; i < s->attempts.len; i++) put_attempt(out, s->attempts.items[i], rebuilt);
}

void fx_dump_node(const tci_node *n, bool rebuilt, tci_buf *out) {
  put(out, "  %s %u created=%lld updated=%lld version=%lld outcome=%d reason=%d", tci_node_kind_name((int)n->kind),
      n->index, (long long)n->created_us, (long long)n->updated_us, (long long)n->version, (int)n->outcome,
      (int)n->reason);
  put_str(out, "id", n->id);
  put(out, " predicate=%d", (int)n->group.predicate);
  for (size_t i = 0; i < n->group.len; i++) {
    const tci_edge *e = &n->group.edges[i];
    put(out, " after=%u:%d", e->target->index, (int)e->condition);
    if (rebuilt) put(out, ":%d", e->counted);
  }
  if (rebuilt)
    put(out, " group=%d:%zu:%zu dependents=%zu", (int)n->group.state, n->group.satisfied, n->group.unsatisfied,
        n->dependents.len);
  if (n->kind == TCI_NODE_CHECK)
    put_check(out, (const tci_check *)n, rebuilt);
  else
    put_stage(out, (const tci_stage *)n, rebuilt);
  put(out, "\n");
}

static void put_plan(tci_buf *out, const tci_plan *p, bool rebuilt) {
  put(out, "plan %llu created=%lld updated=%lld version=%lld sequence=%llu state=%d outcome=%d",
      (unsigned long long)p->key, (long long)p->created_us, (long long)p->updated_us, (long long)p->version,
      (unsigned long long)p->sequence, (int)p->state, (int)p->outcome);
  put_str(out, "id", p->id);
  put_str(out, "policy", p->policy);
  put_pairs(out, &p->metadata);
  if (rebuilt)
    put(out, " open=%zu live=%zu final=%zu+%zu failed=%zu cancelled=%zu", p->open_nodes, p->live_attempts,
        p->checks_final, p->stages_final, p->nodes_failed, p->nodes_cancelled);
  put(out, "\n");
  for (size_t i = 0; i < p->nodes.len; i++) fx_dump_node(p->nodes.items[i], rebuilt, out);
}

static void put_runner(tci_buf *out, const tci_runner *r, bool rebuilt) {
  put(out, "runner max=%lld ttl=%lld registered=%lld modes=%d%d", (long long)r->max_concurrent, (long long)r->ttl_ms,
      (long long)r->registered_us, r->modes[TCI_MODE_SYNC], r->modes[TCI_MODE_ASYNC]);
  put_str(out, "id", r->runner_id);
  put_str(out, "registration", r->registration_id);
  put_str(out, "type", r->runner_type);
  put_str(out, "address", r->address);
  put_pairs(out, &r->metadata);
  if (rebuilt) put(out, " load=%lld", (long long)r->load);
  put(out, "\n");
}

/* Plans by key: the order in memory is that of arrival. Only those that `known` has, too. */
static void dump_those_of(const tci_core *known, const tci_core *core, bool rebuilt, tci_buf *out) {
  tci_buf_clear(out);
  put(out, "sequence=%llu next_key=%llu\n", (unsigned long long)core->sequence,
      (unsigned long long)core->next_plan_key);
  for (size_t i = 0; i < core->runner_list.len; i++) put_runner(out, core->runner_list.items[i], rebuilt);
  for (size_t i = 0; i < core->policy_list.len; i++) {
    const tci_policy_entry *entry = core->policy_list.items[i];
    put_str(out, "policy", entry->name);
    put_str(out, "version", entry->version);
    put(out, " state=%d until=%lld\n", (int)entry->state, (long long)entry->until_us);
  }
  for (uint64_t last = 0;;) {
    const tci_plan *next = NULL;
    for (size_t i = 0; i < core->plan_list.len; i++) {
      const tci_plan *p = core->plan_list.items[i];
      if (p->key > last && (!next || p->key < next->key) && tci_core_has_plan(known, p->id)) next = p;
    }
    if (!next) return;
    put_plan(out, next, rebuilt);
    last = next->key;
  }
}

void fx_dump(const tci_core *core, bool rebuilt, tci_buf *out) { dump_those_of(core, core, rebuilt, out); }

/* The line of `buf` around `at`, printable. */
static void line_at(const tci_buf *buf, size_t at, char *out, size_t size) {
  size_t from = at < buf->len ? at : buf->len, to = from;
  while (from > 0 && buf->ptr[from - 1] != '\n' && at - from < 300) from--;
  while (to < buf->len && buf->ptr[to] != '\n' && to - from + 2 < size) to++;
  for (size_t i = from; i < to; i++) out[i - from] = buf->ptr[i] < ' ' ? '.' : buf->ptr[i];
  out[to - from] = '\0';
}

void fx_same(const tci_buf *a, const tci_buf *b, const char *what) {
  if (a->len == b->len && (a->len == 0 || memcmp(a->ptr, b->ptr, a->len) == 0)) return;
  size_t at = 0;
  while (at < a->len && at < b->len && a->ptr[at] == b->ptr[at]) at++;
  char left[700], right[700];
  line_at(a, at, left, sizeof left);
  line_at(b, at, right, sizeof right);
  fx_fail("%s:\n  %s\n  %s", what, left, right);
}

/* ---- life ---- */

void fx_renew(fx *f) {
  tci_core_free(f->core);
  tci_core_free(f->shadow);
  f->core = tci_core_new(&f->limits, f->policies);
  f->shadow = tci_core_new(&f->limits, NULL);
}

void fx_policy(fx *f, unsigned hooks, void (*ask)(void *, tci_hook, const tci_question *, tci_decision *)) {
  f->policy = (tci_policy){.name = TCI_STR("test"), .version = TCI_STR("v1"), .hooks = hooks, .ask = ask};
  f->policy_list[0] = &f->policy;
  f->policy_set = (tci_policy_set){.policies = f->policy_list, .len = 1, .server = f->policy.name};
  f->policies = &f->policy_set;
  fx_renew(f);
  fx_step(f, &(tci_event){.kind = TCI_EVENT_RESTARTED});
}

void fx_init(fx *f) {
  *f = (fx){.limits = tci_limits_default(), .compare_every = 1, .seed = 1};
  f->now = (tci_time){.mono_us = 1000000, .wall_us = 1700000000000000};
  fx_renew(f);
}

void fx_deinit(fx *f) {
  tci_core_free(f->core);
  tci_core_free(f->shadow);
  tci_update_deinit(&f->update);
  tci_arena_deinit(&f->arena);
  for (size_t i = 0; i < f->journal.len; i++) {
    free(f->journal.items[i].bytes);
    free(f->journal.items[i].plan_id);
  }
  tci_vec_free(&f->journal);
  tci_buf_deinit(&f->told);
  for (int i = 0; i < FX_STREAMS; i++) tci_buf_deinit(&f->streams[i]);
  tci_buf_deinit(&f->dump);
  tci_buf_deinit(&f->other);
  tci_buf_deinit(&f->before);
}

static tci_record record_of(const fx_stored *s) {
  return (tci_record){s->plan_key, s->sequence, {s->bytes, s->bytes_len}, {s->plan_id, s->plan_id_len}, s->settled};
}

/* Progress that was told and is not on record yet: core and journal differ, as they may. */
static bool progress_waits(const tci_core *core) {
  for (size_t p = 0; p < core->plan_list.len; p++) {
    const tci_plan *plan = core->plan_list.items[p];
    if (!plan->live_attempts) continue;
    for (size_t n = 0; n < plan->nodes.len; n++) {
      if (plan->nodes.items[n]->kind != TCI_NODE_STAGE) continue;
      const tci_attempt *a = tci_stage_attempt(tci_node_stage(plan->nodes.items[n]));
      if (a && a->progress_pending) return true;
    }
  }
  return false;
}

static void load(tci_core *core, const tci_record *record) {
  tci_status status = tci_core_load(core, record);
  if (status.code != TCI_OK) fx_fail("load: %s", status.message);
}

tci_core *fx_replay(fx *f) {
  tci_core *core = tci_core_new(&f->limits, f->policies);
  uint64_t last = 0;
  for (size_t i = 0; i < f->journal.len; i++)
    if (f->journal.items[i].plan_key > last) last = f->journal.items[i].plan_key;
  for (uint64_t key = 0; key <= last; key++)
    for (size_t i = 0; i < f->journal.len; i++) {
      if (f->journal.items[i].plan_key != key) continue;
      tci_record record = record_of(&f->journal.items[i]);
      load(core, &record);
    }
  for (uint64_t key = 0; key <= last; key++) tci_core_loaded(core, key);
  return core;
}

void fx_fall_asleep(fx *f) {
  tci_core *core = fx_replay(f);
  fx_dump(f->core, true, &f->dump);
  fx_dump(core, true, &f->other);
  if (!progress_waits(f->core)) fx_same(&f->dump, &f->other, "a restart changes what was stored (before, after)");
  tci_core_free(f->core);
  f->core = core;
  f->asleep = true;
}

void fx_restart(fx *f, tci_event_kind kind) {
  fx_fall_asleep(f);
  fx_step(f, &(tci_event){.kind = kind});
}

/* ---- steps ---- */

static void keep_records(fx *f) {
  for (size_t i = 0; i < f->update.records.len; i++) {
    const tci_record *r = &f->update.records.items[i];
    fx_stored s = {.plan_key = r->plan_key,
                   .sequence = r->sequence,
                   .bytes = (char *)tci_str_dup(r->bytes).ptr,
                   .plan_id = (char *)tci_str_dup(r->plan_id).ptr,
                   .bytes_len = r->bytes.len,
                   .plan_id_len = r->plan_id.len,
                   .settled = r->settled};
    tci_vec_push(&f->journal, s);
  }
  for (int round = 0; round < 2; round++) /* plan 0 before all others, as at a start */
    for (size_t i = 0; i < f->update.records.len; i++) {
      const tci_record *r = &f->update.records.items[i];
      if ((r->plan_key != 0) != round) continue;
      load(f->shadow, r);
      tci_core_loaded(f->shadow, r->plan_key);
    }
}

static void tell_watch(fx *f, const tci_effect *e) {
  tci_buf *out = &f->streams[e->token % FX_STREAMS];
  const tci_watch_event *w = &e->watch;
  put(out, "%llu%s:", (unsigned long long)w->sequence, w->more ? "+" : "");
  if (w->check)
    put(out, "@%.*s %s>%s ", TCI_STR_ARG(w->check->node.id), tci_check_state_name(w->old_state),
        tci_check_state_name(w->new_state));
  else if (w->stage)
    put(out, "%.*s %s>%s ", TCI_STR_ARG(w->stage->node.id), tci_stage_state_name(w->old_state),
        tci_stage_state_name(w->new_state));
  else
    put(out, "completed %d+%d%s ", w->checks_completed, w->stages_completed, w->has_failures ? " failed" : "");
}

static void tell(fx *f) {
  for (size_t i = 0; i < f->update.effects.len; i++) {
    const tci_effect *e = &f->update.effects.items[i];
    if (e->kind == TCI_EFFECT_DISPATCH)
      put(&f->told, "%.*s->%.*s ", TCI_STR_ARG(e->attempt->stage->node.id), TCI_STR_ARG(e->attempt->runner_id));
    if (e->kind == TCI_EFFECT_CANCEL) put(&f->told, "cancel:%.*s ", TCI_STR_ARG(e->attempt->stage->node.id));
    if (e->kind == TCI_EFFECT_WATCH) tell_watch(f, e);
  }
}

static void check_invariants(fx *f) {
  if (f->asleep) return; /* the model is whole, but its timers are not set */
  tci_arena arena = {0};
  const char *fault = tci_core_check(f->core, &arena);
  if (fault) fx_fail("step %llu: invariant %s", (unsigned long long)f->steps, fault);
  tci_arena_deinit(&arena);
}

static void compare_shadow(fx *f) {
  if (progress_waits(f->core)) return;
  fx_dump(f->core, true, &f->dump);
  dump_those_of(f->core, f->shadow, true, &f->other);
  fx_same(&f->dump, &f->other, "core and journal disagree (core, journal)");
}

void fx_verify(fx *f) {
  check_invariants(f);
  compare_shadow(f);
  fx_dump(f->core, true, &f->dump);
  tci_core *again = fx_replay(f);
  dump_those_of(f->core, again, true, &f->other);
  tci_core_free(again);
  if (!progress_waits(f->core)) fx_same(&f->dump, &f->other, "core and replay disagree (core, replay)");
}

void fx_prepare(fx *f, tci_event *event) {
  event->now = f->now;
  bool alive = event->kind == TCI_EVENT_RESTARTED || event->kind == TCI_EVENT_RELOADED;
  if (alive) f->asleep = false;
  int64_t heard_us = event->kind == TCI_EVENT_TICK && event->heard_us ? event->heard_us : f->now.mono_us;
  if (alive || (event->kind == TCI_EVENT_TICK && heard_us > f->heard_us)) f->heard_us = heard_us;
  for (uint64_t i = 0; i < 4; i++) {
    uint64_t number[2] = {f->steps, i};
    uint64_t word = tci_siphash(f->seed, 7, (tci_str){(const char *)number, sizeof number});
    memcpy(event->random + i * 8, &word, 8);
  }
  f->steps++;
}

void fx_finish(fx *f, bool quiet) {
  keep_records(f);
  tell(f);
  check_invariants(f);
  if (f->compare_every && f->steps % f->compare_every == 0) compare_shadow(f);
  if (f->after_step) f->after_step(f, quiet, f->ctx);
}

static void refused_is_undone(const fx *f) {
  for (size_t i = 0; i < f->update.effects.len; i++) {
    const tci_effect *e = &f->update.effects.items[i];
    if (e->kind == TCI_EFFECT_REPLY && e->reply.status.code != TCI_OK)
      fx_fail("a refused command left records behind: %s", e->reply.status.message);
  }
}

void fx_step(fx *f, tci_event *event) {
  fx_prepare(f, event);
  bool quiet = !f->update.more && (event->kind != TCI_EVENT_TICK || tci_core_next_due_us(f->core) > f->now.mono_us);
  if (!f->same_turn) f->turns++;
  if (!f->same_turn && !f->drive) tci_core_begin_turn(f->core);
  f->same_turn = false;
  if (f->drive)
    f->drive(f, event);
  else
    tci_core_step(f->core, event, &f->update);
  if (quiet && event->kind == TCI_EVENT_COMMAND && f->update.records.len) refused_is_undone(f);
  fx_finish(f, quiet);
}

void fx_tick(fx *f) { fx_step(f, &(tci_event){.kind = TCI_EVENT_TICK}); }

void fx_drain(fx *f) {
  for (int i = 0; f->update.more; i++) {
    if (i == 100000) fx_fail("work is left over for ever");
    fx_tick(f);
  }
}

void fx_keep_busy(fx *f, int64_t ms) {
  f->now.mono_us += ms * 1000;
  f->now.wall_us += ms * 1000;
}

void fx_stand_still(fx *f, int64_t ms) { f->now.wall_us += ms * 1000; }

void fx_jump(fx *f, int64_t ms) {
  fx_keep_busy(f, ms);
  fx_tick(f);
  fx_drain(f);
}

void fx_advance(fx *f, int64_t ms) {
  int64_t until = f->now.mono_us + ms * 1000;
  fx_drain(f);
  for (int64_t due; (due = tci_core_next_due_us(f->core)) <= until;) {
    int64_t us = due > f->now.mono_us ? due - f->now.mono_us : 0;
    f->now.mono_us += us;
    f->now.wall_us += us;
    fx_tick(f);
    fx_drain(f);
  }
  f->now.wall_us += until - f->now.mono_us;
  f->now.mono_us = until;
  fx_tick(f);
  fx_drain(f);
}

const tci_reply *fx_command(fx *f, tci_command command) {
  tci_event event = {.kind = TCI_EVENT_COMMAND, .token = 0, .command = command};
  fx_step(f, &event);
  const tci_reply *reply = NULL;
  for (size_t i = 0; i < f->update.effects.len; i++) {
    if (f->update.effects.items[i].kind != TCI_EFFECT_REPLY || f->update.effects.items[i].token != event.token)
      continue;
    if (reply) fx_fail("a command is answered twice");
    reply = &f->update.effects.items[i].reply;
    if (reply->command != command.kind) fx_fail("the answer is to another command");
  }
  return reply;
}

/* ---- words ---- */

static bool take_word(const char **text, char stop, tci_str *out) {
  const char *at = *text;
  while (*at == ' ' || *at == '\n') at++;
  if (!*at || *at == stop) {
    *text = at;
    return false;
  }
  const char *from = at;
  while (*at && *at != ' ' && *at != '\n' && *at != stop) at++;
  *out = (tci_str){from, (size_t)(at - from)};
  *text = at;
  return true;
}

/* "head<mark>tail"; false (and head is all) without the mark. */
static bool split(tci_str word, char mark, tci_str *head, tci_str *tail) {
  const char *at = word.len ? memchr(word.ptr, mark, word.len) : NULL;
  *head = at ? (tci_str){word.ptr, (size_t)(at - word.ptr)} : word;
  *tail = at ? (tci_str){at + 1, word.len - head->len - 1} : (tci_str){0};
  return at != NULL;
}

static bool is(tci_str word, const char *text) { return tci_str_eq(word, tci_str_from(text)); }

static int state_number(const char *(*name)(int), tci_str word) {
  for (int state = 10; state <= 60; state += 10)
    if (is(word, name(state))) return state;
  fx_fail("no state is called %.*s", TCI_STR_ARG(word));
}

static int64_t number(tci_str word) {
  char text[32] = {0};
  memcpy(text, word.ptr, word.len < sizeof text ? word.len : sizeof text - 1);
  return strtoll(text, NULL, 10);
}

static tci_str entry(tci_arena *arena, tci_str to, tci_str key_value) {
  tci_str key, text;
  split(key_value, ':', &key, &text);
  tci_buf value = {0}, out = {0};
  tci_value_put_string(&value, text);
  tci_struct_set(to, key, tci_buf_str(&value), &out);
  tci_str kept = tci_str_copy(arena, tci_buf_str(&out));
  tci_buf_deinit(&value);
  tci_buf_deinit(&out);
  return kept;
}

tci_str fx_struct(tci_arena *arena, const char *key, const char *value) {
  return entry(arena, (tci_str){0}, tci_str_from(tci_fmt(arena, "%s:%s", key, value)));
}

static size_t count(tci_str list) {
  size_t n = list.len > 0;
  for (size_t i = 0; i < list.len; i++) n += list.ptr[i] == ',';
  return n;
}

static tci_str next_of(tci_str *list) {
  tci_str head;
  split(*list, ',', &head, list);
  return head;
}

static tci_dependencies parse_dependencies(tci_arena *arena, tci_predicate predicate, tci_str list) {
  tci_dependencies deps = {true, predicate, tci_arena_array(arena, tci_dependency, count(list) + 1), count(list)};
  for (size_t i = 0; i < deps.len; i++) {
    tci_str word = next_of(&list);
    tci_dependency *d = &deps.items[i];
    d->target_kind = TCI_NODE_STAGE;
    if (word.len && word.ptr[0] == '@') {
      d->target_kind = TCI_NODE_CHECK;
      word = (tci_str){word.ptr + 1, word.len - 1};
    }
    char last = word.len ? word.ptr[word.len - 1] : 0;
    if (last == '+') d->condition = TCI_ON_SUCCESS;
    if (last == '!') d->condition = TCI_ON_FAILURE;
    d->target_id = (tci_str){word.ptr, word.len - (last == '+' || last == '!')};
  }
  return deps;
}

static tci_failure parse_failure(tci_str text) { return (tci_failure){.present = true, .message = text}; }

static bool check_word(tci_arena *arena, tci_check_write *c, tci_str key, tci_str value) {
  if (is(key, "state"))
    c->state = (tci_check_state)state_number(tci_check_state_name, value);
  else if (is(key, "kind"))
    c->kind = value;
  else if (is(key, "opt"))
    c->options = entry(arena, c->options, value);
  else if (is(key, "after"))
    c->dependencies = parse_dependencies(arena, TCI_PREDICATE_AND, value);
  else if (is(key, "any"))
    c->dependencies = parse_dependencies(arena, TCI_PREDICATE_OR, value);
  else if (is(key, "version"))
    c->expected_version = number(value);
  else if (is(key, "result"))
    split(value, ':', &c->result.owner_type, &c->result.owner_id);
  else if (is(key, "data"))
    c->result.data = entry(arena, c->result.data, value);
  else if (is(key, "finalize"))
    c->result.finalize = true;
  else if (is(key, "failure"))
    c->result.failure = parse_failure(value);
  else
    return false;
  c->has_result |= is(key, "result") || is(key, "data") || is(key, "finalize") || is(key, "failure");
  return true;
}

static void parse_assignments(tci_arena *arena, tci_stage_write *s, tci_str list) {
  s->assignments_len = count(list);
  s->assignments = tci_arena_array(arena, tci_assignment_write, s->assignments_len + 1);
  for (size_t i = 0; i < s->assignments_len; i++) {
    tci_str goal;
    if (split(next_of(&list), ':', &s->assignments[i].check_id, &goal))
      s->assignments[i].goal = (tci_check_state)state_number(tci_check_state_name, goal);
  }
}

static bool attempt_word(tci_arena *arena, tci_attempt_write *a, tci_str key, tci_str value) {
  if (is(key, "attempt"))
    a->state = (tci_attempt_state)state_number(tci_attempt_state_name, value);
  else if (is(key, "uid"))
    a->process_uid = value;
  else if (is(key, "details"))
    a->details = entry(arena, a->details, value);
  else if (is(key, "failure"))
    a->failure = parse_failure(value);
  else if (is(key, "progress"))
    a->has_progress = true, a->progress_message = value;
  else
    return false;
  return true;
}

static bool stage_word(tci_arena *arena, tci_stage_write *s, tci_str key, tci_str value) {
  if (is(key, "state"))
    s->state = (tci_stage_state)state_number(tci_stage_state_name, value);
  else if (is(key, "opt"))
    s->args = entry(arena, s->args, value);
  else if (is(key, "after"))
    s->dependencies = parse_dependencies(arena, TCI_PREDICATE_AND, value);
  else if (is(key, "any"))
    s->dependencies = parse_dependencies(arena, TCI_PREDICATE_OR, value);
  else if (is(key, "checks"))
    parse_assignments(arena, s, value);
  else if (is(key, "runner"))
    s->runner_type = value;
  else if (is(key, "mode"))
    s->mode = is(value, "async") ? TCI_MODE_ASYNC : TCI_MODE_SYNC;
  else if (is(key, "version"))
    s->expected_version = number(value);
  else if (is(key, "priority"))
    s->priority = number(value);
  else if (is(key, "attempts"))
    s->retry.max_attempts = number(value);
  else if (is(key, "backoff"))
    s->retry.backoff_ms = number(value);
  else if (is(key, "backoff_max"))
    s->retry.backoff_ms_max = number(value);
  else if (is(key, "timeout"))
    s->timeouts.execution_ms = number(value);
  else if (is(key, "stale"))
    s->timeouts.stale_ms = number(value);
  else if (attempt_word(arena, &s->attempt, key, value))
    s->has_attempt = true;
  else
    return false;
  return true;
}

tci_command fx_parse_write(tci_arena *arena, tci_str plan_id, const char *text) {
  size_t items = 1;
  for (const char *p = text; *p; p++) items += *p == ';';
  tci_command cmd = {.kind = TCI_COMMAND_WRITE_NODES, .plan_id = plan_id};
  cmd.write_nodes.checks = tci_arena_array(arena, tci_check_write, items);
  cmd.write_nodes.stages = tci_arena_array(arena, tci_stage_write, items);
  for (const char *at = text; *at; at += *at == ';') {
    tci_str word, key, value;
    if (!take_word(&at, ';', &word)) continue;
    bool is_check = word.ptr[0] == '@';
    tci_check_write *c = is_check ? &cmd.write_nodes.checks[cmd.write_nodes.checks_len++] : NULL;
    tci_stage_write *s = is_check ? NULL : &cmd.write_nodes.stages[cmd.write_nodes.stages_len++];
    if (c)
      c->id = (tci_str){word.ptr + 1, word.len - 1};
    else
      s->id = word;
    while (take_word(&at, ';', &word)) {
      split(word, '=', &key, &value);
      if (!(c ? check_word(arena, c, key, value) : stage_word(arena, s, key, value)))
        fx_fail("what is '%.*s'?", TCI_STR_ARG(word));
    }
  }
  return cmd;
}

static tci_check_update parse_update(tci_arena *arena, tci_str word) {
  tci_check_update u = {.state = TCI_CHECK_FINAL, .finalize = true};
  tci_str tail;
  word = (tci_str){word.ptr + 1, word.len - 1};
  if (split(word, '!', &u.check_id, &tail)) {
    u.failure = parse_failure(tail);
  } else if (split(word, '=', &u.check_id, &tail)) {
    u.data = entry(arena, (tci_str){0}, tail);
  } else if (split(word, '?', &u.check_id, &tail)) {
    u.state = TCI_CHECK_UNKNOWN;
    u.finalize = false;
    if (tail.len) u.data = entry(arena, (tci_str){0}, tail);
  }
  return u;
}

tci_completion fx_parse_completion(tci_arena *arena, const char *text) {
  tci_completion c = {.updates = tci_arena_array(arena, tci_check_update, strlen(text) + 1)};
  c.digest[0] = tci_siphash(1, 1, tci_str_from(text));
  c.digest[1] = tci_siphash(2, 2, tci_str_from(text));
  tci_str word, key, value;
  for (const char *at = text; take_word(&at, 0, &word);) {
    if (word.ptr[0] == '@') {
      c.updates[c.updates_len++] = parse_update(arena, word);
      continue;
    }
    split(word, '=', &key, &value);
    if (is(key, "failure"))
      c.failure = parse_failure(value);
    else if (is(key, "details"))
      c.details = entry(arena, c.details, value);
    else if (!is(word, "-"))
      c.stage_state = (tci_stage_state)state_number(tci_stage_state_name, word);
  }
  return c;
}

/* ---- commands ---- */

static const tci_reply *must(const tci_reply *reply) {
  if (!reply) fx_fail("no answer");
  if (reply->status.code != TCI_OK) fx_fail("%s: %s", tci_code_name(reply->status.code), reply->status.message);
  return reply;
}

tci_str fx_create(fx *f) {
  const tci_reply *reply = must(fx_command(f, (tci_command){.kind = TCI_COMMAND_CREATE_PLAN}));
  return f->plan_id = tci_str_copy(&f->arena, reply->plan->id);
}

const tci_reply *fx_write(fx *f, const char *text) {
  return must(fx_command(f, fx_parse_write(&f->arena, f->plan_id, text)));
}

void fx_refuses_command(fx *f, tci_code code, const char *part, tci_command command) {
  fx_dump(f->core, true, &f->before);
  const tci_reply *reply = fx_command(f, command);
  if (!reply) fx_fail("no answer");
  if (reply->status.code != code)
    fx_fail("%s, not %s: %s", tci_code_name(reply->status.code), tci_code_name(code), reply->status.message);
  fx_contains(reply->status.message, part);
  fx_dump(f->core, true, &f->other);
  fx_same(&f->before, &f->other, "a refused command changed something (before, after)");
}

void fx_refuses(fx *f, tci_code code, const char *part, const char *text) {
  fx_refuses_command(f, code, part, fx_parse_write(&f->arena, f->plan_id, text));
}

tci_command fx_register_command(const char *id, const char *type, const char *modes, int64_t max, int64_t ttl_ms) {
  tci_command cmd = {.kind = TCI_COMMAND_REGISTER_RUNNER};
  cmd.register_runner.runner_id = tci_str_from(id);
  cmd.register_runner.runner_type = tci_str_from(type);
  cmd.register_runner.address = TCI_STR("127.0.0.1:50061");
  cmd.register_runner.modes[TCI_MODE_SYNC] = strcmp(modes, "async") != 0;
  cmd.register_runner.modes[TCI_MODE_ASYNC] = strcmp(modes, "sync") != 0;
  cmd.register_runner.max_concurrent = max;
  cmd.register_runner.ttl_ms = ttl_ms;
  return cmd;
}

const tci_reply *fx_register(fx *f, const char *id, const char *type, const char *modes, int64_t max, int64_t ttl_ms) {
  return must(fx_command(f, fx_register_command(id, type, modes, max, ttl_ms)));
}

void fx_unregister(fx *f, const char *id) {
  tci_str registration = tci_str_copy(&f->arena, fx_runner(f, id)->registration_id);
  must(fx_command(f, (tci_command){.kind = TCI_COMMAND_UNREGISTER_RUNNER, .registration_id = registration}));
}

void fx_watch(fx *f, uint64_t token, const char *words) {
  tci_event event = {.kind = TCI_EVENT_COMMAND, .token = token};
  event.command.kind = TCI_COMMAND_WATCH_PLAN;
  event.command.plan_id = f->plan_id;
  event.command.watch_plan.filter.include_checks = strstr(words, "checks") != NULL;
  event.command.watch_plan.filter.include_stages = strstr(words, "stages") != NULL;
  event.command.watch_plan.include_current = strstr(words, "current") != NULL;
  event.command.watch_plan.include_progress = strstr(words, "progress") != NULL;
  event.command.watch_plan.omit_unchanged = strstr(words, "changes") != NULL;
  fx_step(f, &event);
}

bool fx_watch_more(fx *f, uint64_t token, size_t looks) {
  bool more = tci_core_watch_more(f->core, token, &looks, &f->update);
  for (size_t i = 0; i < f->update.effects.len; i++) tell_watch(f, &f->update.effects.items[i]);
  return more;
}

void fx_watch_all(fx *f, uint64_t token) {
  while (fx_watch_more(f, token, 100)) continue;
}

void fx_answers(fx *f, const char *stage, const char *completion) {
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = fx_execution(f, stage);
  event.answer.completion = fx_parse_completion(&f->arena, completion);
  fx_step(f, &event);
}

void fx_rpc_fails(fx *f, const char *stage, tci_code code, const char *message) {
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = fx_execution(f, stage);
  event.answer.code = code;
  event.answer.message = tci_str_from(message);
  fx_step(f, &event);
}

void fx_accepts(fx *f, const char *stage, bool accepted) {
  tci_event event = {.kind = TCI_EVENT_ANSWER};
  event.answer.execution_id = fx_execution(f, stage);
  event.answer.accepted = accepted;
  if (accepted) event.answer.runner_execution_id = TCI_STR("theirs");
  fx_step(f, &event);
}

tci_command fx_update_command(fx *f, tci_str execution_id, const char *message) {
  tci_command cmd = {.kind = TCI_COMMAND_UPDATE_EXECUTION, .plan_id = f->plan_id};
  cmd.update_execution.execution_id = execution_id;
  cmd.update_execution.message = tci_str_from(message);
  return cmd;
}

tci_command fx_complete_command(fx *f, tci_str execution_id, const char *completion) {
  tci_command cmd = {.kind = TCI_COMMAND_COMPLETE_EXECUTION, .plan_id = f->plan_id};
  cmd.complete_execution.execution_id = execution_id;
  cmd.complete_execution.completion = fx_parse_completion(&f->arena, completion);
  return cmd;
}

void fx_reports(fx *f, const char *stage, const char *message) {
  must(fx_command(f, fx_update_command(f, fx_execution(f, stage), message)));
}

void fx_completes(fx *f, const char *stage, const char *completion) {
  must(fx_command(f, fx_complete_command(f, fx_execution(f, stage), completion)));
}

/* ---- looking ---- */

tci_plan *fx_plan(fx *f) {
  tci_plan *plan = tci_core_plan(f->core, f->plan_id);
  if (!plan && f->drive) plan = tci_core_plan(f->shadow, f->plan_id);
  if (!plan) fx_fail("the plan is not in memory");
  return plan;
}

tci_check *fx_check(fx *f, const char *id) {
  tci_check *check = tci_plan_check(fx_plan(f), tci_str_from(id));
  if (!check) fx_fail("no check %s", id);
  return check;
}

tci_stage *fx_stage(fx *f, const char *id) {
  tci_stage *stage = tci_plan_stage(fx_plan(f), tci_str_from(id));
  if (!stage) fx_fail("no stage %s", id);
  return stage;
}

tci_attempt *fx_attempt(fx *f, const char *stage) {
  tci_attempt *a = tci_stage_attempt(fx_stage(f, stage));
  if (!a) fx_fail("stage %s has no attempt", stage);
  return a;
}

tci_runner *fx_runner(fx *f, const char *id) { return tci_map_get(&f->core->runners, tci_str_from(id)); }
tci_str fx_execution(fx *f, const char *stage) { return tci_str_copy(&f->arena, fx_attempt(f, stage)->execution_id); }

static const char *const reasons[] = {
    "UNKNOWN",   "ATTEMPT_COMPLETE", "CHECK_FAILED",  "NO_RETRIES_LEFT", "DEPENDENCIES_UNSATISFIED",
    "CANCELLED", "NO_RESULT",        "RESULTS_FINAL", "RESULT_FAILED",   "WRITTEN"};

static void put_outcome(tci_buf *out, const tci_node *node) {
  if (node->outcome) put(out, "/%s/%s", tci_outcome_name((int)node->outcome), reasons[node->reason]);
}

const char *fx_text(fx *f, const char *id) {
  tci_buf out = {0};
  if (id[0] == '@') {
    const tci_check *c = fx_check(f, id + 1);
    put(&out, "%s", tci_check_state_name((int)c->state));
    put_outcome(&out, &c->node);
    for (size_t i = 0; i < c->results.len; i++) {
      const tci_result *r = &c->results.items[i];
      put(&out, " %.*s:%.*s%s", TCI_STR_ARG(r->owner_type), TCI_STR_ARG(r->owner_id), r->finalized_us ? "#" : "");
      if (r->failure.present) put(&out, "!%.*s", TCI_STR_ARG(r->failure.message));
    }
  } else {
    const tci_stage *s = fx_stage(f, id);
    put(&out, "%s", tci_stage_state_name((int)s->state));
    put_outcome(&out, &s->node);
    for (size_t i = 0; i < s->attempts.len; i++) {
      const tci_attempt *a = s->attempts.items[i];
      put(&out, " %u:%s", a->index, tci_attempt_state_name((int)a->state));
      if (a->execution) put(&out, "/%s", tci_execution_state_name((int)a->execution));
      if (a->failure.present) put(&out, "!%s", tci_failure_kind_name((int)a->failure.kind));
    }
  }
  const char *text = tci_str_z(&f->arena, tci_buf_str(&out));
  tci_buf_deinit(&out);
  return text;
}

void fx_is(fx *f, const char *id, const char *text) {
  const char *found = fx_text(f, id);
  if (strcmp(found, text) != 0) fx_fail("%s is \"%s\", not \"%s\"", id, found, text);
}

static void take_text(tci_buf *buf, const char *text, const char *what) {
  if (!tci_str_eq(tci_buf_str(buf), tci_str_from(text)))
    fx_fail("%s: \"%.*s\", not \"%s\"", what, TCI_STR_ARG(tci_buf_str(buf)), text);
  tci_buf_clear(buf);
}

void fx_told(fx *f, const char *text) { take_text(&f->told, text, "told to runners"); }
void fx_stream(fx *f, uint64_t token, const char *text) { take_text(&f->streams[token % FX_STREAMS], text, "watched"); }

void fx_contains(const char *text, const char *part) {
  if (!text || !strstr(text, part)) fx_fail("\"%s\" does not say \"%s\"", text ? text : "(null)", part);
}
