-- class: c functions
-- Joins numbers, which become texts unseen, many in one go.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local a, text = 5e-324, nil
    while true do
      text = a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a .. a
    end
  end,
}
