-- A busted output handler that writes a junit report (-Xoutput FILE) and, for whoever looks on, plain text.
return function(options)
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
