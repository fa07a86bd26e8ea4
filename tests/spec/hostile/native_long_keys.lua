-- class: c functions
-- Long texts as keys: each is hashed whole.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    for i = 1, 1000000 do list[("x"):rep(8000) .. i] = true end
  end,
}
