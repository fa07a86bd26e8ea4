-- class: answers
-- Excludes five hundred runners.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = { "nobody" }
    while #list < 500 do table.move(list, 1, #list, #list + 1) end
    return { after = 0, exclude = list }
  end,
}
