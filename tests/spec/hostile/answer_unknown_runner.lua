-- class: answers
-- A runner that is not there.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return "nobody-of-this-name"
  end,
}
