-- class: c functions
-- Formats that make text of thousands of bytes, and double it.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local text = ("%99.99f"):format(1e308)
    while true do text = ("%s%s"):format(text, text) end
  end,
}
