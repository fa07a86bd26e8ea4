-- Outcomes: how nodes and plans end. Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

describe("outcomes:", function()
  local env, runner, workflow

  before_each(function()
    env = testing.env()
    runner = env:mock_runner { id = "r", type = "test" }
    workflow = turboci.plan { name = "outcomes" }
  end)
  after_each(function() env:stop() end)

  -- Answers by stage id; anything else succeeds.
  local function answer(by_stage)
    function runner.on_run(request)
      local response = by_stage[request.stage_id]
      if type(response) == "function" then return response(request) end
      return response
    end
  end

  local function run()
    local plan = env:submit(workflow)
    env:wait(plan)
    return plan
  end

  -- A success that fails these checks of its stage.
  local function check_failure(message)
    return function(request)
      local response = env.success(request)
      for _, update in ipairs(response.check_updates) do update.failure = { message = message } end
      return response
    end
  end

  it("a check with several stages is FINAL with the last of them, and FAILED if one result is a failure", function()
    workflow:check("passes")
    workflow:stage("good", { runner = "test", finalizes = "passes" })
    workflow:stage("bad", { runner = "test", finalizes = "passes" })
    answer { bad = check_failure "2 tests failed" }
    runner:hold()
    local plan = env:submit(workflow)
    env:wait(function() return #runner.received == 2 end)
    runner:release "bad"
    env:wait(function() return env:stage(plan, "bad").state == "FINAL" end)
    assert.check(plan, "passes").has_state "WAITING"
    runner:release()
    env:wait(plan)
    assert.check(plan, "passes").is_final { outcome = "FAILED", reason = "RESULT_FAILED", results = 2 }
    assert.stage(plan, "good").is_final { outcome = "SUCCEEDED" }
  end)

  it("a stage that fails its check is FAILED, though its attempt is complete, and is not repeated", function()
    workflow:check("builds")
    workflow:stage("compile", { runner = "test", finalizes = "builds", retry = { max_attempts = 3 } })
    answer { compile = check_failure "does not compile" }
    local plan = run()
    assert.stage(plan, "compile").is_final { outcome = "FAILED", reason = "CHECK_FAILED", attempts = 1 }
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "RESULT_FAILED", failure = "does not compile" }
    assert.equal("COMPLETE", env:stage(plan, "compile").attempts[1].state)
    assert.equal("COMPLETE", env:execution(plan, "compile").state)
  end)

  it("a stage without retries left fails its check, saying why", function()
    workflow:check("builds")
    workflow:stage("compile", { runner = "test", finalizes = "builds" })
    answer { compile = env.failure "exit code 2" }
    local plan = run()
    assert.stage(plan, "compile").is_final { outcome = "FAILED", reason = "NO_RETRIES_LEFT", failure = "exit code 2" }
    assert.check(plan, "builds").is_final { outcome = "FAILED", failure = "exit code 2" }
    local message = env:check(plan, "builds").results[1].failure.message
    assert.is_truthy(message:find("compile", 1, true), message)
    assert.equal("FAILED", env:execution(plan, "compile").state)
    assert.equal("INCOMPLETE", env:execution(plan, "compile").attempt_state)
  end)

  it("a stage that ends without the result it owes fails the check", function()
    workflow:check("builds")
    workflow:stage("compile", { runner = "test", finalizes = "builds" })
    answer { compile = { stage_state = "FINAL" } }
    local plan = run()
    assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED" }
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "no result" }
  end)

  it("what depends on a failure is skipped, and so on down the graph", function()
    workflow:check("builds")
    workflow:check("ships")
    workflow:stage("compile", { runner = "test", finalizes = "builds" })
    workflow:stage("test", { runner = "test", after = "compile" })
    workflow:stage("ship", { runner = "test", after = "test", finalizes = "ships" })
    answer { compile = env.failure "no" }
    local plan = run()
    for _, id in ipairs { "test", "ship" } do
      assert.stage(plan, id).is_final { outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED", attempts = 0 }
      assert.transitions(plan, "stage", id, { "PLANNED", "FINAL" })
    end
    assert.check(plan, "ships").is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "skipped" }
    assert.same({ "compile" }, runner:received_stages())
  end)

  it("a check whose own dependencies are unsatisfied is skipped, and its stage still runs", function()
    workflow:check("builds")
    workflow:check("passes", { after = "builds" })
    workflow:stage("compile", { runner = "test", finalizes = "builds" })
    workflow:stage("test", { runner = "test", finalizes = "passes" })
    answer { compile = check_failure "no" }
    runner:hold()
    local plan = env:submit(workflow)
    env:wait(function() return #runner.received == 2 end)
    runner:release "compile"
    env:wait_for(plan, "check", "passes", "FINAL")
    assert.check(plan, "passes").is_final { outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED" }
    assert.transitions(plan, "check", "passes", { "PLANNED", "FINAL" })
    runner:release()
    env:wait(plan)
    assert.stage(plan, "test").is_final { outcome = "SUCCEEDED" }
    assert.check(plan, "passes").is_final { outcome = "SKIPPED" }
  end)

  it("a check whose own dependency fails together with its only stage's is skipped, whichever comes first", function()
    local gate = { "gate", when = "success" }
    workflow:check("gate", { external = true })
    workflow:check("one", { after = gate })
    workflow:stage("for one", { runner = "test", after = gate, finalizes = "one" })
    workflow:check("two", { after = "later" })
    workflow:check("later")
    workflow:stage("for two", { runner = "test", after = gate, finalizes = "two" })
    workflow:stage("for later", { runner = "test", after = gate, finalizes = "later" })
    local plan = env:submit(workflow)
    local shut = { failure = { message = "shut" }, finalize = true }
    assert(env:write(plan, { checks = { { id = "gate", result = shut } } }))
    env:wait(plan)
    assert.check(plan, "one").is_final { outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED" }
    assert.check(plan, "later").is_final { outcome = "FAILED", reason = "NO_RESULT" }
    assert.check(plan, "two").is_final { outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED" }
  end)

  it("an update for a check that is FINAL already changes nothing and is kept with the attempt", function()
    workflow:check("builds")
    workflow:stage("compile", { runner = "test", mode = "async", finalizes = "builds" })
    runner.auto_complete = false
    local plan = env:submit(workflow)
    env:wait(function() return next(runner.pending) end)
    assert(env:write(plan, { checks = { { id = "builds", state = "FINAL" } } }))
    local before = env:check(plan, "builds")
    local request = runner.received[1]
    assert(runner:complete(request, env.success(request, { late = true })))
    env:wait(plan)
    assert.same(before, env:check(plan, "builds"))
    assert.is_truthy(next(env:stage(plan, "compile").attempts[1].details))
    assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED" }
  end)

  it("a plan settles once, and again when nodes were added", function()
    workflow:stage("first", { runner = "test" })
    local plan = run()
    assert.equal("SETTLED", env:plan(plan).state)
    assert.equal("SUCCEEDED", env:plan(plan).outcome)
    assert.equal(1, plan.events:completions())
    assert(env:write(plan, { stages = { { id = "second", runner_type = "nobody" } } }))
    assert.equal("ACTIVE", env:plan(plan).state)
    env:mock_runner { type = "nobody", on_run = function() return env.failure "no" end }
    env:wait(plan)
    assert.equal("FAILED", env:plan(plan).outcome)
    assert.equal(2, plan.events:completions())
    local last = plan.events.events[#plan.events.events].completed_event
    assert.same({ checks_completed = 0, stages_completed = 2, has_failures = true }, last)
  end)

  it("a check without a stage keeps the plan open until a client finalizes it", function()
    workflow:check("approved", { external = true })
    workflow:stage("ship", { runner = "test", after = "approved" })
    local plan = env:submit(workflow)
    env:settle()
    assert.equal("ACTIVE", env:plan(plan).state)
    assert.same({}, runner.received)
    assert(env:write(plan, { checks = { { id = "approved", result = { finalize = true } } } }))
    env:wait(plan)
    assert.stage(plan, "ship").is_final { outcome = "SUCCEEDED" }
  end)

  it("an empty plan is not settled", function()
    local plan = env:create_plan { name = "empty" }
    env:settle()
    assert.equal("ACTIVE", env:plan(plan).state)
    assert.equal("empty", env:plan(plan).metadata.name)
  end)
end)
