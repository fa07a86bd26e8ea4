-- An async stage: its runner accepts the work at once, reports progress while it goes on, and completes it with a
-- callback: turboci run examples/async_runner.lua
--
-- What makes it async is mode = "async". A stage whose runner falls silent for longer than `stale` is given up, and
-- repeated on another one: progress is also the sign of life.
local turboci = require "turboci"

local LIMIT, STEPS = 200000, 5

-- How many primes there are below each step's end, told step by step.
local function count_primes(on_step)
  local composite, count = {}, 0
  for n = 2, LIMIT do
    if not composite[n] then
      count = count + 1
      for multiple = n * n, LIMIT, n do composite[multiple] = true end
    end
    if n % (LIMIT // STEPS) == 0 then on_step(n, count) end
  end
  return count
end

local plan = turboci.plan { name = "async-runner" }
local counted = plan:check("counted", { kind = "primes", options = { below = LIMIT } })

plan:stage("count", {
  mode = "async",
  stale = "30s",
  timeout = "5m",
  finalizes = counted,
  run = function(ctx)
    local primes = count_primes(function(n, count)
      ctx:progress(("%d primes below %d"):format(count, n), { percent = 100 * n // LIMIT })
    end)
    return { primes = primes }
  end,
})

plan:stage("report", {
  after = "count",
  run = function(ctx)
    ctx:progress(("there are %d primes below %d"):format(ctx.results.counted.data.primes, LIMIT))
  end,
})

return plan
