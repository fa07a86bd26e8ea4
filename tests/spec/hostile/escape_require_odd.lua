-- class: escapes
-- Requires a name with bytes in it that end names elsewhere.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return require "default\n/../../secret"
  end,
}
