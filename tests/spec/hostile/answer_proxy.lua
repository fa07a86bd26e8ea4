-- class: answers
-- A table that answers for a runner.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return setmetatable({ id = ctx.runners[1].id }, { __index = ctx.runners[1] })
  end,
}
