-- turboci runner: a runner process. `shell` executes commands.

local common = require "turboci.cli.common"

local M = {
  name = "runner",
  summary = "Executes stages for a server",
  example = "turboci runner shell --server 127.0.0.1:50051 -j4",
}

local kinds = { shell = "turboci.runner.shell" }

local function mode(text)
  local modes = { sync = "SYNC", async = "ASYNC" }
  if modes[text] then return modes[text] end
  return nil, ("'%s' is not a mode; write sync or async"):format(text)
end

function M.describe(parser)
  parser:argument("kind", "What it executes: shell, the command in a stage's args.")
    :argname("KIND"):choices({ "shell" })
  common.option_server(parser)
  parser:option("--id", "Name of the runner; default: made of type, host and random digits."):argname("ID")
  parser:option("--type", "Type of the stages it takes; default: the kind."):argname("TYPE")
  parser:option("-j --jobs", "Stages at once; default: one per processor."):argname("N"):convert(common.count)
  parser:option("--listen", "Where the server reaches it: HOST:PORT (port 0: any free one), :PORT (every address of "
    .. "this machine) or unix:/PATH.")
    :argname("ADDR"):default("127.0.0.1:0")
  parser:option("--address", "The address to register, when it is not the one it listens on: for a server on another "
    .. "machine."):argname("ADDR")
  parser:option("--metadata", "Told to policies, such as warm=yes or host=h7. May be repeated.")
    :argname("KEY=VALUE"):count("*")
  parser:option("--mode", "sync or async; default: both."):argname("MODE"):convert(mode)
  parser:option("--ttl", "The server forgets it after so much silence.")
    :argname("DURATION"):convert(common.duration):default("30s")
  parser:option("--wait", "Wait so long for a server that is not there yet.")
    :argname("DURATION"):convert(common.duration):default("60s")
end

local function read_metadata(words)
  local metadata = {}
  for _, word in ipairs(words) do
    local key, value = word:match "^([^=]+)=(.*)$"
    if not key then
      common.fail(2, ("turboci runner: --metadata %s: expected KEY=VALUE, such as warm=yes"):format(word))
    end
    metadata[key] = value
  end
  return metadata
end

---@param args table
---@return integer exit_code
function M.run(args)
  local metadata = read_metadata(args.metadata)
  local core, loop, uv = require "turboci.core", require "turboci.loop", require "luv"
  local server = common.server(args)
  local type = args.type or args.kind
  local stopping = loop.queue()
  local runner, err
  local signals = {}
  for _, name in ipairs(common.stop_signals()) do
    signals[#signals + 1] = loop.on_signal(name, function()
      if not runner then require("turboci.cli.ending").leave(3) end
      stopping:push(true)
    end)
  end
  runner, err = require("turboci.runner").start {
    client = require("turboci.client").connect(server),
    type = type,
    id = args.id or ("%s-%s-%s"):format(type, uv.os_gethostname(), core.random_hex(3)),
    modes = args.mode and { args.mode } or nil,
    max_concurrent = args.jobs or common.slots(),
    ttl = args.ttl,
    metadata = metadata,
    listen = args.listen,
    address = args.address,
    wait = args.wait,
    on_notice = common.notice,
    run = require(kinds[args.kind]).run,
  }
  if not runner then
    if _G.type(err) == "string" then
      common.fail(2, ("turboci runner: cannot listen on %s: %s\n  choose another address with --listen")
        :format(args.listen, err))
    end
    common.fail_call("register the runner", server, err)
  end
  require("turboci.cli.output").stdout:line(
    ("runner %s registered at %s, listening %s"):format(runner.id, server, runner.address))
  stopping:pop()
  common.notice(("stopping; %d running (again to cancel them)"):format(runner.running))
  local canceller = loop.spawn(function()
    if stopping:pop() then runner:stop { cancel = true } end
  end)
  runner:stop()
  stopping:close()
  canceller:wait()
  for _, signal in ipairs(signals) do
    signal:close()
  end
  return 0
end

return M
