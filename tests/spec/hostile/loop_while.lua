-- class: loops
-- An endless loop.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    while true do end
  end,
}
