-- class: escapes
-- Takes the metatable of what it is shown, for the functions in it.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local meta = getmetatable(ctx.runners or ctx.attempts)
    return meta.__index(ctx, "plan")
  end,
}
