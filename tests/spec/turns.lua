-- turns: how long the engine's turns were in a suite: the longest one of every server that an environment stops, and
-- every server's own word that one was too long. run-specs.sh names the file, and judges.
local M = {}

local function add(us)
  local path = os.getenv "TURBOCI_TURNS"
  if not path then return end
  local file = assert(io.open(path, "a"))
  file:write(("%d\n"):format(us))
  file:close()
end

---@param address string of a server that still serves
function M.ask(address)
  local info = require("turboci.client").connect(address):get_server_info({}, { timeout = 10 })
  if info then add(info.counters.longest_turn_cpu_us) end
end

---@param log string what a server printed
function M.read(log)
  for ms in log:gmatch "turn_over_budget cpu_ms=(%d+)" do
    add(ms * 1000)
  end
end

return M
