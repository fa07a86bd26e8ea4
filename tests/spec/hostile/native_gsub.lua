-- class: c functions
-- Patterns by their other names. They are not there.

return {
  priority = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return #("(("):rep(4000):gsub("%b()", "")
  end,
}
