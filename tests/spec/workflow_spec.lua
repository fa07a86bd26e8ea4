-- Category 5 of the testing plan: the shapes that workflows have. Both worlds.

local evidence = require "evidence"
local large = require "large"
local testing = require "turboci.testing"
local turboci = require "turboci"

describe("workflows:", function()
  local env, workflow

  before_each(function()
    env = testing.env()
    workflow = turboci.plan { name = "workflows" }
  end)
  after_each(function() env:stop() end)

  local function wait_for_work(runner, n)
    env:wait(function() return #runner.received == n end)
  end

  local function wait_for_final(plan, id)
    env:wait_for(plan, "stage", id, "FINAL")
  end

  local function position(list, wanted)
    for i, id in ipairs(list) do
      if id == wanted then return i end
    end
  end

  it("a diamond runs both sides at once, and its end after both #TestDiamondDependency", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    runner:hold()
    workflow:check("done")
    workflow:stage("d", { runner = "test", after = { "b", "c" }, finalizes = "done" })
    workflow:stage("b", { runner = "test", after = "a" })
    workflow:stage("c", { runner = "test", after = "a" })
    workflow:stage("a", { runner = "test" })
    local plan = env:submit(workflow)

    wait_for_work(runner, 1)
    env:settle()
    assert.same({ "a" }, runner:received_stages())
    for _, id in ipairs { "b", "c", "d" } do evidence.not_begun(plan, id) end
    assert.runner_load(runner, 1)

    runner:release "a"
    wait_for_work(runner, 3)
    for _, id in ipairs { "b", "c" } do assert.stage(plan, id).has_state "ATTEMPTING" end
    evidence.not_begun(plan, "d")
    assert.runner_load(runner, 2)

    runner:release "c"
    wait_for_final(plan, "c")
    env:settle()
    evidence.not_begun(plan, "d")
    assert.runner_load(runner, 1)

    runner:release "b"
    wait_for_work(runner, 4)
    assert.equal("d", runner.received[4].stage_id)
    assert.check(plan, "done").has_state "WAITING"
    assert.runner_load(runner, 1)

    runner:release()
    env:wait(plan)
    for _, id in ipairs { "a", "b", "c", "d" } do evidence.ran(plan, id, { runner = runner }) end
    for _, edge in ipairs { { "a", "b" }, { "a", "c" }, { "b", "d" }, { "c", "d" } } do
      assert.in_order(plan, edge)
    end
    evidence.met(plan, "done")
    evidence.settled(plan, { runners = { runner } })
  end)

  it("a chain runs one stage at a time, from its first to its last #TestLongChain", function()
    local loads, ids = {}, {}
    local runner = env:mock_runner { id = "r", type = "test" }
    function runner.on_run(request)
      loads[#loads + 1] = runner:info().current_load
      return env.success(request, { stage = request.stage_id })
    end
    -- Every other link is a check: it holds back what follows just as its stage would.
    for i = 1, 10 do
      ids[i] = ("link-%02d"):format(i)
      local before = i > 1 and ids[i - 1] or nil
      if before and i % 2 == 0 then before = "check-of-" .. before end
      workflow:check("check-of-" .. ids[i])
      workflow:stage(ids[i], { runner = "test", after = before, finalizes = "check-of-" .. ids[i] })
    end
    local plan = env:submit(workflow)
    env:wait(plan)

    assert.same(ids, runner:received_stages())
    for i, id in ipairs(ids) do
      evidence.ran(plan, id, { runner = runner })
      evidence.met(plan, "check-of-" .. id, { stage = id })
      if i > 1 then assert.in_order(plan, { ids[i - 1], id }) end
      assert.equal(1, loads[i])
    end
    evidence.settled(plan, { runners = { runner } })
  end)

  it("a stage fans out to many, and the last of them leads on #TestFanOutFanIn", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    runner:hold()
    workflow:check("joined")
    workflow:stage("split", { runner = "test" })
    local parts = {}
    for i = 1, 20 do
      parts[i] = "part-" .. i
      workflow:stage(parts[i], { runner = "test", after = "split", args = { part = i } })
    end
    workflow:stage("join", { runner = "test", after = parts, finalizes = "joined" })
    local plan = env:submit(workflow)

    wait_for_work(runner, 1)
    for _, id in ipairs(parts) do evidence.not_begun(plan, id) end
    runner:release "split"
    wait_for_work(runner, 21)
    assert.runner_load(runner, 20)
    local seen = {}
    for i = 2, 21 do seen[runner.received[i].args.part] = runner.received[i].stage_id end
    assert.same(parts, seen)

    for i = 1, 19 do runner:release(parts[i]) end
    env:wait(function() return runner:info().current_load == 1 end)
    env:settle()
    evidence.not_begun(plan, "join")
    assert.check(plan, "joined").has_state "WAITING"
    runner:release()
    env:wait(plan)

    assert.equal("join", runner.received[22].stage_id)
    assert.equal(22, #runner.received)
    evidence.ran(plan, "split", { runner = runner })
    for _, id in ipairs(parts) do
      evidence.ran(plan, id, { runner = runner })
      assert.in_order(plan, { "split", id })
      assert.in_order(plan, { id, "join" })
    end
    evidence.ran(plan, "join", { runner = runner })
    evidence.met(plan, "joined")
    evidence.settled(plan, { runners = { runner } })
  end)

  it("branches run beside each other and never wait for one another #TestParallelBranches", function()
    local fast = env:mock_runner { id = "fast", type = "fast" }
    local slow = env:mock_runner { id = "slow", type = "slow" }
    slow:hold()
    local branches = { docs = "slow", api = "fast", ui = "fast" }
    for branch, runner in pairs(branches) do
      workflow:check(branch)
      for step = 1, 3 do
        workflow:stage(branch .. "-" .. step, {
          runner = runner,
          after = step > 1 and branch .. "-" .. step - 1 or nil,
          finalizes = step == 3 and branch or nil,
        })
      end
    end
    local plan = env:submit(workflow)
    wait_for_work(slow, 1)
    for _, branch in ipairs { "api", "ui" } do wait_for_final(plan, branch .. "-3") end

    -- Two branches are over while the third has not left its first stage.
    assert.stage(plan, "docs-1").has_state "ATTEMPTING"
    evidence.not_begun(plan, "docs-2")
    for _, branch in ipairs { "api", "ui" } do evidence.met(plan, branch) end
    assert.check(plan, "docs").has_state "WAITING"
    assert.runner_load(fast, 0)
    assert.runner_load(slow, 1)
    assert.equal("ACTIVE", env:plan(plan).state)

    slow:release()
    env:wait(plan)
    assert.same({ "docs-1", "docs-2", "docs-3" }, slow:received_stages())
    local received = fast:received_stages()
    assert.equal(6, #received)
    for branch, type in pairs(branches) do
      for step = 1, 3 do
        local id = branch .. "-" .. step
        evidence.ran(plan, id, { runner = type == "fast" and fast or slow })
        if step > 1 then assert.in_order(plan, { branch .. "-" .. step - 1, id }) end
      end
    end
    for _, branch in ipairs { "api", "ui" } do
      assert.is_true(position(received, branch .. "-1") < position(received, branch .. "-2"))
      assert.is_true(position(received, branch .. "-2") < position(received, branch .. "-3"))
    end
    evidence.met(plan, "docs")
    evidence.settled(plan, { runners = { fast, slow } })
  end)

  it("a planning stage writes build, test and deploy, which follow each other #TestCIStylePipeline", function()
    local runners = {}
    for _, type in ipairs { "planner", "builder", "tester", "deployer" } do
      runners[type] = env:mock_runner { id = type, type = type }
    end
    local function after(kind, ...)
      local edges = {}
      for i, id in ipairs { ... } do
        edges[i] = { target_type = kind, target_id = id, condition = "ON_SUCCESS" }
      end
      return { dependencies = edges }
    end
    local function stage(id, runner, check, dependencies)
      return {
        id = id, runner_type = runner, dependencies = dependencies,
        assignments = { { target_check_id = check, goal_state = "FINAL" } },
      }
    end
    local states_while_planning
    function runners.planner.on_run(request)
      local reply = assert(env:write(request.work_plan_id, {
        checks = {
          { id = "builds", state = "PLANNED", kind = "build" },
          { id = "unit-tests", state = "PLANNED", kind = "test" },
          { id = "e2e-tests", state = "PLANNED", kind = "test" },
          { id = "deployed", state = "PLANNED", kind = "deploy" },
        },
        stages = {
          stage("build", "builder", "builds", after("STAGE", "plan")),
          stage("test-unit", "tester", "unit-tests", after("CHECK", "builds")),
          stage("test-e2e", "tester", "e2e-tests", after("CHECK", "builds")),
          stage("deploy", "deployer", "deployed", after("CHECK", "unit-tests", "e2e-tests")),
        },
      }))
      states_while_planning = {}
      for i, written in ipairs(reply.stages) do states_while_planning[i] = written.state end
      return env.success(request, { stages = 4 })
    end
    function runners.builder.on_run(request) return env.success(request, { artifact = "app-1.2.tar" }) end
    function runners.deployer.on_run(request)
      local built = env:check(request.work_plan_id, "builds").results[1].data
      return env.success(request, { deployed = built.artifact })
    end
    workflow:check("planned")
    workflow:stage("plan", { runner = "planner", finalizes = "planned" })
    runners.tester:hold()
    local plan = env:submit(workflow)
    wait_for_work(runners.tester, 2)

    assert.same({ "PLANNED", "PLANNED", "PLANNED", "PLANNED" }, states_while_planning)
    evidence.met(plan, "builds", { artifact = "app-1.2.tar" })
    assert.runner_load(runners.tester, 2)
    runners.tester:release "test-unit"
    wait_for_final(plan, "test-unit")
    env:settle()
    evidence.not_begun(plan, "deploy")
    assert.runner_load(runners.tester, 1)
    runners.tester:release()
    env:wait(plan)

    for id, type in pairs {
      plan = "planner", build = "builder", ["test-unit"] = "tester", ["test-e2e"] = "tester", deploy = "deployer",
    } do
      evidence.ran(plan, id, { runner = runners[type] })
    end
    evidence.met(plan, "planned", { stages = 4 })
    evidence.met(plan, "unit-tests")
    evidence.met(plan, "e2e-tests")
    evidence.met(plan, "deployed", { deployed = "app-1.2.tar" })
    for _, edge in ipairs {
      { "plan", "build" }, { "build", "test-unit" }, { "build", "test-e2e" },
      { "test-unit", "deploy" }, { "test-e2e", "deploy" },
    } do
      assert.in_order(plan, edge)
    end
    evidence.settled(plan, { runners = { runners.planner, runners.builder, runners.tester, runners.deployer } })
  end)

  it("one kind of stage runs for every platform, each with its own words #TestMultiPlatformBuild", function()
    local platforms = { "linux", "macos", "windows" }
    local runners = {}
    for i = 1, 3 do
      runners[i] = env:mock_runner { id = "builder-" .. i, type = "build", max_concurrent = 1 }
      runners[i]:hold()
      runners[i].on_run = function(request)
        return env.success(request, { binary = "app-" .. request.args.platform })
      end
    end
    local publisher = env:mock_runner { id = "publisher", type = "publish" }
    for _, platform in ipairs(platforms) do
      workflow:check("builds-" .. platform, { kind = "build", options = { target = platform } })
      workflow:stage("build-" .. platform, {
        runner = "build", args = { platform = platform }, finalizes = "builds-" .. platform,
      })
    end
    workflow:stage("publish", { runner = "publish", after = { "build-linux", "build-macos", "build-windows" } })
    local plan = env:submit(workflow)
    env:wait(function() return #runners[1].received + #runners[2].received + #runners[3].received == 3 end)

    local platform_of = {}
    for _, runner in ipairs(runners) do
      assert.runner_load(runner, 1) -- room for one each: all three build at once
      local request = runner.received[1]
      local platform = request.args.platform
      platform_of[runner] = platform
      assert.equal("build-" .. platform, request.stage_id)
      assert.same({ "builds-" .. platform }, request.assigned_check_ids)
      assert.same({
        { check_id = "builds-" .. platform, kind = "build", options = { target = platform } },
      }, request.check_options)
    end
    evidence.not_begun(plan, "publish")
    for _, runner in ipairs(runners) do runner:release() end
    env:wait(plan)

    for _, runner in ipairs(runners) do
      local platform = platform_of[runner]
      assert.equal(1, #runner.received)
      evidence.ran(plan, "build-" .. platform, { runner = runner })
      evidence.met(plan, "builds-" .. platform, { binary = "app-" .. platform })
      assert.in_order(plan, { "build-" .. platform, "publish" })
    end
    evidence.ran(plan, "publish", { runner = publisher })
    evidence.settled(plan, { runners = { runners[1], runners[2], runners[3], publisher } })
  end)

  it("a stage with an OR starts with the first that holds, and not without any #TestConditionalExecution", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    function runner.on_run(request)
      if request.stage_id == "mirror-1" then return env.failure "404" end
    end
    local held = env:mock_runner { id = "held", type = "held" }
    held:hold()
    workflow:check("fetched")
    workflow:stage("mirror-1", { runner = "test" })
    workflow:stage("mirror-2", { runner = "test", finalizes = "fetched" })
    workflow:stage("mirror-3", { runner = "held" })
    workflow:stage("install", { runner = "test", after = turboci.any { "mirror-1", "fetched", "mirror-3" } })
    workflow:stage("fallback", { runner = "test", after = { "mirror-1", when = "failure" } })
    workflow:stage("neither", {
      runner = "test", after = turboci.any { "mirror-1", { "mirror-2", when = "failure" } },
    })
    workflow:stage("after-neither", { runner = "test", after = "neither" })
    local plan = env:submit(workflow)
    wait_for_work(held, 1)
    for _, id in ipairs { "install", "fallback", "neither" } do wait_for_final(plan, id) end

    assert.stage(plan, "mirror-3").has_state "ATTEMPTING"
    evidence.ran(plan, "install", { runner = runner })
    assert.in_order(plan, { "mirror-2", "install" })
    local version = env:stage(plan, "install").version
    assert.runner_load(held, 1)
    held:release()
    env:wait(plan)

    -- The last alternative came too late to mean anything: a group is resolved once.
    assert.equal(version, env:stage(plan, "install").version)
    assert.stage(plan, "mirror-1").is_final { outcome = "FAILED", failure = "404", failure_kind = "REPORTED" }
    evidence.failed_attempt(plan, "mirror-1", 1, { kind = "REPORTED", runner = runner, message = "404" })
    evidence.ran(plan, "mirror-2", { runner = runner })
    evidence.ran(plan, "mirror-3", { runner = held })
    evidence.ran(plan, "fallback", { runner = runner })
    assert.in_order(plan, { "mirror-1", "fallback" })
    evidence.skipped(plan, "neither")
    evidence.skipped(plan, "after-neither")
    evidence.met(plan, "fetched")
    local received = runner:received_stages()
    table.sort(received)
    assert.same({ "fallback", "install", "mirror-1", "mirror-2" }, received)
    evidence.settled(plan, { outcome = "FAILED", runners = { runner, held } })
  end)

  it("fifty stages in ten layers all run, each after what it depends on #TestLargeWorkflow", function()
    large.run(env, 10, 5)
  end)
end)
