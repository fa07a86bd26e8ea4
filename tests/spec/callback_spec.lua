-- Category 6 of the testing plan: what runners tell the engine about async work. Both worlds.

local evidence = require "evidence"
local testing = require "turboci.testing"
local turboci = require "turboci"

describe("callbacks:", function()
  local env, runner, workflow

  before_each(function()
    env = testing.env()
    runner = env:mock_runner { id = "r", type = "test", auto_complete = false }
    workflow = turboci.plan { name = "callbacks" }
  end)
  after_each(function() env:stop() end)

  -- Stage "s" is async and finalizes these checks; submits, and returns its request once the engine knows that the
  -- runner has accepted it.
  local function submit(checks)
    for _, id in ipairs(checks or {}) do workflow:check(id) end
    workflow:stage("s", { runner = "test", mode = "async", finalizes = checks })
    local plan = env:submit(workflow)
    env:wait(function()
      local execution = env:execution(plan, "s")
      return execution and execution.runner_execution_id ~= ""
    end)
    return plan, runner.received[1]
  end

  -- The messages of the last attempt of stage "s" in each event of the stream, without repetitions.
  local function seen_progress(plan)
    local seen = {}
    for _, event in ipairs(plan.events.events) do
      local attempt = event.stage_event and event.stage_event.stage.attempts[1]
      local messages = {}
      for i, entry in ipairs(attempt and attempt.progress or {}) do messages[i] = entry.message end
      local line = table.concat(messages, " ")
      if line ~= "" and line ~= seen[#seen] then
        assert.equal("ATTEMPTING", event.stage_event.new_state)
        assert.equal("ATTEMPTING", event.stage_event.old_state)
        seen[#seen + 1] = line
      end
    end
    return seen
  end

  it("progress is stored with the execution, and says that it runs #TestProgressUpdatesRecorded", function()
    local plan, request = submit { "builds" }
    assert.execution(plan, "s").is_recorded { state = "DISPATCHED", attempt_state = "SCHEDULED", progress = {} }
    assert.runner_load(runner, 1)

    assert(runner:progress(request, "compiling", { percent = 40, details = { file = "main.c", left = { 3, 4 } } }))

    assert.execution(plan, "s").is_recorded {
      state = "RUNNING", attempt_state = "RUNNING", mode = "ASYNC", runner = "r", progress = { "compiling" },
    }
    local execution = env:execution(plan, "s")
    local entry = execution.progress[1]
    assert.same({ file = "main.c", left = { 3, 4 }, percent = 40 }, entry.details)
    assert.is_true(entry.timestamp >= execution.dispatched_at)
    assert.same(execution.progress, env:stage(plan, "s").attempts[1].progress)
    assert.stage(plan, "s").has_state "ATTEMPTING"
    assert.check(plan, "builds").has_state "WAITING"
    assert.runner_load(runner, 1)
    env:wait(function() return #seen_progress(plan) == 1 end)

    assert(runner:complete(request, env.success(request)))
    env:wait(plan)
    evidence.ran(plan, "s", { runner = runner, mode = "ASYNC" })
    evidence.met(plan, "builds")
    assert.same(entry, env:execution(plan, "s").progress[1])
    assert.same({ "compiling" }, seen_progress(plan))
    evidence.settled(plan, { runners = { runner } })
  end)

  it("several progress updates are kept and told in their order #TestProgressUpdatesMultiple", function()
    local plan, request = submit()
    local messages = { "fetch", "configure", "compile", "link", "pack" }
    for i, message in ipairs(messages) do
      assert(runner:progress(request, message, { percent = i * 20 }))
      assert.equal(i, #env:execution(plan, "s").progress)
      assert.runner_load(runner, 1)
    end
    assert(runner:complete(request, { stage_state = "FINAL" }))
    env:wait(plan)

    assert.execution(plan, "s").is_recorded { state = "COMPLETE", progress = messages }
    local last, lines = 0, {}
    for i, entry in ipairs(env:execution(plan, "s").progress) do
      assert.equal(i * 20, entry.details.percent)
      assert.is_true(entry.timestamp >= last)
      last = entry.timestamp
      lines[i] = table.concat(messages, " ", 1, i)
    end
    assert.same(lines, seen_progress(plan))
    evidence.ran(plan, "s", { runner = runner, mode = "ASYNC" })
    evidence.settled(plan, { runners = { runner } })
    local _, err = runner:progress(request, "too late")
    assert.equal("FAILED_PRECONDITION", err.code)
    assert.equal(5, #env:execution(plan, "s").progress)
  end)

  it("a callback brings the state and the result of a check #TestCheckUpdatesFromCallback", function()
    local plan, request = submit { "coverage" }
    assert.same({ "coverage" }, request.assigned_check_ids)
    assert.check(plan, "coverage").has_state "WAITING"
    assert.same({}, env:check(plan, "coverage").results)

    local data = { percent = 81.5, files = { "a.c", "b.c" }, lines = { hit = 163, all = 200 }, complete = true }
    assert(runner:complete(request, {
      stage_state = "FINAL",
      check_updates = { { check_id = "coverage", state = "FINAL", finalize = true, result_data = data } },
      details = { tool = "gcov" },
    }))
    env:wait(plan)

    evidence.met(plan, "coverage", data)
    local result, execution = env:check(plan, "coverage").results[1], env:execution(plan, "s")
    assert.equal("stage", result.owner_type)
    assert.equal("s", result.owner_id)
    assert.is_true(result.created_at >= execution.started_at)
    assert.is_true(result.finalized_at >= result.created_at)
    assert.is_true(result.finalized_at <= execution.finished_at)
    assert.same({ tool = "gcov" }, env:stage(plan, "s").attempts[1].details)
    evidence.ran(plan, "s", { runner = runner, mode = "ASYNC" })
    -- Completing is one step: the check and the stage are FINAL in events of one moment, the check first.
    assert.is_true(plan.events:sequence_of("check", "coverage", "FINAL")
      < plan.events:sequence_of("stage", "s", "FINAL"))
    evidence.settled(plan, { runners = { runner } })
  end)

  it("one callback updates many checks, each in its own way #TestMultipleCheckUpdates", function()
    local plan, request = submit { "builds", "lints", "passes", "silent" }
    assert.equal(4, #request.assigned_check_ids)
    assert(runner:complete(request, {
      stage_state = "FINAL",
      check_updates = {
        { check_id = "builds", state = "FINAL", finalize = true, result_data = { size = 12 } },
        { check_id = "lints", finalize = true }, -- finalizing is enough
        { check_id = "passes", state = "FINAL", finalize = true, failure = { message = "2 of 90 tests failed" } },
      },
    }))
    env:wait(plan)

    evidence.met(plan, "builds", { size = 12 })
    evidence.met(plan, "lints")
    assert.check(plan, "passes").is_final {
      outcome = "FAILED", reason = "RESULT_FAILED", results = 1, failure = "2 of 90 tests failed",
    }
    assert.check(plan, "silent").is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "no result reported" }
    for _, id in ipairs { "passes", "silent" } do assert.transitions(plan, "check", id, evidence.CHECK) end
    -- The work was done, and its answer is no: complete, not repeated, and the stage has failed.
    assert.stage(plan, "s").is_final { outcome = "FAILED", reason = "CHECK_FAILED", attempts = 1 }
    assert.transitions(plan, "stage", "s", evidence.STAGE)
    assert.transitions(plan, "attempt", "s", evidence.ATTEMPT, 1)
    assert.execution(plan, "s").is_recorded { state = "COMPLETE", attempt_state = "COMPLETE", runner = "r" }
    evidence.settled(plan, { outcome = "FAILED", runners = { runner } })
  end)

  it("a completion starts what waited for its stage and its check #TestCallbackTriggersDownstream", function()
    local downstream = env:mock_runner { id = "d", type = "downstream" }
    downstream:hold()
    workflow:check("deployed")
    workflow:stage("after-stage", { runner = "downstream", after = "s" })
    workflow:stage("after-check", { runner = "downstream", mode = "async", after = "builds" })
    workflow:stage("last", { runner = "downstream", after = { "after-stage", "after-check" }, finalizes = "deployed" })
    local plan, request = submit { "builds" }
    assert(runner:progress(request, "nearly done", { percent = 99 }))
    env:settle()
    for _, id in ipairs { "after-stage", "after-check", "last" } do evidence.not_begun(plan, id) end
    assert.same({}, downstream.received)
    assert.runner_load(runner, 1)

    assert(runner:complete(request, env.success(request)))
    env:wait(function() return #downstream.received == 2 end)
    evidence.met(plan, "builds")
    for _, id in ipairs { "after-stage", "after-check" } do assert.stage(plan, id).has_state "ATTEMPTING" end
    evidence.not_begun(plan, "last")
    assert.runner_load(runner, 0)
    assert.runner_load(downstream, 2)
    -- Dispatched in the step that completed what they waited for.
    local finished = env:execution(plan, "s").finished_at
    for _, id in ipairs { "after-stage", "after-check" } do
      assert.equal(finished, env:execution(plan, id).created_at)
      assert.equal(finished, env:execution(plan, id).dispatched_at)
    end

    downstream:release()
    env:wait(plan)
    evidence.ran(plan, "s", { runner = runner, mode = "ASYNC" })
    evidence.ran(plan, "after-stage", { runner = downstream })
    evidence.ran(plan, "after-check", { runner = downstream, mode = "ASYNC" })
    evidence.ran(plan, "last", { runner = downstream })
    assert.in_order(plan, { "s", "after-stage", "last" })
    assert.in_order(plan, { "after-check", "last" })
    assert.is_true(plan.events:sequence_of("check", "builds", "FINAL")
      < plan.events:sequence_of("stage", "after-check", "ATTEMPTING"))
    evidence.met(plan, "deployed")
    evidence.settled(plan, { runners = { runner, downstream } })
  end)

  it("a failure in a callback is recorded wherever it matters #TestCallbackWithFailure", function()
    local other = env:mock_runner { id = "other", type = "other" }
    workflow:stage("ship", { runner = "other", after = "s" })
    workflow:stage("tell", { runner = "other", after = { "s", when = "failure" } })
    local plan, request = submit { "builds", "lints" }
    assert(runner:progress(request, "linking"))
    assert(runner:complete(request, {
      stage_state = "FINAL",
      failure = { message = "disk full" },
      check_updates = { { check_id = "lints", state = "FINAL", finalize = true, result_data = { warnings = 0 } } },
      details = { free = 0 },
    }))
    env:wait(plan)

    assert.stage(plan, "s").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 1, failure = "disk full", failure_kind = "REPORTED",
    }
    assert.transitions(plan, "stage", "s", evidence.STAGE)
    evidence.failed_attempt(plan, "s", 1, { kind = "REPORTED", runner = runner, mode = "ASYNC", message = "disk full" })
    local execution = env:execution(plan, "s")
    assert.equal(execution.finished_at, execution.failure.occurred_at)
    assert.same({ free = 0 }, env:stage(plan, "s").attempts[1].details)
    assert.equal("linking", execution.progress[1].message)
    -- Nothing follows, so what it had to say of its checks counts; what it owes is a failure.
    evidence.met(plan, "lints", { warnings = 0 })
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "disk full" }
    assert.transitions(plan, "check", "builds", evidence.CHECK)
    evidence.skipped(plan, "ship")
    evidence.ran(plan, "tell", { runner = other })
    assert.in_order(plan, { "s", "tell" })
    assert.same({ "tell" }, other:received_stages())
    assert.is_nil(next(runner.pending))
    evidence.settled(plan, { outcome = "FAILED", runners = { runner, other } })
  end)
end)
