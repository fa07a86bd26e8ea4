-- turboci status: one look at a server, or at a plan.

local common = require "turboci.cli.common"
local out = require("turboci.cli.output").stdout

local M = {
  name = "status",
  summary = "Shows a server and its runners, or the nodes of a plan",
  example = "turboci status 3f2a9c --server 127.0.0.1:50051",
}

function M.describe(parser)
  parser:argument("plan", "Id of a plan; without it: the server."):argname("PLAN"):args("?")
  common.option_server(parser)
  parser:flag("--json", "One JSON object instead of tables.")
  parser:flag("--limits", "Show the server's limits too; not with PLAN.")
end

local WAITING_MAX = 50 -- stages of which it is asked why they wait

local function number_rows(title, numbers)
  local rows = { { title, "" } }
  for _, name in ipairs(require("turboci.util").sorted_keys(numbers)) do
    rows[#rows + 1] = { name, tostring(numbers[name]) }
  end
  return rows
end

local function show_server(client, server, args)
  local util = require "turboci.util"
  local info = common.call(client, server, "ask for the status", "GetServerInfo", {})
  local runners = common.call(client, server, "list the runners", "ListStageRunners", {}).runners
  if args.json then return out:json { server = server, info = info, runners = runners } end
  local up = info.started_at and (", up %s"):format(util.format_duration(util.now() - info.started_at)) or ""
  out:line(("turboci %s at %s%s"):format(info.version, server, up))
  out:line()
  out:columns(number_rows("COUNTER", info.counters))
  out:line()
  if args.limits then
    out:columns(number_rows("LIMIT", info.limits))
    out:line()
  end
  if #runners == 0 then
    out:line("no runners; start one with `turboci runner shell --server " .. server .. "`")
    return nil
  end
  local rows = { { "RUNNER", "TYPE", "LOAD", "MODES", "EXPIRES IN", "ADDRESS" } }
  for _, runner in ipairs(runners) do
    rows[#rows + 1] = {
      runner.runner_id,
      runner.runner_type,
      ("%d/%s"):format(runner.current_load, runner.max_concurrent > 0 and runner.max_concurrent or "-"),
      table.concat(runner.supported_modes, ","):lower(),
      runner.expires_at and util.format_duration(runner.expires_at - util.now()) or "",
      runner.address,
    }
  end
  out:columns(rows)
end

local function known(name)
  return name ~= "UNKNOWN" and name or "-"
end

-- A function of a node. A stage that waits for a runner is asked about; `left` bounds how many.
local function why_of(client, plan_id)
  local left = WAITING_MAX
  return function(node)
    if not node.attempts then return require("turboci.cli.text").failures(node) end
    local attempt = node.attempts[#node.attempts]
    if attempt and attempt.failure then return attempt.failure.message end
    if not attempt or attempt.state ~= "PENDING" or left == 0 then return "" end
    left = left - 1
    local told = client:call("ExplainNode", { work_plan_id = plan_id, stage_id = node.id }, { timeout = 10 })
    return told and require("turboci.cli.why").main_cause(node, told).text or ""
  end
end

local function show_plan(client, server, args)
  local what = "show plan " .. args.plan
  local work_plan = common.call(client, server, what, "GetWorkPlan", { id = args.plan }).work_plan
  local nodes = common.pages(client, server, what, "QueryNodes",
    { work_plan_id = args.plan, include_checks = true, include_stages = true })
  if args.json then return out:json { plan = work_plan, stages = nodes.stages, checks = nodes.checks } end
  out:line(("%s  %s%s%s"):format(work_plan.metadata.name or work_plan.id, work_plan.state,
    work_plan.outcome ~= "UNKNOWN" and " " .. work_plan.outcome or "",
    work_plan.policy ~= "" and "  policy " .. work_plan.policy or ""))
  out:line()
  local why = why_of(client, args.plan)
  local rows = { { "TYPE", "ID", "STATE", "OUTCOME", "REASON", "ATTEMPT", "RUNNER", "WHY" } }
  for _, stage in ipairs(nodes.stages) do
    local attempt = stage.attempts[#stage.attempts]
    rows[#rows + 1] = { "stage", stage.id, stage.state, known(stage.outcome), known(stage.reason),
      attempt and ("%d %s"):format(attempt.idx, attempt.state) or "-",
      attempt and attempt.process_uid ~= "" and attempt.process_uid or "-", why(stage) }
  end
  for _, check in ipairs(nodes.checks) do
    rows[#rows + 1] = { "check", check.id, check.state, known(check.outcome), known(check.reason), "-", "-",
      why(check) }
  end
  out:columns(rows)
end

---@param args table
---@return integer exit_code
function M.run(args)
  if args.plan and args.limits then
    common.fail(2, "turboci status: --limits is about the server, and PLAN about a plan: give one of them")
  end
  local server = common.server(args)
  local client = require("turboci.client").connect(server)
  if args.plan then show_plan(client, server, args) else show_server(client, server, args) end
  return 0
end

return M
