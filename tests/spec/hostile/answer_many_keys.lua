-- class: answers
-- A hundred admission keys.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local keys = {}
    for i = 1, 100 do keys[i] = { key = ("k%d"):format(i), limit = 1 } end
    return { keys = keys }
  end,
}
