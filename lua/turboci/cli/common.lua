-- What the verbs share: failing with an exit code, loading workflow files, naming the server, counting slots, and
-- stopping on signals.

local M = {}

---------------------------------------------------------------------------------------------------
-- Failing

local Failure = {}
Failure.__index = Failure
Failure.__tostring = function(self) return self.message end

---Ends the program with this exit code; the message says what to do next.
---@param code integer
---@param message string
function M.fail(code, message)
  error(setmetatable({ code = code, message = message }, Failure), 0)
end

---@param value any
---@return boolean
function M.is_failure(value)
  return getmetatable(value) == Failure
end

local CALL_SECONDS = 10 -- of one that answers at once
local unreachable = { UNAVAILABLE = true, DEADLINE_EXCEEDED = true, CANCELLED = true }

local ASK_SECONDS = 2 -- whether a server is there at all

-- A server that cannot do it now (its disk is full, it is stopping) and a network that leads nowhere have the same
-- status. A server that answers a question was reached.
local function answers(server)
  return require("turboci.client").connect(server):call("GetServerInfo", {}, { timeout = ASK_SECONDS }) ~= nil
end

---Ends the program because a call to a server failed.
---@param what string "submit the plan"
---@param server string
---@param err turboci.Error
function M.fail_call(what, server, err)
  if unreachable[err.code] and answers(server) then
    M.fail(4, ("turboci: cannot %s: the server at %s cannot do it now: %s\n  try again when that is over")
      :format(what, server, err))
  end
  if unreachable[err.code] then
    M.fail(4, ("turboci: cannot %s: the server at %s cannot be reached (%s)\n  is it running? Start one with "
      .. "`turboci serve --listen %s`, or name another with --server or in TURBOCI_SERVER")
      :format(what, server, err.message, server))
  end
  if err.code == "NOT_FOUND" then
    M.fail(2, ("turboci: cannot %s: %s\n  `turboci status` shows whether this is the right server")
      :format(what, err.message))
  end
  M.fail(2, ("turboci: cannot %s: %s\n  the server refused it; correct what it names and try again"):format(what, err))
end

---@param outcome string
---@return integer exit_code
function M.exit_code(outcome)
  if outcome == "SUCCEEDED" then return 0 end
  return outcome == "CANCELLED" and 3 or 1
end

---------------------------------------------------------------------------------------------------
-- Arguments

---What is before and after a "--".
---@param words string[]
---@return string[] before
---@return string[] after
function M.split(words)
  for i, word in ipairs(words) do
    if word == "--" then return table.move(words, 1, i - 1, 1, {}), table.move(words, i + 1, #words, 1, {}) end
  end
  return words, {}
end

function M.option_server(parser)
  parser:option("--server", "Address of the server; default: $TURBOCI_SERVER, or 127.0.0.1:50051."):argname("ADDR")
end

---@param args table
---@return string
function M.server(args)
  local named = os.getenv("TURBOCI_SERVER")
  return args.server or named ~= "" and named or "127.0.0.1:50051"
end

---@param text string
---@return number? seconds
---@return string? err
function M.duration(text)
  return require("turboci.util").duration(text)
end

---@param text string
---@return integer?
---@return string? err
function M.count(text)
  local number = math.tointeger(tonumber(text))
  if number and number >= 1 then return number end
  return nil, ("'%s' is not a number of 1 or more"):format(text)
end

---The limits of `--limit NAME=VALUE`. Ends the program with 2 where one is none.
---@param verb string
---@param words string[]
---@return table<string, integer>
function M.limits(verb, words)
  local function refuse(problem) M.fail(2, ("turboci %s: %s"):format(verb, problem)) end
  local out, most, names = {}, {}, {}
  for i, limit in ipairs(require("turboci.core").limits()) do
    names[i], most[limit.name] = limit.name, limit.most
  end
  for _, word in ipairs(words) do
    local name, value = word:match "^([^=]+)=(%d+)$"
    local number = math.tointeger(tonumber(value))
    if not number or number < 1 then
      refuse(("--limit %s: expected NAME=VALUE with a value of 1 or more, such as drain_timeout_ms=5000"):format(word))
    elseif not most[name] then
      local near = require("turboci.util").suggestion(name, names)
      refuse(("no limit '%s'%s\n  `turboci status --limits` lists them"):format(name, near))
    elseif number > most[name] then
      refuse(("--limit %s: at most %d"):format(word, most[name]))
    end
    out[name] = number
  end
  return out
end

---Calls a server, or ends the program.
---@param client turboci.client.Client
---@param server string
---@param what string "list the policies"
---@param method string
---@param request table
---@return table response
function M.call(client, server, what, method, request)
  local response, err = client:call(method, request, { timeout = CALL_SECONDS })
  if not response then M.fail_call(what, server, err) end
  return response
end

---The same for a list, which is read to its end.
---@param client turboci.client.Client
---@param server string
---@param what string
---@param method string
---@param request table
---@return table response
function M.pages(client, server, what, method, request)
  local response, err = client:pages(method, request, { timeout = CALL_SECONDS })
  if not response then M.fail_call(what, server, err) end
  return response
end

function M.option_policies(parser)
  parser:option("--policies", "Folder of policies (NAME.lua), before those that come with TurboCI. May be repeated.")
    :argname("DIR"):count("*")
  parser:option("--policy", "The default policy: its name, or its file, whose folder is then a policies folder: every "
    .. "NAME.lua in it is taken for a policy, so keep policies in a folder of their own."):argname("NAME")
  parser:option("--policy-for", "The policy of a runner type. May be repeated."):argname("TYPE=NAME"):count("*")
end

---The options of option_policies, as core.server wants them; a mistake ends the program.
---@param verb string
---@param args table
---@return {policies: string[], policy: string?, policy_for: table<string, string>?, shadow: string?}
function M.policies(verb, args)
  local types
  for _, word in ipairs(args.policy_for) do
    local runner_type, name = word:match("^([^=]+)=(.+)$")
    if not runner_type then
      M.fail(2, ("turboci %s: --policy-for %s: expected TYPE=NAME, such as shell=least_loaded"):format(verb, word))
    end
    types = types or {}
    types[runner_type] = name
  end
  local found, err = require("turboci.policies").resolve {
    policies = args.policies, policy = args.policy, policy_for = types, shadow = args.shadow,
  }
  if not found then
    M.fail(2, ("turboci %s: %s\n  a policy is a file NAME.lua in a folder of --policies, or comes with TurboCI")
      :format(verb, err))
  end
  return found
end

function M.option_reconnect(parser)
  parser:option("--reconnect-timeout", "Give up when the server was away for so long.")
    :argname("DURATION"):convert(M.duration):default("60s")
end

---key=value words as a table.
---@param words string[]
---@return table<string, string>
function M.parameters(words)
  local out = {}
  for _, word in ipairs(words) do
    local key, value = word:match("^([^=]+)=(.*)$")
    if not key then
      M.fail(2, ("turboci: '%s' is not a parameter\n  after -- write key=value, for example: -- branch=main")
        :format(word))
    end
    out[key] = value
  end
  return out
end

---------------------------------------------------------------------------------------------------
-- Workflow files

---Runs a workflow file and returns its plan; a mistake in it ends the program.
---@param path string
---@param parameters table<string, string> what the file gets as `...`
---@return turboci.workflow.Plan
function M.load_plan(path, parameters)
  local workflow = require "turboci.workflow"
  local file, problem = io.open(path, "r")
  if not file then
    M.fail(2, ("turboci: cannot read the workflow file: %s\n  give the path of a Lua file that returns a plan")
      :format(problem))
  end
  file:close()
  local chunk, err = require("turboci.workflow.load").file(path)
  if not chunk then M.fail(2, ("turboci: the workflow file is not valid Lua:\n  %s"):format(err)) end
  require("turboci.runner.lua").take_globals()
  require("turboci.cli.output").take_stdout()
  local where = require "turboci.workflow.where"
  where.file = path
  local ok, plan = xpcall(chunk, function(raised)
    if type(raised) == "string" then return raised end
    return debug.traceback(("a %s value was raised, not a message"):format(type(raised)), 2)
  end, parameters)
  where.file = nil
  if not ok then M.fail(2, ("turboci: a mistake in the workflow file:\n  %s"):format(plan)) end
  if not workflow.is_plan(plan) then
    M.fail(2, ("turboci: %s returns %s, not a plan\n  end it with `return plan`, where plan = "
      .. "require(\"turboci\").plan { name = \"...\" }"):format(path, plan == nil and "nothing" or "a " .. type(plan)))
  end
  ok, err = plan:validate()
  if not ok then M.fail(2, ("turboci: a mistake in the workflow file:\n  %s"):format((err:gsub("\n", "\n  ")))) end
  return plan
end

---How many commands to run at once unless told.
---@return integer
function M.slots()
  return math.max(1, #(require("luv").cpu_info() or {}))
end

---------------------------------------------------------------------------------------------------
-- Signals

local ARM_SECONDS = 0.05 -- `timeout`, for one, sends its signal twice

-- nohup, and whoever else ignores SIGHUP for us, means it.
local function is_ignored(name)
  local file = io.open("/proc/self/status")
  if not file then return false end
  local mask = file:read("a"):match("SigIgn:%s*(%x+)")
  file:close()
  local number = require("luv").constants[name:upper()]
  return mask ~= nil and tonumber(mask, 16) >> (number - 1) & 1 == 1
end

---The signals that ask a program to stop.
---@return string[]
function M.stop_signals()
  local names = { "sigint", "sigterm" }
  if not is_ignored("sighup") then names[3] = "sighup" end
  return names
end

---@class turboci.cli.Interrupts
---@field seen string? name of the first signal
---@field on_first fun(name: string)? called at the first one, in a task; look at `seen` when you set it late
---@field armed boolean? the next signal leaves at once, and nothing this program started survives
local Interrupts = {}
Interrupts.__index = Interrupts

---From now on SIGINT, SIGTERM, SIGHUP (the terminal has gone) and SIGPIPE (nobody reads stdout) are ours. A second
---signal counts only once the user has been told what it does: see arm.
---@return turboci.cli.Interrupts
function M.interrupts()
  local loop = require "turboci.loop"
  local self = setmetatable({ handles = {} }, Interrupts)
  local function handle(name)
    if not self.seen then
      self.seen = name
      if self.on_first then self.on_first(name) end
    elseif self.armed and name ~= "sigpipe" then
      require("turboci.cli.ending").leave(3)
    end
  end
  for _, name in ipairs(M.stop_signals()) do
    table.insert(self.handles, loop.on_signal(name, handle))
  end
  table.insert(self.handles, loop.on_signal("sigpipe", handle))
  return self
end

---Tells the user, unless the reader has gone, what the next signal does, and means it from then on. In a moment: what
---stops faster than that needs no word.
---@param text string
---@param before fun()? gives the screen back
function Interrupts:arm(text, before)
  self.timer = require("turboci.loop").timer(ARM_SECONDS, function()
    if before then before() end
    if self.seen ~= "sigpipe" then M.notice(text) end
    self.armed = true
  end)
end

---No more.
function Interrupts:close()
  for _, signal in ipairs(self.handles) do
    signal:close()
  end
  if self.timer then self.timer:close() end
end

---A line for people, away from stdout.
---@param text string
function M.notice(text)
  require("turboci.cli.output").note("turboci: " .. text)
end

---Tells whoever follows it no more that a plan goes on.
---@param plan_id string
---@param server string
function M.tell_going_on(plan_id, server)
  M.notice(("the plan goes on; `turboci watch %s --server %s` follows it again"):format(plan_id, server))
end

return M
