-- turboci watch: follows a plan on a server to its end, over restarts of the server.

local common = require "turboci.cli.common"

local M = {
  name = "watch",
  summary = "Follows a plan to its end; the exit code is its outcome",
  example = "turboci watch 3f2a9c --server 127.0.0.1:50051",
}

function M.describe(parser)
  parser:argument("plan", "Id of the plan, as `turboci submit` printed it."):argname("PLAN")
  common.option_server(parser)
  parser:flag("--json", "One JSON object a line instead of text.")
  common.option_reconnect(parser)
end

---@param args table
---@return integer exit_code
function M.run(args)
  local server = common.server(args)
  local client = require("turboci.client").connect(server)
  local shown = require("turboci.cli.progress").new { json = args.json, plan_id = args.plan }
  local following = require("turboci.cli.follow").new(client, args.plan, shown, args.reconnect_timeout)
  local interrupts = common.interrupts()
  interrupts.on_first = function()
    shown:hurry()
    following:stop()
  end
  local settled, err = following:wait()
  if err then
    interrupts:close()
    shown:close()
    common.fail_call("watch plan " .. args.plan, server, err)
  end
  shown:finish(settled)
  interrupts:close()
  if not settled and interrupts.seen ~= "sigpipe" then common.tell_going_on(args.plan, server) end
  return settled and common.exit_code(settled.outcome) or 3
end

return M
