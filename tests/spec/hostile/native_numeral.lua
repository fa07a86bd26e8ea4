-- class: c functions
-- Counts with a text of eight thousand digits, which is read anew each time.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local digits = "0." .. ("7"):rep(8000)
    while true do digits = digits + 0 end
  end,
}
