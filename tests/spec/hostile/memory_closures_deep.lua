-- class: memory
-- harmless
-- Functions in functions, each returned by a call of the next: no recursion that is kept.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local function deeper(n)
      if n == 0 then return ctx.runners[1] end
      return (function() return deeper(n - 1) end)()
    end
    return deeper(900)
  end,
}
