-- world: grpc, alone
-- What the server costs: nothing while nothing happens, one commit for a write and the Run it causes, none for reads.

local process = require "process"
local runners = require "turboci.runner"
local uv = require "luv"

local SECONDS, SWITCHES_MAX = 10, 10

local folder, server

before_each(function()
  folder = process.new_folder()
  server = process.serve { folder = folder }
end)

after_each(function() process.clean(folder) end)

local function must(response, err)
  return response or error(tostring(err), 2)
end

local function field(path, pattern)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text:match(pattern)
end

-- Voluntary context switches of each thread of the server so far, by thread id.
local function switches()
  local out = {}
  local folder_of_tasks = ("/proc/%d/task"):format(server.pid)
  local names = assert(uv.fs_scandir(folder_of_tasks))
  while true do
    local id = uv.fs_scandir_next(names)
    if not id then return out end
    local path = folder_of_tasks .. "/" .. id
    out[id] = {
      name = field(path .. "/comm", "[^\n]*"),
      count = tonumber(field(path .. "/status", "\nvoluntary_ctxt_switches:%s*(%d+)")),
    }
  end
end

local function counters()
  return must(server.client:get_server_info {}).counters
end

describe("an idle server", function()
  it("wakes up at most once a second", function()
    must(server.client:register_stage_runner {
      runner_id = "quiet", runner_type = "test", address = "127.0.0.1:1", ttl_seconds = 3600,
    })
    must(server.client:create_work_plan {})
    local before = switches()
    process.pass(SECONDS)
    local after = switches()

    local main = field(("/proc/%d/comm"):format(server.pid), "[^\n]*")
    local ours = { ["tci-engine"] = true, ["tci-rpc"] = true, [main] = true }
    local own, grpc, seen, lines = 0, 0, {}, {}
    for id, thread in pairs(after) do
      local count = thread.count - (before[id] and before[id].count or 0)
      if ours[thread.name] then own = own + count else grpc = grpc + count end
      seen[thread.name] = true
      lines[#lines + 1] = ("%s=%d"):format(thread.name, count)
    end
    table.sort(lines)
    print(("idle %d s: voluntary switches: ours %d, libgrpc's %d (%s)"):format(SECONDS, own, grpc,
      table.concat(lines, " ")))
    assert.is_true(seen["tci-engine"] and seen["tci-rpc"], "the threads have names")
    assert.is_true(own <= SWITCHES_MAX, ("%d switches in %d s"):format(own, SECONDS))
  end)

  it("commits once between a write and the Run that it causes", function()
    local at_run = {}
    local runner = must(runners.start {
      client = server.client, type = "test", modes = { "SYNC" }, ttl = 3600,
      run = function(ctx)
        at_run[ctx.stage_id] = counters()
        process.wake()
      end,
    })
    local plan = must(server.client:create_work_plan {}).work_plan.id
    for _, id in ipairs { "first", "second", "third" } do
      local before = counters()
      must(server.client:write_nodes { work_plan_id = plan, stages = { { id = id, runner_type = "test" } } })
      process.wait(function() return at_run[id] end, "the stage to run")
      assert.equal(1, at_run[id].commits - before.commits)
      -- One more for the end of the run, and no more.
      process.follow(server, plan, 1):wait_stage(id, function(stage) return stage.state == "FINAL" end)
      assert.equal(2, counters().commits - before.commits)
    end
    runner:stop()
  end)

  it("commits nothing for reads", function()
    local plan = must(server.client:create_work_plan {}).work_plan.id
    must(server.client:write_nodes { work_plan_id = plan, checks = { { id = "c", state = "FINAL" } } })
    local before = counters()
    for _ = 1, 5 do
      must(server.client:get_work_plan { id = plan })
      must(server.client:query_nodes { work_plan_id = plan, include_checks = true, include_stages = true })
      must(server.client:list_stage_runners {})
      must(server.client:list_stage_executions { work_plan_id = plan })
      process.follow(server, plan, 1):wait_settled()
      -- Nor for what is refused, or changes nothing.
      assert.is_nil(server.client:get_work_plan { id = "none" })
      assert.is_nil(server.client:write_nodes { work_plan_id = plan, checks = { { id = "c", kind = "new" } } })
      must(server.client:write_nodes { work_plan_id = plan, checks = { { id = "c", state = "FINAL" } } })
    end
    local after = counters()
    assert.equal(0, after.commits - before.commits)
    assert.equal(0, after.records - before.records)
    assert.is_true(after.events > before.events)
  end)
end)
