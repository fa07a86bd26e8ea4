-- _pick: what policies that choose a runner share (a library: only for `local pick = require "_pick"`).

local M = {}

-- The candidates without the one that failed this stage last, unless nobody is left then; and whether it was left out.
function M.others(ctx)
  local attempts = ctx.attempts
  local last = attempts[#attempts]
  local failed = last and last.runner
  if not failed then return ctx.runners, false end
  local others = {}
  for _, runner in ipairs(ctx.runners) do
    if runner.id ~= failed then others[#others + 1] = runner end
  end
  if #others == 0 or #others == #ctx.runners then return ctx.runners, false end
  return others, true
end

-- The runner with the fewest executions; of equals the one used longest ago.
function M.least_loaded(runners)
  local best, best_load, best_used
  for _, runner in ipairs(runners) do
    local load = runner.load
    if not best or load < best_load or load == best_load and runner.used < best_used then
      best, best_load, best_used = runner, load, runner.used
    end
  end
  return best
end

return M
