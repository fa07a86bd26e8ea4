-- class: c functions
-- harmless
-- Remainders that take a thousand steps each, and not enough of them for a fault.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local n
    for _ = 1, 500 do n = 1e308 % 5e-324 end
    return n
  end,
}
