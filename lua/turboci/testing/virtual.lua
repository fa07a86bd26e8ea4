-- virtual: the world without sockets, threads and waiting. The engine is the real one (core, codec, SQLite store); its
-- clock and its transport are ours.
--
-- 1. A call to the engine is one turn and returns at once; what it lets out (dispatches, cancels) is queued.
-- 2. The queue runs, first in first out, only while somebody waits, settles or advances: a spec sees no change that it
--    did not wait for, as in the grpc world.
-- 3. Time stands still except in wait (from timer to timer) and advance.
-- 4. The invariants of the core are checked after every turn. Each check looks at every node: when a lot has happened
--    it is done after every few turns only, and at the end.
--
-- Hooks and watchers are coroutines; await suspends them. Used by testing/env.lua.

local client = require "turboci.client"
local core = require "turboci.core"

local STEPS_MAX = 1000000 -- of one wait, settle or advance; beyond it something runs in circles
local JUMPS_MAX = 100000
local RECORDS_PER_TURN = 250 -- a journal this long makes it every second turn, twice that every third, and so on

---@class turboci.testing.Virtual : turboci.testing.World
local Virtual = {}
Virtual.__index = Virtual
Virtual.name = "virtual"

---@param given turboci.testing.EnvOptions
---@return turboci.testing.Virtual
local function new(given)
  local engine, err = core.virtual {
    limits = given.limits,
    database = given.db,
    seed = given.seed,
    start = given.start,
    policies = given.policies,
    policy = given.policy,
    policy_for = given.policy_for,
  }
  if not engine then require("turboci.workflow.where").fail("env: " .. err) end
  return setmetatable({
    engine = engine,
    unchecked = 0, -- turns since the invariants were checked
    ready = {}, -- functions to run, first in first out
    ready_first = 1,
    ready_last = 0,
    timers = {}, -- { at =, fn = }, in no order: there are few
    replies = {}, -- by token, until taken
    streams = {}, -- by token
    calls = {}, -- open calls to runners, by execution id
    hosts = {}, -- by address
    port = 1000,
    threads = setmetatable({}, { __mode = "k" }),
  }, Virtual)
end

-- ---- turns ----

function Virtual:push(fn)
  self.ready_last = self.ready_last + 1
  self.ready[self.ready_last] = fn
end

-- Takes what the last turn let out, and checks the model.
function Virtual:after_turn()
  for _, output in ipairs(self.engine:take()) do
    if output.type == "reply" then
      self.replies[output.token] = output
      local stream = self.streams[output.token]
      if stream then stream:finish(output.code, output.message) end
    elseif output.type == "dispatch" then
      self:push(function() self:dispatch(output) end)
    elseif output.type == "cancel" then
      self:push(function() self:cancel(output.execution_id) end)
    elseif output.type == "watch" then
      local stream = self.streams[output.token]
      if stream then stream:push(output.bytes) end
    elseif output.type == "watch_end" then
      local stream = self.streams[output.token]
      if stream then stream:finish(output.code, output.message) end
    end
  end
  self.unchecked = self.unchecked + 1
  if self.unchecked > self.engine:counters().records // RECORDS_PER_TURN then self:check() end
end

function Virtual:check()
  self.unchecked = 0
  local violation = self.engine:check()
  if violation then error("the engine broke an invariant: " .. violation, 0) end
end

---One request as bytes.
---@return integer code
---@return string message
---@return string? bytes
function Virtual:raw(method, bytes)
  local known = core.methods[method]
  if not known or known.service ~= "TurboCIOrchestrator" then
    return core.codes.UNIMPLEMENTED, "unknown method " .. method
  end
  local token = self.engine:call(method, bytes)
  self:after_turn()
  local reply = self.replies[token]
  self.replies[token] = nil
  if not reply and known.stream then
    self.engine:unwatch(token)
    self:after_turn()
    return core.codes.OK, ""
  end
  if not reply then -- it takes some turns to answer
    self.engine:settle()
    self:after_turn()
    reply = self.replies[token]
    self.replies[token] = nil
  end
  assert(reply, method .. ": the engine did not reply")
  return reply.code, reply.message, reply.bytes
end

-- ---- the runners' side ----

---Makes `handler` reachable. It gets calls { method =, bytes =, timeout =, reply = function(code, message, bytes) }.
---@return string address
---@return fun() close
function Virtual:host(handler)
  self.port = self.port + 1
  local address = "127.0.0.1:" .. self.port
  self.hosts[address] = handler
  return address, function()
    self.hosts[address] = nil
    for _, call in pairs(self.calls) do
      if call.address == address then call.reply(core.codes.UNAVAILABLE, "connection reset") end
    end
  end
end

function Virtual:dispatch(output)
  local call = { address = output.address, method = output.method, bytes = output.bytes }
  call.timeout = output.timeout_us and output.timeout_us / 1000000
  local timer
  call.reply = function(code, message, bytes)
    if self.calls[output.execution_id] ~= call then return end -- over already: cancelled, timed out, disconnected
    self.calls[output.execution_id] = nil
    if timer then timer.fn = nil end
    self.engine:answer(output.execution_id, output.mode, code, message or "", code == 0 and bytes or nil)
    self:after_turn()
  end
  self.calls[output.execution_id] = call
  if output.timeout_us then
    timer = self:after(output.timeout_us, function()
      if call.on_cancel then call.on_cancel() end
      call.reply(core.codes.DEADLINE_EXCEEDED, "deadline exceeded")
    end)
  end
  local handler = self.hosts[output.address]
  if handler then
    handler(call)
  else
    call.reply(core.codes.UNAVAILABLE, "connection refused")
  end
end

function Virtual:cancel(execution_id)
  local call = self.calls[execution_id]
  if not call then return end
  if call.on_cancel then call.on_cancel() end
  call.reply(core.codes.CANCELLED, "cancelled")
end

-- ---- coroutines ----

function Virtual:resume(thread, ...)
  local ok, err = coroutine.resume(thread, ...)
  if not ok and not self.failure then self.failure = debug.traceback(thread, tostring(err)) end
end

---Runs fn in a coroutine, soon. An error in it is raised by the next wait, settle or advance.
function Virtual:spawn(fn)
  local thread = coroutine.create(fn)
  self.threads[thread] = true
  self:push(function() self:resume(thread) end)
end

---Suspends the caller until `resume`, which `register` gets, is called; returns what it was given.
function Virtual:await(register)
  local result
  local thread = coroutine.running()
  if self.threads[thread] then
    local suspended = false
    register(function(...)
      if result then return end
      result = table.pack(...)
      if suspended then self:push(function() self:resume(thread) end) end
    end)
    if not result then
      suspended = true
      coroutine.yield()
    end
  else
    register(function(...) result = result or table.pack(...) end)
    if not self:drive(function() return result end) then
      error("nothing is left that could happen, and what was awaited has not", 0)
    end
  end
  return table.unpack(result, 1, result.n)
end

-- ---- time ----

function Virtual:after(us, fn)
  local timer = { at = self.engine:now() + us, fn = fn }
  self.timers[#self.timers + 1] = timer
  return timer
end

-- Microseconds until the next timer of ours; forgets stopped ones.
function Virtual:next_timer()
  local first
  for i = #self.timers, 1, -1 do
    if not self.timers[i].fn then
      table.remove(self.timers, i)
    elseif not first or self.timers[i].at < first then
      first = self.timers[i].at
    end
  end
  return first and math.max(0, first - self.engine:now())
end

function Virtual:fire_timers()
  local now = self.engine:now()
  local due = {}
  for _, timer in ipairs(self.timers) do
    if timer.fn and timer.at <= now then due[#due + 1] = timer end
  end
  table.sort(due, function(a, b) return a.at < b.at end)
  for _, timer in ipairs(due) do
    local fn = timer.fn
    timer.fn = nil
    if fn then fn() end
  end
end

-- Us until anything happens by itself; nil: never.
function Virtual:next_due()
  local engine, own = self.engine:next_due(), self:next_timer()
  if engine and own then return math.min(engine, own) end
  return engine or own
end

function Virtual:move(us)
  if us > 0 then self.engine:advance(us) else self.engine:settle() end
  self:after_turn()
  self:fire_timers()
end

function Virtual:raise_failure()
  local failure = self.failure
  self.failure = nil
  if failure then error(failure, 0) end
end

-- Runs everything that can happen now, timers that are due included.
function Virtual:run_ready()
  local steps = 0
  while self.ready_first <= self.ready_last or self:next_due() == 0 do
    steps = steps + 1
    if steps > STEPS_MAX then error(("%d steps at one moment: something runs in circles"):format(STEPS_MAX), 0) end
    local fn = self.ready[self.ready_first]
    if fn then
      self.ready[self.ready_first] = nil
      self.ready_first = self.ready_first + 1
      fn()
    else
      self:move(0)
    end
    self:raise_failure()
  end
  self.ready_first, self.ready_last = 1, 0
end

-- Runs, jumping from timer to timer, until done() holds; false when nothing is left or limit_us are over.
function Virtual:drive(done, limit_us)
  assert(not self.threads[coroutine.running()], "only the spec itself can wait; a hook returns, or waits for a latch")
  local started, jumps = self.engine:now(), 0
  while true do
    self:run_ready()
    local result = table.pack(done())
    if result[1] then return table.unpack(result, 1, result.n) end
    if self.ready_first > self.ready_last then
      local due = self:next_due()
      jumps = jumps + 1
      if not due or jumps > JUMPS_MAX then return false end
      if limit_us and self.engine:now() + due - started > limit_us then return false end
      self:move(due)
    end
  end
end

---Until condition() holds; nil when it never will, or not within limit_ms.
function Virtual:wait(condition, limit_ms)
  return self:drive(condition, (limit_ms or 7 * 24 * 3600 * 1000) * 1000)
end

---Until nothing can happen without time passing.
function Virtual:settle()
  self:run_ready()
end

---Lets time pass.
function Virtual:advance(ms)
  local target = self.engine:now() + ms * 1000
  self:run_ready()
  while true do
    local due = self:next_due()
    local left = target - self.engine:now()
    self:move(math.min(due or left, left))
    self:run_ready()
    if left <= 0 then return end
  end
end

---A new engine from the journal; calls and streams of the old one are gone.
function Virtual:restart()
  self:run_ready()
  self.calls = {}
  for _, stream in pairs(self.streams) do stream:finish(core.codes.UNAVAILABLE, "connection reset") end
  assert(self.engine:restart())
  self:after_turn()
end

-- Nobody sleeps here: conditions are looked at again after every step.
function Virtual:wake() end -- luacheck: ignore 212/self

-- ---- the clients' side ----

local Stream = {}
Stream.__index = Stream

function Stream:push(bytes)
  self.queue[#self.queue + 1] = assert(core.decode("turboci.v1.WorkPlanEvent", bytes))
  if self.waiting then self.waiting() end
end

function Stream:finish(code, message)
  self.ended = { code = code, message = message }
  self.world.streams[self.token] = nil
  if self.waiting then self.waiting() end
end

---The next event; nil at the end, nil and an error when it broke.
function Stream:next()
  while true do
    local event = table.remove(self.queue, 1)
    if event then return event end
    if self.ended then
      if self.ended.code == 0 then return nil end
      return nil, client.error(self.ended.code, self.ended.message)
    end
    self.world:await(function(resume) self.waiting = resume end)
    self.waiting = nil
  end
end

function Stream:close()
  if self.ended then return end
  self:finish(0, "")
  self.world.engine:unwatch(self.token)
  self.world:after_turn()
end

local Transport = {}
Transport.__index = Transport

function Transport:call(name, request)
  local method = core.methods[name]
  if not method then error("unknown method " .. tostring(name), 2) end
  local bytes, problem = core.encode(method.request, request)
  if not bytes then return nil, client.error(core.codes.INVALID_ARGUMENT, problem) end
  local code, message, reply = self.world:raw(name, bytes)
  if code ~= 0 then return nil, client.error(code, message) end
  return core.decode(method.response, reply or "")
end

function Transport:watch(request)
  local world = self.world
  local stream = setmetatable({ world = world, queue = {} }, Stream)
  local bytes, problem = core.encode("turboci.v1.WatchWorkPlanRequest", request)
  if not bytes then
    stream.ended = { code = core.codes.INVALID_ARGUMENT, message = problem }
    return stream
  end
  stream.token = world.engine:call("WatchWorkPlan", bytes)
  world.streams[stream.token] = stream
  world:after_turn()
  return stream
end

function Virtual:transport()
  return setmetatable({ world = self }, Transport)
end

function Virtual:stop()
  local engine = self.engine
  if not engine then return end
  local well, violation = pcall(self.check, self)
  engine:close()
  self.engine = nil
  if not well then error(violation, 0) end
end

return { new = new }
