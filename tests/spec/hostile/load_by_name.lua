-- class: bytecode
-- Looks for load under names put together at run time.

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    for _, rest in ipairs { "", "string" } do
      local compile = _ENV["load" .. rest]
      compile "while true do end"()
    end
    return ctx.runners[1]
  end,
}
