-- class: errors
-- Errors of every kind, the last of which cannot even be told.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local function ring()
      local t = {}
      t.t = t
      return setmetatable(t, { __tostring = function() error(t) end })
    end
    pcall(error, ring())
    pcall(error, function() end)
    pcall(error, nil)
    pcall(error, 0 / 0)
    pcall(error, ("\xff\27[31m\1"):rep(1000))
    pcall(error, "x", 2147483648)
    pcall(error, "x", -5)
    error(ring())
  end,
}
