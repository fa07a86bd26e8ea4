-- world: grpc
-- The operator's journey with a policy: copy one, serve it, break it, mend it, see why change, replay it on what
-- happened.

local loop = require "turboci.loop"
local process = require "process"
local runners = require "turboci.runner"
local uv = require "luv"

local folder, mine, server, hosted

before_each(function()
  folder, hosted = process.new_folder(), {}
  mine = folder .. "/policies"
  assert(uv.fs_mkdir(mine, 448))
end)

after_each(function()
  for _, runner in ipairs(hosted) do runner:stop { cancel = true } end
  os.remove(mine .. "/warm_first.lua")
  process.clean(folder)
end)

local function read_file(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

local function write_file(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function turboci(...)
  local started = process.start { ... }
  started.code = started:ended().code
  return started
end

-- A runner that works on a stage until it is released.
local function host(id, metadata)
  local calls = {}
  hosted[#hosted + 1] = assert(runners.start {
    client = server.client, id = id, type = "build", ttl = 3600, metadata = metadata,
    run = function(ctx)
      calls[#calls + 1] = ctx
      process.wake()
      if ctx.args.held then
        ctx:on_cancel(process.wake)
        process.wait(function() return ctx.released or ctx.cancelled end, "the stage to be released")
      end
      return true
    end,
  })
  return calls
end

local function submit(name, args)
  local plan = assert(server.client:create_work_plan { metadata = { name = name } }).work_plan.id
  assert(server.client:write_nodes {
    work_plan_id = plan, stages = { { id = "compile", runner_type = "build", args = args } },
  })
  return plan
end

local function run(name)
  local plan = submit(name)
  local follower = process.follow(server, plan, 1)
  follower:wait_settled()
  follower:close()
  return plan
end

local function policy()
  for _, info in ipairs(assert(server.client:list_policies {}).policies) do
    if info.name == "warm_first" then return info end
  end
end

-- Asks until the answer is as wanted: nobody tells a client that a policy was taken over.
local function ask_until(wanted, what)
  return process.wait(function()
    local info = policy()
    if wanted(info) then return info end
    loop.timer(0.01, process.wake)
  end, what)
end

local function why(plan)
  return turboci("why", plan, "compile", "--server", server.address).out
end

it("a policy is copied, served, broken, mended and replayed", function()
  -- Copy: a folder of one's own is looked at before the shipped one.
  local shipped = assert(os.getenv "TURBOCI_SOURCE") .. "/policies/warm_first.lua"
  local path, text = mine .. "/warm_first.lua", read_file(shipped)
  write_file(path, text)
  assert.equal(0, turboci("policy", "check", path).code)

  -- Serve.
  server = process.serve { folder = folder, args = { "--policies", mine, "--policy", "warm_first" } }
  local first = policy()
  assert.same({ path, { "server" }, "" }, { first.path, first.attached_to, first.error })
  host "cold"
  local warm = host("warm", { warm = "yes" })
  local before = run "before"
  assert.matches("select  warm_first@" .. first.version .. "  chose warm of ", why(before), 1, true)

  -- Break, while work is under way: a clear error, and nothing happens.
  local held = submit("held", { held = true })
  process.wait(function() return #warm == 2 end, "the held stage")
  local broken = text .. "\nretrun nil\n"
  write_file(path, broken)
  local _, lines = broken:gsub("\n", "\n")
  local told = ("warm_first.lua:%d:"):format(lines)
  ask_until(function(info) return info.error:find(told, 1, true) end, "the server to see the mistake")
  local reload = turboci("policy", "reload", "--server", server.address)
  assert.equal(1, reload.code)
  assert.matches(told, reload.err, 1, true)
  assert.matches(("version %s runs on"):format(first.version), reload.err, 1, true)
  assert.matches(told, turboci("policy", "list", "--server", server.address).out, 1, true)
  local check = turboci("policy", "check", path)
  assert.equal(2, check.code)
  assert.matches(told, check.err, 1, true)
  assert.equal(first.version, policy().version)
  local meanwhile = run "meanwhile"
  assert.matches("warm_first@" .. first.version .. "  chose warm of ", why(meanwhile), 1, true)

  -- Mend: live by itself, between two turns; what runs goes on.
  write_file(path, [[
    return {
      name = "warm_first",
      select = function(ctx)
        for _, r in ipairs(ctx.runners) do
          if r.metadata.warm ~= "yes" then return r, "the cold ones first, today" end
        end
      end,
    }
  ]])
  local mended = ask_until(function(info) return info.version ~= first.version end, "the server to take it over")
  assert.equal("", mended.error)
  local reason = "the cold ones first, today"
  local after = run "after"
  assert.matches("warm_first@" .. mended.version .. "  chose cold of ", why(after), 1, true)
  assert.matches(reason, why(after), 1, true)
  assert.matches("warm_first@" .. first.version, why(before), 1, true) -- what was decided then, and by whom
  assert.equal("ATTEMPTING", assert(server.client:query_nodes {
    work_plan_id = held, include_stages = true,
  }).stages[1].state)
  warm[2].released = true
  process.wake()
  local follower = process.follow(server, held, 1)
  follower:wait_settled()
  follower:close()
  assert.equal(0, server:kill "sigterm".code)

  -- Replay, on the server's own history.
  local replay = turboci("policy", "replay", path, "--db", folder .. "/turboci.db")
  assert.equal(0, replay.code, replay.err)
  assert.matches("makespan", replay.out, 1, true)
end)
