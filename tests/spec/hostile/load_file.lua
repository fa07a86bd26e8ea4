-- class: bytecode
-- Runs another file.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return dofile "/etc/hostname"
  end,
}
