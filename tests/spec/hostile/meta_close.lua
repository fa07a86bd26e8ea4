-- class: metamethods
-- A variable whose closing loops.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local guard <close> = setmetatable({}, { __close = function()
      while true do end
    end })
    return { execution = guard and 10 }
  end,
}
