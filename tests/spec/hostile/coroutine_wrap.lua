-- class: coroutines
-- Wraps a loop that yields.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    for pause in coroutine.wrap(function()
      while true do coroutine.yield(1) end
    end) do
      if pause > 1 then return { after = pause } end
    end
  end,
}
