/* engine: the turn. Steps every event, appends all records in one commit, then lets the effects go.
 *
 * Invariants: nothing reaches the sink before the commit of the turn that caused it (commit, then speak); a commit that
 * fails drops every effect, answers the turn UNAVAILABLE and loads the model afresh (in doubt, discard); a lost store
 * (DATA_LOSS) stops the engine. Effects are encoded right after their step, while what they point to is whole.
 * Called by app/loop.c on the engine thread, and by engine/lua in the virtual world.
 */
#include "app/engine.h"

#include <stdio.h>
#include <string.h>

#include "app/loads.h"
#include "app/reads.h"
#include "app/recovery.h"
#include "app/streams.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/vec.h"

/* An effect, encoded, waiting for the commit. Everything it points to lives in the turn's arena. */
typedef struct {
  tci_effect_kind kind;
  uint64_t token;
  tci_status status;
  tci_str bytes;
  tci_str execution_id, address;
  tci_mode mode;
  int64_t timeout_us;
} parcel;

enum { OWN_POLICIES = 1 << 30, OWN_QUARANTINE = 1 << 29 }; /* apart from the numbers of held answers */

struct tci_engine {
  tci_engine_options options;
  tci_sink sink;
  tci_store *store;
  tci_policies *policies;
  tci_core *core;
  tci_streams *streams;
  tci_loads loads;
  tci_update update;
  int64_t started_us; /* wall */
  bool draining;
  bool more; /* the core has work left over, as it said in its last step: a turn need not have one */
  bool evicting;
  bool wake_failed;                  /* or is being tried */
  bool asleep;                       /* reloaded after a failed commit and not woken yet: only reads are served */
  int64_t wake_at_us, wake_after_us; /* monotonic; how long it sleeps */
  char asleep_why[512];
  tci_damaged_plans aside; /* left out by the last load; the core is told when it wakes */
  uint64_t told_damaged;   /* hash of the id of the damaged plan that was logged last: it is logged once in a row */
  bool behind;             /* asleep: the core holds an older set of policies, to be told when it wakes */
  /* Of the policy folders: a look is under way, another is wanted behind it, and is it patient (see app/policies.h)? */
  bool looking, look_wanted, look_patient;
  TCI_VEC(uint64_t) reloads; /* tokens of those who wait for the end of it */
  bool calls_died;           /* those of the last process; true until the turn that says so is committed */
  tci_arena
      held_arena; /* answers for the next turn: what could not be committed (the calls are over), or never called */
  TCI_VEC(tci_answer) held;
  tci_reads reads;
  tci_read *reading; /* the list of which a part is being stepped */
  /* of the turn */
  tci_arena arena;
  TCI_VEC(parcel) parcels;
  TCI_VEC(tci_store_record) records;
  tci_ids changed;           /* policies, by the look that ended in it */
  bool looked;               /* at the policy folders: once in a turn */
  bool may_put_off, put_off; /* events can be offered again; this one is to be */
  bool behind_time;          /* the next turn has events of this one to step, or a plan to load on */
  int64_t began_cpu_us;
  tci_buf scratch;
  tci_engine_counters counters;
};

/* ---- recovery ---- */

/* A fresh model from the journal. */
static tci_status load_all(tci_engine *e) {
  tci_core *core = tci_core_new(&e->options.limits, tci_policies_set(e->policies));
  tci_status status = tci_recovery_load_all(e->store, core, &e->options.quarantine, &e->aside, &e->arena);
  if (status.code != TCI_OK) {
    tci_core_free(core);
    return status;
  }
  if (e->draining) tci_core_hold(core);
  e->behind = false;
  e->core = core;
  return TCI_STATUS_OK;
}

/* ---- answers kept for the next turn ---- */

static tci_failure copied_failure(tci_arena *arena, tci_failure f) {
  f.message = tci_str_copy(arena, f.message);
  return f;
}

/* Keeps a runner's answer for later, whole. */
static void hold(tci_engine *e, const tci_answer *answer) {
  tci_arena *arena = &e->held_arena;
  tci_answer copy = *answer;
  copy.execution_id = tci_str_copy(arena, answer->execution_id);
  copy.message = tci_str_copy(arena, answer->message);
  copy.runner_execution_id = tci_str_copy(arena, answer->runner_execution_id);
  tci_completion *c = &copy.completion;
  c->failure = copied_failure(arena, c->failure);
  c->details = tci_str_copy(arena, c->details);
  c->updates = tci_arena_array(arena, tci_check_update, c->updates_len + 1);
  for (size_t i = 0; i < c->updates_len; i++) {
    tci_check_update u = answer->completion.updates[i];
    u.check_id = tci_str_copy(arena, u.check_id);
    u.data = tci_str_copy(arena, u.data);
    u.failure = copied_failure(arena, u.failure);
    c->updates[i] = u;
  }
  tci_vec_push(&e->held, copy);
}

/* ---- collecting what a step leaves behind ---- */

static tci_str kept(tci_engine *e, tci_str s) { return tci_str_copy(&e->arena, s); }

static parcel *parcel_add(tci_engine *e, tci_effect_kind kind, uint64_t token) {
  tci_vec_push(&e->parcels, ((parcel){.kind = kind, .token = token}));
  return &e->parcels.items[e->parcels.len - 1];
}

enum { COUNTERS = 18 };

static void fill_counters(const tci_engine *e, tci_counter out[COUNTERS]) {
  tci_engine_counters c = tci_engine_count(e);
  const tci_counter all[COUNTERS] = {
      {TCI_STR("commits"), c.commits},
      {TCI_STR("damaged_plan_reads"), c.damaged_reads},
      {TCI_STR("events"), c.events},
      {TCI_STR("journal_bytes"), c.journal_bytes},
      {TCI_STR("longest_turn_cpu_us"), c.longest_turn_cpu_us},
      {TCI_STR("longest_turn_us"), c.longest_turn_us},
      {TCI_STR("policy_asks"), c.policy_asks},
      {TCI_STR("policy_circuits_opened"), c.policy_circuits_opened},
      {TCI_STR("policy_faults"), c.policy_faults},
      {TCI_STR("policy_instructions"), c.policy_instructions},
      {TCI_STR("policy_reloads"), c.policy_reloads},
      {TCI_STR("quarantined_plans"), (int64_t)tci_core_set_aside_len(e->core)},
      {TCI_STR("records"), c.records},
      {TCI_STR("shadow_asks"), c.shadow_asks},
      {TCI_STR("shadow_differs"), c.shadow_differs},
      {TCI_STR("standstill_us"), c.standstill_us},
      {TCI_STR("turns"), c.turns},
      {TCI_STR("turns_over_budget"), c.turns_over_budget},
  };
  memcpy(out, all, sizeof all);
}

static void collect_reply(tci_engine *e, const tci_effect *effect) {
  if (e->reading && effect->token == e->reading->event.token) {
    tci_read_take(&e->reads, e->reading, &effect->reply);
    return;
  }
  parcel *p = parcel_add(e, TCI_EFFECT_REPLY, effect->token);
  if (effect->reply.status.code != TCI_OK) {
    p->status =
        (tci_status){effect->reply.status.code, tci_str_z(&e->arena, tci_str_from(effect->reply.status.message))};
    return;
  }
  tci_counter counters[COUNTERS];
  tci_server_facts facts = {.version = e->options.version,
                            .started_us = e->started_us,
                            .limits = &e->options.limits,
                            .counters = counters,
                            .counters_len = COUNTERS};
  if (effect->reply.kind == TCI_REPLY_SERVER_INFO) fill_counters(e, counters);
  if (effect->reply.kind == TCI_REPLY_POLICIES) {
    tci_policies_info(e->policies, e->core, &e->arena, &facts.policies, &facts.policies_len);
    facts.changed = e->changed;
  }
  tci_buf_clear(&e->scratch);
  tci_codec_reply(&effect->reply, &facts, &e->scratch);
  if (e->scratch.len > (size_t)e->options.limits.reply_bytes_max && effect->reply.command != TCI_COMMAND_WRITE_NODES) {
    p->status = (tci_status){
        TCI_RESOURCE_EXHAUSTED,
        tci_fmt(&e->arena, "the reply would be %zu bytes, over the limit reply_bytes_max (%lld); ask for less",
                e->scratch.len, (long long)e->options.limits.reply_bytes_max)};
    return;
  }
  p->bytes = kept(e, tci_buf_str(&e->scratch));
}

static void collect_dispatch(tci_engine *e, const tci_effect *effect) {
  const tci_attempt *a = effect->attempt;
  tci_str address;
  tci_status status = tci_address_resolve(effect->address, &e->options.allowed_addresses, &e->arena, &address);
  if (status.code != TCI_OK) { /* registered under another allow-list; it was checked at the door then */
    hold(e, &(tci_answer){
                .execution_id = a->execution_id, .code = TCI_UNAVAILABLE, .message = tci_str_from(status.message)});
    return;
  }
  tci_buf_clear(&e->scratch);
  tci_codec_run_request(a, tci_str_from(e->options.callback_address), &e->scratch);
  parcel *p = parcel_add(e, TCI_EFFECT_DISPATCH, 0);
  p->bytes = kept(e, tci_buf_str(&e->scratch));
  p->execution_id = kept(e, a->execution_id);
  p->address = kept(e, address);
  p->mode = a->mode;
  p->timeout_us = effect->timeout_us;
}

static void collect_effects(tci_engine *e, const tci_update *update) {
  for (size_t i = 0; i < update->effects.len; i++) {
    const tci_effect *effect = &update->effects.items[i];
    switch (effect->kind) {
      case TCI_EFFECT_REPLY: collect_reply(e, effect); break;
      case TCI_EFFECT_DISPATCH: collect_dispatch(e, effect); break;
      case TCI_EFFECT_WATCH: break; /* below */
      case TCI_EFFECT_CANCEL:
        parcel_add(e, TCI_EFFECT_CANCEL, 0)->execution_id = kept(e, effect->attempt->execution_id);
        break;
    }
  }
  tci_streams_collect(e->streams, e->core, update);
}

static void collect_records(tci_engine *e, const tci_update *update) {
  for (size_t i = 0; i < update->records.len; i++) {
    const tci_record *r = &update->records.items[i];
    tci_vec_push(&e->records,
                 ((tci_store_record){r->plan_key, r->sequence, kept(e, r->bytes), kept(e, r->plan_id), r->settled}));
  }
}

/* ---- what happened to policies, for people ---- */

static void log_note(tci_engine *e, const tci_note *n) {
  static const char *const events[] = {"policy_fault", "policy_circuit_open", "policy_circuit_closed", "policy_live",
                                       "policy_gone",  "shadow_differs",      "policy_unasked"};
  tci_log_level level = n->kind == TCI_NOTE_UNASKED ? TCI_LOG_DEBUG : TCI_LOG_INFO;
  if (n->kind == TCI_NOTE_CIRCUIT_OPEN || n->kind == TCI_NOTE_CIRCUIT_CLOSED || n->kind == TCI_NOTE_GONE)
    level = TCI_LOG_WARN;
  if (n->kind == TCI_NOTE_FAULT) /* a policy that fails, fails often: people are told once */
    level = tci_policies_first_fault(e->policies, n->policy, n->version, n->hook) ? TCI_LOG_WARN : TCI_LOG_DEBUG;
  tci_buf *line = &e->scratch;
  tci_buf_clear(line);
  tci_arena *arena = &e->arena;
  tci_buf_add(line,
              tci_str_from(tci_fmt(arena, "name=%.*s version=%.*s", TCI_STR_ARG(n->policy), TCI_STR_ARG(n->version))));
  if (n->kind == TCI_NOTE_FAULT || n->kind == TCI_NOTE_SHADOW || n->kind == TCI_NOTE_UNASKED)
    tci_buf_add(line, tci_str_from(tci_fmt(arena, " hook=%s", tci_hook_name(n->hook))));
  if (n->stage)
    tci_buf_add(line, tci_str_from(tci_fmt(arena, " plan=%.*s stage=%.*s", TCI_STR_ARG(n->stage->node.plan->id),
                                           TCI_STR_ARG(n->stage->node.id))));
  if (n->text.len) tci_buf_add(line, tci_str_from(tci_fmt(arena, " text=\"%.*s\"", TCI_STR_ARG(n->text))));
  tci_log(level, events[n->kind], "%.*s", (int)line->len, line->ptr);
}

static void collect_notes(tci_engine *e, const tci_update *update) {
  tci_engine_counters *c = &e->counters;
  c->policy_asks += update->policy.asks;
  c->policy_faults += update->policy.faults;
  c->policy_instructions += update->policy.instructions;
  c->shadow_asks += update->policy.shadow_asks;
  c->shadow_differs += update->policy.shadow_differs;
  for (size_t i = 0; i < update->notes.len; i++) {
    if (update->notes.items[i].kind == TCI_NOTE_CIRCUIT_OPEN) c->policy_circuits_opened++;
    if (!e->options.policies.quiet) log_note(e, &update->notes.items[i]);
  }
}

/* ---- the door: what is refused before the core sees it ---- */

static void refuse(tci_engine *e, uint64_t token, tci_status status) {
  parcel_add(e, TCI_EFFECT_REPLY, token)->status = status;
}

static bool may_pass(tci_engine *e, const tci_event *event) {
  if (event->kind != TCI_EVENT_COMMAND) return true;
  const tci_command *cmd = &event->command;
  bool starts_work = cmd->kind == TCI_COMMAND_CREATE_PLAN || cmd->kind == TCI_COMMAND_WRITE_NODES ||
                     cmd->kind == TCI_COMMAND_REGISTER_RUNNER || cmd->kind == TCI_COMMAND_UNREGISTER_RUNNER;
  bool reads = cmd->kind == TCI_COMMAND_GET_PLAN || cmd->kind == TCI_COMMAND_QUERY_NODES ||
               cmd->kind == TCI_COMMAND_WATCH_PLAN || cmd->kind == TCI_COMMAND_LIST_RUNNERS ||
               cmd->kind == TCI_COMMAND_GET_EXECUTION || cmd->kind == TCI_COMMAND_LIST_EXECUTIONS ||
               cmd->kind == TCI_COMMAND_GET_SERVER_INFO || cmd->kind == TCI_COMMAND_EXPLAIN_NODE ||
               cmd->kind == TCI_COMMAND_LIST_POLICIES || cmd->kind == TCI_COMMAND_RELOAD_POLICIES;
  if (e->asleep && !reads) {
    refuse(e, event->token,
           (tci_status){
               TCI_UNAVAILABLE,
               tci_fmt(&e->arena, "the store cannot commit (%s); reads go on; repeat in a second", e->asleep_why)});
    return false;
  }
  bool heartbeat =
      cmd->kind == TCI_COMMAND_REGISTER_RUNNER && tci_core_has_runner(e->core, cmd->register_runner.runner_id);
  if (e->draining && starts_work && !heartbeat) {
    refuse(e, event->token, (tci_status){TCI_UNAVAILABLE, "the server is stopping; repeat when it is back"});
    return false;
  }
  if (cmd->kind != TCI_COMMAND_REGISTER_RUNNER || !cmd->register_runner.address.len) return true;
  tci_str address;
  tci_status status =
      tci_address_resolve(cmd->register_runner.address, &e->options.allowed_addresses, &e->arena, &address);
  if (status.code == TCI_OK) return true;
  refuse(e, event->token, status);
  return false;
}

/* Plans with nothing under way leave memory; a command that names one brings it back, at once or, when it is large and the command
 * can wait (put_off), over turns. */
static tci_status load_missing(tci_engine *e, const tci_event *event) {
  if (event->kind != TCI_EVENT_COMMAND || !event->command.plan_id.len) return TCI_STATUS_OK;
  tci_str id = event->command.plan_id;
  if (!e->may_put_off) tci_loads_abandon(&e->loads, e->core, id);
  bool gave_up = tci_loads_gave_up(&e->loads, id); /* loaded at once it says why */
  e->put_off = tci_loads_has(&e->loads, id);
  if (e->put_off || tci_core_has_plan(e->core, id)) return TCI_STATUS_OK;
  uint64_t key;
  TCI_TRY(tci_store_find(e->store, id, &key));
  if (!key || tci_core_is_set_aside(e->core, key)) return TCI_STATUS_OK;
  if (!e->may_put_off || gave_up) return tci_recovery_load_plan(e->store, e->core, key, &e->arena);
  e->put_off = tci_loads_begin(&e->loads, e->store, e->core, id, key);
  return TCI_STATUS_OK;
}

/* An event of our own, with randomness of its own. */
static tci_event own_event(tci_event_kind kind, const tci_event *like, size_t n) {
  tci_event event = {.kind = kind, .now = like->now};
  uint8_t key[32];
  memcpy(key, like->random, sizeof key);
  for (size_t i = 0; i < sizeof n; i++) key[i] ^= (uint8_t)((n + 1) >> (8 * i));
  tci_rng rng;
  tci_rng_init(&rng, key);
  tci_rng_bytes(&rng, event.random, sizeof event.random);
  return event;
}

/* A plan that cannot be read, now or ever: the command is answered, and the engine goes on for all others. A store that is
 * lost stops it. */
static tci_status unreadable(tci_engine *e, const tci_event *event, tci_status status) {
  if (tci_store_is_lost(e->store)) return status;
  bool damaged = status.code == TCI_DATA_LOSS;
  const char *text = tci_str_z(&e->arena, tci_str_from(status.message));
  refuse(e, event->token, (tci_status){damaged ? TCI_DATA_LOSS : TCI_UNAVAILABLE, text});
  if (!damaged) return TCI_STATUS_OK;
  e->counters.damaged_reads++;
  uint64_t name = tci_siphash(1, 1, event->command.plan_id);
  if (name != e->told_damaged) tci_log(TCI_LOG_ERROR, "plan_damaged", "error=\"%s\"", text);
  e->told_damaged = name;
  return TCI_STATUS_OK;
}

static tci_status step_core(tci_engine *e, const tci_event *event);
static void step_loaded(tci_engine *e, const tci_event *event);

/* The core hears of the present set; what changed is journaled like everything else. */
static tci_status tell_policies(tci_engine *e, const tci_event *like) {
  tci_event event = own_event(TCI_EVENT_POLICIES, like, OWN_POLICIES);
  event.policies = tci_policies_set(e->policies);
  e->behind = false;
  e->counters.events++;
  return step_core(e, &event);
}

static tci_status answer_reloads(tci_engine *e, const tci_event *like) {
  for (size_t i = 0; i < e->reloads.len; i++) {
    tci_event event = own_event(TCI_EVENT_COMMAND, like, OWN_POLICIES + 1 + i);
    event.token = e->reloads.items[i];
    event.command.kind = TCI_COMMAND_RELOAD_POLICIES;
    TCI_TRY(step_core(e, &event));
  }
  e->reloads.len = 0;
  return TCI_STATUS_OK;
}

static void want_look(tci_engine *e, bool patient) {
  e->look_patient = patient && (e->look_patient || !e->look_wanted);
  e->look_wanted = true;
}

/* A look at the policy folders goes on, once in a turn. A core that is asleep is told of its end when it wakes: it cannot
 * write anything down before. */
static tci_status look_at_policies(tci_engine *e, const tci_event *like) {
  if (e->looked || !(e->looking || e->look_wanted)) return TCI_STATUS_OK;
  e->looked = true;
  if (!e->looking) e->look_wanted = false;
  int64_t cpu_us;
  tci_look look = tci_policies_look(e->policies, e->look_patient, like->now.mono_us, &e->changed, &cpu_us);
  tci_core_spend_cpu(e->core, cpu_us);
  e->looking = look == TCI_LOOK_GOES_ON;
  if (look == TCI_LOOK_DIFFERS) {
    e->counters.policy_reloads++;
    e->behind = e->asleep;
    if (!e->asleep) TCI_TRY(tell_policies(e, like));
  }
  return e->looking || e->look_wanted ? TCI_STATUS_OK : answer_reloads(e, like);
}

static bool is_command(const tci_event *event, tci_command_kind kind) {
  return event->kind == TCI_EVENT_COMMAND && event->command.kind == kind;
}

/* ---- the time of a turn ---- */

static int64_t turn_cpu_us(const tci_engine *e) {
  return e->options.cpu_us ? e->options.cpu_us() - e->began_cpu_us : 0;
}

/* Half of the time is for stepping events; the other half for the last one of them, the commit, and what goes out. */
static bool is_spent(const tci_engine *e) {
  return e->may_put_off && turn_cpu_us(e) >= e->options.limits.turn_cpu_ms_max * 1000 / 2;
}

/* ---- long reads ---- */

/* Reads on, as far as this turn may. Another COMMAND event is stepped for each part; the first may be the client's own. */
static tci_status read_on(tci_engine *e, tci_read *read, tci_time now) {
  do {
    read->event.now = now;
    bool may_put_off = e->may_put_off;
    e->may_put_off = false; /* a plan that left memory while it was read is loaded at once */
    tci_status loaded = load_missing(e, &read->event);
    e->may_put_off = may_put_off;
    if (loaded.code != TCI_OK) { /* it went to make room, and does not come back */
      read->done = true;
      tci_reads_put(&e->reads, read);
      return unreadable(e, &read->event, loaded);
    }
    e->reading = read;
    step_loaded(e, &read->event);
    e->reading = NULL;
  } while (!read->done && e->reads.left > 0 && !is_spent(e));
  if (read->done) {
    parcel *p = parcel_add(e, TCI_EFFECT_REPLY, read->event.token);
    p->status = read->status;
    if (read->status.code == TCI_OK) p->bytes = tci_buf_str(&read->bytes);
  }
  tci_reads_put(&e->reads, read);
  return TCI_STATUS_OK;
}

static tci_status start_read(tci_engine *e, const tci_event *event) {
  if (e->reads.waiting.len >= (size_t)e->options.limits.queue_requests_max) {
    refuse(e, event->token,
           (tci_status){TCI_RESOURCE_EXHAUSTED,
                        "too many requests wait for the engine (limit queue_requests_max); try again"});
    return TCI_STATUS_OK;
  }
  if (e->reads.waiting_bytes >= (size_t)e->options.limits.reads_waiting_bytes_max) {
    refuse(
        e, event->token,
        (tci_status){TCI_RESOURCE_EXHAUSTED,
                     "too many long lists are asked for (limit reads_waiting_bytes_max); try again, with page_size"});
    return TCI_STATUS_OK;
  }
  tci_read *read = tci_read_new(&e->reads, event);
  if (e->reads.left > 0) return read_on(e, read, event->now);
  tci_reads_put(&e->reads, read);
  return TCI_STATUS_OK;
}

/* At the end of a turn: those who did not get all they asked for. */
static tci_status go_on_reading(tci_engine *e, tci_time now) {
  bool first = true; /* one part is read, come what may */
  for (tci_read *read; (first || !is_spent(e)) && (read = tci_reads_next(&e->reads)); first = false)
    TCI_TRY(read_on(e, read, now));
  if (e->reads.waiting.len) e->more = true;
  return TCI_STATUS_OK;
}

/* Nobody gets to hear the rest. */
static void end_reads(tci_engine *e, tci_status why) {
  for (size_t i = 0; i < e->reads.waiting.len; i++)
    e->sink.reply(e->sink.ctx, e->reads.waiting.items[i]->event.token, why, (tci_str){0});
  tci_reads_free(&e->reads);
}

/* ---- a step ---- */

static void step_loaded(tci_engine *e, const tci_event *event) {
  tci_core_step(e->core, event, &e->update);
  collect_records(e, &e->update);
  collect_notes(e, &e->update);
  if (event->kind == TCI_EVENT_UNWATCH) tci_streams_close(e->streams, event->token);
  if (is_command(event, TCI_COMMAND_WATCH_PLAN) && tci_core_watch_state(e->core, event->token) != TCI_WATCH_NONE)
    tci_streams_open(e->streams, e->core, event->token);
  collect_effects(e, &e->update);
  e->more = e->update.more;
}

static tci_status step(tci_engine *e, const tci_event *event) {
  e->counters.events++;
  if (e->asleep && event->kind == TCI_EVENT_ANSWER) {
    hold(e, &event->answer);
    return TCI_STATUS_OK;
  }
  bool files_changed = event->kind == TCI_EVENT_POLICIES && !event->policies;
  bool reload = is_command(event, TCI_COMMAND_RELOAD_POLICIES);
  if (reload) tci_vec_push(&e->reloads, event->token);
  if (files_changed || reload) {
    want_look(e, files_changed);
    return look_at_policies(e, event);
  }
  return may_pass(e, event) ? step_core(e, event) : TCI_STATUS_OK;
}

static tci_status step_core(tci_engine *e, const tci_event *event) {
  tci_status loaded = load_missing(e, event);
  if (loaded.code != TCI_OK) return unreadable(e, event, loaded);
  if (e->put_off) return TCI_STATUS_OK;
  if (tci_is_read(event)) return start_read(e, event);
  step_loaded(e, event);
  return TCI_STATUS_OK;
}

/* ---- commit, then speak ---- */

static void release(tci_engine *e) {
  for (size_t i = 0; i < e->parcels.len; i++) {
    const parcel *p = &e->parcels.items[i];
    switch (p->kind) {
      case TCI_EFFECT_REPLY: e->sink.reply(e->sink.ctx, p->token, p->status, p->bytes); break;
      case TCI_EFFECT_DISPATCH:
        e->sink.dispatch(e->sink.ctx, p->execution_id, p->mode, p->address,
                         p->mode == TCI_MODE_SYNC ? "/turboci.v1.StageRunner/Run" : "/turboci.v1.StageRunner/RunAsync",
                         p->bytes, p->timeout_us);
        break;
      case TCI_EFFECT_CANCEL: e->sink.cancel(e->sink.ctx, p->execution_id); break;
      case TCI_EFFECT_WATCH: break;
    }
  }
  tci_streams_release(e->streams, e->core);
}

static void forget_turn(tci_engine *e) {
  tci_arena_reset(&e->arena);
  e->changed = (tci_ids){NULL, 0};
  e->parcels.len = e->records.len = 0;
  tci_reads_forget_turn(&e->reads);
}

/* Each time that waking fails it sleeps longer: what is tried again costs a reload of everything. */
static void sleep_on(tci_engine *e, tci_time now) {
  int64_t longer = e->wake_failed ? 2 * e->wake_after_us : TCI_ENGINE_WAKE_US_MIN;
  e->wake_after_us = longer < TCI_ENGINE_WAKE_US_MAX ? longer : TCI_ENGINE_WAKE_US_MAX;
  e->wake_at_us = now.mono_us + e->wake_after_us;
  e->asleep = true;
}

/* The commit failed: nothing of this turn happened, as far as anybody may know. */
static tci_status start_over(tci_engine *e, tci_status why, tci_time now) {
  tci_log(TCI_LOG_ERROR, "commit_failed", "code=%s error=\"%s\"", tci_code_name(why.code), why.message);
  tci_status unknown = {
      TCI_UNAVAILABLE,
      tci_fmt(&e->arena, "the store could not commit (%s); the outcome is unknown: read, then repeat", why.message)};
  for (size_t i = 0; i < e->parcels.len; i++)
    if (e->parcels.items[i].kind == TCI_EFFECT_REPLY)
      e->sink.reply(e->sink.ctx, e->parcels.items[i].token, unknown, (tci_str){0});
  end_reads(e, unknown);
  tci_streams_forget(e->streams);
  tci_streams_close_all(e->streams);
  e->sink.watch_end(e->sink.ctx, 0, unknown, false); /* token 0: every stream */
  snprintf(e->asleep_why, sizeof e->asleep_why, "%s", why.message);
  tci_loads_forget(&e->loads);
  tci_core_free(e->core);
  e->core = NULL;
  TCI_TRY(load_all(e));
  sleep_on(e, now);
  e->more = false;
  return TCI_STATUS_OK;
}

static tci_status finish_turn(tci_engine *e, const tci_event *events, size_t len) {
  tci_status status = TCI_STATUS_OK;
  if (e->records.len) {
    status = tci_store_append(e->store, e->records.items, e->records.len);
    if (status.code == TCI_OK) e->counters.commits++;
  }
  if (status.code == TCI_DATA_LOSS) return status;
  if (status.code == TCI_OK) {
    release(e);
    e->calls_died = e->calls_died && e->asleep;
  } else {
    status = start_over(e, status, events[0].now);
    for (size_t i = 0; i < len; i++)
      if (events[i].kind == TCI_EVENT_ANSWER) hold(e, &events[i].answer);
  }
  if (status.code == TCI_OK) forget_turn(e); /* else its text is there, for who ends the process */
  return status;
}

/* The first steps of a model that was loaded: it is told of plans that were left out, then that it runs. */
static tci_status step_awake(tci_engine *e, const tci_event *awake) {
  for (size_t i = 0; i < e->aside.len; i++) {
    const tci_damaged_plan *plan = &e->aside.items[i];
    tci_event event = own_event(TCI_EVENT_QUARANTINE, awake, OWN_QUARANTINE + i);
    event.quarantine = (tci_quarantine){plan->key, plan->id, plan->reason, tci_buf_str(&plan->keys)};
    TCI_TRY(step(e, &event));
  }
  return step(e, awake);
}

/* A model that sleeps wakes when the store may take what that changes. It is not thrown away for asking. */
static bool may_wake(tci_engine *e, tci_time now) {
  if (now.mono_us < e->wake_at_us) return false;
  tci_status ready = tci_store_ready(e->store);
  if (ready.code == TCI_OK || tci_store_is_lost(e->store)) return true;
  snprintf(e->asleep_why, sizeof e->asleep_why, "%s", ready.message);
  e->wake_at_us = now.mono_us + TCI_ENGINE_WAKE_US_MIN;
  return false;
}

/* What was held is stepped in a turn of its own, and forgotten only when that is committed. After a failed commit the fresh
 * model sleeps until its waking can be committed; reads are served meanwhile. */
static tci_status catch_up(tci_engine *e, const tci_event *like) {
  e->wake_failed = e->asleep; /* until it is known better */
  if (e->asleep) {
    e->asleep = false;
    tci_event awake = own_event(e->calls_died ? TCI_EVENT_RESTARTED : TCI_EVENT_RELOADED, like, 0);
    TCI_TRY(step_awake(e, &awake));
    if (e->behind) TCI_TRY(tell_policies(e, like));
  }
  size_t held = 0;
  for (; held < e->held.len && (held == 0 || !is_spent(e)); held++) {
    tci_event event = own_event(TCI_EVENT_ANSWER, like, held + 1);
    event.answer = e->held.items[held];
    TCI_TRY(step(e, &event));
  }
  TCI_TRY(finish_turn(e, like, 0));
  if (e->asleep) return TCI_STATUS_OK;
  e->wake_failed = false;
  e->held.len -= held;
  if (e->held.len) memmove(e->held.items, e->held.items + held, e->held.len * sizeof *e->held.items);
  if (e->held.len == 0) tci_arena_reset(&e->held_arena);
  return TCI_STATUS_OK;
}

/* The end of a watch whose beginning waits still. */
static bool is_behind_its_watch(const tci_event *events, size_t i, const bool *later) {
  if (events[i].kind != TCI_EVENT_UNWATCH) return false;
  for (size_t j = 0; j < i; j++)
    if (later[j] && events[j].token == events[i].token) return true;
  return false;
}

static tci_status step_some(tci_engine *e, const tci_event *events, size_t len, bool *later, size_t *looked_at) {
  bool waits = false;
  size_t i = 0;
  for (; i < len && (i == 0 || !is_spent(e)); i++) {
    later[i] = waits && is_behind_its_watch(events, i, later);
    if (later[i]) continue;
    e->put_off = false;
    TCI_TRY(step(e, &events[i]));
    later[i] = e->put_off;
    waits |= e->put_off;
    e->put_off = false;
  }
  *looked_at = i;
  for (; i < len; i++) later[i] = true;
  e->behind_time |= waits || *looked_at < len;
  return TCI_STATUS_OK;
}

tci_status tci_engine_turn(tci_engine *e, const tci_event *events, size_t len) {
  size_t looked_at;
  return tci_engine_turn_some(e, events, len, NULL, &looked_at);
}

tci_status tci_engine_turn_some(tci_engine *e, const tci_event *events, size_t len, bool *later, size_t *looked_at) {
  *looked_at = len;
  if (len == 0) return TCI_STATUS_OK;
  e->may_put_off = later != NULL;
  e->began_cpu_us = e->options.cpu_us ? e->options.cpu_us() : 0;
  e->counters.turns++;
  e->looked = false;
  tci_core_begin_turn(e->core);
  tci_reads_begin_turn(&e->reads);
  if (e->asleep ? may_wake(e, events[0].now) : e->held.len > 0) TCI_TRY(catch_up(e, &events[0]));
  if (events[0].now.mono_us >= tci_policies_due_us(e->policies)) want_look(e, true);
  TCI_TRY(look_at_policies(e, &events[0]));
  e->behind_time = tci_loads_work(&e->loads, e->store, e->core);
  if (later)
    TCI_TRY(step_some(e, events, len, later, looked_at));
  else
    for (size_t i = 0; i < len; i++)
      TCI_TRY(events[i].kind == TCI_EVENT_RESTARTED ? step_awake(e, &events[i]) : step(e, &events[i]));
  TCI_TRY(go_on_reading(e, events[0].now));
  TCI_TRY(finish_turn(e, events, *looked_at));
  tci_streams_work(e->streams, e->core); /* model and journal agree now */
  if (!e->behind) tci_policies_forget(e->policies);
  e->evicting = tci_core_evict(e->core);
  return TCI_STATUS_OK;
}

/* ---- life ---- */

tci_status tci_engine_open(const tci_engine_options *options, const tci_sink *sink, tci_time now, tci_engine **out,
                           char *message, size_t size) {
  *out = NULL;
  tci_engine *e = tci_calloc(1, sizeof *e);
  e->options = *options;
  e->sink = *sink;
  e->started_us = now.wall_us;
  e->reads.limits = &e->options.limits;
  e->options.policies.limits = options->limits;
  tci_status status = tci_policies_open(&e->options.policies, &e->policies, message, size);
  if (status.code == TCI_OK) status = tci_store_open(&options->store, &e->store, message, size);
  if (status.code == TCI_OK) {
    e->streams = tci_streams_new(&e->options.limits, &e->sink, e->store);
    status = load_all(e);
    if (status.code != TCI_OK) snprintf(message, size, "%s: %s", options->store.path, status.message);
  }
  if (status.code != TCI_OK) {
    tci_engine_close(e);
    return (tci_status){status.code, message};
  }
  *out = e;
  return TCI_STATUS_OK;
}

tci_status tci_engine_start(tci_engine *e, tci_time now, const uint8_t random[32]) {
  tci_event event = {.kind = TCI_EVENT_RESTARTED, .now = now};
  memcpy(event.random, random, sizeof event.random);
  e->calls_died = true;
  return tci_engine_turn(e, &event, 1);
}

void tci_engine_close(tci_engine *e) {
  if (!e) return;
  tci_damaged_plans_free(&e->aside);
  end_reads(e, (tci_status){TCI_UNAVAILABLE, "the server is stopping; repeat when it is back"});
  tci_arena_deinit(&e->held_arena);
  tci_vec_free(&e->held);
  tci_loads_forget(&e->loads);
  tci_streams_free(e->streams);
  tci_core_free(e->core);
  tci_policies_close(e->policies);
  tci_store_close(e->store);
  tci_update_deinit(&e->update);
  tci_arena_deinit(&e->arena);
  tci_vec_free(&e->parcels);
  tci_vec_free(&e->records);
  tci_vec_free(&e->reloads);
  tci_buf_deinit(&e->scratch);
  free(e);
}

void tci_engine_set_callback_address(tci_engine *e, const char *address) { e->options.callback_address = address; }

int64_t tci_engine_next_due_us(const tci_engine *e) {
  bool looks = e->looking || e->look_wanted;
  if (e->behind_time || (!e->asleep && (e->more || e->evicting || e->held.len))) return 0;
  if (looks || tci_streams_is_due(e->streams)) return 0;
  int64_t due = tci_core_next_due_us(e->core), look_due = tci_policies_due_us(e->policies);
  if (look_due < due) due = look_due;
  return e->asleep && e->wake_at_us < due ? e->wake_at_us : due;
}

void tci_engine_stream_ready(tci_engine *e, uint64_t token) { tci_streams_ready(e->streams, e->core, token); }

void tci_engine_drain(tci_engine *e) {
  e->draining = true;
  tci_core_hold(e->core);
}

size_t tci_engine_open_calls(const tci_engine *e) { return tci_core_open_calls(e->core); }
const tci_core *tci_engine_core(const tci_engine *e) { return e->core; }

tci_engine_counters tci_engine_count(const tci_engine *e) {
  tci_engine_counters c = e->counters;
  tci_store_counters s = tci_store_count(e->store);
  c.records = s.records;
  c.journal_bytes = s.journal_bytes;
  return c;
}

void tci_engine_note_standstill(tci_engine *e, int64_t us) { e->counters.standstill_us += us; }

void tci_engine_note_turn(tci_engine *e, int64_t turn_us, int64_t cpu_us) {
  if (turn_us > e->counters.longest_turn_us) e->counters.longest_turn_us = turn_us;
  bool over = cpu_us > e->options.limits.turn_cpu_ms_max * 1000, longest = cpu_us > e->counters.longest_turn_cpu_us;
  if (over) e->counters.turns_over_budget++;
  if (over && longest) /* the worst one so far */
    tci_log(TCI_LOG_WARN, "turn_over_budget", "cpu_ms=%lld ms=%lld limit=turn_cpu_ms_max", (long long)(cpu_us / 1000),
            (long long)(turn_us / 1000));
  if (longest) e->counters.longest_turn_cpu_us = cpu_us;
}
