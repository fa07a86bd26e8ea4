-- class: c functions
-- Inserts at the front of a long table: each item moves all the others.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = { 1 }
    while #list < 400 do table.move(list, 1, #list, #list + 1) end
    for i = 1, 5000000 do table.insert(list, 1, i) end
    return { after = list[1] }
  end,
}
