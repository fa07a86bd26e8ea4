-- class: answers
-- A function.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return function() return { execution = 1 } end
  end,
}
