-- class: c functions
-- Sorts hundreds of items, millions of times, without a comparison in Lua.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = { 3, 1, 2 }
    while #list < 200 do table.move(list, 1, #list, #list + 1) end
    for _ = 1, 1000000 do
      local copy = table.move(list, 1, #list, 1, {})
      table.sort(copy)
    end
    return ctx.runners[1]
  end,
}
