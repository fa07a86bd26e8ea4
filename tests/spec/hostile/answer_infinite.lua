-- class: answers
-- A timeout without an end.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { execution = math.huge }
  end,
}
