/* world: what the simulator knows: what it wrote, was sent and was asked itself, and the dice. Included by its parts, which are
 * one program.
 */
#ifndef TCI_SIM_WORLD_H
#define TCI_SIM_WORLD_H

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core_fixture.h"
#include "policies.h"

enum { PLANS = 3, NODES = 40, DEPS = 5, CHECKS = 4, TYPES = 3, TEXT = 4000, ACTIONS = 14 };
/* The last ones come when the faults stop: no policy excludes them. */
enum { RUNNERS = EXCLUDABLE + TYPES };

typedef struct {
  char id[16];
  bool is_check, any, pulled, async;
  int type;
  int deps[DEPS], conditions[DEPS], deps_len;
  int checks[CHECKS], checks_len;
  bool counts[CHECKS];
} sim_node; /* as this program wrote it */

typedef struct {
  tci_str id, policy;
  sim_node nodes[NODES];
  int len;
  /* what was seen of each node after the last step */
  struct {
    bool final, just; /* just now */
    uint64_t hash;
    int64_t version;
    size_t attempts, ended;
  } seen[NODES];
  int64_t version;
  uint64_t watched;
  int touched;            /* steps that changed it since the last look */
  int settled, completed; /* times */
  bool was_settled;
} sim_plan;

typedef struct {
  tci_str id, stage;
  int plan;
  bool async, calling, over; /* the RPC is in flight; it ended before the last restart or by itself */
  int64_t sent_us;
  bool survived_restart, left; /* left: its runner unregistered and may still finish it */
  bool gave_back;              /* its keys */
  int keys[KEYS];              /* held while it is live: 0 or 1 of each */
  char last[300];              /* the last completion it was given */
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
} sim_runner; /* "r0" ... */

typedef struct {
  uint64_t seed, rng, hash;
  int step, steps;
  fx f;
  sim_plan plans[PLANS];
  int plans_len;
  TCI_VEC(sim_execution *) executions;
  sim_runner runners[RUNNERS];
  unsigned weights[ACTIONS]; /* swarm: what this seed likes to do */
  bool unregistering;
  bool scripted;        /* this seed has policies */
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

static sim world;

static void die(const char *message) {
  fflush(stdout);
  fprintf(stderr, "sim: seed %llu, step %d: %s\n  replay: sim --seed %llu --steps %d\n", (unsigned long long)world.seed,
          world.step, message, (unsigned long long)world.seed, world.steps);
  exit(1);
}

/* An assertion of the core: it prints itself. */
static void on_abort(int signal_number) {
  (void)signal_number;
  die("the core stopped");
}

static uint64_t roll(sim *s, uint64_t bound) { /* splitmix64 */
  uint64_t z = (s->rng += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % bound;
}

static bool chance(sim *s, unsigned percent) { return roll(s, 100) < percent; }
static int pick(sim *s, int len) { return (int)roll(s, (uint64_t)len); }

static void say(sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(sim *s, const char *format, ...) { /* appends to s->text */
  size_t len = strlen(s->text);
  va_list args;
  va_start(args, format);
  vsnprintf(s->text + len, TEXT - len, format, args);
  va_end(args);
}

static void mix(sim *s, tci_str bytes) { s->hash = tci_siphash(s->hash, 3, bytes); }

#endif
