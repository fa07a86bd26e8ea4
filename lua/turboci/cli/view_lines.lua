-- Plain lines for pipes and log files: one for each thing that happens, with the seconds since the plan was created.

local text = require "turboci.cli.text"
local util = require "turboci.util"

local View = {}
View.__index = View

-- A text of several lines becomes as many, each with time and name.
function View:write(change, line)
  local id = text.plain((change.stage or change.check).id)
  local seconds = self.progress:seconds(change.at)
  self.width = math.max(self.width, math.min(24, text.width(id)))
  local padding = (" "):rep(self.width - text.width(id))
  self.progress.out:lines(("[%6.1fs] %s%s  "):format(seconds, id, padding), line)
end

function View:change(change)
  local stage, attempt = change.stage, change.attempt
  local model = self.progress.model
  if change.type == "check" then
    local failures = text.failures(change.check)
    return self:write(change, ("check %s%s"):format(change.check.outcome, failures ~= "" and ": " .. failures or ""))
  elseif change.type == "started" then
    local again = attempt.idx > 1 and (", attempt %d"):format(attempt.idx) or ""
    return self:write(change, ("started on %s%s"):format(attempt.process_uid, again))
  elseif change.type == "output" then
    for _, line in ipairs(text.last_lines(change.text, math.maxinteger)) do
      self:write(change, "| " .. line)
    end
    return nil
  elseif change.type == "retry" then
    return self:write(change, ("attempt %d failed: %s"):format(attempt.idx, change.text))
  end
  local elapsed, why = model:elapsed(stage, change.at), model:why(stage)
  self:write(change, stage.outcome .. (elapsed and " in " .. util.format_duration(elapsed) or "")
    .. (why ~= "" and ": " .. why or ""))
end

function View:notice(line)
  self.progress.out:line("turboci: ", line)
end

return { new = function(progress) return setmetatable({ progress = progress, width = 0 }, View) end }
