-- class: loops
-- A loop over all integers there are.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local n = 0
    for i = math.mininteger, math.maxinteger do n = n ~ i end
    return ctx.runners[n]
  end,
}
