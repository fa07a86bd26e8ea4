-- One event loop (luv) and coroutines ("tasks") on it.
--
-- Invariants:
--   1. User code never runs inside a luv callback: callbacks only put work on the ready list, and the pump runs it
--      between two turns of uv. So waiting from anywhere, even from outside a task, is safe.
--   2. Work becomes ready in order and runs in order.
--   3. An error that nobody catches in a task surfaces from the pump; it is never lost.
--   4. With nothing to do the process sleeps in epoll: no timers of our own.
--   5. A scope holds all tasks that a piece of code started, and those that they started. Closing it ends them where
--      they wait: nothing of them runs afterwards. One that computes and computes lets the others have their turns, and
--      ends there too: code of others cannot stop the loop, as long as it is Lua that runs.
-- turboci.core is attached only when somebody listens to it; processes and timers work without it.

local uv = require "luv"
-- luv frees its loop when the module that was loaded first is collected, and a second `require` then finds the freed
-- one. Busted forgets modules between files: keep the first one for as long as the state lives.
debug.getregistry()["turboci.luv"] = debug.getregistry()["turboci.luv"] or uv

local loop = {}

local ready = {} -- functions to call, first to last
local ready_first, ready_last = 1, 0
local tasks = setmetatable({}, { __mode = "k" }) -- coroutine -> its task
local scopes = setmetatable({}, { __mode = "k" }) -- coroutine -> its scope
local errors = {} -- of tasks that nobody waits for

local function push(fn)
  ready_last = ready_last + 1
  ready[ready_last] = fn
end

local conditions = {} -- of loop.wait_until, oldest first

-- Looks at them after whatever has happened: a condition changes only by what the loop runs.
local function look()
  local open = conditions
  conditions = {}
  for _, wait in ipairs(open) do
    if wait.condition() then wait.resume() else table.insert(conditions, wait) end
  end
end

---------------------------------------------------------------------------------------------------
-- Tasks

---@class turboci.loop.Task
---@field private co thread
---@field private ended boolean
---@field private watched boolean somebody looks at its error
---@field private parked boolean it waits in loop.await
---@field private stop_with any it runs, and is to end with this where it waits next
---@field private scope turboci.loop.Scope?
local Task = {}
Task.__index = Task

-- An error that is nobody's: it goes to the task's scope, or surfaces from the pump.
local function report(task, err)
  if task.watched then return end
  if task.scope then return task.scope.on_error(err) end
  -- A plain message gets the place it came from; an error object is passed on as it is.
  errors[#errors + 1] = type(err) == "string" and debug.traceback(task.co, err) or err
end

local function end_task(task, ok, ...)
  task.ended, task.ok = true, ok
  if task.scope then task.scope.tasks[task] = nil end
  if ok then task.results = table.pack(...) else task.err = ... end
  if not ok and not task.stopped then report(task, task.err) end
  for _, resume in ipairs(task.waiters or {}) do
    resume()
  end
end

-- Ends a task with an error of ours: now when it waits, else where it waits next.
local function stop(task, err)
  if task.ended then return end
  if coroutine.status(task.co) ~= "suspended" then
    task.stop_with = err
    return
  end
  task.stopped = true
  coroutine.close(task.co) -- closes its variables that are to be closed
  end_task(task, false, err)
end

-- Where a task that yielded by itself did so.
local function place(task)
  local info = debug.getinfo(task.co, 1, "Sl")
  return info and ("%s:%d: "):format(info.short_src, info.currentline) or ""
end

local function step(task, ...)
  if task.ended then return end
  local result = table.pack(coroutine.resume(task.co, ...))
  if coroutine.status(task.co) == "dead" then
    end_task(task, table.unpack(result, 1, result.n))
  elseif task.stop_with then
    stop(task, task.stop_with)
  elseif not task.parked then
    local err = place(task) .. "coroutine.yield in a task: nobody would go on with it; wait with turboci.loop"
    coroutine.close(task.co)
    end_task(task, false, err)
  end
end

local SLICE = 1000000 -- instructions that code in a scope may run before the others have a turn
local NESTED_MAX = 20 -- of those who do so at the same time
local nested = 0

-- A hook: what is due happens though the code that runs does not wait, and ends it when its scope is closed. Errors of
-- the others wait for the pump.
local let_others, arm
function let_others()
  if nested < NESTED_MAX then
    nested = nested + 1
    uv.run "nowait"
    if conditions[1] then look() end
    local last = ready_last
    while ready_first <= last and ready_first <= ready_last do
      local fn = ready[ready_first]
      ready[ready_first] = nil
      ready_first = ready_first + 1
      local ok, err = pcall(fn)
      if not ok then errors[#errors + 1] = err end
    end
    nested = nested - 1
  end
  local co = coroutine.running()
  local scope = scopes[co]
  if not scope or scope.closed == nil then return end
  arm(co, 1) -- whoever catches the error gets it again at once
  error(scope.closed, 0)
end

local hooks = setmetatable({}, { __mode = "k" }) -- coroutine -> { hook =, mask = }

-- let_others after so many instructions. The hook of a debugger, or of who counts lines, stays.
function arm(co, instructions)
  if not hooks[co] then
    local before, mask = debug.gethook(co)
    local function both(event, line)
      if event == "count" then return let_others() end
      return before(event, line)
    end
    hooks[co] = before and { hook = both, mask = mask } or { hook = let_others, mask = "" }
  end
  debug.sethook(co, hooks[co].hook, hooks[co].mask, instructions)
end

local function enter(scope, co)
  scopes[co] = scope
  if scope then arm(co, SLICE) end
end

local function spawn_in(scope, fn, ...)
  local task = setmetatable({ co = coroutine.create(fn), ended = false, watched = false, scope = scope }, Task)
  tasks[task.co] = task
  enter(scope, task.co)
  if scope then scope.tasks[task] = true end
  local args = table.pack(...)
  push(function() step(task, table.unpack(args, 1, args.n)) end)
  if scope and scope.closed ~= nil then stop(task, scope.closed) end
  return task
end

---Starts fn in a task of its own, at the next turn of the loop; in the scope of whoever calls.
---@param fn function
---@return turboci.loop.Task
function loop.spawn(fn, ...)
  return spawn_in(scopes[coroutine.running()], fn, ...)
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
-- Scopes

---@class turboci.loop.Scope
---@field value any whose scope it is, for who made it
---@field closed any the error with which it was closed
---@field private on_error fun(err: any)
---@field private tasks table<turboci.loop.Task, boolean> those that have not ended
local Scope = {}
Scope.__index = Scope

---@param value any
---@param on_error fun(err: any) told when a task of it fails that nobody waits for; must not wait
---@return turboci.loop.Scope
function loop.scope(value, on_error)
  return setmetatable({ value = value, on_error = on_error, tasks = {} }, Scope)
end

---Starts fn in a task of this scope.
---@param fn function
---@return turboci.loop.Task
function Scope:spawn(fn, ...)
  return spawn_in(self, fn, ...)
end

---Calls fn in this scope, in the coroutine that runs. Like pcall.
---@param fn function
---@return boolean ok
---@return ...
function Scope:call(fn, ...)
  local co = coroutine.running()
  local before = scopes[co]
  scopes[co] = self
  local result = table.pack(pcall(fn, ...))
  scopes[co] = before
  return table.unpack(result, 1, result.n)
end

---Ends every task of it, with this error for those who wait for one.
---@param err any
function Scope:close(err)
  self.closed = err
  local open = {}
  for task in pairs(self.tasks) do
    open[#open + 1] = task
  end
  for _, task in ipairs(open) do
    stop(task, err)
  end
end

---The scope of the code that runs.
---@return turboci.loop.Scope?
function loop.current_scope()
  return scopes[coroutine.running()]
end

---True in a task.
---@return boolean
function loop.in_task()
  return tasks[coroutine.running()] ~= nil
end

---From now on coroutines belong to the scope in which they are made. For programs that run code of others.
function loop.adopt_coroutines()
  local create = coroutine.create
  local function adopted(fn)
    local co = create(fn)
    enter(scopes[coroutine.running()], co)
    return co
  end
  local function returned(co, ok, ...)
    if ok then return ... end
    coroutine.close(co)
    error(..., 0)
  end
  coroutine.create = adopted -- luacheck: ignore 122
  coroutine.wrap = function(fn) -- luacheck: ignore 122
    local co = adopted(fn)
    return function(...) return returned(co, coroutine.resume(co, ...)) end
  end
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
  local co = coroutine.running()
  local task, scope = tasks[co], scopes[co]
  if scope and scope.closed ~= nil then error(scope.closed, 0) end
  local values, parked
  start(function(...)
    if values then return end
    values = table.pack(...)
    if parked then push(function() step(task) end) end
  end)
  if not values then
    if task then
      parked, task.parked = true, true
      coroutine.yield()
      task.parked = false
    else
      pump(function() return values ~= nil or scope and scope.closed ~= nil end)
      if not values then error(scope.closed, 0) end
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
  local timer, scope = uv.new_timer(), scopes[coroutine.running()]
  local self = setmetatable({ uv = timer }, Handle)
  uv.update_time()
  timer:start(math.max(0, math.ceil(seconds * 1000)), 0, function()
    local live = self.uv
    self:close()
    if live then spawn_in(scope, fn) end
  end)
  return self
end

---Calls fn(name), in a task, at each of these signals ("sigint", "sigterm"), instead of the system's default.
---@param name string
---@param fn fun(name: string)
---@return turboci.loop.Handle
function loop.on_signal(name, fn)
  local signal, scope = uv.new_signal(), scopes[coroutine.running()]
  signal:start(name, function() spawn_in(scope, fn, name) end)
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
    if host and event.type == "call" then spawn_in(nil, host.on_call, event) end
    if host and event.type == "gone" and host.on_gone then spawn_in(nil, host.on_gone, event) end
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

---------------------------------------------------------------------------------------------------
-- The end

---Closes every handle there is, whoever made it, and waits until they are. What still waits is never woken. luv calls
---back into a state that is half closed when it finds open handles at its end; so nothing ends without this.
function loop.shutdown()
  uv.walk(function(handle)
    if not handle:is_closing() then handle:close() end
  end)
  while uv.loop_alive() do
    uv.run("once")
  end
end

return loop
