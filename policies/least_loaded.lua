-- least_loaded: the runner with the fewest executions; of equals the one used longest ago; the one that failed this
-- stage last only if there is no other. No knobs. For all else the built-in default. A good one to copy.
--
--     turboci serve --policy least_loaded

local pick = require "_pick"

return {
  description = "the runner with the fewest executions",

  select = function(ctx)
    local runners, left_out = pick.others(ctx)
    return pick.least_loaded(runners), left_out and "least loaded, not where it failed last" or "least loaded"
  end,
}
