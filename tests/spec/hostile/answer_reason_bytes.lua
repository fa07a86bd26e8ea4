-- class: answers
-- harmless
-- A reason of eight kilobytes that is no text: cut, and made one.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return ctx.runners[1], ("\xff\1\n\27[2J"):rep(1000)
  end,
}
