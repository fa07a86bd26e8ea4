-- class: escapes
-- The metatable of strings, which all strings share.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    getmetatable("").__index = function() return "everything" end
    return ctx.runners[1]
  end,
}
