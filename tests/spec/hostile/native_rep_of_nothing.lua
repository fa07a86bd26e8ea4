-- class: c functions
-- harmless
-- Nothing, repeated 9e18 times: no memory, and a loop that no hook sees.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local nothing = (""):rep(math.maxinteger)
    return { after = #nothing }
  end,
}
