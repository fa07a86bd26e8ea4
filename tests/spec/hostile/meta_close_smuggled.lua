-- class: metamethods
-- A variable whose closing loops, by a metamethod that came later.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local meta = {}
    local object = setmetatable({}, meta)
    meta.__close = function()
      while true do end
    end
    local guard <close> = object
    return guard and 1
  end,
}
