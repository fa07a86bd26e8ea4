-- class: c functions
-- A string of a gigabyte.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return ("x"):rep(1000000000)
  end,
}
