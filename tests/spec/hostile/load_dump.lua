-- class: bytecode
-- Takes bytecode out of a function.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return #string.dump(function() end)
  end,
}
