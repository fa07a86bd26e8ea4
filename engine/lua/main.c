/* main: the program `turboci` is Lua 5.4 with the module turboci.core inside; all it does is in lua/turboci/cli.
 *
 * Where lua/turboci is looked for, first to last: $TURBOCI_HOME/lua; ../share/turboci/lua beside the folder of the
 * executable (an installation); the source tree it was built from. After these Lua's own path: luv, argparse, cjson.
 *
 * No signal handlers: the loop of the Lua side (luv) has its own. The exit code is what main returns (an integer; true
 * or nothing: 0; false: 1), and 70 when it raised.
 *
 * Standard streams that are closed are opened on /dev/null before anything else: else the next file, the database for
 * one, would be descriptor 1, and what is printed would go into it.
 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lua/module.h"

enum { EXIT_RAISED = 70 };

typedef struct {
  int argc;
  char **argv;
} arguments;

static void add_path(lua_State *L, const char *folder) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  luaL_addgsub(&buffer, "@/?.lua;@/?/init.lua;", "@", folder);
  luaL_pushresult(&buffer);
}

/* Puts the folders before package.path. */
static void set_path(lua_State *L) {
  int base = lua_gettop(L);
  char exe[PATH_MAX];
  const char *home = getenv("TURBOCI_HOME");
  if (home && *home) add_path(L, lua_pushfstring(L, "%s/lua", home)), lua_remove(L, -2);
  ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
  if (len > 0) {
    exe[len] = '\0';
    add_path(L, lua_pushfstring(L, "%s/../share/turboci/lua", dirname(exe)));
    lua_remove(L, -2);
  }
  add_path(L, TURBOCI_SOURCE_DIR "/lua");
  lua_getglobal(L, "package");
  lua_insert(L, base + 1);
  lua_getfield(L, base + 1, "path");
  lua_concat(L, lua_gettop(L) - base - 1);
  lua_setfield(L, base + 1, "path");
  lua_settop(L, base);
}

static int traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

/* Runs protected: raising here is told and becomes the exit code. */
static int run(lua_State *L) {
  const arguments *args = lua_touserdata(L, 1);
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_turboci_core);
  lua_setfield(L, -2, "turboci.core");
  set_path(L);
  lua_createtable(L, args->argc, 1);
  for (int i = 0; i < args->argc; i++) {
    lua_pushstring(L, args->argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_pushvalue(L, -1);
  lua_setglobal(L, "arg");
  lua_getglobal(L, "require");
  lua_pushliteral(L, "turboci.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_pushvalue(L, -3); /* arg */
  lua_call(L, 1, 1);
  int code = lua_isinteger(L, -1) ? (int)lua_tointeger(L, -1) : lua_isboolean(L, -1) && !lua_toboolean(L, -1);
  lua_pushinteger(L, code);
  return 1;
}

/* The lowest free descriptor is the one that was found closed. Runs before the constructors of the libraries, some of
 * which open descriptors; by bare system calls, since a sanitizer has not made its own calls ready yet. */
__attribute__((no_sanitize("address", "thread", "undefined"))) static void open_standard_streams(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (syscall(SYS_fcntl, fd, F_GETFD) < 0) syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR);
}

__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(void) = open_standard_streams;

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (!L) {
    fputs("turboci: out of memory\n", stderr);
    return EXIT_RAISED;
  }
  arguments args = {argc, argv};
  lua_pushcfunction(L, traceback);
  lua_pushcfunction(L, run);
  lua_pushlightuserdata(L, &args);
  int code = EXIT_RAISED;
  if (lua_pcall(L, 1, 1, 1) == LUA_OK)
    code = (int)lua_tointeger(L, -1);
  else
    fprintf(stderr, "turboci: %s\n", lua_tostring(L, -1));
  lua_close(L); /* stops servers, hosts and the hub */
  return code;
}
