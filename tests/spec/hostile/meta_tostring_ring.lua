-- class: metamethods
-- A text that is made by making the text of another such object.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local meta = {}
    meta.__tostring = function() return ("%s"):format(setmetatable({}, meta)) end
    return tostring(setmetatable({}, meta))
  end,
}
