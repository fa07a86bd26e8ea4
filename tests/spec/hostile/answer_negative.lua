-- class: answers
-- To be asked again before now.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { wait = -1 }
  end,
}
