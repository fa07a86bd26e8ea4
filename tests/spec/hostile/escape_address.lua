-- class: escapes
-- The address of a table, which is different in every process.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return { after = tonumber(("%p"):format({})) % 10 }
  end,
}
