-- class: answers
-- A priority between two.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return 0.5
  end,
}
