-- warm_first: runners that have things ready (caches, images, checkouts) before those that do not; of the same kind
-- the least loaded. A retry goes to another runner (retry_elsewhere).
--
-- Knobs: a runner says in its metadata that it is warm: `warm = "yes"` for everybody, or a name, such as that of a
-- repository, for the plans whose metadata say the same `warm`.
--
--     runner.start { type = "build", metadata = { warm = "website" }, ... }
--     turboci.plan { name = "deploy", policy = "warm_first", metadata = { warm = "website" } }

local elsewhere = require "retry_elsewhere"
local pick = require "_pick"

return {
  description = "runners with warm caches first",

  select = function(ctx)
    local wanted = ctx.plan.metadata.warm
    local runners = pick.others(ctx)
    local warm = {}
    for _, runner in ipairs(runners) do
      local says = runner.metadata.warm
      if says and (says == "yes" or says == wanted) then warm[#warm + 1] = runner end
    end
    if #warm > 0 then return pick.least_loaded(warm), "warm and least loaded" end
    return pick.least_loaded(runners), "nobody warm has room: least loaded"
  end,

  retry = elsewhere.retry,
  timeout = elsewhere.timeout,
}
