-- class: bytecode
-- Compiles a loop at run time.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return load("while true do end")()
  end,
}
