-- class: c functions
-- harmless
-- Sorts a list that its comparator rewrites: the sort must end.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    for i = 1, 300 do list[i] = i end
    pcall(table.sort, list, function()
      list[#list + 1], list[1] = list[1], nil
      error {}
    end)
    table.sort(list, function(a, b)
      list[1] = 0 / 0
      return a ~= b
    end)
    return ctx.runners[1]
  end,
}
