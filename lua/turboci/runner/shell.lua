-- The shell runner's run function: executes args.command and reports its output.
--
--     args = { command = "make -j2", env = { CC = "clang" }, cwd = "src", timeout = "10m" }
--
-- command: a text for /bin/sh, or a list (program, arguments...). env is added to the runner's own environment.
-- The result's details: exit_code or, when it was killed, signal; duration, output (its end) and lines_before (how many
-- are not in it).
-- Invariants:
--   1. A command has a process group of its own, and nothing of that group is left when run() returns.
--   2. stdout and stderr are one pipe, so their order is the command's own.
--   3. Progress and memory for output are bounded: see turboci.runner.output.
-- Needs no engine: the context is anything with args, progress, on_cancel and cancel_reason.

local loop = require "turboci.loop"
local new_output = require("turboci.runner.output").new
local util = require "turboci.util"
local uv = require "luv"

local KILL_AFTER = 2 -- seconds between SIGTERM and SIGKILL
local PIPE_GRACE = 0.5 -- seconds for output still in the pipe when the command is gone

local EXEC_TEXT_BYTES_MAX = 131071 -- Linux takes no longer argument, and no longer NAME=value (MAX_ARG_STRLEN)

local groups = {} -- process groups at work

local function signal_group(pid, name)
  uv.kill(-pid, name) -- ESRCH: nobody is left; fine
end

---------------------------------------------------------------------------------------------------
-- The command

local function is_text_list(value)
  for _, item in ipairs(value) do
    if type(item) ~= "string" then return false end
  end
  return #value > 0
end

local known_args = { "command", "env", "cwd", "timeout" }

-- A name that is not known is a mistake: a command without its env or cwd would do something else than was meant.
local function unknown_arg(args)
  for _, name in ipairs(util.sorted_keys(args)) do
    local known = false
    for _, candidate in ipairs(known_args) do
      known = known or candidate == name
    end
    if not known then
      return ("args: the shell runner knows no '%s'%s"):format(name, util.suggestion(name, known_args))
    end
  end
  return nil
end

-- What the kernel would not take, or would take for something else; nil: it is fine.
local function problem_of_text(text)
  if text:find("\0", 1, true) then return "has a zero byte in it; no command can be given one" end
  if #text > EXEC_TEXT_BYTES_MAX then
    return ("has %d bytes; the system hands at most %d to a program: put it into a file")
      :format(#text, EXEC_TEXT_BYTES_MAX)
  end
  return nil
end

-- args.command as a program, its arguments, and a script when the text is too long for an argument.
local function read_command(command)
  if type(command) == "string" and command:find("%S") then
    if command:find("\0", 1, true) then return nil, "args.command has a zero byte in it; no shell can be given one" end
    if #command <= EXEC_TEXT_BYTES_MAX then return { file = "/bin/sh", args = { "-c", command } } end
    -- The shell reads a long text from a file of its own, file descriptor 3.
    return { file = "/bin/sh", args = { "-c", ". /dev/fd/3" }, script = command }
  elseif type(command) == "table" and is_text_list(command) then
    for i, text in ipairs(command) do
      local problem = problem_of_text(text)
      if problem then return nil, ("args.command[%d] %s"):format(i, problem) end
    end
    return { file = command[1], args = table.move(command, 2, #command, 1, {}) }
  end
  return nil, "args.command: expected a command as text, or a list of texts (program, arguments...)"
end

-- The runner's own environment with the names of the stage, as NAME=value.
local function read_env(given)
  if given ~= nil and type(given) ~= "table" then return nil, "args.env: expected names and texts" end
  local env = uv.os_environ()
  for name, value in pairs(given or {}) do
    if type(name) ~= "string" or type(value) == "table" then return nil, "args.env: expected names and texts" end
    if name == "" then return nil, "args.env: a name is empty" end
    if name:find("[=%z]") then
      return nil, ("args.env: the name %q has %s in it; no variable can be called so")
        :format(name, name:find("=", 1, true) and "'='" or "a zero byte")
    end
    local text = util.text_of(value)
    local problem = problem_of_text(name .. "=" .. text)
    if problem then return nil, ("args.env.%s %s"):format(name, problem) end
    env[name] = text
  end
  local list = {}
  for name, value in pairs(env) do
    list[#list + 1] = name .. "=" .. value
  end
  return list
end

-- What to spawn, before anything is looked up here; nil and a text when the args make no sense.
local function read_args(args)
  local problem = unknown_arg(args)
  if problem then return nil, problem end
  local spec, err = read_command(args.command)
  if not spec then return nil, err end
  spec.env, err = read_env(args.env)
  if not spec.env then return nil, err end
  if args.timeout ~= nil then
    spec.timeout, err = util.duration(args.timeout)
    if not spec.timeout then return nil, "args.timeout: " .. err end
  end
  if args.cwd ~= nil and type(args.cwd) ~= "string" then return nil, "args.cwd: expected the path of a folder" end
  problem = args.cwd and problem_of_text(args.cwd)
  if problem then return nil, "args.cwd " .. problem end
  spec.cwd = args.cwd
  return spec
end

-- The folder may be made by an earlier stage: it is looked for only now.
local function check_folder(cwd)
  if not cwd then return true end
  local stat = uv.fs_stat(cwd)
  if stat and stat.type == "directory" then return true end
  return nil, ("args.cwd: '%s' is not a directory"):format(cwd)
end

-- A file without a name that holds the text, open for reading; nil and a text when there is no room for it.
local function open_script(text)
  local writer, path = uv.fs_mkstemp(util.temporary_folder() .. "/turboci-script-XXXXXX")
  if not writer then return nil, "cannot keep the command: " .. path end
  -- The shell closes its descriptor of the file before the first command, so that no command inherits it.
  local written, err = uv.fs_write(writer, "exec 3<&-; " .. text)
  uv.fs_close(writer)
  local reader
  if written then
    reader, err = uv.fs_open(path, "r", 0)
  end
  uv.fs_unlink(path)
  if not reader then return nil, "cannot keep the command: " .. err end
  return reader
end

-- Starts it with one pipe for both streams. Returns the process or nil and a text.
local function start(spec, on_bytes, on_end, on_exit)
  local ok, problem = check_folder(spec.cwd)
  if not ok then return nil, problem end
  local script
  if spec.script then
    script, problem = open_script(spec.script)
    if not script then return nil, problem end
  end
  local ends = assert(uv.pipe({ nonblock = true }, {}))
  local handle, pid = uv.spawn(spec.file, {
    args = spec.args,
    env = spec.env,
    cwd = spec.cwd,
    stdio = { nil, ends.write, ends.write, script },
    detached = true,
  }, on_exit)
  uv.fs_close(ends.write)
  if script then uv.fs_close(script) end
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

-- Some numbers have two names (SIGABRT and SIGIOT, SIGCHLD and SIGCLD, SIGIO and SIGPOLL): the usual one is the first.
local signal_names = {}
for name, number in pairs(uv.constants) do
  local known = signal_names[number]
  if name:find("^SIG") and (not known or name < known) then signal_names[number] = name end
end

local function result_of(process, code, signal, seconds, output)
  local exit_code = signal == 0 and code or nil -- a command that was killed has none
  local details = output:details { exit_code = exit_code, duration = seconds }
  if signal ~= 0 then details.signal = signal_names[signal] or tostring(signal) end
  local failure = process.why
  if not failure and signal ~= 0 then failure = "killed by " .. details.signal end
  if not failure and code ~= 0 then failure = "exit code " .. code end
  local data = { exit_code = exit_code, signal = details.signal, duration = seconds }
  return { failure = failure, details = details, data = data }
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

-- For a program that ends while commands run: they may end by themselves, but not for long.
local function end_all()
  if not next(groups) then return end
  local late = false
  local timer = loop.timer(KILL_AFTER, function() late = true end)
  for pid in pairs(groups) do
    signal_group(pid, "sigterm")
  end
  pcall(loop.wait_until, function() return late or not next(groups) end)
  timer:close()
  kill_all()
end

---What is wrong with the args of a stage, as far as that can be told before it runs; nil: nothing.
---@param args table?
---@return string?
local function check(args)
  local spec, problem = read_args(args or {})
  if spec then return nil end
  return problem
end

local M = { run = run, check = check, kill_all = kill_all, end_all = end_all }

return setmetatable(M, { __call = function(_, context) return run(context) end })
