-- class: metamethods
-- A weak table: what is in it would depend on the collector.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local memory = setmetatable({}, { __mode = "kv" })
    memory[1] = {}
    return memory[1] and { key = "weak", limit = 1 } or nil
  end,
}
