-- class: c functions
-- Hands hundreds of arguments on, again and again.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = { 1 }
    while #list < 128 do table.move(list, 1, #list, #list + 1) end
    local n = 0
    for i = 1, 1000000 do n = n + select("#", select(i % 5 + 1, table.unpack(list))) end
    return { execution = n }
  end,
}
