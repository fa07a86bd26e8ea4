-- class: answers
-- An answer that is five thousand tables deep.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local answer = {}
    for _ = 1, 2000 do answer = { answer } end
    return answer
  end,
}
