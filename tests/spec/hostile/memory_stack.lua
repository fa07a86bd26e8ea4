-- class: memory
-- A stack of many arguments on many levels.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local function deeper(...) return deeper(1, 2, 3, 4, 5, 6, 7, 8, ...), 1 end
    return deeper()
  end,
}
