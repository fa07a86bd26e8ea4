-- class: c functions
-- The longest texts of the smallest and the largest numbers.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local text
    while true do text = ("%.99f%.99f%.99f%.99f"):format(5e-324, 1e308, 5e-324, 1e308) end
  end,
}
