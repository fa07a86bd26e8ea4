-- class: chains
-- harmless
-- A chain that is as long as a table may be, made and left again: the answer may count.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    for i = 1, 1025 do list[i * 2047] = true end
    return ctx.runners[1]
  end,
}
