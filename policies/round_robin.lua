-- round_robin: each runner in turn, whatever its load. The next one is the one used longest ago, so nothing has to be
-- remembered: a runner that comes goes first, one that was busy keeps its turn. No knobs.
--
--     turboci serve --policy-for build=round_robin

return {
  description = "each runner in turn",

  select = function(ctx)
    local best
    for _, runner in ipairs(ctx.runners) do
      if not best or runner.used < best.used then best = runner end
    end
    return best, "its turn"
  end,
}
