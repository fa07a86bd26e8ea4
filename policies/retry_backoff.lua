-- retry_backoff: more patience than the built-in default, with knobs: for stages that depend on things which come
-- back. A stage's own `retry` decides alone, and deliveries that never got through to a runner keep their built-in
-- budget.
--
-- Knobs, metadata of the plan: `retry_attempts` (default 5; at most), `retry_first` and `retry_longest` (default 2
-- and 300; seconds, the pause doubles from one to the other), `retry_reported` ("yes": failures that a runner
-- reported too).
--
--     turboci.plan { name = "nightly", policy = "retry_backoff",
--                    metadata = { retry_attempts = "8", retry_reported = "yes" } }

local default = require "default"

-- A number of the plan's metadata, within bounds; the default when it says none or nonsense.
local function knob(ctx, name, otherwise, least, most)
  local value = tonumber(ctx.plan.metadata[name] or otherwise) or otherwise
  return math.max(least, math.min(value, most))
end

return {
  description = "more attempts, at growing distances",

  retry = function(ctx)
    local kind = ctx.failure.kind
    if ctx.stage.retry then return default.retry(ctx), "by the stage's own retry" end
    if kind == "UNREACHABLE" or kind == "REJECTED" then return default.retry(ctx) end
    if kind == "REPORTED" and ctx.plan.metadata.retry_reported ~= "yes" then
      return nil, "reported by the runner: final"
    end
    local count, most = #ctx.attempts, knob(ctx, "retry_attempts", 5, 1, 1000)
    if count >= most then return nil, ("all %d attempts are used"):format(count) end
    local first = knob(ctx, "retry_first", 2, 0, 86400)
    local longest = knob(ctx, "retry_longest", 300, first, 86400)
    local pause = math.min(first * 2.0 ^ (count - 1), longest)
    -- Half of it is left to chance, so that what failed together does not come back together.
    return { after = pause / 2 + ctx.random() * pause / 2 }, ("attempt %d of %d"):format(count + 1, most // 1)
  end,
}
