-- The assertions of the test library about executions, order and load: they hold when it is so, and say how it is not.

local testing = require "turboci.testing"
local turboci = require "turboci"

local function message_of(fn)
  local ok, err = pcall(fn)
  assert.is_false(ok, "expected an error")
  return tostring(err)
end

local function assert_contains(text, ...)
  for _, part in ipairs { ... } do
    assert.is_truthy(text:find(part, 1, true), ("expected %q in:\n%s"):format(part, text))
  end
end

describe("testing asserts:", function()
  local env, runner, plan

  before_each(function()
    env = testing.env { world = "virtual" }
    runner = env:mock_runner { id = "r", type = "test" }
    function runner.on_run(request)
      if request.stage_id == "flaky" and request.attempt_idx == 1 then return env.failure "exit code 2" end
    end
    local workflow = turboci.plan { name = "p" }
    workflow:stage("flaky", { runner = "test", retry = { max_attempts = 2, backoff = "1m" } })
    workflow:stage("after", { runner = "test", mode = "async", after = "flaky" })
    workflow:stage("aside", { runner = "nobody" })
    plan = env:submit(workflow)
    env:wait_for(plan, "stage", "after", "FINAL")
  end)
  after_each(function() env:stop() end)

  it("is_recorded compares what is named", function()
    assert.execution(plan, "flaky", 1).is_recorded {
      state = "FAILED", attempt = 1, attempt_state = "INCOMPLETE", mode = "SYNC", runner = "r", runner_type = "test",
      failure = "code 2", failure_kind = "REPORTED",
    }
    assert.execution(plan, "flaky").is_recorded { state = "COMPLETE", attempt = 2 }
    assert.execution(plan, "after").is_recorded { mode = "ASYNC", progress = { "working" } }
    assert.execution(plan, "aside").is_recorded { state = "PENDING", runner = "" }
    assert.execution(plan, "aside").is_recorded()
    assert_contains(message_of(function()
      assert.execution(plan, "flaky", 1).is_recorded { state = "COMPLETE", runner = "b", progress = { "x" } }
    end), "execution of stage 'flaky', attempt 1: progress: expected { \"x\" }, got {}",
      "runner: expected \"b\", got \"r\"", "state: expected \"COMPLETE\", got \"FAILED\"", "exit code 2")
    assert_contains(message_of(function() assert.execution(plan, "flaky", 3).is_recorded {} end), "there is none")
    assert_contains(message_of(function() assert.execution(plan, "flaky").is_recorded { stat = "x" } end),
      "unknown option 'stat'", "'state'")
    assert_contains(message_of(function() assert.stage(plan, "flaky").is_recorded {} end),
      "is_recorded follows assert.execution")
    assert_contains(message_of(function() assert.execution(plan, "flaky").is_final {} end),
      "is_final follows assert.stage")
  end)

  it("explains finds an explanation by its text, or by all that is named", function()
    assert.stage(plan, "aside").explains "no runner of type 'nobody'"
    assert.stage(plan, "aside").explains { kind = "NO_RUNNER", subject = "nobody", attempt = 1 }
    assert.stage(plan, "flaky").explains { kind = "ATTEMPT", attempt = 1, text = "exit code 2" }
    assert_contains(message_of(function() assert.stage(plan, "aside").explains { kind = "BACKOFF" } end),
      "stage 'aside': nothing explains it by { kind = \"BACKOFF\" }", "NO_RUNNER no runner of type 'nobody'")
    assert_contains(message_of(function() assert.stage(plan, "aside").explains { knd = "BACKOFF" } end),
      "unknown option 'knd'", "'kind'")
    assert_contains(message_of(function() assert.execution(plan, "aside").explains "x" end),
      "explains follows assert.stage")
  end)

  -- Records as no engine would write them.
  for what, row in pairs {
    ["a time that is missing"] = { { finished_at = false }, "finished_at: missing in state COMPLETE" },
    ["a time that is too early"] = { { started_at = 1 }, "started_at: before dispatched_at" },
    ["a time that has not come"] = { { state = "RUNNING" }, "finished_at: there already in state RUNNING" },
    ["a deadline that was missed"] = { { deadline = 1 }, "finished_at: after the deadline" },
    ["a deadline that is missing"] = { { deadline = false }, "deadline: comes with dispatched_at" },
    ["a backoff cut short"] = { { not_before = 2 ^ 40 }, "dispatched_at: before not_before" },
    ["a failure of what is complete"] = { { failure = { message = "no" } }, "in state COMPLETE" },
    ["no failure of what failed"] = { { state = "FAILED" }, "failure: nil in state FAILED" },
  } do
    it("is_recorded finds " .. what, function()
      local record = env:execution(plan, "flaky", 2)
      for key, value in pairs(row[1]) do record[key] = value or nil end
      function env.execution() return record end
      assert_contains(message_of(function() assert.execution(plan, "flaky").is_recorded {} end), row[2])
    end)
  end

  it("transitions knows attempts", function()
    assert.transitions(plan, "attempt", "flaky", { "PENDING", "SCHEDULED", "RUNNING", "INCOMPLETE" })
    assert.transitions(plan, "attempt", "flaky", { "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }, 2)
    assert_contains(message_of(function() assert.transitions(plan, "attempt", "flaky", { "PENDING" }, 2) end),
      "attempt 2 of stage 'flaky': expected transitions { \"PENDING\" }, got { \"PENDING\", \"SCHEDULED\"")
  end)

  it("in_order holds when each waited for the one before", function()
    assert.in_order(plan, { "flaky", "after" })
    assert_contains(message_of(function() assert.in_order(plan, { "after", "flaky" }) end),
      "stage 'flaky' was ATTEMPTING before stage 'after' was FINAL")
    assert_contains(message_of(function() assert.in_order(plan, { "aside", "after" }) end),
      "stage 'aside' was never seen FINAL")
    assert_contains(message_of(function() assert.in_order(plan, { "after", "nope" }) end),
      "stage 'nope' was never seen ATTEMPTING")
    assert_contains(message_of(function() assert.in_order(plan, { "after" }) end), "a list of stages")
  end)

  it("runner_load compares with the engine's view", function()
    assert.runner_load(runner, 0)
    assert_contains(message_of(function() assert.runner_load(runner, 1) end), "runner 'r': expected load 1, got 0")
    assert(runner:unregister())
    assert_contains(message_of(function() assert.runner_load(runner, 0) end), "got none: it is not registered")
    assert_contains(message_of(function() assert.runner_load("r", 0) end), "expected a mock runner and a number")
  end)

  it("wait_for returns the event, or says what it waited for in vain", function()
    assert.equal(plan.events:sequence_of("stage", "flaky", "FINAL"), env:wait_for(plan, "stage", "flaky", "FINAL"))
    assert_contains(message_of(function() env:wait_for(plan, "stage", "aside", "FINAL") end),
      "asserts_spec.lua:", "waited for stage 'aside' to be FINAL in vain", "none is registered")
  end)
end)

describe("a mock runner", function()
  local env

  before_each(function() env = testing.env { world = "virtual" } end)
  after_each(function() env:stop() end)

  local function submit(options)
    local workflow = turboci.plan { name = "p" }
    workflow:check "c"
    options.runner, options.finalizes = "test", "c"
    workflow:stage("s", options)
    return env:submit(workflow)
  end

  it("by default succeeds, sync and async", function()
    for _, mode in ipairs { "sync", "async" } do
      local plan = submit { mode = mode }
      local runner = env:mock_runner { type = "test", modes = { mode:upper() } }
      env:wait(plan)
      assert.check(plan, "c").is_final { outcome = "SUCCEEDED", results = 1 }
      assert.execution(plan, "s").is_recorded {
        runner = runner.id, mode = mode:upper(), progress = mode == "async" and { "working" } or {},
      }
      assert.same({ 0, 1, nil }, { runner.load, runner.peak_load, next(runner.pending) })
      assert(runner:unregister())
    end
  end)

  it("holds from the start when told to, even what is pending already", function()
    local plan = submit {}
    local runner = env:mock_runner { type = "test", hold = true }
    env:settle()
    assert.equal(1, runner.load)
    assert.runner_load(runner, 1)
    runner:release()
    env:wait(plan)
    assert.equal(0, runner.load)
    assert.equal(1, runner.peak_load)
  end)

  it("learns that its call was given up", function()
    local plan = submit { timeout = "1m", retry = { max_attempts = 1 } }
    local runner = env:mock_runner { type = "test", hold = true }
    env:settle()
    assert.is_nil(runner.received[1].cancelled)
    env:wait(plan)
    env:settle()
    assert.is_true(runner.received[1].cancelled)
    assert.equal(1, runner.load, "it goes on until it is released, like a runner that does not listen")
    runner:release()
    env:settle()
    assert.equal(0, runner.load)
  end)

  it("accepts, goes on or waits for the spec", function()
    local plan = submit { mode = "async" }
    local runner = env:mock_runner { type = "test", auto_complete = false }
    function runner.on_run_async() return { accepted = true, runner_execution_id = "job" } end
    env:settle()
    local request = runner.received[1]
    assert.equal(request, runner.pending[request.execution_id])
    assert(runner:progress("s", "one", { percent = 1 }))
    assert(runner:complete(request.execution_id, env.success(request, { n = 1 })))
    env:wait(plan)
    assert.check(plan, "c").is_final { data = { n = 1 } }
    assert.execution(plan, "s").is_recorded { progress = { "one" } }
    assert.same({ "one" }, plan.events:progress "s")
    assert.equal("job", env:execution(plan, "s").runner_execution_id)
    assert.is_nil(next(runner.pending))
  end)

  it("needs no options", function()
    local runner = env:mock_runner()
    assert.equal("runner-1", runner.id)
    assert.equal("test", runner:info().runner_type)
  end)
end)
