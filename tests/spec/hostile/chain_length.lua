-- class: chains
-- Asks for the length of a table that is one long chain, after every change of it.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list, n = {}, 0
    for i = 1, 1025 do list[i * 2047] = 1 end
    while true do
      n = n + #list
      list[2047 * 5000] = nil
    end
  end,
}
