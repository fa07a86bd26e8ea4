-- class: escapes
-- Sorts the candidates where they are.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    table.sort(ctx.runners, function(a, b) return a.id > b.id end)
    return ctx.runners[1]
  end,
}
