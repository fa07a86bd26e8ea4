-- class: coroutines
-- harmless
-- Takes the error of the missing coroutines and answers well: nothing has happened.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local ok = pcall(function() coroutine.yield() end)
    return not ok and ctx.runners[1] or nil
  end,
}
