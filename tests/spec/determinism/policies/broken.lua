-- Answers while it is looked at, and fails in earnest: loops, takes memory, raises, lies. Its circuit opens and closes.
local function loop() while true do end end
local attacks = {
  loop,
  function() local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end end,
  function() error { code = 1 } end,
  function() return "nobody" end,
  function() pcall(loop) return nil end,
}

return {
  select = function(ctx)
    if ctx.plan.id == "sample" then return ctx.runners[1] end
    return attacks[ctx.random(#attacks)]()
  end,
  retry = function(ctx)
    if ctx.plan.id == "sample" then return nil end
    if ctx.random(2) == 1 then attacks[ctx.random(#attacks)]() end
    return { after = ctx.random() * 5 }, "again"
  end,
}
