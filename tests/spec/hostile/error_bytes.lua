-- class: errors
-- Raises eight kilobytes that are no text.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    error(("\xff\1\n\27[2J"):rep(1000), 0)
  end,
}
