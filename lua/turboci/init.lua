-- The library: `local turboci = require "turboci"`. Its parts are loaded when first used, so that a workflow file
-- needs neither the engine nor the event loop.

---@class turboci
---@field plan fun(options: table): turboci.Plan starts a workflow
---@field any fun(targets: table): table dependencies of which one is enough
---@field all fun(targets: table): table dependencies that are all needed
---@field client turboci.client
---@field runner turboci.runner
---@field version string the engine's
local turboci = {}

local loaders = {
  plan = function() return require("turboci.workflow").plan end,
  any = function() return require("turboci.workflow").any end,
  all = function() return require("turboci.workflow").all end,
  client = function() return require "turboci.client" end,
  runner = function() return require "turboci.runner" end,
  version = function() return require("turboci.core").version end,
}

return setmetatable(turboci, {
  __index = function(self, name)
    local loader = loaders[name]
    if not loader then return nil end
    local value = loader()
    rawset(self, name, value)
    return value
  end,
})
