-- class: chains
-- The same with numbers that are no integers.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    for i = 1, 4097 do list[i * 8191 + 0.5] = true end
    return ctx.runners[1]
  end,
}
