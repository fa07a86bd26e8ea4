-- turboci run: everything in this process. The engine listens on a unix socket in a fresh folder, which goes at the
-- end; commands run here; nothing else can reach any of it.

local common = require "turboci.cli.common"
local ending = require "turboci.cli.ending"

local M = {
  name = "run",
  summary = "Runs a workflow file on an engine and a shell runner of its own",
  example = "turboci run examples/hello.lua -j4 -- who=world",
  takes_parameters = true,
}

function M.describe(parser)
  parser:argument("file", "Workflow file: Lua that returns a plan. It gets the parameters as `...`."):argname("FILE")
  parser:option("-j --jobs", "Commands at once; default: one per processor."):argname("N"):convert(common.count)
  parser:flag("--json", "One JSON object a line instead of text.")
  common.option_policies(parser)
  parser:option("--keep-db", "Keep the journal of the run in this (new) file."):argname("PATH")
  parser:usage("Usage: turboci run [-h] [-j N] [--json] [--keep-db PATH] [--policies DIR] [--policy NAME]\n"
    .. "       [--policy-for TYPE=NAME] FILE [-- KEY=VALUE ...]")
end

-- Stages that nobody in this process would ever take, and commands that the shell runner would refuse.
local function check_stages(plan, file)
  for _, stage in ipairs(plan:writes().stages) do
    local type = stage.runner_type
    if type ~= "shell" and not plan.bodies[stage.id] then
      common.fail(2, ("turboci: %s: stage '%s' wants %s, and `turboci run` has a shell runner only\n"
        .. "  use `turboci serve`, a runner of that type and `turboci submit --wait`"):format(file, stage.id,
        type and ("a runner of type '%s'"):format(type) or "a client that pulls it"))
    end
    local problem = type == "shell" and require("turboci.runner.shell").check(stage.args)
    if problem then
      common.fail(2, ("turboci: a mistake in the workflow file:\n  %s: stage '%s': %s")
        :format(plan.stages[stage.id].where, stage.id, problem))
    end
  end
end

local SOCKET_PATH_BYTES_MAX = 107 -- of a unix socket on Linux

-- In $TMPDIR, unless its path is too long for the sockets in it.
local function make_folder()
  local uv = require "luv"
  local above = require("turboci.util").temporary_folder()
  if #above + #"/turboci-XXXXXX/engine" > SOCKET_PATH_BYTES_MAX then above = "/tmp" end
  local folder, err = uv.fs_mkdtemp(above .. "/turboci-XXXXXX")
  if not folder then
    common.fail(2, ("turboci: cannot make a temporary folder: %s\n  set TMPDIR to a folder that can be written")
      :format(err))
  end
  return folder
end

local function remove_folder(folder)
  local uv = require "luv"
  local scan = uv.fs_scandir(folder)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    uv.fs_unlink(folder .. "/" .. name)
  end
  uv.fs_rmdir(folder)
end

local function start_server(args, policies, folder)
  local uv = require "luv"
  if args.keep_db and uv.fs_stat(args.keep_db) then
    common.fail(2, ("turboci: --keep-db: '%s' exists already\n  name a new file"):format(args.keep_db))
  end
  local server, err = require("turboci.core").server {
    listen = "unix:" .. folder .. "/engine",
    database = args.keep_db or ":memory:",
    log = "error",
    policies = policies.policies,
    policy = policies.policy,
    policy_for = policies.policy_for,
  }
  if not server then common.fail(2, "turboci: cannot start the engine: " .. err) end
  return server
end

---@param args table
---@return integer exit_code
function M.run(args)
  local shell = require "turboci.runner.shell"
  local plan = common.load_plan(args.file, common.parameters(args.parameters))
  check_stages(plan, args.file)
  local policies = common.policies("run", args)
  local interrupts = common.interrupts()
  local folder = make_folder()
  ending.add(function() remove_folder(folder) end, true)
  local server = start_server(args, policies, folder)
  ending.add(function() server:stop() end)
  local client = require("turboci.client").connect(server:address())
  local runner, err = require("turboci.runner").start {
    client = client,
    type = "shell",
    id = "shell",
    max_concurrent = args.jobs or common.slots(),
    listen = "unix:" .. folder .. "/shell",
    run = shell.run,
  }
  if not runner then common.fail(2, "turboci: cannot start the shell runner: " .. tostring(err)) end
  ending.add(function() runner:drop() end)
  local code = require("turboci.cli.submission").run {
    plan = plan,
    server = server:address(),
    client = client,
    json = args.json,
    timeout = 0,
    body_listen = "unix:" .. folder .. "/lua",
    on_stop = function() runner:stop { cancel = true } end,
    interrupts = interrupts,
  }
  runner:stop { cancel = true }
  return code
end

return M
