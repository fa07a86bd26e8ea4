-- class: metamethods
-- A concatenation that concatenates.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local meta = {}
    meta.__concat = function(a, b) return a .. b end
    return { execution = #(setmetatable({}, meta) .. setmetatable({}, meta)) }
  end,
}
