-- class: answers
-- Answers with two hundred and fifty values.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    return table.unpack({ 1 }, 1, 250)
  end,
}
