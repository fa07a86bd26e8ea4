-- class: answers
-- A wait that is over before it began.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return { wait = -1 }
  end,
}
