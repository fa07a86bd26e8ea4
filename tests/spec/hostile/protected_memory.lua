-- class: protected
-- Runs out of memory under pcall, again and again.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    while true do
      pcall(function()
        local list = { "x" }
        while true do table.move(list, 1, #list, #list + 1) end
      end)
    end
  end,
}
