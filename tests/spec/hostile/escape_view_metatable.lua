-- class: escapes
-- Puts a metatable on what it is shown.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    setmetatable(ctx.plan, { __index = function() return "mine" end })
    return { after = 0 }
  end,
}
