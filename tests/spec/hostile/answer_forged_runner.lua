-- class: answers
-- A table that looks like a runner.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return { id = ctx.runners[1].id, load = 0, metadata = {} }
  end,
}
