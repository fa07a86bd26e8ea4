-- Do the tests notice? Changes one small thing in engine/core, builds, runs the tests until one fails; then the next.
--
--     lua5.4 tests/mutate/mutate.lua [SEED [COUNT]]       in the project's root; ./dev mutate does
--
-- COUNT changes (150) are drawn: a function by its lines, a kind of change, a place in it (tests/mutate/sites.lua). The
-- same seed on the same sources draws the same. What does not compile is drawn anew. A test that fails, crashes or
-- hangs has caught the change; a change that means the same (equivalent) survives like every other. Survivors are
-- listed, and so is the share of those that were caught; when that is below 85 % it exits 1.
--
-- Everything happens in copies: build/mutate/main is the tree as it was at the start, and two workers (this program
-- again, with --worker) have one each, with builds of their own. Tests, the quick ones first: the core's unit tests,
-- the simulator with few seeds, the specs of the virtual world, the simulator with all its seeds, and for what got so
-- far, unit tests and simulator once more under AddressSanitizer, which sees a leak or an overrun.

local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;" .. package.path
local sites = require "sites"

local ROOT = "build/mutate"
local WORKERS = 2
local COUNT, SHARE = 150, 85 -- percent
local COPIED = "CMakeLists.txt engine lua proto policies tests examples"
local HANG_S, HANG_TIMES = 5, 10 -- a test hangs when it takes this long, or so many times its usual time

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function shell(format, ...)
  return (os.execute(format:format(...)))
end

local function must(format, ...)
  if not shell(format, ...) then error("failed: " .. format:format(...), 0) end
end

local function lines_of(command)
  local out = {}
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do out[#out + 1] = line end
  pipe:close()
  return out
end

local function seconds()
  local file = assert(io.open "/proc/uptime")
  local n = file:read "n"
  file:close()
  return n
end

local function copy(from, to)
  must("rm -rf '%s' && mkdir -p '%s' && cd '%s' && cp -a %s \"$OLDPWD/%s\"", to, to, from, COPIED, to)
end

local function describe(m)
  return ("%s:%d:%d %s, %s: %s"):format(m.file, m.line, m.column, m.place, m.kind, m.what)
end

-- ---- drawing ----

-- All places of the core: { file, name, lines, kinds = kind -> changes not yet drawn }.
local function places_of(folder)
  local out, total = {}, 0
  for _, path in ipairs(lines_of(("cd '%s' && ls engine/core/*.c"):format(folder))) do
    for _, place in ipairs(sites.of(read(folder .. "/" .. path))) do
      local kinds, names = {}, {}
      for _, change in ipairs(place.changes) do
        if not kinds[change.kind] then
          kinds[change.kind] = {}
          names[#names + 1] = change.kind
        end
        table.insert(kinds[change.kind], change)
      end
      out[#out + 1] = { file = path, name = place.name, lines = place.lines, kinds = kinds, names = names }
      total = total + place.lines
    end
  end
  return out, total
end

local function compiles(folder, m)
  local text = sites.apply(read(folder .. "/" .. m.file), m)
  local path = folder .. "/engine/core/mutant.c"
  write(path, text)
  local good = shell("gcc -std=gnu17 -fsyntax-only -w -I '%s/engine' '%s' 2>/dev/null", folder, path)
  os.remove(path)
  return good
end

local function draw(folder, seed, count)
  math.randomseed(seed)
  local places, total = places_of(folder)
  local drawn, refused = {}, 0
  while #drawn < count and total > 0 do
    local ticket, k = math.random(total), 1
    while ticket > places[k].lines do
      ticket = ticket - places[k].lines
      k = k + 1
    end
    local place = places[k]
    local n = math.random(#place.names)
    local kind = place.names[n]
    local change = table.remove(place.kinds[kind], math.random(#place.kinds[kind]))
    if #place.kinds[kind] == 0 then table.remove(place.names, n) end
    if #place.names == 0 then
      total = total - place.lines
      table.remove(places, k)
    end
    change.file, change.place = place.file, place.name
    if compiles(folder, change) then
      drawn[#drawn + 1] = change
    else
      refused = refused + 1
    end
  end
  return drawn, refused
end

local function save(path, drawn)
  local out = { "return {\n" }
  for _, m in ipairs(drawn) do
    out[#out + 1] = ("{ file = %q, place = %q, kind = %q, what = %q, "):format(m.file, m.place, m.kind, m.what)
    out[#out + 1] = ("line = %d, column = %d, from = %d, to = %d, with = %q },\n"):format(m.line, m.column, m.from,
      m.to, m.with)
  end
  out[#out + 1] = "}\n"
  write(path, table.concat(out))
end

-- ---- a worker ----

local Worker = {}
Worker.__index = Worker

local function new_worker(number)
  local self = setmetatable({ folder = ("%s/%s"):format(ROOT, number) }, Worker)
  self.source = self.folder .. "/source"
  copy(ROOT .. "/main", self.source)
  must("touch '%s'/engine/core/*.c", self.source) -- what a run before this one built of them was changed
  self.units = {}
  local of_the_core = [[cd '%s' && grep -lE '"core_(fixture|test)\.h"' tests/unit/test_*.c]]
  for _, path in ipairs(lines_of(of_the_core:format(self.source))) do
    self.units[#self.units + 1] = path:match "(test_[%w_]+)%.c$"
  end
  -- -w: what would only be a warning is a change like any other.
  local flags = "-G Ninja -DCMAKE_C_COMPILER=gcc -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS='-O1 -w'"
  must("cmake -S '%s' -B '%s/plain' %s >'%s/log' 2>&1", self.source, self.folder, flags, self.folder)
  must("cmake -S '%s' -B '%s/asan' %s -DTCI_SANITIZE=address,undefined >'%s/log' 2>&1", self.source, self.folder, flags,
    self.folder)
  return self
end

function Worker:run(command, limit)
  local started = seconds()
  local ok = shell("timeout -k 1 %d %s >'%s/log' 2>&1", math.ceil(limit), command, self.folder)
  return ok, seconds() - started
end

-- Builds what a stage needs. A linker has nothing to refuse once the compiler has agreed.
function Worker:build(stage)
  must("ninja -C '%s/%s' %s >'%s/log' 2>&1 || { tail -n 20 '%s/log' >&2; exit 1; }", self.folder, stage.build,
    stage.targets, self.folder, self.folder)
end

-- Runs all tests of a stage on unchanged sources; they must pass, and it shows how long they take.
function Worker:pass(stage)
  self:build(stage)
  for _, test in ipairs(stage.tests) do
    local ok, took = self:run(test.command, 600)
    if not ok then error(("%s fails without any change:\n%s"):format(test.name, read(self.folder .. "/log")), 0) end
    test.seconds = took
  end
end

-- The stages, each with its tests.
function Worker:prepare()
  local units = table.concat(self.units, " ")
  local programs = { plain = {}, asan = {} }
  for build, list in pairs(programs) do
    for _, unit in ipairs(self.units) do
      list[#list + 1] = { name = unit, command = ("'%s/%s/unit/%s'"):format(self.folder, build, unit) }
    end
    list[#list + 1] = { name = "sim, 10 seeds", command = ("'%s/%s/sim/sim' --seeds 10"):format(self.folder, build) }
  end
  for _, test in ipairs(programs.asan) do
    test.name = test.name .. " (asan)"
    test.command = ("env LSAN_OPTIONS=suppressions='%s/tests/sanitize/lsan.supp' %s"):format(self.source, test.command)
  end
  local specs = ("sh '%s/tests/run-specs.sh' lua5.4 '%s/plain' virtual mutate --no-keep-going"):format(self.source,
    self.folder)
  self.stages = {
    { build = "plain", targets = "sim " .. units, tests = programs.plain },
    { build = "plain", targets = "turboci_core", tests = { { name = "specs, virtual", command = specs } } },
    { build = "plain", targets = "sim", tests = { { name = "sim", command = self.folder .. "/plain/sim/sim" } } },
    { build = "asan", targets = "sim " .. units, tests = programs.asan },
  }
  for _, stage in ipairs(self.stages) do
    self:pass(stage)
    table.sort(stage.tests, function(a, b) return a.seconds < b.seconds end)
  end
end

-- The name of the test that caught it; nil: none did.
function Worker:try(m)
  local path = ("%s/%s"):format(self.source, m.file)
  local original = read(path)
  write(path, sites.apply(original, m))
  local caught
  for _, stage in ipairs(self.stages) do
    self:build(stage)
    for _, test in ipairs(stage.tests) do
      if not self:run(test.command, math.max(HANG_S, test.seconds * HANG_TIMES)) then
        caught = test.name
        break
      end
    end
    if caught then break end
  end
  write(path, original)
  return caught
end

local function work(number)
  io.stdout:setvbuf "line"
  local drawn = dofile(ROOT .. "/drawn.lua")
  local worker = new_worker(number)
  worker:prepare()
  for i, m in ipairs(drawn) do
    if shell("mkdir '%s/claims/%d' 2>/dev/null", ROOT, i) then -- else the other one has it
      local caught = worker:try(m)
      write(("%s/claims/%d/result"):format(ROOT, i), caught or "")
      print(("[%d/%d] %s: %s"):format(i, #drawn, caught and "caught by " .. caught or "SURVIVED", describe(m)))
    end
  end
  -- What was caught was caught for its change: without one, everything still passes.
  for _, stage in ipairs(worker.stages) do worker:pass(stage) end
end

-- ---- the whole ----

-- The optimiser finds no difference: it means the same.
local function is_same_code(m)
  local path = ROOT .. "/main/" .. m.file
  local original = read(path)
  local command = "gcc -std=gnu17 -O2 -w -I '%s/main/engine' -c '%s' -o '%s/%s.o'"
  must(command, ROOT, path, ROOT, "original")
  write(path, sites.apply(original, m))
  must(command, ROOT, path, ROOT, "changed")
  write(path, original)
  return shell("cmp -s '%s/original.o' '%s/changed.o'", ROOT, ROOT)
end

local function result_of(i)
  local file = io.open(("%s/claims/%d/result"):format(ROOT, i))
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

local function line_of(m)
  local number = 0
  for line in read(ROOT .. "/main/" .. m.file):gmatch "([^\n]*)\n" do
    number = number + 1
    if number == m.line then return line:match "^%s*(.-)%s*$" end
  end
end

local function main(seed, count)
  must("mkdir -p '%s' && rm -rf '%s/claims' && mkdir '%s/claims'", ROOT, ROOT, ROOT)
  copy(".", ROOT .. "/main")
  print(("mutate: seed %d, %d changes; again: ./dev mutate %d %d"):format(seed, count, seed, count))
  local drawn, refused = draw(ROOT .. "/main", seed, count)
  save(ROOT .. "/drawn.lua", drawn)
  print(("mutate: %d drawn (%d did not compile); building and running the tests unchanged"):format(#drawn, refused))
  local command = {}
  for number = 1, WORKERS do command[#command + 1] = ("lua5.4 '%s' --worker %d & "):format(arg[0], number) end
  shell("%s wait", table.concat(command))

  local caught, survivors, kinds, by = 0, {}, {}, {}
  for i, m in ipairs(drawn) do
    local result = result_of(i)
    if not result then error(("change %d was not tried: see above"):format(i), 0) end
    local kind = kinds[m.kind] or { caught = 0, all = 0 }
    kinds[m.kind], kind.all = kind, kind.all + 1
    if result == "" then
      survivors[#survivors + 1] = m
    else
      caught, kind.caught = caught + 1, kind.caught + 1
      by[result] = (by[result] or 0) + 1
    end
  end
  local function print_sorted(map, text)
    local names = {}
    for name in pairs(map) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do print(text(name, map[name])) end
  end
  print "mutate: caught by"
  print_sorted(by, function(name, n) return ("  %4d %s"):format(n, name) end)
  print "mutate: kinds"
  print_sorted(kinds, function(name, kind) return ("  %4d of %-4d %s"):format(kind.caught, kind.all, name) end)
  if #survivors > 0 then print "mutate: survivors" end
  for _, m in ipairs(survivors) do
    local note = is_same_code(m) and " (equivalent: the same machine code)" or ""
    print(("  %s%s\n      %s"):format(describe(m), note, line_of(m)))
  end
  local share = caught * 100 / #drawn
  print(("mutate: seed %d: %d of %d caught, %.1f %% (at least %d)"):format(seed, caught, #drawn, share, SHARE))
  return share >= SHARE
end

if arg[1] == "--worker" then
  local ok, err = pcall(work, arg[2])
  if not ok then
    io.stderr:write("mutate: worker ", arg[2], ": ", tostring(err), "\n")
    os.exit(1)
  end
else
  local seed = not arg[1] and os.time() or math.tointeger(tonumber(arg[1]))
  local count = not arg[2] and COUNT or math.tointeger(tonumber(arg[2]))
  if not seed or not count or count < 1 then
    io.stderr:write "usage: mutate.lua [SEED [COUNT]]\n"
    os.exit(2)
  end
  local ok, good = pcall(main, seed, count)
  if not ok then io.stderr:write("mutate: ", tostring(good), "\n") end
  os.exit(ok and good)
end
