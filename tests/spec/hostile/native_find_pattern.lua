-- class: c functions
-- harmless
-- A pattern that takes for ever to fail. There are no patterns: it is plain text, and not found.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local text = ("a"):rep(120)
    if text:find((".-"):rep(5) .. "b") then return nil end
    return ctx.runners[1]
  end,
}
