-- class: answers
-- A misspelt answer.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { afer = 3 }
  end,
}
