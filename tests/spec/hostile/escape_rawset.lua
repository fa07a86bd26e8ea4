-- class: escapes
-- Writes past metamethods.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    rawset(ctx, "runners", {})
    return ctx.runners[1]
  end,
}
