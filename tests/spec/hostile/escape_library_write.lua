-- class: escapes
-- Puts a function of its own into a library, for others to call.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    function string.format() return "owned" end
    function table.sort() end
    function math.floor()
      while true do end
    end
    return { execution = math.floor(5.5) }
  end,
}
