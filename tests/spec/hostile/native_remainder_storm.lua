-- class: c functions
-- Remainders that take a thousand steps each, without end.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local n
    while true do n = 1e308 % 5e-324 end
  end,
}
