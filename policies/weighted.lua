-- weighted: at random, in proportion to weights. Over many stages a runner of weight 3 gets three times as many as
-- one of weight 1, however busy they are.
--
-- Knobs: the runner's metadata `weight`, a number from 0 to 1000000; 1 when it says none or nonsense; 0: only when
-- nobody else has room.
--
--     runner.start { type = "build", metadata = { weight = "3" }, ... }

local pick = require "_pick"

local WEIGHT_MAX = 1000000

local function weight_of(runner)
  local weight = tonumber(runner.metadata.weight or 1) or 1
  return math.max(0, math.min(weight, WEIGHT_MAX))
end

return {
  description = "at random, in proportion to the runners' weights",

  select = function(ctx)
    local runners = pick.others(ctx)
    local sum = 0
    for _, runner in ipairs(runners) do sum = sum + weight_of(runner) end
    if sum == 0 then return pick.least_loaded(runners), "nobody has a weight: least loaded" end
    local point = ctx.random() * sum
    local chosen
    for _, runner in ipairs(runners) do
      local weight = weight_of(runner)
      if weight > 0 then
        chosen = runner
        point = point - weight
        if point < 0 then break end
      end
    end
    return chosen, "drawn by weight"
  end,
}
