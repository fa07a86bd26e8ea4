-- class: escapes
-- Writes to what it is shown: the load of a runner.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    ctx.runners[1].load = -1000
    return ctx.runners[1]
  end,
}
