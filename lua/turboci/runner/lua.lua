-- Stage bodies in Lua: a runner of its own type, in the process that submitted the plan.
--
-- A body gets the runner's context and in ctx.results the checks of the stages it comes after, read when it starts:
-- ctx.results.passes = { ok =, outcome =, data =, failures = { "..." } }; data is that of all its results, merged.
-- What it returns: nothing or true is success; nil, "text" a failure; a table is the result: `failure`, `checks` and
-- `details` as in turboci.runner.result, and every other key is data, the result of its checks.
--
-- What a body prints is its stage's output, as that of a command, and it does not end the program: take_globals makes
-- it so. A body and the tasks that it starts are one scope: when one of them fails for which nobody waits, the body
-- fails; when nobody wants the result any more they have LEAVE seconds, then they end where they wait.

local loop = require "turboci.loop"
local runner = require "turboci.runner"
local util = require "turboci.util"

local M = {}

local LEAVE = 2 -- seconds from the cancellation of a body to its end

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

-- Says something in the scope of a body: its stage's output. False: no body is running.
local function say(words)
  local scope = loop.current_scope()
  local speaker = scope and scope.value
  if not speaker or not speaker.context then return false end
  speaker.output = speaker.output or require("turboci.runner.output").new(speaker.context)
  speaker.output:add(words)
  return true
end

local function text_of(...)
  local words = table.pack(...)
  for i = 1, words.n do
    words[i] = tostring(words[i])
  end
  return words
end

---Makes print and io.write mean the output of the stage whose body calls them; elsewhere stderr: stdout belongs to the
---program, to its tree or to JSON. Makes os.exit a mistake. For programs that load workflow files.
function M.take_globals()
  loop.adopt_coroutines()
  rawset(_G, "print", function(...)
    local line = table.concat(text_of(...), "\t") .. "\n"
    if not say(line) then io.stderr:write(line) end
  end)
  io.write = function(...) -- luacheck: ignore 122
    local words = table.concat(text_of(...))
    if not say(words) then io.stderr:write(words) end
    return io.stdout
  end
  os.exit = function() -- luacheck: ignore 122
    error("os.exit in a workflow: a file raises an error instead, and a body returns nil, \"why not\"", 2)
  end
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

local reasons = { deadline = "the deadline passed", stopped = "the runner was stopped" }

-- Runs a body in a scope of its own. Like pcall.
local function in_scope(body, speaker)
  local context, ended = speaker.context, false
  local scope
  scope = loop.scope(speaker, function(err)
    local message = "a task that the body started failed: " .. util.text_of(err)
    if ended then
      io.stderr:write(("turboci: stage '%s' had ended when %s\n"):format(context.stage_id, message))
    else
      scope:close(message)
    end
  end)
  if not loop.in_task() then return scope:call(body, context) end
  if context.on_cancel then
    context:on_cancel(function(reason)
      loop.sleep(LEAVE)
      scope:close(reasons[reason] or "cancelled")
    end)
  end
  local task = scope:spawn(body, context)
  local result = table.pack(pcall(task.wait, task))
  ended = true
  return table.unpack(result, 1, result.n)
end

-- Runs a body, and raises what it raises.
local function speak(body, context)
  local speaker = { context = context }
  local ok, value, problem = in_scope(body, speaker)
  local output = speaker.output
  speaker.context, speaker.output = nil, nil
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
