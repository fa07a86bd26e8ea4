-- class: errors
-- Raises a function.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    error(function() end)
  end,
}
