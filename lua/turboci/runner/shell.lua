-- The shell runner's run function: executes args.command and reports its output.
--
--     args = { command = "make -j2", env = { CC = "clang" }, cwd = "src", timeout = "10m" }
--
-- command: a text for /bin/sh -c, or a list (program, arguments...). env is added to the runner's own environment.
-- Invariants:
--   1. A command has a process group of its own, and nothing of that group is left when run() returns.
--   2. stdout and stderr are one pipe, so their order is the command's own.
--   3. At most PER_SECOND progress updates a second; memory for output is bounded by the tail.
-- Needs no engine: the context is anything with args, progress, on_cancel and cancel_reason.

local loop = require "turboci.loop"
local util = require "turboci.util"
local uv = require "luv"

local PER_SECOND = 4
local UPDATE_LINES, UPDATE_BYTES = 20, 4096 -- of one progress message
local TAIL_LINES, TAIL_BYTES = 200, 65536
local LINE_BYTES = 16384 -- longer ones are cut into several
local KILL_AFTER = 2 -- seconds between SIGTERM and SIGKILL
local PIPE_GRACE = 0.5 -- seconds for output still in the pipe when the command is gone

local groups = {} -- process groups at work

local function signal_group(pid, name)
  uv.kill(-pid, name) -- ESRCH: nobody is left; fine
end

---------------------------------------------------------------------------------------------------
-- The last lines

local Tail = {}
Tail.__index = Tail

local function new_tail(lines_max, bytes_max)
  return setmetatable({
    lines = {}, first = 1, last = 0, bytes = 0,
    lines_max = lines_max, bytes_max = bytes_max,
  }, Tail)
end

function Tail:add(line)
  self.last = self.last + 1
  self.lines[self.last] = line
  self.bytes = self.bytes + #line + 1
  while self.last - self.first >= self.lines_max or (self.bytes > self.bytes_max and self.first < self.last) do
    self.bytes = self.bytes - #self.lines[self.first] - 1
    self.lines[self.first] = nil
    self.first = self.first + 1
  end
end

function Tail:text()
  return table.concat(self.lines, "\n", self.first, self.last)
end

---------------------------------------------------------------------------------------------------
-- Output: bytes -> lines -> tail and progress

local Output = {}
Output.__index = Output

local function new_output(context)
  return setmetatable({
    context = context,
    partial = "",
    tail = new_tail(TAIL_LINES, TAIL_BYTES),
    unsent = new_tail(UPDATE_LINES, UPDATE_BYTES),
    next_at = 0,
  }, Output)
end

local function send(output)
  if output.unsent.last < output.unsent.first then return end
  output.context:progress(output.unsent:text())
  output.unsent = new_tail(UPDATE_LINES, UPDATE_BYTES)
  output.next_at = util.mono() + 1 / PER_SECOND
end

local function schedule(output)
  if output.timer or output.closed then return end
  local wait = output.next_at - util.mono()
  if wait <= 0 then return send(output) end
  output.timer = loop.timer(wait, function()
    output.timer = nil
    if not output.closed then send(output) end
  end)
end

local function add_line(output, line)
  line = util.clean_text((line:gsub("\r$", "")))
  output.tail:add(line)
  output.unsent:add(line)
end

function Output:add(bytes)
  local text = self.partial .. bytes
  local from = 1
  while true do
    local at = text:find("\n", from, true)
    if at and at - from <= LINE_BYTES then
      add_line(self, text:sub(from, at - 1))
      from = at + 1
    elseif #text - from + 1 > LINE_BYTES then
      add_line(self, text:sub(from, from + LINE_BYTES - 1))
      from = from + LINE_BYTES
    else
      break
    end
  end
  self.partial = text:sub(from)
  schedule(self)
end

function Output:close()
  if self.partial ~= "" then add_line(self, self.partial) end
  self.partial = ""
  if self.timer then self.timer:close() end
  send(self) -- the last words are never held back
  self.closed = true
end

---------------------------------------------------------------------------------------------------
-- The command

local function is_text_list(value)
  for _, item in ipairs(value) do
    if type(item) ~= "string" then return false end
  end
  return #value > 0
end

-- What to spawn; nil and a text when the args make no sense.
local function read_args(args)
  local command = args.command
  local file, list
  if type(command) == "string" and command:find("%S") then
    file, list = "/bin/sh", { "-c", command }
  elseif type(command) == "table" and is_text_list(command) then
    file, list = command[1], table.move(command, 2, #command, 1, {})
  else
    return nil, "args.command: expected a command as text, or a list of texts (program, arguments...)"
  end
  local env = uv.os_environ()
  for name, value in pairs(args.env or {}) do
    if type(name) ~= "string" or type(value) == "table" then return nil, "args.env: expected names and texts" end
    env[name] = tostring(value)
  end
  local pairs_of_env = {}
  for name, value in pairs(env) do
    pairs_of_env[#pairs_of_env + 1] = name .. "=" .. value
  end
  local timeout, err
  if args.timeout ~= nil then
    timeout, err = util.duration(args.timeout)
    if not timeout then return nil, "args.timeout: " .. err end
  end
  if args.cwd then
    local stat = uv.fs_stat(args.cwd)
    if not stat or stat.type ~= "directory" then return nil, ("args.cwd: '%s' is not a directory"):format(args.cwd) end
  end
  return { file = file, args = list, env = pairs_of_env, cwd = args.cwd, timeout = timeout }
end

-- Starts it with one pipe for both streams. Returns the process or nil and a text.
local function start(spec, on_bytes, on_end, on_exit)
  local ends = assert(uv.pipe({ nonblock = true }, {}))
  local handle, pid = uv.spawn(spec.file, {
    args = spec.args,
    env = spec.env,
    cwd = spec.cwd,
    stdio = { nil, ends.write, ends.write },
    detached = true,
  }, on_exit)
  uv.fs_close(ends.write)
  if not handle then
    uv.fs_close(ends.read)
    return nil, ("cannot start '%s': %s"):format(spec.file, pid)
  end
  local pipe = uv.new_pipe(false)
  pipe:open(ends.read)
  pipe:read_start(function(err, bytes)
    if bytes then on_bytes(bytes) else on_end(err) end
  end)
  return { handle = handle, pid = pid, pipe = pipe }
end

-- SIGTERM now, SIGKILL when that did not help.
local function terminate(process, why)
  if process.ended or process.why then return end
  process.why = why
  signal_group(process.pid, "sigterm")
  process.kill_timer = loop.timer(KILL_AFTER, function()
    if not process.ended then signal_group(process.pid, "sigkill") end
  end)
end

-- Waits until the command has ended and its output is read.
local function wait(process, queue, output)
  local code, signal, deadline
  while not (code and process.drained) do
    local event = queue:pop()
    if event.bytes then
      output:add(event.bytes)
    elseif event.drained then
      process.drained = true
    elseif event.code then
      code, signal = event.code, event.signal
      process.ended = true
      signal_group(process.pid, "sigkill") -- what it left behind
      deadline = loop.timer(PIPE_GRACE, function() queue:push { drained = true } end)
    end
  end
  deadline:close()
  return code, signal
end

local signal_names = {}
for name, number in pairs(uv.constants) do
  if name:find("^SIG") then signal_names[number] = name end
end

local function result_of(process, code, signal, seconds, output)
  local details = { exit_code = code, duration = seconds, output = output.tail:text() }
  if signal ~= 0 then details.signal = signal_names[signal] or tostring(signal) end
  local failure = process.why
  if not failure and signal ~= 0 then failure = "killed by " .. details.signal end
  if not failure and code ~= 0 then failure = "exit code " .. code end
  return { failure = failure, details = details, data = { exit_code = code, duration = seconds } }
end

local reasons = {
  deadline = "the deadline passed",
  superseded = "another attempt took over",
  stopped = "the runner was stopped",
}

---@param context turboci.runner.Context
---@return turboci.runner.Result?
---@return string? err
local function run(context)
  local spec, problem = read_args(context.args)
  if not spec then return nil, problem end
  local output, queue, started = new_output(context), loop.queue(), util.mono()
  local process
  process, problem = start(spec, function(bytes) queue:push { bytes = bytes } end,
    function() queue:push { drained = true } end,
    function(code, signal) queue:push { code = code, signal = signal } end)
  if not process then return nil, problem end
  groups[process.pid] = true
  local timeout = spec.timeout and loop.timer(spec.timeout, function()
    terminate(process, "timed out after " .. util.format_duration(spec.timeout))
  end)
  context:on_cancel(function(reason) terminate(process, reasons[reason] or "cancelled") end)
  local code, signal = wait(process, queue, output)
  groups[process.pid] = nil
  if timeout then timeout:close() end
  if process.kill_timer then process.kill_timer:close() end
  queue:close()
  loop.close(process.pipe)
  loop.close(process.handle)
  output:close()
  return result_of(process, code, signal, util.mono() - started, output)
end

-- For a program that leaves at once: nothing survives it.
local function kill_all()
  for pid in pairs(groups) do
    signal_group(pid, "sigkill")
  end
end

return setmetatable({ run = run, kill_all = kill_all }, { __call = function(_, context) return run(context) end })
