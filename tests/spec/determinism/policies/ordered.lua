-- Decides by the order in which pairs walks, and by chance: both must be the same everywhere.
return {
  select = function(ctx)
    local word = ""
    for key, value in pairs(ctx.runners[1].metadata) do word = word .. key .. "=" .. value .. " " end
    local set = {}
    for _, runner in ipairs(ctx.runners) do set[runner.id] = runner end
    local last
    for _, runner in pairs(set) do
      if ctx.random(3) > 1 then last = runner end
    end
    if not last then return { wait = 1 + ctx.random() }, "nobody drawn: " .. word end
    return last, word .. tostring(set) .. #tostring(pairs)
  end,
  priority = function(ctx) return ctx.random(-5, 5) end,
  timeout = function(ctx) return { execution = 100 + ctx.random(), queue = 3600 } end,
}
