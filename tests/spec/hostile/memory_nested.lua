-- class: memory
-- A table in a table in a table, for whoever walks down.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local top = {}
    local inner = top
    for _ = 1, 100000 do
      inner.keys = {}
      inner = inner.keys
    end
    return top
  end,
}
