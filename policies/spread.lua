-- spread: not all eggs in one basket. Runners that share something which fails or fills up as one (a host, a rack, a
-- zone) are a group. First the groups in which no attempt of this stage has failed, then the group with the fewest
-- executions; in it the least loaded runner.
--
-- Knobs: the plan's metadata `spread_by` names the runners' metadata key that makes a group (default "host"). A
-- runner without it is a group by itself. Only candidates are seen: what runs on runners that have no room does not
-- count.
--
--     runner.start { type = "build", metadata = { host = "h1" }, ... }
--     turboci.plan { name = "soak", policy = "spread", metadata = { spread_by = "zone" } }

local pick = require "_pick"

return {
  description = "over hosts (or zones): not where it failed, where least runs",

  select = function(ctx)
    local key = ctx.plan.metadata.spread_by or "host"
    local failed_on = {}
    for _, attempt in ipairs(ctx.attempts) do
      if attempt.runner then failed_on[attempt.runner] = true end
    end
    local groups, named = {}, {}
    for _, runner in ipairs(ctx.runners) do
      local value = runner.metadata[key]
      local group = value and named[value]
      if not group then
        group = { load = 0, failed = false, runners = {} }
        groups[#groups + 1] = group
        if value then named[value] = group end
      end
      group.load = group.load + runner.load
      group.failed = group.failed or failed_on[runner.id] or false
      group.runners[#group.runners + 1] = runner
    end
    local best
    for _, group in ipairs(groups) do
      group.runner = pick.least_loaded(group.runners)
      local better
      if not best or group.failed ~= best.failed then
        better = not best or best.failed
      else
        better = group.load < best.load or group.load == best.load and group.runner.used < best.runner.used
      end
      if better then best = group end
    end
    return best.runner, best.failed and "failed in every group: the least loaded" or "the least loaded group"
  end,
}
