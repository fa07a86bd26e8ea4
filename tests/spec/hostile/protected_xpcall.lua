-- class: protected
-- xpcall with a handler that loops. There is no xpcall.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    xpcall(error, function()
      while true do end
    end)
  end,
}
