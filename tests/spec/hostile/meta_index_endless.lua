-- class: metamethods
-- Indexing calls itself.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local mirror = {}
    setmetatable(mirror, { __index = function(self, key) return self[key .. "x"] end })
    return mirror.a
  end,
}
