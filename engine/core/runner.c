/* runner: registrations: heartbeat, expiry, the list.
 *
 * Invariants: one runner per runner_id; its registration_id never changes while it lives; nobody expires by the wall clock;
 * a runner's load is the length of its list of live executions.
 */
#include "core/internal.h"

bool tci_runner_is_passed_over(const tci_core *core, const tci_runner *r) {
  return r->passed_over_until_us > core->now.mono_us;
}

/* Its next moment: the end of being passed over, or its expiry. After a load every runner has its full ttl. */
void tci_runner_arm(tci_core *core, tci_runner *r) {
  if (core->loading) return;
  if (!r->passed_over_until_us) { /* a heartbeat */
    r->expires_mono_us = core->now.mono_us + r->ttl_ms * 1000;
    r->expires_us = core->now.wall_us + r->ttl_ms * 1000;
    tci_pool_wake(core, r->pool);
  }
  int64_t due = r->expires_mono_us;
  if (tci_runner_is_passed_over(core, r) && r->passed_over_until_us < due) due = r->passed_over_until_us;
  r->timer.kind = TCI_TIMER_RUNNER;
  tci_heap_set(&core->timers, &r->timer, due);
}

void tci_runner_heard(tci_core *core, tci_runner *r, int64_t wall_us) {
  r->heartbeat_us = wall_us;
  r->expires_us = wall_us + r->ttl_ms * 1000;
  r->passed_over_until_us = 0;
  r->revision = ++core->revisions;
  tci_runner_arm(core, r);
}

/* When it was last heard of goes on record here: its heartbeats were not. */
static void emit_gone(tci_core *core, const tci_runner *r) {
  tci_emit(
      core, NULL,
      &(tci_change){
          .type = TCI_CHANGE_RUNNER_GONE, .registration_id = r->registration_id, .at_us = (uint64_t)r->heartbeat_us});
}

/* Its work is lost with it. A call that is open says nothing of it: one that is frozen, or cut off without a word, keeps it open. */
static void lose(tci_core *core, tci_runner *r) {
  /* Collected first: failing an attempt takes it out of the list. */
  size_t len = 0, n = 0;
  for (tci_link *l = r->live.next; l != &r->live; l = l->next) len++;
  tci_attempt **lost = tci_arena_array(&core->update->arena, tci_attempt *, len + 1);
  for (tci_link *l = r->live.next; l != &r->live; l = l->next) lost[n++] = tci_container(l, tci_attempt, live);
  const char *text =
      tci_fmt(&core->update->arena, "the registration of runner '%.*s' expired", TCI_STR_ARG(r->runner_id));
  emit_gone(core, r);
  for (size_t i = 0; i < n; i++) tci_attempt_abort(core, lost[i], TCI_FAILURE_RUNNER_LOST, tci_str_from(text));
}

void tci_runner_timer(tci_core *core, tci_runner *r) {
  if (core->heard_us >= r->expires_mono_us) {
    lose(core, r);
    return;
  }
  tci_pool_wake(core, r->pool);
  tci_heap_set(&core->timers, &r->timer, r->expires_mono_us);
}

/* A heartbeat and nothing more: it is not on record, since a restart gives everybody a full ttl anyway. One that ends a passing
 * over is: whoever studies the history sees when the runner was back. */
static bool says_nothing_new(const tci_runner *r, const tci_change *c, tci_buf *scratch) {
  unsigned modes = 0;
  for (unsigned mode = 0; mode < TCI_MODES; mode++) modes |= (unsigned)r->modes[mode] << mode;
  if (r->passed_over_until_us || modes != c->mode || r->max_concurrent != (int64_t)c->max_concurrent ||
      r->ttl_ms != (int64_t)c->ttl_ms || !tci_str_eq(r->runner_type, c->kind) || !tci_str_eq(r->address, c->address))
    return false;
  tci_buf_clear(scratch);
  tci_pairs_encode(r->metadata, scratch);
  return tci_str_eq(tci_buf_str(scratch), c->metadata);
}

void tci_on_register_runner(tci_core *core, const tci_event *event) {
  const tci_command *cmd = &event->command;
  const struct {
    const char *name;
    tci_str value;
  } required[] = {{"runner_id", cmd->register_runner.runner_id},
                  {"runner_type", cmd->register_runner.runner_type},
                  {"address", cmd->register_runner.address}};
  for (size_t i = 0; i < 3; i++) {
    if (required[i].value.len) continue;
    tci_refuse(core, event, TCI_INVALID_ARGUMENT, "RegisterStageRunnerRequest.%s is empty; it is required",
               required[i].name);
    return;
  }
  int64_t ttl_ms = cmd->register_runner.ttl_ms ? cmd->register_runner.ttl_ms : core->limits.runner_ttl_ms;
  if (ttl_ms > core->limits.runner_ttl_ms_max) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT,
               "RegisterStageRunnerRequest.ttl_seconds: %lld s is over the limit runner_ttl_ms_max (%lld ms)",
               (long long)(ttl_ms / 1000), (long long)core->limits.runner_ttl_ms_max);
    return;
  }
  tci_runner *r = tci_map_get(&core->runners, cmd->register_runner.runner_id);
  if (!r && core->runner_list.len >= (size_t)core->limits.runners_max) {
    tci_refuse(core, event, TCI_RESOURCE_EXHAUSTED, "%lld runners are registered already (limit runners_max)",
               (long long)core->limits.runners_max);
    return;
  }
  tci_change c = {.type = TCI_CHANGE_RUNNER,
                  .id = cmd->register_runner.runner_id,
                  .kind = cmd->register_runner.runner_type,
                  .address = cmd->register_runner.address,
                  .max_concurrent = (uint64_t)cmd->register_runner.max_concurrent,
                  .ttl_ms = (uint64_t)ttl_ms};
  for (unsigned mode = 1; mode < TCI_MODES; mode++)
    if (cmd->register_runner.modes[mode]) c.mode |= 1u << mode;
  if (!c.mode) c.mode = 1u << TCI_MODE_SYNC;
  char id[33];
  tci_rng_hex(&core->rng, 16, id);
  c.registration_id = r ? r->registration_id : tci_str_from(id);
  tci_buf metadata = {0};
  tci_pairs_encode(r && !cmd->register_runner.metadata.len ? r->metadata : cmd->register_runner.metadata, &metadata);
  c.metadata = tci_buf_str(&metadata);
  if (r && says_nothing_new(r, &c, &core->scratch))
    tci_runner_heard(core, r, core->now.wall_us);
  else
    tci_emit(core, NULL, &c);
  tci_buf_deinit(&metadata);
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_REGISTERED);
  reply->runners = tci_arena_array(&core->update->arena, const tci_runner *, 1);
  reply->runners[0] = tci_map_get(&core->runners, cmd->register_runner.runner_id);
  reply->runners_len = 1;
}

void tci_on_unregister_runner(tci_core *core, const tci_event *event) {
  tci_str id = event->command.registration_id;
  if (!id.len) {
    tci_refuse(core, event, TCI_INVALID_ARGUMENT,
               "UnregisterStageRunnerRequest.registration_id is empty; it is required");
    return;
  }
  tci_runner *r = tci_map_get(&core->registrations, id);
  if (!r) {
    tci_refuse(core, event, TCI_NOT_FOUND, "registration_id '%.*s' names no registered runner", TCI_STR_ARG(id));
    return;
  }
  emit_gone(core, r);
  tci_answer_ok(core, event, TCI_REPLY_STATUS);
}

void tci_on_list_runners(tci_core *core, const tci_event *event) {
  tci_reply *reply = tci_answer_ok(core, event, TCI_REPLY_RUNNERS);
  tci_str type = event->command.runner_type;
  reply->runners = tci_arena_array(&core->update->arena, const tci_runner *, core->runner_list.len + 1);
  for (size_t i = 0; i < core->runner_list.len; i++)
    if (!type.len || tci_str_eq(type, core->runner_list.items[i]->runner_type))
      reply->runners[reply->runners_len++] = core->runner_list.items[i];
}
