-- One JSON object a line: {"type": "stage" | "check" | "output" | "notice" | "end", "plan": id, ...}.

local text = require "turboci.cli.text"

local View = {}
View.__index = View

function View:write(type, fields)
  fields.type, fields.plan = type, self.progress.plan_id
  self.progress.out:json(fields)
end

local function lower(name)
  return name ~= "UNKNOWN" and name or nil
end

function View:change(change)
  local stage, attempt = change.stage, change.attempt
  if change.type == "check" then
    local check = change.check
    return self:write("check", { check = check.id, state = check.state, outcome = check.outcome, reason = check.reason,
      time = change.at, failure = text.failures(check) ~= "" and text.failures(check) or nil })
  end
  if change.type == "output" then
    return self:write("output", { stage = stage.id, attempt = attempt.idx, text = change.text, time = change.at })
  end
  local failure = attempt and attempt.failure
  self:write("stage", {
    stage = stage.id,
    state = stage.state,
    outcome = lower(stage.outcome),
    reason = lower(stage.reason),
    attempt = attempt and attempt.idx,
    attempt_state = attempt and attempt.state,
    runner = attempt and attempt.process_uid ~= "" and attempt.process_uid or nil,
    failure = failure and { kind = failure.kind, message = failure.message },
    details = change.type == "ended" and attempt and attempt.details or nil,
    elapsed = change.type == "ended" and self.progress.model:elapsed(stage, change.at) or nil,
    why = change.type == "ended" and stage.outcome ~= "SUCCEEDED" and self.progress.model:why(stage) or nil,
    time = change.at,
  })
end

function View:notice(line)
  self:write("notice", { text = line })
end

function View:finish(outcome, elapsed, counts)
  self:write("end", { name = self.progress:title(), outcome = outcome, stages = #self.progress.model.stages,
    elapsed = elapsed, counts = next(counts) and counts or nil })
end

return { new = function(progress) return setmetatable({ progress = progress }, View) end }
