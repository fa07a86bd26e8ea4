-- class: memory
-- A string that doubles.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local text = "x"
    while true do text = text .. text end
  end,
}
