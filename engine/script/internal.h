/* internal: what the files of engine/script share. The door is script.h.
 *
 *     sandbox.c                   the state: allocator, count hook, faults
 *     library.c, walk.c, text.c   what a policy may call; prelude.c: the part of it in Lua
 *     load.c, source.c            files, require, version, the policy's table; what a source would cost
 *     view.c, runners.c, args.c   what a hook is shown; sample.c: the views it is tried on
 *     answer.c                    what it answered
 *
 * 1. A call begins with tci_sandbox_begin and ends with tci_sandbox_end; in between the collector stands still, so that
 *    what a call may take does not depend on when it last ran.
 * 2. `fault` is sticky: once set, no further instruction of the script runs in this call, and no pcall keeps it.
 * 3. Views are built with `building` set: what the engine makes is not counted against the script, and cannot fail.
 */
#ifndef TCI_SCRIPT_INTERNAL_H
#define TCI_SCRIPT_INTERNAL_H

#include <lauxlib.h>
#include <lua.h>

#include "base/guess.h"
#include "base/vec.h"
#include "script/script.h"

typedef enum {
  TCI_FAULT_NONE,
  TCI_FAULT_INSTRUCTIONS,
  TCI_FAULT_MEMORY,
  TCI_FAULT_STRING, /* one string is too long */
  TCI_FAULT_TABLE,  /* one table has too many keys */
  TCI_FAULT_STACK,
  TCI_FAULT_TIME,
} tci_fault;

/* What a view shows; first in its metatable. */
typedef enum {
  TCI_VIEW_LIBRARY = 1, /* the globals, string, table, math */
  TCI_VIEW_CTX,
  TCI_VIEW_DEFAULTS,
  TCI_VIEW_PLAN,
  TCI_VIEW_STAGE,
  TCI_VIEW_RETRY,
  TCI_VIEW_TIMEOUTS,
  TCI_VIEW_ARGS,
  TCI_VIEW_ATTEMPT,
  TCI_VIEW_ATTEMPTS,
  TCI_VIEW_ENDED,
  TCI_VIEW_FAILURE,
  TCI_VIEW_RUNNERS,
  TCI_VIEW_RUNNER,
  TCI_VIEW_METADATA,
} tci_view;

/* The first places of the state's stack: found without a search, and never collected. */
enum {
  TCI_AT_HANDLER = 1, /* of errors */
  TCI_AT_HOOKS,       /* TCI_HOOKS places: the policy's functions, or nil */
  TCI_AT_CTX = TCI_AT_HOOKS + TCI_HOOKS,
  TCI_AT_CTX_DATA,
  TCI_AT_RUNNERS,      /* the view of the list */
  TCI_AT_RUNNERS_DATA, /* the list behind it */
  TCI_AT_RUNNER_VIEWS, /* by slot + 1 */
  TCI_AT_RUNNER_DATAS,
  TCI_AT_RUNNER_META, /* the metatable of those */
  TCI_AT_PLAN,        /* the views of which there is one, each with its data behind it */
  TCI_AT_PLAN_DATA,
  TCI_AT_STAGE,
  TCI_AT_STAGE_DATA,
  TCI_AT_ATTEMPT,
  TCI_AT_ATTEMPT_DATA,
  TCI_AT_EMPTY_LIST, /* ctx.attempts when there are none */
  TCI_AT_EMPTY_METADATA,
  TCI_AT_PLAN_METADATA,
  TCI_AT_LOADED, /* file name -> what it returned */
  TCI_AT_ENVIRONMENT,
  TCI_AT_KEYS, /* names of the fields that are set often */
};

/* What a runner's view shows now. */
typedef struct {
  uint64_t serial, revision; /* serial 0: no view */
  uint64_t call;             /* the last one in which it was a candidate, */
  size_t index;              /* and which */
  tci_buf name;              /* id, 0, type */
  int64_t load, capacity, last_used_us, registered_us, heartbeat_us;
  uint64_t last_used;
  uint32_t recent, recent_len;
  bool has_metadata;        /* it has been read */
  tci_buf metadata;         /* as the view has it, see tci_metadata_differs */
  size_t bytes, more_bytes; /* of the view; of its metadata */
} tci_shown;

typedef struct {
  char *name, *path;
  tci_buf bytes;
} tci_script_file;

/* What a file would cost, see source.c. */
typedef struct {
  int64_t work;      /* of the compiler */
  int gotos, labels; /* labels: `::` */
  int row, row_line; /* the most indexes in a row, and where */
  int line;          /* the last; where `work` was over its bound */
} tci_source;

enum { TCI_WHERE_BYTES = 96, TCI_FAULT_BYTES = 600, TCI_BUCKETS = 400 };
/* Loading: times the bounds of a call; memory and the bytes of all files. */
enum { TCI_LOAD_FACTOR = 10, TCI_LOAD_FACTOR_BYTES = 4, TCI_LOAD_FACTOR_CPU = 4 };

struct tci_script {
  tci_policy policy;
  tci_limits limits;
  bool fuse;
  lua_State *L;
  char *path, *name, *file; /* "p/least_loaded.lua", "least_loaded", "least_loaded.lua" */

  /* the allocator */
  size_t used_bytes, live_bytes; /* now; after the last collection */
  size_t opened_bytes;           /* when no call had been made yet */
  size_t ceiling_bytes;          /* of this call; 0: nothing is counted */
  size_t string_header_bytes;    /* of a string's block beside its bytes */
  void *stack, *texts;           /* the blocks of the state's stack and of its table of short texts */
  size_t stack_bytes;            /* of the former; not in live_bytes */
  size_t vector_bytes;           /* the largest of a table in this call, or while it was loaded: */
  size_t opened_vector_bytes;
  void *pending;        /* a new vector that is not counted yet, */
  size_t pending_bytes; /* when this is not 0 */
  void **find;          /* set to the block that is made larger next */
  bool building, pending_is_ours;

  /* the call under way */
  int64_t budget, spent; /* instructions */
  int64_t args_values;   /* of the stage; negative: not counted */
  int64_t view_cost;     /* of building views, and of compiling: told, not counted */
  int period;            /* of the count hook */
  tci_fault fault;
  size_t fault_size;                           /* STRING: of the string */
  char where[TCI_WHERE_BYTES];                 /* of the fault: "least_loaded.lua:12", or "" */
  int64_t begun_ns, cpu_begun_us;              /* cpu: only where there is a fuse */
  int64_t watched_ns, cpu_from_us, cpu_us_max; /* from when the fuse counts: the views that are made first are ours */
  int64_t cpu_seen_ns, cpu_seen_us;            /* the last reading of the thread's CPU time, and when; ns 0: none */
  const tci_question *question;
  tci_hook hook;
  uint64_t call;  /* its number */
  unsigned built; /* which parts of ctx have been read */
  bool loading;   /* require finds files, */
  bool compiling;
  bool is_whole;   /* the files were loaded into this state */
  bool again;      /* and they are those of the first time */
  bool is_full;    /* not asked until it is made anew: it keeps too much, or was not loaded */
  int64_t asked;   /* since it was made */
  tci_buf scratch; /* of C functions that make a string */

  /* runners */
  tci_shown *shown; /* by slot */
  size_t shown_len;
  uint64_t *listed; /* serials in the list */
  size_t listed_len, listed_cap;
  tci_buf plan_metadata; /* as its view has it */
  size_t plan_bytes;     /* of that */

  /* files */
  char **folders;
  size_t folders_len;
  TCI_VEC(tci_script_file) files; /* in order of the first require */
  TCI_VEC(const char *) opening;  /* being loaded, outermost first */
  size_t source_bytes;            /* of all files */
  int64_t work;                   /* of the compiler */
  size_t error_cost;              /* of a message */
  char version[17];

  int64_t calls, faults, instructions;
  uint32_t times[TCI_BUCKETS];
  char last_fault[TCI_FAULT_BYTES];
};

static inline tci_script *tci_script_of(lua_State *L) { return *(tci_script **)lua_getextraspace(L); }

/* ---- sandbox.c ---- */

void tci_sandbox_open(tci_script *s);
void tci_sandbox_close(tci_script *s);
void tci_sandbox_begin(tci_script *s, int64_t instructions, size_t bytes, int64_t cpu_us);
/* `faulted`: gives its memory back at once. True when it has collected. */
bool tci_sandbox_end(tci_script *s, bool faulted);
/* lua_pcall with our handler. False: it failed, and `text` (size bytes) says where and how. */
bool tci_sandbox_call(tci_script *s, int args, int results, char *text, size_t size);
/* C functions that work as much as some instructions say so; does not return when the budget is gone. */
void tci_sandbox_charge(lua_State *L, size_t units);
/* Of going through a table: at most so large is one in this call, and empty places are gone through, too. */
size_t tci_sandbox_walk_cost(const tci_script *s);
/* Of a question that is not put to the script. */
void tci_sandbox_start_clock(tci_script *s);
/* Around the compiler: what its tables may hold is bounded by source.c. */
void tci_sandbox_compiles(tci_script *s, bool compiles);
/* The fuse counts from here: what came before in this call was the engine's work. */
void tci_sandbox_watch(tci_script *s);
/* CPU time since the call began, about; 0 without a fuse. */
int64_t tci_sandbox_cpu_us(const tci_script *s, int64_t passed_ns);
/* Ends the call when the fuse has blown. */
void tci_sandbox_look(lua_State *L);
/* Ends the call. */
_Noreturn void tci_sandbox_stop(lua_State *L, tci_fault fault, size_t size);
/* Before a C function makes a string. */
static inline void tci_sandbox_string(lua_State *L, size_t bytes) {
  if (bytes > (size_t)tci_script_of(L)->limits.policy_string_bytes_max) tci_sandbox_stop(L, TCI_FAULT_STRING, bytes);
  tci_sandbox_charge(L, bytes / 128);
}
int tci_sandbox_handler(lua_State *L);
/* Copies `text`, cut to size - 1 bytes at a character, with '?' for what is not UTF-8 and blanks for control
 * characters. They may begin at the same place. */
void tci_text_clean(tci_str text, char *out, size_t size);

/* ---- library.c, text.c, prelude.c ---- */

void tci_library_open(lua_State *L);             /* pushes the environment of all files of a policy */
void tci_library_table(lua_State *L);            /* adds the C functions of `table` to the one on top */
void tci_library_text(lua_State *L);             /* adds the C functions of `string` to the table on top */
void tci_library_tostring(lua_State *L, int at); /* pushes */
extern const char tci_prelude[];
/* An integer, and no text that looks like one: reading those is not counted. */
lua_Integer tci_check_integer(lua_State *L, int at);
int tci_require(lua_State *L);
int tci_library_ipairs(lua_State *L);
int tci_library_pairs(lua_State *L);

/* ---- view.c, runners.c, args.c ---- */

/* Pushes a view and then the table behind it: of `list` and `fields` entries. */
void tci_view_new(lua_State *L, tci_view kind, int list, int fields);
/* What kind of view is at `at`; 0: none. */
int tci_view_kind(lua_State *L, int at);
/* Pushes the table behind the view at `at`, all of it built; of anything else the value itself. */
void tci_view_data(lua_State *L, int at);
void tci_view_open(tci_script *s);         /* fills the fixed places */
void tci_push_fixed(lua_State *L, int at); /* what is in a fixed place, from inside a C function */
int tci_view_read_runner(lua_State *L);    /* __index of the data of runners */
void tci_view_begin(tci_script *s, const tci_question *q, tci_hook hook);
void tci_view_end(tci_script *s);
void tci_view_runners(tci_script *s, const tci_question *q);
size_t tci_view_bytes(const tci_script *s);               /* of what stays from call to call, about */
void tci_view_forget(tci_script *s);                      /* of a state that is gone */
int tci_args_read(lua_State *L);                          /* __index of the data of the stage */
void tci_view_metadata(lua_State *L, tci_pairs metadata); /* pushes a view */
/* False when `seen` holds the same pairs; else it does from now on. */
bool tci_metadata_differs(tci_buf *seen, tci_pairs metadata);
/* Pushes text that came from outside: without zero bytes, and cut at policy_string_bytes_max, "..." at its end. */
void tci_push_text(lua_State *L, tci_str text);
/* The candidate whose view is at `at`, or NULL. */
tci_runner *tci_view_candidate(lua_State *L, int at);
/* Of a view of a runner or an ended attempt: pushes the runner's id (nil: none) and returns true. */
bool tci_view_runner_id(lua_State *L, int at);

/* ---- load.c, answer.c, sample.c ---- */

/* Reads and runs the policy's file; fills name, hooks and version. A second time, in a fresh state: from the bytes it
 * read. */
tci_status tci_load(tci_script *s, char *message, size_t size);
/* Reads on while the compiler's work stays below the bound. */
void tci_source_read(tci_str text, int64_t work_max, tci_source *out);
/* Whether a file has other bytes than when it was read. */
bool tci_file_changed(const tci_script_file *file, int64_t bytes_max);
/* Reads the two values on top of the stack into *out; false: they are no answer, `text` says why. */
bool tci_answer_read(tci_script *s, const tci_question *q, tci_hook hook, tci_decision *out, char *text, size_t size);
tci_status tci_sample(tci_script *s, int64_t from_cpu_us, char *message, size_t size);

#endif
