/* world: what the simulator knows: what it wrote, was sent and was asked itself; and what its parts offer each other.
 *
 *     sim.c       seeds, over several processes          run.c        one seed: its steps, and the settling after them
 *     plans.c     plans, new nodes, other edges          writes.c     words to nodes that exist, one or several at once
 *     runners.c   registrations, answers, callbacks      payloads.c   texts as long as a limit allows
 *     accidents.c the clock, pauses, policies, restarts  storms.c     turns of several steps, failed commits, the drain
 *     questions.c what is asked and changes nothing      streams.c    watchers, and what they must hear
 *     policies.h  made-up policies                       mirrors.c    nodes as watchers know them
 *     oracle.c    what nodes and plans must be           asked.c      what policies were asked, who waits and why
 *     seen.c      what leaves the core, and when         shell.c      the real engine in place of a core
 *     store.c     its journal, in memory, that fails on demand
 */
#ifndef TCI_SIM_WORLD_H
#define TCI_SIM_WORLD_H

#include <stdio.h>
#include <string.h>

#include "core_fixture.h"
#include "store/store.h"
#include "policies.h"

enum { STREAMS = 6, LIST_TOKEN = 1000000 /* and above: of those who ask for lists */ };
enum { PLANS = 3, NODES = 40, DEPS = 5, CHECKS = 4, SAID = 12, TYPES = 3, TEXT = 8000 };
/* The last ones come when the faults stop: no policy excludes them. */
enum { RUNNERS = EXCLUDABLE + TYPES };

typedef struct {
  char id[16];
  bool is_check, any, pulled, async;
  int type;
  int deps[DEPS], conditions[DEPS], deps_len;
  int checks[CHECKS], checks_len;
  bool counts[CHECKS];
  int64_t joined[CHECKS]; /* results up to this one were there when it was assigned: none of them is its own */
  struct {
    char owner[8]; /* "me:" and this */
    bool final, failed;
  } said[SAID]; /* results that clients wrote into a check */
  int said_len;
  int64_t fat; /* bytes of the long text among its options; 0: none */
} sim_node;    /* as this program wrote it */

typedef struct { /* one change of the journal, as a watcher may hear of it */
  uint64_t sequence;
  int node; /* in order of creation; -1: the plan is complete */
  int old_state, new_state;
  int64_t version;
  bool busy, silent; /* for include_progress alone; for nobody */
  bool reported;     /* progress: what was told before it was on record is not told again */
} sim_change;

typedef struct {
  tci_str id, policy;
  sim_node nodes[NODES];
  int len;
  /* what was seen of each node after the last step */
  struct {
    bool final, just; /* just now */
    bool reports;     /* some of its progress is not on record yet: it changes, and its version does not */
    uint64_t hash;
    int64_t version;
    size_t attempts, ended;
    tci_retry retry;
  } seen[NODES];
  int64_t version;
  uint64_t watched;
  int touched;            /* steps that changed it since the last look */
  int settled, completed; /* times */
  bool was_settled;
  /* what was committed: streams.c */
  uint64_t sequence;
  TCI_VEC(sim_change) log;
  struct {
    char id[16];
    bool is_check;
    int state;
  } logged[NODES];
  int log_nodes;
  bool log_settled;
} sim_plan;

typedef struct { /* a node as a watcher knows it */
  void *node;    /* Turboci__V1__Check or …Stage; NULL: it does not */
  bool is_check;
  bool fresh; /* it heard of it since it was looked at */
} sim_mirror;

typedef struct {
  uint64_t token;
  int plan;
  bool open, checks, stages, progress, current;
  bool loose;         /* a snapshot with a filter by state: only what it is told is looked at, not what it is not */
  bool slow, blocked; /* its reader takes a while now and then; takes nothing now */
  bool lags; /* what does not move may be told once for several changes: it is slow, or was told very much at once */
  uint64_t turn, turn_bytes; /* what it was told in that turn */
  bool ahead;                /* it asked for what was yet to come */
  bool opening;              /* what was left over comes first, and then it is watched: it may hear of it or not */
  bool more;                 /* nodes are still to be shown as they are, it was told */
  char only[16];
  unsigned check_states, stage_states; /* a bit for each tenth; 0: all */
  uint64_t from;                       /* it is to hear what came behind */
  uint64_t after, last;                /* it resumed behind; of the last event */
  uint32_t heard;                      /* events */
  TCI_VEC(uint32_t) marks;             /* of the plan's log: which event told of it */
  TCI_VEC(uint64_t) sequences;         /* of its events */
  bool shown[NODES];                   /* as they are */
  bool mirrors_all;                    /* it is told of every change of the nodes that it is told of */
  sim_mirror mirrors[NODES];
} sim_stream;

typedef struct {
  tci_str id, stage;
  int plan;
  bool answered;               /* its call was, by whoever had it */
  bool async, calling, over;   /* the RPC is in flight; it ended before the last restart or by itself */
  int64_t sent_us, spoke_us;   /* its runner was heard of */
  bool survived_restart, left; /* left: its runner unregistered and may still finish it */
  bool gave_back;              /* its keys */
  int keys[KEYS];              /* held while it is live: 0 or 1 of each */
  char last[300];              /* the last completion it was given */
  char taken[300];             /* the one that was taken while it was live */
} sim_execution;

/* What was asked about an execution, and what the policies said. */
typedef struct {
  tci_str id;
  int epoch;        /* of the last restart it knows of */
  int64_t ready_us; /* monotonic */
  struct {
    uint64_t step;    /* when it was last asked; 0: never */
    uint64_t excused; /* when it was not, because the turn had no instructions left */
    uint64_t word;    /* how many words were said before */
    bool fault, wait;
  } said[TCI_HOOKS];
  uint64_t hold_step; /* when it was told to wait until hold_us */
  uint64_t seen_step;
  int64_t seen_us; /* monotonic; first, or since the restart */
  int64_t hold_us, queue_us, execution_ms, stale_ms, after_us, priority;
  int once[TCI_HOOKS]; /* the epoch in which it was asked this */
  int keys[KEYS_HELD], keys_len;
  int64_t limits[KEYS_HELD];
  char runner[4];
  bool again;
  unsigned excludes; /* from the next attempt: a bit for each runner */
} sim_asked;

typedef struct {
  const sim_policy *policy; /* NULL: not there */
  bool open;
  int row;
  int64_t until_us, until_wall_us;
  uint64_t changed, word; /* in this step, after that word */
} sim_circuit;

typedef struct {
  tci_policy_set set;
  const tci_policy *list[POLICIES];
  tci_pair types[TYPES];
} sim_set;

typedef struct {
  bool here;
  int64_t heard_us, ttl_us;
  int64_t before_us;   /* heard_us before a turn that may fail */
  tci_command command; /* it registered with */
} sim_runner;          /* "r0" ... */

/* What a step may do. */
typedef enum {
  CREATE,
  ADD,
  REWIRE,
  WRITE,
  COMBINE,
  REGISTER,
  UNREGISTER,
  SPEAK,
  REPEAT,
  CLOCK,
  PAUSE,
  RESTART,
  RELOAD,
  POLICY,
  ASK_WHY,
  QUERY,
  PAYLOAD,
  WATCH,
  STORM,
  DRAIN,
  ACTIONS
} sim_action;

typedef struct {
  uint64_t seed, rng, hash;
  int step, steps;
  fx f;
  sim_plan plans[PLANS];
  int plans_len;
  TCI_VEC(sim_execution *) executions;
  sim_runner runners[RUNNERS];
  unsigned weights[ACTIONS]; /* swarm: what this seed likes to do */
  bool shell;                /* this seed runs the engine, not a bare core */
  sim_stream streams[STREAMS];
  uint64_t tokens;
  bool several; /* steps were taken since the last look */
  bool draining;
  bool unregistering;
  bool was_quiet;       /* the last step: nothing happened in it but its event */
  bool scripted;        /* this seed has policies */
  bool heavy;           /* long texts, and readers that take long */
  int types;            /* of runners: the fewer, the longer the queues */
  bool steady;          /* runners stay */
  unsigned turn_shared; /* steps that still belong to this turn */
  sim_set *set;         /* NULL: none */
  sim_circuit circuits[POLICIES];
  tci_map asked; /* execution id -> sim_asked */
  int epoch;     /* restarts */
  int live[KEYS];
  /* What was said to wait in a step up to these is void: it may be asked again; it must have been. */
  uint64_t may_void, must_void;
  /* of the turn, of the step */
  uint64_t turn;
  int64_t spent, questions;
  size_t notes, faults;
  int opened, closed; /* circuits, not told yet */
  uint64_t words;
  char text[TEXT];
} sim;

extern sim world;

/* ---- sim.c ---- */
void die(const char *message); /* the seed failed; does not return */
uint64_t roll(sim *s, uint64_t bound);
bool chance(sim *s, unsigned percent);
int pick(sim *s, int len);
void say(sim *s, const char *format, ...) __attribute__((format(printf, 2, 3))); /* appends to s->text */
void mix(sim *s, tci_str bytes);

/* ---- run.c ---- */
uint64_t run_seed(uint64_t seed, int steps); /* the hash of everything that happened */

/* ---- plans.c ---- */
bool is_cyclic(const sim_plan *p);
tci_plan *plan_of(const sim *s, const sim_plan *p); /* out of memory: as the journal has it */
void say_edges(sim *s, const sim_plan *p, const sim_node *n);
void say_checks(sim *s, const sim_plan *p, const sim_node *n);
void roll_deps(sim *s, sim_node *n, int below);
void roll_checks(sim *s, const sim_plan *p, sim_node *n, int from);
void roll_nodes(sim *s, sim_plan *next, int first);              /* those from `first` on, with their edges */
void say_new_node(sim *s, const sim_plan *p, const sim_node *n); /* all that a write says of it */
const tci_reply *write_text(sim *s, const sim_plan *p);          /* s->text */
void adopt(sim_plan *p, const sim_plan *next); /* the nodes as they are after a write that was taken */
void create_plan(sim *s);
void add_nodes(sim *s, sim_plan *p);
void rewire(sim *s, sim_plan *p);

/* ---- writes.c ---- */
void roll_words(sim *s, const sim_plan *p); /* to a node that exists, into s->text; maybe none */
void client_writes(sim *s, const sim_plan *p);
void combined_write(sim *s, sim_plan *p);

/* ---- runners.c ---- */
void heartbeat(sim *s, int i); /* it registers again, with the same words */
void register_runner(sim *s, int i, bool healthy);
void unregister_runner(sim *s);
const char *roll_completion(sim *s, const sim_execution *e, bool healthy); /* in s->text */
tci_event roll_answer(sim *s, const sim_execution *e, bool healthy);
void send_answer(sim *s, sim_execution *e, bool healthy);
void call_back(sim *s, sim_execution *e, bool healthy);
void a_runner_speaks(sim *s);
void a_runner_repeats(sim *s);

/* ---- payloads.c ---- */
void payload(sim *s, sim_plan *p);

/* ---- accidents.c ---- */
void pass_time(sim *s, int64_t us);
void move_clock(sim *s);
void pause_with_full_queue(sim *s);
void begin_epoch(sim *s);    /* the model begins to live now: full leases, no waits */
tci_str roll_policy(sim *s); /* a name, or that of nobody */
void roll_set(sim *s, bool good);
void swap_policies(sim *s, bool good);
void start_again(sim *s, bool calls_die); /* the engine was restarted, or its model loaded afresh */

/* ---- questions.c ---- */
void ask_why(sim *s, sim_plan *p);
void query(sim *s, const sim_plan *p);

/* ---- oracle.c ---- */
tci_node *core_node(sim *s, const sim_plan *p, int i);
void judge_plan(sim *s, sim_plan *p);

/* ---- asked.c ---- */
sim_asked *was_asked(const sim *s, const tci_attempt *a); /* NULL: nobody was asked about it yet */
bool is_late(const sim *s, const tci_runner *r);
int policy_number(tci_str name); /* -1: there is none */
void hear(const sim_policy *p, tci_hook hook, const tci_question *q, const tci_decision *d);
void read_notes(sim *s);
void judge_circuits(sim *s);
void judge_decision(sim *s, sim_execution *e, const tci_attempt *a);
void judge_readiness(sim *s);

/* ---- seen.c ---- */
sim_runner *runner_of(sim *s, tci_str id);
tci_attempt *attempt_of(sim *s, const sim_execution *e);
void after_step(fx *f, bool quiet, void *ctx);
void judge(sim *s);          /* not in after_step: a write must have been taken over into sim_plan first */
bool is_quiet(const sim *s); /* a step now (but for a TICK) is about its event alone: no work was left over */

/* ---- shell.c ---- */
void shell_open(sim *s);   /* an engine on an empty store becomes s->f's core */
void shell_reopen(sim *s); /* another process, on the same store */
void shell_close(sim *s);
void shell_turn(sim *s, tci_event *events, size_t len); /* several steps in one turn */
size_t shell_waiting_reads(void);                       /* lists that were asked for and are not answered yet */
tci_str shell_body(void);                               /* of the last reply; until the next turn */
void shell_drain(void);
void shell_stream_ready(sim *s, uint64_t token);
int64_t shell_next_due_us(void);
void shell_committed(sim *s, const tci_store_record *record);

/* ---- store.c ---- */
void store_reset(void);
void store_fail(int appends, tci_code how);
int store_failed(void);    /* appends that did since then */
bool store_was_full(void); /* it was asked since then, and said so */

/* ---- streams.c ---- */
void streams_log(sim *s, const tci_store_record *record);
bool stream_hears(sim *s, uint64_t token, uint64_t sequence, tci_str message);
void stream_ended(sim *s, uint64_t token); /* 0: all */
void stream_refused(sim *s, uint64_t token, tci_code code);
void stream_is_read(sim *s, sim_stream *w); /* its reader takes more */
void judge_streams(sim *s);
void somebody_watches(sim *s, const sim_plan *p); /* opens one, or ends one */

/* ---- mirrors.c ---- */
void mirror_hears(sim_stream *w, int node, void *event); /* takes the node out of a Turboci__V1__WorkPlanEvent */
void mirrors_forget(sim_stream *w);
void judge_mirrors(sim *s, sim_stream *w); /* it is level */

/* ---- storms.c ---- */
void until_awake(sim *s); /* a commit has just failed */
void storm(sim *s);
void drain(sim *s);

#endif
