-- class: chains
-- Keys that are all in one chain of the table, which grows at the last one: its only slow instruction.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    for i = 1, 4097 do list[i * 8191] = true end
    return ctx.runners[1]
  end,
}
