-- class: answers
-- A wait that is not a number of seconds.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return { wait = 0 / 0 }
  end,
}
