-- class: answers
-- A pause that is not a number.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { after = 0 / 0 }
  end,
}
