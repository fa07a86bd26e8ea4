-- turboci.client and turboci.submit, against the real engine in this process (core.server).

local client = require "turboci.client"
local core = require "turboci.core"
local turboci = require "turboci"

local server

local function start(limits)
  server = assert(core.server { listen = "127.0.0.1:0", log = "error", limits = limits })
  return client.connect(server:address())
end

after_each(function()
  if server then server:stop() end
  server = nil
end)

-- Lua bodies, since a runner type that nobody has keeps a stage waiting.
local function chain(count, filler)
  local plan = turboci.plan { name = "chain" }
  local done = plan:check("done")
  for i = 1, count do
    plan:stage("s" .. i, {
      runner = "nobody", args = { filler = filler }, after = i > 1 and "s" .. i - 1 or nil,
      finalizes = i == count and done or nil,
    })
  end
  return plan
end

describe("a client", function()
  it("calls every method by its name in snake_case", function()
    local c = start()
    local plan = assert(c:create_work_plan { metadata = { branch = "main" } }).work_plan
    assert.equal("main", assert(c:get_work_plan { id = plan.id }).work_plan.metadata.branch)
    assert.equal(core.version, assert(c:get_server_info {}).version)
    assert.same({}, assert(c:list_stage_runners {}).runners)
  end)

  it("returns nil and an error with code and message when the server refuses", function()
    local response, err = start():get_work_plan { id = "unknown-plan" }
    assert.is_nil(response)
    assert.equal("NOT_FOUND", err.code)
    assert.matches("unknown%-plan", err.message)
    assert.matches("^NOT_FOUND: ", tostring(err))
    assert.is_true(client.is_error(err))
  end)

  it("returns UNAVAILABLE when there is no server", function()
    local c = start()
    server:stop()
    server = nil
    local response, err = c:call("GetServerInfo", {}, { timeout = 5 })
    assert.is_nil(response)
    assert.equal("UNAVAILABLE", err.code)
  end)

  it("returns INVALID_ARGUMENT with the path of a field that does not exist", function()
    local _, err = start():write_nodes { work_plan_id = "x", stages = { { id = "s", argz = {} } } }
    assert.equal("INVALID_ARGUMENT", err.code)
    assert.matches("argz", err.message)
  end)

  it("reads a list to its end, in pages", function()
    local c = start { page_entries_max = 7 }
    local plan = assert(c:submit(chain(20, "x")))
    local request = { work_plan_id = plan.id, include_stages = true }
    local nodes = assert(c:pages("QueryNodes", request))
    assert.equal(20, #nodes.stages)
    assert.is_nil(nodes.next_page_token)
    assert.same({ work_plan_id = plan.id, include_stages = true }, request)
    assert.same(assert(c:query_nodes(request)).stages, nodes.stages)
    assert.equal(1, #assert(c:pages("ListStageExecutions", { work_plan_id = plan.id })).executions)
    local _, err = c:pages("QueryNodes", { work_plan_id = "nobody" })
    assert.equal("NOT_FOUND", err.code)
  end)

  it("raises at the caller for an unknown method, with the nearest one", function()
    local c = start()
    local ok, err = pcall(c.call, c, "WriteNode", {})
    assert.is_false(ok)
    assert.matches("did you mean 'WriteNodes'", err)
    assert.is_nil(c.write_node)
  end)

  it("raises for an unknown option", function()
    local c = start()
    local ok, err = pcall(c.call, c, "GetServerInfo", {}, { timout = 1 })
    assert.is_false(ok)
    assert.matches("did you mean 'timeout'", err)
  end)
end)

describe("a watch", function()
  it("gives the events in order, and nothing after close()", function()
    local c = start()
    local plan = assert(c:create_work_plan {}).work_plan
    local stream = c:watch { work_plan_id = plan.id, include_checks = true, after_sequence = 1 }
    assert(c:write_nodes { work_plan_id = plan.id, checks = { { id = "a" }, { id = "b" }, { id = "c" } } })
    local first, second = assert(stream:next()), assert(stream:next())
    assert.same({ "a", "b" }, { first.check_event.check_id, second.check_event.check_id })
    assert.is_true(second.sequence > first.sequence)
    stream:close()
    stream:close()
    local event, err = stream:next()
    assert.is_nil(event)
    assert.is_nil(err)
  end)

  it("ends with the error of the server", function()
    local event, err = start():watch({ work_plan_id = "unknown-plan" }):next()
    assert.is_nil(event)
    assert.equal("NOT_FOUND", err.code)
  end)

  it("ends with an error when the server goes away", function()
    local c = start()
    local plan = assert(c:create_work_plan {}).work_plan
    local stream = c:watch { work_plan_id = plan.id, include_checks = true }
    assert(c:get_server_info {})
    server:stop()
    server = nil
    local event, err = stream:next()
    assert.is_nil(event)
    assert.is_truthy(err == nil or err.code == "UNAVAILABLE" or err.code == "CANCELLED", tostring(err))
  end)
end)

describe("submit", function()
  local function nodes(c, plan)
    return assert(c:query_nodes { work_plan_id = plan.id, include_checks = true, include_stages = true })
  end

  it("writes a small plan in one write", function()
    local c = start()
    local plan = assert(c:submit(chain(3, "x")))
    local found = nodes(c, plan)
    assert.equal(3, #found.stages)
    assert.equal(1, #found.checks)
    assert.equal("chain", plan.metadata.name)
    assert.equal(2, assert(c:get_work_plan { id = plan.id }).work_plan.version)
  end)

  it("writes a plan that is larger than a message in batches, behind a gate that is open at the end", function()
    local c = start { message_bytes_max = 200000 }
    local plan = assert(c:submit(chain(40, ("x"):rep(10000))))
    local found = nodes(c, plan)
    assert.equal(40, #found.stages)
    local by_id = {}
    for _, check in ipairs(found.checks) do
      by_id[check.id] = check
    end
    assert.equal("FINAL", by_id["turboci:submitted"].state)
    assert.equal("WAITING", by_id.done.state)
    assert.equal("ATTEMPTING", found.stages[1].state)
    assert.equal("turboci:submitted", found.stages[1].dependencies.dependencies[1].target_id)
    for i = 2, 40 do
      assert.equal("PLANNED", found.stages[i].state)
    end
  end)

  it("writes a plan of more nodes than one write may have in batches, and all of it runs", function()
    local c = start { write_nodes_max = 1100, step_changes_max = 1000 }
    local plan = assert(c:submit(chain(2000, "x")))
    local found = nodes(c, plan)
    assert.equal(2000, #found.stages)
    assert.equal("ATTEMPTING", found.stages[1].state)
  end)

  it("refuses a plan with Lua bodies unless they are hosted", function()
    local plan = turboci.plan { name = "b" }
    plan:stage("body", { run = function() end })
    local work_plan, err = start():submit(plan)
    assert.is_nil(work_plan)
    assert.equal("INVALID_ARGUMENT", err.code)
    assert.matches("body", err.message)
  end)

  -- A transport that does the call and then loses the answer, once per method.
  local function forgetful(c)
    local lost = {}
    return client.new {
      call = function(_, name, request, timeout)
        local response, err = c.transport:call(name, request, timeout)
        if not lost[name] then
          lost[name] = true
          return nil, client.error("UNAVAILABLE", "the answer was lost")
        end
        return response, err
      end,
    }
  end

  it("repeats a write whose answer was lost, without writing twice", function()
    local c = start()
    local retries = 0
    local plan = assert(forgetful(c):submit(chain(2, "x"), { retry = function()
      retries = retries + 1
      return true
    end }))
    assert.equal(2, retries)
    assert.equal(2, #nodes(c, plan).stages)
    assert.equal(2, assert(c:get_work_plan { id = plan.id }).work_plan.version)
  end)

  it("gives up at once without a retry function", function()
    local plan, err = forgetful(start()):submit(chain(1, "x"))
    assert.is_nil(plan)
    assert.equal("UNAVAILABLE", err.code)
  end)

  it("passes a refusal on", function()
    local c = start { nodes_per_plan_max = 2 }
    local plan, err = c:submit(chain(5, "x"))
    assert.is_nil(plan)
    assert.equal("RESOURCE_EXHAUSTED", err.code)
  end)
end)
