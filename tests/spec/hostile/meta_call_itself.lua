-- class: metamethods
-- A table that is called by calling itself.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local object = {}
    setmetatable(object, { __call = object })
    return object()
  end,
}
