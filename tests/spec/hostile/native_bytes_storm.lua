-- class: c functions
-- Takes strings to bytes and back, hundreds of values a call.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local text = ("x"):rep(8000)
    while true do
      for from = 1, #text, 200 do text = text:sub(1, from - 1) .. string.char(text:byte(from, from + 199)) end
    end
  end,
}
