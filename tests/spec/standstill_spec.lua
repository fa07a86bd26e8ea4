-- world: grpc
-- The server's process is stopped for longer than every lease and deadline (a debugger, a machine that is moved) while
-- its runners go on: what they said meanwhile lies in the sockets, and is read before anybody is judged.

local process = require "process"
local runners = require "turboci.runner"

local TTL, PAUSE = 4, 6 -- seconds

local folder, server, runner, calls

local function must(response, err)
  return response or error(tostring(err), 2)
end

-- A runner in this process that goes on while the server stands still; it answers when a stage is released.
local function host(given)
  calls = {}
  runner = must(runners.start {
    client = server.client, id = "steady", type = "test", modes = given.modes, ttl = TTL,
    max_concurrent = given.max_concurrent,
    run = function(ctx)
      calls[#calls + 1] = ctx
      ctx:on_cancel(process.wake)
      process.wake()
      process.wait(function() return ctx.released or ctx.cancelled end, "the stage to be released")
      return not ctx.cancelled or nil, ctx.cancelled and "cancelled" or nil
    end,
  })
end

local function release()
  for _, ctx in ipairs(calls) do ctx.released = true end
  process.wake()
end

local function stages(plan)
  return must(server.client:query_nodes { work_plan_id = plan, include_stages = true }).stages
end

-- Everything there is is read again when this has returned: an answer comes after what was there before.
local function pause(meanwhile)
  server:signal "sigstop"
  if meanwhile then meanwhile() end
  process.pass(PAUSE)
  server:signal "sigcont"
  must(server.client:list_stage_runners {})
end

before_each(function()
  folder = process.new_folder()
  server = process.serve { folder = folder }
end)

after_each(function()
  if runner then runner:stop { cancel = true } end
  runner = nil
  process.clean(folder)
end)

describe("a server that stood still", function()
  it("loses no runner whose heartbeats waited, and gives its work to nobody else", function()
    host { modes = { "ASYNC" } }
    local plan, writes = must(server.client:create_work_plan {}).work_plan.id, {}
    for i = 1, 10 do writes[i] = { id = "s" .. i, runner_type = "test", execution_mode = "ASYNC" } end
    must(server.client:write_nodes { work_plan_id = plan, stages = writes })
    process.wait(function() return #calls == 10 end, "the stages to run")
    local follower = process.follow(server, plan, 1)
    for _, ctx in ipairs(calls) do
      ctx:progress "at work"
      follower:wait_stage(ctx.stage_id, function(s) return s.attempts[1] and s.attempts[1].state == "RUNNING" end)
    end
    pause()
    for _, stage in ipairs(stages(plan)) do assert.equal(1, #stage.attempts) end
    assert.equal("steady", must(server.client:list_stage_runners {}).runners[1].runner_id)
    release()
    process.wait(function()
      local last = follower.events[#follower.events]
      return last and last.completed_event or follower.ended
    end, "the plan to settle")
    for _, stage in ipairs(stages(plan)) do
      assert.equal("SUCCEEDED", stage.outcome)
      assert.equal(1, #stage.attempts)
    end
    assert.equal(10, #calls)
    assert.is_true(must(server.client:get_server_info {}).counters.standstill_us > 0)
  end)

  it("gives a runner with one slot no second stage", function()
    host { modes = { "SYNC" }, max_concurrent = 1 }
    local plan = must(server.client:create_work_plan {}).work_plan.id
    must(server.client:write_nodes { work_plan_id = plan,
      stages = { { id = "first", runner_type = "test" }, { id = "second", runner_type = "test" } } })
    process.wait(function() return calls[1] end, "the first stage to run")
    pause()
    assert.equal(1, #calls)
    assert.equal(1, must(server.client:list_stage_runners {}).runners[1].current_load)
    release()
    process.wait(function() return calls[2] end, "the second stage to run")
    assert.is_false(calls[1].cancelled)
  end)

  it("takes an answer that came in time, though the deadline passed since", function()
    host { modes = { "SYNC" } }
    local plan = must(server.client:create_work_plan {}).work_plan.id
    must(server.client:write_nodes { work_plan_id = plan,
      stages = { { id = "s", runner_type = "test", timeouts = { execution_ms = (PAUSE - 2) * 1000 },
        retry = { max_attempts = 1 } } } })
    process.wait(function() return calls[1] end, "the stage to run")
    local follower = process.follow(server, plan, 1)
    pause(release)
    process.wait(function()
      local last = follower.events[#follower.events]
      return last and last.completed_event or follower.ended
    end, "the plan to settle")
    assert.equal("SUCCEEDED", stages(plan)[1].outcome)
  end)
end)
