-- class: bytecode
-- Runs bytecode that no compiler made.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return load("\27Lua\x54\1\x19\x93\r\n\x1a\n", "=evil", "b")()
  end,
}
