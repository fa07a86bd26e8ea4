-- Category 1 of the testing plan: one path through the whole engine each. Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

local STAGE_STATES = { "PLANNED", "ATTEMPTING", "FINAL" }
local CHECK_STATES = { "PLANNED", "WAITING", "FINAL" }

describe("basic:", function()
  local env

  before_each(function() env = testing.env() end)
  after_each(function() env:stop() end)

  -- The execution of a stage that went well: complete, on this runner, its times in order.
  local function assert_complete_execution(plan, stage_id, runner, mode)
    local executions = env:executions(plan, stage_id)
    assert.equal(1, #executions)
    local execution = executions[1]
    assert.equal("COMPLETE", execution.state)
    assert.equal("COMPLETE", execution.attempt_state)
    assert.equal(1, execution.attempt_idx)
    assert.equal(mode, execution.execution_mode)
    assert.equal(runner.id, execution.runner_id)
    assert.equal(runner.type, execution.runner_type)
    assert.is_nil(execution.failure)
    assert.is_true(execution.created_at > 0)
    assert.is_true(execution.created_at <= execution.dispatched_at)
    assert.is_true(execution.dispatched_at <= execution.started_at)
    assert.is_true(execution.started_at <= execution.finished_at)
    assert.is_true(execution.finished_at < execution.deadline)
    return execution
  end

  -- The times of a live execution are those that have happened.
  local function assert_live_execution(plan, stage_id, state)
    local execution = env:execution(plan, stage_id)
    assert.equal(state, execution.state)
    assert.is_truthy(execution.dispatched_at)
    assert.is_nil(execution.finished_at)
  end

  local function assert_succeeded_check(plan, id, data)
    assert.check(plan, id).is_final { outcome = "SUCCEEDED", reason = "RESULTS_FINAL", results = 1, data = data }
    -- The plan may be under way still, and its stream behind what a query shows.
    env:wait_for(plan, "check", id, "FINAL")
    assert.transitions(plan, "check", id, CHECK_STATES)
    local result = env:check(plan, id).results[1]
    assert.is_truthy(result.finalized_at)
    assert.is_nil(result.failure)
  end

  local function load_of(runner)
    return runner:info().current_load
  end

  local function wait_for_stages(runner, n)
    env:wait(function() return #runner.received == n end)
  end

  -- `later` became ATTEMPTING only after `earlier` was FINAL, and was sent to its runner only then.
  local function assert_order(plan, earlier, later)
    local ended = plan.events:sequence_of("stage", earlier, "FINAL")
    local started = plan.events:sequence_of("stage", later, "ATTEMPTING")
    assert.is_true(ended < started)
    assert.is_true(env:execution(plan, earlier).finished_at <= env:execution(plan, later).dispatched_at)
  end

  local function assert_settled_once(plan)
    env:settle()
    assert.equal(1, plan.events:completions())
    assert.is_truthy(plan.events.events[#plan.events.events].completed_event)
    local work_plan = env:plan(plan)
    assert.equal("SETTLED", work_plan.state)
    assert.equal("SUCCEEDED", work_plan.outcome)
  end

  it("a single stage with sync execution completes a check #TestBasicSyncExecution", function()
    local runner = env:mock_runner { id = "builder", type = "build", modes = { "SYNC" } }
    runner.on_run = function(request) return env.success(request, { size = 42 }) end
    runner:hold()
    local workflow = turboci.plan { name = "basic" }
    workflow:check("builds", { kind = "build", options = { target = "all" } })
    workflow:stage("compile", { runner = "build", args = { command = "make" }, finalizes = "builds" })

    local plan = env:submit(workflow)
    wait_for_stages(runner, 1)

    local request = runner.received[1]
    assert.equal("compile", request.stage_id)
    assert.equal(plan.id, request.work_plan_id)
    assert.equal(1, request.attempt_idx)
    assert.same({ "builds" }, request.assigned_check_ids)
    assert.same({ command = "make" }, request.args)
    assert.same({ { check_id = "builds", kind = "build", options = { target = "all" } } }, request.check_options)
    assert.stage(plan, "compile").has_state "ATTEMPTING"
    assert.check(plan, "builds").has_state "WAITING"
    assert_live_execution(plan, "compile", "RUNNING")
    assert.equal(1, load_of(runner))

    runner:release()
    env:wait(plan)

    assert.stage(plan, "compile").is_final {
      outcome = "SUCCEEDED", reason = "ATTEMPT_COMPLETE", attempts = 1, runner = "builder",
    }
    assert.transitions(plan, "stage", "compile", STAGE_STATES)
    assert.same({ "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }, plan.events:attempt_states "compile")
    assert_succeeded_check(plan, "builds", { size = 42 })
    assert_complete_execution(plan, "compile", runner, "SYNC")
    assert.equal(0, load_of(runner))
    assert_settled_once(plan)
  end)

  it("a single stage with async execution completes by callback #TestBasicAsyncExecution", function()
    local runner = env:mock_runner { id = "builder", type = "build", modes = { "ASYNC" } }
    runner:hold()
    local workflow = turboci.plan { name = "basic" }
    workflow:check("builds")
    workflow:stage("compile", { runner = "build", mode = "async", finalizes = "builds" })

    local plan = env:submit(workflow)
    env:wait(function()
      local execution = env:execution(plan, "compile")
      return execution and #execution.progress == 1
    end)

    assert.equal("ASYNC", runner.received[1].mode)
    assert.is_true(runner.received[1].callback_address ~= "")
    assert.stage(plan, "compile").has_state "ATTEMPTING"
    assert_live_execution(plan, "compile", "RUNNING")
    assert.equal(1, load_of(runner))

    runner:release()
    env:wait(plan)

    assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED", attempts = 1, runner = "builder" }
    assert.transitions(plan, "stage", "compile", STAGE_STATES)
    assert.same({ "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }, plan.events:attempt_states "compile")
    assert_succeeded_check(plan, "builds", {})
    local execution = assert_complete_execution(plan, "compile", runner, "ASYNC")
    assert.equal("working", execution.progress[1].message)
    assert.equal("compile", execution.runner_execution_id)
    assert.is_nil(next(runner.pending))
    assert.equal(0, load_of(runner))
    assert_settled_once(plan)
  end)

  it("one stage updates all the checks assigned to it #TestStageWithMultipleChecks", function()
    local runner = env:mock_runner { id = "builder", type = "build" }
    runner:hold()
    runner.on_run = function(request)
      local response = env.success(request)
      for _, update in ipairs(response.check_updates) do update.result_data = { of = update.check_id } end
      return response
    end
    local ids = { "builds", "lints", "passes" }
    local workflow = turboci.plan { name = "basic" }
    for _, id in ipairs(ids) do workflow:check(id) end
    workflow:stage("all-in-one", { runner = "build", finalizes = ids })

    local plan = env:submit(workflow)
    wait_for_stages(runner, 1)

    local assigned = runner.received[1].assigned_check_ids
    table.sort(assigned)
    assert.same(ids, assigned)
    for _, id in ipairs(ids) do assert.check(plan, id).has_state "WAITING" end
    assert.equal(1, load_of(runner))

    runner:release()
    env:wait(plan)

    assert.stage(plan, "all-in-one").is_final { outcome = "SUCCEEDED" }
    assert.transitions(plan, "stage", "all-in-one", STAGE_STATES)
    for _, id in ipairs(ids) do assert_succeeded_check(plan, id, { of = id }) end
    assert_complete_execution(plan, "all-in-one", runner, "SYNC")
    assert.equal(0, load_of(runner))
    assert_settled_once(plan)
  end)

  it("two stages with a dependency are executed in order #TestSequentialStages", function()
    local runner = env:mock_runner { id = "builder", type = "build" }
    runner:hold()
    local workflow = turboci.plan { name = "basic" }
    workflow:check("builds")
    workflow:check("passes")
    workflow:stage("test", { runner = "build", after = "compile", finalizes = "passes" })
    workflow:stage("compile", { runner = "build", finalizes = "builds" })

    local plan = env:submit(workflow)
    wait_for_stages(runner, 1)
    env:settle()

    assert.same({ "compile" }, runner:received_stages())
    assert.stage(plan, "test").has_state "PLANNED"
    assert.same({}, env:executions(plan, "test"))
    assert.equal(1, load_of(runner))

    runner:release "compile"
    wait_for_stages(runner, 2)

    assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED" }
    assert_succeeded_check(plan, "builds", {})
    assert.stage(plan, "test").has_state "ATTEMPTING"
    assert.check(plan, "passes").has_state "WAITING"
    assert.equal(1, load_of(runner))

    runner:release()
    env:wait(plan)

    assert.same({ "compile", "test" }, runner:received_stages())
    assert.stage(plan, "test").is_final { outcome = "SUCCEEDED" }
    assert_succeeded_check(plan, "passes", {})
    for _, id in ipairs { "compile", "test" } do
      assert.transitions(plan, "stage", id, STAGE_STATES)
      assert_complete_execution(plan, id, runner, "SYNC")
    end
    assert_order(plan, "compile", "test")
    assert.equal(0, load_of(runner))
    assert_settled_once(plan)
  end)

  it("two independent stages are executed at the same time #TestParallelStages", function()
    local runner = env:mock_runner { id = "builder", type = "build", max_concurrent = 2 }
    runner:hold()
    local workflow = turboci.plan { name = "basic" }
    workflow:check("unit")
    workflow:check("e2e")
    workflow:stage("unit-tests", { runner = "build", finalizes = "unit" })
    workflow:stage("e2e-tests", { runner = "build", finalizes = "e2e" })

    local plan = env:submit(workflow)
    wait_for_stages(runner, 2)

    for _, id in ipairs { "unit-tests", "e2e-tests" } do
      assert.stage(plan, id).has_state "ATTEMPTING"
      assert_live_execution(plan, id, "RUNNING")
    end
    assert.equal(2, load_of(runner))

    runner:release "e2e-tests"
    env:wait(function() return env:stage(plan, "e2e-tests").state == "FINAL" end)

    assert.stage(plan, "unit-tests").has_state "ATTEMPTING"
    assert_succeeded_check(plan, "e2e", {})
    assert.check(plan, "unit").has_state "WAITING"
    assert.equal(1, load_of(runner))

    runner:release()
    env:wait(plan)

    assert_succeeded_check(plan, "unit", {})
    for _, id in ipairs { "unit-tests", "e2e-tests" } do
      assert.stage(plan, id).is_final { outcome = "SUCCEEDED", attempts = 1 }
      assert.transitions(plan, "stage", id, STAGE_STATES)
      assert_complete_execution(plan, id, runner, "SYNC")
    end
    assert.is_true(env:execution(plan, "unit-tests").started_at <= env:execution(plan, "e2e-tests").finished_at)
    assert.equal(0, load_of(runner))
    assert_settled_once(plan)
  end)
end)
