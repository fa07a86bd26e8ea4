-- The plan as a watcher sees it: nodes by id, and what is new in each event. Pure; feeds the views of
-- turboci.cli.progress. Nodes come whole or as what changed of them.

local changed = require "turboci.changes"

local M = {}

---@class turboci.cli.Change what a view is told
---@field type "started"|"output"|"retry"|"ended"|"check"
---@field stage table? Stage
---@field check table? Check
---@field attempt table?
---@field text string?
---@field at number wall clock

---@class turboci.cli.Model
---@field stages table[] Stage messages in order of appearance
---@field checks table[]
---@field stage table<string, table>
---@field check table<string, table>
---@field started table<string, number> stage id -> when its current attempt began to run
local Model = {}
Model.__index = Model

---@return turboci.cli.Model
function M.new()
  return setmetatable({ stages = {}, checks = {}, stage = {}, check = {}, started = {}, place = {} }, Model)
end

local function put(self, list, by_id, kind, node)
  local key = kind .. node.id
  if not self.place[key] then
    self.place[key] = #list + 1
  end
  node = changed.merge(by_id[node.id], node)
  list[self.place[key]], by_id[node.id] = node, node
  return node
end

---@param stage table
---@return table? attempt the latest
function M.attempt(stage)
  return stage.attempts[#stage.attempts]
end

-- The entries of `now` that were not in `before`. Old entries fall off the front.
local function fresh(before, now)
  local last = before and before[#before]
  if not last then return now end
  for i = #now, 1, -1 do
    if now[i].timestamp == last.timestamp and now[i].message == last.message then
      return table.move(now, i + 1, #now, 1, {})
    end
  end
  return now
end

local running = { RUNNING = true, COMPLETE = true, INCOMPLETE = true }

-- What is known of an attempt before an event changes it.
local function known(attempt)
  return attempt and { state = attempt.state, progress = attempt.progress }
end

-- `output`: the entries of its progress that are new.
local function attempt_changes(self, stage, old, new, output, at, changes)
  local began = running[new.state] and not (old and running[old.state])
  if began then
    self.started[stage.id] = new.state == "RUNNING" and at or new.created_at or at
    changes[#changes + 1] = { type = "started", stage = stage, attempt = new, at = at }
  end
  for _, entry in ipairs(output) do
    if entry.message ~= "" then
      changes[#changes + 1] = { type = "output", stage = stage, attempt = new, text = entry.message, at = at }
    end
  end
  -- A failed attempt is told by the one that repeats it: without one it is the stage that has failed.
  local failed = not old and changed.find(stage.attempts, "idx", new.idx - 1)
  if failed and failed.state == "INCOMPLETE" then
    table.insert(changes, 1, { type = "retry", stage = stage, attempt = failed, at = at,
      text = failed.failure and failed.failure.message or "" })
  end
end

local function stage_changes(self, stage, at)
  local changes, olds, outputs = {}, {}, {}
  local before = self.stage[stage.id]
  local was_final = before and before.state == "FINAL"
  local appended = changed.left_out(stage)["attempts.progress"]
  local given = table.move(stage.attempts, 1, #stage.attempts, 1, {})
  for i, attempt in ipairs(given) do
    olds[i] = known(before and changed.find(before.attempts, "idx", attempt.idx))
    outputs[i] = appended and table.move(attempt.progress, 1, #attempt.progress, 1, {})
      or fresh(olds[i] and olds[i].progress, attempt.progress)
  end
  stage = put(self, self.stages, self.stage, "s", stage)
  for i, attempt in ipairs(given) do
    attempt_changes(self, stage, olds[i], attempt, outputs[i], at, changes)
  end
  if stage.state == "FINAL" and not was_final then
    changes[#changes + 1] = { type = "ended", stage = stage, attempt = M.attempt(stage), at = at }
  end
  return changes
end

local function check_changes(self, check, at)
  local before = self.check[check.id]
  local was_final = before and before.state == "FINAL"
  check = put(self, self.checks, self.check, "c", check)
  if check.state == "FINAL" and not was_final then
    return { { type = "check", check = check, at = at } }
  end
  return {}
end

---@param event table WorkPlanEvent
---@return turboci.cli.Change[]
function Model:event(event)
  local at = event.timestamp or 0
  if event.stage_event and event.stage_event.stage then return stage_changes(self, event.stage_event.stage, at) end
  if event.check_event and event.check_event.check then return check_changes(self, event.check_event.check, at) end
  return {}
end

---@param nodes table QueryNodesResponse
---@return turboci.cli.Change[]
function Model:nodes(nodes)
  local changes = {}
  for _, stage in ipairs(nodes.stages) do
    local more = stage_changes(self, stage, stage.updated_at or 0)
    table.move(more, 1, #more, #changes + 1, changes)
  end
  for _, check in ipairs(nodes.checks) do
    local more = check_changes(self, check, check.updated_at or 0)
    table.move(more, 1, #more, #changes + 1, changes)
  end
  return changes
end

---Seconds a stage ran (its last attempt), as of `now`.
---@param stage table
---@param now number
---@return number?
function Model:elapsed(stage, now)
  local from = self.started[stage.id]
  if not from then return nil end
  return math.max(0, (stage.state == "FINAL" and stage.updated_at or now) - from)
end

---Why a stage is in the state it is in, in a few words; "" when there is nothing to say.
---@param stage table
---@return string
function Model:why(stage)
  if stage.outcome == "SKIPPED" then return self:why_skipped(stage) end
  local attempt = M.attempt(stage)
  if stage.outcome == "FAILED" and stage.reason == "CHECK_FAILED" then
    for _, assignment in ipairs(stage.assignments) do
      local check = self.check[assignment.target_check_id]
      for _, result in ipairs(check and check.results or {}) do
        if result.failure and result.owner_id == stage.id then
          return ("check %s: %s"):format(check.id, result.failure.message)
        end
      end
    end
  end
  return attempt and attempt.failure and stage.outcome ~= "SUCCEEDED" and attempt.failure.message or ""
end

function Model:why_skipped(stage)
  local reasons = {}
  for _, edge in ipairs(stage.dependencies and stage.dependencies.dependencies or {}) do
    local target = edge.target_type == "CHECK" and self.check[edge.target_id] or self.stage[edge.target_id]
    local outcome = target and target.outcome
    if outcome and outcome ~= "UNKNOWN" then
      if edge.condition == "ON_SUCCESS" and outcome ~= "SUCCEEDED" then
        reasons[#reasons + 1] = ("needs %s to succeed: %s"):format(edge.target_id, outcome)
      elseif edge.condition == "ON_FAILURE" and outcome ~= "FAILED" then
        reasons[#reasons + 1] = ("needs %s to fail: %s"):format(edge.target_id, outcome)
      end
    end
  end
  if #reasons == 0 then return stage.reason:lower():gsub("_", " ") end
  return table.concat(reasons, ", ")
end

---How many stages ended how.
---@return table<string, integer>
function Model:counts()
  local counts = {}
  for _, stage in ipairs(self.stages) do
    local key = stage.state == "FINAL" and stage.outcome or "OPEN"
    counts[key] = (counts[key] or 0) + 1
  end
  return counts
end

return M
