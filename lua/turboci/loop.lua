-- One event loop (luv) and coroutines ("tasks") on it.
--
-- Invariants:
--   1. User code never runs inside a luv callback: callbacks only put work on the ready list, and the pump runs it
--      between two turns of uv. So waiting from anywhere, even from outside a task, is safe.
--   2. Work becomes ready in order and runs in order.
--   3. An error that nobody catches in a task surfaces from the pump; it is never lost.
--   4. With nothing to do the process sleeps in epoll: no timers of our own.
-- turboci.core is attached only when somebody listens to it; processes and timers work without it.

local uv = require "luv"
-- luv frees its loop when the module that was loaded first is collected, and a second `require` then finds the freed
-- one. Busted forgets modules between files: keep the first one for as long as the state lives.
debug.getregistry()["turboci.luv"] = debug.getregistry()["turboci.luv"] or uv

local loop = {}

local ready = {} -- functions to call, first to last
local ready_first, ready_last = 1, 0
local tasks = setmetatable({}, { __mode = "k" }) -- coroutine -> its task
local errors = {} -- of tasks that nobody waits for

local function push(fn)
  ready_last = ready_last + 1
  ready[ready_last] = fn
end

---------------------------------------------------------------------------------------------------
-- Tasks

---@class turboci.loop.Task
---@field private co thread
---@field private ended boolean
---@field private watched boolean somebody looks at its error
local Task = {}
Task.__index = Task

local function end_task(task, ok, ...)
  task.ended, task.ok = true, ok
  if ok then
    task.results = table.pack(...)
  else
    local err = ...
    -- A plain message gets the place it came from; an error object is passed on as it is.
    task.err = err
    if type(err) == "string" then task.trace = debug.traceback(task.co, err) end
    if not task.watched then errors[#errors + 1] = task.trace or err end
  end
  for _, resume in ipairs(task.waiters or {}) do
    resume()
  end
end

local function step(task, ...)
  local result = table.pack(coroutine.resume(task.co, ...))
  if coroutine.status(task.co) == "dead" then end_task(task, table.unpack(result, 1, result.n)) end
end

---Starts fn in a task of its own, at the next turn of the loop.
---@param fn function
---@return turboci.loop.Task
function loop.spawn(fn, ...)
  local task = setmetatable({ co = coroutine.create(fn), ended = false, watched = false }, Task)
  local args = table.pack(...)
  tasks[task.co] = task
  push(function() step(task, table.unpack(args, 1, args.n)) end)
  return task
end

---Waits for the end of the task; returns what it returned, raises what it raised.
function Task:wait()
  self.watched = true
  if not self.ended then
    loop.await(function(resume)
      self.waiters = self.waiters or {}
      table.insert(self.waiters, resume)
    end)
  end
  if not self.ok then error(self.err, 0) end
  return table.unpack(self.results, 1, self.results.n)
end

---------------------------------------------------------------------------------------------------
-- Waiting

local function run_ready()
  while ready_first <= ready_last do
    local fn = ready[ready_first]
    ready[ready_first] = nil
    ready_first = ready_first + 1
    fn()
    if errors[1] ~= nil then error(table.remove(errors, 1), 0) end
  end
  ready_first, ready_last = 1, 0
end

-- luv 1.44 frees a handle that is still closing when the Lua state ends, while libuv holds on to it: so no pump
-- returns before everything that was closed is gone.
local closing, pumps = 0, 0

local conditions = {} -- of loop.wait_until, oldest first

-- Looks at them after whatever has happened: a condition changes only by what the loop runs.
local function look()
  local open = conditions
  conditions = {}
  for _, wait in ipairs(open) do
    if wait.condition() then wait.resume() else table.insert(conditions, wait) end
  end
end

local function pump_until(done)
  while not done() or closing > 0 do
    if conditions[1] and ready_first > ready_last then look() end
    if ready_first <= ready_last then
      run_ready()
    elseif done() then
      uv.run("nowait")
    elseif not uv.run("once") and ready_first > ready_last and not done() then
      error("turboci.loop: waits for something that cannot come: no process, timer or connection is open", 0)
    end
  end
end

local listen, unlisten -- to turboci.core, once it is attached

local function pump(done)
  pumps = pumps + 1
  if listen then listen() end
  local ok, err = pcall(pump_until, done)
  pumps = pumps - 1
  if pumps == 0 and unlisten then unlisten() end
  if not ok then error(err, 0) end
end

local function yes() return true end

---Closes a luv handle. Every handle that is made next to this loop is closed with it.
---@param handle table
function loop.close(handle)
  if handle:is_closing() then return end
  closing = closing + 1
  handle:close(function() closing = closing - 1 end)
  if pumps == 0 then pump(yes) end
end

---Calls start(resume) and waits until resume(...) is called; returns its arguments. In a task the task waits and
---the others go on; elsewhere the loop is pumped. resume may be called from a luv callback; only its first call
---counts.
---@param start fun(resume: fun(...))
---@return ...
function loop.await(start)
  local task = tasks[coroutine.running()]
  local values, parked
  start(function(...)
    if values then return end
    values = table.pack(...)
    if parked then push(function() step(task) end) end
  end)
  if not values then
    if task then
      parked = true
      coroutine.yield()
    else
      pump(function() return values ~= nil end)
    end
  end
  return table.unpack(values, 1, values.n)
end

---Waits until condition() is true, looking again after everything the loop does. It must not wait itself.
---@param condition fun(): any
function loop.wait_until(condition)
  if condition() then return end
  loop.await(function(resume) table.insert(conditions, { condition = condition, resume = resume }) end)
end

---Runs fn in a task and pumps until it ends. Returns its results; raises its error.
---@param fn function
---@return ...
function loop.run(fn, ...)
  if tasks[coroutine.running()] then return fn(...) end
  return loop.spawn(fn, ...):wait()
end

---Waits.
---@param seconds number
function loop.sleep(seconds)
  loop.await(function(resume) loop.timer(seconds, resume) end)
end

---------------------------------------------------------------------------------------------------
-- Timers and signals

---@class turboci.loop.Handle
local Handle = {}
Handle.__index = Handle

---Closing twice is fine.
function Handle:close()
  local handle = self.uv
  self.uv = nil
  if handle then
    handle:stop()
    loop.close(handle)
  end
end

---Calls fn once, in a task, after so many seconds.
---@param seconds number
---@param fn function
---@return turboci.loop.Handle timer close() it to call it off
function loop.timer(seconds, fn)
  local timer = uv.new_timer()
  local self = setmetatable({ uv = timer }, Handle)
  uv.update_time()
  timer:start(math.max(0, math.ceil(seconds * 1000)), 0, function()
    local live = self.uv
    self:close()
    if live then loop.spawn(fn) end
  end)
  return self
end

---Calls fn(name), in a task, at each of these signals ("sigint", "sigterm"), instead of the system's default.
---@param name string
---@param fn fun(name: string)
---@return turboci.loop.Handle
function loop.on_signal(name, fn)
  local signal = uv.new_signal()
  signal:start(name, function() loop.spawn(fn, name) end)
  return setmetatable({ uv = signal }, Handle)
end

---------------------------------------------------------------------------------------------------
-- Queues

---@class turboci.loop.Queue values from those who push to the one who pops
local Queue = {}
Queue.__index = Queue

---@return turboci.loop.Queue
function loop.queue()
  return setmetatable({ items = {}, first = 1, last = 0, closed = false }, Queue)
end

function Queue:push(value)
  if self.closed then return end
  self.last = self.last + 1
  self.items[self.last] = value
  if self.waiter then self.waiter() end
end

---What is in the queue can still be popped.
function Queue:close()
  self.closed = true
  if self.waiter then self.waiter() end
end

---Waits for a value; nil once the queue is closed and empty. One popper at a time.
function Queue:pop()
  while self.first > self.last do
    if self.closed then return nil end
    loop.await(function(resume) self.waiter = resume end)
    self.waiter = nil
  end
  local value = self.items[self.first]
  self.items[self.first] = nil
  self.first = self.first + 1
  return value
end

---------------------------------------------------------------------------------------------------
-- turboci.core

local core, poll -- loaded when first needed
local calls = {} -- handle -> { on_message, on_done }
local hosts = setmetatable({}, { __mode = "k" }) -- host -> { on_call, on_gone }

local function route(event)
  if event.type == "message" then
    local call = calls[event.handle]
    if call and call.on_message then call.on_message(event) end
  elseif event.type == "done" then
    local call = calls[event.handle]
    calls[event.handle] = nil
    if call and call.on_done then call.on_done(event) end
  else
    local host = hosts[event.host]
    if host and event.type == "call" then loop.spawn(host.on_call, event) end
    if host and event.type == "gone" and host.on_gone then loop.spawn(host.on_gone, event) end
  end
end

-- The descriptor is watched only while somebody pumps: outside, whoever wants may call core.take() himself.
local function attach()
  if poll then return end
  core = require "turboci.core"
  poll = assert(uv.new_poll(core.fd()))
  local listening = false
  listen = function()
    if listening then return end
    listening = true
    poll:start("r", function()
      for _, event in ipairs(core.take()) do
        push(function() route(event) end)
      end
    end)
  end
  unlisten = function()
    listening = false
    poll:stop()
  end
  if pumps > 0 then listen() end
end

---Routes the events of a call that core.call started. The functions must not wait.
---@param handle integer
---@param on_message fun(event: turboci.core.Event)? streams: one message
---@param on_done fun(event: turboci.core.Event)? the end
function loop.on_done(handle, on_message, on_done)
  attach()
  calls[handle] = { on_message = on_message, on_done = on_done }
end

---Routes the calls that arrive at a host; each handler runs in a task of its own.
---@param host turboci.core.Host
---@param on_call fun(event: turboci.core.Event)? nil: no more
---@param on_gone fun(event: turboci.core.Event)? the caller cancelled, or its deadline passed
function loop.on_call(host, on_call, on_gone)
  attach()
  hosts[host] = on_call and { on_call = on_call, on_gone = on_gone } or nil
end

return loop
