-- Executions: choosing runners, callbacks, what is said twice. Both worlds.

local core = require "turboci.core"
local testing = require "turboci.testing"
local turboci = require "turboci"

describe("executions:", function()
  local env, workflow

  before_each(function()
    env = testing.env()
    workflow = turboci.plan { name = "executions" }
  end)
  after_each(function() env:stop() end)

  -- A plan with one async stage that its runner has accepted and will not complete by itself.
  local function submit_async(options)
    local runner = env:mock_runner { id = "a", type = "async", auto_complete = false }
    workflow:check("builds")
    options = options or {}
    options.runner, options.mode, options.finalizes = "async", "async", "builds"
    workflow:stage("s", options)
    local plan = env:submit(workflow)
    env:wait(function()
      local execution = env:execution(plan, "s")
      return next(runner.pending) and execution.runner_execution_id ~= ""
    end)
    return plan, runner, runner.received[1]
  end

  local function code_of(_, err)
    return err and err.code
  end

  describe("choosing a runner:", function()
    it("the least loaded one gets the next stage", function()
      local runners = { env:mock_runner { id = "a", type = "test" }, env:mock_runner { id = "b", type = "test" } }
      for _, runner in ipairs(runners) do runner:hold() end
      for i = 1, 6 do workflow:stage("s" .. i, { runner = "test" }) end
      local plan = env:submit(workflow)
      env:wait(function() return #runners[1].received + #runners[2].received == 6 end)
      assert.equal(3, runners[1]:info().current_load)
      assert.equal(3, runners[2]:info().current_load)
      for _, runner in ipairs(runners) do runner:release() end
      env:wait(plan)
    end)

    it("nobody gets more than max_concurrent at once", function()
      local runner = env:mock_runner { id = "a", type = "test", max_concurrent = 2 }
      runner:hold()
      for i = 1, 5 do workflow:stage("s" .. i, { runner = "test" }) end
      local plan = env:submit(workflow)
      env:wait(function() return #runner.received == 2 end)
      env:settle()
      assert.equal(2, #runner.received)
      assert.equal(2, runner:info().current_load)
      assert.equal("PENDING", env:execution(plan, "s3").state)
      runner:release(runner.received[1].stage_id)
      env:wait(function() return #runner.received == 3 end)
      env:settle()
      assert.equal(2, runner:info().current_load)
      runner:release()
      env:wait(plan)
      local received = runner:received_stages()
      table.sort(received) -- what is sent at the same time arrives in any order
      assert.same({ "s1", "s2", "s3", "s4", "s5" }, received)
      assert.equal(0, runner:info().current_load)
    end)

    it("higher priority goes first, then what was ready first", function()
      for i, priority in ipairs { 0, 5, 0, 9, 5 } do
        workflow:stage("s" .. i, { runner = "test", priority = priority })
      end
      local plan = env:submit(workflow)
      local runner = env:mock_runner { id = "a", type = "test", max_concurrent = 1 }
      env:wait(plan)
      assert.same({ "s4", "s2", "s5", "s1", "s3" }, runner:received_stages())
    end)

    it("a stage waits for a runner of its type and mode", function()
      local other = env:mock_runner { id = "other", type = "other" }
      local sync = env:mock_runner { id = "sync", type = "test", modes = { "SYNC" } }
      workflow:stage("s", { runner = "test", mode = "async" })
      local plan = env:submit(workflow)
      env:settle()
      assert.equal("PENDING", env:execution(plan, "s").state)
      assert.same({}, other.received)
      assert.same({}, sync.received)
      local async = env:mock_runner { id = "async", type = "test", modes = { "ASYNC" } }
      env:wait(plan)
      assert.same({ "s" }, async:received_stages())
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", runner = "async" }
    end)

    it("a runner without modes is a sync runner", function()
      local runner = env:mock_runner { id = "r", type = "test", modes = {} }
      assert.same({ "SYNC" }, runner:info().supported_modes)
    end)

    it("an unregistered runner gets no more work, and ends what it has", function()
      local runner = env:mock_runner { id = "r", type = "test" }
      runner:hold()
      workflow:stage("first", { runner = "test" })
      workflow:stage("second", { runner = "test", after = "first" })
      local plan = env:submit(workflow)
      env:wait(function() return #runner.received == 1 end)
      assert(runner:unregister())
      assert.is_nil(runner:info())
      runner:release()
      env:wait(function() return env:stage(plan, "first").state == "FINAL" end)
      env:settle()
      assert.stage(plan, "first").is_final { outcome = "SUCCEEDED" }
      assert.equal("PENDING", env:execution(plan, "second").state)
      assert.same({ "first" }, runner:received_stages())
      assert.equal("NOT_FOUND", code_of(runner:unregister()))
    end)
  end)

  describe("callbacks:", function()
    it("progress is kept in order, with percent and details", function()
      local plan, runner = submit_async()
      assert(runner:progress("s", "one", { percent = 10, details = { file = "a.c" } }))
      assert(runner:progress("s", "two", { percent = 20 }))
      local progress = env:execution(plan, "s").progress
      assert.equal("one", progress[1].message)
      assert.equal("a.c", progress[1].details.file)
      assert.equal("two", progress[2].message)
      assert.equal("RUNNING", env:execution(plan, "s").state)
      assert(runner:complete "s")
      env:wait(plan)
      assert.equal(2, #env:stage(plan, "s").attempts[1].progress)
    end)

    it("only the last hundred progress entries are kept", function()
      local plan, runner = submit_async()
      for i = 1, 120 do assert(runner:progress("s", "n" .. i)) end
      local progress = env:execution(plan, "s").progress
      assert.equal(100, #progress)
      assert.equal("n21", progress[1].message)
      assert.equal("n120", progress[100].message)
    end)

    it("completing without progress runs first, then is complete", function()
      local plan, runner = submit_async()
      assert.equal("SCHEDULED", env:execution(plan, "s").attempt_state)
      assert(runner:complete "s")
      env:wait(plan)
      assert.same({ "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }, plan.events:attempt_states "s")
    end)

    it("a callback may arrive before RunAsync is answered", function()
      local runner = env:mock_runner { id = "a", type = "async", auto_complete = false }
      function runner.on_run_async(request)
        assert(runner:progress(request, "early"))
        assert(runner:complete(request, env.success(request)))
        return { accepted = true }
      end
      workflow:check("builds")
      workflow:stage("s", { runner = "async", mode = "async", finalizes = "builds" })
      local plan = env:submit(workflow)
      env:wait(plan)
      env:settle()
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 1 }
      assert.equal("early", env:execution(plan, "s").progress[1].message)
    end)

    it("a sync execution takes progress, and no completion", function()
      local runner = env:mock_runner { id = "r", type = "test" }
      runner:hold()
      workflow:stage("s", { runner = "test" })
      local plan = env:submit(workflow)
      env:wait(function() return #runner.received == 1 end)
      assert(runner:progress(runner.received[1], "half way"))
      assert.equal("FAILED_PRECONDITION", code_of(runner:complete(runner.received[1], { stage_state = "FINAL" })))
      runner:release()
      env:wait(plan)
      assert.equal("half way", env:execution(plan, "s").progress[1].message)
    end)

    it("completing twice with the same words is fine, in whatever order they come", function()
      local plan, runner, request = submit_async()
      local words = env.success(request, { a = 1, b = { x = true, y = "z" } })
      assert.is_true(assert(runner:complete(request, words)).acknowledged)
      env:wait(plan)
      local before = env:query(plan)
      assert.is_true(assert(runner:complete(request, words)).acknowledged)
      -- The entries of a map come in any order: b before a, y before x.
      local bytes = assert(core.encode("turboci.v1.CompleteStageExecutionRequest", {
        execution_id = request.execution_id, stage_state = "FINAL",
        check_updates = { { check_id = "builds", state = "FINAL", finalize = true } },
      }))
      local function entry(key, value) -- an entry of Struct.fields
        local body = "\x0a" .. string.char(#key) .. key .. "\x12" .. string.char(#value) .. value
        return "\x0a" .. string.char(#body) .. body
      end
      local inner = entry("y", "\x1a\x01z") .. entry("x", "\x20\x01")
      local data = entry("b", "\x2a" .. string.char(#inner) .. inner)
        .. entry("a", "\x11" .. string.pack("<d", 1))
      local update = "\x0a\x06builds\x10\x28" .. "\x1a" .. string.char(#data) .. data .. "\x20\x01"
      bytes = bytes:sub(1, 2 + #request.execution_id) .. "\x10\x28" .. "\x1a" .. string.char(#update) .. update
      assert.equal("OK", env:raw("CompleteStageExecution", bytes), "the same words in another order")
      assert.same(before, env:query(plan))
    end)

    it("completing twice with other words is refused", function()
      local plan, runner, request = submit_async()
      assert(runner:complete(request, env.success(request)))
      env:wait(plan)
      local before = env:query(plan)
      assert.equal("FAILED_PRECONDITION", code_of(runner:complete(request, env.success(request, { other = true }))))
      assert.equal("FAILED_PRECONDITION", code_of(runner:complete(request, env.failure "no")))
      assert.equal("FAILED_PRECONDITION", code_of(runner:progress(request, "late")))
      assert.same(before, env:query(plan))
    end)

    it("AWAITING_GROUP without children is the end", function()
      local plan, runner, request = submit_async()
      local words = env.success(request)
      words.stage_state = "AWAITING_GROUP"
      assert(runner:complete(request, words))
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED" }
    end)

    it("a failed completion fails the stage", function()
      local plan, runner, request = submit_async()
      assert(runner:complete(request, env.failure "disk full"))
      env:wait(plan)
      assert.stage(plan, "s").is_final {
        outcome = "FAILED", reason = "NO_RETRIES_LEFT", failure = "disk full", failure_kind = "REPORTED",
      }
    end)

    it("an execution can be read by its id, and by stage and attempt; its id is in no list", function()
      local plan, _, request = submit_async()
      local by_id = assert(env.client:get_stage_execution { execution_id = request.execution_id }).execution
      local by_stage = assert(env.client:get_stage_execution {
        work_plan_id = plan.id, stage_id = "s", attempt_idx = 1,
      }).execution
      assert.same(by_id, by_stage)
      assert.same({ by_id }, env:executions(plan))
      assert.is_nil(by_id.execution_id)
      assert.same({}, assert(env.client:list_stage_executions {
        work_plan_id = plan.id, states = { "COMPLETE" },
      }).executions)
    end)
  end)

  it("a ready stage is dispatched with the commit that makes it ready", function()
    local function commits() return assert(env.client:get_server_info {}).counters.commits end
    local runner = env:mock_runner { type = "test" }
    runner:hold()
    workflow:stage("a", { runner = "test" })
    workflow:stage("b", { runner = "test", after = "a" })
    local plan = env:create_plan()
    local writes = workflow:writes()
    local before = commits()
    assert(env:write(plan, { stages = writes.stages }))
    env:wait(function() return #runner.received == 1 end)
    assert.equal(before + 1, commits())
    runner:release "a"
    env:wait(function() return #runner.received == 2 end)
    assert.equal(before + 2, commits())
    runner:release()
    env:wait(plan)
    assert.equal(before + 3, commits())
  end)

  it("details of a result are kept with the attempt", function()
    local runner = env:mock_runner { type = "test" }
    runner.on_run = function() return { stage_state = "FINAL", details = { log = "ok" } } end
    workflow:stage("s", { runner = "test" })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.same({ log = "ok" }, env:stage(plan, "s").attempts[1].details)
  end)

  it("a runner is told the deadline", function()
    local runner = env:mock_runner { type = "test" }
    workflow:stage("s", { runner = "test", timeout = "90s" })
    local plan = env:submit(workflow)
    env:wait(plan)
    local execution = env:execution(plan, "s")
    assert.is_true(math.abs(execution.deadline - execution.dispatched_at - 90) < 0.001)
    assert.is_true(math.abs(runner.received[1].deadline - execution.deadline) < 0.001)
    assert.is_true(runner.received[1].timeout < 91) -- gRPC rounds what it tells the other side up
    assert.is_true(runner.received[1].timeout > 60)
  end)
end)
