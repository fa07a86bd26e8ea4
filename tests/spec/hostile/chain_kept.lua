-- class: chains
-- harmless
-- A table that is kept, with more and more keys in one chain.

local kept, count = {}, 0

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    for _ = 1, 900 do
      count = count + 1
      kept[count * 65535] = true
    end
    return ctx.runners[1]
  end,
}
