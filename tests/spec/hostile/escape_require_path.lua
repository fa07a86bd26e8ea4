-- class: escapes
-- Requires by a path, out of the folder.

return {
  admit = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    return require "../../../../etc/passwd"
  end,
}
