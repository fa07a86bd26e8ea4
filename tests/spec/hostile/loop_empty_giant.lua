-- class: loops
-- Walks a table that was large once and is empty, again and again.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    for i = 1, 1000 do list[i * 2] = true end
    for i = 1, 1000 do list[i * 2] = nil end
    while true do
      for _ in pairs(list) do list = {} end
    end
  end,
}
