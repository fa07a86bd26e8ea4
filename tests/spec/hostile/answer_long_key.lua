-- class: answers
-- A key of eight kilobytes.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { key = ("k"):rep(8000), limit = 1 }
  end,
}
