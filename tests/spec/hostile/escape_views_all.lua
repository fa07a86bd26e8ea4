-- class: escapes
-- harmless
-- Writes to everything that it is shown, in every way there is: nothing gives way.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local n = 0
    local function try(f, ...)
      if pcall(f, ...) then n = n + 1 end
    end
    try(table.insert, ctx.runners, 1)
    try(table.remove, ctx.runners)
    try(table.sort, ctx.runners, function() return true end)
    try(table.move, { 1 }, 1, 1, 1, ctx.runners)
    try(setmetatable, ctx, {})
    try(setmetatable, ctx.runners[1], nil)
    try(function() ctx.x = 1 end)
    try(function() string.x = 1 end)
    try(function() math.huge = 1 end)
    try(function() getmetatable("").x = 1 end)
    try(function() ctx.plan.metadata.attack = "no" end)
    if n > 0 then return nil end -- and then nobody runs it
    return ctx.runners[1]
  end,
}
