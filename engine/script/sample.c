/* sample: the views that a policy is tried on before it is used. Each hook is asked twice about each, with the same
 * seed; both answers must be sound and the same.
 *
 * The plan of a sample has the id "sample", in case a policy must know. The stages are of different kinds: with and
 * without args, metadata, retry and timeouts of their own; fresh, and failed in several ways.
 *
 * Called by script.c.
 */
#include "script/internal.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/wire.h"

static const int64_t minute_us = 60000000;
static const int64_t now_us = 1700000000000000; /* 2023-11-14 22:13:20 UTC */

typedef struct {
  const char *id, *metadata; /* "key=value", or NULL */
  int64_t load, capacity;
  uint64_t last_used;
  uint32_t recent, recent_len;
} sample_runner;

typedef struct {
  const char *runner; /* NULL: it had none */
  tci_failure_kind kind;
} sample_attempt;

typedef struct {
  const char *stage, *type, *metadata;
  bool args;
  tci_mode mode;
  int64_t priority;
  tci_retry retry;
  tci_timeouts timeouts;
  sample_runner runners[4]; /* to the first without an id */
  sample_attempt failed[4]; /* to the first without a kind */
} sample;

static const sample samples[] = {
    {.stage = "build",
     .type = "go",
     .metadata = "branch=main",
     .args = true,
     .mode = TCI_MODE_SYNC,
     .runners = {{"a", "zone=1", 2, 4, 7, 0x1, 3}, {"b", "zone=2", 0, 2, 9, 0x6, 4}, {"c", NULL, 1, 0, 0, 0, 0}}},
    {.stage = "test", .type = "go", .mode = TCI_MODE_ASYNC, .runners = {{"a", NULL, 0, 0, 0, 0, 0}}},
    {.stage = "deploy",
     .type = "shell",
     .metadata = "team=web",
     .args = true,
     .mode = TCI_MODE_ASYNC,
     .priority = 5,
     .retry = {5, 200, 3000},
     .timeouts = {90000, 30000},
     .runners = {{"a", "zone=1", 3, 4, 1, 0x7, 3}, {"b", "zone=1", 3, 4, 2, 0, 12}, {"c", "zone=2", 3, 4, 3, 1, 32}},
     .failed = {{"a", TCI_FAILURE_TIMEOUT}, {"b", TCI_FAILURE_RUNNER_LOST}}},
    {.stage = "lint",
     .type = "go",
     .mode = TCI_MODE_SYNC,
     .runners = {{"b", NULL, 0, 1, 4, 0x1, 1}, {"c", NULL, 0, 1, 5, 0, 1}},
     .failed = {{"a", TCI_FAILURE_UNREACHABLE}, {NULL, TCI_FAILURE_POLICY}, {"b", TCI_FAILURE_REPORTED}}},
};

/* ---- building one; everything is in the arena ---- */

static tci_pairs pairs_of(tci_arena *arena, const char *text) {
  if (!text) return (tci_pairs){0};
  const char *equals = strchr(text, '=');
  tci_pair *pair = tci_arena_new(arena, tci_pair);
  pair->key = (tci_str){text, (size_t)(equals - text)};
  pair->value = tci_str_from(equals + 1);
  return (tci_pairs){pair, 1};
}

/* { command = "make", size = 3, list = { "a", 1 }, deep = { yes = true... } } */
static tci_str args_of(tci_arena *arena) {
  tci_buf text = {0}, number = {0}, list = {0}, values = {0}, deep = {0};
  tci_value_put_string(&text, TCI_STR("make"));
  tci_value_put_number(&number, 3);
  const tci_buf *items[] = {&text, &number};
  for (int i = 0; i < 2; i++) {
    tci_wire_put_varint(&values, items[i]->len);
    tci_buf_add(&values, tci_buf_str(items[i]));
  }
  tci_value_put_list(&list, tci_buf_str(&values));
  tci_str args = {0};
  const struct {
    const char *key;
    const tci_buf *value;
  } entries[] = {{"command", &text}, {"size", &number}, {"list", &list}};
  tci_buf built = {0};
  for (int i = 0; i < 3; i++) {
    tci_buf next = {0};
    tci_struct_set(args, tci_str_from(entries[i].key), tci_buf_str(entries[i].value), &next);
    tci_buf_deinit(&built);
    built = next;
    args = tci_buf_str(&built);
  }
  tci_value_put_struct(&deep, args);
  tci_buf whole = {0};
  tci_struct_set(args, TCI_STR("options"), tci_buf_str(&deep), &whole);
  args = tci_str_copy(arena, tci_buf_str(&whole));
  tci_buf *all[] = {&text, &number, &list, &values, &deep, &built, &whole};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) tci_buf_deinit(all[i]);
  return args;
}

static tci_attempt *add_attempt(tci_arena *arena, tci_stage *stage) {
  tci_attempt *a = tci_arena_new(arena, tci_attempt);
  size_t n = stage->attempts.len;
  a->stage = stage;
  a->index = (uint32_t)n + 1;
  a->state = TCI_ATTEMPT_PENDING;
  a->execution = TCI_EXECUTION_PENDING;
  a->mode = stage->mode;
  a->created_us = now_us - (5 - (int64_t)n) * minute_us;
  a->ready_mono_us = minute_us;
  stage->attempts.items[stage->attempts.len++] = a;
  return a;
}

static tci_stage *stage_of(tci_arena *arena, const sample *about, bool waits) {
  tci_plan *plan = tci_arena_new(arena, tci_plan);
  plan->id = TCI_STR("sample");
  plan->created_us = now_us - 10 * minute_us;
  plan->metadata = pairs_of(arena, about->metadata);
  tci_stage *stage = tci_arena_new(arena, tci_stage);
  stage->node.kind = TCI_NODE_STAGE;
  stage->node.plan = plan;
  stage->node.id = tci_str_from(about->stage);
  stage->node.created_us = now_us - 9 * minute_us;
  stage->state = TCI_STAGE_ATTEMPTING;
  stage->runner_type = tci_str_from(about->type);
  stage->mode = about->mode;
  stage->priority = about->priority;
  stage->retry = about->retry;
  stage->timeouts = about->timeouts;
  if (about->args) stage->args = args_of(arena);
  stage->attempts.items = tci_arena_array(arena, tci_attempt *, 8);
  for (size_t i = 0; about->failed[i].kind; i++) {
    tci_attempt *a = add_attempt(arena, stage);
    a->state = TCI_ATTEMPT_INCOMPLETE;
    a->execution = TCI_EXECUTION_FAILED;
    a->runner_id = tci_str_from(about->failed[i].runner);
    a->dispatched_us = a->runner_id.len ? a->created_us + 1000000 : 0;
    a->finished_us = a->created_us + minute_us / 2;
    a->failure = (tci_failure){true, about->failed[i].kind, TCI_STR("a sample"), a->finished_us};
  }
  if (waits) add_attempt(arena, stage);
  return stage;
}

static size_t runners_of(tci_arena *arena, const sample *about, uint64_t *serial, tci_runner **out) {
  size_t n = 0;
  for (; n < 4 && about->runners[n].id; n++) {
    const sample_runner *from = &about->runners[n];
    tci_runner *r = out[n] = tci_arena_new(arena, tci_runner);
    r->runner_id = tci_str_from(from->id);
    r->runner_type = tci_str_from(about->type);
    r->metadata = pairs_of(arena, from->metadata);
    r->load = from->load;
    r->max_concurrent = from->capacity;
    r->last_used = from->last_used;
    r->last_used_us = from->last_used ? now_us - minute_us : 0;
    r->recent = from->recent;
    r->recent_len = from->recent_len;
    r->registered_us = now_us - 60 * minute_us;
    r->serial = --*serial; /* from the end: no real runner has it */
    r->slot = (uint32_t)n;
  }
  return n;
}

/* ---- asking ---- */

static void write_int(tci_buf *out, int64_t n) { tci_buf_add(out, (tci_str){(const char *)&n, sizeof n}); }

static void write_text(tci_buf *out, tci_str text) {
  write_int(out, (int64_t)text.len);
  tci_buf_add(out, text);
}

/* Two decisions are the same when this is. */
static void write_decision(const tci_decision *d, tci_buf *out) {
  write_text(out, d->reason);
  write_text(out, d->runner ? d->runner->runner_id : TCI_STR(""));
  const int64_t numbers[] = {d->wait,     d->wait_us,  d->again, d->after_us, d->execution_ms,
                             d->stale_ms, d->queue_ms, d->says,  d->priority};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) write_int(out, numbers[i]);
  for (size_t i = 0; i < d->exclude.len; i++) write_text(out, d->exclude.items[i]);
  for (size_t i = 0; i < d->keys_len; i++) {
    write_text(out, d->keys[i].key);
    write_int(out, d->keys[i].limit);
  }
}

/* False: the answers fault or differ, `message` says so. */
static bool ask_twice(tci_script *s, tci_hook hook, tci_question *q, char *message, size_t size) {
  tci_buf answers[2] = {{0}, {0}};
  const char *fault = NULL;
  for (int i = 0; i < 2 && !fault; i++) {
    static const uint8_t seed[32] = "sample";
    tci_rng rng;
    tci_rng_init(&rng, seed);
    q->rng = &rng;
    tci_decision d = {0};
    s->policy.ask(s, hook, q, &d);
    write_decision(&d, &answers[i]);
    fault = d.fault;
  }
  bool same = tci_str_eq(tci_buf_str(&answers[0]), tci_buf_str(&answers[1]));
  if (fault)
    snprintf(message, size, "%s (tried on a sample: %s, stage '%.*s')", fault, tci_hook_name(hook),
             TCI_STR_ARG(q->stage->node.id));
  else if (!same)
    snprintf(message, size, "%s: %s answered differently when asked twice: policies keep no state", s->file,
             tci_hook_name(hook));
  tci_buf_deinit(&answers[0]);
  tci_buf_deinit(&answers[1]);
  return !fault && same;
}

static bool try_hook(tci_script *s, tci_hook hook, const sample *about, uint64_t *serial, char *message, size_t size) {
  tci_arena arena = {0};
  tci_runner *runners[4];
  bool waits = hook != TCI_HOOK_RETRY;
  tci_question q = {.limits = &s->limits, .now = {2 * minute_us, now_us}, .arena = &arena};
  bool good = true;
  if (waits || about->failed[0].kind) {
    q.stage = stage_of(&arena, about, waits);
    q.attempt = tci_stage_attempt(q.stage);
    q.candidates = runners;
    q.candidates_len = hook == TCI_HOOK_SELECT ? runners_of(&arena, about, serial, runners) : 0;
    q.elsewhere = about->runners[1].id != NULL;
    good = ask_twice(s, hook, &q, message, size);
  }
  tci_arena_deinit(&arena);
  return good;
}

tci_status tci_sample(tci_script *s, int64_t from_us, char *message, size_t size) {
  uint64_t serial = UINT64_MAX;
  int64_t most_us = s->limits.policy_cpu_ms_max * 1000 * (TCI_LOAD_FACTOR_CPU + 1);
  for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
    for (int hook = 0; hook < TCI_HOOKS; hook++) {
      if (!(s->policy.hooks >> hook & 1)) continue;
      if (!try_hook(s, (tci_hook)hook, &samples[i], &serial, message, size))
        return (tci_status){TCI_INVALID_ARGUMENT, message};
      if (!s->fuse || tci_clock_thread_cpu_us() - from_us <= most_us) continue;
      snprintf(message, size, "%s: more than %lld ms of CPU time for loading it and its answers to the samples",
               s->file, (long long)(most_us / 1000));
      return (tci_status){TCI_INVALID_ARGUMENT, message};
    }
  }
  return TCI_STATUS_OK;
}
