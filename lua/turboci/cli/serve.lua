-- turboci serve: the server. This thread sleeps in epoll until a signal comes; the engine has threads of its own.

local common = require "turboci.cli.common"

local M = {
  name = "serve",
  summary = "Serves plans, clients and runners",
  example = "turboci serve --listen 127.0.0.1:50051 --db turboci.db",
}

function M.describe(parser)
  parser:option("--listen", "Address: HOST:PORT (port 0: any free one), :PORT (every address of this machine) or "
    .. "unix:/PATH. There is no authentication: keep it on this machine, or behind a proxy.")
    :argname("ADDR"):default("127.0.0.1:50051")
  parser:option("--db", "File of the journal."):argname("PATH"):default("turboci.db")
  parser:option("--allow", "Hosts at which runners may listen, besides this machine: a name or an address, which "
    .. "stands for all its ports, or unix:/FOLDER. May be repeated."):argname("HOST"):count("*")
  common.option_policies(parser)
  parser:option("--shadow", "A policy, by its name or its file, that is asked too. Where it differs is logged (level "
    .. "info); nothing of it is used."):argname("NAME")
  parser:option("--limit", "Sets a limit; `turboci status --limits` lists them. May be repeated.")
    :argname("NAME=VALUE"):count("*")
  parser:option("--quarantine", "Sets a plan aside that is not settled and whose journal is damaged, and serves the "
    .. "rest: the plan is gone, and the admission keys that it may hold stay held. The refused start names it. "
    .. "May be repeated."):argname("PLAN"):count("*")
  parser:option("--callback-address", "Where async runners report to; default: the listen address, as this "
    .. "machine dials it. Give it when runners are on other machines."):argname("ADDR")
  parser:option("--log", "debug, info, warn, error or off. Default: warn; with --shadow: info."):argname("LEVEL")
    :choices({ "debug", "info", "warn", "error", "off" })
end

-- The signals of a server. A terminal that has gone, or a reader of the log, is no reason to stop.
---@param signals table[] gets the handles, to be closed
local function survive(signals)
  local loop = require "turboci.loop"
  signals[#signals + 1] = loop.on_signal("sigpipe", function() end)
  signals[#signals + 1] = loop.on_signal("sighup", function()
    common.notice("SIGHUP: nothing to do: a policy file that changes is taken over by itself, the rest needs a restart")
  end)
end

-- Waits for SIGTERM or SIGINT and then for the end of the drain, which a second one of them brings about.
local function serve_until_stopped(server, signals, on_ready)
  local loop, uv = require "turboci.loop", require "luv"
  local over, draining = assert(uv.new_poll(server:fd())), false
  loop.await(function(resume)
    local function stop(name)
      common.notice(("%s: %s"):format(name:upper(), draining and "leaving at once" or "draining"))
      if draining then return server:leave() end
      draining = true
      server:drain()
      over:start("r", resume)
    end
    signals[#signals + 1] = loop.on_signal("sigterm", stop)
    signals[#signals + 1] = loop.on_signal("sigint", stop)
    on_ready() -- after the signals: whoever waits for its line may send one at once
  end)
  over:stop()
  loop.close(over)
end

local function close(signals)
  for _, signal in ipairs(signals) do
    signal:close()
  end
end

---@param args table
---@return integer exit_code
function M.run(args)
  local policies, signals = common.policies("serve", args), {}
  survive(signals)
  local server, err = require("turboci.core").server {
    listen = args.listen,
    database = args.db,
    allow = #args.allow > 0 and args.allow or nil,
    quarantine = #args.quarantine > 0 and args.quarantine or nil,
    limits = common.limits("serve", args.limit),
    callback_address = args.callback_address,
    all_descriptors = true, -- a server has no children
    log = args.log or args.shadow and "info" or "warn",
    policies = policies.policies,
    policy = policies.policy,
    policy_for = policies.policy_for,
    shadow = policies.shadow,
  }
  if not server then
    close(signals)
    common.fail(2, ("turboci serve: %s\n  --listen and --db choose another address and file; `turboci policy check "
      .. "FILE` tries a policy"):format(err))
  end
  serve_until_stopped(server, signals, function()
    require("turboci.cli.output").stdout:line(("listening on %s db %s"):format(server:address(), args.db))
    if args.listen:find "^:" or args.listen:find "^0%.0%.0%.0:" or args.listen:find "^%[::%]:" then
      common.notice("this is every address of this machine" .. (args.callback_address and "" or
        "; async runners on other machines need --callback-address to report back"))
    end
  end)
  server:stop()
  close(signals)
  return 0
end

return M
