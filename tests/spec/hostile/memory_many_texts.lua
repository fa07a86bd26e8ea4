-- class: memory
-- Strings of the longest size that is allowed, all of them kept.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    for i = 1, 100000 do list[i] = ("%08d"):format(i):rep(1000) end
    return #list
  end,
}
