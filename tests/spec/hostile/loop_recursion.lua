-- class: loops
-- A recursion without an end: the stack grows until something gives.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local function deeper(n) return 1 + deeper(n + 1) end
    return deeper(1)
  end,
}
