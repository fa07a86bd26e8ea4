-- class: metamethods
-- A ring of tables, each of which looks in the next one.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local a, b, c = {}, {}, {}
    setmetatable(a, { __index = b })
    setmetatable(b, { __index = c })
    setmetatable(c, { __index = a })
    return a.key
  end,
}
