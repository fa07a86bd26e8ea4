-- class: protected
-- An error handler by the back door: the error is raised by a metamethod that loops first, and is caught.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local trap = setmetatable({}, { __index = function()
      for _ = 1, 100000 do end
      error "again"
    end })
    while true do
      pcall(function() return trap.anything end)
    end
  end,
}
