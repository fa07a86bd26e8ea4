-- class: c functions
-- Begins to walk a table of hundreds of keys, again and again: each time they are sorted.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    for i = 1, 300 do list[("key %d"):format(i)] = i end
    while true do
      for key in pairs(list) do
        if key then break end
      end
    end
  end,
}
