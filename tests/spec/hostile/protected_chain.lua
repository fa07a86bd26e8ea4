-- class: protected
-- pcall of pcall of pcall, hundreds deep, around a loop.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local list = {}
    for i = 1, 150 do list[i] = pcall end
    list[#list + 1] = function()
      while true do end
    end
    while true do pcall(table.unpack(list)) end
  end,
}
