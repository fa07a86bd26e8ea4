-- world: grpc
-- The server process: what it refuses to start on, how it stops, what is still there when it is back.

local core = require "turboci.core"
local loop = require "turboci.loop"
local process = require "process"
local runners = require "turboci.runner"
local uv = require "luv"

local folder, server, hosted

before_each(function()
  folder, hosted = process.new_folder(), {}
end)

after_each(function()
  for _, runner in ipairs(hosted) do runner:stop { cancel = true } end
  process.clean(folder)
end)

local function must(response, err)
  return response or error(tostring(err), 2)
end

local function new_plan()
  return must(server.client:create_work_plan { metadata = { name = "served" } }).work_plan.id
end

local function write(plan, stages, checks)
  return server.client:write_nodes { work_plan_id = plan, stages = stages, checks = checks }
end

local function stage(plan, id)
  return must(server.client:query_nodes { work_plan_id = plan, include_stages = true, stage_ids = { id } }).stages[1]
end

-- A runner in this process; it answers when a stage is released. calls: contexts, in the order of their arrival.
local function host(mode)
  local calls = {}
  local runner = must(runners.start {
    client = server.client, id = "r", type = "test", modes = { mode }, ttl = 3600,
    run = function(ctx)
      calls[#calls + 1] = ctx
      ctx:on_cancel(process.wake)
      process.wake()
      process.wait(function() return ctx.released or ctx.cancelled end, "the stage to be released")
      return not ctx.cancelled or nil, ctx.cancelled and "cancelled" or nil
    end,
  })
  hosted[#hosted + 1] = runner
  return calls
end

local function release(ctx)
  ctx.released = true
  process.wake()
end

-- Waits until the engine has heard of the work on an async stage: from then on it may outlive the engine.
local function at_work(ctx, follower)
  ctx:progress "at work"
  follower:wait_stage(ctx.stage_id, function(s) return s.attempts[1] and s.attempts[1].state == "RUNNING" end)
end

-- All that clients can read of a plan and of the runners.
local function visible(plan)
  local list = must(server.client:list_stage_runners {}).runners
  for _, runner in ipairs(list) do runner.expires_at = nil end -- after a restart everybody has a full ttl
  return {
    must(server.client:get_work_plan { id = plan }),
    must(server.client:query_nodes { work_plan_id = plan, include_checks = true, include_stages = true }),
    must(server.client:list_stage_executions { work_plan_id = plan }),
    list,
  }
end

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read "a"
  file:close()
  return bytes
end

local function write_file(path, bytes)
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
end

-- A server that must not start; what it said.
local function refused(...)
  local second = process.start { "serve", ... }
  local exit = second:ended()
  assert.equal(2, exit.code, second.err)
  assert.equal("", second.out)
  return second.err
end

describe("the server refuses to start", function()
  it("on a file that another server has, naming its process", function()
    server = process.serve { folder = folder }
    local said = refused("--listen", "127.0.0.1:0", "--db", folder .. "/turboci.db")
    assert.truthy(said:find("%f[%d]" .. server.pid .. "%f[%D]"), said)
    assert.truthy(said:find("turboci.db", 1, true), said)
    new_plan() -- the first one does not care
  end)

  it("on an address that is taken, naming it", function()
    server = process.serve { folder = folder }
    local said = refused("--listen", server.address, "--db", folder .. "/other.db")
    assert.truthy(said:find(server.address, 1, true), said)
    new_plan()
    assert.equal(0, server:kill "sigterm".code)
    local unix = "unix:" .. folder .. "/socket"
    server = process.serve { folder = folder, listen = unix }
    said = refused("--listen", unix, "--db", folder .. "/other.db")
    assert.truthy(said:find(unix, 1, true), said)
    new_plan()
  end)

  it("on a file that is not a database", function()
    write_file(folder .. "/turboci.db", ("this is no database\n"):rep(1000))
    local said = refused("--listen", "127.0.0.1:0", "--db", folder .. "/turboci.db")
    assert.truthy(said:find("turboci.db", 1, true), said)
  end)

  it("on a database with a damaged page", function()
    server = process.serve { folder = folder }
    local plan = new_plan()
    for i = 1, 50 do must(write(plan, nil, { { id = "c" .. i, options = { text = ("x"):rep(2000) } } })) end
    assert.equal(0, server:kill "sigterm".code)
    local path = folder .. "/turboci.db"
    local bytes = read_file(path)
    local at = #bytes // 2
    write_file(path, bytes:sub(1, at) .. ("\0"):rep(8192) .. bytes:sub(at + 8193))
    local said = refused("--listen", "127.0.0.1:0", "--db", path)
    assert.truthy(said:find("turboci.db", 1, true), said)
  end)

  it("on a log with a flipped bit, rather than lose the writes behind it", function()
    server = process.serve { folder = folder }
    local plan = new_plan()
    for i = 1, 30 do must(write(plan, nil, { { id = "c" .. i } })) end
    server:kill "sigkill"
    local path = folder .. "/turboci.db-wal"
    local bytes = read_file(path)
    local at = #bytes // 2
    write_file(path, bytes:sub(1, at) .. string.char(bytes:byte(at + 1) ~ 1) .. bytes:sub(at + 2))
    refused("--listen", "127.0.0.1:0", "--db", folder .. "/turboci.db")
  end)
end)

describe("SIGTERM", function()
  it("lets a sync call end, refuses writes meanwhile and ends well", function()
    server = process.serve { folder = folder, args = { "--log", "info" } }
    local calls, plan = host "SYNC", new_plan()
    local follower = process.follow(server, plan, 1)
    must(write(plan, {
      { id = "s", runner_type = "test" },
      { id = "next", runner_type = "test",
        dependencies = { dependencies = { { target_type = "STAGE", target_id = "s" } } } },
    }))
    process.wait(function() return calls[1] end, "the stage to run")
    server:signal "sigterm"
    server:wait_for("draining open_calls=1", "err")

    local response, err = write(plan, { { id = "more", runner_type = "test" } })
    assert.is_nil(response)
    assert.equal("UNAVAILABLE", err.code)
    response, err = server.client:create_work_plan {}
    assert.is_nil(response)
    assert.equal("UNAVAILABLE", err.code)
    assert.equal("ATTEMPTING", stage(plan, "s").state) -- reads go on
    calls[1]:progress "still here"
    assert.is_nil(server.exit)

    release(calls[1])
    assert.same({ code = 0, signal = 0 }, server:ended())
    process.wait(function() return follower.ended end, "the watch to end")
    assert.equal("UNAVAILABLE", follower.problem.code)
    local ends = {}
    for _, event in ipairs(follower.events) do
      local part = event.stage_event
      if part and part.new_state == "FINAL" then ends[#ends + 1] = part.stage_id end
    end
    assert.same({ "s" }, ends)
    assert.equal(1, #calls) -- what became ready meanwhile waits for the next server

    server = server:again()
    process.wait(function() return calls[2] end, "the next stage to run")
    assert.equal("next", calls[2].stage_id)
    local kept = stage(plan, "s")
    assert.equal("SUCCEEDED", kept.outcome)
    assert.equal(1, #kept.attempts)
    assert.is_nil(stage(plan, "more"))
  end)

  it("lets a runner say whether it takes async work", function()
    server = process.serve { folder = folder, args = { "--log", "info" } }
    local runner, asked, plan = assert(core.host "127.0.0.1:0"), {}, new_plan()
    loop.on_call(runner, function(event)
      asked[#asked + 1] = event
      process.wake()
    end)
    must(server.client:register_stage_runner { runner_id = "slow", runner_type = "test", address = runner:address(),
      supported_modes = { "ASYNC" }, ttl_seconds = 3600 })
    must(write(plan, { { id = "s", runner_type = "test", execution_mode = "ASYNC" } }))
    process.wait(function() return asked[1] end, "RunAsync")
    server:signal "sigterm"
    server:wait_for("draining open_calls=1", "err")
    assert.is_nil(server.exit)
    runner:reply(asked[1].call, core.codes.OK, nil, assert(core.encode("RunAsyncResponse", { accepted = true })))
    assert.same({ code = 0, signal = 0 }, server:ended())
    server = server:again()
    local kept = stage(plan, "s").attempts
    assert.equal(1, #kept) -- nobody else was asked
    assert.is_nil(kept[1].failure)
    loop.on_call(runner, nil)
    runner:close(0)
  end)

  it("leaves at once when it comes again, and tidily", function()
    server = process.serve { folder = folder, listen = "unix:" .. folder .. "/socket",
      args = { "--log", "info", "--limit", "drain_timeout_ms=3600000" } }
    local calls, plan = host "SYNC", new_plan()
    must(write(plan, { { id = "s", runner_type = "test" } }))
    process.wait(function() return calls[1] end, "the stage to run")
    server:signal "sigterm"
    server:wait_for("draining open_calls=1", "err")
    assert.same({ code = 0, signal = 0 }, server:kill "sigterm")
    process.wait(function() return calls[1].cancelled end, "the runner to notice")
    for _, name in ipairs { "socket", "socket.lock", "turboci.db-wal" } do
      assert.is_nil(uv.fs_stat(folder .. "/" .. name))
    end
  end)

  it("waits no longer than drain_timeout", function()
    server = process.serve { folder = folder, args = { "--log", "info", "--limit", "drain_timeout_ms=200" } }
    local calls, plan = host "SYNC", new_plan()
    must(write(plan, { { id = "s", runner_type = "test" } }))
    process.wait(function() return calls[1] end, "the stage to run")
    assert.same({ code = 0, signal = 0 }, server:kill "sigterm")
  end)
end)

describe("a server whose terminal and whose readers have gone", function()
  it("goes on", function()
    server = process.serve { folder = folder, args = { "--log", "info" } }
    server:signal "sighup"
    server:wait_for("SIGHUP", "err")
    server.stop_reading.err()
    server.stop_reading.out()
    server:signal "sighup" -- says so again, to nobody
    local plan = new_plan()
    must(write(plan, { { id = "s", runner_type = "nobody" } }))
    assert.equal("ATTEMPTING", stage(plan, "s").state)
    server:signal "sigterm" -- the log gets a line
    assert.same({ code = 0, signal = 0 }, server:ended())
  end)
end)

describe("a server to which too many connect", function()
  local HELLO = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"

  -- A bare connection that says hello: `taken` once the server has answered, `refused` once it has hung up.
  local function connect()
    local self, ip, port = { tcp = uv.new_tcp() }, server.address:match "^(.*):(%d+)$"
    self.tcp:connect(ip, tonumber(port), function(err)
      if err then
        self.refused = true
        return process.wake()
      end
      self.tcp:write(HELLO)
      self.tcp:read_start(function(_, bytes)
        if bytes then self.taken = true else self.refused = true end
        process.wake()
      end)
    end)
    return self
  end

  it("turns some away, serves the others, and hears again when they have gone", function()
    local limited = folder .. "/limited"
    write_file(limited, '#!/bin/sh\nulimit -Sn 100; ulimit -Hn 600; exec "$TURBOCI_BIN" "$@"\n')
    assert(uv.fs_chmod(limited, 448)) -- rwx
    server = process.serve { folder = folder, program = limited, args = { "--log", "info" } }
    assert.truthy(server.err:find("descriptors soft=600 was=100", 1, true), server.err)
    new_plan() -- connects
    local all, closed = {}, 0
    for i = 1, 450 do
      all[i] = connect()
      process.wait(function() return all[i].taken or all[i].refused end, "an answer to a connection")
      if all[i].refused then closed = closed + 1 end
    end
    assert.is_true(closed > 0)
    assert.is_true(closed < 450 / 2)
    new_plan() -- who is there is served as before
    for _, connection in ipairs(all) do loop.close(connection.tcp) end
    local again
    repeat -- until the server has seen that they have gone
      again = connect()
      process.wait(function() return again.taken or again.refused end, "an answer to a connection")
      loop.close(again.tcp)
    until again.taken
    assert.same({ code = 0, signal = 0 }, server:kill "sigterm")
  end)
end)

describe("after a restart", function()
  it("everything is as it was", function()
    server = process.serve { folder = folder }
    local calls, plan = host "SYNC", new_plan()
    must(write(plan, {
      { id = "s", runner_type = "test", args = { a = { 1, 2, { b = "c" } } },
        assignments = { { target_check_id = "c" } } },
      { id = "later", runner_type = "nobody", priority = 3, retry = { max_attempts = 4 } },
    }, { { id = "c", kind = "k", state = "PLANNED", options = { o = true } }, { id = "open" } }))
    process.wait(function() return calls[1] end, "the stage to run")
    release(calls[1])
    process.follow(server, plan, 1):wait_stage("s", function(s) return s.state == "FINAL" end)
    local before = visible(plan)
    for _, signal in ipairs { "sigterm", "sigkill" } do
      server:kill(signal)
      server = server:again()
      assert.same(before, visible(plan))
    end
  end)

  it("a watch that resumes sees what an uninterrupted one sees", function()
    server = process.serve { folder = folder }
    local calls, plan = host "ASYNC", new_plan()
    local first = process.follow(server, plan, 1)
    must(write(plan, {
      { id = "a", runner_type = "test", execution_mode = "ASYNC", assignments = { { target_check_id = "c" } } },
      { id = "b", runner_type = "test", execution_mode = "ASYNC",
        dependencies = { dependencies = { { target_type = "STAGE", target_id = "a" } } } },
    }, { { id = "c", state = "PLANNED" } }))
    process.wait(function() return calls[1] end, "a to run")
    calls[1]:progress "half"
    release(calls[1])
    process.wait(function() return calls[2] end, "b to run")
    at_work(calls[2], first)
    server:kill "sigkill"
    process.wait(function() return first.ended end, "the watch to break")
    server = server:again()
    local second = process.follow(server, plan, first.last)
    release(calls[2])
    second:wait_settled()

    local resumed = table.move(second.events, 1, #second.events, #first.events + 1, first.events)
    local whole = process.follow(server, plan, 1)
    whole:wait_settled()
    assert.same(whole.events, resumed)
    server:kill "sigterm"
    server = server:again()
    local later = process.follow(server, plan, 1)
    later:wait_settled()
    assert.same(whole.events, later.events)
  end)

  it("a sync call that died with the engine is tried again", function()
    server = process.serve { folder = folder, args = { "--limit", "backoff_ms=10" } }
    local calls, plan = host "SYNC", new_plan()
    must(write(plan, { { id = "s", runner_type = "test" } }))
    process.wait(function() return calls[1] end, "the first attempt")
    server:kill "sigkill"
    process.wait(function() return calls[1].cancelled end, "the runner to notice")
    server = server:again()
    process.wait(function() return calls[2] end, "the second attempt")
    assert.equal(2, calls[2].attempt)
    assert.are_not.equal(calls[1].execution_id, calls[2].execution_id)
    release(calls[2])
    process.follow(server, plan, 1):wait_settled()
    local final = stage(plan, "s")
    assert.equal("SUCCEEDED", final.outcome)
    assert.equal("ENGINE_RESTART", final.attempts[1].failure.kind)
    assert.equal("INCOMPLETE", final.attempts[1].state)
    assert.equal("COMPLETE", final.attempts[2].state)
  end)

  it("an async stage that was accepted goes on, and completes", function()
    server = process.serve { folder = folder }
    local calls, plan = host "ASYNC", new_plan()
    must(write(plan, { { id = "s", runner_type = "test", execution_mode = "ASYNC" } }))
    process.wait(function() return calls[1] end, "the stage to run")
    at_work(calls[1], process.follow(server, plan, 1))
    server:kill "sigkill"
    server = server:again()
    assert.equal("RUNNING", stage(plan, "s").attempts[1].state)
    assert.is_false(calls[1].cancelled)
    release(calls[1])
    process.follow(server, plan, 1):wait_settled()
    local final = stage(plan, "s")
    assert.equal("SUCCEEDED", final.outcome)
    assert.equal(1, #final.attempts)
    assert.equal(1, #calls)
  end)

  it("runners are still registered, for a full ttl", function()
    server = process.serve { folder = folder }
    host "SYNC"
    local before = must(server.client:list_stage_runners {}).runners[1]
    server:kill "sigkill"
    server = server:again()
    local after = must(server.client:list_stage_runners {}).runners[1]
    assert.equal(before.registration_id, after.registration_id)
    local seconds, microseconds = uv.gettimeofday()
    assert.is_true(after.expires_at - (seconds + microseconds / 1e6) > 3500)
  end)
end)
