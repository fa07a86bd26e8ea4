-- class: coroutines
-- Yields out of the call, into the engine.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return coroutine.yield(5)
  end,
}
