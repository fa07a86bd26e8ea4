-- turboci policy reload: the server looks at its policies folders now, and says what it made of them.

local common = require "turboci.cli.common"
local out = require("turboci.cli.output").stdout

local M = {
  name = "reload",
  summary = "Makes a server look at its policy files now",
  example = "turboci policy reload --server 127.0.0.1:50051",
}

function M.describe(parser)
  common.option_server(parser)
  parser:flag("--json", "One JSON object instead of text.")
end

local function show(response)
  local by_name = {}
  for _, info in ipairs(response.policies) do by_name[info.name] = info end
  for _, name in ipairs(response.changed) do
    local info = by_name[name]
    local now = info and info.version ~= "" and "version " .. info.version or "gone: the built-in default decides"
    out:line(name, ": ", now)
  end
  if #response.changed == 0 then out:line "nothing has changed" end
end

-- Tells every file that was not taken over; how many there are.
local function tell_errors(policies)
  local count = 0
  for _, info in ipairs(policies) do
    if info.error ~= "" then
      count = count + 1
      common.notice(("policy %s is not taken over: %s\n  %s"):format(info.name,
        info.error,
        info.version ~= "" and ("version %s runs on"):format(info.version) or "the built-in default decides"))
    end
  end
  if count > 0 then common.notice "correct the file; the server takes it over by itself" end
  return count
end

---@param args table
---@return integer exit_code
function M.run(args)
  local server = common.server(args)
  local client = require("turboci.client").connect(server)
  local response = common.call(client, server, "reload the policies", "ReloadPolicies", {})
  if args.json then
    out:json(response)
  else
    show(response)
  end
  return tell_errors(response.policies) > 0 and 1 or 0
end

return M
