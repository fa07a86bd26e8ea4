-- class: memory
-- Functions that hold functions.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local function nothing() end
    local f = nothing
    while true do
      local g = f
      f = function() return g end
    end
  end,
}
