-- class: escapes
-- The file system, by the environment.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local file = _ENV["io"].open("/etc/hostname")
    return { execution = #file:read "a" }
  end,
}
