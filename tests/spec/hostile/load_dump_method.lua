-- class: bytecode
-- Takes bytecode out of a function by a method of strings.

return {
  timeout = function(ctx)
    if not ctx.plan.metadata.attack then return nil end
    local dump = ("").dump
    return { execution = #dump(load) }
  end,
}
