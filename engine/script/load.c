/* load: the files of a policy: reading, compiling, require, and the table that a policy returns.
 *
 * 1. Text only, never bytecode; no zero bytes, not even as an escape (text.c says why).
 * 2. All files run in one call with TCI_LOAD_FACTOR times the bounds of a call of a hook; what the compiler may work
 *    for all of them is bounded before it begins (source.c).
 * 3. The version is the SHA-256 of the bytes of the policy's file and of those it required, in order of the first
 *    require: what `cat FILE... | sha256sum` says.
 *
 * Called by script.c.
 */
#define _GNU_SOURCE 1
#include "script/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"

enum {
  FILES_MAX = 32,
  NAME_BYTES_MAX = 100,
  FOLDERS_TOLD = 8, /* the stack has room for so many */
  JUMPS_MAX = 500,
  ROW_MAX = 20,       /* of indexes */
  WORK_MAX = 4000000, /* some 12 ms */
};

/* ---- files ---- */

/* Appends the bytes of a regular file. RESOURCE_EXHAUSTED: more than `bytes_max`. No messages. */
static tci_code read_file(const char *path, size_t bytes_max, tci_buf *out) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a pipe must not stop us */
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? TCI_NOT_FOUND : TCI_PERMISSION_DENIED;
  struct stat about;
  tci_code code = TCI_OK;
  size_t from = out->len;
  if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) code = TCI_FAILED_PRECONDITION;
  while (code == TCI_OK) {
    ssize_t n = read(fd, tci_buf_reserve(out, 4096), 4096);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) code = TCI_DATA_LOSS;
    if (n <= 0) break;
    out->len += (size_t)n;
    if (out->len - from > bytes_max) code = TCI_RESOURCE_EXHAUSTED;
  }
  close(fd);
  return code;
}

static const char *why_unread(tci_code code) {
  switch (code) {
    case TCI_NOT_FOUND: return "there is no such file";
    case TCI_RESOURCE_EXHAUSTED: return "larger than the limit policy_source_bytes_max";
    case TCI_FAILED_PRECONDITION: return "not a regular file";
    case TCI_PERMISSION_DENIED: return "cannot be opened";
    default: return "cannot be read";
  }
}

bool tci_file_changed(const tci_script_file *file, int64_t bytes_max) {
  tci_buf bytes = {0};
  tci_code code = read_file(file->path, (size_t)bytes_max, &bytes);
  bool same = code == TCI_OK && tci_str_eq(tci_buf_str(&bytes), tci_buf_str(&file->bytes));
  tci_buf_deinit(&bytes);
  return !same;
}

static bool is_name(const char *name) {
  size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
  return len > 0 && len <= NAME_BYTES_MAX && !name[len];
}

/* ---- compiling ---- */

/* The line of the first zero byte, or of the first escape that makes one; 0: none. A run of backslashes never spans a
 * string and what is around it, so that no other parsing is needed; in comments and long strings such an escape is
 * refused, too. */
static int line_of_zero(tci_str source) {
  int line = 1;
  for (size_t i = 0; i < source.len; i++) {
    char c = source.ptr[i];
    if (c == '\n') line++;
    if (!c) return line;
    if (c != '\\') continue;
    const char *p = source.ptr + ++i, *end = source.ptr + source.len;
    if (p == end) break;
    if (*p == '\n') line++;
    if (*p == 'x' && end - p > 2 && p[1] == '0' && p[2] == '0') return line;
    if (*p == 'u' && end - p > 2 && p[1] == '{') {
      for (p += 2; p < end && *p == '0'; p++) continue;
      if (p < end && *p == '}' && p[-1] == '0') return line;
    } else if (*p >= '0' && *p <= '9') {
      int n = 0;
      for (int digits = 0; digits < 3 && p < end && *p >= '0' && *p <= '9'; digits++) n = n * 10 + *p++ - '0';
      if (n == 0) return line;
    }
  }
  return 0;
}

/* Raises when the compiler would take too long, or later its messages. */
static void check_cost(lua_State *L, tci_str text, const char *file) {
  tci_script *s = tci_script_of(L);
  tci_source source;
  tci_source_read(text, WORK_MAX - s->work, &source);
  s->work += source.work;
  s->view_cost += (int64_t)text.len * 4 + source.work / 4;
  tci_sandbox_charge(L, text.len / 4); /* a file that fails may be required again and again */
  size_t error_cost = text.len / 256 * (2 + 2 * (size_t)source.row);
  if (error_cost > s->error_cost) s->error_cost = error_cost;
  if (source.gotos > JUMPS_MAX || source.labels > JUMPS_MAX)
    lua_pushfstring(L, "%s: more than %d times 'goto' or '::'", file, JUMPS_MAX);
  else if (s->work > WORK_MAX)
    lua_pushfstring(L,
                    "%s:%d: this takes the compiler too long: too many names where too many locals are in reach, "
                    "too many large numbers, or too many 'and', 'or', 'elseif' and 'break'",
                    file, source.line);
  else if (source.row > ROW_MAX)
    lua_pushfstring(L, "%s:%d: more than %d indexes in a row", file, source.row_line, ROW_MAX);
  else
    return;
  lua_error(L);
}

/* Some editors put a byte order mark before the text. */
static tci_str without_mark(tci_str source) {
  static const char mark[] = {'\xef', '\xbb', '\xbf'};
  if (source.len < sizeof mark || memcmp(source.ptr, mark, sizeof mark) != 0) return source;
  return (tci_str){source.ptr + sizeof mark, source.len - sizeof mark};
}

/* Pushes the function of a file. Raises. */
static void compile(lua_State *L, tci_str source, const char *file) {
  int line = line_of_zero(source);
  if (line) {
    lua_pushfstring(L, "%s:%d: zero bytes are not for policies, nor escapes that make one", file, line);
    lua_error(L);
  }
  check_cost(L, source, file);
  const char *chunk = lua_pushfstring(L, "@%s", file);
  tci_script *s = tci_script_of(L);
  tci_sandbox_compiles(s, true);
  int result = luaL_loadbufferx(L, source.len ? source.ptr : "", source.len, chunk, "t");
  tci_sandbox_compiles(s, false);
  if (result != LUA_OK) lua_error(L);
  lua_remove(L, -2);
  tci_sandbox_look(L);
}

/* Compiles and runs a file; leaves its result. Raises. */
static void run(lua_State *L, const tci_script_file *file) {
  tci_script *s = tci_script_of(L);
  tci_str source = without_mark(tci_buf_str(&file->bytes));
  tci_vec_push(&s->opening, file->name);
  const char *name = lua_pushfstring(L, "%s.lua", file->name);
  compile(L, source, name);
  tci_push_fixed(L, TCI_AT_ENVIRONMENT);
  lua_setupvalue(L, -2, 1);
  lua_call(L, 0, 1);
  lua_remove(L, -2);
  s->opening.len--;
}

/* Keeps a file that was read; takes `bytes` over. Not valid for longer than to the next one. */
static const tci_script_file *add_file(tci_script *s, const char *name, const char *path, tci_buf *bytes) {
  tci_script_file file = {strdup(name), strdup(path), *bytes};
  *bytes = (tci_buf){0};
  tci_vec_push(&s->files, file);
  s->source_bytes += file.bytes.len;
  return &s->files.items[s->files.len - 1];
}

/* ---- require ---- */

/* The file from the first folder that has it, read once; NULL: none. Raises when a file is there and cannot be read. */
static const tci_script_file *find(lua_State *L, const char *name) {
  tci_script *s = tci_script_of(L);
  for (size_t i = 0; i < s->files.len; i++)
    if (strcmp(s->files.items[i].name, name) == 0) return &s->files.items[i];
  size_t all_max = (size_t)s->limits.policy_source_bytes_max * TCI_LOAD_FACTOR_BYTES;
  for (size_t i = 0; i < s->folders_len && !s->again; i++) {
    const char *path = lua_pushfstring(L, "%s/%s.lua", s->folders[i], name);
    tci_buf bytes = {0};
    tci_code code = read_file(path, (size_t)s->limits.policy_source_bytes_max, &bytes);
    if (code == TCI_OK && s->source_bytes + bytes.len <= all_max) return add_file(s, name, path, &bytes);
    tci_buf_deinit(&bytes);
    if (code == TCI_OK)
      luaL_error(L, "require '%s': all files together are larger than %d times the limit policy_source_bytes_max", name,
                 TCI_LOAD_FACTOR_BYTES);
    if (code != TCI_NOT_FOUND) luaL_error(L, "require '%s': %s: %s", name, path, why_unread(code));
    lua_pop(L, 1);
  }
  return NULL;
}

int tci_require(lua_State *L) {
  tci_script *s = tci_script_of(L);
  const char *name = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  tci_sandbox_charge(L, 4);
  if (!is_name(name))
    return luaL_error(L, "require '%s': a name is letters, digits, '_' and '-', without folder or '.lua'", name);
  tci_push_fixed(L, TCI_AT_LOADED);
  lua_pushvalue(L, 1);
  if (lua_rawget(L, 2) != LUA_TNIL) return 1;
  if (!s->loading) return luaL_error(L, "require '%s': only while the file is loaded; put it at the top", name);
  for (size_t i = 0; i < s->opening.len; i++)
    if (strcmp(s->opening.items[i], name) == 0)
      return luaL_error(L, "require '%s': in a circle: it is being loaded, and what it requires requires it", name);
  if (s->files.len >= FILES_MAX && !s->again) return luaL_error(L, "require '%s': more than %d files", name, FILES_MAX);
  const tci_script_file *file = find(L, name);
  if (!file) {
    lua_pushfstring(L, "require '%s': there is no %s.lua in %s", name, name, s->folders[0]);
    size_t told = s->folders_len < FOLDERS_TOLD ? s->folders_len : FOLDERS_TOLD;
    for (size_t i = 1; i < told; i++) lua_pushfstring(L, " or %s", s->folders[i]);
    lua_concat(L, (int)told);
    if (told == s->folders_len) return luaL_error(L, "%s", lua_tostring(L, -1));
    return luaL_error(L, "%s or %d more folders", lua_tostring(L, -1), (int)(s->folders_len - told));
  }
  run(L, file);
  if (lua_isnil(L, -1)) lua_pushboolean(L, true);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, -2);
  lua_rawset(L, 2);
  return 1;
}

/* ---- the policy's table ---- */

/* Of the table at the top: checks the keys and takes the hooks. False: `message` says what is wrong. */
static bool take_policy(tci_script *s, char *message, size_t size) {
  static const char *const keys[] = {"select", "retry", "timeout", "priority", "admit", "name", "description", NULL};
  lua_State *L = s->L;
  const char *unknown = NULL;
  if (!lua_istable(L, -1) || tci_view_kind(L, -1)) {
    snprintf(message, size, "%s: a policy returns a table with its hooks; this file returned a %s", s->file,
             luaL_typename(L, -1));
    return false;
  }
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      snprintf(message, size, "%s: a policy's table has names only, not a key that is a %s", s->file,
               luaL_typename(L, -2));
      lua_pop(L, 2);
      return false;
    }
    const char *key = lua_tostring(L, -2);
    size_t i = 0;
    while (keys[i] && strcmp(key, keys[i]) != 0) i++;
    if (!keys[i] && (!unknown || strcmp(key, unknown) < 0)) unknown = key; /* not the first in the order of hashes */
    if (i < TCI_HOOKS && lua_isfunction(L, -1)) {
      lua_pushvalue(L, -1);
      lua_replace(L, TCI_AT_HOOKS + (int)i);
      s->policy.hooks |= 1u << i;
    }
  }
  if (unknown) {
    const char *near = tci_guess_among(unknown, keys);
    snprintf(message, size, "%s: unknown key '%.60s'%s%s%s", s->file, unknown, near ? "; did you mean '" : "",
             near ? near : "", near ? "'?" : "");
    return false;
  }
  for (size_t i = 0; keys[i]; i++) {
    lua_pushstring(L, keys[i]);
    int type = lua_rawget(L, -2), wanted = i < TCI_HOOKS ? LUA_TFUNCTION : LUA_TSTRING;
    bool other_name = strcmp(keys[i], "name") == 0 && type == wanted && strcmp(lua_tostring(L, -1), s->name) != 0;
    if (type != LUA_TNIL && type != wanted) {
      snprintf(message, size, "%s: '%s' must be a %s, not a %s", s->file, keys[i], lua_typename(L, wanted),
               lua_typename(L, type));
      return false;
    }
    if (other_name) {
      snprintf(message, size, "%s: its name is '%.60s' but the file's is '%s'", s->file, lua_tostring(L, -1), s->name);
      return false;
    }
    lua_pop(L, 1);
  }
  if (s->policy.hooks) return true;
  snprintf(message, size, "%s: a policy has at least one of the hooks select, retry, timeout, priority, admit",
           s->file);
  return false;
}

static int run_main(lua_State *L) {
  run(L, &tci_script_of(L)->files.items[0]);
  return 1;
}

static void take_version(tci_script *s) {
  uint8_t digest[32];
  unsigned len = 0;
  EVP_MD_CTX *sum = EVP_MD_CTX_new();
  tci_assert(sum && EVP_DigestInit_ex(sum, EVP_sha256(), NULL));
  for (size_t i = 0; i < s->files.len; i++) {
    tci_str bytes = tci_buf_str(&s->files.items[i].bytes);
    int added = EVP_DigestUpdate(sum, bytes.len ? bytes.ptr : "", bytes.len);
    tci_assert(added);
  }
  int done = EVP_DigestFinal_ex(sum, digest, &len);
  tci_assert(done && len == sizeof digest);
  EVP_MD_CTX_free(sum);
  for (int i = 0; i < 8; i++) snprintf(s->version + 2 * i, 3, "%02x", digest[i]);
}

/* "p/least_loaded.lua" -> "least_loaded"; NULL: no policy can be called so. */
static bool take_name(tci_script *s, char *message, size_t size) {
  const char *slash = strrchr(s->path, '/'), *file = slash ? slash + 1 : s->path;
  size_t len = strlen(file);
  s->file = strdup(file);
  s->name = strdup(file);
  bool is_lua = len > 4 && strcmp(file + len - 4, ".lua") == 0;
  if (is_lua) s->name[len - 4] = '\0';
  const char *what = NULL;
  if (!is_lua)
    what = "the file of a policy is called NAME.lua";
  else if (!is_name(s->name))
    what = "the name of a policy is at most 100 letters, digits, '_' and '-'";
  else if (s->name[0] == '_')
    what = "a library (its name begins with '_'): for require, not a policy";
  if (what) snprintf(message, size, "%s: %s", file, what);
  return !what;
}

/* Reads the policy's own file. */
static tci_status read_main(tci_script *s, char *message, size_t size) {
  if (!take_name(s, message, size)) return (tci_status){TCI_INVALID_ARGUMENT, message};
  tci_buf bytes = {0};
  tci_code code = read_file(s->path, (size_t)s->limits.policy_source_bytes_max, &bytes);
  if (code == TCI_OK) {
    add_file(s, s->name, s->path, &bytes);
    return TCI_STATUS_OK;
  }
  tci_buf_deinit(&bytes);
  snprintf(message, size, "%s: %s", code == TCI_NOT_FOUND ? s->path : s->file, why_unread(code));
  bool kept = code == TCI_NOT_FOUND || code == TCI_RESOURCE_EXHAUSTED;
  return (tci_status){kept ? code : TCI_INVALID_ARGUMENT, message};
}

tci_status tci_load(tci_script *s, char *message, size_t size) {
  s->again = s->files.len > 0;
  s->opening.len = 0;
  s->work = 0;
  s->error_cost = 0;
  if (!s->again) TCI_TRY(read_main(s, message, size));
  tci_sandbox_begin(s, s->limits.policy_instructions_max * TCI_LOAD_FACTOR,
                    (size_t)s->limits.policy_memory_bytes_max * TCI_LOAD_FACTOR_BYTES,
                    s->limits.policy_cpu_ms_max * 1000 * TCI_LOAD_FACTOR_CPU);
  s->loading = true;
  lua_pushcfunction(s->L, run_main);
  bool good = tci_sandbox_call(s, 0, 1, message, size) && take_policy(s, message, size);
  s->loading = false;
  lua_settop(s->L, TCI_AT_KEYS - 1);
  tci_sandbox_end(s, true);
  s->opened_bytes = s->live_bytes;
  s->opened_vector_bytes = s->vector_bytes;
  if (!s->again) take_version(s);
  return good ? TCI_STATUS_OK : (tci_status){TCI_INVALID_ARGUMENT, message};
}
