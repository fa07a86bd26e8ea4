/* core: the step. Takes an event apart, lets its handler decide, follows the consequences, closes the records.
 *
 * Invariants: nothing moves the model but tci_emit (decide) and tci_core_load (recovery), both through tci_evolve; a step
 * leaves at most one record per plan, in which every change has its own sequence; what an update points to stays valid until
 * the next step (replaced bytes go to `garbage`).
 */
#include <stdarg.h>
#include <string.h>

#include "core/internal.h"

/* ---- life ---- */

tci_core *tci_core_new(const tci_limits *limits, const tci_policy_set *policies) {
  tci_core *core = tci_calloc(1, sizeof *core);
  core->limits = *limits;
  core->set = policies;
  core->policies_generation = 1;
  core->next_plan_key = 1;
  tci_core_begin_turn(core);
  tci_list_init(&core->idle);
  return core;
}

static void empty_garbage(tci_core *core) {
  for (size_t i = 0; i < core->garbage.len; i++) free(core->garbage.items[i]);
  core->garbage.len = 0;
}

static void free_pools(tci_core *core) {
  for (size_t i = 0; i < core->awake.len; i++) {
    core->awake.items[i]->listed = false;
    tci_pool_trim(core, core->awake.items[i]);
  }
  core->awake.len = 0;
}

void tci_plan_evict(tci_core *core, tci_plan *plan) {
  tci_plan_leave(core, plan);
  tci_vec_push(&core->leaving, plan);
}

void tci_core_free(tci_core *core) {
  if (!core) return;
  core->loading = true; /* nothing wakes up any more */
  while (core->plan_list.len) tci_plan_evict(core, core->plan_list.items[core->plan_list.len - 1]);
  size_t all = SIZE_MAX;
  while (core->leaving.len) tci_plan_free(core, core->leaving.items[--core->leaving.len], &all);
  while (core->runner_list.len) tci_runner_free(core, core->runner_list.items[core->runner_list.len - 1]);
  free_pools(core);
  tci_quarantine_free(core);
  empty_garbage(core);
  for (size_t i = 0; i < core->buffers.len; i++) tci_buf_deinit(&core->buffers.items[i]);
  tci_buf_deinit(&core->scratch);
  tci_policies_free(core);
  tci_buf_deinit(&core->decision);
  tci_buf_deinit(&core->keys_held);
  tci_map *maps[] = {&core->plans, &core->plans_by_key, &core->runners, &core->registrations,
                     &core->pools, &core->watchers,     &core->keys};
  for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) tci_map_deinit(maps[i]);
  tci_heap_deinit(&core->timers);
  tci_vec_free(&core->plan_list);
  tci_vec_free(&core->leaving);
  tci_vec_free(&core->runner_list);
  tci_vec_free(&core->awake);
  tci_vec_free(&core->pool_list);
  tci_vec_free(&core->free_slots);
  tci_vec_free(&core->resolved.nodes);
  tci_vec_free(&core->ended.nodes);
  tci_vec_free(&core->settling.nodes);
  tci_vec_free(&core->touched);
  tci_vec_free(&core->buffers);
  tci_vec_free(&core->garbage);
  free(core);
}

void tci_update_deinit(tci_update *update) {
  tci_arena_deinit(&update->arena);
  tci_vec_free(&update->records);
  tci_vec_free(&update->effects);
  tci_vec_free(&update->notes);
}

void tci_update_begin(tci_core *core, tci_update *update) {
  empty_garbage(core);
  tci_arena_reset(&update->arena);
  update->records.len = update->effects.len = update->notes.len = 0;
  update->policy = (tci_policy_counts){0};
  update->more = false;
}

void tci_discard(tci_core *core, void *ptr) {
  if (ptr) tci_vec_push(&core->garbage, ptr);
}

/* ---- emit ---- */

/* The buffer of this step's record for `plan` (NULL: plan 0), with its header. */
static tci_buf *record_buffer(tci_core *core, tci_plan *plan) {
  size_t *slot = plan ? &plan->record : &core->record;
  bool fresh = plan ? plan->touched_step != core->step_no : core->record == 0;
  if (!fresh) return &core->buffers.items[*slot - 1];
  if (core->buffers_len == core->buffers.len) tci_vec_push(&core->buffers, ((tci_buf){0}));
  *slot = ++core->buffers_len;
  tci_buf *buf = &core->buffers.items[*slot - 1];
  tci_buf_clear(buf);
  tci_record record = {0};
  if (plan) {
    record.plan_key = plan->key;
    if (plan->version == 0) record.plan_id = plan->id;
    plan->touched_step = core->step_no;
    plan->version++;
    tci_vec_push(&core->touched, plan);
  }
  tci_vec_push(&core->update->records, record); /* record i belongs to buffer i */
  tci_record_put_header(buf, core->now.wall_us, plan ? (uint64_t)plan->version : 0);
  tci_record_put_order(buf, core->order);
  return buf;
}

static int node_state(const tci_node *node) {
  return node->kind == TCI_NODE_CHECK ? (int)((const tci_check *)node)->state : (int)((const tci_stage *)node)->state;
}

/* A node's version rises once in a step. */
static void stamp(tci_core *core, const tci_plan *plan, tci_change *c) {
  if (c->type == TCI_CHANGE_CHECK_CREATED || c->type == TCI_CHANGE_STAGE_CREATED) {
    c->version = 1;
  } else if (c->node) {
    const tci_node *node = plan->nodes.items[c->node - 1];
    c->version = (uint64_t)node->version + (node->touched_step != core->step_no);
  }
}

void tci_emit(tci_core *core, tci_plan *plan, tci_change *change) {
  tci_buf *buf = record_buffer(core, plan);
  int old_state = -1;
  if (plan) {
    stamp(core, plan, change);
    if (change->node) old_state = node_state(plan->nodes.items[change->node - 1]);
  }
  core->changes_left--;
  tci_record_put_change(buf, change, &core->scratch);
  if (plan)
    plan->sequence++;
  else
    core->sequence++;
  const char *fault = tci_evolve(core, plan, change, core->now.wall_us);
  tci_assert(fault == NULL);
  if (plan && !core->hushed && !tci_list_empty(&plan->watchers)) tci_watch_notify(core, plan, change, old_state);
}

tci_effect *tci_effect_add(tci_core *core, tci_effect_kind kind) {
  tci_vec_push(&core->update->effects, ((tci_effect){.kind = kind}));
  return &core->update->effects.items[core->update->effects.len - 1];
}

/* ---- replies ---- */

tci_reply *tci_answer_ok(tci_core *core, const tci_event *event, tci_reply_kind kind) {
  tci_effect *effect = tci_effect_add(core, TCI_EFFECT_REPLY);
  effect->token = event->token;
  effect->reply.command = event->command.kind;
  effect->reply.kind = kind;
  return &effect->reply;
}

void tci_refuse(tci_core *core, const tci_event *event, tci_code code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const char *message = tci_vfmt(&core->update->arena, format, args);
  va_end(args);
  tci_answer_ok(core, event, TCI_REPLY_STATUS)->status = (tci_status){code, message};
}

/* ---- the step ---- */

/* Only what is due by `heard_us`: everything that could keep it alive was stepped before (event.h). */
static void fire_timers(tci_core *core, int64_t heard_us) {
  core->heard_us = heard_us;
  for (int64_t n = 0; n < core->limits.turn_timers_max; n++) {
    tci_timer *timer = tci_heap_first(&core->timers);
    if (!timer || timer->due_us > heard_us) return;
    if (core->changes_left <= 0) break;
    if (!tci_has_time_to_ask(core)) break; /* what fails now could not be asked about any more */
    tci_heap_clear(&core->timers, timer);
    if (timer->kind == TCI_TIMER_ATTEMPT)
      tci_attempt_timer(core, tci_container(timer, tci_attempt, timer));
    else
      tci_runner_timer(core, tci_container(timer, tci_runner, timer));
  }
}

/* So many fire in a step; the others that are due by then are work left over, whatever is stepped next. */
static bool timers_left(const tci_core *core) {
  const tci_timer *timer = tci_heap_first(&core->timers);
  return timer && timer->due_us <= core->heard_us;
}

static int64_t ready_us(const tci_attempt *a) {
  return a->not_before_us > a->created_us ? a->not_before_us : a->created_us;
}

/* First ready first, as before the restart. */
static int compare_ready(const void *x, const void *y) {
  const tci_attempt *a = *(tci_attempt *const *)x, *b = *(tci_attempt *const *)y;
  if (ready_us(a) != ready_us(b)) return ready_us(a) < ready_us(b) ? -1 : 1;
  const tci_node *m = &a->stage->node, *n = &b->stage->node;
  if (m->plan->key != n->plan->key) return m->plan->key < n->plan->key ? -1 : 1;
  return m->index < n->index ? -1 : m->index > n->index;
}

/* What was rebuilt from the journal gets its timers and queues; calls that died with the engine are failed. */
static void wake_up(tci_core *core, bool calls_died) {
  core->woken = true;
  core->dormant = false;
  core->heard_us = core->now.mono_us; /* what ran out meanwhile is work left over */
  tci_policies_wake(core);
  tci_policies_sync(core);
  for (size_t i = 0; i < core->runner_list.len; i++) {
    core->runner_list.items[i]->passed_over_until_us = 0;
    tci_runner_arm(core, core->runner_list.items[i]);
  }
  TCI_VEC(tci_attempt *) attempts = {0};
  for (size_t p = 0; p < core->plan_list.len; p++) {
    tci_plan *plan = core->plan_list.items[p];
    if (!plan->whole) continue;
    tci_list_left_over(core, plan);
    if (plan->live_attempts == 0) continue;
    for (size_t n = 0; n < plan->nodes.len; n++) {
      tci_node *node = plan->nodes.items[n];
      tci_attempt *a = node->kind == TCI_NODE_STAGE ? tci_stage_attempt(tci_node_stage(node)) : NULL;
      if (a && a->execution != TCI_EXECUTION_NONE && tci_attempt_is_open(a)) tci_vec_push(&attempts, a);
    }
  }
  if (attempts.len) qsort(attempts.items, attempts.len, sizeof *attempts.items, compare_ready);
  for (size_t i = 0; i < attempts.len; i++) {
    tci_attempt *a = attempts.items[i];
    tci_attempt_restart(core, a);
    if (calls_died && tci_execution_is_live(a) && !(a->mode == TCI_MODE_ASYNC && a->accepted))
      tci_attempt_fail(core, a, TCI_FAILURE_ENGINE_RESTART,
                       TCI_STR("the engine restarted while the call was in flight"), NULL);
  }
  tci_vec_free(&attempts);
}

static void on_command(tci_core *core, const tci_event *event) {
  switch (event->command.kind) {
    case TCI_COMMAND_NONE: break;
    case TCI_COMMAND_CREATE_PLAN: tci_on_create_plan(core, event); return;
    case TCI_COMMAND_GET_PLAN: tci_on_get_plan(core, event); return;
    case TCI_COMMAND_WRITE_NODES: tci_on_write_nodes(core, event); return;
    case TCI_COMMAND_QUERY_NODES: tci_on_query_nodes(core, event); return;
    case TCI_COMMAND_WATCH_PLAN: tci_on_watch_plan(core, event); return;
    case TCI_COMMAND_REGISTER_RUNNER: tci_on_register_runner(core, event); return;
    case TCI_COMMAND_UNREGISTER_RUNNER: tci_on_unregister_runner(core, event); return;
    case TCI_COMMAND_LIST_RUNNERS: tci_on_list_runners(core, event); return;
    case TCI_COMMAND_UPDATE_EXECUTION: tci_on_update_execution(core, event); return;
    case TCI_COMMAND_COMPLETE_EXECUTION: tci_on_complete_execution(core, event); return;
    case TCI_COMMAND_GET_EXECUTION: tci_on_get_execution(core, event); return;
    case TCI_COMMAND_LIST_EXECUTIONS: tci_on_list_executions(core, event); return;
    case TCI_COMMAND_GET_SERVER_INFO: tci_answer_ok(core, event, TCI_REPLY_SERVER_INFO); return;
    case TCI_COMMAND_EXPLAIN_NODE: tci_on_explain_node(core, event); return;
    case TCI_COMMAND_LIST_POLICIES:
    case TCI_COMMAND_RELOAD_POLICIES: tci_answer_ok(core, event, TCI_REPLY_POLICIES); return;
  }
  tci_unreachable();
}

/* A plan settles when it has nodes and all are FINAL; everything that happened in the step is told before. */
static void settle_plans(tci_core *core) {
  for (size_t i = 0; i < core->touched.len; i++) {
    tci_plan *plan = core->touched.items[i];
    if (plan->state != TCI_PLAN_ACTIVE || plan->nodes.len == 0 || plan->open_nodes) continue;
    tci_outcome outcome = plan->nodes_failed      ? TCI_OUTCOME_FAILED
                          : plan->nodes_cancelled ? TCI_OUTCOME_CANCELLED
                                                  : TCI_OUTCOME_SUCCEEDED;
    tci_emit(core, plan, &(tci_change){.type = TCI_CHANGE_PLAN_STATE, .state = TCI_PLAN_SETTLED, .outcome = outcome});
  }
}

static void close_records(tci_core *core) {
  size_t plan = 0;
  for (size_t i = 0; i < core->update->records.len; i++) {
    tci_record *record = &core->update->records.items[i];
    record->bytes = tci_buf_str(&core->buffers.items[i]);
    if (record->plan_key == 0) {
      record->sequence = core->sequence;
    } else {
      tci_plan *touched = core->touched.items[plan++];
      record->sequence = touched->sequence;
      record->settled = touched->state == TCI_PLAN_SETTLED;
      tci_plan_touch(core, touched);
    }
  }
}

void tci_core_step(tci_core *core, const tci_event *event, tci_update *update) {
  tci_update_begin(core, update);
  core->update = update;
  core->now = event->now;
  core->order = core->now.wall_us == core->order_wall_us ? core->order + 1 : 0;
  core->order_wall_us = core->now.wall_us;
  tci_rng_init(&core->rng, event->random);
  core->step_no++;
  core->buffers_len = core->record = 0;
  core->touched.len = 0;
  core->changes_left = core->limits.step_changes_max;

  if (event->kind == TCI_EVENT_TICK) fire_timers(core, event->heard_us ? event->heard_us : event->now.mono_us);
  if (!core->dormant) tci_react(core);
  switch (event->kind) {
    case TCI_EVENT_TICK: break;
    case TCI_EVENT_COMMAND: on_command(core, event); break;
    case TCI_EVENT_ANSWER: tci_on_answer(core, event); break;
    case TCI_EVENT_UNWATCH: tci_on_unwatch(core, event); break;
    case TCI_EVENT_RESTARTED: wake_up(core, true); break;
    case TCI_EVENT_RELOADED: wake_up(core, false); break;
    case TCI_EVENT_POLICIES: tci_on_policies(core, event->policies); break;
    case TCI_EVENT_QUARANTINE: tci_on_quarantine(core, event); break;
  }
  if (!core->dormant) {
    tci_react(core);
    tci_dispatch(core);
  }
  if (core->ended.nodes.len || core->resolved.nodes.len || core->settling.nodes.len) update->more = true;
  settle_plans(core);
  close_records(core);
  if (timers_left(core)) update->more = true;
  core->update = NULL;
}

void tci_core_hold(tci_core *core) { core->held = true; }

int64_t tci_core_next_due_us(const tci_core *core) {
  const tci_timer *timer = tci_heap_first(&core->timers);
  return timer ? timer->due_us : INT64_MAX;
}

/* ---- recovery ---- */

static const tci_status broken_record = {TCI_DATA_LOSS, "a journal record is malformed"};

/* The plan a record belongs to; made when the record creates it. */
static tci_plan *record_plan(tci_core *core, const tci_record *record, const tci_record_reader *reader) {
  tci_plan *plan = tci_map_get(&core->plans_by_key, TCI_U64_KEY(&record->plan_key));
  if (!plan && record->plan_id.len) plan = tci_plan_new(core, record->plan_key, record->plan_id, reader->wall_us);
  return plan;
}

tci_status tci_record_begin(tci_core *core, const tci_record *record, tci_record_reader *reader, tci_plan **out_plan) {
  if (!tci_record_open(record->bytes, reader)) return broken_record;
  bool in_time = reader->wall_us > -TCI_MOMENT_US_MAX && reader->wall_us < TCI_MOMENT_US_MAX;
  if (!in_time || reader->version > INT64_MAX) return broken_record;
  tci_plan *plan = *out_plan = record->plan_key ? record_plan(core, record, reader) : NULL;
  if (record->plan_key && !plan) return (tci_status){TCI_DATA_LOSS, "a journal record belongs to no plan"};
  if ((plan ? plan->sequence : core->sequence) + reader->changes != record->sequence)
    return (tci_status){TCI_DATA_LOSS, "the journal has a gap: a record is missing or out of order"};
  core->step_no++;
  core->now.wall_us = reader->wall_us;
  if (plan) plan->version = (int64_t)reader->version;
  return TCI_STATUS_OK;
}

tci_status tci_record_apply(tci_core *core, tci_plan *plan, tci_record_reader *reader, uint64_t after, bool *more) {
  tci_change change;
  int next = tci_record_next(reader, &change);
  if (next < 0) return broken_record;
  *more = next > 0;
  if (!*more) return TCI_STATUS_OK;
  int old_state =
      plan && change.node && change.node <= plan->nodes.len ? node_state(plan->nodes.items[change.node - 1]) : -1;
  uint64_t sequence = ++*(plan ? &plan->sequence : &core->sequence);
  const char *fault = tci_change_fault(&change);
  if (!fault) fault = tci_evolve(core, plan, &change, reader->wall_us);
  if (fault) return (tci_status){TCI_DATA_LOSS, fault};
  if (core->update && plan && sequence > after) tci_watch_notify(core, plan, &change, old_state);
  return TCI_STATUS_OK;
}

tci_status tci_core_load(tci_core *core, const tci_record *record) {
  core->loading = true;
  core->dormant = !core->woken;
  tci_record_reader reader;
  tci_plan *plan;
  tci_status status = tci_record_begin(core, record, &reader, &plan);
  for (bool more = true; status.code == TCI_OK && more;) status = tci_record_apply(core, plan, &reader, 0, &more);
  core->loading = false;
  empty_garbage(core);
  return status;
}

void tci_core_loaded(tci_core *core, uint64_t plan_key) {
  tci_plan *plan = tci_map_get(&core->plans_by_key, TCI_U64_KEY(&plan_key));
  if (!plan) return;
  plan->whole = true;
  for (size_t i = 0; plan->live_attempts && i < plan->nodes.len; i++) {
    tci_node *node = plan->nodes.items[i];
    tci_attempt *a = node->kind == TCI_NODE_STAGE ? tci_stage_attempt(tci_node_stage(node)) : NULL;
    if (a) tci_attempt_rejoin(core, a);
  }
  tci_list_left_over(core, plan);
  tci_plan_touch(core, plan);
}

void tci_core_forget(tci_core *core, uint64_t plan_key) {
  tci_plan *plan = tci_map_get(&core->plans_by_key, TCI_U64_KEY(&plan_key));
  if (!plan) return;
  size_t all = SIZE_MAX;
  core->loading = true; /* nothing wakes up */
  tci_plan_leave(core, plan);
  tci_plan_free(core, plan, &all);
  core->loading = false;
  empty_garbage(core);
}

/* ---- memory ---- */

tci_plan *tci_core_plan(const tci_core *core, tci_str plan_id) { return tci_map_get(&core->plans, plan_id); }
bool tci_core_has_plan(const tci_core *core, tci_str plan_id) { return tci_core_plan(core, plan_id) != NULL; }
void tci_core_set_next_plan_key(tci_core *core, uint64_t key) {
  if (key > core->next_plan_key) core->next_plan_key = key;
}
bool tci_core_has_runner(const tci_core *core, tci_str runner_id) {
  return tci_map_get(&core->runners, runner_id) != NULL;
}
size_t tci_core_open_calls(const tci_core *core) { return core->calls_open; }

void tci_plan_unidle(tci_core *core, tci_plan *plan) {
  tci_link_remove(&plan->idle);
  core->idle_len--;
  core->idle_bytes -= plan->idle_bytes;
}

void tci_plan_touch(tci_core *core, tci_plan *plan) {
  if (tci_link_in(&plan->idle)) tci_plan_unidle(core, plan);
  if (plan->live_attempts || plan->listed || !tci_list_empty(&plan->watchers)) return;
  tci_list_push(&core->idle, &plan->idle);
  core->idle_len++;
  plan->idle_bytes = plan->bytes + plan->arena.used_bytes;
  core->idle_bytes += plan->idle_bytes;
}

enum { EVICT_PLANS = 64, EVICT_PIECES = 10000 }; /* at once: some milliseconds */

static bool too_many_idle(const tci_core *core) {
  return core->idle_len > (size_t)core->limits.plans_in_memory_max ||
         (core->idle_bytes > (size_t)core->limits.plans_in_memory_bytes_max && core->idle_len > 1);
}

bool tci_core_evict(tci_core *core) {
  for (int n = 0; n < EVICT_PLANS && too_many_idle(core); n++)
    tci_plan_evict(core, tci_container(core->idle.next, tci_plan, idle));
  size_t most = EVICT_PIECES;
  while (most && core->leaving.len && tci_plan_free(core, core->leaving.items[core->leaving.len - 1], &most))
    core->leaving.len--;
  return core->leaving.len || too_many_idle(core);
}
