-- class: metamethods
-- A finaliser put into a metatable that is in use already, which is then set again.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local meta = {}
    local object = setmetatable({}, meta)
    meta.__gc = function()
      while true do end
    end
    setmetatable(object, meta)
    return { after = 0 }
  end,
}
