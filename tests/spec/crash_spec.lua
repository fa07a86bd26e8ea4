-- world: grpc, alone
-- kill -9. Separate processes work through plans (a server, two shell runners, `submit --wait`) while the server is
-- killed at 20 random points and started again on the same file and address. A recorder outside writes a plan of its
-- own and watches; after each restart it compares all that was acknowledged to it with what the server has.
--
-- A point is the n-th happening since the last restart: an event of a watch, or an acknowledgement. TURBOCI_SEED
-- repeats the choice of points.

local cjson = require "cjson"
local loop = require "turboci.loop"
local process = require "process"
local uv = require "luv"

local KILLS, HAPPENINGS_MAX = 20, 120
local STAGES = 9

local seed = math.tointeger(tonumber(os.getenv "TURBOCI_SEED")) or (uv.hrtime() ~ uv.os_getpid()) & 0xffffffff

-- Sync and async stages that each leave a line in a file: what really ran.
local workflow = [[
local turboci = require "turboci"
local p = ...
local plan = turboci.plan { name = "crash-" .. p.n }
local again = { max_attempts = 100, backoff = "10ms", backoff_max = "50ms" }
local function stage(id, mode, after, check)
  plan:stage(id, {
    runner = "shell", mode = mode, after = after, finalizes = check, retry = again,
    args = { command = { "/bin/sh", "-c", ("echo %s >> %s; echo ran %s"):format(id, p.log, id) } },
  })
end
local built, tested = plan:check("built"), plan:check("tested")
stage("fetch", "async")
for i = 1, 3 do
  stage("build" .. i, i % 2 == 0 and "sync" or "async", "fetch")
  stage("test" .. i, i % 2 == 0 and "async" or "sync", "build" .. i, tested)
end
stage("link", "sync", { "build1", "build2", "build3" }, built)
stage("deploy", "async", { built, tested })
return plan
]]

local folder, server, random

-- ---- points ----

local happenings, kill_at, kills, armed

local function happened()
  happenings = happenings + 1
  if armed and happenings >= kill_at then
    armed = false
    kills = kills + 1
    server:signal "sigkill"
  end
  process.wake()
end

local function arm()
  kill_at, armed = happenings + random(HAPPENINGS_MAX), kills < KILLS
end

-- ---- what was acknowledged ----

local recorder

local function note_version(kind, id, version)
  local key = kind .. " " .. id
  local known = recorder.versions[key] or 0
  assert(version >= known, ("%s went back from version %d to %d"):format(key, known, version))
  recorder.versions[key] = version
end

local comparing = false -- the server is down, or is being compared with what it acknowledged

local function server_is_back()
  process.wait(function() return not comparing and not server.exit end, "the server to be back")
end

-- Each write changes two checks alike, and adds a third: whole or not at all.
local function write(n)
  local response, err = server.client:write_nodes {
    work_plan_id = recorder.plan,
    checks = {
      { id = "left", options = { n = n } },
      { id = "right", options = { n = n } },
      { id = "n" .. n, kind = "k" .. n, state = "FINAL", result = {
        owner_type = "spec", owner_id = "recorder", data = { n = n }, finalize = true } },
    },
  }
  if not response then
    assert(err.code == "UNAVAILABLE", tostring(err))
    return false
  end
  for _, check in ipairs(response.checks) do note_version("check", check.id, check.version) end
  recorder.acknowledged = n
  return true
end

local function record()
  local n = 0
  while not recorder.stop do
    n = n + 1
    repeat server_is_back() until write(n)
    happened()
    -- As often as the others get on, and no faster.
    local seen = happenings
    process.wait(function() return happenings > seen or recorder.stop end, "anything else to happen")
  end
end

local function verify()
  local plan = assert(server.client:get_work_plan { id = recorder.plan }).work_plan
  note_version("plan", plan.id, plan.version)
  local found = {}
  local nodes = assert(server.client:query_nodes { work_plan_id = recorder.plan, include_checks = true })
  for _, check in ipairs(nodes.checks) do
    found[check.id] = check
    note_version("check", check.id, check.version)
  end
  local n = recorder.acknowledged
  if found.left then
    assert.equal(found.left.options.n, found.right.options.n)
    assert.is_true(found.left.options.n == n or found.left.options.n == n + 1)
    n = found.left.options.n
  end
  for i = 1, n do
    local check = assert(found["n" .. i], ("the acknowledged write %d is gone"):format(i))
    assert.equal("FINAL", check.state)
    assert.equal("k" .. i, check.kind)
    assert.same({ n = i }, check.results[1].data)
  end
  assert.is_nil(found["n" .. n + 1])
end

-- ---- watching ----

local function line(event)
  local part = event.stage_event or event.check_event
  if not part then return event.sequence .. " completed" end
  local node = part.stage or part.check
  return ("%d %s %s>%s v%d %d"):format(event.sequence, node.id, part.old_state, part.new_state, node.version,
    #(node.attempts or node.results))
end

-- Watches the plan over any number of restarts until it settles; what it saw, a line each.
local function watch(plan)
  local seen, last = {}, 1
  loop.spawn(function()
    repeat
      server_is_back()
      local stream = server.client:watch {
        work_plan_id = plan, after_sequence = last,
        include_checks = true, include_stages = true, include_progress = true,
      }
      repeat
        local event = stream:next()
        if event then
          assert(event.sequence > last, "the sequence went back")
          last = event.sequence
          seen[#seen + 1] = line(event)
          seen.completed = event.completed_event
          happened()
        end
      until not event or seen.completed
      stream:close()
    until seen.completed
  end)
  return seen
end

local function restart()
  assert.equal(9, server:ended().signal)
  comparing = true
  server = server:again()
  verify()
  comparing = false
  arm()
  process.wake()
end

-- From now on no kill; one that is on its way already is dealt with.
local function disarm()
  while armed or not server.client:get_server_info {} do
    if not armed then restart() end
    armed = false
  end
end

-- ---- a plan's end ----

local function count_lines(path)
  local counts = {}
  for text in io.lines(path) do counts[text] = (counts[text] or 0) + 1 end
  return counts
end

local function check_end(plan, log, seen)
  local nodes = assert(server.client:query_nodes { work_plan_id = plan, include_checks = true, include_stages = true })
  assert.equal(STAGES, #nodes.stages)
  local ran = count_lines(log)
  for _, stage in ipairs(nodes.stages) do
    assert.equal("SUCCEEDED", stage.outcome)
    assert.equal("COMPLETE", stage.attempts[#stage.attempts].state)
    for i, attempt in ipairs(stage.attempts) do
      assert.equal(i, attempt.idx)
      if i < #stage.attempts then assert.equal("INCOMPLETE", attempt.state) end
    end
    assert.is_true(ran[stage.id] >= 1, stage.id .. " never ran")
    assert.is_true(ran[stage.id] <= #stage.attempts, stage.id .. " ran more often than it was attempted")
  end
  for _, check in ipairs(nodes.checks) do assert.equal("SUCCEEDED", check.outcome) end
  for _, execution in ipairs(assert(server.client:list_stage_executions { work_plan_id = plan }).executions) do
    assert.is_true(execution.state == "COMPLETE" or execution.state == "FAILED", execution.state)
  end
  -- The pieces that were seen between the kills are the whole story, as anyone reads it later.
  local whole = process.follow(server, plan, 1)
  whole:wait_settled()
  local lines = {}
  for i, event in ipairs(whole.events) do lines[i] = line(event) end
  whole:close()
  seen.completed = nil
  assert.same(lines, seen)
end

local function run_plan(n)
  local log = ("%s/ran-%d"):format(folder, n)
  io.open(log, "w"):close()
  local submit = process.start {
    "submit", folder .. "/plan.lua", "--server", server.address, "--wait", "--json", "--", "n=" .. n, "log=" .. log,
  }
  local seen
  while not submit.exit or not (seen and seen.completed) do
    local plan = not seen and submit.out:match '"type":"plan"[^\n]*' and submit.out:match "[^\n]+"
    if plan then
      plan = cjson.decode(plan).plan
      seen = watch(plan)
      recorder.last_plan = plan
    end
    process.wait(function()
      if server.exit then return true end
      if not seen then return submit.exit or submit.out:match "\n" end
      return submit.exit and seen.completed
    end, "plan " .. n)
    if server.exit then restart() end
    if submit.exit and not seen then error("submit ended early:\n" .. process.said()) end
  end
  assert.equal(0, submit.exit.code, submit.out .. submit.err)
  disarm()
  check_end(recorder.last_plan, log, seen)
  armed = kills < KILLS
end

describe("kill -9 of the server", function()
  before_each(function()
    folder = process.new_folder()
    math.randomseed(seed)
    random = math.random
    local file = assert(io.open(folder .. "/plan.lua", "w"))
    file:write(workflow)
    file:close()
  end)

  after_each(function() process.clean(folder) end)

  it(("at %d random points loses nothing (TURBOCI_SEED=%d)"):format(KILLS, seed), function()
    print(("crash: TURBOCI_SEED=%d"):format(seed))
    server = process.serve { folder = folder, args = { "--limit", "backoff_ms=10", "--limit", "pass_over_ms=50" } }
    for _, id in ipairs { "one", "two" } do
      process.start({ "runner", "shell", "--server", server.address, "--id", id, "-j4" }):wait_for "registered"
    end
    recorder = { versions = {}, acknowledged = 0 }
    recorder.plan = assert(server.client:create_work_plan {}).work_plan.id
    happenings, kills = 0, 0
    arm()
    local recording = loop.spawn(record)
    local plans = 0
    while kills < KILLS or server.exit do
      plans = plans + 1
      run_plan(plans)
    end
    recorder.stop = true
    process.wake()
    recording:wait()
    verify()
    assert.equal(0, server:kill "sigterm".code)
    print(("crash: %d kills, %d plans, %d writes acknowledged"):format(kills, plans, recorder.acknowledged))
  end)
end)
