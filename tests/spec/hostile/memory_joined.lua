-- class: memory
-- Joins many long strings to a longer one than is allowed.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    for i = 1, 10 do list[i] = ("x"):rep(8000) end
    return { after = #table.concat(list) }
  end,
}
