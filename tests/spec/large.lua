-- large: the body of TestLargeWorkflow, for any size: layers of stages, each of which depends on two of the layer
-- before; two of each layer finalize its check; two runners do the work. What is asserted of a stage costs the same
-- however many there are: the events are read once.

local assert = require "luassert"
local evidence = require "evidence"
local turboci = require "turboci"

local M = {}

local ROOM = 8 -- of each runner
local BATCH = 1000 -- nodes of one write

local function name(layer, i)
  return ("s-%03d-%03d"):format(layer, i)
end

local function parents(layer, i, width)
  if layer == 1 then return {} end
  return { name(layer - 1, i), name(layer - 1, i % width + 1) }
end

local function describe_workflow(layers, width)
  local workflow = turboci.plan { name = "large" }
  for layer = 1, layers do
    workflow:check("layer-" .. layer)
    for i = 1, width do
      workflow:stage(name(layer, i), {
        runner = "test",
        after = layer > 1 and parents(layer, i, width) or nil,
        finalizes = i <= 2 and "layer-" .. layer or nil,
      })
    end
  end
  return workflow
end

-- All checks, then the stages in writes of a size that any message holds.
local function submit(env, workflow)
  local plan, writes = env:create_plan({}, { include_progress = false }), workflow:writes()
  assert(env:write(plan, { checks = writes.checks, omit_nodes = true }))
  for first = 1, #writes.stages, BATCH do
    local stages = table.move(writes.stages, first, math.min(first + BATCH - 1, #writes.stages), 1, {})
    assert(env:write(plan, { stages = stages, omit_nodes = true }))
  end
  return plan
end

-- states["stage s-001-001"] = { { state =, sequence = }, ... }, of one pass over the events.
local function read_states(recorder)
  local states = {}
  for _, event in ipairs(recorder.events) do
    local part = event.stage_event or event.check_event
    if part and part.old_state ~= part.new_state then
      local key = part.stage_id and "stage " .. part.stage_id or "check " .. part.check_id
      states[key] = states[key] or {}
      table.insert(states[key], { state = part.new_state, sequence = event.sequence })
    end
  end
  return states
end

-- assert without its price: there are a hundred thousand of these.
local function claim(holds, id, what)
  if not holds then error(("%s: %s"):format(id, what), 0) end
end

local function claim_states(wanted, actual, id)
  local list = {}
  for i, entry in ipairs(actual or {}) do list[i] = entry.state end
  claim(table.concat(list, " ") == table.concat(wanted, " "), id, "went through " .. table.concat(list, " "))
end

local function by(key, list)
  local map = {}
  for _, item in ipairs(list) do
    claim(not map[item[key]], item[key], "is there twice")
    map[item[key]] = item
  end
  return map
end

local function claim_complete(id, execution)
  claim(execution and execution.state == "COMPLETE" and execution.attempt_idx == 1, id, "has no complete execution")
  claim(execution.created_at <= execution.dispatched_at and execution.dispatched_at <= execution.started_at
    and execution.started_at <= execution.finished_at, id, "the times of its execution are out of order")
end

---Runs a workflow of layers × width stages and asserts everything of it.
---@param env turboci.testing.Env
---@param layers integer
---@param width integer
function M.run(env, layers, width)
  local runners = {}
  for i = 1, 2 do runners[i] = env:mock_runner { id = "runner-" .. i, type = "test", max_concurrent = ROOM } end
  local plan = submit(env, describe_workflow(layers, width))
  env:wait(plan)

  local received = {}
  for _, runner in ipairs(runners) do
    assert.is_true(#runner.received > 0, "a runner had nothing to do")
    assert.is_true(runner.peak_load <= ROOM, "a runner had too much to do")
    table.move(runner.received, 1, #runner.received, #received + 1, received)
  end
  assert.equal(layers * width, #received)
  by("stage_id", received)

  local states, nodes = read_states(plan.events), env:query(plan)
  local stages, executions = by("id", nodes.stages), by("stage_id", env:executions(plan))
  for layer = 1, layers do
    for i = 1, width do
      local id = name(layer, i)
      local own, execution = states["stage " .. id], executions[id]
      claim(stages[id].outcome == "SUCCEEDED" and #stages[id].attempts == 1, id, "did not succeed at once")
      claim_states(evidence.STAGE, own, id)
      claim_complete(id, execution)
      for _, parent in ipairs(parents(layer, i, width)) do
        claim(states["stage " .. parent][3].sequence < own[2].sequence, id, "began before " .. parent .. " was over")
        claim(executions[parent].finished_at <= execution.created_at, id, "is older than the end of " .. parent)
      end
    end
  end
  for _, check in ipairs(nodes.checks) do
    claim(check.outcome == "SUCCEEDED" and #check.results == 2, check.id, "was not met by two stages")
    claim_states(evidence.CHECK, states["check " .. check.id], check.id)
  end
  evidence.settled(plan, { runners = runners })
end

return M
