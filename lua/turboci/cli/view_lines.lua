-- Plain lines for pipes and log files: one for each thing that happens, with the seconds since the start.

local text = require "turboci.cli.text"
local util = require "turboci.util"

local View = {}
View.__index = View

function View:write(id, line)
  local seconds = util.mono() - self.progress.started
  self.width = math.max(self.width, math.min(24, utf8.len(id) or #id))
  local padding = (" "):rep(self.width - (utf8.len(id) or #id))
  self.progress.out:write(("[%6.1fs] %s%s  %s\n"):format(seconds, id, padding, line))
  self.progress.out:flush()
end

function View:change(change)
  local stage, attempt = change.stage, change.attempt
  local model = self.progress.model
  if change.type == "check" then
    local failures = text.failures(change.check)
    return self:write(change.check.id, ("check %s%s"):format(change.check.outcome,
      failures ~= "" and ": " .. text.plain(failures) or ""))
  elseif change.type == "started" then
    local again = attempt.idx > 1 and (", attempt %d"):format(attempt.idx) or ""
    return self:write(stage.id, ("started on %s%s"):format(attempt.process_uid, again))
  elseif change.type == "output" then
    for _, line in ipairs(text.last_lines(change.text, math.maxinteger)) do
      self:write(stage.id, "| " .. text.plain(line))
    end
    return nil
  elseif change.type == "retry" then
    return self:write(stage.id, ("attempt %d failed: %s"):format(attempt.idx, text.plain(change.text)))
  end
  local elapsed, why = model:elapsed(stage, change.at), text.plain(model:why(stage))
  self:write(stage.id, stage.outcome .. (elapsed and " in " .. util.format_duration(elapsed) or "")
    .. (why ~= "" and ": " .. why or ""))
end

function View:notice(line)
  self.progress.out:write("turboci: ", line, "\n")
  self.progress.out:flush()
end

return { new = function(progress) return setmetatable({ progress = progress, width = 0 }, View) end }
