-- world: grpc
-- Hostile policies (tests/spec/hostile) in a live server: whatever a script does, the built-in default decides instead,
-- the engine goes on dispatching, nobody waits, and it is told who did what.
--
-- The head of a script says its class and what it tries. "-- refused: TEXT": it must not be loaded, and the reason has
-- TEXT in it. "-- harmless": it may get an answer. All others must be caught, with 100 stages in flight. They attack
-- plans whose metadata say so.

local testing = require "turboci.testing"
local uv = require "luv"

local FOLDER = (os.getenv "TURBOCI_SOURCE" or ".") .. "/tests/spec/hostile"
local STAGES = 100
local TURN_US_MAX = 50000
local MEMORY_MAX = 8 << 20
local SANITIZED = os.getenv "TURBOCI_SANITIZED" == "1" -- then time and memory are the sanitizer's

local CLASSES = {
  "loops", "protected", "chains", "c functions", "metamethods", "memory",
  "escapes", "coroutines", "bytecode", "answers", "errors",
}

-- ---- the scripts ----

local scripts = {}

local function read_script(name)
  local script = { name = name }
  for line in io.lines(("%s/%s.lua"):format(FOLDER, name)) do
    local key, text = line:match "^%-%- (%l+):? ?(.*)$"
    if not line:match "^%-%-" then break end
    if key == "class" or key == "refused" then script[key] = text end
    if key == "harmless" and text == "" then script.harmless = true end
  end
  return script
end

do
  local names = assert(uv.fs_scandir(FOLDER))
  for file in function() return uv.fs_scandir_next(names) end do
    local name = file:match "^(%a[%w_]*)%.lua$" -- "_..." are libraries
    if name then scripts[#scripts + 1] = read_script(name) end
  end
  table.sort(scripts, function(a, b) return a.name < b.name end)
end

-- ---- the server ----

local OPTIONS = { policies = FOLDER, limits = { backoff_ms = 10, backoff_ms_max = 10, plans_in_memory_max = 1 } }

local function has(list, value)
  for _, item in ipairs(list) do
    if item == value then return true end
  end
  return false
end

-- A server, three runners of the type "test", one of the type "other".
local function start()
  local self = { env = testing.env(OPTIONS), runners = {} }
  for i, id in ipairs { "a", "b", "c" } do
    self.runners[i] = self.env:mock_runner { id = id, type = "test", on_run = function(request)
      if self.flaky and request.attempt_idx == 1 then return { stage_state = "PLANNED" } end -- PROTOCOL: is retried
    end }
  end
  self.env:mock_runner { id = "other", type = "other" }
  return self
end

local function submit(server, name, count, runner_type)
  local stages = {}
  for i = 1, count do stages[i] = { id = "s" .. i, runner_type = runner_type } end
  local quiet = { include_checks = false, include_stages = false, include_progress = false }
  local plan = server.env:create_plan({ attack = "yes" }, quiet, name)
  assert(server.env:write(plan, { stages = stages, omit_nodes = true }))
  return plan
end

local function received(server)
  local n = 0
  for _, runner in ipairs(server.runners) do n = n + #runner.received end
  return n
end

-- The plan of `count` stages whose policy is this one: all in flight at once, then let go.
local function attack(server, name, count)
  server.flaky = name and has(server.env:policy(name).hooks, "retry")
  for _, runner in ipairs(server.runners) do
    runner.received = {}
    runner:hold()
  end
  local plan = submit(server, name, count, "test")
  server.env:wait(function() return received(server) == count end)

  local meanwhile = submit(server, nil, 1, "other")
  server.env:wait(meanwhile)

  for _, runner in ipairs(server.runners) do runner:release() end
  server.env:wait(plan)
  for _, each in ipairs { meanwhile, plan } do
    assert.equal("SUCCEEDED", server.env:plan(each).outcome)
    each.events:close()
  end
  assert.equal(server.flaky and 2 * count or count, received(server))
end

local function assert_turns_short(server)
  local counters = assert(server.env.client:get_server_info {}).counters
  assert.is_true(counters.longest_turn_cpu_us > 0)
  assert.is_true(SANITIZED or counters.longest_turn_cpu_us < TURN_US_MAX,
    ("a turn took %d us of CPU time"):format(counters.longest_turn_cpu_us))
end

local function assert_caught(server, script)
  local info = server.env:policy(script.name)
  assert.is_true(info.faults > 0)
  assert.equal(script.name .. ".lua:", info.last_fault:sub(1, #script.name + 5))
  assert.is_true(info.circuit_open, "its circuit is closed after " .. info.faults .. " faults")
end

local function resident_bytes(pid)
  local file = assert(io.open(("/proc/%d/statm"):format(pid)))
  local pages = file:read("a"):match "^%d+ (%d+)"
  file:close()
  return tonumber(pages) * 4096
end

-- ---- the specs ----

describe("hostile policies:", function()
  local server

  setup(function() server = start() end)
  teardown(function() server.env:stop() end)

  it("there are at least 60, at least 4 of each class", function()
    local count = {}
    for _, script in ipairs(scripts) do
      assert.is_true(has(CLASSES, script.class), ("%s: '%s' is no class"):format(script.name, script.class))
      count[script.class] = (count[script.class] or 0) + 1
    end
    for _, class in ipairs(CLASSES) do assert.is_true((count[class] or 0) >= 4, class) end
    assert.is_true(#scripts >= 60)
  end)

  for _, script in ipairs(scripts) do
    local title = ("%s (%s)"):format(script.name, script.class)
    if script.refused then
      it(title .. " is refused", function()
        local info = server.env:policy(script.name)
        assert.equal("", info.version)
        assert.is_truthy(info.error:match "^[%w_]+%.lua:", info.error)
        assert.is_truthy(info.error:find(script.refused, 1, true), info.error)
        local _, err = server.env.client:create_work_plan { policy = script.name }
        assert.equal("INVALID_ARGUMENT", err.code)
        assert.is_truthy(table.concat(server.env.world.output, "\n"):find(info.error, 1, true))
      end)
    else
      it(title .. (script.harmless and " does no harm" or " is caught"), function()
        attack(server, script.name, STAGES)
        if not script.harmless then assert_caught(server, script) end
        assert_turns_short(server)
      end)
    end
  end

  -- How much more memory a server of its own has after the work than before.
  local function growth_of(work)
    local other = start()
    local pid = other.env.world.pid
    for _ = 1, 5 do attack(other, nil, 5) end
    local before = resident_bytes(pid)
    work(other)
    local more = resident_bytes(pid) - before
    assert_turns_short(other)
    other.env:stop()
    return more
  end

  local function assert_memory_back(more)
    assert.is_true(SANITIZED or more < MEMORY_MAX, ("%.1f MiB more than before"):format(more / (1 << 20)))
  end

  it("all of them together leave the memory as it was", function()
    assert_memory_back(growth_of(function(other)
      for _, script in ipairs(scripts) do
        if not script.refused then attack(other, script.name, 5) end
      end
    end))
  end)

  it("what one keeps from call to call is bounded", function()
    assert_memory_back(growth_of(function(other)
      for _ = 1, 4 do attack(other, "memory_kept", STAGES) end
    end))
  end)
end)
