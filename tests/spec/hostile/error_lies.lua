-- class: errors
-- Raises a table that says it is text, and is not.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    error(setmetatable({}, { __tostring = function() return {} end }))
  end,
}
