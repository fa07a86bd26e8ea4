-- turboci why: why a node waits, was skipped, failed, or ran where it ran. With a stage: all that is to be said of it;
-- without: a line for each node that is not FINAL, and when all are, for each that did not succeed.

local common = require "turboci.cli.common"

local M = {
  name = "why",
  summary = "Says why a stage waits, was skipped, failed, or ran where it ran",
  example = "turboci why 3f2a9c compile --server 127.0.0.1:50051",
}

local LINES_MAX = 200 -- nodes told one by one to people

function M.describe(parser)
  parser:argument("plan", "Id of the plan, as `turboci submit` printed it."):argname("PLAN")
  parser:argument("stage", "A stage, or a check; without it: all that wait, or went wrong."):argname("STAGE"):args("?")
  common.option_server(parser)
  parser:flag("--json", "One JSON object instead of text.")
end

-- ---- one node ----

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
    local after = require("turboci.util").format_duration(decision.after_ms / 1000)
    local without = table.concat(decision.excluded_runners, ", ")
    return ("again after %s%s"):format(after, without ~= "" and ", without " .. without or "")
  end
  return "answered"
end

-- "12:03:05  select  warm_first@1a2b3c4d  chose b of a (load 2), b (load 0): it is warm"
local function decision_row(decision)
  local text = require "turboci.cli.text"
  local said = choice(decision)
  if decision.reason ~= "" then said = said .. ": " .. text.plain(decision.reason) end
  if decision.fault ~= "" then
    said = ("could not answer (%s); the built-in default %s"):format(text.plain(decision.fault), said)
  end
  return {
    "  " .. (decision.decided_at and os.date("%H:%M:%S", math.floor(decision.decided_at)) or ""),
    decision.hook,
    decision.policy ~= "" and ("%s@%s"):format(decision.policy, decision.version) or "built-in",
    said,
  }
end

local function show_node(kind, id, told)
  local text = require "turboci.cli.text"
  io.stdout:write(("%s %s\n"):format(kind, id))
  for i, explanation in ipairs(told.explanations) do
    io.stdout:write(i == 1 and "  " or "  - ", text.plain(explanation.text), "\n")
  end
  if #told.decisions == 0 then return end
  local rows = {}
  for i, decision in ipairs(told.decisions) do rows[i] = decision_row(decision) end
  io.stdout:write("\ndecisions\n", text.columns(rows))
end

-- ---- asking ----

local function explain(client, server, plan, kind, id)
  local what = ("explain %s '%s' of plan %s"):format(kind, id, plan)
  return common.call(client, server, what, "ExplainNode", { work_plan_id = plan, [kind .. "_id"] = id })
end

local function query(client, server, plan, request)
  request.work_plan_id, request.include_stages, request.include_checks = plan, true, true
  return common.call(client, server, "explain plan " .. plan, "QueryNodes", request)
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
local function main_cause(node, told)
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

local function show_plan(client, server, args)
  local text = require "turboci.cli.text"
  local all = query(client, server, args.plan, {})
  local list = nodes_that(all, is_open)
  if #list == 0 then list = nodes_that(all, went_wrong) end
  local rows, entries = {}, {}
  for i, entry in ipairs(list) do
    if i > LINES_MAX and not args.json then break end
    local told = explain(client, server, args.plan, entry.kind, entry.node.id)
    local node = entry.node
    local cause = main_cause(node, told)
    rows[i] = { entry.kind, node.id, node.state == "FINAL" and node.outcome or node.state, text.plain(cause.text) }
    entries[i] = { kind = entry.kind, id = node.id, state = node.state, outcome = node.outcome, cause = cause }
  end
  if args.json then return print(text.json { plan = args.plan, nodes = entries }) end
  if #list == 0 then
    return print(("nothing waits and nothing went wrong; `turboci why %s STAGE` tells why a stage ran where it ran")
      :format(args.plan))
  end
  io.stdout:write(text.columns(rows))
  if #list > #rows then
    print(("... and %d more; name one to hear about it: turboci why %s STAGE"):format(#list - #rows, args.plan))
  end
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
    print(require("turboci.cli.text").json {
      plan = args.plan, kind = kind, id = args.stage, explanations = told.explanations, decisions = told.decisions,
    })
  else
    show_node(kind, args.stage, told)
  end
  return 0
end

return M
