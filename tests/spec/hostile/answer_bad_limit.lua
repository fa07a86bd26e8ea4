-- class: answers
-- A limit that lets nobody in.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { key = "closed", limit = 0 }
  end,
}
