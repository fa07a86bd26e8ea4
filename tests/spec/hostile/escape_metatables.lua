-- class: escapes
-- harmless
-- Asks for the metatables of what it is shown: there are none to be had.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    if getmetatable(ctx) or getmetatable("") or getmetatable(ctx.runners) then return nil end
    return ctx.runners[1]
  end,
}
