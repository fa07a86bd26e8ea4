/* core_fixture: the world around a core: events in a few words, a virtual clock, a journal, and a shadow core that sees
 * nothing but the journal: no policies either.
 *
 * After every step the invariants must hold and the shadow must equal the core in every stored field; a refused command
 * must have changed nothing. Used by the unit tests of engine/core and by the simulator.
 */
#ifndef TCI_TEST_CORE_FIXTURE_H
#define TCI_TEST_CORE_FIXTURE_H

#include "core/internal.h"

/* How a test fails: cmocka's way in the unit tests (fx_setup), the simulator's in the simulator. Must not return. */
extern void (*fx_on_failure)(const char *message);
_Noreturn void fx_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

typedef struct {
  uint64_t plan_key, sequence;
  char *bytes, *plan_id;
  size_t bytes_len, plan_id_len;
  bool settled;
} fx_stored;

enum { FX_STREAMS = 8 };

typedef struct fx {
  tci_core *core, *shadow;
  tci_limits limits;
  const tci_policy_set *policies; /* NULL: the built-in alone */
  tci_policy policy;              /* what fx_policy was given */
  const tci_policy *policy_list[1];
  tci_policy_set policy_set;
  tci_time now;
  uint64_t seed, steps;
  uint64_t compare_every; /* steps; 1: always */
  tci_update update;
  tci_arena arena; /* of the test */
  tci_str plan_id; /* what fx_write and its like are about */
  TCI_VEC(fx_stored) journal;
  tci_buf told;                /* dispatches and cancels since fx_told: "stage->runner cancel:stage " */
  tci_buf streams[FX_STREAMS]; /* watch events by token: "sequence:id OLD>NEW " */
  tci_buf dump, other, before;
  bool asleep;
  int64_t heard_us; /* up to which timers were judged: by the last TICK, or since the core came to life */
  bool same_turn;   /* the next step goes on with the turn of the one before; set for one step */
  uint64_t turns;   /* begun */
  /* NULL: tci_core_step. Else this takes the step: it fills `update` and sets `core`, in which plans may be missing. */
  void (*drive)(struct fx *f, const tci_event *event);
  void (*after_step)(struct fx *f, bool quiet, void *ctx); /* quiet: no timer was due, no work left over */
  void *ctx;
} fx;

/* ---- life ---- */

void fx_init(fx *f); /* limits and policies may be changed before the first step: fx_renew */
void fx_deinit(fx *f);
void fx_renew(fx *f); /* a fresh, empty core with f->limits and f->policies */
/* The same, where a policy "test" with these hooks (1u << tci_hook) is the server's. */
void fx_policy(fx *f, unsigned hooks, void (*ask)(void *, tci_hook, const tci_question *, tci_decision *));
/* A new core from the journal, as at a start (the runners, then plan by plan); must equal the old one, replaces it and is told
 * what happened: RESTARTED or RELOADED. */
void fx_restart(fx *f, tci_event_kind kind);
/* The same without telling: no timer runs and nobody is dispatched to, until the next RESTARTED or RELOADED. */
void fx_fall_asleep(fx *f);
tci_core *fx_replay(fx *f); /* only that core: free it */

/* ---- steps ---- */

void fx_step(fx *f, tci_event *event); /* fills now and random */
/* What fx_step does before and after the step itself, for who takes several at once. */
void fx_prepare(fx *f, tci_event *event);
void fx_finish(fx *f, bool quiet);
void fx_tick(fx *f);
void fx_drain(fx *f);                   /* ticks while work is left over */
void fx_advance(fx *f, int64_t ms);     /* as a real loop would: a tick at every due time on the way */
void fx_jump(fx *f, int64_t ms);        /* asleep all the time: one tick at the end */
void fx_keep_busy(fx *f, int64_t ms);   /* time passes and nothing is stepped; what is stepped next had waited */
void fx_stand_still(fx *f, int64_t ms); /* the process is stopped: only the wall clock goes on (core/event.h) */
const tci_reply *fx_command(fx *f, tci_command command); /* NULL: no reply (a stream) */
void fx_verify(fx *f);                                   /* invariants, shadow, and a replay from scratch */

/* ---- commands in a few words ---- */

/* Items apart by ';', words by spaces: "@c kind=lint; s runner=go checks=c after=@d+,t any=... opt=key:value".
 *   @id a check, id a stage; state=PLANNED kind= opt=key:value after=LIST (all) any=LIST (one) version=N
 *   LIST: [@]id[+|!] by commas: on FINAL, on success, on failure
 *   checks: result=type:id data=key:value finalize failure=text
 *   stages: checks=id[:STATE],... runner= mode=async priority= attempts= backoff= backoff_max= timeout= stale=
 *           attempt=STATE uid= details=key:value progress=text failure=text */
tci_command fx_parse_write(tci_arena *arena, tci_str plan_id, const char *text);
/* "FINAL @c @d!text @e=key:value @f?key:value failure=text details=key:value": the state (or -), then check updates: final, final and
 * failed, final with data, not final with data. The digest follows from the text. */
tci_completion fx_parse_completion(tci_arena *arena, const char *text);
tci_str fx_struct(tci_arena *arena, const char *key, const char *value);

tci_str fx_create(fx *f);                                                  /* and makes it f->plan_id */
const tci_reply *fx_write(fx *f, const char *text);                        /* must be OK */
void fx_refuses(fx *f, tci_code code, const char *part, const char *text); /* a write that must not be OK */
void fx_refuses_command(fx *f, tci_code code, const char *part, tci_command command);
/* modes: "sync", "async" or "both"; ttl 0: the default */
const tci_reply *fx_register(fx *f, const char *id, const char *type, const char *modes, int64_t max, int64_t ttl_ms);
void fx_unregister(fx *f, const char *id);
tci_command fx_register_command(const char *id, const char *type, const char *modes, int64_t max, int64_t ttl_ms);
void fx_watch(fx *f, uint64_t token, const char *words); /* checks stages current progress changes */
bool fx_watch_more(fx *f, uint64_t token, size_t looks); /* one piece of what is owed; false: that was all */
void fx_watch_all(fx *f, uint64_t token);
/* What the runner of the stage's latest attempt does: */
void fx_answers(fx *f, const char *stage, const char *completion); /* to Run */
void fx_rpc_fails(fx *f, const char *stage, tci_code code, const char *message);
void fx_accepts(fx *f, const char *stage, bool accepted);            /* RunAsync */
void fx_reports(fx *f, const char *stage, const char *message);      /* UpdateStageExecution, must be OK */
void fx_completes(fx *f, const char *stage, const char *completion); /* CompleteStageExecution, must be OK */
tci_command fx_complete_command(fx *f, tci_str execution_id, const char *completion);
tci_command fx_update_command(fx *f, tci_str execution_id, const char *message);

/* ---- looking ---- */

tci_plan *fx_plan(fx *f);
tci_check *fx_check(fx *f, const char *id);
tci_stage *fx_stage(fx *f, const char *id);
tci_attempt *fx_attempt(fx *f, const char *stage); /* the latest */
tci_runner *fx_runner(fx *f, const char *id);      /* NULL: gone */
tci_str fx_execution(fx *f, const char *stage);    /* id of the latest, in f->arena */
/* "@c": "FINAL/FAILED/RESULT_FAILED stage:s#!why" (results; # finalised, ! its failure);
 * "s": "ATTEMPTING 1:INCOMPLETE/FAILED!TIMEOUT 2:PENDING/PENDING" */
const char *fx_text(fx *f, const char *id);
void fx_is(fx *f, const char *id, const char *text);
void fx_told(fx *f, const char *text);                   /* dispatches and cancels since the last time */
void fx_stream(fx *f, uint64_t token, const char *text); /* what came since the last time */
void fx_contains(const char *text, const char *part);

/* Every stored field as text; with `rebuilt` the counters that follow from them, too. */
void fx_dump(const tci_core *core, bool rebuilt, tci_buf *out);
void fx_dump_node(const tci_node *node, bool rebuilt, tci_buf *out);
void fx_same(const tci_buf *a, const tci_buf *b, const char *what);

#endif
