-- class: answers
-- A reason that is a table with itself in it.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local reason = {}
    reason[1] = reason
    return ctx.runners[1], reason
  end,
}
