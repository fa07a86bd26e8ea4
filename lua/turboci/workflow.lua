-- workflow: the language in which plans are written.
--
--     local plan = turboci.plan { name = "build" }
--     local builds = plan:check("builds")
--     plan:stage("compile", { runner = "shell", args = { command = "make" }, finalizes = builds })
--
-- Mistakes raise at the line that made them. Names in `after` and `finalizes` may be defined later in the file, so
-- they are looked up by plan:writes(), which still blames the line that used them.
-- Pure: needs neither the engine nor the core module. Used by client:submit, the program and turboci.testing.

local graph = require "turboci.workflow.graph"
local group = require "turboci.workflow.group"
local options = require "turboci.workflow.options"
local value = require "turboci.workflow.value"
local where = require "turboci.workflow.where"

local M = {}

---@class turboci.workflow.Node what plan:stage and plan:check return; goes into `after` and `finalizes`
---@field id string
---@field type "stage"|"check"
---@field plan turboci.workflow.Plan
---@field where string "file:line" that defined it
local Node = {}
Node.__index = Node
Node.__tostring = function(self) return ("%s '%s'"):format(self.type, self.id) end

local function is_node(candidate)
  return getmetatable(candidate) == Node
end

---@class turboci.workflow.Plan
---@field name string?
---@field metadata table<string, string>
---@field policy string?
---@field bodies table<string, function> Lua bodies by stage id
---@field stages table<string, turboci.workflow.Node>
---@field checks table<string, turboci.workflow.Node>
---@field nodes turboci.workflow.Node[] in the order of their definition
local Plan = {}
Plan.__index = Plan

---@class turboci.workflow.PlanOptions
---@field name string? shown by the program; kept as metadata.name
---@field metadata table<string, string>? kept and shown; policies read it
---@field policy string? name of the policy that decides for it; default: that of the runner type, or the server's

-- A file in a policies folder, without ".lua".
local function check_policy(name)
  if name == nil or name:match "^[%w_-]+$" then return name end
  where.fail(("plan: policy: expected the name of a policy, such as \"least_loaded\", got %q%s"):format(name,
    name:match "%.lua$" and ": leave out the folder and .lua" or ""))
end

---@param plan_options turboci.workflow.PlanOptions?
---@return turboci.workflow.Plan
function M.plan(plan_options)
  local given = options.check("plan", plan_options, { name = "string", metadata = "table", policy = "string" })
  local metadata = value.texts("plan: metadata", given.metadata or {})
  if given.name and metadata.name and metadata.name ~= given.name then
    where.fail(("plan: name is '%s', but metadata.name is '%s'"):format(given.name, metadata.name))
  end
  metadata.name = given.name or metadata.name
  return setmetatable({
    name = metadata.name,
    metadata = metadata,
    policy = check_policy(given.policy),
    bodies = {},
    stages = {},
    checks = {},
    nodes = {},
    where = where.caller(),
  }, Plan)
end

---The dependency holds as soon as one of these does.
---@param items table
---@return turboci.workflow.Group
function M.any(items) return group.new("OR", items) end

---The dependency holds when all of these do (what a plain list means too).
---@param items table
---@return turboci.workflow.Group
function M.all(items) return group.new("AND", items) end

---@param candidate any
---@return boolean
function M.is_plan(candidate)
  return getmetatable(candidate) == Plan
end

local function add_node(plan, kind, id)
  if not M.is_plan(plan) then where.fail(("call it with a colon: plan:%s(id, options)"):format(kind)) end
  value.check_id(kind, id)
  local named = kind == "stage" and plan.stages or plan.checks
  if named[id] then where.fail(("%s '%s' is already defined at %s"):format(kind, id, named[id].where)) end
  return setmetatable({ id = id, type = kind, plan = plan, where = where.caller() }, Node), named
end

---@class turboci.workflow.CheckOptions
---@field kind string?
---@field options table?
---@field after any ids or nodes that come first
---@field external boolean? no stage finalizes it: a client will

---@param id string
---@param check_options turboci.workflow.CheckOptions?
---@return turboci.workflow.Node
function Plan:check(id, check_options)
  local node, named = add_node(self, "check", id)
  local what = tostring(node)
  local given =
    options.check(what, check_options, { kind = "string", options = "table", after = "any", external = "boolean" })
  if given.options then value.check_struct(what .. ": options", given.options) end
  if given.after ~= nil then node.after = group.read(what .. ": after", given.after, is_node) end
  node.external = given.external
  node.write = { id = id, state = "PLANNED", kind = given.kind, options = given.options }
  named[id] = node
  self.nodes[#self.nodes + 1] = node
  return node
end

local stage_options = {
  runner = "string|boolean",
  args = "table",
  after = "any",
  finalizes = "any",
  retry = "table",
  timeout = "number|string",
  stale = "number|string",
  mode = "string",
  priority = "integer",
  run = "function",
}

local function read_runner(what, given)
  if given.run then
    if given.runner ~= nil and given.runner ~= "lua" then
      where.fail(("%s: run is a body in Lua, so runner must be \"lua\" or left out"):format(what))
    end
    return "lua"
  end
  if given.runner == "lua" then where.fail(what .. ": runner = \"lua\" needs a body: run = function(ctx) ... end") end
  if given.runner == nil or given.runner == true or given.runner == "" then
    where.fail(what .. ": no runner: say runner = \"shell\" (or another type), run = function(ctx) ... end, "
      .. "or runner = false for a stage that clients pull")
  end
  if given.runner then value.check_id(what .. ": runner", given.runner) end
  return given.runner or nil
end

local function read_retry(what, given)
  if not given then return nil end
  what = what .. ": retry"
  options.check(what, given, { max_attempts = "integer", backoff = "number|string", backoff_max = "number|string" })
  if given.max_attempts and (given.max_attempts < 1 or given.max_attempts > 1000000) then
    where.fail(("%s: max_attempts: expected 1 or more, got %s"):format(what, given.max_attempts))
  end
  return {
    max_attempts = given.max_attempts and math.tointeger(given.max_attempts),
    backoff_ms = given.backoff and options.duration(what .. ": backoff", given.backoff),
    backoff_ms_max = given.backoff_max and options.duration(what .. ": backoff_max", given.backoff_max),
  }
end

local function read_timeouts(what, given)
  if not given.timeout and not given.stale then return nil end
  return {
    execution_ms = given.timeout and options.duration(what .. ": timeout", given.timeout),
    stale_ms = given.stale and options.duration(what .. ": stale", given.stale),
  }
end

local function read_mode(what, mode)
  if mode == nil then return "SYNC" end
  if mode ~= "sync" and mode ~= "async" then
    where.fail(("%s: mode: expected \"sync\" or \"async\", got %q"):format(what, mode))
  end
  return mode:upper()
end

---@class turboci.workflow.StageOptions
---@field runner string|false? type of the runner; false: clients pull the stage
---@field args table?
---@field after any ids or nodes that come first; `when` = "success" (default), "final" or "failure"
---@field finalizes any checks that this stage brings to their end
---@field retry {max_attempts: integer?, backoff: number|string?, backoff_max: number|string?}?
---@field timeout number|string? of one attempt: seconds or "10m"
---@field stale number|string? how long an async runner may be silent
---@field mode "sync"|"async"?
---@field priority integer? higher goes first
---@field run fun(ctx: table)? a body in Lua

---@param id string
---@param given turboci.workflow.StageOptions
---@return turboci.workflow.Node
function Plan:stage(id, given)
  local node, named = add_node(self, "stage", id)
  local what = tostring(node)
  given = options.check(what, given, stage_options)
  if given.args then value.check_struct(what .. ": args", given.args) end
  if given.after ~= nil then node.after = group.read(what .. ": after", given.after, is_node) end
  if given.finalizes ~= nil then
    node.finalizes = group.read(what .. ": finalizes", given.finalizes, is_node)
    if node.finalizes.predicate ~= "AND" then where.fail(what .. ": finalizes: expected checks, not any { ... }") end
  end
  node.write = {
    id = id,
    args = given.args,
    execution_mode = read_mode(what, given.mode),
    runner_type = read_runner(what, given),
    priority = given.priority and math.tointeger(given.priority),
    retry = read_retry(what, given.retry),
    timeouts = read_timeouts(what, given),
  }
  named[id] = node
  self.nodes[#self.nodes + 1] = node
  self.bodies[id] = given.run
  return node
end

-- ---- looking names up ----

local function names_of(...)
  local names = {}
  for _, named in ipairs { ... } do
    for name in pairs(named) do names[#names + 1] = name end
  end
  return names
end

-- The node an edge means; nil and a text when there is none.
local function resolve_after(plan, edge)
  if edge.node then
    if edge.node.plan ~= plan then return nil, ("after %s: it belongs to another plan"):format(edge.node) end
    return edge.node
  end
  local stage, check = plan.stages[edge.name], plan.checks[edge.name]
  if stage and check then
    return nil, ("after '%s': there is a stage and a check of that name; give what plan:stage or plan:check returned")
      :format(edge.name)
  end
  if stage or check then return stage or check end
  return nil, ("after '%s'%s"):format(edge.name, options.suggestion(edge.name, names_of(plan.stages, plan.checks)))
end

local function resolve_check(plan, edge)
  if edge.node then
    if edge.node.plan ~= plan then return nil, ("finalizes %s: it belongs to another plan"):format(edge.node) end
    if edge.node.type ~= "check" then return nil, ("finalizes %s: only checks are finalized"):format(edge.node) end
    return edge.node
  end
  if plan.checks[edge.name] then return plan.checks[edge.name] end
  if plan.stages[edge.name] then
    return nil, ("finalizes '%s': that is a stage; only checks are finalized"):format(edge.name)
  end
  return nil, ("finalizes '%s'%s"):format(edge.name, options.suggestion(edge.name, names_of(plan.checks)))
end

-- Targets of a node's edges, each once; problems go to `problems`.
local function resolve(plan, node, edges, find, problems)
  local found, seen = {}, {}
  for _, edge in ipairs(edges and edges.edges or {}) do
    local target, problem = find(plan, edge)
    if not target then
      problems[#problems + 1] = { where = node.where, text = ("%s: %s"):format(node, problem) }
    else
      local key = target.type .. edge.condition .. target.id
      if not seen[key] then found[#found + 1] = { node = target, condition = edge.condition } end
      seen[key] = true
    end
  end
  return found
end

local function check_cycles(plan, links, problems)
  local function edges_of(node)
    local targets = {}
    for _, edge in ipairs(links[node].after) do targets[#targets + 1] = edge.node end
    for _, stage in ipairs(links[node].finalized_by) do targets[#targets + 1] = stage end
    return targets
  end
  local path, first = graph.cycle(plan.nodes, edges_of)
  if path then
    problems[#problems + 1] = { where = first.where, text = ("cycle: %s (each waits for the next)"):format(path) }
  end
end

-- Every node's edges by node, or an error with all that is wrong, one line each.
local function link(plan)
  local links, problems = {}, {}
  for _, node in ipairs(plan.nodes) do links[node] = { finalized_by = {} } end
  for _, node in ipairs(plan.nodes) do
    links[node].after = resolve(plan, node, node.after, resolve_after, problems)
    links[node].finalizes = resolve(plan, node, node.finalizes, resolve_check, problems)
    for _, edge in ipairs(links[node].finalizes) do table.insert(links[edge.node].finalized_by, node) end
  end
  for _, node in ipairs(plan.nodes) do
    if node.type == "check" and not node.external and #links[node].finalized_by == 0 then
      problems[#problems + 1] = {
        where = node.where,
        text = ("%s: no stage finalizes it: name it in a stage's `finalizes`, or say external = true"):format(node),
      }
    end
  end
  if #plan.nodes == 0 then
    problems[1] = { where = plan.where, text = "the plan has no stages and no checks" }
  end
  if #problems == 0 then check_cycles(plan, links, problems) end
  if #problems > 0 then
    local lines = {}
    for i, problem in ipairs(problems) do lines[i] = problem.where .. ": " .. problem.text end
    error(table.concat(lines, "\n"), 0)
  end
  return links
end

-- ---- the messages ----

local function shallow_copy(source)
  local out = {}
  for key, item in pairs(source) do out[key] = item end
  return out
end

local function dependencies_of(node, links)
  local edges = links[node].after
  if #edges == 0 then return nil end
  local dependencies = {}
  for i, edge in ipairs(edges) do
    dependencies[i] = { target_type = edge.node.type:upper(), target_id = edge.node.id, condition = edge.condition }
  end
  return { predicate = node.after.predicate, dependencies = dependencies }
end

---The plan as messages. Raises when the plan has a mistake in it, naming each with its line.
---@return {metadata: table<string, string>, policy: string?, checks: table[], stages: table[]}
function Plan:writes()
  local links = link(self)
  local out = { metadata = shallow_copy(self.metadata), policy = self.policy, checks = {}, stages = {} }
  for _, node in ipairs(self.nodes) do
    local write = shallow_copy(node.write)
    write.dependencies = dependencies_of(node, links)
    if node.type == "stage" then
      for i, edge in ipairs(links[node].finalizes) do
        write.assignments = write.assignments or {}
        write.assignments[i] = { target_check_id = edge.node.id, goal_state = "FINAL" }
      end
      table.insert(out.stages, write)
    else
      table.insert(out.checks, write)
    end
  end
  return out
end

---Checks the plan without sending it anywhere.
---@return boolean? ok
---@return string? err what is wrong, a line each
function Plan:validate()
  local ok, err = pcall(link, self)
  if ok then return true end
  return nil, err
end

return setmetatable(M, { __call = function(_, given) return M.plan(given) end })
