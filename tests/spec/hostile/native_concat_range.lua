-- class: c functions
-- Joins a table from 1 to 1e15, whose items a metamethod makes.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local all = setmetatable({}, { __index = function() return "" end })
    return { key = table.concat(all, "", 1, 1000000000000000), limit = 1 }
  end,
}
