-- class: metamethods
-- The same under pcall, twice at each turn.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local meta = {}
    meta.__tostring = function()
      pcall(string.format, "%s%s", setmetatable({}, meta), setmetatable({}, meta))
      return "x"
    end
    return tostring(setmetatable({}, meta))
  end,
}
