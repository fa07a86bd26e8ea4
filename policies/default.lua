-- default: what the engine does without a policy (engine/core/policy.c), in Lua, decision for decision. To copy from
-- and to build on: `local default = require "default"`.
--
-- A stage's own `retry` covers every kind of failure, and its own timeouts win. Knobs: the limits of the server,
-- which come as ctx.defaults.
--
--     turboci serve --policy default       -- changes nothing: edit a copy of it

local M = { description = "what the engine does without a policy" }

-- The least loaded; of equals the one used longest ago; the one that failed this stage last only if there is no other.
function M.select(ctx)
  local attempts = ctx.attempts
  local last = attempts[#attempts]
  local failed = last and last.runner
  local best, best_failed, best_load, best_used
  for _, runner in ipairs(ctx.runners) do
    local load, used, runner_failed = runner.load, runner.used, failed ~= nil and runner.id == failed
    local better
    if not best then
      better = true
    elseif runner_failed ~= best_failed then
      better = best_failed
    else
      better = load < best_load or load == best_load and used < best_used
    end
    if better then best, best_failed, best_load, best_used = runner, runner_failed, load, used end
  end
  return best
end

-- Microseconds: durations come as seconds, and doubling and halving must be exact.
local function microseconds(seconds)
  return math.floor(seconds * 1e6 + 0.5)
end

-- The first backoff, doubled for each further failure, at most the longest; of that a random part, at least half.
local function backoff(ctx, own, failures)
  local first = microseconds(own and own.backoff or ctx.defaults.backoff)
  local longest = math.max(first, microseconds(own and own.backoff_max or ctx.defaults.backoff_max))
  local pause = first
  for _ = 2, failures do
    if pause >= longest then break end
    pause = math.min(pause * 2, longest)
  end
  local half = pause // 2
  return { after = (half + ctx.random(half + 1) - 1) / 1e6 }
end

local function is_delivery(kind)
  return kind == "UNREACHABLE" or kind == "REJECTED"
end

-- A stage's own `retry` decides alone. Without one: deliveries that never got through have a budget of their own,
-- failures that the runner reported are final, all others share attempts_max.
function M.retry(ctx)
  local own, defaults, count = ctx.stage.retry, ctx.defaults, #ctx.attempts
  if own then
    if count >= (own.max_attempts or defaults.attempts_max) then return nil end
    return backoff(ctx, own, count)
  end
  local kind = ctx.failure.kind
  local deliveries = 0
  for _, attempt in ipairs(ctx.attempts) do
    if is_delivery(attempt.failure.kind) then deliveries = deliveries + 1 end
  end
  if is_delivery(kind) then
    if deliveries >= defaults.delivery_attempts_max then return nil end
    return backoff(ctx, nil, deliveries)
  end
  if kind == "REPORTED" or count - deliveries >= defaults.attempts_max then return nil end
  return backoff(ctx, nil, count - deliveries)
end

function M.timeout(ctx)
  local own, defaults = ctx.stage.timeouts, ctx.defaults
  return {
    execution = own and own.execution or defaults.execution,
    stale = own and own.stale or defaults.stale,
  }
end

function M.priority(ctx)
  return ctx.stage.priority
end

return M
