-- retry_elsewhere: never again on a runner that has failed this stage, as long as another one takes it. Whether and
-- when is the built-in default's say, or the stage's own `retry`. When there is nobody else, it may go anywhere; when
-- nobody else has taken it after a while, that attempt ends, and the next may go anywhere.
--
-- Knob, metadata of the plan: `elsewhere_wait` (default 300): seconds to wait for another runner.
--
--     turboci serve --policy-for gpu=retry_elsewhere

local default = require "default"

local EXCLUDE_MAX = 256 -- what a retry may exclude

-- The runners that have failed it, each once, the latest first.
local function failed_runners(ctx)
  local list, seen = {}, {}
  for i = #ctx.attempts, 1, -1 do
    local id = ctx.attempts[i].runner
    if id and not seen[id] and #list < EXCLUDE_MAX then
      seen[id] = true
      list[#list + 1] = id
    end
  end
  return list
end

-- Nobody took the attempt that ended last.
local function found_nobody(ctx)
  local last = ctx.attempts[#ctx.attempts]
  return last ~= nil and last.runner == nil
end

return {
  description = "retries on runners that have not failed the stage",

  retry = function(ctx)
    local answer = default.retry(ctx)
    if not answer then return nil end
    if found_nobody(ctx) then return answer, "nobody else took it: anywhere" end
    if not ctx.attempt.elsewhere then return answer, "there is nobody else: anywhere" end
    answer.exclude = failed_runners(ctx)
    return answer, "not where it failed"
  end,

  timeout = function(ctx)
    local answer = default.timeout(ctx)
    if ctx.attempt.excluded > 0 and not ctx.attempt.elsewhere then
      answer.queue = 0.1 -- the others have left meanwhile: the next one may go anywhere
    elseif ctx.attempt.excluded > 0 then
      local wait = tonumber(ctx.plan.metadata.elsewhere_wait or 300) or 300
      answer.queue = math.max(0.1, math.min(wait, 2592000))
    end
    return answer
  end,
}
