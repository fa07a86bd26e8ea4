-- class: answers
-- A wait with itself as a key.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local answer = { wait = 1 }
    answer[answer] = answer
    return answer
  end,
}
