-- turboci why: why a node waits, was skipped, failed, or ran where it ran. With a stage: all that is to be said of it;
-- without: a line for each node that is not FINAL, and when all are, for each that did not succeed; then for each stage
-- whose policy could not decide.

local common = require "turboci.cli.common"
local out = require("turboci.cli.output").stdout

local M = {
  name = "why",
  summary = "Says why a stage waits, was skipped, failed, or ran where it ran",
  example = "turboci why 3f2a9c compile --server 127.0.0.1:50051",
}

local LINES_MAX = 200 -- nodes told one by one to people
local FAULTS_MAX = 20 -- stages whose policy could not decide

function M.describe(parser)
  parser:argument("plan", "Id of the plan, as `turboci submit` printed it."):argname("PLAN")
  parser:argument("stage", "A stage, or a check; without it: all that wait, or went wrong."):argname("STAGE"):args("?")
  common.option_server(parser)
  parser:flag("--json", "One JSON object instead of text.")
end

-- ---- one node ----

-- "12.3s", "4 min 05 s", "2 h 03 min", "5 d 17 h"
local function length(seconds)
  local whole = math.floor(seconds + 0.5)
  if whole < 120 then return require("turboci.util").format_duration(seconds) end
  if whole < 3600 then return ("%d min %02d s"):format(whole // 60, whole % 60) end
  if whole < 86400 then return ("%d h %02d min"):format(whole // 3600, whole % 3600 // 60) end
  return ("%d d %d h"):format(whole // 86400, whole % 86400 // 3600)
end

local function loads(decision)
  local parts = {}
  for i, candidate in ipairs(decision.candidates) do
    parts[i] = ("%s (load %d)"):format(candidate.runner_id, candidate.load)
  end
  local more = decision.candidates_total - #decision.candidates
  if more > 0 then parts[#parts + 1] = ("%d more"):format(more) end
  return table.concat(parts, ", ")
end

local function choice(decision)
  if decision.hook == "select" then
    local among = #decision.candidates > 0 and (" of %s"):format(loads(decision)) or ""
    return (decision.runner_id ~= "" and "chose " .. decision.runner_id or "said wait") .. among
  elseif decision.hook == "retry" then
    if not decision.again then return "gave up" end
    local after, without = length(decision.after_ms / 1000), table.concat(decision.excluded_runners, ", ")
    return ("again after %s%s"):format(after, without ~= "" and ", without " .. without or "")
  elseif decision.hook == "timeout" then
    local queue = decision.queue_ms > 0 and ", in the queue " .. length(decision.queue_ms / 1000) or ""
    return ("gave it %s, of silence %s%s"):format(length(decision.execution_ms / 1000),
      length(decision.stale_ms / 1000), queue)
  elseif decision.hook == "priority" then
    return ("priority %d"):format(decision.priority)
  end
  local keys = {}
  for i, key in ipairs(decision.admission_keys) do keys[i] = ("%s (at most %d)"):format(key.key, key.limit) end
  return "admitted it" .. (#keys > 0 and " with " .. table.concat(keys, ", ") or "")
end

-- "12:03:05 +0200  select  warm_first@1a2b3c4d  chose b of a (load 2), b (load 0): it is warm"
-- Not `whole`: without what the explanations told.
local function decision_row(decision, whole)
  local said = choice(decision)
  if whole and decision.reason ~= "" then said = said .. ": " .. decision.reason end
  if decision.fault ~= "" then
    said = whole and ("could not answer (%s); the built-in default %s"):format(decision.fault, said)
      or "could not answer; the built-in default " .. said
  end
  return {
    "  " .. (decision.decided_at and require("turboci.util").clock_text(decision.decided_at) or ""),
    decision.hook,
    decision.policy == "" and "built-in" or decision.version ~= "" and decision.policy .. "@" .. decision.version
      or decision.policy .. " (gone)",
    said,
  }
end

-- The explanations tell each decision in a line, but those of early attempts of many. What such a line leaves out is
-- told here: who else was there, and who is excluded.
local function decision_rows(told)
  local untold, rows = #told.decisions, {}
  for _, explanation in ipairs(told.explanations) do
    if explanation.kind == "DECISION" then untold = untold - 1 end
  end
  for i, decision in ipairs(told.decisions) do
    if i <= untold then
      rows[#rows + 1] = decision_row(decision, true)
    elseif #decision.candidates > 1 or #decision.excluded_runners > 0 then
      rows[#rows + 1] = decision_row(decision, false)
    end
  end
  return rows
end

local function show_node(kind, id, told)
  local text = require "turboci.cli.text"
  out:line(kind, " ", id)
  for i, explanation in ipairs(told.explanations) do
    local first, more = text.first_line(explanation.text)
    out:line(i == 1 and "  " or "  - ", first)
    if more then out:lines("      ", more) end
  end
  local rows = decision_rows(told)
  if #rows == 0 then return end
  out:write "\ndecisions\n"
  out:columns(rows)
end

-- ---- asking ----

local function explain(client, server, plan, kind, id)
  local what = ("explain %s '%s' of plan %s"):format(kind, id, plan)
  return common.call(client, server, what, "ExplainNode", { work_plan_id = plan, [kind .. "_id"] = id })
end

local function query(client, server, plan, request)
  request.work_plan_id, request.include_stages, request.include_checks = plan, true, true
  return common.pages(client, server, "explain plan " .. plan, "QueryNodes", request)
end

-- "stage" or "check"; ends the program when the plan has neither.
local function kind_of(client, server, plan, id)
  local found = query(client, server, plan, { stage_ids = { id }, check_ids = { id } })
  if #found.stages > 0 then return "stage" end
  if #found.checks > 0 then return "check" end
  local names, all = {}, query(client, server, plan, {})
  for _, node in ipairs(all.stages) do names[#names + 1] = node.id end
  for _, node in ipairs(all.checks) do names[#names + 1] = node.id end
  common.fail(2, ("turboci why: plan %s has no stage and no check '%s'%s\n  `turboci status %s` shows its nodes")
    :format(plan, id, require("turboci.util").suggestion(id, names), plan))
end

-- ---- the plan ----

local function is_open(node) return node.state ~= "FINAL" end
local function went_wrong(node) return node.state == "FINAL" and node.outcome ~= "SUCCEEDED" end

local function nodes_that(all, condition)
  local list = {}
  for _, stage in ipairs(all.stages) do
    if condition(stage) then list[#list + 1] = { kind = "stage", node = stage } end
  end
  for _, check in ipairs(all.checks) do
    if condition(check) then list[#list + 1] = { kind = "check", node = check } end
  end
  return list
end

local causes_of_an_end = { DEPENDENCY = true, RESULT = true, ATTEMPT = true }

-- What an open node waits for comes first, what ended one comes last. A node without a cause: what it is.
---@param node table
---@param told table ExplainNodeResponse
---@return table explanation
function M.main_cause(node, told)
  local found
  for _, explanation in ipairs(told.explanations) do
    if node.state == "FINAL" then
      if causes_of_an_end[explanation.kind] then found = explanation end
    elseif explanation.kind ~= "STATE" and (not found or found.kind == "POLICY_FAULT") then
      found = explanation
    end
  end
  return found or told.explanations[1]
end

-- Stages of which a policy could not decide something: { kind =, id =, policy =, hook =, fault = }, the last fault of
-- each.
local function faults_of(client, plan)
  local list, by_stage = require("turboci.core").list {}, {}
  local response = client:pages("ListStageExecutions", { work_plan_id = plan }, { timeout = 10 })
  for _, execution in ipairs(response and response.executions or {}) do
    for _, decision in ipairs(execution.decisions) do
      local entry = by_stage[execution.stage_id]
      if decision.fault ~= "" then
        if not entry then
          entry = { kind = "stage", id = execution.stage_id }
          list[#list + 1], by_stage[entry.id] = entry, entry
        end
        entry.policy, entry.hook, entry.fault = decision.policy, decision.hook, decision.fault
      end
    end
  end
  return list
end

local function fault_rows(faults)
  local rows = {}
  for i = 1, math.min(#faults, FAULTS_MAX) do
    local entry = faults[i]
    rows[i] = { entry.kind, entry.id, entry.hook, ("policy '%s' could not decide, the built-in default did: %s")
      :format(entry.policy, entry.fault) }
  end
  return rows
end

local function show_plan(client, server, args)
  local all = query(client, server, args.plan, {})
  local list = nodes_that(all, is_open)
  if #list == 0 then list = nodes_that(all, went_wrong) end
  local faults = faults_of(client, args.plan)
  local rows, entries = {}, require("turboci.core").list {}
  for i, entry in ipairs(list) do
    if i > LINES_MAX and not args.json then break end
    local told = explain(client, server, args.plan, entry.kind, entry.node.id)
    local node = entry.node
    local cause = M.main_cause(node, told)
    rows[i] = { entry.kind, node.id, node.state == "FINAL" and node.outcome or node.state, cause.text }
    entries[i] = { kind = entry.kind, id = node.id, state = node.state, outcome = node.outcome, cause = cause }
  end
  if args.json then return out:json { plan = args.plan, nodes = entries, faults = faults } end
  if #list + #faults == 0 then
    return out:line(("nothing waits and nothing went wrong; `turboci why %s STAGE` tells why a stage ran where it ran")
      :format(args.plan))
  end
  if #list > 0 then out:columns(rows) end
  if #list > #rows then
    out:line(("... and %d more; name one to hear about it: turboci why %s STAGE"):format(#list - #rows, args.plan))
  end
  if #faults == 0 then return end
  out:write(#list > 0 and "\npolicies that could not decide\n"
    or "nothing waits and nothing failed, but policies could not decide\n")
  out:columns(fault_rows(faults))
  if #faults > FAULTS_MAX then out:line(("... and %d more stages"):format(#faults - FAULTS_MAX)) end
end

---@param args table
---@return integer exit_code
function M.run(args)
  local server = common.server(args)
  local client = require("turboci.client").connect(server)
  if not args.stage then
    show_plan(client, server, args)
    return 0
  end
  local kind = kind_of(client, server, args.plan, args.stage)
  local told = explain(client, server, args.plan, kind, args.stage)
  if args.json then
    out:json {
      plan = args.plan, kind = kind, id = args.stage, explanations = told.explanations, decisions = told.decisions,
    }
  else
    show_node(kind, args.stage, told)
  end
  return 0
end

return M
