-- class: answers
-- harmless
-- An answer whose fields are made by a function that loops: it is not asked, so it says nothing.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return setmetatable({}, { __index = function()
      while true do end
    end })
  end,
}
