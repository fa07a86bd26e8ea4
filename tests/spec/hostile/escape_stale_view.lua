-- class: escapes
-- harmless
-- Keeps what it was shown and looks at it in later calls: it is old, or it is an error, and never freed memory.

local kept = {}

return {
  select = function(ctx)
    if not ctx.plan.metadata.attack then return ctx.runners[1] end
    local runner = kept[1] and kept[1].runners[1]
    for _, old in ipairs(kept) do
      local _ = old.runners[1].metadata.zone, #old.attempts, old.stage.args, old.plan.metadata.attack
    end
    kept[#kept % 20 + 1] = ctx
    return runner or ctx.runners[1]
  end,
}
