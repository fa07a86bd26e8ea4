-- world: virtual
-- Failures, retries, backoffs, deadlines, expiry: what takes time. Virtual time.

local testing = require "turboci.testing"
local turboci = require "turboci"

describe("failures:", function()
  local env, workflow

  before_each(function()
    env = testing.env()
    workflow = turboci.plan { name = "failures" }
  end)
  after_each(function() env:stop() end)

  local function run(options)
    options = options or {}
    options.runner = "test"
    workflow:stage("s", options)
    local plan = env:submit(workflow)
    env:wait(plan)
    return plan
  end

  local function kinds(plan)
    local list = {}
    for i, attempt in ipairs(env:stage(plan, "s").attempts) do
      list[i] = attempt.failure and attempt.failure.kind or "-"
    end
    return table.concat(list, " ")
  end

  describe("the kind of a failure:", function()
    for _, row in ipairs {
      -- the answer of the first attempt, its kind, attempts with the default policy
      { "a failure in the response", function() return testing.failure "no" end, "REPORTED", 1 },
      { "a handler's plain error", function() return nil, "boom" end, "REPORTED", 1 },
      { "INTERNAL", function() return nil, { code = "INTERNAL", message = "m" } end, "REPORTED", 1 },
      { "RESOURCE_EXHAUSTED", function()
        return nil, { code = "RESOURCE_EXHAUSTED", message = "m" }
      end, "REJECTED", 2 },
      { "UNIMPLEMENTED", function() return nil, { code = "UNIMPLEMENTED", message = "m" } end, "REJECTED", 2 },
      { "UNAVAILABLE", function() return nil, { code = "UNAVAILABLE", message = "m" } end, "UNREACHABLE", 2 },
      { "CANCELLED", function() return nil, { code = "CANCELLED", message = "m" } end, "UNREACHABLE", 2 },
      { "a broken connection", function() return testing.disconnect() end, "UNREACHABLE", 2 },
      { "DEADLINE_EXCEEDED", function() return nil, { code = "DEADLINE_EXCEEDED", message = "m" } end, "TIMEOUT", 2 },
      { "a state before its beginning", function() return { stage_state = "PLANNED" } end, "PROTOCOL", 2 },
      { "a state that is no end", function() return { stage_state = "ATTEMPTING" } end, "PROTOCOL", 2 },
      { "a check of somebody else", function()
        return { stage_state = "FINAL", check_updates = { { check_id = "other", finalize = true } } }
      end, "PROTOCOL", 2 },
    } do
      it(("%s is %s"):format(row[1], row[3]), function()
        local runner = env:mock_runner { type = "test" }
        function runner.on_run()
          if #runner.received == 1 then return row[2]() end
        end
        local plan = run()
        assert.equal(row[4] == 1 and row[3] or row[3] .. " -", kinds(plan))
        assert.stage(plan, "s").is_final { outcome = row[4] == 1 and "FAILED" or "SUCCEEDED", attempts = row[4] }
        assert.equal("FAILED", env:execution(plan, "s", 1).state)
      end)
    end

    it("neither failure nor state is no failure", function()
      env:mock_runner { type = "test", on_run = function(request)
        local id = request.assigned_check_ids[1]
        return { check_updates = { { check_id = id, finalize = true, result_data = { n = 3 } } } }
      end }
      workflow:check("c")
      local plan = run { finalizes = "c" }
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 1 }
      assert.check(plan, "c").is_final { outcome = "SUCCEEDED" }
      assert.same({ n = 3 }, env:check(plan, "c").results[1].data)
    end)

    it("accepted = false is REJECTED", function()
      local runner = env:mock_runner { type = "test" }
      function runner.on_run_async()
        if #runner.received == 1 then return { accepted = false } end
      end
      assert.equal("REJECTED -", kinds(run { mode = "async" }))
    end)

    it("no runner at the address is UNREACHABLE", function()
      local gone = env:mock_runner { id = "a-gone", type = "test" }
      gone:disconnect()
      env:mock_runner { id = "b-there", type = "test", register = false }
      workflow:stage("s", { runner = "test" })
      local plan = env:submit(workflow)
      env:settle()
      assert.equal("UNREACHABLE", env:stage(plan, "s").attempts[1].failure.kind)
      env.runners[2]:register()
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", runner = "b-there", attempts = 2 }
    end)
  end)

  describe("retry:", function()
    it("other kinds than REPORTED get three attempts, with a growing pause", function()
      env:mock_runner { type = "test", on_run = function() return { stage_state = "PLANNED" } end }
      local plan = run()
      assert.stage(plan, "s").is_final { outcome = "FAILED", attempts = 3, failure_kind = "PROTOCOL" }
      local executions = env:executions(plan, "s")
      local first = executions[2].not_before - executions[1].finished_at
      local second = executions[3].not_before - executions[2].finished_at
      assert.is_true(first >= 0.5 and first <= 2, "about a second: " .. first)
      assert.is_true(second >= 1 and second <= 4, "about two seconds: " .. second)
      assert.is_true(executions[2].dispatched_at >= executions[2].not_before)
    end)

    it("delivery has a budget of its own", function()
      env:mock_runner { type = "test", on_run = function() return testing.disconnect() end }
      assert.stage(run(), "s").is_final { outcome = "FAILED", attempts = 20, failure_kind = "UNREACHABLE" }
    end)

    it("a stage's own retry covers REPORTED too", function()
      local runner = env:mock_runner { type = "test" }
      function runner.on_run()
        if #runner.received < 3 then return testing.failure "flaky" end
      end
      local plan = run { retry = { max_attempts = 3, backoff = "10s", backoff_max = "15s" } }
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 3 }
      assert.equal("REPORTED REPORTED -", kinds(plan))
      local executions = env:executions(plan, "s")
      assert.is_true(executions[2].not_before - executions[1].finished_at <= 15.001)
      assert.is_true(executions[3].not_before - executions[2].finished_at <= 15.001)
    end)

    it("a stage's own retry bounds the attempts", function()
      env:mock_runner { type = "test", on_run = function() return testing.failure "no" end }
      assert.stage(run { retry = { max_attempts = 2 } }, "s").is_final { outcome = "FAILED", attempts = 2 }
    end)

    it("a backoff holds no slot", function()
      local runner = env:mock_runner { type = "test", max_concurrent = 1 }
      function runner.on_run(request)
        if request.stage_id == "flaky" and request.attempt_idx == 1 then return testing.failure "flaky" end
      end
      workflow:stage("flaky", { runner = "test", retry = { max_attempts = 2, backoff = "1h" } })
      workflow:stage("steady", { runner = "test", after = { "flaky-started" } })
      workflow:check("flaky-started", { external = true })
      local plan = env:submit(workflow)
      env:settle()
      assert.equal(0, runner:info().current_load)
      assert.stage(plan, "flaky").has_state "ATTEMPTING"
      assert.equal("PENDING", env:execution(plan, "flaky").state)
      assert(env:write(plan, { checks = { { id = "flaky-started", state = "FINAL" } } }))
      env:settle()
      assert.stage(plan, "steady").is_final { outcome = "SUCCEEDED" }
      env:wait(plan)
      assert.stage(plan, "flaky").is_final { outcome = "SUCCEEDED", attempts = 2 }
    end)

    it("goes to another runner where there is one", function()
      local a = env:mock_runner { id = "a", type = "test" }
      local b = env:mock_runner { id = "b", type = "test" }
      local lost
      for _, runner in ipairs { a, b } do
        function runner.on_run()
          if lost then return nil end
          lost = runner
          return env.disconnect()
        end
      end
      local plan = run()
      local other = lost == a and b or a
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2, runner = other.id }
    end)

    it("passes over a runner that refused, until its next heartbeat", function()
      local runner = env:mock_runner { type = "test" }
      function runner.on_run()
        if #runner.received == 1 then return nil, { code = "RESOURCE_EXHAUSTED", message = "full" } end
      end
      workflow:stage("s", { runner = "test" })
      local plan = env:submit(workflow)
      env:advance "3s" -- longer than the backoff, shorter than the time it is passed over
      assert.equal(1, #runner.received)
      runner:register()
      env:settle()
      assert.equal(2, #runner.received)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2 }
    end)

    it("passes over a runner that refused for five seconds", function()
      local runner = env:mock_runner { type = "test" }
      function runner.on_run()
        if #runner.received == 1 then return nil, { code = "RESOURCE_EXHAUSTED", message = "full" } end
      end
      workflow:stage("s", { runner = "test" })
      env:submit(workflow)
      env:advance "4900ms"
      assert.equal(1, #runner.received)
      env:advance "200ms"
      assert.equal(2, #runner.received)
    end)

    it("keeps check updates of a failed attempt back, until it gives up", function()
      local runner = env:mock_runner { type = "test" }
      function runner.on_run(request)
        local response = env.success(request, { attempt = request.attempt_idx })
        response.failure = { message = "flaky" }
        return response
      end
      workflow:check("builds")
      workflow:stage("s", { runner = "test", finalizes = "builds", retry = { max_attempts = 2, backoff = "1m" } })
      local plan = env:submit(workflow)
      env:advance "10s"
      assert.check(plan, "builds").has_state "WAITING"
      assert.same({}, env:check(plan, "builds").results)
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "FAILED", attempts = 2 }
      assert.check(plan, "builds").is_final { data = { attempt = 2 }, results = 1 }
    end)
  end)

  describe("time:", function()
    it("a deadline is enforced when the runner never answers", function()
      local runner = env:mock_runner { type = "test" }
      runner:hold()
      workflow:stage("s", { runner = "test", timeout = "10m", retry = { max_attempts = 1 } })
      local plan = env:submit(workflow)
      env:advance "9m59s"
      assert.stage(plan, "s").has_state "ATTEMPTING"
      env:advance "2s"
      assert.stage(plan, "s").is_final { outcome = "FAILED", failure_kind = "TIMEOUT" }
      assert.equal(0, runner:info().current_load)
      runner:release()
      env:settle()
      assert.stage(plan, "s").is_final { outcome = "FAILED", attempts = 1 }
    end)

    it("an async execution has a deadline too, and what comes after it is refused", function()
      local runner = env:mock_runner { type = "test", auto_complete = false }
      workflow:stage("s", {
        runner = "test", mode = "async", timeout = "1m", stale = "1h", retry = { max_attempts = 1 },
      })
      local plan = env:submit(workflow)
      env:settle()
      env:advance "61s"
      assert.stage(plan, "s").is_final { outcome = "FAILED", failure_kind = "TIMEOUT" }
      local _, err = runner:complete(runner.received[1], { stage_state = "FINAL" })
      assert.equal("FAILED_PRECONDITION", err.code)
    end)

    it("silence makes an async execution stale; progress keeps it alive", function()
      local runner = env:mock_runner { type = "test", auto_complete = false }
      workflow:stage("s", { runner = "test", mode = "async", stale = "1m", retry = { max_attempts = 1 } })
      local plan = env:submit(workflow)
      env:settle()
      for _ = 1, 5 do
        env:advance "50s"
        assert(runner:progress("s", "still here"))
      end
      assert.stage(plan, "s").has_state "ATTEMPTING"
      env:advance "61s"
      assert.stage(plan, "s").is_final { outcome = "FAILED", failure_kind = "STALE" }
    end)

    it("an async runner has ten seconds to accept", function()
      local runner = env:mock_runner { type = "test" }
      runner.on_run_async = function() env.world:await(function() end) end
      workflow:stage("s", { runner = "test", mode = "async", retry = { max_attempts = 1 } })
      local plan = env:submit(workflow)
      env:advance "9900ms"
      assert.stage(plan, "s").has_state "ATTEMPTING"
      env:advance "200ms"
      assert.stage(plan, "s").is_final { outcome = "FAILED", failure_kind = "TIMEOUT" }
    end)

    it("a completion of a superseded attempt changes nothing", function()
      local runner = env:mock_runner { type = "test", auto_complete = false }
      workflow:stage("s", {
        runner = "test", mode = "async", timeout = "1m", retry = { max_attempts = 2, backoff = "1s" },
      })
      local plan = env:submit(workflow)
      env:advance "70s"
      assert.equal(2, #runner.received)
      local _, err = runner:complete(runner.received[1], { stage_state = "FINAL" })
      assert.equal("FAILED_PRECONDITION", err.code)
      assert.stage(plan, "s").has_state "ATTEMPTING"
      assert(runner:complete(runner.received[2], { stage_state = "FINAL" }))
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2 }
    end)

    it("a runner expires without a heartbeat, and its async work is lost with it", function()
      local a = env:mock_runner { id = "a", type = "test", ttl = "30s", auto_complete = false }
      workflow:stage("s", { runner = "test", mode = "async" })
      local plan = env:submit(workflow)
      env:advance "29s"
      a:register()
      env:advance "29s"
      assert.is_truthy(a:info())
      env:advance "2s"
      assert.is_nil(a:info())
      assert.equal("RUNNER_LOST", env:stage(plan, "s").attempts[1].failure.kind)
      local b = env:mock_runner { id = "b", type = "test" }
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2, runner = "b" }
      assert.same({ "s" }, b:received_stages())
    end)

    it("a heartbeat keeps the registration and may change the rest", function()
      local runner = env:mock_runner { id = "a", type = "test", metadata = { zone = "1" }, max_concurrent = 1 }
      local before, info = runner.registration_id, runner:info()
      env:advance "10s"
      runner:register { max_concurrent = 4, metadata = {} }
      local after = runner:info()
      assert.equal(before, after.registration_id)
      assert.equal(4, after.max_concurrent)
      assert.same({ zone = "1" }, after.metadata)
      assert.equal(info.registered_at, after.registered_at)
      assert.is_true(math.abs(after.expires_at - info.expires_at - 10) < 0.001)
    end)

    it("a registration lives for five minutes unless it says otherwise", function()
      local runner = env:mock_runner { id = "a", type = "test", register = false }
      runner:register { ttl_seconds = 0 }
      local info = runner:info()
      assert.is_true(math.abs(info.expires_at - info.last_heartbeat - 300) < 0.001)
    end)

    it("a wall clock that jumps expires nobody", function()
      local runner = env:mock_runner { id = "a", type = "test", ttl = "30s" }
      runner:hold()
      workflow:stage("s", { runner = "test", timeout = "1m" })
      local plan = env:submit(workflow)
      env:settle()
      env.engine:jump_wall(3600 * 1000000)
      env:advance "1s"
      assert.is_truthy(runner:info())
      assert.stage(plan, "s").has_state "ATTEMPTING"
      env.engine:jump_wall(-7200 * 1000000)
      env:advance "1s"
      assert.is_truthy(runner:info())
      runner:release()
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 1 }
    end)
  end)

  it("an engine with nothing to do has no timer", function()
    workflow:stage("s", { runner = "nobody" })
    env:submit(workflow)
    env:settle()
    assert.is_nil(env.engine:next_due())
  end)

  it("the same seed gives the same plan, byte for byte", function()
    local function trace()
      local other = testing.env { seed = 7 }
      other:mock_runner { id = "r", type = "test", on_run = function() return { stage_state = "PLANNED" } end }
      local again = turboci.plan { name = "again" }
      again:stage("s", { runner = "test" })
      local plan = other:submit(again)
      other:wait(plan)
      local result = { plan.id, other:query(plan), other:executions(plan) }
      other:stop()
      return result
    end
    assert.same(trace(), trace())
  end)
end)
