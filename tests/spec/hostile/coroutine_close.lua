-- class: coroutines
-- Closes a coroutine whose variable takes for ever to close.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local co = coroutine.create(function()
      local guard <close> = setmetatable({}, { __close = function()
        while true do end
      end })
      coroutine.yield(guard)
    end)
    coroutine.resume(co)
    coroutine.close(co)
    return nil
  end,
}
