-- class: memory
-- Makes a string of many in one instruction.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local s = ("x"):rep(8000)
    return #(s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s .. s)
  end,
}
