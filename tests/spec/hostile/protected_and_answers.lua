-- class: protected
-- Swallows the end of its budget and answers as if nothing had been: it has no budget to answer with.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    pcall(function()
      while true do end
    end)
    return ctx.runners[1]
  end,
}
