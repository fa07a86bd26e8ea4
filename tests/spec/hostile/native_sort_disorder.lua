-- class: c functions
-- Sorts by a comparison that contradicts itself.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    for i = 1, 500 do list[i] = i % 7 end
    for _ = 1, 100000 do table.sort(list, function() return true end) end
    return nil
  end,
}
