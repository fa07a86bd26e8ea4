-- class: c functions
-- Reads numbers of eight thousand digits.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local digits, n = ("7"):rep(8000), 0
    for _ = 1, 1000000 do n = n + (tonumber(digits) or 0) + (tonumber(digits, 9) or 0) end
    return n < 0 and ctx.runners[1] or nil
  end,
}
