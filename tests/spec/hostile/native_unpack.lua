-- class: c functions
-- Ten million results of one call.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return (select(10000000, table.unpack({}, 1, 10000000)))
  end,
}
