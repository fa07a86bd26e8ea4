-- turboci submit: a workflow file to a server; with --wait until it is settled.

local common = require "turboci.cli.common"

local M = {
  name = "submit",
  summary = "Submits a workflow file to a server",
  example = "turboci submit ci.lua --server 127.0.0.1:50051 --wait -- branch=main",
  takes_parameters = true,
}

local START_SECONDS = 2 -- of patience with a server that is just starting

function M.describe(parser)
  parser:argument("file", "Workflow file: Lua that returns a plan. It gets the parameters as `...`."):argname("FILE")
  common.option_server(parser)
  parser:flag("--wait", "Follow the plan; the exit code is its outcome. Stages with bodies in Lua run in this process.")
  parser:flag("--json", "One JSON object a line instead of text.")
  parser:option("--listen", "Where the server reaches this process for stages with bodies in Lua.")
    :argname("ADDR"):default("127.0.0.1:0")
  common.option_reconnect(parser)
  parser:usage("Usage: turboci submit [-h] [--server ADDR] [--wait] [--json] [--listen ADDR]\n"
    .. "       [--reconnect-timeout DURATION] FILE [-- KEY=VALUE ...]")
end

local function announce(json)
  return function(plan_id)
    local out = require("turboci.cli.output").stdout
    if json then out:json { type = "plan", plan = plan_id } else out:line(plan_id) end
  end
end

---@param args table
---@return integer exit_code
function M.run(args)
  local plan = common.load_plan(args.file, common.parameters(args.parameters))
  local server = common.server(args)
  local client = require("turboci.client").connect(server)
  if args.wait then
    return require("turboci.cli.submission").run {
      plan = plan, server = server, client = client, json = args.json, timeout = args.reconnect_timeout,
      body_listen = args.listen, announce = announce(args.json), goes_on = true,
    }
  end
  local body = next(plan.bodies)
  if body then
    common.fail(2, ("turboci submit: %s: stage '%s' has a body in Lua, which runs in the submitting process\n"
      .. "  add --wait, so that this process stays"):format(args.file, body))
  end
  local util, loop = require "turboci.util", require "turboci.loop"
  local give_up = util.mono() + START_SECONDS
  local work_plan, err = client:submit(plan, { timeout = 30, retry = function(problem)
    if problem.code ~= "UNAVAILABLE" or util.mono() > give_up then return false end
    loop.sleep(0.1)
    return true
  end })
  if not work_plan then common.fail_call("submit the plan", server, err) end
  announce(args.json)(work_plan.id)
  return 0
end

return M
