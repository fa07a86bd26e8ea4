-- class: errors
-- Raises a table with a type name of eight kilobytes.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    error(setmetatable({}, { __name = ("x"):rep(8000) }))
  end,
}
