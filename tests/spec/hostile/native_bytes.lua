-- class: c functions
-- Takes a string of eight kilobytes to bytes at once.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { after = select("#", ("x"):rep(8000):byte(1, -1)) }
  end,
}
