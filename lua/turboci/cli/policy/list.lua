-- turboci policy list: the policies of a server, what they cost and how they fare.

local common = require "turboci.cli.common"
local out = require("turboci.cli.output").stdout

local M = {
  name = "list",
  summary = "Shows the policies of a server: versions, cost, faults",
  example = "turboci policy list --server 127.0.0.1:50051",
}

function M.describe(parser)
  common.option_server(parser)
  parser:flag("--json", "One JSON object instead of a table.")
end

local function microseconds(info, ns)
  return info.calls > 0 and ("%.1f µs"):format(ns / 1000) or "-"
end

-- What is to be known about a policy, the worst first.
local function state(info)
  local parts = {}
  if info.error ~= "" then
    parts[#parts + 1] = ("%s: %s"):format(info.version == "" and "not taken over" or "its file is not taken over",
      info.error)
  end
  if info.circuit_open then
    local ends = require("turboci.util").clock_text(math.ceil(info.circuit_until or 0))
    parts[#parts + 1] = "circuit open until " .. ends
  end
  if info.last_fault ~= "" then parts[#parts + 1] = "last fault: " .. info.last_fault end
  return #parts > 0 and table.concat(parts, "; ") or "ok"
end

local function has_default(policies)
  for _, info in ipairs(policies) do
    for _, place in ipairs(info.attached_to) do
      if place == "server" then return true end
    end
  end
  return false
end

local function show(policies)
  local rows = { { "NAME", "VERSION", "HOOKS", "CALLS", "P50", "P99", "FAULTS", "ATTACHED TO", "STATE" } }
  for _, info in ipairs(policies) do
    rows[#rows + 1] = {
      info.name,
      info.version ~= "" and info.version or "-",
      table.concat(info.hooks, ","),
      tostring(info.calls),
      microseconds(info, info.p50_ns),
      microseconds(info, info.p99_ns),
      tostring(info.faults),
      #info.attached_to > 0 and table.concat(info.attached_to, ",") or "-",
      state(info),
    }
  end
  out:columns(rows)
  if not has_default(policies) then
    out:write("\nthe server has no default policy (`turboci serve --policy NAME`): the built-in one decides\n")
  end
end

---@param args table
---@return integer exit_code
function M.run(args)
  local server = common.server(args)
  local client = require("turboci.client").connect(server)
  local policies = common.call(client, server, "list the policies", "ListPolicies", {}).policies
  if args.json then
    out:json { server = server, policies = policies }
  else
    show(policies)
  end
  return 0
end

return M
