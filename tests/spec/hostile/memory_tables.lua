-- class: memory
-- A table of tables without an end.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local list = {}
    while true do list[#list + 1] = { {}, {}, {} } end
  end,
}
