-- class: memory
-- A table that doubles: few instructions, much memory.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = { "x" }
    while true do table.move(list, 1, #list, #list + 1) end
  end,
}
