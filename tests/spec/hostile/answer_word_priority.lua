-- class: answers
-- A priority in words.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return "urgent"
  end,
}
