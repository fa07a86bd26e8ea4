-- class: c functions
-- Compares strings of eight kilobytes which differ in the last byte.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local a, b = ("a"):rep(8191) .. "b", ("a"):rep(8191) .. "c"
    local n = 0
    while a < b do n = a == b and n or n + 1 end
    return n
  end,
}
