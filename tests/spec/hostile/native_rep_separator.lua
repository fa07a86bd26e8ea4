-- class: c functions
-- Repeats nothing with a separator of one byte: the length overflows.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return #string.rep("", math.maxinteger, "x")
  end,
}
