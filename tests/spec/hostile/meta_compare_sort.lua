-- class: metamethods
-- A sort whose comparisons are metamethods that loop.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local meta = { __lt = function()
      for _ = 1, 1000000 do end
      return true
    end }
    local list = {}
    for i = 1, 200 do list[i] = setmetatable({}, meta) end
    table.sort(list)
    return { after = 1 }
  end,
}
