-- class: errors
-- Raises a table.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    error { code = 7 }
  end,
}
