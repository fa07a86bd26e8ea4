-- mock_runner: a runner in the spec's hands. It is reached like any other (in the grpc world by real gRPC), remembers
-- what it was sent, and does by itself what a well-behaved runner does, unless told otherwise:
--
--   sync    succeeds and finalizes all assigned checks
--   async   accepts, sends one progress update, completes with success
--
-- hold() keeps work from ending until it is released; on_run and on_run_async replace the behaviour.

local core = require "turboci.core"
local options = require "turboci.workflow.options"

local M = {}

---@class turboci.testing.Request a RunRequest or RunAsyncRequest as it came, and
---@field mode "SYNC"|"ASYNC" by which call it came
---@field timeout number? seconds the call was given
---@field cancelled boolean? the engine gave the call up: cancelled it, or its deadline passed

---Returns fields of the response (env.success(request), env.failure "why", env.disconnect()); nothing for the default;
---or nil and an error, which becomes the call's status: a text UNKNOWN, { code = "UNAVAILABLE", message = "..." } its
---code.
---@alias turboci.testing.Hook fun(request: turboci.testing.Request, runner: turboci.testing.MockRunner): table?, any

---@class turboci.testing.MockRunner
---@field id string
---@field type string
---@field modes string[]
---@field max_concurrent integer
---@field received turboci.testing.Request[] all requests so far
---@field pending table<string, turboci.testing.Request> accepted and not completed, by execution id
---@field load integer executions it works on now, as it sees it; info().current_load is the engine's view
---@field peak_load integer the most it ever worked on at once
---@field on_run turboci.testing.Hook? replaces the default of sync work; returns the fields of a RunResponse
---@field on_run_async turboci.testing.Hook? replaces accepting; returns the fields of a RunAsyncResponse
---@field auto_complete boolean accepted async work progresses and completes by itself; false: the spec does it
local MockRunner = {}
MockRunner.__index = MockRunner

-- What env.disconnect() returns: the call ends as if the runner's machine had gone.
M.DISCONNECT = setmetatable({}, { __name = "turboci.testing.disconnect" })

local DAY_S = 24 * 3600 -- mock runners do not heartbeat: they live long instead

local known_options = {
  id = "string",
  type = "string",
  modes = "table",
  max_concurrent = "integer",
  ttl = "number|string",
  metadata = "table",
  address = "string",
  on_run = "function",
  on_run_async = "function",
  auto_complete = "boolean",
  hold = "boolean",
  register = "boolean",
}

---@class turboci.testing.MockRunnerOptions
---@field id string? default: "runner-1", "runner-2", ...
---@field type string? default: "test"
---@field modes string[]? default: { "SYNC", "ASYNC" }
---@field max_concurrent integer? default: 0, no limit
---@field ttl number|string? whole seconds on the wire, at least one; default: a day
---@field metadata table<string, string>?
---@field address string? registered instead of its own
---@field on_run turboci.testing.Hook?
---@field on_run_async turboci.testing.Hook?
---@field auto_complete boolean? default: true
---@field hold boolean? true: holds from the start; what is pending may come before the runner is back with the spec
---@field register boolean? false: it is there, but registers only when told to

---@param env turboci.testing.Env
---@param given turboci.testing.MockRunnerOptions?
---@return turboci.testing.MockRunner
function M.new(env, given)
  given = options.check("mock_runner", given, known_options)
  env.runner_count = env.runner_count + 1
  local self = setmetatable({
    env = env,
    world = env.world,
    id = given.id or "runner-" .. env.runner_count,
    type = given.type or "test",
    modes = given.modes or { "SYNC", "ASYNC" },
    max_concurrent = given.max_concurrent or 0,
    ttl = given.ttl and options.duration("mock_runner: ttl", given.ttl) / 1000 or DAY_S,
    metadata = given.metadata or {},
    on_run = given.on_run,
    on_run_async = given.on_run_async,
    auto_complete = given.auto_complete ~= false,
    held = given.hold or false,
    received = {},
    pending = {},
    load = 0,
    peak_load = 0,
    waiting = {}, -- calls that hold() keeps: { request =, resume = }
  }, MockRunner)
  self.address, self.close = env.world:host(function(call) self:take(call) end)
  self.address = given.address or self.address
  if given.register ~= false then self:register() end
  return self
end

-- ---- registration ----

---Registers; again: the heartbeat.
---@param changes table? fields of RegisterStageRunnerRequest
---@return table response
function MockRunner:register(changes)
  local request = {
    runner_id = self.id,
    runner_type = self.type,
    address = self.address,
    supported_modes = self.modes,
    max_concurrent = self.max_concurrent,
    ttl_seconds = math.max(1, math.floor(self.ttl)),
    metadata = self.metadata,
  }
  for key, value in pairs(changes or {}) do request[key] = value end
  local response, err = self.env.client:register_stage_runner(request)
  if not response then error(("mock runner '%s' cannot register: %s"):format(self.id, err), 2) end
  self.registration_id = response.registration_id
  return response
end

---@return table? response
---@return any err
function MockRunner:unregister()
  return self.env.client:unregister_stage_runner { registration_id = self.registration_id }
end

---Gone without a word: open calls break, new ones find nobody.
function MockRunner:disconnect()
  if self.close then self.close() end
  self.close = nil
end

---What the server says of it; nil when it is not registered.
---@return table? StageRunnerInfo
function MockRunner:info()
  local list = assert(self.env.client:list_stage_runners {})
  for _, info in ipairs(list.runners) do
    if info.runner_id == self.id then return info end
  end
end

-- ---- holding ----

---From now on no work ends until it is released: a sync call is not answered, an async one not completed.
function MockRunner:hold()
  self.held = true
end

---Lets work end: that of one stage, or all of it, and the work to come too.
---@param stage_id string?
function MockRunner:release(stage_id)
  if not stage_id then self.held = false end
  local waiting = self.waiting
  self.waiting = {}
  for _, entry in ipairs(waiting) do
    if not stage_id or entry.request.stage_id == stage_id then
      entry.resume()
    else
      table.insert(self.waiting, entry)
    end
  end
end

local function wait_until_released(self, request)
  if not self.held then return end
  self.world:await(function(resume) table.insert(self.waiting, { request = request, resume = resume }) end)
end

-- ---- answers ----

---The fields of a success: all assigned checks finalized.
---@param request table
---@param data table? of the results
---@return table
function M.success(request, data)
  local updates = {}
  for i, id in ipairs(request.assigned_check_ids) do
    updates[i] = { check_id = id, state = "FINAL", finalize = true, result_data = data }
  end
  return { stage_state = "FINAL", check_updates = updates }
end

---The fields of a failed execution.
---@param message string
---@return table
function M.failure(message)
  return { stage_state = "FINAL", failure = { message = message } }
end

-- Status of a hook's error: a text is what a Go handler's plain error becomes, UNKNOWN.
local function status_of(err)
  if type(err) == "table" and err.code then return core.codes[err.code] or err.code, err.message or "" end
  return core.codes.UNKNOWN, tostring(err)
end

local function reply(call, message, response, err)
  if response == M.DISCONNECT then return call.reply(core.codes.UNAVAILABLE, "connection reset") end
  if not response then return call.reply(status_of(err)) end
  local bytes, problem = core.encode(message, response)
  if not bytes then
    call.reply(core.codes.INTERNAL, problem)
    error(problem, 0)
  end
  call.reply(core.codes.OK, "", bytes)
end

-- Runs a hook; the error it raises is answered, and then raised to the spec.
local function run_hook(self, call, hook, request)
  local ok, response, err = pcall(hook, request, self)
  if ok then return response, err end
  call.reply(core.codes.UNKNOWN, tostring(response))
  error(("a hook of mock runner '%s' raised: %s"):format(self.id, response), 0)
end

-- ---- executions ----

function MockRunner:take(call)
  local method = core.methods[call.method]
  if not method or method.service ~= "StageRunner" then
    return call.reply(core.codes.UNIMPLEMENTED, "unknown method " .. call.method)
  end
  if method.name == "Ping" then
    local free = self.max_concurrent - self.load
    local bytes = core.encode(method.response,
      { runner_type = self.type, supported_modes = self.modes, available_capacity = free })
    return call.reply(core.codes.OK, "", bytes)
  end
  local request = assert(core.decode(method.request, call.bytes))
  request.mode = method.name == "Run" and "SYNC" or "ASYNC"
  request.timeout = call.timeout
  self.received[#self.received + 1] = request
  self.load = self.load + 1
  self.peak_load = math.max(self.peak_load, self.load)
  call.on_cancel = function()
    request.cancelled = true
    self.world:wake()
  end
  self.world:spawn(function()
    if request.mode == "SYNC" then self:run(call, request) else self:run_async(call, request) end
  end)
  self.world:wake()
end

function MockRunner:ended()
  self.load = self.load - 1
  self.world:wake()
end

function MockRunner:run(call, request)
  wait_until_released(self, request)
  local response, err
  if self.on_run then response, err = run_hook(self, call, self.on_run, request) end
  if response == nil and err == nil then response = M.success(request) end
  self:ended()
  reply(call, "turboci.v1.RunResponse", response, err)
end

function MockRunner:run_async(call, request)
  local response, err
  if self.on_run_async then response, err = run_hook(self, call, self.on_run_async, request) end
  if response == nil and err == nil then response = { accepted = true, runner_execution_id = request.stage_id } end
  local accepted = response and response.accepted
  if accepted then self.pending[request.execution_id] = request else self:ended() end
  reply(call, "turboci.v1.RunAsyncResponse", response, err)
  if not accepted or not self.auto_complete then return self.world:wake() end
  self:progress(request, "working", { percent = 50 })
  wait_until_released(self, request)
  -- The spec may have completed it, or the engine given it up, in the meantime.
  if self.pending[request.execution_id] then self:complete(request) end
end

-- The execution meant by a request, an execution id, or the id of a stage with pending work.
local function execution_of(self, what)
  if type(what) == "table" then return what.execution_id end
  if self.pending[what] then return what end
  for id, request in pairs(self.pending) do
    if request.stage_id == what then return id end
  end
  return what
end

---Completes an async execution.
---@param what string|table execution id, stage id, or the request
---@param fields table? of CompleteStageExecutionRequest; default: success
---@return table? response
---@return any err
function MockRunner:complete(what, fields)
  local id = execution_of(self, what)
  local request = { execution_id = id }
  fields = fields or M.success(self.pending[id] or { assigned_check_ids = {} })
  for key, value in pairs(fields) do request[key] = value end
  -- Before it is said: the engine may send the next before it has answered.
  if self.pending[id] then
    self.pending[id] = nil
    self:ended()
  end
  return self.env.client:complete_stage_execution(request)
end

---Reports progress of an execution.
---@param what string|table
---@param message string
---@param details {percent: integer?, details: table?}?
---@return table? response
---@return any err
function MockRunner:progress(what, message, details)
  details = options.check("progress", details, { percent = "integer", details = "table" })
  return self.env.client:update_stage_execution {
    execution_id = execution_of(self, what),
    message = message,
    progress_percent = details.percent,
    details = details.details,
  }
end

---The ids of the stages it was sent, in order.
---@return string[]
function MockRunner:received_stages()
  local ids = {}
  for i, request in ipairs(self.received) do ids[i] = request.stage_id end
  return ids
end

return M
