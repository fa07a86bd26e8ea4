-- process: turboci processes in the hands of a spec: started, listened to, killed, started again. For specs of the
-- world grpc; everything waits for events, with one bound for when they do not come.
--
--   local server = process.serve { folder = folder }     -- waits until it listens; server.address, server.client
--   server:kill "sigkill"                                -- waits until it is gone
--   server = server:again()                              -- same file, same address
--   process.wait(function() return condition end)        -- re-checked whenever something happens

local client = require "turboci.client"
local loop = require "turboci.loop"
local turns = require "turns"
local uv = require "luv"

local LIMIT = 60 -- seconds

local M = {}

local waiting, running = {}, {}

---Something happened: every wait looks again.
function M.wake()
  local list = waiting
  waiting = {}
  for _, resume in ipairs(list) do resume() end
end

---Waits until the condition holds and returns what it returned.
---@param condition fun(): any
---@param what string? for the message when it never does
function M.wait(condition, what)
  local late = false
  local timer = loop.timer(LIMIT, function()
    late = true
    M.wake()
  end)
  while true do
    local result = condition()
    if result or late then
      timer:close()
      if not late then return result end -- a late one shows that an event was missed
      error(("waited in vain for %s; the processes said:\n%s"):format(what or "a condition", M.said()), 2)
    end
    loop.await(function(resume) waiting[#waiting + 1] = resume end)
  end
end

---Lets this many seconds pass: only to measure what happens in them.
---@param seconds number
function M.pass(seconds)
  loop.await(function(resume) loop.timer(seconds, resume) end)
end

-- ---- processes ----

---@class spec.Process
---@field pid integer
---@field out string what it printed so far
---@field err string
---@field stop_reading table<string, fun()> "out", "err": as a reader that leaves
---@field exit {code: integer, signal: integer}? once it has ended and all its output is read
local Process = {}
Process.__index = Process

local function environment()
  local list = {}
  for name, value in pairs(uv.os_environ()) do
    if name ~= "TURBOCI_SERVER" then list[#list + 1] = name .. "=" .. value end
  end
  return list
end

---Starts `turboci ARGS...`.
---@param args string[]
---@param program string? what is started instead
---@return spec.Process
function M.start(args, program)
  program = program or assert(os.getenv "TURBOCI_BIN", "TURBOCI_BIN does not name the turboci program")
  local self = setmetatable({ args = args, out = "", err = "" }, Process)
  local pipes, open, exit = { uv.new_pipe(false), uv.new_pipe(false) }, 3, nil
  local function less()
    open = open - 1
    if open == 0 then
      self.exit = exit
      turns.read(self.err)
    end
    M.wake()
  end
  local pid
  self.handle, pid = uv.spawn(program, { args = args, env = environment(), stdio = { nil, pipes[1], pipes[2] } },
    function(code, signal)
      exit = { code = code, signal = signal }
      less()
    end)
  assert(self.handle, pid)
  self.pid, self.pipes = pid, pipes
  self.stop_reading = {}
  for i, name in ipairs { "out", "err" } do
    self.stop_reading[name] = function()
      loop.close(pipes[i])
      less()
    end
    pipes[i]:read_start(function(_, bytes)
      if not bytes then return less() end
      self[name] = self[name] .. bytes
      M.wake()
    end)
  end
  running[#running + 1] = self
  return self
end

---What every process printed, for a failure's message.
---@return string
function M.said()
  local parts = {}
  for i, process in ipairs(running) do
    local words = table.concat(process.args, " ")
    parts[i] = ("--- %d: turboci %s\n%s%s"):format(process.pid, words, process.out, process.err)
  end
  return table.concat(parts, "\n")
end

---Waits until it has printed this, and returns the match.
---@param pattern string
---@param stream "out"|"err"|nil default "out"
---@return string
function Process:wait_for(pattern, stream)
  stream = stream or "out"
  M.wait(function() return self[stream]:match(pattern) or self.exit end, "output of " .. self.args[1])
  local found = self[stream]:match(pattern)
  if found then return found end
  error(("turboci %s ended without saying '%s':\n%s%s"):format(self.args[1], pattern, self.out, self.err), 2)
end

---Sends the signal at once.
---@param name string
function Process:signal(name)
  if not self.exit then uv.kill(self.pid, name) end
end

---@return {code: integer, signal: integer}
function Process:ended()
  return M.wait(function() return self.exit end, "the end of " .. self.args[1])
end

---Sends the signal and waits until the process has ended.
---@param name string
---@return {code: integer, signal: integer}
function Process:kill(name)
  self:signal(name)
  return self:ended()
end

-- ---- servers ----

---@param given {folder: string, listen: string?, args: string[]?, program: string?}
---@return spec.Process server its `address` and a `client`
function M.serve(given)
  local args = { "serve", "--listen", given.listen or "127.0.0.1:0", "--db", given.folder .. "/turboci.db" }
  table.move(given.args or {}, 1, #(given.args or {}), #args + 1, args)
  local self = M.start(args, given.program)
  self.given = given
  self.address = self:wait_for "listening on (%S+)"
  self.client = client.connect(self.address)
  return self
end

---Another one on the same file and address; the first one has ended.
---@return spec.Process
function Process:again()
  local again = { listen = self.address }
  for key, value in pairs(self.given) do again[key] = again[key] or value end
  local server = M.serve(again)
  -- A gRPC channel that found nobody waits a moment before it dials again, and says so to every call until then.
  M.wait(function()
    local _, err = server.client:get_server_info {}
    if err and not server.exit then loop.timer(0.01, M.wake) end
    return not err or server.exit
  end, "the server to answer")
  return server
end

-- ---- watching ----

---@class spec.Follower reads a watch into `events`, until it ends (`ended`, `problem`)
local Follower = {}
Follower.__index = Follower

---@param server spec.Process
---@param plan_id string
---@param after integer sequence after which to start
---@param on_event fun(event: table)?
---@return spec.Follower
function M.follow(server, plan_id, after, on_event)
  local self = setmetatable({ events = {}, last = after }, Follower)
  self.stream = server.client:watch {
    work_plan_id = plan_id, after_sequence = after,
    include_checks = true, include_stages = true, include_progress = true,
  }
  loop.spawn(function()
    while true do
      local event, problem = self.stream:next()
      if not event then
        self.ended, self.problem = true, problem
        return M.wake()
      end
      self.events[#self.events + 1] = event
      self.last = event.sequence
      if on_event then on_event(event) end
      M.wake()
    end
  end)
  return self
end

---Waits until the last event is the completed one.
function Follower:wait_settled()
  M.wait(function()
    local last = self.events[#self.events]
    return last and last.completed_event or self.ended
  end, "the plan to settle")
  if self.ended then error("the watch ended: " .. tostring(self.problem), 2) end
end

---Waits for an event of this stage that fits.
---@param id string
---@param fits fun(stage: table): any
function Follower:wait_stage(id, fits)
  M.wait(function()
    for _, event in ipairs(self.events) do
      local part = event.stage_event
      if part and part.stage_id == id and fits(part.stage) then return true end
    end
    return self.ended
  end, "stage " .. id)
  if self.ended then error("the watch ended: " .. tostring(self.problem), 2) end
end

function Follower:close()
  self.stream:close()
end

-- ---- the end ----

---@return string
function M.new_folder()
  return assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/turboci-spec-XXXXXX"))
end

---Ends every process and removes the folder.
---@param folder string
function M.clean(folder)
  for _, process in ipairs(running) do
    if not process.exit then process:kill "sigkill" end
    for _, handle in ipairs { process.handle, process.pipes[1], process.pipes[2] } do loop.close(handle) end
  end
  running = {}
  local names = uv.fs_scandir(folder)
  while names do
    local name = uv.fs_scandir_next(names)
    if not name then break end
    os.remove(folder .. "/" .. name)
  end
  uv.fs_rmdir(folder)
end

return M
