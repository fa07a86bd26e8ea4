-- class: loops
-- Loops in loops, with an end in a few thousand years.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local sum = 0
    for i = 1, 1000000 do
      for j = 1, 1000000 do
        for k = 1, 1000000 do sum = sum + i * j * k end
      end
    end
    return sum
  end,
}
