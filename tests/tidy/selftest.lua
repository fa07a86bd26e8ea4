-- Plants violations and expects the tidy checker to find each of them, and nothing in clean files.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;" .. package.path
local tidy = require "tidy"

local C = "/* what it is for */\n"
local later = "TO" .. "DO"

-- path, text, what the only violation says (a plain substring); false: the file is clean.
local cases = {
  -- floors
  { "engine/core/a.c", C .. '#include "base/str.h"\n#include "core/model.h"\n', false },
  { "engine/app/a.c", C .. '#include "store/store.h"\n#include "rpc/rpc.h"\n#include "base/log.h"\n', false },
  { "engine/lua/a.c", C .. '#include "app/engine.h"\n#include <lua.h>\n', false },
  { "engine/script/a.c", C .. '#include <lua.h>\n#include <openssl/evp.h>\n#include "core/policy.h"\n', false },
  { "engine/app/a.c", C .. "#include <openssl/evp.h>\n", "library: <openssl/evp.h> does not belong in engine/app" },
  { "engine/script/a.c", C .. '#include "store/store.h"\n',
    "engine/script (floor 3) includes store/store.h (floor 3)" },
  { "engine/base/a.c", C .. '#include "core/model.h"\n',
    "engine/base/a.c:2: floors: engine/base (floor 1) includes core/model.h" },
  { "engine/core/a.c", C .. '#include "store/store.h"\n', "floors: engine/core (floor 2)" },
  { "engine/store/a.c", C .. '\n#  include "rpc/rpc.h"\n', "engine/store/a.c:3: floors:" },
  { "engine/rpc/a.h", C .. '#include "script/sandbox.h"\n', "floors: engine/rpc (floor 3) includes script/sandbox.h" },
  { "engine/rpc/a.c", C .. '#include "app/engine.h"\n', "floors:" },
  { "engine/app/a.c", C .. '#include <lua/module.h>\n', "floors: engine/app (floor 4) includes lua/module.h" },
  { "engine/attic/a.c", C, "floors: engine/attic is not a room" },
  { "engine/app/a.c", C .. '#include "server.h"\n', 'included as "room/file.h"' },
  -- library
  { "engine/store/a.c", C .. "#include <sqlite3.h>\n", false },
  { "engine/rpc/a.c", C .. '#include <grpc/grpc.h>\n#include "turboci/v1/check.pb-c.h"\n', false },
  { "engine/app/a.c", C .. "#include <sqlite3.h>\n", "library: <sqlite3.h> does not belong in engine/app" },
  { "engine/lua/a.c", C .. "#include <grpc/grpc.h>\n", "library: <grpc/grpc.h>" },
  { "engine/store/a.c", C .. '#include "tci/wire/v1/check.pb-c.h"\n', "library: <tci/wire/v1/check.pb-c.h>" },
  { "engine/rpc/a.c", C .. "#include <lauxlib.h>\n", "library: <lauxlib.h>" },
  -- purity
  { "engine/core/a.c", C .. "#include <string.h>\nint x; /* printf, time() */\n", false },
  { "engine/core/a.c", C .. "const char *s = \"sqlite3_open \\\" rand\";\n", false },
  { "engine/core/a.h", C .. "char *f(const char *p, ...) __attribute__((format(printf, 1, 2)));\n", false },
  { "engine/core/a.c", C .. "int f(tci_time now) { return now.time(0) + p->clock(); }\n", false },
  { "engine/core/a.c", C .. "#include <time.h>\n", "purity: the core includes <time.h>" },
  { "engine/core/a.c", C .. "#include <stdio.h>\n", "purity: the core includes <stdio.h>" },
  { "engine/core/a.h", C .. "#include <pthread.h>\n", "purity: the core includes <pthread.h>" },
  { "engine/core/a.c", C .. '#include "base/clock.h"\n', "purity: the core includes base/clock.h" },
  { "engine/core/a.c", C .. '#include "base/log.h"\n', "purity: the core includes base/log.h" },
  { "engine/core/a.c", C .. '#include "base/queue.h"\n', "purity: the core includes base/queue.h" },
  { "engine/core/a.c", C .. "int f(void) { return rand(); }\n", "purity: rand (randomness)" },
  { "engine/core/a.c", C .. "long f(void) { return random(); }\n", "purity: random() (randomness)" },
  { "engine/core/a.c", C .. "uint8_t random[32];\n", false },
  { "engine/core/a.c", C .. "long t = time (0);\n", "purity: time() (a clock)" },
  { "engine/core/a.c", C .. "int r = clock_gettime(0, &t);\n", "purity: clock_gettime" },
  { "engine/core/a.c", C .. "int r = gettimeofday(&t, 0);\n", "purity: gettimeofday" },
  { "engine/core/a.c", C .. "int r = getrandom(b, 4, 0);\n", "purity: getrandom" },
  { "engine/core/a.c", C .. 'int r = snprintf(b, 4, "x");\n', "purity: snprintf (stdio)" },
  { "engine/core/a.c", C .. "sqlite3 *db;\n", "purity: sqlite3 (SQLite)" },
  { "engine/core/a.c", C .. "void f(lua_State *s);\n", "purity: lua_State (Lua)" },
  { "engine/core/a.c", C .. "grpc_call *call;\n", "purity: grpc_call (gRPC)" },
  { "engine/core/a.c", C .. "/* a */ pthread_t t;\n", "purity: pthread_t (a thread)" },
  { "engine/core/a.c", C .. "int64_t t = tci_clock_mono_us();\n", "purity: tci_clock_mono_us" },
  { "engine/app/a.c", C .. "#include <stdio.h>\n#include <pthread.h>\nint r = rand();\n", false },
  -- world
  { "tests/spec/basic_spec.lua", "env:wait(done)\n", false },
  { "tests/spec/basic_spec.lua", "env:advance(60)\n", "world: a shared spec advances the clock" },
  { "tests/spec/basic_spec.lua", 'env:advance "1m"\n', "tests/spec/basic_spec.lua:1: world: a shared spec advances" },
  { "tests/spec/basic_spec.lua", 'if os.getenv "TURBOCI_WORLD" == "grpc" then end\n', "world: a shared spec asks" },
  { "tests/spec/basic_spec.lua", 'if env.world == "grpc" then end\n', "world: a shared spec asks" },
  { "tests/spec/basic_spec.lua", "\n\n\n\n\n-- world: virtual\nenv:advance(1)\n", "world: a shared spec advances" },
  { "tests/spec/time_spec.lua", "-- Long waits.\n-- world: virtual\nenv:advance(60)\n", false },
  { "tests/spec/time_spec.lua", "-- world: both\n", "world: 'both' is neither" },
  { "tests/spec/lua/testing_spec.lua", "env:advance(60)\n", false },
  -- sleep
  { "tests/unit/test_a.c", C .. "/* never sleep */\n", false },
  { "tests/spec/shell_spec.lua", 'plan:stage("s", { args = { command = "sleep 100" } }) -- sleep(1)\n', false },
  { "tests/unit/test_a.c", C .. "void f(void) { usleep(1000); }\n", "sleep: tests wait on events" },
  { "tests/unit/test_a.c", C .. "void f(void) { nanosleep(&t, 0); }\n", "sleep:" },
  { "tests/spec/lua/a_spec.lua", "require('system').sleep(1)\n", "sleep:" },
  { "tests/spec/lua/a_spec.lua", "os.execute('sl" .. "eep 1')\n", "sleep:" },
  { "tests/foreign/test_a.py", "import time\ntime.sleep(1)\n", "tests/foreign/test_a.py:2: sleep:" },
  { "tests/foreign/test_a.py", '"""\nno sleep\n"""\nx = 1  # sleep\n', false },
  { "tests/run.sh", "while true; do sleep 1; done\n", "sleep:" },
  -- comment
  { "engine/base/a.c", "\n// what it is for\n", false },
  { "engine/base/a.c", "#include <string.h>\n", "engine/base/a.c:1: comment:" },
  { "tests/unit/test_a.c", "int main(void) {}\n", "comment:" },
  -- later
  { "lua/turboci/a.lua", "-- " .. later .. ": more\n", "later: " .. later },
  { "examples/a.lua", "-- FIX" .. "ME\n", "later:" },
  { "lua/turboci/a.lua", "-- a todo list; TODOS = 1\n", false },
}

local failures = 0
local function expect(holds, ...)
  if holds then return end
  failures = failures + 1
  print("FAILED: " .. table.concat({ ... }, " "))
end

for i, case in ipairs(cases) do
  local path, text, expected = table.unpack(case)
  local found = tidy.check { { path = path, text = text } }
  local all = table.concat(found, " | ")
  if expected then
    expect(#found == 1 and all:find(expected, 1, true),
           ("case %d (%s): expected '%s', found: %s"):format(i, path, expected, all))
  else
    expect(#found == 0, ("case %d (%s): expected none, found: %s"):format(i, path, all))
  end
end

-- The script itself: a tree with a violation makes it fail and names it; an empty tree fails too.
local function run(project)
  local pipe = assert(io.popen(("lua5.4 '%s/floors.lua' '%s' 2>&1"):format(here, project)))
  local output = pipe:read "a"
  return pipe:close(), output
end
local tree = os.tmpname()
os.remove(tree)
assert(os.execute(("mkdir -p '%s/engine/core'"):format(tree)))
local ok, output = run(tree)
expect(not ok and output:find("no C files", 1, true), "an empty tree passes:", output)
local planted = assert(io.open(tree .. "/engine/core/clean.c", "w"))
planted:write(C)
planted:close()
ok, output = run(tree)
expect(ok and output:find("1 files, 0 violations", 1, true), "a clean tree fails:", output)
planted = assert(io.open(tree .. "/engine/core/planted.c", "w"))
planted:write(C, "#include <sqlite3.h>\n")
planted:close()
ok, output = run(tree)
expect(not ok and output:find("engine/core/planted.c:2: ", 1, true), "a planted violation passes:", output)
os.execute(("rm -r '%s'"):format(tree))

print(("tidy selftest: %d cases, %d failures"):format(#cases + 3, failures))
os.exit(failures == 0)
