-- class: metamethods
-- Metamethods of all kinds, each of which asks for itself again.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local meta = {}
    local function object() return setmetatable({}, meta) end
    meta.__index = function(t, key) return t[key + 1] end
    meta.__eq = function() return object() == object() end
    meta.__concat = function(a, b) return a .. b end
    meta.__lt = function(a, b) return a < b end
    meta.__unm = function(a) return -a end
    meta.__call = function(f, ...) return f(...) end
    local a, b = object(), object()
    pcall(function() return a == b end)
    pcall(function() return a .. b end)
    pcall(function() return a < b end)
    pcall(function() return -a end)
    pcall(function() return a[1] end)
    return a(1)
  end,
}
