-- bodies: runs the Lua bodies of a workflow's stages under test, in either world, with the context of real bodies.

local context = require "turboci.runner.context"
local lua_runner = require "turboci.runner.lua"
local result = require "turboci.runner.result"

local M = {}

-- The context of a real runner sends its progress from a task of the event loop, which the virtual world does not have.
local function send_at_once(ctx, client)
  function ctx.progress(_, message, details)
    details = details or {}
    client:update_stage_execution {
      execution_id = ctx.execution_id,
      message = tostring(message),
      progress_percent = details.percent and math.floor(details.percent),
      details = details.details,
    }
  end
  function ctx.flush() end
end

---Hosts the bodies of a plan. Submit the plan's stages with this runner's type.
---@param env turboci.testing.Env
---@param plan turboci.workflow.Plan
---@return turboci.testing.MockRunner
function M.host(env, plan)
  env.body_count = env.body_count + 1
  local id = "lua:" .. env.body_count
  local run = lua_runner.run_function(plan.bodies)

  local function complete(request)
    local ctx = context.new(request, request.mode, env.client)
    send_at_once(ctx, env.client)
    local ok, value, err = xpcall(run, debug.traceback, ctx)
    if not ok then value, err = nil, value end
    return result.completion(ctx, value, err)
  end

  return env:mock_runner {
    id = id,
    type = id,
    on_run = complete,
    auto_complete = false,
    on_run_async = function(request, runner)
      env.world:spawn(function() runner:complete(request, complete(request)) end)
    end,
  }
end

return M
