-- evidence: what the testing plan's chapter "Assertions" asks about one stage, check or plan, in one line each: states
-- in order (of the watch stream, not only the end), execution records with their times, load, settling. For shared
-- specs. They wait for the stream to have shown the end of what they are about: a query may be ahead of it.
--
--   evidence.ran(plan, "compile", { runner = builder })     -- went well: every state on the way, its record complete
--   evidence.failed_attempt(plan, "compile", 1, { kind = "STALE", runner = builder })

local assert = require "luassert"

local M = {}

M.STAGE = { "PLANNED", "ATTEMPTING", "FINAL" }
M.CHECK = { "PLANNED", "WAITING", "FINAL" }
M.ATTEMPT = { "PENDING", "SCHEDULED", "RUNNING", "COMPLETE" }

---A stage that went well: its states, those of its last attempt, and the record of that.
---@param plan turboci.testing.Plan
---@param id string
---@param wanted {runner: table?, mode: string?, attempts: integer?}?
function M.ran(plan, id, wanted)
  wanted = wanted or {}
  local attempts = wanted.attempts or 1
  plan.env:wait_for(plan, "stage", id, "FINAL")
  assert.stage(plan, id).is_final { outcome = "SUCCEEDED", reason = "ATTEMPT_COMPLETE", attempts = attempts }
  assert.transitions(plan, "stage", id, M.STAGE)
  assert.transitions(plan, "attempt", id, M.ATTEMPT, attempts)
  assert.equal(attempts, #plan.env:executions(plan, id))
  assert.execution(plan, id, attempts).is_recorded {
    state = "COMPLETE", attempt = attempts, attempt_state = "COMPLETE", mode = wanted.mode or "SYNC",
    runner = wanted.runner and wanted.runner.id, runner_type = wanted.runner and wanted.runner.type,
  }
end

---A check that was finalized with success, by one result with this data.
---@param plan turboci.testing.Plan
---@param id string
---@param data table?
function M.met(plan, id, data)
  plan.env:wait_for(plan, "check", id, "FINAL")
  assert.check(plan, id).is_final { outcome = "SUCCEEDED", reason = "RESULTS_FINAL", results = 1, data = data or {} }
  assert.transitions(plan, "check", id, M.CHECK)
  local result = plan.env:check(plan, id).results[1]
  assert.is_truthy(result.finalized_at)
  assert.is_nil(result.failure)
end

---An attempt that failed: its states, its record, and the same failure in both.
---@param plan turboci.testing.Plan
---@param id string
---@param index integer
---@param wanted {kind: string, runner: table?, message: string?, mode: string?, states: string[]?}
function M.failed_attempt(plan, id, index, wanted)
  plan.env:wait(function()
    local seen = plan.events:attempt_states(id, index)
    return seen[#seen] == "INCOMPLETE"
  end)
  assert.execution(plan, id, index).is_recorded {
    state = "FAILED", attempt = index, attempt_state = "INCOMPLETE", mode = wanted.mode,
    runner = wanted.runner and wanted.runner.id, failure_kind = wanted.kind, failure = wanted.message,
  }
  local attempt = plan.env:stage(plan, id).attempts[index]
  assert.equal("INCOMPLETE", attempt.state)
  assert.same(plan.env:execution(plan, id, index).failure, attempt.failure)
  local states = wanted.states or { "PENDING", "SCHEDULED", "RUNNING", "INCOMPLETE" }
  assert.transitions(plan, "attempt", id, states, index)
end

---A stage that was skipped: no attempt, and no record.
---@param plan turboci.testing.Plan
---@param id string
function M.skipped(plan, id)
  plan.env:wait_for(plan, "stage", id, "FINAL")
  assert.stage(plan, id).is_final { outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED", attempts = 0 }
  assert.transitions(plan, "stage", id, { "PLANNED", "FINAL" })
  assert.same({}, plan.env:executions(plan, id))
end

---A stage that has not begun.
---@param plan turboci.testing.Plan
---@param id string
function M.not_begun(plan, id)
  assert.stage(plan, id).has_state "PLANNED"
  assert.same({}, plan.env:executions(plan, id))
end

---The plan settled, once, with this outcome (default: SUCCEEDED), and these runners have no load any more.
---@param plan turboci.testing.Plan
---@param wanted {outcome: string?, runners: table[]?}?
function M.settled(plan, wanted)
  wanted = wanted or {}
  plan.env:settle()
  local work_plan, nodes = plan.env:plan(plan), plan.env:query(plan)
  local outcome = wanted.outcome or "SUCCEEDED"
  assert.equal("SETTLED", work_plan.state)
  assert.equal(outcome, work_plan.outcome)
  assert.equal(1, plan.events:completions())
  assert.same({
    checks_completed = #nodes.checks, stages_completed = #nodes.stages, has_failures = outcome ~= "SUCCEEDED",
  }, plan.events.events[#plan.events.events].completed_event)
  for _, runner in ipairs(wanted.runners or {}) do assert.runner_load(runner, 0) end
end

---All that a client can read of a plan: to compare before and after what must change nothing.
---@param plan turboci.testing.Plan
---@return table
function M.snapshot(plan)
  plan.env:settle()
  return { plan = plan.env:plan(plan), nodes = plan.env:query(plan), executions = plan.env:executions(plan) }
end

return M
