-- class: errors
-- An assertion whose message is a table in a table.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    assert(false, { { "why" } })
  end,
}
