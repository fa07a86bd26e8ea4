-- class: loops
-- Two functions that call each other in turns, within a loop.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local odd
    local function even(n) return n > 50 and 0 or odd(n + 1) end
    odd = function(n) return even(n + 1) end
    repeat local n = even(0) until n == 1
  end,
}
