-- class: errors
-- Raises what it was shown.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    error(ctx)
  end,
}
