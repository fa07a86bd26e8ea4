-- class: protected
-- Each call protects two more: two to the power of the deepest stack.

return {
  retry = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local function branch()
      pcall(branch)
      pcall(branch)
    end
    branch()
    return { after = 0 }
  end,
}
