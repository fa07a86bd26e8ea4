-- class: memory
-- Arguments that become one more at every call.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local function grow(n, ...)
      if n == 0 then return select("#", ...) end
      return grow(n - 1, 1, ...)
    end
    return grow(3000)
  end,
}
