/* shell: the real engine (app/engine.c: turns, commits, held answers, eviction, streams) under the simulator, in place of a bare
 * core. One step is one turn; storms.c takes turns of several steps.
 *
 * What the sink gets is turned into the effects that the oracle reads; what the store gets are the records of the step.
 */
#include "app/engine.h"
#include "turboci/v1/service.pb-c.h"
#include "world.h"

typedef struct {
  tci_engine *engine;
  tci_engine_options options;
  const tci_event *events; /* of the turn under way */
  size_t events_len;
  tci_str body;            /* of the last reply, in the update's arena */
  TCI_VEC(uint64_t) reads; /* tokens of lists that were asked for and are not answered yet: it may take some turns */
} shell;

static shell here;

/* ---- what comes out ---- */

static tci_effect *effect_add(sim *s, tci_effect_kind kind, uint64_t token) {
  tci_vec_push(&s->f.update.effects, ((tci_effect){.kind = kind, .token = token}));
  return &s->f.update.effects.items[s->f.update.effects.len - 1];
}

/* CreateWorkPlanResponse: the oracle wants to know the id, and the plan itself may leave memory before the turn is over. */
static const tci_plan *created_plan(sim *s, tci_str message) {
  Turboci__V1__CreateWorkPlanResponse *reply =
      turboci__v1__create_work_plan_response__unpack(NULL, message.len, (const uint8_t *)message.ptr);
  if (!reply || !reply->work_plan) fx_fail("oracle: a reply makes no sense");
  tci_plan *plan = tci_arena_new(&s->f.update.arena, tci_plan);
  plan->id = tci_str_copy(&s->f.update.arena, tci_str_from(reply->work_plan->id));
  turboci__v1__create_work_plan_response__free_unpacked(reply, NULL);
  return plan;
}

/* True when a list was asked for under this token, and nobody was told yet. */
static bool was_waiting(uint64_t token) {
  for (size_t i = 0; i < here.reads.len; i++) {
    if (here.reads.items[i] != token) continue;
    tci_vec_swap_remove(&here.reads, i);
    return true;
  }
  return false;
}

static void on_reply(void *ctx, uint64_t token, tci_status status, tci_str message) {
  sim *s = ctx;
  const tci_event *event = NULL;
  for (size_t i = 0; i < here.events_len; i++)
    if (here.events[i].kind == TCI_EVENT_COMMAND && here.events[i].token == token) event = &here.events[i];
  bool is_list = was_waiting(token);
  if (!event && !is_list) fx_fail("oracle: a reply to nobody");
  if (event && event->command.kind == TCI_COMMAND_QUERY_NODES && !is_list) fx_fail("oracle: a list is told twice");
  tci_effect *e = effect_add(s, TCI_EFFECT_REPLY, token);
  e->reply.command = event ? event->command.kind : TCI_COMMAND_QUERY_NODES;
  e->reply.status.code = status.code;
  e->reply.status.message = tci_str_z(&s->f.update.arena, tci_str_from(status.message));
  here.body = tci_str_copy(&s->f.update.arena, message);
  if (!event) return;
  if (status.code == TCI_OK && event->command.kind == TCI_COMMAND_CREATE_PLAN) e->reply.plan = created_plan(s, message);
  if (event->command.kind == TCI_COMMAND_WATCH_PLAN) stream_refused(s, token, status.code);
}

static void on_dispatch(void *ctx, tci_str id, tci_mode mode, tci_str address, const char *method, tci_str request,
                        int64_t timeout_us) {
  sim *s = ctx;
  tci_str plan_id;
  uint32_t stage, number;
  if (!tci_execution_id_parse(id, &plan_id, &stage, &number)) fx_fail("oracle: an execution's id makes no sense");
  const tci_plan *plan = tci_core_plan(tci_engine_core(here.engine), plan_id);
  if (!plan || stage >= plan->nodes.len) fx_fail("oracle: work of a plan that is not there is sent");
  const tci_stage *of = tci_node_stage(plan->nodes.items[stage]);
  if (number > of->attempts.len || !tci_str_eq(of->attempts.items[number - 1]->execution_id, id))
    fx_fail("oracle: work is sent that is not on record");
  if (!request.len || !address.len || !strstr(method, mode == TCI_MODE_SYNC ? "/Run" : "/RunAsync"))
    fx_fail("oracle: a call makes no sense");
  tci_effect *e = effect_add(s, TCI_EFFECT_DISPATCH, 0);
  e->attempt = of->attempts.items[number - 1];
  e->timeout_us = timeout_us;
}

static void on_cancel(void *ctx, tci_str id) { (void)ctx, (void)id; }
static bool on_watch(void *ctx, uint64_t token, uint64_t sequence, tci_str message) {
  return stream_hears(ctx, token, sequence, message);
}
static void on_watch_end(void *ctx, uint64_t token, tci_status status, bool at_once) {
  (void)status, (void)at_once;
  stream_ended(ctx, token);
}

void shell_committed(sim *s, const tci_store_record *r) {
  tci_arena *arena = &s->f.update.arena;
  tci_vec_push(&s->f.update.records, ((tci_record){r->plan_key, r->sequence, tci_str_copy(arena, r->bytes),
                                                   tci_str_copy(arena, r->plan_id), r->settled}));
  streams_log(s, r);
}

/* ---- turns ---- */

static void open_engine(sim *s) {
  const tci_sink sink = {s, on_reply, on_dispatch, on_cancel, on_watch, on_watch_end};
  char message[400];
  tci_status status = tci_engine_open(&here.options, &sink, s->f.now, &here.engine, message, sizeof message);
  if (status.code != TCI_OK) fx_fail("oracle: the engine does not open: %s", message);
  s->f.core = (tci_core *)tci_engine_core(here.engine);
}

static void begin(sim *s, const tci_event *events, size_t len) {
  tci_arena_reset(&s->f.update.arena);
  s->f.update.records.len = s->f.update.effects.len = s->f.update.notes.len = 0;
  here.events = events;
  here.events_len = len;
  for (size_t i = 0; i < len; i++)
    if (events[i].kind == TCI_EVENT_COMMAND && events[i].command.kind == TCI_COMMAND_QUERY_NODES)
      tci_vec_push(&here.reads, events[i].token);
}

static void end(sim *s, tci_status status) {
  here.events_len = 0;
  if (status.code != TCI_OK) fx_fail("oracle: the engine gave up: %s", status.message);
  s->f.core = (tci_core *)tci_engine_core(here.engine);
  s->f.update.more = tci_engine_next_due_us(here.engine) <= s->f.now.mono_us;
  s->f.asleep |= store_failed() > 0 || store_was_full();
}

static void drive(fx *f, const tci_event *event) {
  sim *s = f->ctx;
  begin(s, event, 1);
  if (event->kind == TCI_EVENT_RESTARTED)
    end(s, tci_engine_start(here.engine, event->now, event->random));
  else
    end(s, tci_engine_turn(here.engine, event, 1));
}

void shell_turn(sim *s, tci_event *events, size_t len) {
  for (size_t i = 0; i < len; i++) fx_prepare(&s->f, &events[i]);
  s->f.turns++;
  begin(s, events, len);
  end(s, tci_engine_turn(here.engine, events, len));
  s->several = true;
  fx_finish(&s->f, false);
  s->several = false;
}

void shell_stream_ready(sim *s, uint64_t token) {
  tci_engine_stream_ready(here.engine, token);
  s->f.update.more = tci_engine_next_due_us(here.engine) <= s->f.now.mono_us;
}

tci_str shell_body(void) { return here.body; }
size_t shell_waiting_reads(void) { return here.reads.len; }

void shell_drain(void) { tci_engine_drain(here.engine); }
int64_t shell_next_due_us(void) { return tci_engine_next_due_us(here.engine); }

/* ---- life ---- */

void shell_open(sim *s) {
  static tci_str allowed[] = {TCI_STR("loopback")};
  here.options = (tci_engine_options){.limits = s->f.limits,
                                      .store = {.path = ":memory:"},
                                      .callback_address = "127.0.0.1:1",
                                      .allowed_addresses = {allowed, 1},
                                      .version = "sim",
                                      .policies = {.quiet = true}};
  store_reset();
  tci_core_free(s->f.core);
  s->f.drive = drive;
  open_engine(s);
}

void shell_reopen(sim *s) {      /* a process ends, as by kill -9, and another one begins */
  tci_engine_close(here.engine); /* tells those who wait, if it is asked to; kill -9 would not */
  here.reads.len = 0;
  open_engine(s);
}

void shell_close(sim *s) {
  tci_engine_close(here.engine);
  here.engine = NULL;
  tci_vec_free(&here.reads);
  s->f.core = NULL;
  store_reset();
}
