-- class: escapes
-- Keeps what it is shown in a global, for the next call.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    KEPT = ctx.runners
    return KEPT[1]
  end,
}
