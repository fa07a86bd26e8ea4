-- class: c functions
-- Goes over eight kilobytes with every instruction.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local text = ("a"):rep(8192)
    for _ = 1, 1000000 do
      text = text:upper():lower():reverse()
    end
    return #text
  end,
}
