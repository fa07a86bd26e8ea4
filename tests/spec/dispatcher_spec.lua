-- Category 3 of the testing plan: which runner gets an execution, and when. Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

local STAGE_STATES = { "PLANNED", "ATTEMPTING", "FINAL" }
local ATTEMPT_STATES = { "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }

describe("the dispatcher:", function()
  local env, workflow

  before_each(function()
    env = testing.env()
    workflow = turboci.plan { name = "dispatcher" }
  end)
  after_each(function() env:stop() end)

  local function held_runner(options)
    options.hold = true
    return env:mock_runner(options)
  end

  -- Adds stages s1, s2, ... to a plan.
  local function write_stages(plan, first, last)
    local stages = {}
    for i = first, last do stages[#stages + 1] = { id = "s" .. i, runner_type = "build", execution_mode = "SYNC" } end
    assert(env:write(plan, { stages = stages }))
  end

  local function wait_for_stages(runner, n)
    env:wait(function() return #runner.received == n end)
  end

  local function wait_until_final(plan, stage_id)
    env:wait_for(plan, "stage", stage_id, "FINAL")
  end

  -- Ready, and with nobody: the record of an execution that waits.
  local function assert_waits(plan, stage_id)
    env:wait(function() return #plan.events:attempt_states(stage_id) > 0 end)
    assert.stage(plan, stage_id).has_state "ATTEMPTING"
    assert.execution(plan, stage_id).is_recorded { state = "PENDING", attempt_state = "PENDING", runner = "" }
    assert.transitions(plan, "stage", stage_id, { "PLANNED", "ATTEMPTING" })
    assert.transitions(plan, "attempt", stage_id, { "PENDING" })
  end

  local function assert_succeeded(plan, stage_id, runner, mode)
    assert.stage(plan, stage_id).is_final { outcome = "SUCCEEDED", attempts = 1, runner = runner.id }
    assert.transitions(plan, "stage", stage_id, STAGE_STATES)
    assert.transitions(plan, "attempt", stage_id, ATTEMPT_STATES)
    assert.execution(plan, stage_id).is_recorded {
      state = "COMPLETE", attempt_state = "COMPLETE", mode = mode or "SYNC", runner = runner.id,
    }
  end

  it("serves both modes of a runner type by priority, then by age", function()
    local runner = held_runner { id = "r", type = "build", max_concurrent = 1 }
    local plan = env:create_plan()
    local function stage(id, mode, priority)
      return { id = id, runner_type = "build", execution_mode = mode, priority = priority }
    end
    assert(env:write(plan, { stages = { stage("first", "SYNC") } }))
    wait_for_stages(runner, 1)
    assert(env:write(plan, { stages = {
      stage("async", "ASYNC"), stage("sync", "SYNC"), stage("urgent", "ASYNC", 5), stage("urgent too", "SYNC", 5),
    } }))
    runner:release()
    env:wait(plan)
    assert.same({ "first", "urgent", "urgent too", "async", "sync" }, runner:received_stages())
  end)

  it("picks a runner that is available #TestDispatcherSelectsRunner", function()
    local busy = held_runner { id = "busy", type = "build", max_concurrent = 1 }
    workflow:check("warm")
    workflow:stage("warm-up", { runner = "build", finalizes = "warm" })
    local first = env:submit(workflow)
    wait_for_stages(busy, 1)
    local other = env:mock_runner { id = "other", type = "deploy" }
    local async = env:mock_runner { id = "async", type = "build", modes = { "ASYNC" } }
    local left = env:mock_runner { id = "left", type = "build" }
    assert(left:unregister())
    local available = held_runner { id = "available", type = "build" }

    local second = turboci.plan { name = "second" }
    second:check("builds", { kind = "build" })
    second:stage("compile", { runner = "build", args = { command = "make" }, finalizes = "builds" })
    local plan = env:submit(second)
    wait_for_stages(available, 1)

    local request = available.received[1]
    assert.equal("compile", request.stage_id)
    assert.equal(plan.id, request.work_plan_id)
    assert.same({ command = "make" }, request.args)
    assert.execution(plan, "compile").is_recorded { state = "RUNNING", runner = "available", runner_type = "build" }
    assert.check(plan, "builds").has_state "WAITING"
    assert.runner_load(available, 1)
    assert.runner_load(busy, 1)

    available:release()
    env:wait(plan)
    assert_succeeded(plan, "compile", available)
    assert.check(plan, "builds").is_final { outcome = "SUCCEEDED", results = 1 }
    assert.transitions(plan, "check", "builds", { "PLANNED", "WAITING", "FINAL" })
    assert.runner_load(available, 0)
    busy:release()
    env:wait(first)
    assert_succeeded(first, "warm-up", busy)
    assert.runner_load(busy, 0)
    for _, runner in ipairs { other, async, left } do assert.same({}, runner.received) end
  end)

  it("picks the runner with the least load #TestDispatcherLoadBalancing", function()
    local a = held_runner { id = "a", type = "build" }
    local plan = env:create_plan()
    write_stages(plan, 1, 3)
    wait_for_stages(a, 3)
    assert.runner_load(a, 3)

    -- b has less until it has as much.
    local b = held_runner { id = "b", type = "build" }
    write_stages(plan, 4, 6)
    wait_for_stages(b, 3)
    assert.equal(3, #a.received)
    assert.runner_load(a, 3)
    assert.runner_load(b, 3)

    -- What ends makes room: the next goes there.
    a:release "s2"
    wait_until_final(plan, "s2")
    assert.runner_load(a, 2)
    write_stages(plan, 7, 7)
    wait_for_stages(a, 4)
    assert.equal("s7", a.received[4].stage_id)
    assert.runner_load(a, 3)
    assert.runner_load(b, 3)

    -- Between equals the work is shared.
    write_stages(plan, 8, 9)
    wait_for_stages(a, 5)
    wait_for_stages(b, 4)

    a:release()
    b:release()
    env:wait(plan)
    for _, runner in ipairs { a, b } do
      for _, id in ipairs(runner:received_stages()) do assert_succeeded(plan, id, runner) end
      assert.equal(4, runner.peak_load)
      assert.runner_load(runner, 0)
    end
  end)

  it("leaves an execution pending when there is no runner #TestDispatcherNoRunnerAvailable", function()
    workflow:check("builds")
    workflow:stage("compile", { runner = "build", finalizes = "builds" })
    workflow:stage("package", { runner = "build", mode = "async", after = "compile" })

    local plan = env:submit(workflow)
    env:settle()

    assert_waits(plan, "compile")
    assert.check(plan, "builds").has_state "WAITING"
    assert.stage(plan, "package").has_state "PLANNED"
    assert.same({}, env:executions(plan, "package"))
    assert.equal("ACTIVE", env:plan(plan).state)

    -- Runners that will not do change nothing, and are not bothered.
    local deploy = env:mock_runner { id = "deploy", type = "deploy" }
    local async = env:mock_runner { id = "async", type = "build", modes = { "ASYNC" } }
    local version = env:plan(plan).version
    env:settle()
    assert_waits(plan, "compile")
    assert.equal(version, env:plan(plan).version)
    for _, runner in ipairs { deploy, async } do
      assert.same({}, runner.received)
      assert.runner_load(runner, 0)
    end
  end)

  it("sends what is pending when a runner becomes available #TestDispatcherRunnerBecomesAvailable", function()
    workflow:check("builds")
    for i = 1, 3 do workflow:stage("s" .. i, { runner = "build", finalizes = "builds" }) end
    local plan = env:submit(workflow)
    env:settle()
    for i = 1, 3 do assert_waits(plan, "s" .. i) end

    -- It registers: the first in the queue goes out.
    local a = held_runner { id = "a", type = "build", max_concurrent = 1 }
    wait_for_stages(a, 1)
    env:settle()
    assert.same({ "s1" }, a:received_stages())
    assert.execution(plan, "s1").is_recorded { state = "RUNNING", runner = "a" }
    assert_waits(plan, "s2")
    assert.runner_load(a, 1)

    -- Its heartbeat brings room for one more.
    a:register { max_concurrent = 2 }
    wait_for_stages(a, 2)
    env:settle()
    assert.same({ "s1", "s2" }, a:received_stages())
    assert_waits(plan, "s3")
    assert.runner_load(a, 2)

    -- A slot becomes free.
    a:release "s1"
    wait_for_stages(a, 3)
    assert.same({ "s1", "s2", "s3" }, a:received_stages())
    wait_until_final(plan, "s1")
    assert_succeeded(plan, "s1", a)
    assert.runner_load(a, 2)
    assert.check(plan, "builds").has_state "WAITING"

    a:release()
    env:wait(plan)
    for i = 1, 3 do assert_succeeded(plan, "s" .. i, a) end
    assert.check(plan, "builds").is_final { outcome = "SUCCEEDED", results = 3 }
    assert.is_true(env:execution(plan, "s1").finished_at <= env:execution(plan, "s3").dispatched_at)
    assert.runner_load(a, 0)
  end)

  it("sends an execution only to runners that support its mode #TestDispatcherRespectsModeSupport", function()
    local sync = held_runner { id = "sync", type = "build", modes = { "SYNC" } }
    workflow:stage("sync1", { runner = "build" })
    workflow:stage("async1", { runner = "build", mode = "async" })
    workflow:stage("sync2", { runner = "build" })
    local plan = env:submit(workflow)
    wait_for_stages(sync, 2)
    env:settle()

    -- The async stage waits, and holds up nobody behind it.
    local received = sync:received_stages()
    table.sort(received)
    assert.same({ "sync1", "sync2" }, received)
    for _, request in ipairs(sync.received) do assert.equal("SYNC", request.mode) end
    assert_waits(plan, "async1")

    local async = env:mock_runner { id = "async", type = "build", modes = { "ASYNC" } }
    wait_until_final(plan, "async1")
    assert.equal("ASYNC", async.received[1].mode)
    assert_succeeded(plan, "async1", async, "ASYNC")

    -- The less loaded runner is no choice when it does not know the mode; one that knows both gets both.
    assert(async:unregister())
    local both = env:mock_runner { id = "both", type = "build", modes = { "SYNC", "ASYNC" } }
    assert(env:write(plan, { stages = {
      { id = "async2", runner_type = "build", execution_mode = "ASYNC" },
      { id = "sync3", runner_type = "build", execution_mode = "SYNC" },
    } }))
    wait_until_final(plan, "async2")
    wait_until_final(plan, "sync3")
    assert_succeeded(plan, "async2", both, "ASYNC")
    assert_succeeded(plan, "sync3", both, "SYNC")

    sync:release()
    env:wait(plan)
    for _, id in ipairs { "sync1", "sync2" } do assert_succeeded(plan, id, sync, "SYNC") end
    assert.same({ "async1" }, async:received_stages())
    for _, runner in ipairs { sync, both } do assert.runner_load(runner, 0) end
  end)

  it("sends nothing to a runner at its capacity #TestDispatcherRespectsCapacity", function()
    local runner = held_runner { id = "a", type = "build", max_concurrent = 2 }
    local plan = env:create_plan()
    write_stages(plan, 1, 5)
    wait_for_stages(runner, 2)
    env:settle()

    -- Whenever one ends, exactly the next one starts.
    for ended = 0, 2 do
      assert.equal(2 + ended, #runner.received)
      assert.runner_load(runner, 2)
      for i = 3 + ended, 5 do assert_waits(plan, "s" .. i) end
      runner:release(runner.received[ended + 1].stage_id)
      wait_for_stages(runner, 3 + ended)
      env:settle()
    end
    assert.runner_load(runner, 2)

    runner:release()
    env:wait(plan)
    for i = 1, 5 do assert_succeeded(plan, "s" .. i, runner) end
    local received = runner:received_stages()
    table.sort(received) -- what is sent at the same time arrives in any order
    assert.same({ "s1", "s2", "s3", "s4", "s5" }, received)
    assert.equal(2, runner.peak_load)
    assert.runner_load(runner, 0)
  end)

  it("gives a runner without a capacity all there is", function()
    local runner = held_runner { id = "a", type = "build", max_concurrent = 0 }
    local plan = env:create_plan()
    write_stages(plan, 1, 20)
    wait_for_stages(runner, 20)
    assert.runner_load(runner, 20)
    runner:release()
    env:wait(plan)
    assert.runner_load(runner, 0)
  end)

  it("a capacity that shrinks takes nothing back, and lets nothing new in until there is room", function()
    local runner = held_runner { id = "a", type = "build", max_concurrent = 3 }
    local plan = env:create_plan()
    write_stages(plan, 1, 4)
    wait_for_stages(runner, 3)
    runner:register { max_concurrent = 1 }
    for _ = 1, 2 do
      local stage_id = runner.received[1].stage_id
      if env:stage(plan, stage_id).state == "FINAL" then stage_id = runner.received[2].stage_id end
      runner:release(stage_id)
      wait_until_final(plan, stage_id)
      env:settle()
      assert_waits(plan, "s4")
    end
    assert.runner_load(runner, 1)
    runner:release()
    env:wait(plan)
    assert.stage(plan, "s4").is_final { outcome = "SUCCEEDED", runner = "a" }
    assert.runner_load(runner, 0)
  end)
end)
