-- class: loops
-- A numeric loop up to infinity.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    for _ = 1.0, math.huge do end
  end,
}
