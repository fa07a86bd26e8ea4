-- class: c functions
-- Moves tables of hundreds of items, millions of times: each move is one instruction.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = { 1 }
    while #list < 400 do table.move(list, 1, #list, #list + 1) end
    for _ = 1, 5000000 do table.move(list, 1, #list, 2) end
    return nil
  end,
}
