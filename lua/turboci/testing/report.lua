-- report: says what each open node of a plan waits for, for the error of a wait that cannot end.

local M = {}

local function describe_edges(node, state_of)
  local parts = {}
  for i, edge in ipairs(node.dependencies and node.dependencies.dependencies or {}) do
    local name = ("%s '%s'"):format(tostring(edge.target_type):lower(), edge.target_id)
    parts[i] = ("%s %s (now %s)"):format(name, tostring(edge.condition), state_of[name] or "?")
  end
  local separator = node.dependencies and node.dependencies.predicate == "OR" and " or " or " and "
  return table.concat(parts, separator)
end

local function describe_execution(execution, runners)
  local text = ("attempt %d: execution %s, mode %s"):format(execution.attempt_idx, execution.state,
    execution.execution_mode)
  if execution.runner_id ~= "" then text = text .. ", on runner '" .. execution.runner_id .. "'" end
  if execution.failure then
    text = text .. (", failed (%s): %s"):format(tostring(execution.failure.kind), execution.failure.message)
  end
  if execution.state ~= "PENDING" then return text end
  local candidates = {}
  for _, runner in ipairs(runners) do
    if runner.runner_type == execution.runner_type then
      local room = runner.max_concurrent == 0 and "no limit" or tostring(runner.max_concurrent)
      table.insert(candidates, ("'%s' (%s, load %d of %s)"):format(runner.runner_id,
        table.concat(runner.supported_modes, "+"), runner.current_load, room))
    end
  end
  local who = #candidates == 0 and "none is registered" or table.concat(candidates, ", ")
  return ("%s; runners of type '%s': %s"):format(text, execution.runner_type, who)
end

local function final_text(node)
  local reason = node.reason ~= "UNKNOWN" and ", " .. tostring(node.reason) or ""
  return ("FINAL, %s%s"):format(tostring(node.outcome), reason)
end

local function describe_stage(stage, executions, runners, state_of, lines)
  local text = stage.state == "FINAL" and final_text(stage) or tostring(stage.state)
  if stage.state == "PLANNED" then text = text .. ", waits for " .. describe_edges(stage, state_of) end
  if stage.state == "ATTEMPTING" and stage.runner_type == "" then text = text .. ", waits for a client to pull it" end
  lines[#lines + 1] = ("  stage '%s': %s"):format(stage.id, text)
  for _, execution in ipairs(executions) do
    if execution.stage_id == stage.id then lines[#lines + 1] = "    " .. describe_execution(execution, runners) end
  end
end

local function describe_check(check, assigned, state_of, lines)
  local text = check.state == "FINAL" and final_text(check) or tostring(check.state)
  if check.state == "PLANNED" then text = text .. ", waits for " .. describe_edges(check, state_of) end
  if check.state == "WAITING" or check.state == "PLANNING" then
    local stages = assigned[check.id]
    text = text .. (stages and ", waits for the results of " .. table.concat(stages, ", ") or ", waits for a client")
  end
  lines[#lines + 1] = ("  check '%s': %s"):format(check.id, text)
end

---@param client table
---@param plan_id string
---@return string
function M.plan(client, plan_id)
  local nodes, err = client:pages("QueryNodes",
    { work_plan_id = plan_id, include_checks = true, include_stages = true })
  if not nodes then return ("plan %s: cannot be read: %s"):format(plan_id, err) end
  local executions = assert(client:pages("ListStageExecutions", { work_plan_id = plan_id })).executions
  local runners = assert(client:list_stage_runners {}).runners
  local state_of, assigned = {}, {}
  for _, check in ipairs(nodes.checks) do state_of[("check '%s'"):format(check.id)] = check.state end
  for _, stage in ipairs(nodes.stages) do
    state_of[("stage '%s'"):format(stage.id)] = stage.state
    for _, assignment in ipairs(stage.assignments) do
      local list = assigned[assignment.target_check_id] or {}
      assigned[assignment.target_check_id] = list
      list[#list + 1] = ("stage '%s'"):format(stage.id)
    end
  end
  local lines = { ("plan %s:"):format(plan_id) }
  for _, stage in ipairs(nodes.stages) do describe_stage(stage, executions, runners, state_of, lines) end
  for _, check in ipairs(nodes.checks) do describe_check(check, assigned, state_of, lines) end
  return table.concat(lines, "\n")
end

return M
