-- compare: what happened then and what happens now, in figures, and the decisions that differ. Reads what history.lua
-- and world.lua left in the plans.
--
-- 1. Compared are the plans that had ended then; of times, those that end now, too.
-- 2. Durations are sums of whole microseconds, turned into seconds at the end: the same replay gives the same figures.
-- 3. A wait or a backoff differs when a person would say so: jitter does not count.
--
-- Used by turboci.replay.

local list = require("turboci.core").list -- so that an empty one is a list in JSON, too

local M = {}

local WAIT_US = 100000 -- a wait that differs by less does not differ
local WAIT_SHARE = 0.1 -- nor one that differs by less than this part of the longer one
local BACKOFF_RATIO = 2 -- jitter halves a backoff at most

local function seconds(us)
  return us and us / 1000000
end

-- Nearest rank of a sorted list.
local function percentile(times, percent)
  if #times == 0 then return 0 end
  return times[math.max(1, math.ceil(#times * percent / 100))]
end

local function spread(times)
  table.sort(times)
  local total = 0
  for _, us in ipairs(times) do total = total + us end
  return { total = seconds(total), mean = #times > 0 and total / #times / 1000000 or 0,
    p50 = seconds(percentile(times, 50)), p95 = seconds(percentile(times, 95)), max = seconds(times[#times] or 0) }
end

-- From ready to dispatched; of one that was never dispatched until it gave up.
local function waited_us(attempt)
  local until_us = attempt.dispatched_us or attempt.ended_us
  return until_us and math.max(0, until_us - attempt.ready_us)
end

local function ran_us(attempt)
  return attempt.dispatched_us and attempt.ended_us and attempt.ended_us - attempt.dispatched_us
end

-- ---- figures ----

local function add_attempt(figures, attempt)
  figures.attempts = figures.attempts + 1
  if attempt.index > 1 then figures.retries = figures.retries + 1 end
  if attempt.kind then figures.failures[attempt.kind] = (figures.failures[attempt.kind] or 0) + 1 end
  if attempt.estimate then figures.estimates = figures.estimates + 1 end
  local wait_us = waited_us(attempt)
  if wait_us then table.insert(figures.waits, wait_us) end
  local busy_us = ran_us(attempt)
  if not busy_us or not attempt.runner then return end
  local runner = figures.runners[attempt.runner] or { executions = 0, busy_us = 0, estimates = 0 }
  figures.runners[attempt.runner] = runner
  runner.executions, runner.busy_us = runner.executions + 1, runner.busy_us + busy_us
  if attempt.estimate then runner.estimates = runner.estimates + 1 end
  figures.busy_us = figures.busy_us + busy_us
end

-- One side: `key` names the stages' attempts, created and settled the plan's times.
local function figures_of(plans, key, created, settled)
  local figures = { attempts = 0, retries = 0, failures = {}, estimates = 0, waits = {}, runners = {}, busy_us = 0 }
  local first_us, last_us, makespans = math.maxinteger, 0, {}
  for _, plan in ipairs(plans) do
    first_us, last_us = math.min(first_us, plan[created]), math.max(last_us, plan[settled])
    makespans[#makespans + 1] = plan[settled] - plan[created]
    for _, node in ipairs(plan.nodes) do
      for _, attempt in ipairs(node[key] or {}) do add_attempt(figures, attempt) end
    end
  end
  for _, runner in pairs(figures.runners) do
    runner.busy, runner.share = seconds(runner.busy_us), figures.busy_us > 0 and runner.busy_us / figures.busy_us or 0
    runner.busy_us = nil
  end
  return { makespan = #plans > 0 and seconds(last_us - first_us) or 0, plan_makespan = spread(makespans),
    wait = spread(figures.waits), attempts = figures.attempts, retries = figures.retries,
    failures = figures.failures, estimates = figures.estimates, runners = figures.runners }
end

-- ---- decisions ----

-- Which hooks may be behind a difference, the likeliest first.
local hooks_of = { runner = { "select" }, wait = { "admit", "priority", "select" }, ["end"] = { "timeout", "select" },
  retry = { "retry" }, run = { "select" } }

-- Of the decisions that may be behind the differences: the first with a word to say; nil: there is none.
local function telling(attempt, kinds)
  for _, kind in ipairs(kinds) do
    for _, hook in ipairs(hooks_of[kind]) do
      local decision = attempt.decisions[hook]
      if decision and (decision.reason or decision.fault) then return decision, hook end
    end
  end
end

local function add_words(decision, attempt, kinds)
  if not decision then return end
  local words, hook = telling(attempt, kinds)
  if words then decision.hook, decision.reason, decision.fault = hook, words.reason, words.fault end
end

-- One side of a decision, for people; nil: there was no such attempt.
local function side(attempts, index)
  local attempt = attempts[index]
  if not attempt then return nil end
  local after = attempts[index + 1]
  local ended, again = attempt.ended_us and (attempt.kind or "COMPLETE") or nil, nil
  if attempt.kind then again = after ~= nil end
  return { runner = attempt.runner, waited = seconds(waited_us(attempt)), ran = seconds(ran_us(attempt)),
    ended = ended, again = again,
    after = attempt.kind and after and seconds(math.max(0, after.ready_us - attempt.ended_us)) or nil,
    policy = attempt.decisions.select and attempt.decisions.select.policy, estimate = attempt.estimate or nil }
end

local function times_differ(was, now)
  if not was or not now then return was ~= now end
  local difference = math.abs(was - now)
  return difference * 1000000 >= WAIT_US and difference >= WAIT_SHARE * math.max(was, now)
end

-- It ends otherwise; or the engine's patience, which is a decision, ends sooner or later.
local function end_differs(was, now)
  if was.ended ~= now.ended then return true end
  return (was.ended == "TIMEOUT" or was.ended == "STALE") and times_differ(was.ran, now.ran)
end

local function retry_differs(was, now)
  if was.again == nil or now.again == nil then return false end
  if was.again ~= now.again then return true end
  if not was.after then return false end
  local less, more = math.min(was.after, now.after), math.max(was.after, now.after)
  return more > less * BACKOFF_RATIO + WAIT_US / 1000000
end

---What differs between two sides: "run" (one of them never had its first attempt), "runner", "wait", "end", "retry".
local function kinds_of(was, now, index)
  if not was or not now then return index == 1 and { "run" } or {} end
  local kinds = {}
  if was.runner ~= now.runner then kinds[#kinds + 1] = "runner" end
  if times_differ(was.waited, now.waited) then kinds[#kinds + 1] = "wait" end
  if end_differs(was, now) then kinds[#kinds + 1] = "end" end
  if retry_differs(was, now) then kinds[#kinds + 1] = "retry" end
  return kinds
end

local function compare_stage(rows, plan, node)
  local was, now = node.attempts, node.now or {}
  for index = 1, math.max(#was, #now) do
    local before, after = side(was, index), side(now, index)
    local kinds = kinds_of(before, after, index)
    if #kinds > 0 then
      add_words(before, was[index], kinds)
      add_words(after, now[index], kinds)
      local at_us = math.min(was[index] and was[index].ready_us or math.maxinteger,
        now[index] and now[index].ready_us or math.maxinteger)
      rows[#rows + 1] = { at_us = at_us, order = #rows, at = seconds(at_us), plan = plan.id, stage = node.id,
        attempt = index, differs = kinds, was = before, now = after }
    end
  end
end

local function decisions(plans)
  local rows, counts = list {}, {}
  for _, plan in ipairs(plans) do
    for _, node in ipairs(plan.nodes) do
      if node.kind == "stage" and node.runner_type then compare_stage(rows, plan, node) end
    end
  end
  table.sort(rows, function(a, b)
    if a.at_us ~= b.at_us then return a.at_us < b.at_us end
    return a.order < b.order
  end)
  for _, row in ipairs(rows) do
    row.at_us, row.order = nil, nil
    for _, kind in ipairs(row.differs) do counts[kind] = (counts[kind] or 0) + 1 end
  end
  return rows, counts
end

-- ---- plans ----

local function plan_row(plan)
  local estimates, unfinished = 0, list {}
  for _, node in ipairs(plan.nodes) do
    for _, attempt in ipairs(node.now or {}) do
      if attempt.estimate then estimates = estimates + 1 end
    end
    if node.kind == "stage" and not node.now_outcome then unfinished[#unfinished + 1] = node.id end
  end
  return { plan = plan.id, name = plan.metadata.name,
    was = { makespan = seconds(plan.settled_us - plan.created_us), outcome = plan.outcome },
    now = { makespan = plan.now_outcome and seconds(plan.now_settled_us - plan.now_created_us) or nil,
      outcome = plan.now_outcome, unfinished = not plan.now_outcome and unfinished or nil },
    estimates = estimates }
end

-- Who chose the runners then: { policy =, version =, decisions = }, the most frequent first.
local function deciders(plans)
  local found, by_key = list {}, {}
  for _, plan in ipairs(plans) do
    for _, node in ipairs(plan.nodes) do
      for _, attempt in ipairs(node.attempts or {}) do
        local decision = attempt.decisions.select
        if decision then
          local key = (decision.policy or "") .. "\0" .. (decision.version or "")
          local entry = by_key[key]
          if not entry then
            entry = { policy = decision.policy, version = decision.version, decisions = 0 }
            by_key[key], found[#found + 1] = entry, entry
          end
          entry.decisions = entry.decisions + 1
        end
      end
    end
  end
  table.sort(found, function(a, b)
    if a.decisions ~= b.decisions then return a.decisions > b.decisions end
    return (a.policy or "") .. (a.version or "") < (b.policy or "") .. (b.version or "")
  end)
  return found
end

---@param history turboci.replay.History replayed
---@param only string? id of the one plan to look at
---@return table
function M.compare(history, only)
  local ended, both, rows, open = {}, {}, list {}, 0
  for _, plan in ipairs(history.plans) do
    if only and plan.id ~= only then goto continue end
    if plan.settled_us then
      ended[#ended + 1] = plan
      rows[#rows + 1] = plan_row(plan)
      if plan.now_outcome then both[#both + 1] = plan end
    else
      open = open + 1
    end
    ::continue::
  end
  local differing, counts = decisions(ended)
  local was = figures_of(both, "attempts", "created_us", "settled_us")
  local now = figures_of(both, "now", "now_created_us", "now_settled_us")
  local runners = list {}
  local none = { executions = 0, busy = 0, share = 0, estimates = 0 }
  for _, id in ipairs(history.runner_ids) do
    if was.runners[id] or now.runners[id] then
      runners[#runners + 1] = { runner = id, was = was.runners[id] or none, now = now.runners[id] or none }
    end
  end
  was.runners, now.runners = nil, nil
  return { was = was, now = now, runners = runners, plans = rows, compared = #both, unfinished = #ended - #both,
    open = open, decided_by = deciders(ended), decisions = differing, differing = counts }
end

return M
