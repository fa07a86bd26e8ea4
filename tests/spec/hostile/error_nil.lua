-- class: errors
-- Raises nothing.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    error()
  end,
}
