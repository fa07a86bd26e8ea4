-- The one way out of the program, whatever brought it there: the end of a verb, a mistake, a bug, a signal.
--
-- In order: commands end, what verbs have added is undone (last first), every handle is closed. Nothing here waits for
-- somebody else without a bound, and what fails is told and passed over. Only a second signal leaves another way: at
-- once.

local loop = require "turboci.loop"
local output = require "turboci.cli.output"

local M = {}

local steps, steps_at_once = {}, {} -- first added first

---Adds a step to the end of the program. It may be that it finds its work done.
---@param step fun()
---@param at_once boolean? it is also taken when the program leaves at once; it must not wait
function M.add(step, at_once)
  steps[#steps + 1] = step
  if at_once then steps_at_once[#steps_at_once + 1] = step end
end

local function try(step)
  local ok, err = pcall(step)
  if not ok then output.note("turboci: while ending: " .. tostring(err)) end
end

local function commands()
  return package.loaded["turboci.runner.shell"]
end

---The end of everything but the program's output.
function M.run()
  if commands() then try(commands().end_all) end
  while #steps > 0 do
    try(table.remove(steps))
  end
  try(loop.shutdown)
end

---Ends the program at once. Of what it started nothing survives.
---@param code integer
function M.leave(code)
  if commands() then commands().kill_all() end
  for _, step in ipairs(steps_at_once) do
    try(step)
  end
  require("turboci.core").leave(code)
end

return M
