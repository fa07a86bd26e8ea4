-- class: c functions
-- Walks tables whose keys are long and differ at their ends.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local texts = {}
    for i = 1, 120 do texts[i] = ("x"):rep(8000) .. i * 7919 % 1000 end
    while true do
      local keys = {}
      for _, text in ipairs(texts) do keys[text] = true end
      for key in pairs(keys) do texts[#texts] = key end
    end
  end,
}
