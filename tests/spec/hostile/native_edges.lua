-- class: c functions
-- harmless
-- Every function at the edges of what an integer is: errors, or answers, and nothing else.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local low, high = math.mininteger, math.maxinteger
    local tries = {
      function() return 1 // 0 end, function() return 1 % 0 end, function() return low // -1 end,
      function() return low % -1 end, function() return 1 << 64, 1 << -1, high + 1 end,
      function() return ("%d"):format(2 ^ 63) end, function() return ("%99.99g"):format(1e308) end,
      function() return ("%-+ #0-+ #0d"):format(1) end, function() return ("%"):format(1) end,
      function() return math.floor(0 / 0), math.tointeger(2 ^ 63) end,
      function() return ("x"):sub(low, high), ("x"):byte(low, high) end,
      function() return ("x"):find("x", low), ("x"):find("x", high) end,
      function() return ("x"):rep(high, "") end, function() return (""):rep(high) end,
      function() return table.concat({}, "", low, low) end, function() return table.concat({}, "", low, high) end,
      function() return table.unpack({}, low, high) end, function() return table.unpack({}, high, high) end,
      function() return select(low, 1) end, function() return ctx.random(low, high), ctx.random(0) end,
      function() return tonumber("z", 37) end, function() return tonumber(("9"):rep(200)), tonumber("1e", 16) end,
      function() return string.char(256) end, function() return math.ult(low, high), math.abs(low), -low end,
    }
    for _, try in ipairs(tries) do pcall(try) end
    return ctx.runners[1]
  end,
}
