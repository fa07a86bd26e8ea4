-- What `run` and `submit --wait` do alike: host the plan's Lua bodies, submit, follow to the end, report, stop.

local common = require "turboci.cli.common"
local follow = require "turboci.cli.follow"
local progress = require "turboci.cli.progress"

local M = {}

---@class turboci.cli.SubmissionOptions
---@field plan turboci.workflow.Plan
---@field server string
---@field client turboci.client.Client
---@field json boolean?
---@field timeout number reconnect timeout
---@field body_listen string? where the runner of Lua bodies listens
---@field announce fun(plan_id: string)?
---@field on_stop fun()? first thing to do when the user interrupts
---@field interrupts turboci.cli.Interrupts? default: its own
---@field goes_on boolean? the plan goes on without this process

local function start_bodies(options, notice)
  local lua = require "turboci.runner.lua"
  if not lua.has_bodies(options.plan) then return nil end
  local runner, err = lua.start(options.client, options.plan,
    { listen = options.body_listen, wait = options.timeout, on_notice = notice })
  if not runner then
    if type(err) == "string" then common.fail(2, "turboci: cannot host the plan's Lua stages: " .. err) end
    common.fail_call("register a runner for the plan's Lua stages", options.server, err)
  end
  return runner
end

local function tell_going_on(options, plan_id)
  common.tell_going_on(plan_id, options.server)
  if next(options.plan.bodies) then
    common.notice("its stages with bodies in Lua ran in this process: those that have not ended never will")
  end
end

---@param options turboci.cli.SubmissionOptions
---@return integer exit_code
function M.run(options)
  local shown = progress.new { json = options.json, name = options.plan.name }
  local following = follow.new(options.client, "", shown, options.timeout)
  local interrupts = options.interrupts or common.interrupts()
  interrupts.on_first = function()
    shown:hurry()
    following:stop()
    interrupts:arm("interrupted; stopping (again to leave at once)", function() shown:close() end)
  end
  if interrupts.seen then interrupts.on_first() end
  local bodies
  local function go()
    if interrupts.seen then return nil end
    bodies = start_bodies(options, function(line) shown:notice(line) end)
    local work_plan, err = options.client:submit(options.plan, {
      body_type = bodies and bodies.type,
      timeout = 30,
      retry = function(problem) return following:again(problem) end,
    })
    if not work_plan then
      if interrupts.seen then return nil end
      common.fail_call("submit the plan", options.server, err)
    end
    following:settle_down()
    following.plan_id, shown.plan_id = work_plan.id, work_plan.id
    if options.announce then options.announce(work_plan.id) end
    local settled
    settled, err = following:wait()
    if err then
      shown:close()
      common.fail_call(("follow plan %s (it goes on; `turboci watch %s` follows it again)")
        :format(work_plan.id, work_plan.id), options.server, err)
    end
    return settled
  end
  local ok, settled = pcall(go)
  if interrupts.seen and options.on_stop then options.on_stop() end
  if bodies then bodies:stop { cancel = true } end
  if ok then shown:finish(settled) end
  if interrupts ~= options.interrupts then interrupts:close() end
  if not ok then error(settled, 0) end
  if not settled and options.goes_on and shown.plan_id then tell_going_on(options, shown.plan_id) end
  return settled and common.exit_code(settled.outcome) or 3
end

return M
