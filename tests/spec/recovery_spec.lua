-- world: virtual
-- Recovery: the engine is thrown away without a word and a new one is made of the journal alone. Kill -9 on the real
-- process has specs of its own.

local testing = require "turboci.testing"
local turboci = require "turboci"

describe("after a restart", function()
  local env, workflow, db

  before_each(function()
    db = os.tmpname()
    os.remove(db)
    env = testing.env { db = db }
    workflow = turboci.plan { name = "recovery" }
  end)
  after_each(function()
    env:stop()
    for _, suffix in ipairs { "", "-wal", "-shm", ".lock", ".mark" } do os.remove(db .. suffix) end
  end)

  -- What a client can see of a plan.
  local function visible(plan)
    local runners = env.client:list_stage_runners {}
    for _, runner in ipairs(runners.runners) do runner.expires_at = nil end -- everybody gets a full ttl
    return { env:plan(plan), env:query(plan), env:executions(plan), runners }
  end

  local function restart()
    env:restart()
  end

  it("everything is as it was", function()
    local runner = env:mock_runner { id = "r", type = "test", metadata = { zone = "1" } }
    function runner.on_run(request)
      if request.stage_id == "bad" then return testing.failure "no" end
      return testing.success(request, { n = 1, list = { "a", { b = true } } })
    end
    workflow:check("good-check", { kind = "k", options = { o = 1 } })
    workflow:stage("good", { runner = "test", args = { a = { 1, 2 } }, finalizes = "good-check", priority = 3 })
    workflow:stage("bad", { runner = "test", retry = { max_attempts = 2, backoff = "1s" } })
    workflow:stage("skipped", { runner = "test", after = "bad" })
    workflow:stage("queued", { runner = "nobody" })
    workflow:stage("waiting", { runner = "test", after = "queued" })
    workflow:check("open", { external = true })
    local plan = env:submit(workflow)
    env:wait(function() return env:stage(plan, "skipped").state == "FINAL" end)
    local before = visible(plan)
    restart()
    assert.same(before, visible(plan))
    restart()
    assert.same(before, visible(plan))
  end)

  it("the plan goes on", function()
    workflow:check("done")
    workflow:stage("a", { runner = "late" })
    workflow:stage("b", { runner = "late", after = "a", finalizes = "done" })
    local plan = env:submit(workflow)
    env:settle()
    restart()
    local runner = env:mock_runner { id = "late", type = "late" }
    env:wait(function() return env:plan(plan).state == "SETTLED" end)
    assert.same({ "a", "b" }, runner:received_stages())
    assert.check(plan, "done").is_final { outcome = "SUCCEEDED" }
  end)

  it("a sync call that was in flight is repeated", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    runner:hold()
    workflow:stage("s", { runner = "test" })
    local plan = env:submit(workflow)
    env:settle()
    assert.equal(1, #runner.received)
    restart()
    assert.equal("ENGINE_RESTART", env:stage(plan, "s").attempts[1].failure.kind)
    runner:release()
    env:wait(function() return env:plan(plan).state == "SETTLED" end)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2 }
    assert.is_true(runner.received[1].execution_id ~= runner.received[2].execution_id)
  end)

  it("an async execution that was accepted goes on, and completes", function()
    local runner = env:mock_runner { id = "r", type = "test", auto_complete = false }
    workflow:stage("s", { runner = "test", mode = "async", timeout = "1h", stale = "1h" })
    local plan = env:submit(workflow)
    env:settle()
    assert(runner:progress("s", "before"))
    restart()
    env:settle()
    assert.equal("RUNNING", env:execution(plan, "s").state)
    assert.equal(1, runner:info().current_load)
    assert(runner:progress("s", "after"))
    assert(runner:complete "s")
    env:wait(function() return env:plan(plan).state == "SETTLED" end)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 1 }
    local progress = env:execution(plan, "s").progress
    assert.equal("before", progress[1].message)
    assert.equal("after", progress[2].message)
  end)

  it("a deadline that was running still ends", function()
    local runner = env:mock_runner { id = "r", type = "test", auto_complete = false }
    workflow:stage("s", {
      runner = "test", mode = "async", timeout = "10m", stale = "1h", retry = { max_attempts = 1 },
    })
    local plan = env:submit(workflow)
    env:advance "4m"
    restart()
    env:advance "5m"
    assert.stage(plan, "s").has_state "ATTEMPTING"
    env:advance "2m"
    assert.stage(plan, "s").is_final { outcome = "FAILED", failure_kind = "TIMEOUT" }
    assert.equal(1, #runner.received)
  end)

  it("every runner has its full time again", function()
    local runner = env:mock_runner { id = "r", type = "test", ttl = "30s" }
    env:advance "20s"
    restart()
    env:advance "29s"
    assert.is_truthy(runner:info())
    env:advance "2s"
    assert.is_nil(runner:info())
  end)

  it("the same completion is still the same, and another one is still refused", function()
    local runner = env:mock_runner { id = "r", type = "test", auto_complete = false }
    workflow:stage("s", { runner = "test", mode = "async" })
    workflow:stage("more", { runner = "nobody" })
    env:submit(workflow)
    env:settle()
    local request = runner.received[1]
    assert(runner:complete(request, env.success(request)))
    restart()
    assert(runner:complete(request, env.success(request)))
    local _, err = runner:complete(request, env.failure "other")
    assert.equal("FAILED_PRECONDITION", err.code)
  end)

  it("a watch is resumed where it ended", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    workflow:stage("a", { runner = "test" })
    workflow:stage("b", { runner = "test", after = "a" })
    runner:hold()
    local plan = env:submit(workflow)
    env:wait(function() return #runner.received == 1 end)
    runner:release "a"
    env:wait(function() return #runner.received == 2 end)
    local seen = plan.events.events
    local middle = seen[#seen // 2].sequence
    restart()
    local recorder = env:watch(plan, { after_sequence = middle })
    env:settle()
    for i = #seen // 2 + 1, #seen do
      assert.equal(seen[i].sequence, recorder.events[i - #seen // 2].sequence)
      assert.same(seen[i], recorder.events[i - #seen // 2])
    end
  end)
end)
