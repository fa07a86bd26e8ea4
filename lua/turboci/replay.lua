-- replay: a candidate policy over recorded history, in virtual time, compared with what happened.
--
--     journal file -> history (what came from outside) -> world (the real engine, the candidate) -> compare
--
-- It is what the history would have been on a server started with `--policy CANDIDATE`: the candidate decides for every
-- stage, unless its plan names a policy of its own (`all`: even then) or policy_for gives its runner type another one.
-- The whole history is held in memory, a few kilobytes a stage. Used by `turboci policy replay`, and by specs.

local M = {}

local allowed = { db = "string", policy = "string", policies = "table", policy_for = "table", all = "boolean",
  plan = "string", limits = "table", progress = "function" }

---@class turboci.replay.Options
---@field db string the journal's file
---@field policy string the candidate's file (or the name of one in the folders)
---@field policies string[]? folders of other policies
---@field policy_for table<string, string>? runner type -> name
---@field all boolean? the candidate decides for plans with a policy of their own, too
---@field plan string? look at this plan only; all are replayed
---@field limits table<string, integer>? the server's then, where they were not the defaults
---@field progress fun(phase: "read"|"replay", done: integer, of: integer?)?

-- The candidate, tried alone: its mistakes are told with their line.
local function open_candidate(found)
  local core = require "turboci.core"
  for _, folder in ipairs(found.policies) do
    local path = ("%s/%s.lua"):format(folder, found.policy)
    local file = io.open(path, "r")
    if file then
      file:close()
      local policy, err = core.policy(path, { folders = found.policies })
      if not policy then return nil, err end
      local facts = { name = policy.name, version = policy.version, path = path }
      policy:close()
      return facts
    end
  end
  return nil, ("there is no policy '%s'"):format(found.policy)
end

local function has_plan(history, id)
  for _, plan in ipairs(history.plans) do
    if plan.id == id then return true end
  end
  return false
end

-- What the policies did wrong in the replay.
local function faults(infos)
  local list = require("turboci.core").list {}
  for _, info in ipairs(infos) do
    if info.faults > 0 then list[#list + 1] = { policy = info.name, faults = info.faults, last = info.last_fault } end
  end
  return list
end

local function refused(err, of)
  return nil, { of = of, message = err }
end

---@class turboci.replay.Error
---@field of "db"|"policy"|"plan" what is wrong
---@field message string

---Replays a history under a candidate.
---@param options turboci.replay.Options
---@return table? result see compare.lua; with `policy`, `history`, `faults`, `missing`, `refused`
---@return turboci.replay.Error? err
function M.run(options)
  options = require("turboci.util").check_options(options, allowed, "replay.run")
  for _, name in ipairs { "db", "policy" } do
    if not options[name] then error(("replay.run: option '%s' is missing"):format(name), 2) end
  end
  local policies = require "turboci.policies"
  local found, err = policies.resolve { policies = options.policies, policy = options.policy,
    policy_for = options.policy_for }
  if not found then return refused(err, "policy") end
  local facts
  facts, err = open_candidate(found)
  if not facts then return refused(err, "policy") end
  local progress = options.progress or function() end
  local history
  history, err = require("turboci.replay.history").read(options.db, function(records) progress("read", records) end)
  if not history then return refused(err, "db") end
  if options.plan and not has_plan(history, options.plan) then
    return refused(("%s: there is no plan '%s' in it"):format(options.db, options.plan), "plan")
  end
  local replay
  replay, err = require("turboci.replay.world").run(history, {
    policies = found.policies, policy = found.policy, policy_for = found.policy_for, all = options.all,
    limits = options.limits, progress = function(done, of) progress("replay", done, of) end,
  })
  if not replay then return refused(err, "policy") end
  local result = require("turboci.replay.compare").compare(history, options.plan)
  result.policy, result.db = facts, options.db
  result.history = { start = history.start_us / 1000000, ["end"] = history.end_us / 1000000,
    records = history.records, plans = #history.plans, runners = #history.runner_ids }
  result.faults, result.missing = faults(replay.policies), replay.missing
  result.refused, result.refusal = replay.refused, replay.refusal
  return result
end

return M
