-- class: protected
-- Asks again until the loop is not interrupted.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local ok
    repeat
      ok = pcall(function()
        for _ = 1, 1000000000 do end
      end)
    until ok
    return 1
  end,
}
