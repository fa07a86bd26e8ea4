/* sandbox: the state of a policy, and the bounds of a call.
 *
 * 1. Instructions are counted by a hook every `period` of them; C functions and large blocks are charged as if they
 *    were instructions. When the budget is gone the hook comes at every instruction and raises, so that no pcall goes
 *    on.
 * 2. The allocator grants what a script can ask for in one instruction, notes the fault and arms the hook. Refusing would
 *    make Lua collect everything first, again at each try. It does refuse a hash part that is too large, once in a call.
 * 3. Nothing here reads the order of hashes or addresses; the clocks only when `fuse` is set.
 * 4. A table's hash part is never large. Keys can be chosen so that all of them are in one chain of it; then finding one
 *    takes as long as there are keys, and making the part larger the square of that, inside one instruction.
 *
 * Callers: load.c and script.c; the charges, library.c and text.c.
 */
#include "script/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"

enum {
  PERIOD = 100,
  PERIOD_SLOW = 10, /* when the call has taken longer than SLOW_NS */
  SLOW_NS = 50000,
  SEEN_NS = 100000,    /* how long a reading of the CPU clock serves */
  CHARGED_FROM = 1024, /* bytes of a block */
  BYTES_PER_UNIT = 128,
  BYTES_PER_UNIT_AGAIN = 1024,  /* of a list that is gone through and stays as it is */
  VECTOR_BYTES_PER_UNIT = 8192, /* of a table that is walked */
  NODE_BYTES = 24,              /* of a place in a hash part, whose number is a power of two */
  STACK_VALUES = 4000,
  SLACK_BYTES = 8 << 20,     /* over the ceiling: here the allocator does refuse */
  COLLECT_BYTES = 256 << 10, /* of garbage, at least */
};

static const char stopped; /* its address is the error value of a fault */

/* ---- faults ---- */

/* "least_loaded.lua:12" of the innermost function that is the script's own. */
static void locate(lua_State *L, char *out) {
  lua_Debug ar;
  for (int level = 0; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0 || strcmp(ar.source, "=library") == 0) continue;
    tci_text_clean(tci_str_from(ar.short_src), out, TCI_WHERE_BYTES - 12);
    size_t len = strlen(out), digits = 1;
    for (int n = ar.currentline; n >= 10; n /= 10) digits++;
    out[len] = ':';
    for (int n = ar.currentline, i = (int)digits; i > 0; i--, n /= 10) out[len + (size_t)i] = (char)('0' + n % 10);
    out[len + digits + 1] = '\0';
    return;
  }
  out[0] = '\0';
}

static void on_count(lua_State *L, lua_Debug *ar);
static void count_pending(tci_script *s);

/* From here on every instruction is the last one. */
static void arm(tci_script *s, tci_fault fault, size_t size) {
  if (s->fault) return;
  s->fault = fault;
  s->fault_size = size;
  s->where[0] = '\0';
  s->period = 1;
  lua_sethook(s->L, on_count, LUA_MASKCOUNT, 1);
}

static _Noreturn void raise_stop(lua_State *L) {
  tci_script *s = tci_script_of(L);
  if (!s->where[0]) locate(L, s->where);
  lua_pushlightuserdata(L, (void *)&stopped);
  lua_error(L);
  tci_unreachable();
}

void tci_sandbox_stop(lua_State *L, tci_fault fault, size_t size) {
  arm(tci_script_of(L), fault, size);
  raise_stop(L);
}

void tci_sandbox_charge(lua_State *L, size_t units) {
  tci_script *s = tci_script_of(L);
  s->spent += (int64_t)units;
  if (s->spent > s->budget) tci_sandbox_stop(L, TCI_FAULT_INSTRUCTIONS, 0);
}

/* ---- time ---- */

void tci_sandbox_watch(tci_script *s) {
  s->watched_ns = tci_clock_mono_ns();
  s->cpu_from_us = s->fuse ? tci_clock_thread_cpu_us() : 0;
}

/* The thread's CPU time at the beginning of a call. Reading it is a system call, so one reading serves the calls that
 * begin soon after it: whatever has passed since is taken for CPU time, so that nobody pays for what was before. */
void tci_sandbox_start_clock(tci_script *s) {
  s->begun_ns = s->watched_ns = tci_clock_mono_ns();
  if (!s->fuse) return;
  int64_t since_ns = s->begun_ns - s->cpu_seen_ns;
  if (!s->cpu_seen_ns || since_ns > SEEN_NS) {
    s->cpu_seen_us = tci_clock_thread_cpu_us();
    s->cpu_seen_ns = s->begun_ns;
    since_ns = 0;
  }
  s->cpu_begun_us = s->cpu_from_us = s->cpu_seen_us + since_ns / 1000;
}

int64_t tci_sandbox_cpu_us(const tci_script *s, int64_t passed_ns) {
  if (!s->fuse) return 0;
  int64_t us = passed_ns / 1000 + 1;
  if (passed_ns <= SEEN_NS) return us;
  int64_t cpu_us = tci_clock_thread_cpu_us() - s->cpu_begun_us; /* it may have been kept from running */
  return cpu_us < us ? cpu_us : us;
}

/* CPU time, but the cheap clock first. */
static bool is_too_long(const tci_script *s, int64_t passed_ns) {
  return passed_ns > s->cpu_us_max * 1000 && tci_clock_thread_cpu_us() - s->cpu_from_us > s->cpu_us_max;
}

static int64_t passed_ns(const tci_script *s) { return tci_clock_mono_ns() - s->watched_ns; }

void tci_sandbox_look(lua_State *L) {
  tci_script *s = tci_script_of(L);
  if (s->fuse && is_too_long(s, passed_ns(s))) tci_sandbox_stop(L, TCI_FAULT_TIME, 0);
}

static void on_count(lua_State *L, lua_Debug *ar) {
  (void)ar;
  tci_script *s = tci_script_of(L);
  count_pending(s);
  if (s->fault) raise_stop(L);
  s->spent += s->period;
  if (s->spent > s->budget) tci_sandbox_stop(L, TCI_FAULT_INSTRUCTIONS, 0);
  if (!s->fuse) return;
  int64_t so_far_ns = passed_ns(s);
  if (is_too_long(s, so_far_ns)) tci_sandbox_stop(L, TCI_FAULT_TIME, 0);
  if (so_far_ns > SLOW_NS && s->period == PERIOD) { /* it takes its time: look more often */
    s->period = PERIOD_SLOW;
    lua_sethook(L, on_count, LUA_MASKCOUNT, PERIOD_SLOW);
  }
}

/* ---- memory ---- */

/* A new vector that is as large as a hash part of more places than a table may have. So is a list of 1.5 times as many
 * values, in a constructor that has neither more nor less of them. The compiler's own tables are bounded by source.c. */
static bool is_large_hash(const tci_script *s, size_t bytes) {
  if (s->compiling || bytes <= (size_t)s->limits.policy_table_keys_max * NODE_BYTES || bytes % NODE_BYTES) return false;
  size_t places = bytes / NODE_BYTES;
  return (places & (places - 1)) == 0 && places / 2 >= (size_t)s->limits.policy_table_keys_max;
}

static void count_growth(tci_script *s, const void *block, size_t tag, size_t old_bytes, size_t bytes, bool ours) {
  bool is_texts = block && block == s->texts; /* how large that is depends on earlier calls */
  if (ours || is_texts) {
    s->ceiling_bytes += bytes - old_bytes;
    return;
  }
  if (bytes >= CHARGED_FROM) s->spent += (int64_t)(bytes / BYTES_PER_UNIT);
  if ((block || tag == 0) && bytes > s->vector_bytes) s->vector_bytes = bytes;
  size_t string_max = (size_t)s->limits.policy_string_bytes_max;
  if (!block && tag == LUA_TSTRING && bytes > string_max + s->string_header_bytes)
    arm(s, TCI_FAULT_STRING, bytes - s->string_header_bytes);
  if (s->used_bytes > s->ceiling_bytes) arm(s, TCI_FAULT_MEMORY, 0);
  if (s->spent > s->budget) arm(s, TCI_FAULT_INSTRUCTIONS, 0);
}

void tci_sandbox_compiles(tci_script *s, bool compiles) {
  count_pending(s);
  s->compiling = compiles;
}

/* A call begins with a stack of STACK_VALUES (enter), which is all it gets. */
static void moved_stack(tci_script *s, void *stack, size_t old_bytes, size_t bytes) {
  s->stack = stack;
  s->stack_bytes = bytes;
  if (!s->ceiling_bytes) return;
  s->ceiling_bytes += bytes - old_bytes;
  if (bytes > old_bytes && !s->building) arm(s, TCI_FAULT_STACK, 0);
}

/* Lua makes a larger stack beside the old one and then frees that: a new vector is counted at the next look, when it is
 * known not to be the stack. */
static void count_pending(tci_script *s) {
  size_t bytes = s->pending_bytes;
  if (!bytes) return;
  s->pending_bytes = 0;
  if (s->ceiling_bytes) count_growth(s, NULL, 0, 0, bytes, s->pending_is_ours);
}

static void forget(tci_script *s, void *block, size_t bytes) {
  s->used_bytes -= bytes;
  if (block && s->pending_bytes && (block == s->stack || s->find == &s->stack)) {
    size_t new_bytes = s->pending_bytes;
    s->pending_bytes = 0;
    moved_stack(s, s->pending, bytes, new_bytes);
  } else if (s->ceiling_bytes && s->building) {
    s->ceiling_bytes -= bytes;
  }
  free(block);
}

/* Lua's allocator. For a new block old_bytes is the kind of object it is for. */
static void *allocate(void *self, void *block, size_t old_bytes, size_t bytes) {
  tci_script *s = self;
  size_t tag = old_bytes;
  if (!block) old_bytes = 0;
  if (bytes == 0) {
    forget(s, block, old_bytes);
    return NULL;
  }
  count_pending(s);
  if (s->ceiling_bytes && !s->building && s->used_bytes + bytes > s->ceiling_bytes + old_bytes + SLACK_BYTES) {
    arm(s, TCI_FAULT_MEMORY, 0);
    return NULL;
  }
  if (s->ceiling_bytes && !s->building && !block && tag == 0 && is_large_hash(s, bytes)) {
    bool first = s->fault == TCI_FAULT_NONE;
    arm(s, TCI_FAULT_TABLE, 0);
    if (first) locate(s->L, s->where); /* no handler is called when memory is refused */
    return NULL;
  }
  void *new = tci_realloc(block, bytes);
  s->used_bytes += bytes - old_bytes;
  if (block && s->find) *s->find = new;
  if (block && block == s->stack) {
    moved_stack(s, new, old_bytes, bytes);
  } else if (!block && tag == 0) {
    s->pending_is_ours = s->building;
    s->pending = new;
    s->pending_bytes = bytes;
  } else if (s->ceiling_bytes && bytes > old_bytes) {
    count_growth(s, block, tag, old_bytes, bytes, s->building);
  } else if (s->ceiling_bytes && s->building) {
    s->ceiling_bytes -= old_bytes - bytes;
  } else if (s->ceiling_bytes && bytes == old_bytes && bytes >= CHARGED_FROM) {
    s->spent += (int64_t)(bytes / BYTES_PER_UNIT_AGAIN); /* a table that is rehashed: its list was counted */
    if (s->spent > s->budget) arm(s, TCI_FAULT_INSTRUCTIONS, 0);
  }
  if (block && block == s->texts) s->texts = new;
  return new;
}

static int on_panic(lua_State *L) {
  (void)L;
  tci_unreachable(); /* every call of a script is protected, and building views cannot fail */
}

size_t tci_sandbox_walk_cost(const tci_script *s) { return s->vector_bytes / VECTOR_BYTES_PER_UNIT; }

void tci_sandbox_open(tci_script *s) {
  lua_State *L = s->L = lua_newstate(allocate, s);
  tci_assert(L);
  *(tci_script **)lua_getextraspace(L) = s;
  lua_atpanic(L, on_panic);
  lua_gc(L, LUA_GCSTOP);
  /* What grows when nothing else does: the stack, and the table of all short texts. */
  s->find = &s->stack;
  int grown = lua_checkstack(L, 100);
  tci_assert(grown);
  s->find = &s->texts;
  for (int i = 0; i < 1000 && !s->texts; i++) {
    lua_pushfstring(L, "text %d", i);
    lua_pop(L, 1);
  }
  s->find = NULL;
  size_t before = s->used_bytes;
  char text[1000] = "";
  lua_pushlstring(L, text, sizeof text);
  s->string_header_bytes = s->used_bytes - before - sizeof text;
  lua_settop(L, 0);
}

void tci_sandbox_close(tci_script *s) {
  if (s->L) lua_close(s->L);
  s->L = NULL;
  s->stack = s->texts = NULL;
  s->stack_bytes = s->live_bytes = s->vector_bytes = s->opened_vector_bytes = 0;
}

/* ---- a call ---- */

void tci_sandbox_begin(tci_script *s, int64_t instructions, size_t bytes, int64_t cpu_us) {
  s->budget = instructions;
  s->spent = s->view_cost = 0;
  s->fault = TCI_FAULT_NONE;
  s->where[0] = '\0';
  s->building = false;
  s->pending_bytes = 0;
  s->vector_bytes = s->opened_vector_bytes;
  s->ceiling_bytes = s->used_bytes + bytes;
  s->cpu_us_max = cpu_us;
  tci_sandbox_start_clock(s);
  s->period = PERIOD;
  s->call++;
  lua_sethook(s->L, on_count, LUA_MASKCOUNT, PERIOD);
}

bool tci_sandbox_end(tci_script *s, bool faulted) {
  s->pending_bytes = 0;
  lua_sethook(s->L, NULL, 0, 0);
  s->ceiling_bytes = 0;
  s->building = false;
  size_t used = s->used_bytes - s->stack_bytes, garbage = used > s->live_bytes ? used - s->live_bytes : 0;
  if (!faulted && (garbage <= COLLECT_BYTES || garbage <= s->live_bytes)) return false;
  lua_gc(s->L, LUA_GCCOLLECT);
  s->live_bytes = s->used_bytes - s->stack_bytes;
  return true;
}

/* ---- what is said of an error ---- */

void tci_text_clean(tci_str text, char *out, size_t size) {
  size_t len = 0;
  for (size_t i = 0; i < text.len;) {
    size_t n = 1, left = text.len - i;
    bool wide = (uint8_t)text.ptr[i] >= 0xc0;
    while (wide && n < 4 && n < left && ((uint8_t)text.ptr[i + n] & 0xc0) == 0x80) n++;
    bool good = tci_str_is_utf8((tci_str){text.ptr + i, n});
    if (!good) n = 1;
    if (len + n >= size) break;
    if (!good)
      out[len] = '?';
    else if (n == 1 && ((uint8_t)text.ptr[i] < ' ' || text.ptr[i] == 127))
      out[len] = ' ';
    else
      memmove(out + len, text.ptr + i, n);
    len += n;
    i += n;
  }
  out[len] = '\0';
}

static const char library_prefix[] = "library:";

/* "library:12: attempt ..." -> "attempt ..." */
static const char *without_library(const char *text) {
  if (strncmp(text, library_prefix, sizeof library_prefix - 1) != 0) return NULL;
  const char *at = text + sizeof library_prefix - 1;
  while (*at >= '0' && *at <= '9') at++;
  return at[0] == ':' && at[1] == ' ' ? at + 2 : NULL;
}

/* Runs where the error was raised. Errors of the library's own Lua are the fault of whoever called it. */
int tci_sandbox_handler(lua_State *L) {
  tci_script *s = tci_script_of(L);
  if (s->fault) return 1;
  s->spent += (int64_t)s->error_cost; /* Lua's messages go back through the function's code */
  if (s->spent > s->budget) arm(s, TCI_FAULT_INSTRUCTIONS, 0);
  locate(L, s->where);
  const char *rest = lua_type(L, 1) == LUA_TSTRING ? without_library(lua_tostring(L, 1)) : NULL;
  if (rest) lua_pushfstring(L, "%s: %s", s->where[0] ? s->where : "?", rest);
  return 1;
}

static const char *fault_text(const tci_script *s, tci_arena *arena) {
  const tci_limits *limits = &s->limits;
  const char *when = s->loading ? "while it is loaded" : "in one call";
  switch (s->fault) {
    case TCI_FAULT_INSTRUCTIONS:
      return tci_fmt(arena, "more than %lld instructions %s (limit policy_instructions_max)", (long long)s->budget,
                     when);
    case TCI_FAULT_MEMORY:
      return tci_fmt(arena, "more than %lld bytes %s (limit policy_memory_bytes_max)",
                     (long long)(limits->policy_memory_bytes_max * (s->loading ? TCI_LOAD_FACTOR_BYTES : 1)), when);
    case TCI_FAULT_STRING:
      return tci_fmt(arena, "a string of %zu bytes, over the limit policy_string_bytes_max (%lld)", s->fault_size,
                     (long long)limits->policy_string_bytes_max);
    case TCI_FAULT_TABLE:
      return tci_fmt(arena, "a table of more than %lld keys beside its list (limit policy_table_keys_max)",
                     (long long)limits->policy_table_keys_max);
    case TCI_FAULT_STACK: return "too deep a recursion, or too many values at once";
    case TCI_FAULT_TIME:
      return tci_fmt(arena, "more than %lld ms of CPU time %s (limit policy_cpu_ms_max)",
                     (long long)(s->cpu_us_max / 1000), when);
    case TCI_FAULT_NONE: break;
  }
  return "?";
}

/* Of the error value on top of the stack; runs no code of the script. */
static void error_text(tci_script *s, int result, char *text, size_t size) {
  lua_State *L = s->L;
  tci_arena arena = {0};
  const char *what;
  bool placed = false;
  if (s->fault) {
    what = fault_text(s, &arena);
  } else if (result == LUA_ERRMEM) {
    what = "out of memory";
  } else if (lua_type(L, -1) == LUA_TSTRING) {
    what = lua_tostring(L, -1);
    placed = strstr(what, ".lua:") != NULL;
  } else if (lua_type(L, -1) == LUA_TNUMBER) {
    lua_pushvalue(L, -1);
    what = tci_fmt(&arena, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
  } else {
    what = tci_fmt(&arena, "an error that is no text but a %s", luaL_typename(L, -1));
    if (lua_isnil(L, -1)) what = "an error without a text";
  }
  const char *whole = placed ? what : tci_fmt(&arena, "%s: %s", s->where[0] ? s->where : s->file, what);
  tci_text_clean(tci_str_from(whole), text, size);
  tci_arena_deinit(&arena);
}

/* Calls what it is given, with a stack that is always of the same size: how deep a recursion may go must not depend on
 * earlier calls. Behind it, and after an error in it, Lua takes the stack back. */
static int enter(lua_State *L) {
  tci_script *s = tci_script_of(L);
  bool building = s->building;
  s->building = true;
  bool small = s->stack_bytes < STACK_VALUES * 16; /* what is asked for must be less than there is */
  int grown = lua_checkstack(L, small ? STACK_VALUES + 16 : STACK_VALUES);
  tci_assert(grown);
  s->building = building;
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static int fail(lua_State *L) { return lua_error(L); }

bool tci_sandbox_call(tci_script *s, int args, int results, char *text, size_t size) {
  lua_State *L = s->L;
  s->building = true;
  if (s->stack_bytes > (STACK_VALUES + 200) * 16) { /* a view had to make it larger */
    lua_pushcfunction(L, fail);
    lua_pcall(L, 0, 0, 0);
    lua_pop(L, 1);
  }
  s->building = false;
  lua_pushcfunction(L, enter);
  lua_insert(L, -2 - args);
  int result = lua_pcall(L, args + 1, results, TCI_AT_HANDLER);
  if (result == LUA_OK) count_pending(s);
  if (result == LUA_OK && s->fuse && is_too_long(s, passed_ns(s))) arm(s, TCI_FAULT_TIME, 0); /* by what no hook saw */
  if (result == LUA_OK && !s->fault) return true;
  if (result == LUA_OK) lua_pop(L, results); /* its last act was too much */
  if (result == LUA_OK) lua_pushnil(L);
  s->building = true; /* the text is ours */
  error_text(s, result, text, size);
  lua_pop(L, 1);
  return false;
}
