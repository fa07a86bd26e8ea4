-- turboci.replay and `turboci policy replay`: histories made by a virtual engine on a file, then replayed under other
-- policies. No time passes for real.

local cjson = require "cjson"
local core = require "turboci.core"
local replay = require "turboci.replay"
local testing = require "turboci.testing"
local uv = require "luv"

local program = os.getenv "TURBOCI_BIN"

describe("a replay", function()
  local folder, db, env

  before_each(function()
    folder = assert(uv.fs_mkdtemp "/tmp/tci-replay-XXXXXX")
    db = folder .. "/ci.db"
  end)

  after_each(function()
    if env then env:stop() end
    env = nil
    local scan = uv.fs_scandir(folder)
    for name in function() return uv.fs_scandir_next(scan) end do os.remove(folder .. "/" .. name) end
    uv.fs_rmdir(folder)
  end)

  -- ---- making history ----

  local function policy(name, source)
    local path = ("%s/%s.lua"):format(folder, name)
    local file = assert(io.open(path, "w"))
    file:write(source)
    file:close()
    return path
  end

  local function start(options)
    options = options or {}
    options.world, options.db = "virtual", db
    env = testing.env(options)
    return env
  end

  local function stop()
    env:stop()
    env = nil
  end

  local function pause(seconds)
    env.world:await(function(resume) env.world:after(math.floor(seconds * 1000000), resume) end)
  end

  -- A runner that takes `seconds(request)` and then does what `ends(request)` says; one thing at a time.
  local function worker(id, seconds, given, ends)
    given = given or {}
    given.id, given.type, given.max_concurrent = id, given.type or "build", given.max_concurrent or 1
    local function work(request)
      local took = type(seconds) == "table" and (seconds[request.stage_id] or seconds[1]) or seconds
      pause(took)
      if ends then return ends(request) end
    end
    if given.modes and given.modes[1] == "ASYNC" then
      given.auto_complete = false
      given.on_run_async = function(request, runner)
        env:spawn(function()
          work(request)
          if runner.pending[request.execution_id] then runner:complete(request) end
        end)
      end
    else
      given.on_run = work
    end
    return env:mock_runner(given)
  end

  local function stage(id, fields)
    local out = { id = id, runner_type = "build" }
    for key, value in pairs(fields or {}) do out[key] = value end
    if out.after then
      out.dependencies = { predicate = "AND", dependencies = {
        { target_type = "STAGE", target_id = out.after, condition = "ON_SUCCESS" } } }
      out.after = nil
    end
    return out
  end

  local function run(path, options)
    options = options or {}
    options.db, options.policy = options.db or db, path
    local result, err = replay.run(options)
    assert(result, err and err.message)
    return result
  end

  -- "b#1: wait" of every decision that differs.
  local function differing(result)
    local out = {}
    for i, row in ipairs(result.decisions) do
      out[i] = ("%s#%d: %s"):format(row.stage, row.attempt, table.concat(row.differs, " "))
    end
    return out
  end

  local function decision(result, stage_id, attempt)
    for _, row in ipairs(result.decisions) do
      if row.stage == stage_id and row.attempt == (attempt or 1) then return row end
    end
    error(("no decision of %s differs"):format(stage_id), 2)
  end

  local function same(result)
    assert.same({}, differing(result))
    assert.same(result.was, result.now)
    for _, row in ipairs(result.runners) do assert.same(row.was, row.now) end
    for _, row in ipairs(result.plans) do assert.same(row.was, row.now) end
    assert.equal(0, result.unfinished)
    assert.equal(0, result.refused)
  end

  local fifo = 'return { priority = function() return 0 end }'

  -- ---- the same again ----

  it("of the policy that made the history changes nothing", function()
    local path = policy("steady", [[
      local least = require "least_loaded"
      return { select = least.select, retry = function(ctx)
        if #ctx.attempts < 3 then return { after = 2, exclude = { ctx.attempts[#ctx.attempts].runner } } end
      end }]])
    start { policy = path }
    worker("a", { 3, flaky = 1 }, { metadata = { zone = "x" } }, function(request)
      if request.stage_id == "flaky" and request.attempt_idx == 1 then return env.failure "exit code 2" end
      return env.success(request, { n = 1 })
    end)
    worker("b", 5)
    worker("slow", 200, { type = "deploy", modes = { "ASYNC" } })
    local plans = {}
    for i = 1, 3 do
      plans[i] = env:submit { checks = { { id = "tests", state = "PLANNED" } }, stages = {
        stage("one", { args = { n = i, list = core.list {}, deep = { 1, 2, { x = true } } }, priority = i }),
        stage("flaky", { assignments = { { target_check_id = "tests", goal_state = "FINAL" } } }),
        stage("two", { after = "one", timeouts = { execution_ms = 60000 } }),
        stage("ship", { after = "two", runner_type = "deploy", execution_mode = "ASYNC" }),
      } }
      env:advance "4s"
    end
    for i = 1, 3 do env:wait(plans[i]) end
    assert.stage(plans[2], "flaky").is_final { outcome = "SUCCEEDED", attempts = 2 }
    stop()
    local result = run(path)
    assert.equal(3, result.compared)
    assert.is_true(result.was.retries > 0)
    assert.equal(0, result.now.estimates)
    same(result)
    assert.equal("steady", result.decided_by[1].policy)
    assert.equal(result.policy.version, result.decided_by[1].version)
  end)

  it("of the built-in default's history by the shipped default changes nothing", function()
    start()
    worker("a", 2)
    worker("b", 3)
    local stages = {}
    for i = 1, 12 do stages[i] = stage("s" .. i, i > 6 and { after = "s" .. i - 6 } or nil) end
    env:wait(env:submit { stages = stages })
    stop()
    local result = run "default"
    same(result)
    assert.equal(12, result.was.attempts)
    assert.is_nil(result.decided_by[1].policy)
  end)

  it("knows the order of what happened in one microsecond", function()
    start()
    for _, id in ipairs { "a", "b", "c" } do worker(id, 2) end
    local plans = {}
    for i = 1, 5 do
      local stages = {}
      for k = 1, 6 do stages[k] = stage("s" .. k, k > 4 and { after = "s" .. 7 - k } or nil) end
      plans[i] = env:submit { stages = stages }
    end
    worker("d", 2) -- after them, at the same time
    for i = 1, 5 do env:wait(plans[i]) end
    stop()
    local result = run "default"
    same(result)
    assert.same({ 30, 4 }, { result.was.attempts, #result.runners })
    assert.equal(0, result.now.estimates)
  end)

  -- ---- otherwise ----

  it("of a better policy shows a shorter makespan and exactly the decisions that differ", function()
    start { policy = policy("fifo", fifo) }
    worker("r", 5)
    worker("d", 20, { type = "deploy" })
    env:wait(env:submit { metadata = { name = "site" }, stages = {
      stage "docs", stage("build", { args = { critical = true } }),
      stage("ship", { runner_type = "deploy", after = "build" }),
    } })
    stop()
    local result = run(policy("critical", [[
      return { priority = function(ctx) return ctx.stage.args.critical and 10 or 0, "critical first" end }]]))
    assert.same({ 30, 25 }, { result.was.makespan, result.now.makespan })
    assert.same({ "docs#1: wait", "build#1: wait" }, differing(result))
    assert.same({ 0, 5 }, { decision(result, "docs").was.waited, decision(result, "docs").now.waited })
    assert.same({ 5, 0 }, { decision(result, "build").was.waited, decision(result, "build").now.waited })
    assert.same({ wait = 2 }, result.differing)
    assert.same({ 5, 5 }, { result.was.wait.total, result.now.wait.total })
    assert.equal(0, result.now.estimates)
    assert.equal("site", result.plans[1].name)
  end)

  it("marks durations on runners that a stage never ran on", function()
    start()
    worker("a", 4)
    worker("b", 10)
    env:wait(env:submit { stages = { stage "s1", stage "s2" } })
    stop()
    local result = run(policy("only_a", [[
      return { select = function(ctx)
        for _, runner in ipairs(ctx.runners) do if runner.id == "a" then return runner, "a is quick" end end
      end }]]))
    assert.same({ "s2#1: runner wait" }, differing(result))
    local row = decision(result, "s2")
    assert.same({ "b", "a" }, { row.was.runner, row.now.runner })
    assert.equal("a is quick", row.now.reason)
    assert.is_true(row.now.estimate)
    assert.is_nil(row.was.estimate)
    assert.equal(10, row.now.ran) -- its median: nobody knows how long it would have taken there
    assert.equal(1, result.now.estimates)
    assert.equal(1, result.plans[1].estimates)
    assert.equal(14, result.now.makespan)
    assert.same({ "a", "b" }, { result.runners[1].runner, result.runners[2].runner })
    assert.same({ executions = 2, busy = 14, share = 1, estimates = 1 }, result.runners[1].now)
    assert.same({ executions = 0, busy = 0, share = 0, estimates = 0 }, result.runners[2].now)
  end)

  -- ---- failures ----

  it("leaves a failure with the runner that had it", function()
    start { policy = policy("retrying", [[
      return { retry = function(ctx) if #ctx.attempts < 4 then return { after = 1 } end end }]]) }
    worker("bad", 2, nil, function() return env.disconnect() end)
    worker("good", 6, { max_concurrent = 4 })
    env:wait(env:submit { stages = { stage "s" } })
    stop()
    local result = run(policy("avoiding", [[
      return { select = function(ctx) return ctx.runners[#ctx.runners] end }]]))
    assert.same({ UNREACHABLE = 1 }, result.was.failures)
    assert.same({}, result.now.failures)
    assert.same({ 1, 0 }, { result.was.retries, result.now.retries })
    assert.same({ "s#1: runner end" }, differing(result))
    assert.same({ "UNREACHABLE", true, 1 },
      { decision(result, "s").was.ended, decision(result, "s").was.again, decision(result, "s").was.after })
    assert.equal("COMPLETE", decision(result, "s").now.ended)
    assert.is_nil(decision(result, "s").now.estimate) -- it did run there, then
    assert.same({ 9, 6 }, { result.was.makespan, result.now.makespan })
  end)

  it("keeps a runner that was out of reach out of reach for everybody", function()
    start()
    worker("dead", 0, nil, function() return env.disconnect() end)
    worker("good", 6, { max_concurrent = 4 })
    local plan = env:submit { stages = { stage "s", stage "t" } } -- t goes to the other one
    env:wait(plan)
    assert.stage(plan, "t").is_final { attempts = 1, runner = "good" }
    stop()
    local result = run(policy("dead_first", [[
      return { select = function(ctx)
        for _, runner in ipairs(ctx.runners) do
          if runner.id == (ctx.stage.id == "t" and "dead" or "good") then return runner end
        end
        return ctx.runners[1]
      end,
      retry = function(ctx) return { after = 3, exclude = { "dead" } } end }]]))
    local row = decision(result, "t")
    assert.same({ "dead", "UNREACHABLE", true }, { row.now.runner, row.now.ended, row.now.estimate })
    assert.equal("SUCCEEDED", result.plans[1].now.outcome)
  end)

  it("repeats the verdict on the work wherever it runs, and shows who gives up", function()
    start { policy = policy("twice", [[
      return { retry = function(ctx) if #ctx.attempts < 2 then return { after = 1 } end end }]]) }
    worker("a", 2, { max_concurrent = 0 }, function(request)
      if request.stage_id == "broken" or request.attempt_idx == 1 then return env.failure "exit code 1" end
    end)
    env:wait(env:submit { checks = { { id = "ok", state = "PLANNED" } }, stages = {
      stage("flaky", { assignments = { { target_check_id = "ok" } } }), stage "broken" } })
    stop()
    local never = run(policy("never", "return { retry = function() return nil, 'once is enough' end }"))
    assert.same({ "flaky#1: retry", "broken#1: retry" }, differing(never))
    local now = decision(never, "flaky").now
    assert.same({ "retry", "once is enough" }, { now.hook, now.reason })
    assert.same({ true, false }, { decision(never, "flaky").was.again, decision(never, "flaky").now.again })
    assert.same({ REPORTED = 3 }, never.was.failures)
    assert.same({ REPORTED = 2 }, never.now.failures)
    assert.same({ "FAILED", "FAILED" }, { never.plans[1].was.outcome, never.plans[1].now.outcome })
    local thrice = run(policy("thrice", [[
      return { retry = function(ctx) if #ctx.attempts < 3 then return { after = 1 } end end }]]))
    assert.same({ "broken#2: retry" }, differing(thrice))
    assert.same({ REPORTED = 4 }, thrice.now.failures)
    assert.equal(1, thrice.now.estimates) -- nobody saw how the third attempt ends
  end)

  it("ends what takes longer than the candidate's deadline", function()
    start()
    worker("a", { 5, long = 60 }, { max_concurrent = 0 })
    env:wait(env:submit { stages = { stage "short", stage "long" } })
    stop()
    local result = run(policy("strict", [[
      return { timeout = function() return { execution = 10 } end, retry = function() return nil end }]]))
    assert.same({ "long#1: end" }, differing(result))
    assert.same({ "COMPLETE", "TIMEOUT" }, { decision(result, "long").was.ended, decision(result, "long").now.ended })
    assert.equal(10, decision(result, "long").now.ran)
    assert.same({ "SUCCEEDED", "FAILED" }, { result.plans[1].was.outcome, result.plans[1].now.outcome })
  end)

  it("estimates a run that its deadline cut off when it has a longer one now", function()
    start { policy = policy("strict", [[
      return { timeout = function() return { execution = 10 } end, retry = function(ctx)
        if #ctx.attempts < 2 then return { after = 1, exclude = { ctx.attempts[1].runner } } end end }]]) }
    worker("hangs", 1000)
    worker("works", 3)
    env:wait(env:submit { stages = { stage "s" } })
    stop()
    same(run(folder .. "/strict.lua"))
    local patient = run(policy("patient", [[
      return { timeout = function() return { execution = 30 } end, retry = function(ctx)
        if #ctx.attempts < 2 then return { after = 1, exclude = { ctx.attempts[1].runner } } end end }]]))
    assert.same({ "s#1: end" }, differing(patient))
    -- The stage's median is 3 s, but it is known to have run for 10.
    assert.same({ 14, 10 }, { patient.was.makespan, patient.now.makespan })
    local row = decision(patient, "s")
    assert.same({ "TIMEOUT", "COMPLETE", 10, true }, { row.was.ended, row.now.ended, row.now.ran, row.now.estimate })
    local stricter = run(policy("stricter", [[
      return { timeout = function() return { execution = 5 }, "hurry" end, retry = function(ctx)
        if #ctx.attempts < 2 then return { after = 1, exclude = { ctx.attempts[1].runner } } end end }]]))
    assert.same({ "TIMEOUT", 5 }, { decision(stricter, "s").now.ended, decision(stricter, "s").now.ran })
    assert.equal(9, stricter.now.makespan)
  end)

  it("estimates it by the runner type when the stage never ended, and does not give it all of the new time", function()
    start { policy = policy("strict", [[
      return { timeout = function(ctx) return { execution = ctx.stage.id == "s" and 1 or 100 } end,
        retry = function() return nil end }]]) }
    worker("a", { 20, s = 1000 }, { max_concurrent = 0 })
    env:wait(env:submit { stages = { stage "s", stage "t" } })
    stop()
    local patient = run(policy("patient", "return { timeout = function() return { execution = 3600 }, 'an hour' end }"))
    local row = decision(patient, "s")
    assert.same({ "TIMEOUT", "COMPLETE", 20, true }, { row.was.ended, row.now.ended, row.now.ran, row.now.estimate })
    assert.same({ "timeout", "an hour" }, { row.now.hook, row.now.reason })
  end)

  -- ---- runners ----

  it("has its runners come and go as they did", function()
    local path = policy("steady", "return { retry = function() return { after = 1 } end }")
    start { policy = path }
    local first = worker("first", 5)
    local one = env:submit { stages = { stage "s1", stage "s2", stage "s3" } }
    env:advance "6s"
    worker("late", 5)
    env:advance "1s"
    first:unregister() -- s2 runs on, nothing more comes
    env:wait(one)
    local lost = worker("lost", 1000, { type = "async", modes = { "ASYNC" }, ttl = 30 })
    local two = env:submit { stages = { stage("a", { runner_type = "async", execution_mode = "ASYNC" }) } }
    env:advance "20s"
    lost:register()
    lost:disconnect()
    env:advance "40s" -- expires
    worker("found", 2, { type = "async", modes = { "ASYNC" } })
    env:wait(two)
    assert.stage(two, "a").is_final { attempts = 2, runner = "found" }
    stop()
    local result = run(path)
    assert.same({ RUNNER_LOST = 1 }, result.was.failures)
    same(result)
  end)

  it("lets runners that left when all was done stay for a slower policy", function()
    start()
    local runner = worker("a", 5)
    env:wait(env:submit { stages = { stage "s" } })
    runner:unregister()
    env:advance "1h"
    stop()
    local result = run(policy("lazy", [[
      return { admit = function(ctx) if ctx.attempt.waited < 60 then return { wait = 60 }, "later" end end }]]))
    assert.same({ 5, 65 }, { result.was.makespan, result.now.makespan })
    assert.same({ "s#1: wait" }, differing(result))
  end)

  it("keeps async runners alive that were, and silent that were not", function()
    local path = policy("steady", "return { retry = function(ctx) if #ctx.attempts < 2 then return {} end end }")
    start { policy = path }
    local runner
    runner = env:mock_runner { id = "r", type = "build", auto_complete = false, on_run_async = function(request)
      env:spawn(function()
        local mute = request.stage_id == "silent" and request.attempt_idx == 1
        for _ = 1, mute and 5 or 20 do
          pause(29)
          runner:progress(request, "still here")
        end
        if mute then return end
        runner:complete(request)
      end)
    end }
    local plan = env:submit { stages = {
      stage("talks", { execution_mode = "ASYNC", timeouts = { stale_ms = 60000 } }),
      stage("silent", { execution_mode = "ASYNC", timeouts = { stale_ms = 60000 } }) } }
    env:wait(plan)
    stop()
    local result = run(path)
    assert.same({ STALE = 1 }, result.was.failures)
    same(result)
    -- Who listens less long finds the silent one sooner: 145 s of talk, then 10 s instead of 60.
    local impatient = run(policy("impatient", [[
      return { timeout = function() return { stale = 10 } end,
        retry = function(ctx) if #ctx.attempts < 2 then return {} end end }]]))
    assert.same({ "silent#1: end" }, differing(impatient))
    assert.same({ 205, 155 }, { decision(impatient, "silent").was.ran, decision(impatient, "silent").now.ran })
  end)

  it("leaves restarts of the engine out, and takes plans that went on after their end whole", function()
    start()
    local runner = worker("a", 5)
    local plan = env:submit { metadata = { name = "grows" }, stages = { stage "s1" } }
    env:wait(plan)
    env:advance "10s"
    assert(env:write(plan, { stages = { stage("s2", { after = "s1" }), stage "s3" } }))
    env:advance "2s"
    env:restart() -- s3 was running
    local id = plan.id
    env:advance "1m"
    assert.equal("SETTLED", env:plan(id).state)
    assert.stage(plan, "s3").is_final { attempts = 2 }
    runner:unregister()
    stop()
    local result = run "default"
    assert.same({ ENGINE_RESTART = 1 }, result.was.failures)
    assert.same({}, result.now.failures)
    assert.same({ 1, 0 }, { result.compared, result.refused })
    assert.same({ "SUCCEEDED", 25 }, { result.plans[1].now.outcome, result.now.makespan })
    assert.is_true(decision(result, "s3").now.estimate)
  end)

  -- ---- clients ----

  it("repeats what clients wrote, and lets pullers pull when there is something", function()
    start { policy = policy("fifo", fifo) }
    worker("r", 5)
    local plan = env:submit { checks = { { id = "approved", state = "PLANNED", kind = "manual" } }, stages = {
      stage "docs", stage("build", { args = { critical = true } }),
      stage("by-hand", { runner_type = "", after = "build" }),
      { id = "ship", runner_type = "build", dependencies = { predicate = "AND", dependencies = {
        { target_type = "STAGE", target_id = "by-hand", condition = "ON_SUCCESS" },
        { target_type = "CHECK", target_id = "approved", condition = "ON_SUCCESS" } } } },
    } }
    env:advance "12s"
    assert(env:write(plan, { checks = { { id = "approved", state = "FINAL" } } }))
    assert(env:write(plan, { stages = { { id = "by-hand", current_attempt = { process_uid = "me" } } } }))
    env:advance "3s"
    assert(env:write(plan, {
      stages = { { id = "by-hand", state = "FINAL", current_attempt = { state = "COMPLETE" } } } }))
    env:wait(plan)
    stop()
    same(run(folder .. "/fifo.lua"))
    local result = run(policy("critical", [[
      return { priority = function(ctx) return ctx.stage.args.critical and 10 or 0 end }]]))
    -- build ends 5 s sooner, so do the 5 s by hand; what was approved at 12 s still is.
    assert.same({ 20, 17 }, { result.was.makespan, result.now.makespan })
    assert.equal(0, result.refused)
  end)

  it("lets plans keep a policy of their own", function()
    policy("mine", "return { select = function(ctx) return ctx.runners[1], 'mine' end }")
    start { policies = folder, policy = "least_loaded" }
    worker("a", 2)
    worker("b", 2)
    local plans = {}
    for i, name in ipairs { "mine", false, "mine" } do
      plans[i] = env:submit { policy = name or nil, stages = { stage "s" } }
      env:wait(plans[i])
    end
    stop()
    local last = "return { select = function(ctx) return ctx.runners[#ctx.runners], 'last' end }"
    local path = policy("last", last)
    local result = run(path)
    assert.same({}, result.missing)
    assert.equal(0, result.now.estimates) -- the one without a policy went to b anyway
    assert.same({}, differing(result))
    assert.equal(2, run(path, { all = true }).now.estimates)
    assert.same({ { policy = "mine", version = result.decided_by[1].version, decisions = 2 } },
      { result.decided_by[1] })
    os.remove(folder .. "/mine.lua")
    result = run(path)
    assert.same({ mine = 2 }, result.missing)
    assert.equal(2, #result.decisions)
  end)

  -- ---- what cannot be compared ----

  it("says which plans had not ended then, and which would not end now", function()
    start()
    worker("a", 2)
    local done = env:submit { metadata = { name = "done" }, stages = { stage "s" } }
    env:wait(done)
    env:submit { metadata = { name = "open" }, stages = { stage "t", stage("none", { runner_type = "nobody" }) } }
    env:advance "1s"
    local open = run "least_loaded" -- beside the engine that writes it
    assert.same({ 1, 1, 0 }, { open.compared, open.open, open.unfinished })
    assert.same({ "done" }, { open.plans[1].name, open.plans[2] and open.plans[2].name })
    stop()
    local never = run(policy("never", "return { admit = function() return { wait = 3600 }, 'not today' end }"))
    assert.same({ 0, 1, 1 }, { never.compared, never.open, never.unfinished })
    assert.same({ "s" }, never.plans[1].now.unfinished)
    assert.same({ "s#1: runner wait end" }, differing(never))
  end)

  it("tells of a candidate that fails, and goes on with the built-in default", function()
    start()
    worker("a", 2)
    env:wait(env:submit { stages = { stage("s", { args = { boom = true } }) } })
    stop()
    local result = run(policy("fails", [[
      return { select = function(ctx)
        if ctx.stage.args.boom then error "boom" end
        return ctx.runners[1]
      end }]]))
    assert.equal(1, #result.faults)
    assert.same({ "fails", 1 }, { result.faults[1].policy, result.faults[1].faults })
    assert.matches("fails.lua:2: boom", result.faults[1].last, 1, true)
    assert.equal("SUCCEEDED", result.plans[1].now.outcome)
  end)

  it("of an empty history has nothing to say", function()
    start()
    stop()
    local result = run "least_loaded"
    assert.same({ 0, 0, 0, 0 }, { result.compared, result.unfinished, result.open, #result.decisions })
  end)

  it("refuses what it cannot read, and says whose fault it is", function()
    start()
    worker("a", 2)
    env:wait(env:submit { stages = { stage "s" } })
    stop()
    local function refused(options, of, part)
      local result, err = replay.run(options)
      assert.is_nil(result)
      assert.equal(of, err.of)
      assert.matches(part, err.message, 1, true)
    end
    refused({ db = folder .. "/none.db", policy = "least_loaded" }, "db", "there is no such file")
    refused({ db = db, policy = "least_loded" }, "policy", "did you mean 'least_loaded'?")
    refused({ db = db, policy = policy("bad", "return {\n  select = function(ctx) retrn 1 end }") }, "policy",
      "bad.lua:2:")
    refused({ db = db, policy = policy("odd", "return { selekt = function() end }") }, "policy", "selekt")
    refused({ db = db, policy = "least_loaded", plan = "wp-nothing" }, "plan", "wp-nothing")
    refused({ db = db, policy = "least_loaded", policy_for = { build = "nothing" } }, "policy", "nothing")
    assert.has_error(function() replay.run { db = db, policy = "default", polices = {} } end)
    assert.has_error(function() replay.run { db = db } end)
  end)

  -- ---- the program ----

  local function turboci(...)
    local words = { ("'%s' policy replay"):format(program) }
    for _, word in ipairs { ... } do words[#words + 1] = ("'%s'"):format(word) end
    local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1"))
    local output = pipe:read "a"
    local _, _, code = pipe:close()
    return output, code
  end

  it("is a verb that prints the same bytes every time", function()
    start()
    worker("a", { 4, s3 = 9 })
    worker("b", { 10, s2 = 1 })
    local plan = env:submit { metadata = { name = "nightly" }, stages = {
      stage "s1", stage "s2", stage "s3", stage "s4" } }
    env:wait(plan)
    stop()
    local path = policy("only_a", [[
      return { select = function(ctx)
        for _, runner in ipairs(ctx.runners) do if runner.id == "a" then return runner, "a is quick" end end
      end }]])
    local table_text, code = turboci(path, "--db", db, "--decisions", "1")
    assert.equal(0, code, table_text)
    for _, part in ipairs { "1 plan, 2 runners", "the built-in default (4 decisions)", "only_a ", "makespan",
      "queue wait", "nightly", "decisions differ", "~on a", "a is quick", "--decisions all shows them",
      "an estimate" } do
      assert.matches(part, table_text, 1, true)
    end
    assert.equal(table_text, (turboci(path, "--db", db, "--decisions", "1")))
    local text = turboci(path, "--db", db, "--json")
    assert.equal(text, (turboci(path, "--db", db, "--json")))
    local result = cjson.decode(text)
    assert.equal(1, result.compared)
    assert.equal("only_a", result.policy.name)
    assert.is_true(result.now.makespan > result.was.makespan)
    text = turboci("default", "--db", db, "--plan", plan.id)
    assert.matches("no decision differs", text, 1, true)
  end)

  it("is a verb that names the file, the line and the remedy", function()
    start()
    stop()
    local function refused(part, ...)
      local output, code = turboci(...)
      assert.equal(2, code, output)
      assert.matches(part, output, 1, true)
    end
    refused("bad.lua:1:", policy("bad", "retrn {}"), "--db", db)
    refused("there is no such file", "default", "--db", folder .. "/none.db")
    refused("there is no plan", "default", "--db", db, "--plan", "x")
    refused("no limit 'attemps_max'", "default", "--db", db, "--limit", "attemps_max=3")
    refused("expected NAME=VALUE", "default", "--db", db, "--limit", "attempts_max=x")
    refused("expected TYPE=NAME", "default", "--db", db, "--policy-for", "build")
    refused("not a number", "default", "--db", db, "--decisions", "few")
    local output, code = turboci("default", "--db", db)
    assert.equal(0, code, output)
    assert.matches("no plan had ended", output, 1, true)
  end)
end)

describe("a journal", function()
  local folder, db

  before_each(function()
    folder = assert(uv.fs_mkdtemp "/tmp/tci-journal-XXXXXX")
    db = folder .. "/ci.db"
  end)

  after_each(function()
    local scan = uv.fs_scandir(folder)
    for name in function() return uv.fs_scandir_next(scan) end do os.remove(folder .. "/" .. name) end
    uv.fs_rmdir(folder)
  end)

  it("comes as records of named changes", function()
    local env = testing.env { world = "virtual", db = db }
    env:mock_runner { id = "r", type = "build", max_concurrent = 3, metadata = { zone = "x" } }
    local plan = env:submit { metadata = { name = "n" }, checks = { { id = "ok", state = "PLANNED" } }, stages = {
      { id = "s", runner_type = "build", args = { list = { 1, 2 }, empty = core.list {} }, priority = -3,
        assignments = { { target_check_id = "ok", goal_state = "FINAL" } } },
      { id = "t", runner_type = "build", dependencies = { predicate = "OR", dependencies = {
        { target_type = "STAGE", target_id = "s", condition = "ON_FAILURE" } } } },
    } }
    env:wait(plan)
    env:stop()
    local by_type, records = {}, {}
    assert.is_true(core.journal(db, function(record)
      if record.changes[1].type == "POLICY" then return end -- inside the program the shipped ones are there
      records[#records + 1] = record
      for _, change in ipairs(record.changes) do
        by_type[change.type] = by_type[change.type] or {}
        table.insert(by_type[change.type], change)
      end
    end))
    local first, second = records[1], records[2]
    assert.same({ 0, "RUNNER", 1700000000000000 }, { first.plan_key, first.changes[1].type, first.at_us })
    assert.is_nil(first.plan_id)
    assert.same({ plan.id, 1, 1, false }, { second.plan_id, second.plan_key, second.version, second.settled })
    assert.is_true(records[#records].settled)
    assert.equal(plan.id, records[#records].plan_id)
    local runner = by_type.RUNNER[1]
    assert.same({ "r", "build", 3, { zone = "x" }, { "SYNC", "ASYNC" } },
      { runner.id, runner.kind, runner.max_concurrent, runner.metadata, runner.mode })
    assert.same({ name = "n" }, by_type.PLAN_CREATED[1].metadata)
    local s, t = by_type.STAGE_CREATED[1], by_type.STAGE_CREATED[2]
    assert.same({ "s", "PLANNED", "SYNC", -3, true, { list = { 1, 2 }, empty = {} } },
      { s.id, s.state, s.mode, s.priority, s.edges_follow, s.bytes })
    assert.is_true(core.is_list(s.bytes.empty))
    assert.is_nil(t.priority)
    assert.same({ { node = 1, goal = "FINAL" } }, by_type.EDGES[1].assignments)
    assert.same({ predicate = "OR", { node = 2, condition = "ON_FAILURE" } }, by_type.EDGES[2].dependencies)
    local ends = by_type.STAGE_STATE
    assert.same({ "FINAL", "SKIPPED", "DEPENDENCIES_UNSATISFIED" }, { ends[#ends].state, ends[#ends].outcome,
      ends[#ends].reason })
    local sent
    for _, change in ipairs(by_type.ATTEMPT) do sent = change.execution == "DISPATCHED" and change or sent end
    assert.same({ "r", "SCHEDULED", "select", "r" }, { sent.runner_id, sent.state, sent.decision.hook,
      sent.decision.runner_id })
    assert.same({ { runner_id = "r", load = 0 } }, sent.decision.candidates)
    local settled = by_type.PLAN_STATE[#by_type.PLAN_STATE]
    assert.same({ "SETTLED", "SUCCEEDED" }, { settled.state, settled.outcome })
  end)

  it("stops at the visitor's error and can be read again", function()
    local env = testing.env { world = "virtual", db = db }
    env:create_plan()
    env:stop()
    local failure = { "mine" }
    local ok, err = pcall(core.journal, db, function() error(failure) end)
    assert.is_false(ok)
    assert.equal(failure, err)
    local seen = 0
    assert.is_true(core.journal(db, function(record) seen = seen + (record.plan_id and 1 or 0) end))
    assert.equal(1, seen)
    local none, text = core.journal(folder .. "/none.db", function() end)
    assert.is_nil(none)
    assert.matches("no such file", text, 1, true)
    assert.has_error(function() core.journal(db) end)
    assert.has_error(function() core.journal(7, print) end)
  end)
end)
