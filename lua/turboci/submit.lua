-- Submitting a plan: CreateWorkPlan, then WriteNodes.
--
-- A plan that fits into one write is one: all of it, or nothing. A larger one is written in batches behind a
-- gate (a check that nobody else finalizes): every stage that waits for nothing waits for the gate, so nothing runs and
-- nothing ends before the last batch is in; then the gate is opened. Every write names the version it expects, so a
-- write whose answer was lost can be repeated: ABORTED then says that it had arrived.
-- Called by client:submit.

local util = require "turboci.util"

local M = {}

local GATE = "turboci:submitted"
-- Of one write, unless the server says otherwise.
local LIMITS = { message_bytes_max = 4194304, write_nodes_max = 20000, write_edges_max = 100000,
  step_changes_max = 5000 }
-- Plans smaller than this are never in doubt.
local ASK_ABOVE_BYTES, ASK_ABOVE_NODES = 262144, 1000

---@class turboci.submit.Options
---@field timeout number? seconds, of each call
---@field body_type string? runner type of the stages with Lua bodies; without it such a plan is refused
---@field retry (fun(err: turboci.Error): boolean)? waits and says whether to repeat a call that found no server

local function call(client, name, request, options)
  local repeated = false
  while true do
    local response, err = client:call(name, request, { timeout = options.timeout })
    if response then return response end
    if err.code == "ABORTED" and repeated then return {} end
    local unknown = err.code == "UNAVAILABLE" or err.code == "DEADLINE_EXCEEDED"
    if not unknown or not options.retry or not options.retry(err) then return nil, err end
    repeated = true
  end
end

local function failure(code, message)
  return require("turboci.client").error(code, message)
end

---------------------------------------------------------------------------------------------------
-- Batches

-- Stages such that each comes after those it depends on.
local function in_order(stages)
  local by_id, done, ordered = {}, {}, {}
  for _, stage in ipairs(stages) do
    by_id[stage.id] = stage
  end
  local function dependencies(stage)
    return stage.dependencies and stage.dependencies.dependencies or {}
  end
  for _, root in ipairs(stages) do
    local stack = { { stage = root, at = 0 } }
    while #stack > 0 do
      local top = stack[#stack]
      top.at = top.at + 1
      local edge = dependencies(top.stage)[top.at]
      local target = edge and edge.target_type == "STAGE" and by_id[edge.target_id]
      if done[top.stage] then
        stack[#stack] = nil
      elseif not edge then
        done[top.stage] = true
        ordered[#ordered + 1] = top.stage
        stack[#stack] = nil
      elseif target and not done[target] then
        stack[#stack + 1] = { stage = target, at = 0 }
      end
    end
  end
  return ordered
end

local function copy(write, changes)
  local out = {}
  for key, value in pairs(write) do
    out[key] = value
  end
  for key, value in pairs(changes) do
    out[key] = value
  end
  return out
end

local function phases(writes)
  local bare, gated, described = { { id = GATE, kind = "turboci", state = "PLANNING" } }, {}, {}
  for _, check in ipairs(writes.checks) do
    bare[#bare + 1] = { id = check.id, kind = check.kind, options = check.options, state = "PLANNING" }
    described[#described + 1] = { id = check.id, state = check.state, dependencies = check.dependencies }
  end
  local gate = { predicate = "AND", dependencies = { { target_type = "CHECK", target_id = GATE } } }
  for _, stage in ipairs(in_order(writes.stages)) do
    gated[#gated + 1] = stage.dependencies and stage or copy(stage, { dependencies = gate })
  end
  return {
    { field = "checks", items = bare },
    { field = "stages", items = gated },
    { field = "checks", items = described },
    { field = "checks", items = { { id = GATE, state = "FINAL" } } },
  }
end

local function edges_of(item)
  return #(item.assignments or {}) + #(item.dependencies and item.dependencies.dependencies or {})
end

local function batches(writes, limits)
  local core = require "turboci.core"
  local out = {}
  local bytes_max = limits.message_bytes_max - 1024
  -- So few that nothing is left over for a step after the write: the version that the next one expects would be wrong.
  local nodes_max = math.min(limits.write_nodes_max, math.max(1, limits.step_changes_max // 4))
  for _, phase in ipairs(phases(writes)) do
    local batch, size, edges = { [phase.field] = {} }, 0, 0
    for _, item in ipairs(phase.items) do
      local bytes, err = core.encode(phase.field == "checks" and "CheckWrite" or "StageWrite", item)
      if not bytes then return nil, failure("INVALID_ARGUMENT", err) end
      local nodes, more = #batch[phase.field], edges_of(item)
      if nodes > 0 and (size + #bytes + 16 > bytes_max or nodes >= nodes_max or edges + more > limits.write_edges_max)
      then
        out[#out + 1] = batch
        batch, size, edges = { [phase.field] = {} }, 0, 0
      end
      table.insert(batch[phase.field], item)
      size = size + #bytes + 16 -- the field's own tag and length
      edges = edges + more
    end
    if #batch[phase.field] > 0 then out[#out + 1] = batch end
  end
  return out
end

local function plan_batches(client, writes, options)
  local whole = { checks = writes.checks, stages = writes.stages, omit_nodes = true, work_plan_id = ("x"):rep(256) }
  local bytes, err = require("turboci.core").encode("WriteNodesRequest", whole)
  if not bytes then return nil, failure("INVALID_ARGUMENT", err) end
  local one = { { checks = writes.checks, stages = writes.stages } }
  local nodes, edges = #writes.checks + #writes.stages, 0
  for _, list in ipairs { writes.checks, writes.stages } do
    for _, item in ipairs(list) do
      edges = edges + edges_of(item)
    end
  end
  if #bytes <= ASK_ABOVE_BYTES and nodes <= ASK_ABOVE_NODES then return one end
  local info = client:call("GetServerInfo", {}, { timeout = options.timeout })
  local limits = setmetatable(info and info.limits or {}, { __index = LIMITS })
  local fits = #bytes + 64 <= limits.message_bytes_max and nodes <= limits.write_nodes_max
  return fits and edges <= limits.write_edges_max and one or batches(writes, limits)
end

---------------------------------------------------------------------------------------------------

local function with_bodies(plan, writes, body_type)
  for _, stage in ipairs(writes.stages) do
    if plan.bodies and plan.bodies[stage.id] then
      if not body_type then
        return nil, failure("INVALID_ARGUMENT", ("stage '%s' has a body in Lua, which only the submitting process can "
          .. "run: use turboci.runner.lua (or `turboci submit --wait`)"):format(stage.id))
      end
      stage.runner_type = body_type
    end
  end
  return true
end

---@param client turboci.client.Client
---@param plan turboci.workflow.Plan
---@param options turboci.submit.Options?
---@return table? work_plan
---@return turboci.Error? err
function M.submit(client, plan, options)
  options = util.check_options(options, { timeout = "number", body_type = "string", retry = "function" }, "submit", 3)
  local writes = plan:writes()
  local ok, err = with_bodies(plan, writes, options.body_type)
  if not ok then return nil, err end
  local list
  list, err = plan_batches(client, writes, options)
  if not list then return nil, err end
  local created
  created, err = call(client, "CreateWorkPlan", { metadata = writes.metadata, policy = writes.policy }, options)
  if not created then return nil, err end
  local work_plan = created.work_plan
  for i, batch in ipairs(list) do
    batch.work_plan_id, batch.omit_nodes = work_plan.id, true
    batch.expected_plan_version = work_plan.version + i - 1
    ok, err = call(client, "WriteNodes", batch, options)
    if not ok then return nil, err end
  end
  return work_plan
end

return M
