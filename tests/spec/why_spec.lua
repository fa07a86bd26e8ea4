-- Why: what ExplainNode says of a node, in words and as data. Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

describe("why:", function()
  local env, workflow

  before_each(function()
    env = testing.env { policy = "tests/spec/policies/gate.lua" }
  end)
  after_each(function() env:stop() end)

  local function plan_of(metadata)
    workflow = turboci.plan { name = "why", metadata = metadata }
    return workflow
  end

  -- A plan of one stage, "s", that wants a runner of the type "test".
  local function submit_one(metadata, options)
    plan_of(metadata)
    options = options or {}
    options.runner = options.runner or "test"
    workflow:stage("s", options)
    return env:submit(workflow)
  end

  local function wait_for_attempts(plan, count)
    env:wait(function() return #env:stage(plan, "s").attempts == count end)
    env:settle()
  end

  describe("a stage waits because", function()
    it("it comes after another one, which is named", function()
      env:mock_runner { type = "test", hold = true }
      plan_of():stage("first", { runner = "test" })
      workflow:stage("later", { runner = "test", after = "first" })
      local plan = env:submit(workflow)
      assert.equal("STATE", env:why(plan, "later").explanations[1].kind)
      assert.stage(plan, "later").explains { kind = "STATE", text = "PLANNED" }
      assert.stage(plan, "later").explains { kind = "DEPENDENCY", subject = "first", text = "first" }
    end)

    it("no runner of its type is there", function()
      env:mock_runner { type = "test" }
      local plan = submit_one(nil, { runner = "nobody" })
      env:settle()
      assert.stage(plan, "s").explains { kind = "NO_RUNNER", text = "nobody" }
    end)

    it("no runner of its type takes its mode", function()
      env:mock_runner { type = "test", modes = { "SYNC" } }
      local plan = submit_one(nil, { mode = "async" })
      env:settle()
      assert.stage(plan, "s").explains { kind = "NO_RUNNER", text = "ASYNC" }
    end)

    it("all runners are busy", function()
      local runner = env:mock_runner { id = "r", type = "test", max_concurrent = 1, hold = true }
      plan_of():stage("first", { runner = "test", priority = 1 })
      workflow:stage("second", { runner = "test" })
      local plan = env:submit(workflow)
      env:wait(function() return #runner.received == 1 end)
      assert.stage(plan, "second").explains { kind = "ALL_BUSY" }
      runner:release()
      env:wait(plan)
    end)

    it("its next attempt is not due yet", function()
      local runner = env:mock_runner { type = "test" }
      function runner.on_run() return env.failure "flaky" end
      local plan = submit_one { retry = "later" }
      wait_for_attempts(plan, 2)
      assert.stage(plan, "s").explains { kind = "BACKOFF", attempt = 2 }
      assert.stage(plan, "s").explains { kind = "ATTEMPT", attempt = 1, text = "flaky" }
    end)

    it("the policy said wait, with its reason", function()
      env:mock_runner { type = "test" }
      local plan = submit_one { closed = "yes" }
      env:settle()
      assert.stage(plan, "s").explains { kind = "POLICY_WAIT", text = "the gate is closed" }
      assert.stage(plan, "s").explains { kind = "POLICY_WAIT", text = "gate" }
    end)

    it("the policy said wait so long", function()
      env:mock_runner { type = "test" }
      local plan = submit_one { nap = "yes" }
      env:settle()
      assert.stage(plan, "s").explains { kind = "POLICY_WAIT", text = "a nap" }
    end)

    it("the policy does not admit it now", function()
      env:mock_runner { type = "test" }
      local plan = submit_one { night = "yes" }
      env:settle()
      assert.stage(plan, "s").explains "it is night"
    end)

    it("others hold its admission key, until they are done", function()
      local runner = env:mock_runner { type = "test", hold = true }
      local first = submit_one { key = "prod" }
      env:wait(function() return #runner.received == 1 end)
      local second = submit_one { key = "prod" }
      env:settle()
      assert.equal(1, #runner.received)
      assert.stage(second, "s").explains { kind = "ADMISSION", subject = "prod" }
      runner:release()
      env:wait(first)
      env:wait(second)
      assert.same({ "prod" }, env:execution(second, "s").admission_keys)
    end)

    it("the retry excludes the only runner", function()
      local runner = env:mock_runner { id = "r", type = "test" }
      function runner.on_run() return env.failure "not here" end
      local plan = submit_one { retry = "elsewhere" }
      wait_for_attempts(plan, 2)
      assert.stage(plan, "s").explains { kind = "EXCLUDED", subject = "r" }
      assert.same({ "r" }, env:execution(plan, "s").excluded_runners)
      local other = env:mock_runner { id = "other", type = "test" }
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", runner = other.id }
    end)

    it("it is a client's turn", function()
      plan_of():stage("s", { runner = false })
      workflow:check("approved", { external = true })
      local plan = env:submit(workflow)
      assert.stage(plan, "s").explains { kind = "CLIENT" }
      assert.check(plan, "approved").explains { kind = "CLIENT" }
    end)
  end)

  it("a stage that runs: with whom", function()
    local runner = env:mock_runner { id = "r", type = "test", hold = true }
    local plan = submit_one()
    env:wait(function() return #runner.received == 1 end)
    assert.stage(plan, "s").explains { kind = "RUNNING", subject = "r", attempt = 1 }
    runner:release()
    env:wait(plan)
  end)

  it("a check that waits: for whose result", function()
    env:mock_runner { type = "test", hold = true }
    plan_of():check("built")
    workflow:stage("compile", { runner = "test", finalizes = "built" })
    local plan = env:submit(workflow)
    assert.check(plan, "built").explains { kind = "RESULT", subject = "compile" }
  end)

  it("a stage that was skipped: because of whom", function()
    local runner = env:mock_runner { type = "test" }
    function runner.on_run() return env.failure "exit code 2" end
    plan_of():stage("bad", { runner = "test" })
    workflow:stage("later", { runner = "test", after = "bad" })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.stage(plan, "later").explains { kind = "STATE", text = "SKIPPED" }
    assert.stage(plan, "later").explains { kind = "DEPENDENCY", subject = "bad", text = "FAILED" }
  end)

  it("a stage that failed: how its attempts ended, and why it was not repeated", function()
    local runner = env:mock_runner { type = "test" }
    function runner.on_run() return env.failure "exit code 2" end
    plan_of():check("built")
    workflow:stage("s", { runner = "test", finalizes = "built" })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.stage(plan, "s").explains { kind = "STATE", text = "FAILED" }
    assert.stage(plan, "s").explains { kind = "ATTEMPT", attempt = 1, text = "exit code 2" }
    assert.stage(plan, "s").explains { kind = "DECISION", text = "once is enough" }
    assert.check(plan, "built").explains { kind = "RESULT", subject = "s" }
    local decision = env:decisions(plan, "s", "retry")[1]
    assert.is_false(decision.again)
    assert.same({ "gate", "once is enough" }, { decision.policy, decision.reason })
  end)

  it("a stage that ran where it ran: the choice, who else was there, the reason and the version", function()
    local a = env:mock_runner { id = "a", type = "test", hold = true }
    submit_one()
    env:wait(function() return #a.received == 1 end)
    env:mock_runner { id = "b", type = "test" }
    local plan = submit_one()
    env:wait(plan)
    assert.stage(plan, "s").explains { kind = "DECISION", text = "the last one fits" }
    local decision = env:decisions(plan, "s", "select")[1]
    assert.same({ { runner_id = "a", load = 1 }, { runner_id = "b", load = 0 } }, decision.candidates)
    assert.same({ "b", "gate", env:policy("gate").version, "the last one fits", 2, "" }, {
      decision.runner_id, decision.policy, decision.version, decision.reason, decision.candidates_total, decision.fault,
    })
    local recorded = env:execution(plan, "s").decisions -- what was said in the queue first, then who got it
    assert.same(decision, recorded[#recorded])
  end)

  it("a policy that could not answer: why, and that the built-in default decided", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    local plan = submit_one { broken = "yes" }
    env:wait(plan)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", runner = runner.id }
    assert.stage(plan, "s").explains { kind = "POLICY_FAULT", text = "this gate is broken" }
    local decision = env:decisions(plan, "s", "select")[1]
    assert.matches("gate.lua:%d+: this gate is broken", decision.fault)
    assert.same({ "gate", "r" }, { decision.policy, decision.runner_id })
    assert.equal(1, env:policy("gate").faults)
  end)

  it("refuses what it cannot explain", function()
    local plan = submit_one()
    local client = env.client
    local function code(request)
      local _, err = client:explain_node(request)
      return err and err.code
    end
    assert.equal("NOT_FOUND", code { work_plan_id = "nobody", stage_id = "s" })
    assert.equal("NOT_FOUND", code { work_plan_id = plan.id, stage_id = "nobody" })
    assert.equal("NOT_FOUND", code { work_plan_id = plan.id, check_id = "s" })
    assert.equal("INVALID_ARGUMENT", code { work_plan_id = plan.id })
    assert.equal("INVALID_ARGUMENT", code { work_plan_id = plan.id, stage_id = "s", check_id = "c" })
    assert.equal("INVALID_ARGUMENT", code { stage_id = "s" })
  end)
end)
