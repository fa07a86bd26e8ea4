-- grpc: the real world. The engine is a `turboci serve` process of its own on a temporary file; runners are real gRPC
-- servers in this process; time passes. Waiting is for events (a watch stream, a runner's call, the end of the
-- process), with a bound, and never for a moment to be over.
--
-- The program is $TURBOCI_BIN, or the one that runs the spec (`turboci test`). Used by testing/env.lua.

local client = require "turboci.client"
local core = require "turboci.core"
local loop = require "turboci.loop"
local util = require "turboci.util"
local uv = require "luv"
local where = require "turboci.workflow.where"

local START_TIMEOUT_S = 20
local STOP_TIMEOUT_S = 20
local WAIT_MS = 20000

---@class turboci.testing.Grpc : turboci.testing.World
local Grpc = {}
Grpc.__index = Grpc
Grpc.name = "grpc"

local function read_lines(pipe, on_line)
  local rest = ""
  pipe:read_start(function(err, chunk)
    if err or not chunk then return end
    rest = rest .. chunk
    for line in rest:gmatch "([^\n]*)\n" do on_line(line) end
    rest = rest:match "[^\n]*$"
  end)
end

-- Adds "OPTION KEY=VALUE" for each entry, in order of the keys.
local function add_pairs(list, option, pairs_of)
  for _, name in ipairs(util.sorted_keys(pairs_of or {})) do
    table.move({ option, ("%s=%s"):format(name, pairs_of[name]) }, 1, 2, #list + 1, list)
  end
end

local function arguments(given, database)
  local list = { "serve", "--listen", "127.0.0.1:0", "--db", database }
  add_pairs(list, "--limit", given.limits)
  for _, folder in ipairs(given.policies or {}) do
    table.move({ "--policies", folder }, 1, 2, #list + 1, list)
  end
  if given.policy then table.move({ "--policy", given.policy }, 1, 2, #list + 1, list) end
  add_pairs(list, "--policy-for", given.policy_for)
  return list
end

local function program_path()
  local program = os.getenv "TURBOCI_BIN"
  if program then return program end
  -- Inside the program the core is linked in, and comes from package.preload; elsewhere it is a file.
  if package.preload["turboci.core"] then return uv.exepath() end
  error("the grpc world needs the turboci program: run the spec with `turboci test`, or name it in TURBOCI_BIN", 0)
end

-- The program's own process, with nothing of our environment taken away.
local function start(self, given)
  local program = program_path()
  self.stdout, self.stderr, self.output = uv.new_pipe(false), uv.new_pipe(false), {}
  self.process, self.pid = uv.spawn(program, {
    args = arguments(given, given.db or self.folder .. "/turboci.db"),
    stdio = { nil, self.stdout, self.stderr },
  }, function(code, signal)
    self.exit = { code = code, signal = signal }
    self:wake()
  end)
  if not self.process then error(("cannot start %s: %s"):format(program, self.pid), 0) end
  local function on_line(line)
    self.output[#self.output + 1] = line
    self.address = self.address or line:match "127%.0%.0%.1:%d+"
    self:wake()
  end
  read_lines(self.stdout, on_line)
  read_lines(self.stderr, on_line)
end

local function fail_with_output(self, text)
  error(text .. "\n" .. table.concat(self.output, "\n"), 0)
end

local function remove(folder)
  local names = uv.fs_scandir(folder)
  while names do
    local name = uv.fs_scandir_next(names)
    if not name then break end
    os.remove(folder .. "/" .. name)
  end
  uv.fs_rmdir(folder)
end

-- Waits for its end, and leaves nothing of it.
local function clean(self)
  self:wait(function() return self.exit end, STOP_TIMEOUT_S * 1000)
  for _, handle in ipairs { self.stdout, self.stderr, self.process } do loop.close(handle) end
  self.process = nil
  remove(self.folder)
end

---@param given turboci.testing.EnvOptions
---@return turboci.testing.Grpc
local function new(given)
  local self = setmetatable({ generation = 0, closers = {} }, Grpc)
  self.folder = assert(uv.fs_mkdtemp(util.temporary_folder() .. "/turboci-test-XXXXXX"))
  start(self, given)
  self:wait(function() return self.address or self.exit end, START_TIMEOUT_S * 1000)
  if self.address then return self end
  if not self.exit then self.process:kill "sigkill" end
  clean(self)
  -- Its own words of refusal come last, behind its log.
  for _, line in ipairs(self.output) do
    local refusal = line:match "^turboci serve: (.*)"
    if refusal then where.fail("env: " .. refusal) end
  end
  where.fail("env: turboci serve did not say where it listens\n" .. table.concat(self.output, "\n"))
end

-- ---- waiting ----

function Grpc:wake()
  self.generation = self.generation + 1
  local waker = self.waker
  self.waker = nil
  if waker then waker() end
end

function Grpc:wait(condition, limit_ms)
  local expired = false
  local timer = loop.timer((limit_ms or WAIT_MS) / 1000, function()
    expired = true
    self:wake()
  end)
  while true do
    local generation = self.generation
    if self.failure then
      local failure = self.failure
      self.failure = nil
      timer:close()
      error(failure, 0)
    end
    local result = table.pack(condition())
    if result[1] or expired then
      timer:close()
      return table.unpack(result, 1, result.n)
    end
    -- The condition may have asked the server, and things may have happened meanwhile.
    if generation == self.generation then
      loop.await(function(resume) self.waker = resume end)
    end
  end
end

-- How much the engine has done: changes it has written down, and questions it has asked policies.
local function work_done(connection)
  local info = assert(connection:call("GetServerInfo", {}, { timeout = 20 }))
  return info.counters.records + info.counters.policy_asks
end

---Round trips until one finds that nothing was done since the last: what was sent before has been taken, and what was
---due (a backoff that is over, questions left for the next turn) has happened.
function Grpc:settle()
  local connection = client.connect(self.address)
  local before, now = -1, work_done(connection)
  local give_up = util.mono() + WAIT_MS / 1000
  while now ~= before do
    if util.mono() > give_up then error("the engine does not come to rest", 0) end
    before, now = now, work_done(connection)
  end
end

function Grpc.advance()
  error("env:advance exists in the virtual world only: real time passes by itself", 0)
end

function Grpc.restart()
  error("env:restart exists in the virtual world only", 0)
end

function Grpc:spawn(fn)
  loop.spawn(function()
    local ok, err = xpcall(fn, debug.traceback)
    if ok then return end
    self.failure = self.failure or err
    self:wake()
  end)
end

function Grpc.await(_, register)
  return loop.await(register)
end

-- ---- the wire ----

function Grpc:transport()
  return client.connect(self.address).transport
end

function Grpc:raw(method, bytes)
  local done = loop.await(function(resume)
    loop.on_done(core.call(self.address, method, bytes, 10), nil, resume)
  end)
  return done.code, done.message, done.bytes
end

function Grpc:host(handler)
  local host = assert(core.host "127.0.0.1:0")
  local address = host:address()
  local calls = {}
  loop.on_call(host, function(event)
    local call = { method = event.method, bytes = event.bytes, timeout = event.timeout }
    calls[event.call] = call
    call.reply = function(code, message, bytes)
      if calls[event.call] ~= call then return end -- over already
      calls[event.call] = nil
      host:reply(event.call, code, message or "", code == 0 and bytes or nil)
    end
    handler(call)
  end, function(event)
    local call = calls[event.call]
    calls[event.call] = nil
    if call and call.on_cancel then call.on_cancel() end
  end)
  local function close()
    if not host then return end
    calls = {}
    loop.on_call(host, nil)
    host:close(0)
    host = nil
  end
  table.insert(self.closers, close)
  return address, close
end

-- ---- the end ----

---Stops the server as an operator would, and wants it to end well.
function Grpc:stop()
  if not self.process then return end
  for _, close in ipairs(self.closers) do close() end
  if not self.exit then self.process:kill "sigterm" end
  self.failure = nil
  self:wait(function() return self.exit end, STOP_TIMEOUT_S * 1000)
  local exit = self.exit
  if not exit then self.process:kill "sigkill" end
  clean(self)
  if not exit then fail_with_output(self, "turboci serve did not stop when told to") end
  if exit.code ~= 0 or exit.signal ~= 0 then
    fail_with_output(self, ("turboci serve ended with code %d, signal %d"):format(exit.code, exit.signal))
  end
end

return { new = new }
