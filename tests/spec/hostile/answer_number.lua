-- class: answers
-- A number where a runner is expected.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return 42
  end,
}
