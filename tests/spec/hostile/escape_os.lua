-- class: escapes
-- The operating system.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    os.execute "true"
    return { after = 0 }
  end,
}
