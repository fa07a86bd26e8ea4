-- Category 4 of the testing plan: sync and async executions, how they end, and what time has to do with it.
-- Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

local STAGE_STATES = { "PLANNED", "ATTEMPTING", "FINAL" }
local CHECK_STATES = { "PLANNED", "WAITING", "FINAL" }
local COMPLETED = { "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }
local FAILED = { "PENDING", "SCHEDULED", "RUNNING", "INCOMPLETE" }
local NEAR_S = 0.005 -- the clock that measures and the clock that is shown differ by a hair

describe("execution:", function()
  local env, workflow

  before_each(function()
    env = testing.env()
    workflow = turboci.plan { name = "execution" }
  end)
  after_each(function() env:stop() end)

  local function code_of(_, err)
    return err and err.code
  end

  -- "compile" answers the check "builds"; "package" comes after it.
  local function submit_build(mode)
    workflow:check("builds", { kind = "build" })
    workflow:stage("compile", { runner = "build", mode = mode, args = { target = "all" }, finalizes = "builds" })
    workflow:stage("package", { runner = "build", mode = mode, after = "compile" })
    return env:submit(workflow)
  end

  -- An async runner that leaves progress and completion to the spec.
  local function silent_runner(options)
    options = options or {}
    options.type, options.modes, options.auto_complete = "build", { "ASYNC" }, false
    return env:mock_runner(options)
  end

  -- The engine knows that the runner has accepted.
  local function wait_until_accepted(plan, stage_id)
    env:wait(function()
      local execution = env:execution(plan, stage_id)
      return execution and execution.runner_execution_id ~= ""
    end)
  end

  local function assert_live(plan, stage_id, runner, state)
    assert.stage(plan, stage_id).has_state "ATTEMPTING"
    assert.execution(plan, stage_id).is_recorded { state = state, runner = runner.id }
    assert.runner_load(runner, 1)
  end

  local function assert_completed(plan, stage_id, runner, mode)
    assert.stage(plan, stage_id).is_final {
      outcome = "SUCCEEDED", reason = "ATTEMPT_COMPLETE", attempts = 1, runner = runner.id,
    }
    assert.transitions(plan, "stage", stage_id, STAGE_STATES)
    assert.transitions(plan, "attempt", stage_id, COMPLETED)
    assert.execution(plan, stage_id).is_recorded {
      state = "COMPLETE", attempt_state = "COMPLETE", mode = mode, runner = runner.id,
    }
  end

  -- A failure that the runner reported: not retried, told to the check, and the end of what comes after it.
  local function assert_failed_build(plan, runner, mode, message)
    assert.stage(plan, "compile").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 1, runner = runner.id, failure = message,
      failure_kind = "REPORTED",
    }
    assert.transitions(plan, "stage", "compile", STAGE_STATES)
    assert.transitions(plan, "attempt", "compile", FAILED)
    assert.execution(plan, "compile").is_recorded {
      state = "FAILED", attempt_state = "INCOMPLETE", mode = mode, runner = runner.id, failure = message,
      failure_kind = "REPORTED",
    }
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "NO_RESULT", results = 1, failure = message }
    assert.transitions(plan, "check", "builds", CHECK_STATES)
    assert.stage(plan, "package").is_final {
      outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED", attempts = 0,
    }
    assert.transitions(plan, "stage", "package", { "PLANNED", "FINAL" })
    assert.same({}, env:executions(plan, "package"))
    assert.same({ "compile" }, runner:received_stages())
    assert.runner_load(runner, 0)
    assert.equal("FAILED", env:plan(plan).outcome)
  end

  it("a sync execution completes with the answer, which updates the checks #TestSyncExecutionSuccess", function()
    local runner = env:mock_runner { id = "a", type = "build", modes = { "SYNC" }, hold = true }
    function runner.on_run(request)
      local response = env.success(request, { size = 42, files = { "a.o", "b.o" } })
      response.details = { log = "ok" }
      return response
    end

    local plan = submit_build "sync"
    env:wait(function() return #runner.received == 1 end)
    assert_live(plan, "compile", runner, "RUNNING")
    assert.check(plan, "builds").has_state "WAITING"
    assert.stage(plan, "package").has_state "PLANNED"

    runner:release()
    env:wait(plan)
    assert_completed(plan, "compile", runner, "SYNC")
    assert_completed(plan, "package", runner, "SYNC")
    assert.in_order(plan, { "compile", "package" })
    assert.check(plan, "builds").is_final {
      outcome = "SUCCEEDED", reason = "RESULTS_FINAL", results = 1, data = { size = 42, files = { "a.o", "b.o" } },
    }
    assert.transitions(plan, "check", "builds", CHECK_STATES)
    local result = env:check(plan, "builds").results[1]
    assert.equal("stage", result.owner_type)
    assert.equal("compile", result.owner_id)
    assert.is_truthy(result.finalized_at)
    assert.same({ log = "ok" }, env:stage(plan, "compile").attempts[1].details)
    assert.runner_load(runner, 0)
  end)

  it("a failure in the answer to a sync execution is recorded #TestSyncExecutionFailure", function()
    local runner = env:mock_runner { id = "a", type = "build", modes = { "SYNC" }, hold = true }
    runner.on_run = function() return env.failure "exit code 2" end

    local plan = submit_build "sync"
    env:wait(function() return #runner.received == 1 end)
    assert_live(plan, "compile", runner, "RUNNING")

    runner:release()
    env:wait(plan)
    assert_failed_build(plan, runner, "SYNC", "exit code 2")
    local failure = env:execution(plan, "compile").failure
    assert.is_true(failure.occurred_at > 0)
    assert.same(failure, env:stage(plan, "compile").attempts[1].failure)
  end)

  it("an error instead of an answer is recorded as a failure too", function()
    local runner = env:mock_runner { id = "a", type = "build", modes = { "SYNC" } }
    runner.on_run = function() return nil, "disk full" end
    local plan = submit_build "sync"
    env:wait(plan)
    assert_failed_build(plan, runner, "SYNC", "disk full")
  end)

  it("a check that fails is no failed execution", function()
    local runner = env:mock_runner { id = "a", type = "build", modes = { "SYNC" } }
    function runner.on_run(request)
      local response = env.success(request)
      for _, update in ipairs(response.check_updates) do update.failure = { message = "2 tests failed" } end
      return response
    end
    local plan = submit_build "sync"
    env:wait(plan)
    assert.stage(plan, "compile").is_final { outcome = "FAILED", reason = "CHECK_FAILED", attempts = 1 }
    assert.transitions(plan, "attempt", "compile", COMPLETED)
    assert.execution(plan, "compile").is_recorded { state = "COMPLETE", runner = "a" }
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "RESULT_FAILED", failure = "2 tests failed" }
    assert.stage(plan, "package").is_final { outcome = "SKIPPED" }
  end)

  it("an async execution is accepted, and completed by a callback #TestAsyncExecutionSuccess", function()
    local runner = silent_runner { id = "a" }
    function runner.on_run_async(request)
      return { accepted = true, runner_execution_id = "job-" .. request.stage_id }
    end

    local plan = submit_build "async"
    wait_until_accepted(plan, "compile")
    local request = runner.received[1]
    assert.equal("ASYNC", request.mode)
    assert.same({ target = "all" }, request.args)
    assert.is_true(request.callback_address ~= "")
    assert.equal(request, runner.pending[request.execution_id])
    assert_live(plan, "compile", runner, "DISPATCHED")
    assert.check(plan, "builds").has_state "WAITING"

    local answer = assert(runner:complete(request, env.success(request, { size = 42 })))
    assert.is_true(answer.acknowledged)
    wait_until_accepted(plan, "package")
    assert.check(plan, "builds").is_final { outcome = "SUCCEEDED", results = 1, data = { size = 42 } }
    assert_live(plan, "package", runner, "DISPATCHED")
    assert.is_nil(runner.pending[request.execution_id])

    assert(runner:complete "package")
    env:wait(plan)
    assert_completed(plan, "compile", runner, "ASYNC")
    assert_completed(plan, "package", runner, "ASYNC")
    assert.equal("job-compile", env:execution(plan, "compile").runner_execution_id)
    assert.in_order(plan, { "compile", "package" })
    assert.transitions(plan, "check", "builds", CHECK_STATES)
    assert.runner_load(runner, 0)
  end)

  it("an async execution reports progress while it runs #TestAsyncExecutionProgress", function()
    local runner = silent_runner { id = "a" }
    workflow:stage("compile", { runner = "build", mode = "async" })
    local plan = env:submit(workflow)
    wait_until_accepted(plan, "compile")
    assert_live(plan, "compile", runner, "DISPATCHED")

    -- The first report starts it, and is seen by whoever watches.
    assert(runner:progress("compile", "configuring", { percent = 10 }))
    assert_live(plan, "compile", runner, "RUNNING")
    env:wait(function() return #plan.events:progress "compile" == 1 end)
    local started_at = env:execution(plan, "compile").started_at
    assert(runner:progress("compile", "compiling", { percent = 60, details = { file = "a.c" } }))
    assert(runner:progress("compile", "linking"))
    local execution = env:execution(plan, "compile")
    assert.equal("RUNNING", execution.state)
    assert.equal(started_at, execution.started_at)

    assert(runner:complete "compile")
    env:wait(plan)
    assert_completed(plan, "compile", runner, "ASYNC")
    local messages = { "configuring", "compiling", "linking" }
    assert.execution(plan, "compile").is_recorded { state = "COMPLETE", progress = messages }
    assert.same(messages, plan.events:progress "compile")
    execution = env:execution(plan, "compile")
    assert.same({ percent = 10 }, execution.progress[1].details)
    assert.same({ percent = 60, file = "a.c" }, execution.progress[2].details)
    local last = execution.dispatched_at
    for _, entry in ipairs(execution.progress) do
      assert.is_true(entry.timestamp >= last)
      last = entry.timestamp
    end
    assert.is_true(last <= execution.finished_at)
    assert.same(execution.progress, env:stage(plan, "compile").attempts[1].progress)
    assert.runner_load(runner, 0)

    -- It is over: there is no more to report.
    assert.equal("FAILED_PRECONDITION", code_of(runner:progress(runner.received[1], "late")))
    assert.same(execution, env:execution(plan, "compile"))
  end)

  it("an async execution reports its failure by the callback #TestAsyncExecutionFailure", function()
    local runner = silent_runner { id = "a" }
    local plan = submit_build "async"
    wait_until_accepted(plan, "compile")
    assert(runner:progress("compile", "compiling"))
    assert_live(plan, "compile", runner, "RUNNING")

    local answer = assert(runner:complete("compile", env.failure "exit code 2"))
    assert.is_true(answer.acknowledged)
    env:wait(plan)
    assert_failed_build(plan, runner, "ASYNC", "exit code 2")
    assert.execution(plan, "compile").is_recorded { state = "FAILED", progress = { "compiling" } }
    assert.is_nil(next(runner.pending))
  end)

  it("an execution past its deadline is timed out and goes to another runner #TestExecutionTimeout", function()
    -- One of each mode. The first runner never ends anything, the second does what is asked.
    local options = { timeout = "500ms", retry = { max_attempts = 2, backoff = "10ms" } }
    for _, mode in ipairs { "sync", "async" } do
      workflow:check(mode .. "-check")
      workflow:stage(mode, {
        runner = "build", mode = mode, finalizes = mode .. "-check", timeout = options.timeout, retry = options.retry,
      })
    end
    local stuck = env:mock_runner { id = "stuck", type = "build", auto_complete = false, hold = true }
    local plan = env:submit(workflow)
    env:wait(function() return #stuck.received == 2 end)
    assert.runner_load(stuck, 2)
    local works = env:mock_runner { id = "works", type = "build" }

    env:wait(plan)

    for _, mode in ipairs { "sync", "async" } do
      assert.stage(plan, mode).is_final { outcome = "SUCCEEDED", attempts = 2, runner = "works" }
      assert.transitions(plan, "stage", mode, STAGE_STATES)
      local states = mode == "sync" and FAILED or { "PENDING", "SCHEDULED", "INCOMPLETE" }
      assert.transitions(plan, "attempt", mode, states, 1)
      assert.transitions(plan, "attempt", mode, COMPLETED, 2)
      assert.execution(plan, mode, 1).is_recorded {
        state = "FAILED", attempt_state = "INCOMPLETE", runner = "stuck", failure_kind = "TIMEOUT",
        mode = mode:upper(),
      }
      assert.execution(plan, mode, 2).is_recorded { state = "COMPLETE", runner = "works", mode = mode:upper() }
      local first = env:execution(plan, mode, 1)
      assert.is_true(first.finished_at >= first.deadline - NEAR_S)
      assert.check(plan, mode .. "-check").is_final { outcome = "SUCCEEDED", results = 1, data = {} }
      assert.transitions(plan, "check", mode .. "-check", CHECK_STATES)
    end
    assert.equal(2, #stuck.received)
    assert.runner_load(stuck, 0)
    assert.runner_load(works, 0)

    -- What the first runner says now is too late, by callback or by answer.
    local before = env:query(plan)
    stuck.on_run = function(request) return env.success(request, { late = true }) end
    for _, request in ipairs(stuck.received) do
      assert.equal("FAILED_PRECONDITION", code_of(stuck:progress(request, "late")))
      assert.equal("FAILED_PRECONDITION", code_of(stuck:complete(request, env.success(request, { late = true }))))
    end
    stuck:release()
    env:wait(function() return stuck.load == 0 end)
    env:settle()
    assert.same(before, env:query(plan))
  end)

  it("an execution that is timed out for the last time fails its stage and check", function()
    local runner = env:mock_runner { id = "a", type = "build", hold = true }
    workflow:check("builds")
    workflow:stage("compile", {
      runner = "build", finalizes = "builds", timeout = "50ms", retry = { max_attempts = 1 },
    })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.stage(plan, "compile").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 1, failure_kind = "TIMEOUT",
    }
    assert.transitions(plan, "attempt", "compile", FAILED)
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "no retries left" }
    assert.runner_load(runner, 0)
  end)

  it("the runner is told the deadline, and held to it #TestExecutionDeadline", function()
    local runner = env:mock_runner { id = "a", type = "build" }
    workflow:stage("default", { runner = "build" })
    workflow:stage("sync", { runner = "build", timeout = "90s" })
    workflow:stage("async", { runner = "build", mode = "async", timeout = "90s" })
    local plan = env:submit(workflow)
    env:wait(plan)
    local limits = assert(env.client:get_server_info {}).limits
    local seconds = { default = limits.execution_timeout_ms / 1000, sync = 90, async = 90 }
    local answer_s = { default = seconds.default, sync = 90, async = limits.accept_timeout_ms / 1000 }
    for _, request in ipairs(runner.received) do
      local id = request.stage_id
      local execution = env:execution(plan, id)
      assert_completed(plan, id, runner, request.mode)
      assert.near(seconds[id], execution.deadline - execution.dispatched_at, NEAR_S)
      assert.near(execution.deadline, request.deadline, NEAR_S)
      -- The call's own deadline says the same; RunAsync has to be answered sooner. gRPC rounds what it tells up, by
      -- three percent at most.
      local told = ("%s: told %.3f s"):format(id, request.timeout)
      assert.is_true(request.timeout <= answer_s[id] * 1.03 + 1, told)
      assert.is_true(request.timeout > answer_s[id] / 2, told)
    end
    assert.equal(3, #runner.received)

    -- A runner that goes on beyond it finds its call given up, and no sooner.
    runner:hold()
    assert(env:write(plan, { stages = { {
      id = "late", runner_type = "build", execution_mode = "SYNC", timeouts = { execution_ms = 200 },
      retry = { max_attempts = 1 },
    } } }))
    env:wait(function() return #runner.received == 4 and runner.received[4].cancelled end)
    env:wait(plan)
    assert.stage(plan, "late").is_final { outcome = "FAILED", failure_kind = "TIMEOUT" }
    assert.transitions(plan, "attempt", "late", FAILED)
    local execution = env:execution(plan, "late")
    assert.execution(plan, "late").is_recorded { state = "FAILED", runner = "a", failure_kind = "TIMEOUT" }
    assert.near(0.2, execution.deadline - execution.dispatched_at, NEAR_S)
    assert.is_true(execution.finished_at >= execution.deadline - NEAR_S)
    assert.runner_load(runner, 0)
  end)
end)
