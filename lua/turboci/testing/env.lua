-- env: an engine to test against, with the few words that specs need. One API over two worlds, virtual and grpc; a spec
-- that uses neither advance nor engine does not know in which it runs.

local client = require "turboci.client"
local mock_runner = require "turboci.testing.mock_runner"
local options = require "turboci.workflow.options"
local policies = require "turboci.policies"
local report = require "turboci.testing.report"
local watch = require "turboci.testing.watch"
local where = require "turboci.workflow.where"
local workflow = require "turboci.workflow"

---@class turboci.testing.World
---@field name "virtual"|"grpc"
---@field engine turboci.core.Virtual? virtual only

---@class turboci.testing.Env
---@field client turboci.client.Client
---@field world turboci.testing.World
---@field plans turboci.testing.Plan[] made by this env
local Env = {}
Env.__index = Env

---@class turboci.testing.Plan what create_plan and submit return; goes wherever a plan is asked for
---@field id string
---@field env turboci.testing.Env
---@field events turboci.testing.Recorder all that happened to it

-- Those not stopped yet. In the registry, since busted loads this module anew for each file.
local registry = debug.getregistry()
local open = registry["turboci.testing.envs"] or {}
registry["turboci.testing.envs"] = open

local known_options = {
  world = "string",
  limits = "table",
  db = "string",
  seed = "integer",
  start = "number",
  policy = "string",
  policies = "string|table",
  policy_for = "table",
}

---@class turboci.testing.EnvOptions
---@field world "virtual"|"grpc"|nil default: $TURBOCI_WORLD, or virtual
---@field limits table<string, integer>? limits of the engine
---@field db string? a file; default: memory, in the grpc world a temporary file
---@field seed integer? of the virtual world's randomness
---@field start number? wall clock of the virtual world at the start, seconds since 1970
---@field policy string? the server's default policy: its name, or its file, whose folder is then a policies folder
---@field policies string|string[]|nil folders of policies, before the shipped ones; {}: the shipped ones
---@field policy_for table<string, string>? policies of runner types, by name

-- With the policies as its world wants them: folders, and names. To load the shipped ones takes longer than most specs:
-- outside the program (`turboci test`) they are there when policies are spoken of.
local function with_policies(given)
  local out = {}
  for key, value in pairs(given) do out[key] = value end
  if not (given.policies or given.policy or given.policy_for or package.preload["turboci.core"]) then return out end
  local folders = type(given.policies) == "string" and { given.policies } or given.policies
  local found, err = policies.resolve { policies = folders, policy = given.policy, policy_for = given.policy_for }
  if not found then where.fail("env: " .. err) end
  out.policies, out.policy, out.policy_for = found.policies, found.policy, found.policy_for
  return out
end

---@param given turboci.testing.EnvOptions?
---@return turboci.testing.Env
local function new(given)
  given = with_policies(options.check("env", given, known_options))
  local name = given.world or os.getenv "TURBOCI_WORLD" or "virtual"
  if name ~= "virtual" and name ~= "grpc" then
    error(("env: world is %q; expected \"virtual\" or \"grpc\""):format(name), 2)
  end
  local world = require("turboci.testing." .. name).new(given)
  local self = setmetatable({
    world = world,
    engine = world.engine,
    has_policies = given.policies ~= nil,
    client = client.new(world:transport()),
    plans = {},
    recorders = {},
    runners = {},
    runner_count = 0,
    body_count = 0,
  }, Env)
  open[self] = true
  return self
end

---Stops the envs that no spec has stopped. Used by `turboci test`, at its end.
local function stop_all()
  for env in pairs(open) do pcall(env.stop, env) end
end

-- What is wrong with a call belongs to the line of the spec that made it.
local function must(response, err)
  if not response then where.fail(tostring(err)) end
  return response
end

local function id_of(plan)
  return type(plan) == "table" and plan.id or plan
end

-- ---- plans ----

---@param metadata table<string, string>?
---@param watch_fields table? of the WatchWorkPlanRequest behind plan.events, beside those that env:watch sets
---@param policy string? name of the plan's own policy
---@return turboci.testing.Plan
function Env:create_plan(metadata, watch_fields, policy)
  local response, err = self.client:create_work_plan { metadata = metadata or {}, policy = policy }
  if policy and not response and self.engine and not self.has_policies then
    where.fail(("%s\n  testing.env { policies = {} } has the shipped policies"):format(err))
  end
  must(response, err)
  local plan = { id = response.work_plan.id, env = self }
  -- Creating the plan is its first change: everything after that is wanted, however late the watch arrives.
  local request = { after_sequence = 1 }
  for key, value in pairs(watch_fields or {}) do request[key] = value end
  plan.events = self:watch(plan, request)
  table.insert(self.plans, plan)
  return plan
end

---Records the events of a plan.
---@param plan turboci.testing.Plan|string
---@param request table? further fields of WatchWorkPlanRequest
---@return turboci.testing.Recorder
function Env:watch(plan, request)
  local full = { work_plan_id = id_of(plan), include_checks = true, include_stages = true, include_progress = true }
  for key, value in pairs(request or {}) do full[key] = value end
  local recorder = watch.new(self.world, self.client:watch(full))
  table.insert(self.recorders, recorder)
  return recorder
end

---Writes nodes.
---@param plan turboci.testing.Plan|string
---@param nodes table checks, stages and further fields of WriteNodesRequest
---@return table? response
---@return turboci.Error? err
function Env:write(plan, nodes)
  local request = { work_plan_id = id_of(plan) }
  for key, value in pairs(nodes) do request[key] = value end
  local recorder = type(plan) == "table" and plan.events
  -- What settled before is settled no more: a wait after this write is for the end of what it adds.
  local settled = recorder and recorder.settled
  if settled then recorder.settled = false end
  local response, err = self.client:write_nodes(request)
  if settled and not response then recorder.settled = true end
  return response, err
end

---Creates a plan and writes all of it at once. Bodies in Lua are run by this env.
---@param what turboci.workflow.Plan|{checks: table[]?, stages: table[]?, metadata: table?, policy: string?}
---@return turboci.testing.Plan
function Env:submit(what)
  local writes = what
  if workflow.is_plan(what) then
    writes = what:writes()
    if next(what.bodies) then
      local runner = require("turboci.testing.bodies").host(self, what)
      for _, stage in ipairs(writes.stages) do
        if what.bodies[stage.id] then stage.runner_type = runner.type end
      end
    end
  end
  local plan = self:create_plan(writes.metadata, nil, writes.policy)
  must(self:write(plan, { checks = writes.checks, stages = writes.stages }))
  return plan
end

-- ---- reading ----

---@param plan turboci.testing.Plan|string
---@return table WorkPlan
function Env:plan(plan)
  return must(self.client:get_work_plan { id = id_of(plan) }).work_plan
end

---All nodes of a plan.
---@param plan turboci.testing.Plan|string
---@return table {checks =, stages =}
function Env:query(plan)
  return must(self.client:query_nodes { work_plan_id = id_of(plan), include_checks = true, include_stages = true })
end

---@param plan turboci.testing.Plan|string
---@param id string
---@return table? Stage
function Env:stage(plan, id)
  local response = must(self.client:query_nodes {
    work_plan_id = id_of(plan), stage_ids = { id }, include_stages = true,
  })
  return response.stages[1]
end

---@param plan turboci.testing.Plan|string
---@param id string
---@return table? Check
function Env:check(plan, id)
  local response = must(self.client:query_nodes {
    work_plan_id = id_of(plan), check_ids = { id }, include_checks = true,
  })
  return response.checks[1]
end

---The executions of a plan, or of one of its stages.
---@param plan turboci.testing.Plan|string
---@param stage_id string?
---@return table[] StageExecutions
function Env:executions(plan, stage_id)
  return must(self.client:list_stage_executions { work_plan_id = id_of(plan), stage_id = stage_id }).executions
end

---The latest execution of a stage, or that of one attempt.
---@param plan turboci.testing.Plan|string
---@param stage_id string
---@param attempt integer?
---@return table? StageExecution
function Env:execution(plan, stage_id, attempt)
  local list = self:executions(plan, stage_id)
  return list[attempt or #list]
end

---Why a node waits, was skipped, failed, or ran where it ran.
---@param plan turboci.testing.Plan|string
---@param id string
---@param kind "stage"|"check"|nil default: whatever has this id, a stage before a check
---@return {explanations: table[], decisions: table[]} ExplainNodeResponse
function Env:why(plan, id, kind)
  kind = kind or not self:stage(plan, id) and self:check(plan, id) and "check" or "stage"
  return must(self.client:explain_node { work_plan_id = id_of(plan), [kind .. "_id"] = id })
end

---The decisions of policies that are on record for a stage, of all attempts, in order.
---@param plan turboci.testing.Plan|string
---@param stage_id string
---@param hook string? only those of this hook
---@return table[] PolicyDecisions
function Env:decisions(plan, stage_id, hook)
  local out = {}
  for _, decision in ipairs(must(self.client:explain_node {
    work_plan_id = id_of(plan), stage_id = stage_id,
  }).decisions) do
    if not hook or decision.hook == hook then out[#out + 1] = decision end
  end
  return out
end

-- ---- policies ----

---The engine looks at its policies folders now. A file that it cannot take over is no error: it is told in `error` of
---the policy.
---@return {policies: table[], changed: string[]} ReloadPoliciesResponse
function Env:reload_policies()
  return must(self.client:reload_policies {})
end

---What the engine knows of a policy: version, calls, faults, circuit, error of its file.
---@param name string
---@return table? PolicyInfo
function Env:policy(name)
  for _, info in ipairs(must(self.client:list_policies {}).policies) do
    if info.name == name then return info end
  end
end

-- ---- runners ----

---@param given turboci.testing.MockRunnerOptions? see testing/mock_runner.lua
---@return turboci.testing.MockRunner
function Env:mock_runner(given)
  local runner = mock_runner.new(self, given)
  table.insert(self.runners, runner)
  return runner
end

---What a hook returns to break its connection: return env.disconnect()
function Env.disconnect()
  return mock_runner.DISCONNECT
end

---What a hook returns for a success with this result in every assigned check.
Env.success = mock_runner.success
---What a hook returns to report a failure.
Env.failure = mock_runner.failure

-- ---- waiting ----

---Runs fn beside the spec, as one more client of the server. What it raises is raised by a wait.
---@param fn function
function Env:spawn(fn)
  self.world:spawn(function()
    fn()
    self.world:wake()
  end)
end

local function is_settled(plan)
  return function()
    if plan.events.ended then error("the watch of plan " .. plan.id .. " ended: " .. tostring(plan.events.err), 0) end
    return plan.events.settled
  end
end

---What every open node of the plans waits for.
---@return string
function Env:explain()
  local parts = {}
  for i, plan in ipairs(self.plans) do parts[i] = report.plan(self.client, plan.id) end
  return table.concat(parts, "\n")
end

---Waits for a plan to settle, or for a function to return something true, which is returned. The virtual world jumps
---from timer to timer and fails as soon as nothing is left that could happen; the real one has a bound of 20 seconds.
---@param condition turboci.testing.Plan|fun(): any
---@param given {timeout: number|string}?
---@return any
function Env:wait(condition, given)
  given = options.check("wait", given, { timeout = "number|string" })
  local what = "its condition"
  if type(condition) == "table" and condition.events then
    what = "plan " .. condition.id .. " to settle"
    condition = is_settled(condition)
  elseif type(condition) ~= "function" then
    error("wait: expected a plan of this env or a function, got " .. type(condition), 2)
  end
  local result = table.pack(self.world:wait(condition, given.timeout and options.duration("timeout", given.timeout)))
  if not result[1] then error(("waited for %s in vain\n%s"):format(what, self:explain()), 2) end
  return table.unpack(result, 1, result.n)
end

---Waits until the plan's events have shown a node reach a state: afterwards they are there up to this one. (A query
---may be ahead of them.) Fails like wait.
---@param plan turboci.testing.Plan
---@param kind "stage"|"check"
---@param id string
---@param state string
---@return integer sequence of the event
function Env:wait_for(plan, kind, id, state)
  local sequence = self.world:wait(function() return plan.events:sequence_of(kind, id, state) end)
  if not sequence then
    error(("waited for %s '%s' to be %s in vain\n%s"):format(kind, id, state, self:explain()), 2)
  end
  return sequence
end

---Lets everything happen that happens without time passing. After it, "nothing happened" can be asserted.
function Env:settle()
  self.world:settle()
end

---Lets time pass, running what falls due on the way. Virtual world only.
---@param duration number|string seconds, or "1h30m"
function Env:advance(duration)
  self.world:advance(options.duration("advance", duration))
end

---Throws the engine away without a word and makes a new one of its journal; needs a db file. Open calls and watches
---end, as they do when a server is killed. Virtual world only.
function Env:restart()
  self.world:restart()
end

---Sends a request as bytes.
---@param method string name or path
---@param bytes string
---@return string code "OK", "INVALID_ARGUMENT"
---@return string message
---@return string? response bytes
function Env:raw(method, bytes)
  local code, message, response = self.world:raw(method, bytes)
  return require("turboci.core").codes[code] or tostring(code), message, response
end

---Ends everything this env started. Raises when the engine ends badly.
function Env:stop()
  if self.stopped then return end
  self.stopped, open[self] = true, nil
  for _, recorder in ipairs(self.recorders) do recorder:close() end
  for _, runner in ipairs(self.runners) do runner:disconnect() end
  self.world:stop()
end

return { new = new, stop_all = stop_all }
