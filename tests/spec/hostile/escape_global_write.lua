-- class: escapes
-- A global, to be remembered in the next call.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    counter = (counter or 0) + 1
    return counter
  end,
}
