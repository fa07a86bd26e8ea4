-- class: c functions
-- Looks for what is nearly there at every place, thousands of times.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local hay, needle = ("a"):rep(8000), ("a"):rep(4000) .. "b"
    local n = 0
    for _ = 1, 4000 do n = n + (hay:find(needle) or 0) end
    return n > 0 and { wait = n } or nil
  end,
}
