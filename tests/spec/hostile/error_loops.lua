-- class: errors
-- Raises a table that loops when it is told.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    error(setmetatable({}, { __tostring = function()
      while true do end
    end }))
  end,
}
