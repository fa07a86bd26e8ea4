-- class: c functions
-- A range of unpack whose length overflows.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { execution = select("#", table.unpack({}, math.mininteger, math.maxinteger)) }
  end,
}
