-- class: metamethods
-- A length of 9e18 by a metamethod that came later, for a C function to believe.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local meta = {}
    local list = setmetatable({}, meta)
    meta.__len = function() return math.maxinteger end
    table.insert(list, 1, "x")
    table.sort(list)
    return table.concat(list)
  end,
}
