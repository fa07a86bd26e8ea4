-- class: protected
-- An endless loop in a pcall in an endless loop: what ends the inner one must end the outer.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    while true do
      pcall(function()
        while true do end
      end)
    end
  end,
}
