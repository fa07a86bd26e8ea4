-- class: escapes
-- A library in C.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    package.loadlib("libc.so.6", "system")
    return nil
  end,
}
