-- answers: what the runners say in a replay, by what they said then.
--
-- How an attempt ends is decided by two things that are kept apart:
--   the runner   UNREACHABLE, REJECTED, TIMEOUT, STALE, RUNNER_LOST: the m-th run of a stage on a runner ends like the
--                m-th run of that stage on that runner then. Nobody else inherits it. While a runner was out of reach,
--                it is so for every stage.
--   the work     COMPLETE, REPORTED, PROTOCOL: the k-th time that the work itself is judged, the verdict is that of the
--                k-th time then, wherever it runs; after the last one, the last one.
-- How long it takes: as long as that stage took on that runner; else an estimate: the median of the stage's runs, else
-- of the runs of its runner type, and not less than it is known to have run. A run that its deadline cut off then is
-- estimated like that when it has a longer one now. A restart of the engine is not replayed: what it broke off ends as
-- if it had not.
--
-- Used by turboci.replay.world.

local M = {}

---@class turboci.replay.Answer
---@field how "complete"|"reported"|"protocol"|"rejected"|"unreachable"|"late"|"never"
---@field after_us integer when, since the dispatch
---@field accept_us integer? async: when the runner says yes; nil: never
---@field silent_us integer? async: when it falls silent
---@field message string?
---@field updates table[]?
---@field awaiting boolean?
---@field order integer? of the end on record that this is
---@field estimate boolean

local Answers = {}
Answers.__index = Answers

local of_work = { REPORTED = true, PROTOCOL = true }
local of_runner = { UNREACHABLE = true, REJECTED = true, TIMEOUT = true, STALE = true, RUNNER_LOST = true }

local function is_judged(attempt)
  if not attempt.ended_us or not attempt.dispatched_us then return false end
  return attempt.kind == nil or of_work[attempt.kind] == true
end

local function duration(attempt)
  return attempt.ended_us - attempt.dispatched_us
end

---The middle of a list of integers; of two the lower one. nil for an empty list.
---@param list integer[]
---@return integer?
function M.median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- ---- what was known then ----

local function first_after(times, at_us)
  local low, high = 1, #times + 1
  while low < high do
    local middle = (low + high) // 2
    if times[middle] > at_us then high = middle else low = middle + 1 end
  end
  return times[low], times[low - 1]
end

-- When a runner was out of reach: from the call that failed until it was heard of again.
function Answers:add_outages()
  for _, plan in ipairs(self.history.plans) do
    for _, stage in pairs(plan.stages) do
      for _, attempt in ipairs(stage.attempts) do
        local runner = attempt.runner and self.runners[attempt.runner]
        if runner and attempt.ended_us and attempt.kind == "UNREACHABLE" then
          local back_us = first_after(runner.alive, attempt.ended_us)
          table.insert(runner.outages, { from_us = attempt.dispatched_us, to_us = back_us or math.maxinteger,
            attempt = attempt })
        elseif runner and attempt.ended_us and attempt.kind == "RUNNER_LOST" then
          local _, seen_us = first_after(runner.alive, attempt.ended_us)
          table.insert(runner.outages, { from_us = seen_us or attempt.dispatched_us, to_us = attempt.ended_us,
            attempt = attempt })
        end
      end
    end
  end
  for _, runner in pairs(self.runners) do
    table.sort(runner.outages, function(a, b)
      if a.from_us ~= b.from_us then return a.from_us < b.from_us end
      return a.attempt.order < b.attempt.order
    end)
  end
end

function Answers:add_signs_of_life()
  for id, known in pairs(self.history.runners) do
    self.runners[id] = { alive = table.move(known.seen, 1, #known.seen, 1, {}), outages = {} }
  end
  local by_type = {}
  for _, plan in ipairs(self.history.plans) do
    for _, stage in pairs(plan.stages) do
      for _, attempt in ipairs(stage.attempts) do
        if is_judged(attempt) then
          local runner = self.runners[attempt.runner]
          if runner then table.insert(runner.alive, attempt.ended_us) end
          by_type[stage.runner_type] = by_type[stage.runner_type] or {}
          table.insert(by_type[stage.runner_type], duration(attempt))
        end
      end
    end
  end
  for _, runner in pairs(self.runners) do table.sort(runner.alive) end
  for runner_type, durations in pairs(by_type) do self.type_median[runner_type] = M.median(durations) end
end

---@param history turboci.replay.History
function M.new(history)
  local self = setmetatable({ history = history, runners = {}, type_median = {}, states = {} }, Answers)
  self:add_signs_of_life()
  self:add_outages()
  return self
end

-- Of a stage: its runs by runner, the verdicts on its work, and how far the replay has come.
function Answers:state(stage)
  local state = self.states[stage]
  if state then return state end
  state = { by_runner = {}, verdicts = {}, runs = {}, judged = 0 }
  local durations = {}
  for _, attempt in ipairs(stage.attempts) do
    if attempt.runner then
      state.by_runner[attempt.runner] = state.by_runner[attempt.runner] or {}
      table.insert(state.by_runner[attempt.runner], attempt)
    end
    if is_judged(attempt) then
      table.insert(state.verdicts, attempt)
      table.insert(durations, duration(attempt))
    end
    if attempt.kind == "TIMEOUT" or attempt.kind == "STALE" then state.hung = attempt end
  end
  state.median = M.median(durations)
  self.states[stage] = state
  return state
end

---Forgets a stage: it is FINAL.
function Answers:forget(stage)
  self.states[stage] = nil
end

-- ---- answers ----

local how_of = { UNREACHABLE = "unreachable", REJECTED = "rejected", RUNNER_LOST = "never" }
local SECOND_US = 1000000

-- A TIMEOUT before its deadline: the runner's own words. At its deadline: nobody knows how long it would have taken.
local function is_own_timeout(attempt)
  return attempt.kind == "TIMEOUT" and not attempt.accepted_us
    and duration(attempt) < (attempt.execution_ms or 0) * 1000 - SECOND_US
    and attempt.message:find "^DEADLINE_EXCEEDED" ~= nil
end

-- Its deadline ended it, and now it has a longer one.
local function has_more_time(attempt, execution_ms)
  return attempt.kind == "TIMEOUT" and not is_own_timeout(attempt) and execution_ms > (attempt.execution_ms or 0)
end

local function runner_failure(attempt, estimate)
  local answer = { how = how_of[attempt.kind], after_us = duration(attempt), message = attempt.message,
    order = attempt.order, estimate = estimate }
  answer.accept_us = attempt.accepted_us and attempt.accepted_us - attempt.dispatched_us
  if attempt.kind == "TIMEOUT" then
    answer.how = is_own_timeout(attempt) and "late" or "never"
  elseif attempt.kind == "STALE" then
    answer.how = "never"
    answer.silent_us = math.max(0, answer.after_us - (attempt.stale_ms or 0) * 1000)
  end
  return answer
end

-- Out of reach at this time, as others found.
function Answers:outage(runner_id, now_us)
  local runner = self.runners[runner_id]
  for _, outage in ipairs(runner and runner.outages or {}) do
    if outage.from_us <= now_us and now_us < outage.to_us then return outage.attempt end
  end
end

local how_of_work = { REPORTED = "reported", PROTOCOL = "protocol" }

local function judge(stage, state, answer)
  state.judged = state.judged + 1
  local verdict = state.verdicts[state.judged] or state.verdicts[#state.verdicts]
  if not verdict then -- it never came that far: the best is assumed
    answer.how, answer.updates, answer.estimate = "complete", {}, true
    for i, id in ipairs(stage.assigned) do answer.updates[i] = { check_id = id, finalize = true } end
    return answer
  end
  answer.how = verdict.kind and how_of_work[verdict.kind] or "complete"
  answer.message, answer.updates, answer.awaiting = verdict.message, verdict.updates, verdict.awaiting
  answer.order = answer.order or verdict.order -- of equal times this end comes before what followed it then
  if state.judged > #state.verdicts then answer.estimate = true end
  return answer
end

---What this runner answers to this attempt.
---@param stage turboci.replay.Node
---@param runner_id string
---@param mode "SYNC"|"ASYNC"
---@param now_us integer
---@param execution_ms integer its deadline now
---@return turboci.replay.Answer
function Answers:next(stage, runner_id, mode, now_us, execution_ms)
  local state = self:state(stage)
  local run = (state.runs[runner_id] or 0) + 1
  state.runs[runner_id] = run
  local known = state.by_runner[runner_id] or {}
  local same = known[run]
  if same and same.ended_us and of_runner[same.kind] and not has_more_time(same, execution_ms) then
    return runner_failure(same, false)
  end
  local cut_off -- a run that tells how long it takes at least
  if not same then
    local outage = self:outage(runner_id, now_us)
    if outage then
      local answer = runner_failure(outage, true)
      if mode == "SYNC" then answer.how = "unreachable" end -- an expired registration ends async executions only
      return answer
    end
    local last = known[#known]
    local hung = last and (last.kind == "TIMEOUT" or last.kind == "STALE") and last or not state.median and state.hung
    if hung and not has_more_time(hung, execution_ms) then
      return { how = "never", after_us = 0, accept_us = 0, estimate = true }
    end
    cut_off = hung or nil
  end
  local answer = { estimate = false, accept_us = 0 }
  if same and is_judged(same) then
    answer.after_us, answer.order = duration(same), same.order
    if same.accepted_us then answer.accept_us = same.accepted_us - same.dispatched_us end
  else
    -- What had not ended then took at least as long as it had run.
    local run_then = same or cut_off
    local so_far_us = run_then and run_then.dispatched_us
      and (run_then.ended_us or self.history.end_us) - run_then.dispatched_us or 0
    answer.after_us = math.max(state.median or self.type_median[stage.runner_type] or 0, so_far_us)
    answer.estimate = true
  end
  return judge(stage, state, answer)
end

return M
