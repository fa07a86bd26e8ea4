-- class: metamethods
-- A finaliser that loops.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    setmetatable({}, { __gc = function()
      while true do end
    end })
    return ctx.runners[1]
  end,
}
