-- For the specs of why: waits, holds keys, retries and fails as the plan's metadata say.
return {
  description = "does what the plan's metadata say",

  select = function(ctx)
    local metadata = ctx.plan.metadata
    if metadata.closed then return nil, "the gate is closed" end
    if metadata.nap then return { wait = 3600 }, "a nap" end
    if metadata.broken then error("this gate is broken") end
    return ctx.runners[#ctx.runners], "the last one fits"
  end,

  admit = function(ctx)
    local key = ctx.plan.metadata.key
    if key then return { key = key, limit = 1 }, "one at a time" end
    if ctx.plan.metadata.night then return { wait = 3600 }, "it is night" end
  end,

  retry = function(ctx)
    if ctx.plan.metadata.retry == "elsewhere" then
      return { exclude = { ctx.attempts[#ctx.attempts].runner } }, "not there again"
    elseif ctx.plan.metadata.retry == "later" then
      return { after = 3600 }, "it may be better in an hour"
    end
    return nil, "once is enough"
  end,
}
