-- class: errors
-- Raises a table that raises when it is told.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local meta = {}
    meta.__tostring = function(self) error(self) end
    error(setmetatable({}, meta))
  end,
}
