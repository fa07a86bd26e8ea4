-- class: loops
-- A loop whose step is the smallest number there is.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local n = 0
    for i = 0, 1, 5e-324 do n = n + i end
    return ctx.runners[n]
  end,
}
