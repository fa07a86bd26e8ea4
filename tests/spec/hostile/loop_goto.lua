-- class: loops
-- A jump to itself.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    ::again::
    goto again
  end,
}
