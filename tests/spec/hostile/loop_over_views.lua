-- class: loops
-- Walks the candidates again and again, with what pairs makes for each walk.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local n = 0
    while n >= 0 do
      for _, runner in ipairs(ctx.runners) do
        for key in pairs(runner.metadata) do n = n + #key end
      end
    end
    return nil
  end,
}
