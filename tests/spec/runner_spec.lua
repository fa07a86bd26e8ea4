-- Category 2 of the testing plan: registration, heartbeat, expiry, and who gets the work. Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

local STAGE_STATES = { "PLANNED", "ATTEMPTING", "FINAL" }
local SYNC_STATES = { "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }
local NEAR_S = 0.005 -- the clock that measures and the clock that is shown differ by a hair

describe("runners:", function()
  local env, workflow

  before_each(function()
    env = testing.env()
    workflow = turboci.plan { name = "runners" }
  end)
  after_each(function() env:stop() end)

  local function list(runner_type)
    return assert(env.client:list_stage_runners { runner_type = runner_type }).runners
  end

  local function ids_of(infos)
    local ids = {}
    for i, info in ipairs(infos) do ids[i] = info.runner_id end
    table.sort(ids)
    return ids
  end

  local function sorted(ids)
    table.sort(ids)
    return ids
  end

  local function code_of(_, err)
    return err and err.code
  end

  local function assert_succeeded(plan, stage_id, runner)
    assert.stage(plan, stage_id).is_final { outcome = "SUCCEEDED", attempts = 1, runner = runner.id }
    assert.transitions(plan, "stage", stage_id, STAGE_STATES)
    assert.transitions(plan, "attempt", stage_id, SYNC_STATES)
    assert.execution(plan, stage_id).is_recorded {
      state = "COMPLETE", attempt_state = "COMPLETE", mode = "SYNC", runner = runner.id, runner_type = runner.type,
    }
  end

  -- Until a call of so many milliseconds has run into its deadline.
  local function let_pass(duration)
    local clock = env:mock_runner { type = "clock", modes = { "SYNC" }, hold = true }
    local hand = turboci.plan { name = "clock" }
    hand:stage("tick", { runner = "clock", timeout = duration, retry = { max_attempts = 1 } })
    env:wait(env:submit(hand))
    clock:unregister()
  end

  it("a registered runner is listed as it described itself, and gets work #TestRunnerRegistration", function()
    assert.same({}, list())
    local runner = env:mock_runner {
      id = "a", type = "build", modes = { "SYNC", "ASYNC" }, max_concurrent = 3, ttl = "90s",
    }

    local infos = list()
    assert.equal(1, #infos)
    local info = infos[1]
    assert.equal("a", info.runner_id)
    assert.equal("build", info.runner_type)
    assert.equal(runner.address, info.address)
    assert.equal(runner.registration_id, info.registration_id)
    assert.is_true(#info.registration_id >= 32)
    assert.same({ "SYNC", "ASYNC" }, info.supported_modes)
    assert.equal(3, info.max_concurrent)
    assert.equal(0, info.current_load)
    assert.is_true(info.registered_at > 0)
    assert.equal(info.registered_at, info.last_heartbeat)
    assert.near(90, info.expires_at - info.last_heartbeat, NEAR_S)
    assert.same(infos, list "build")
    assert.same({}, list "deploy")

    runner:hold()
    workflow:check("builds")
    workflow:stage("compile", { runner = "build", finalizes = "builds" })
    local plan = env:submit(workflow)
    env:wait(function() return #runner.received == 1 end)
    assert.runner_load(runner, 1)
    runner:release()
    env:wait(plan)
    assert_succeeded(plan, "compile", runner)
    assert.check(plan, "builds").is_final { outcome = "SUCCEEDED", results = 1 }
    assert.runner_load(runner, 0)
  end)

  it("registering again extends the ttl, and keeps identity and load #TestRunnerHeartbeat", function()
    -- Both stages wait for their runners, and end when these are given up.
    local once = { max_attempts = 1 }
    workflow:stage("heard", { runner = "steady", mode = "async", retry = once })
    workflow:stage("unheard", { runner = "silent", mode = "async", retry = once })
    local plan = env:submit(workflow)
    local steady = env:mock_runner { id = "steady", type = "steady", ttl = "1s", auto_complete = false }
    local silent = env:mock_runner { id = "silent", type = "silent", ttl = "1s", auto_complete = false }
    let_pass "100ms"
    local before = steady:info()
    assert.runner_load(steady, 1)

    local response = steady:register { max_concurrent = 4, address = "localhost:1" }

    local after = steady:info()
    assert.equal(before.registration_id, response.registration_id)
    assert.equal(before.registration_id, after.registration_id)
    assert.equal(response.expires_at, after.expires_at)
    assert.equal(before.registered_at, after.registered_at)
    assert.equal(1, after.current_load)
    assert.equal(4, after.max_concurrent)
    assert.equal("localhost:1", after.address)
    local beat = after.last_heartbeat - before.last_heartbeat
    assert.is_true(beat >= 0.1 - NEAR_S)
    assert.near(beat, after.expires_at - before.expires_at, NEAR_S)

    -- steady was the first to register, and is the last to go: a whole ttl after its heartbeat.
    env:wait(plan)
    for _, runner in ipairs { steady, silent } do
      local id = runner == steady and "heard" or "unheard"
      assert.stage(plan, id).is_final { outcome = "FAILED", attempts = 1, failure_kind = "RUNNER_LOST" }
      assert.transitions(plan, "stage", id, STAGE_STATES)
      assert.execution(plan, id).is_recorded { state = "FAILED", runner = runner.id }
      assert.is_nil(runner:info())
    end
    local events = plan.events
    assert.is_true(events:sequence_of("stage", "unheard", "FINAL") < events:sequence_of("stage", "heard", "FINAL"))
    assert.is_true(env:execution(plan, "heard").finished_at >= after.expires_at - NEAR_S)
  end)

  it("an unregistered runner is gone, gets no work, and may end what it has #TestRunnerUnregistration", function()
    local runner = env:mock_runner { id = "a", type = "build", max_concurrent = 1, hold = true }
    workflow:check("builds")
    workflow:stage("first", { runner = "build", finalizes = "builds" })
    workflow:stage("second", { runner = "build", after = "first" })
    local plan = env:submit(workflow)
    env:wait(function() return #runner.received == 1 end)
    local registration = runner.registration_id

    assert(runner:unregister())

    assert.same({}, list())
    assert.equal("NOT_FOUND", code_of(runner:unregister()))
    assert.equal("INVALID_ARGUMENT", code_of(env.client:unregister_stage_runner {}))
    assert.execution(plan, "first").is_recorded { state = "RUNNING", runner = "a" }

    runner:release()
    env:wait_for(plan, "stage", "first", "FINAL")
    env:settle()
    assert_succeeded(plan, "first", runner)
    assert.check(plan, "builds").is_final { outcome = "SUCCEEDED" }
    assert.execution(plan, "second").is_recorded { state = "PENDING", runner = "" }
    assert.same({ "first" }, runner:received_stages())

    runner:register()
    assert.are_not.equal(registration, runner.registration_id)
    env:wait(plan)
    assert_succeeded(plan, "second", runner)
    assert.in_order(plan, { "first", "second" })
    assert.runner_load(runner, 0)
  end)

  it("a runner that falls silent expires, and its work goes to another #TestRunnerExpiration", function()
    workflow:check("builds")
    workflow:stage("compile", {
      runner = "build", mode = "async", finalizes = "builds", retry = { max_attempts = 2, backoff = "10ms" },
    })
    local plan = env:submit(workflow)
    local a = env:mock_runner { id = "a", type = "build", ttl = "1s", auto_complete = false }
    env:wait(function() return next(a.pending) end)
    local expires_at = a:info().expires_at
    assert.runner_load(a, 1)
    local b = env:mock_runner { id = "b", type = "build", hold = true }

    env:wait(function() return #b.received == 1 end)

    assert.same({ "b" }, ids_of(list()))
    assert.execution(plan, "compile", 1).is_recorded {
      state = "FAILED", attempt_state = "INCOMPLETE", runner = "a", failure_kind = "RUNNER_LOST",
      failure = "runner 'a' expired",
    }
    assert.is_true(env:execution(plan, "compile", 1).finished_at >= expires_at - NEAR_S)
    assert.stage(plan, "compile").has_state "ATTEMPTING"
    assert.check(plan, "builds").has_state "WAITING"
    assert.equal(2, b.received[1].attempt_idx)
    assert.runner_load(b, 1)

    -- What the lost runner says now is too late.
    local lost = a.received[1]
    local before = env:query(plan)
    assert.equal("FAILED_PRECONDITION", code_of(a:progress(lost, "still here")))
    assert.equal("FAILED_PRECONDITION", code_of(a:complete(lost, env.success(lost, { by = "a" }))))
    assert.same(before.checks, env:query(plan).checks)

    b:release()
    env:wait(plan)
    assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED", attempts = 2, runner = "b" }
    assert.check(plan, "builds").is_final { outcome = "SUCCEEDED", results = 1, data = {} }
    assert.transitions(plan, "stage", "compile", STAGE_STATES)
    assert.transitions(plan, "attempt", "compile", { "PENDING", "SCHEDULED", "INCOMPLETE" }, 1)
    assert.transitions(plan, "attempt", "compile", SYNC_STATES, 2)
    assert.execution(plan, "compile", 2).is_recorded { state = "COMPLETE", attempt = 2, runner = "b" }
    assert.runner_load(b, 0)

    -- It may come back, as somebody new with nothing to do.
    local registration = a.registration_id
    a:register { ttl_seconds = 60 }
    assert.are_not.equal(registration, a.registration_id)
    assert.runner_load(a, 0)
    assert.equal(1, #a.received)
  end)

  it("work is spread over the runners of a type #TestMultipleRunnersSameType", function()
    local runners = {}
    for i, id in ipairs { "a", "b", "c" } do
      runners[i] = env:mock_runner { id = id, type = "build", max_concurrent = 2, hold = true }
    end
    local stages = {}
    for i = 1, 9 do
      stages[i] = "s" .. i
      workflow:stage(stages[i], { runner = "build" })
    end

    local plan = env:submit(workflow)
    local function received()
      local ids = {}
      for _, runner in ipairs(runners) do table.move(runner:received_stages(), 1, #runner.received, #ids + 1, ids) end
      return sorted(ids)
    end
    env:wait(function() return #received() == 6 end)
    env:settle()

    assert.same({ "s1", "s2", "s3", "s4", "s5", "s6" }, received())
    for _, runner in ipairs(runners) do
      assert.equal(2, #runner.received)
      assert.runner_load(runner, 2)
    end
    for _, id in ipairs { "s7", "s8", "s9" } do assert.execution(plan, id).is_recorded { state = "PENDING" } end

    for _, runner in ipairs(runners) do runner:release() end
    env:wait(plan)
    assert.same(stages, received(), "each stage once")
    for _, runner in ipairs(runners) do
      for _, id in ipairs(runner:received_stages()) do assert_succeeded(plan, id, runner) end
      assert.equal(2, runner.peak_load)
      assert.runner_load(runner, 0)
    end
  end)

  it("a stage goes to a runner of its type and to no other #TestMultipleRunnerTypes", function()
    local runners = {}
    local types = { "build", "deploy", "test" }
    for _, name in ipairs(types) do
      runners[name] = env:mock_runner { id = name .. "er", type = name }
      workflow:check(name .. "s")
      for i = 1, 2 do workflow:stage(name .. i, { runner = name, finalizes = name .. "s" }) end
    end
    -- "builder" is the id of a runner, and no type.
    workflow:stage("misdirected", { runner = "builder" })
    assert.same({ "builder", "deployer", "tester" }, ids_of(list()))
    for _, name in ipairs(types) do assert.same({ name .. "er" }, ids_of(list(name))) end

    local plan = env:submit(workflow)
    for _, name in ipairs(types) do
      for i = 1, 2 do env:wait_for(plan, "stage", name .. i, "FINAL") end
    end
    env:settle()

    for _, name in ipairs(types) do
      assert.same({ name .. 1, name .. 2 }, sorted(runners[name]:received_stages()))
      for i = 1, 2 do assert_succeeded(plan, name .. i, runners[name]) end
      assert.check(plan, name .. "s").is_final { outcome = "SUCCEEDED", results = 2 }
      assert.runner_load(runners[name], 0)
    end
    assert.execution(plan, "misdirected").is_recorded { state = "PENDING", runner_type = "builder", runner = "" }
  end)

  it("the metadata of a runner is kept and can be read #TestRunnerMetadata", function()
    local described = { zone = "eu-1", ["os.name"] = "debian 12", note = "größer\nals 1", empty = "" }
    local runner = env:mock_runner { id = "a", type = "build", metadata = described }
    local plain = env:mock_runner { id = "b", type = "build" }
    assert.same(described, runner:info().metadata)
    assert.same({}, plain:info().metadata)

    runner:register { metadata = {} }
    assert.same(described, runner:info().metadata, "a heartbeat without metadata keeps what was known")
    runner:register { metadata = { zone = "eu-2" } }
    assert.same({ zone = "eu-2" }, runner:info().metadata, "a heartbeat with metadata replaces it")
    assert.same({}, plain:info().metadata)

    workflow:stage("compile", { runner = "build" })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED" }
    assert.same({ zone = "eu-2" }, runner:info().metadata, "work does not change it")

    assert(runner:unregister())
    runner:register { metadata = {} }
    assert.same({}, runner:info().metadata, "a new registration starts anew")
  end)
end)
