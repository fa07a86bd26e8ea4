-- class: memory
-- harmless
-- Walks tables that it writes to on the walk: each walk must end.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    for i = 1, 100 do list["k" .. i] = i end
    for key in pairs(list) do
      list[key] = nil
      list[key .. "x"] = 1
    end
    for key in pairs(list) do
      for other in pairs(list) do list[other] = key end
    end
    return ctx.runners[1]
  end,
}
