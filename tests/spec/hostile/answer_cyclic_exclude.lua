-- class: answers
-- A list of runners that is in itself.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    list[1] = list
    return { after = 0, exclude = list }
  end,
}
