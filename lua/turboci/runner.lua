-- A runner: a gRPC host that executes stages with a Lua function, and its registration at the server.
--
--     local shell = require "turboci.runner.shell"
--     local runner = require("turboci.runner").start { client = client, type = "shell", run = shell.run }
--     ...
--     runner:stop()
--
-- Invariants:
--   1. At most max_concurrent executions at once; the next one is refused (RESOURCE_EXHAUSTED, or accepted = false),
--      unless one that nobody waits for any more is about to end: then it waits for that slot.
--   2. An execution runs once, however often RunAsync repeats it.
--   3. The result of an async execution is sent until the server takes or refuses it.
--   4. Whatever a run function does becomes an answer; it never takes the runner down.
--   5. stop { cancel = true } ends in bounded time: a run function that never returns is left where it waits.

local Context = require "turboci.runner.context"
local loop = require "turboci.loop"
local result = require "turboci.runner.result"
local util = require "turboci.util"

local M = {}

local RETRY_SECONDS = 1 -- between heartbeats while the server is away
local BACKOFF, BACKOFF_MAX = 0.1, 2 -- between completions that did not get through
local LEAVE_SECONDS = 5 -- to wait for the slot of an execution that was cancelled
local ANSWER_BYTES_MAX = 33554432 -- answer_bytes_max of an engine that was not told otherwise
local BUSY_MAX = 20 -- completions refused with RESOURCE_EXHAUSTED before giving up
local CALL_TIMEOUT = 5
local STOP_SECONDS = 10 -- for what was cancelled to end

---@class turboci.runner.Options
---@field client turboci.client.Client of the server to register at
---@field type string
---@field run fun(ctx: turboci.runner.Context): turboci.runner.Result|boolean|nil, string?
---@field id string? default: the type and random digits
---@field modes string[]? default { "SYNC", "ASYNC" }
---@field max_concurrent integer? 0 (default): unlimited
---@field ttl number? seconds until the server forgets a silent runner; default 30
---@field metadata table<string, string>?
---@field listen string? default "127.0.0.1:0"
---@field address string? as the server dials it; default: where it listens
---@field wait number? seconds to wait for a server that is not there yet; default 0
---@field on_notice fun(text: string)? told when the server goes away and comes back
---@field leave number? seconds that what stop { cancel = true } cancels has to end; default 10

local option_types = {
  client = "table", type = "string", run = "function", id = "string", modes = "table", max_concurrent = "number",
  ttl = "number", metadata = "table", listen = "string", address = "string", wait = "number", on_notice = "function",
  leave = "number",
}

---@class turboci.runner.Runner
---@field id string
---@field type string
---@field address string as registered
---@field running integer executions at work
local Runner = {}
Runner.__index = Runner

---------------------------------------------------------------------------------------------------
-- Registration

local function away(err)
  return err.code == "UNAVAILABLE" or err.code == "DEADLINE_EXCEEDED" or err.code == "CANCELLED"
end

local function register(self)
  local response, err = self.client:call("RegisterStageRunner", {
    runner_id = self.id,
    runner_type = self.type,
    address = self.address,
    supported_modes = self.modes,
    max_concurrent = self.max_concurrent,
    ttl_seconds = math.max(1, math.ceil(self.ttl)),
    metadata = self.metadata,
  }, { timeout = CALL_TIMEOUT })
  if response then self.registration_id = response.registration_id end
  return response, err
end

local function beat(self)
  local response, err = register(self)
  if response and self.lost then self.on_notice("registered again") end
  if err and not self.lost then self.on_notice(("cannot register: %s; trying again each second"):format(err)) end
  self.lost = err ~= nil
  if self.stopping then return end
  self.timer = loop.timer(response and self.ttl / 3 or RETRY_SECONDS, function()
    self.beating = loop.spawn(beat, self)
  end)
end

local function register_first(self, patience)
  local give_up = util.mono() + patience
  local told = false
  while true do
    local response, err = register(self)
    if response then return true end
    if not away(err) or util.mono() + RETRY_SECONDS > give_up then return nil, err end
    if not told then self.on_notice(("cannot register: %s; trying again each second"):format(err)) end
    told = true
    loop.sleep(RETRY_SECONDS)
  end
end

---------------------------------------------------------------------------------------------------
-- Executions

-- The answer to the engine for what the run function does.
local function work(self, context)
  local function told(err)
    if type(err) == "string" then return err end
    local meta = getmetatable(err)
    if type(meta) == "table" and meta.__tostring then return tostring(err) end
    return ("the run function raised a %s value, not a message"):format(type(err))
  end
  local ok, value, err = xpcall(self.run, told, context)
  context:flush()
  context.ended = true
  if not ok then value, err = nil, value or "unknown error" end
  return result.completion(context, value, err)
end

local function begin(self, context, call)
  local execution = { context = context, call = call }
  self.executions[context.execution_id] = execution
  self.running = self.running + 1
  return execution
end

local function finish(self, execution)
  if execution.timer then execution.timer:close() end
  self.executions[execution.context.execution_id] = nil
  self.running = self.running - 1
end

local function has_mode(self, mode)
  for _, known in ipairs(self.modes) do
    if known == mode then return true end
  end
  return false
end

-- The engine frees the slot of an execution at its deadline or when it gives it up, and sends the next at once; here
-- the old one still has to end. A refusal would cost that runner, often the only one, its next seconds of work.
local function someone_leaves(self)
  for _, execution in pairs(self.executions) do
    local context = execution.context
    if context.cancelled or context.deadline and context.deadline <= util.now() then return true end
  end
  return false
end

local function is_full(self)
  return self.max_concurrent > 0 and self.running >= self.max_concurrent
end

-- Waits for a slot while one is about to be free. False: the caller has gone meanwhile.
local function wait_for_slot(self, call)
  if not is_full(self) or not someone_leaves(self) then return true end
  local late = false
  local timer = loop.timer(LEAVE_SECONDS, function() late = true end)
  self.waiting[call] = true
  repeat
    loop.wait_until(function()
      return late or self.stopping or not self.waiting[call] or not is_full(self) or not someone_leaves(self)
    end)
    -- Another one that waited may have been faster.
  until late or self.stopping or not self.waiting[call] or not is_full(self) or not someone_leaves(self)
  timer:close()
  local here = self.waiting[call] ~= nil
  self.waiting[call] = nil
  return here
end

-- code and text of a refusal; nil: take it.
local function refusal(self, mode)
  if self.stopping then return "UNAVAILABLE", "the runner is stopping" end
  if not has_mode(self, mode) then return "UNIMPLEMENTED", "this runner does not work in the mode " .. mode end
  if is_full(self) then
    return "RESOURCE_EXHAUSTED", ("all %d slots are taken"):format(self.max_concurrent)
  end
  return nil
end

-- Encodes an answer; one that cannot be sent becomes a failure that says so. What is too large for the engine, but can
-- be read, is told by the engine itself. Returns the bytes, and what is in them.
local function encode(message, value, complain)
  local core = require "turboci.core"
  local bytes, err = core.encode(message, value)
  if bytes and #bytes <= ANSWER_BYTES_MAX then return bytes, value end
  value = complain("the result cannot be sent: "
    .. (err or ("it is %d bytes long, and nobody reads more than %d"):format(#bytes, ANSWER_BYTES_MAX)))
  return assert(core.encode(message, value)), value
end

local function failed(context, text)
  return result.completion(context, nil, text)
end

local function run_sync(self, event, request)
  local context = Context.new(request, "SYNC", self.client)
  local execution = begin(self, context, event.call)
  if event.timeout then
    execution.timer = loop.timer(event.timeout, function() context:cancel("deadline") end)
  end
  local completion = work(self, context)
  if context.cancel_reason == "stopped" then
    self:reply(event.call, "UNAVAILABLE", "the runner was stopped")
  elseif context.cancel_reason == "deadline" then
    self:reply(event.call, "DEADLINE_EXCEEDED", "the deadline passed")
  elseif not execution.gone then -- else nobody listens
    local bytes = encode("RunResponse", completion, function(text) return failed(context, text) end)
    self:reply(event.call, "OK", nil, bytes)
  end
  finish(self, execution)
end

-- Resends until the server acknowledges or refuses.
local function complete(self, context, completion)
  local backoff, busy = BACKOFF, 0
  completion.execution_id = context.execution_id
  while true do
    local response, err = context.client:call("CompleteStageExecution", completion, { timeout = CALL_TIMEOUT })
    if response then return end
    if err.code == "RESOURCE_EXHAUSTED" then busy = busy + 1 end
    if err.code == "INVALID_ARGUMENT" and not completion.refused then
      completion = failed(context, "the server refused the result: " .. err.message)
      completion.execution_id, completion.refused = context.execution_id, nil
      local _, again = context.client:call("CompleteStageExecution", completion, { timeout = CALL_TIMEOUT })
      if not again or not away(again) then return end
      err = again
    end
    if not away(err) and (err.code ~= "RESOURCE_EXHAUSTED" or busy > BUSY_MAX) then
      self.on_notice(("stage %s: the server refused the result: %s"):format(context.stage_id, err))
      return
    end
    if self.abandon then return end
    loop.sleep(backoff)
    backoff = math.min(backoff * 2, BACKOFF_MAX)
  end
end

local function run_async(self, request)
  local client = self.client
  if request.callback_address ~= "" then
    client = self.callbacks[request.callback_address]
      or require("turboci.client").connect(request.callback_address)
    self.callbacks[request.callback_address] = client
  end
  local context = Context.new(request, "ASYNC", client)
  local execution = begin(self, context)
  loop.spawn(function()
    if request.deadline then
      execution.timer = loop.timer(request.deadline - util.now(), function() context:cancel("deadline") end)
    end
    local completion = work(self, context)
    if context.cancel_reason == "stopped" then completion = failed(context, "the runner was stopped") end
    -- Of these two the engine knows already; a completion could only be mistaken for a result.
    local known = context.cancel_reason == "superseded" or context.cancel_reason == "deadline"
    if not known then
      local _, fitting = encode("CompleteStageExecutionRequest", completion,
        function(text) return failed(context, text) end)
      complete(self, context, fitting)
    end
    finish(self, execution)
  end)
end

---------------------------------------------------------------------------------------------------
-- The host

local handlers = {}

function handlers.Run(self, event, request)
  if not wait_for_slot(self, event.call) then return nil end
  local code, text = refusal(self, "SYNC")
  if code then return self:reply(event.call, code, text) end
  return run_sync(self, event, request)
end

function handlers.RunAsync(self, event, request)
  if not self.executions[request.execution_id] and not wait_for_slot(self, event.call) then return nil end
  local known = self.executions[request.execution_id]
  local code, text = refusal(self, "ASYNC")
  if not known and code and code ~= "RESOURCE_EXHAUSTED" then return self:reply(event.call, code, text) end
  if not known and not code then run_async(self, request) end
  local accepted = known ~= nil or not code
  local name = ("%s/%s/%d"):format(self.id, request.stage_id, request.attempt_idx)
  self:answer(event.call, "RunAsyncResponse", { accepted = accepted, runner_execution_id = accepted and name or nil })
end

function handlers.Ping(self, event)
  self:answer(event.call, "PingResponse", {
    runner_type = self.type,
    supported_modes = self.modes,
    available_capacity = self.max_concurrent > 0 and math.max(0, self.max_concurrent - self.running) or 0,
  })
end

---For the handlers: ends a call.
---@param code string
function Runner:reply(call, code, text, bytes)
  self.host:reply(call, require("turboci.core").codes[code], text, bytes)
end

function Runner:answer(call, message, value)
  self:reply(call, "OK", nil, assert(require("turboci.core").encode(message, value)))
end

local function on_call(self, event)
  local core = require "turboci.core"
  local method = core.methods[event.method]
  local handler = method and method.service == "StageRunner" and handlers[method.name]
  if not handler then return self:reply(event.call, "UNIMPLEMENTED", "no such method: " .. event.method) end
  local request, err = core.decode(method.request, event.bytes)
  if not request then return self:reply(event.call, "INVALID_ARGUMENT", err) end
  if request.execution_id == "" then return self:reply(event.call, "INVALID_ARGUMENT", "execution_id: required") end
  return handler(self, event, request)
end

local function on_gone(self, event)
  self.waiting[event.call] = nil
  for _, execution in pairs(self.executions) do
    if execution.call == event.call then
      execution.gone = true
      execution.context:cancel("cancelled")
    end
  end
end

---------------------------------------------------------------------------------------------------
-- Life

---Listens, registers, and keeps both up until stop().
---@param options turboci.runner.Options
---@return turboci.runner.Runner?
---@return turboci.Error|string? err
function M.start(options)
  util.check_options(options, option_types, "runner.start")
  for _, name in ipairs { "client", "type", "run" } do
    if options[name] == nil then error(("runner.start: option '%s' is required"):format(name), 2) end
  end
  local core = require "turboci.core"
  local host, err = core.host(options.listen or "127.0.0.1:0")
  if not host then return nil, err end
  local self = setmetatable({
    client = options.client,
    type = options.type,
    run = options.run,
    id = options.id or options.type .. "-" .. core.random_hex(4),
    modes = options.modes or { "SYNC", "ASYNC" },
    max_concurrent = math.tointeger(options.max_concurrent) or 0,
    ttl = options.ttl or 30,
    metadata = options.metadata,
    host = host,
    address = options.address or host:address(),
    on_notice = options.on_notice or function() end,
    leave = options.leave or STOP_SECONDS,
    executions = {},
    waiting = {}, -- calls that wait for a slot
    callbacks = {},
    running = 0,
  }, Runner)
  loop.on_call(host, function(event) on_call(self, event) end, function(event) on_gone(self, event) end)
  local ok
  ok, err = register_first(self, options.wait or 0)
  if not ok then
    loop.on_call(host, nil)
    host:close(0)
    return nil, err
  end
  self.timer = loop.timer(self.ttl / 3, function() self.beating = loop.spawn(beat, self) end)
  return self
end

---Takes no new work, waits for what runs (cancel = true: cancels it first), unregisters and closes. Waits.
---@param options {cancel: boolean?}?
function Runner:stop(options)
  options = util.check_options(options, { cancel = "boolean" }, "stop")
  if options.cancel then
    self.abandon = true
    for _, execution in pairs(self.executions) do
      execution.context:cancel("stopped")
    end
    self.limit = self.limit or loop.timer(self.leave, function() self.late = true end)
  end
  if self.stopping then return end
  self.stopping = true
  self.timer:close()
  if self.beating then self.beating:wait() end
  self.timer:close() -- a heartbeat that was under way may have set it again
  if self.registration_id then
    self.client:call("UnregisterStageRunner", { registration_id = self.registration_id }, { timeout = 2 })
  end
  loop.wait_until(function() return self.running == 0 or self.late end)
  if self.limit then self.limit:close() end
  loop.on_call(self.host, nil)
  self.host:close(1)
end

---Takes the runner down without waiting for anything: for a program that is in trouble.
function Runner:drop()
  self.stopping, self.abandon = true, true
  loop.on_call(self.host, nil)
  self.host:close(0)
end

return M
