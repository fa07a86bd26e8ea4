-- class: c functions
-- Moves 1e15 items that are not there.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    table.move({}, 1, 1000000000000000, 2)
    return { after = 0 }
  end,
}
