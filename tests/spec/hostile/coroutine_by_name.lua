-- class: coroutines
-- Looks for coroutines under a name put together at run time.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local library = _ENV[("co"):rep(1) .. "routine"]
    return library.running() and nil
  end,
}
