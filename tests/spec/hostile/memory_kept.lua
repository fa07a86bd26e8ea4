-- class: memory
-- harmless
-- Keeps a little of every call, for ever, and answers well.

local kept = {}

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    for _ = 1, 40 do kept[#kept + 1] = ("%d"):format(#kept):rep(1000) end
    return ctx.runners[1]
  end,
}
