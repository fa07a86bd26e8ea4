-- Stage bodies in Lua: a runner of its own type, in the process that submitted the plan.
--
-- A body gets the runner's context and in ctx.results the checks of the stages it comes after, read when it starts:
-- ctx.results.passes = { ok =, outcome =, data =, failures = { "..." } }; data is that of all its results, merged.
-- What it returns: nothing or true is success; nil, "text" a failure; a table is the result: `failure`, `checks` and
-- `details` as in turboci.runner.result, and every other key is data, the result of its checks.
--
-- What a body prints is its stage's output, as that of a command: take_print makes it so.

local runner = require "turboci.runner"
local util = require "turboci.util"

local M = {}

-- QueryNodes for so many ids that the reply may be too large for one message: then for half of them at a time.
local function query(context, field, ids, from, to)
  local kind = field == "stage_ids" and "stages" or "checks"
  local nodes, err = context.client:call("QueryNodes", {
    work_plan_id = context.work_plan_id, [field] = table.move(ids, from, to, 1, {}), ["include_" .. kind] = true,
  })
  if nodes then return nodes[kind] end
  if err.code ~= "RESOURCE_EXHAUSTED" or from == to then return nil, err end
  local middle = (from + to) // 2
  local first, second
  first, err = query(context, field, ids, from, middle)
  if not first then return nil, err end
  second, err = query(context, field, ids, middle + 1, to)
  if not second then return nil, err end
  return table.move(second, 1, #second, #first + 1, first)
end

-- The ids of the checks that the stages it depends on report to, and of those it depends on itself.
local function checks_before(context, stage)
  local stage_ids, wanted = {}, {}
  for _, edge in ipairs(stage.dependencies and stage.dependencies.dependencies or {}) do
    if edge.target_type == "CHECK" then
      wanted[edge.target_id] = true
    else
      stage_ids[#stage_ids + 1] = edge.target_id
    end
  end
  if #stage_ids > 0 then
    local stages, err = query(context, "stage_ids", stage_ids, 1, #stage_ids)
    if not stages then return nil, err end
    for _, before in ipairs(stages) do
      for _, assignment in ipairs(before.assignments) do
        wanted[assignment.target_check_id] = true
      end
    end
  end
  return util.sorted_keys(wanted)
end

local function result_of(check)
  local out = { ok = check.outcome == "SUCCEEDED", outcome = check.outcome, state = check.state }
  out.data, out.failures = {}, {}
  for _, entry in ipairs(check.results) do
    for key, value in pairs(entry.data or {}) do
      out.data[key] = value
    end
    if entry.failure then table.insert(out.failures, entry.failure.message) end
  end
  return out
end

local function results(context)
  local own, err = query(context, "stage_ids", { context.stage_id }, 1, 1)
  if not own then return nil, err end
  local ids
  ids, err = checks_before(context, own[1] or {})
  if not ids then return nil, err end
  local out = {}
  if #ids == 0 then return out end
  local checks
  checks, err = query(context, "check_ids", ids, 1, #ids)
  if not checks then return nil, err end
  for _, check in ipairs(checks) do
    out[check.id] = result_of(check)
  end
  return out
end

---The runner's result for what a body returned.
---@param value any
---@return any
function M.result(value)
  if type(value) ~= "table" then return value end
  local out = { failure = value.failure, checks = value.checks, details = value.details, data = {} }
  for key, item in pairs(value) do
    if key ~= "failure" and key ~= "checks" and key ~= "details" then out.data[key] = item end
  end
  return out
end

local speakers = setmetatable({}, { __mode = "k" }) -- coroutine of a body -> { context =, output = }

---Makes print mean the output of the stage whose body prints; elsewhere stderr. stdout belongs to the program: to its
---tree, or to JSON.
function M.take_print()
  rawset(_G, "print", function(...)
    local words = table.pack(...)
    for i = 1, words.n do
      words[i] = tostring(words[i])
    end
    local line = table.concat(words, "\t", 1, words.n) .. "\n"
    local speaker = speakers[coroutine.running()]
    if not speaker then
      io.stderr:write(line)
      return
    end
    speaker.output = speaker.output or require("turboci.runner.output").new(speaker.context)
    speaker.output:add(line)
  end)
end

-- What the body returned, with what it printed in the details.
local function with_output(output, value, problem)
  local result = M.result(value)
  if result == true or (result == nil and problem == nil) then result = {} end
  if not result then result = { failure = tostring(problem or "the run function returned false") } end
  if type(result) == "table" and (result.details == nil or type(result.details) == "table") then
    result.details = output:details(result.details or {})
  end
  return result
end

-- Runs a body, and raises what it raises.
local function speak(body, context)
  local co, speaker = coroutine.running(), { context = context }
  speakers[co] = speaker
  local ok, value, problem = pcall(body, context)
  speakers[co] = nil
  local output = speaker.output
  if output then output:close() end
  if ok and output then return with_output(output, value, problem) end
  if ok then return M.result(value), problem end
  if output and type(value) == "string" then return with_output(output, nil, value) end
  error(value, 0)
end

---@param plan turboci.workflow.Plan
---@return boolean
function M.has_bodies(plan)
  return next(plan.bodies) ~= nil
end

---The run function for a plan's bodies: gets a runner's context, also one of turboci.testing.
---@param bodies table<string, function>
---@return fun(context: turboci.runner.Context): any, any
function M.run_function(bodies)
  return function(context)
    local body = bodies[context.stage_id]
    if not body then return nil, ("this process has no body for stage '%s'"):format(context.stage_id) end
    local err
    context.results, err = results(context)
    if not context.results then return nil, "cannot read the results of earlier stages: " .. tostring(err) end
    return speak(body, context)
  end
end

---Starts the runner of a plan's bodies. Submit the plan with { body_type = runner.type }.
---@param client turboci.client.Client
---@param plan turboci.workflow.Plan
---@param options {listen: string?, wait: number?, on_notice: function?}? as of turboci.runner
---@return turboci.runner.Runner?
---@return turboci.Error|string? err
function M.start(client, plan, options)
  local known = { listen = "string", wait = "number", on_notice = "function" }
  options = util.check_options(options, known, "runner.lua.start")
  return runner.start {
    client = client,
    type = "lua:" .. require("turboci.core").random_hex(8),
    id = "lua-" .. require("turboci.core").random_hex(4),
    listen = options.listen,
    wait = options.wait,
    on_notice = options.on_notice,
    run = M.run_function(plan.bodies),
  }
end

return M
