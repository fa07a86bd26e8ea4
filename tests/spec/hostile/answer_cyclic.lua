-- class: answers
-- Keys that contain themselves.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local answer = {}
    answer.keys = answer
    answer[1] = answer
    return answer
  end,
}
