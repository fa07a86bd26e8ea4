-- A busted output handler that writes a junit report (-Xoutput FILE) and, for whoever looks on, plain text.
-- And it notes the longest turn of every server that an environment of the grpc world stops (tests/spec/turns.lua).
local function listen_to_environments()
  local turns, grpc = require "turns", require "turboci.testing.grpc"
  local new = grpc.new
  function grpc.new(...)
    local env = new(...)
    local stop = env.stop
    function env.stop(...)
      if env.process and not env.exit then turns.ask(env.address) end
      local result = stop(...)
      turns.read(table.concat(env.output, "\n"))
      return result
    end
    return env
  end
end

return function(options)
  if os.getenv "TURBOCI_WORLD" == "grpc" and os.getenv "TURBOCI_TURNS" then listen_to_environments() end
  local junit = require("busted.outputHandlers.junit")(options)
  local quiet = {}
  for key, value in pairs(options) do quiet[key] = value end
  quiet.arguments = {} -- FILE is the junit handler's
  local plain = require("busted.outputHandlers.plainTerminal")(quiet)
  return {
    subscribe = function(_, subscribed)
      junit:subscribe(subscribed)
      plain:subscribe(subscribed)
    end,
  }
end
