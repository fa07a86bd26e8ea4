-- class: escapes
-- The registry, where everything of a Lua state is.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return #debug.getregistry()
  end,
}
