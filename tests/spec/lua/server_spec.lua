-- turboci.core's embedded server, called by its own client.
local core = require "turboci.core"
local uv = require "luv"
debug.getregistry()["turboci.luv"] = debug.getregistry()["turboci.luv"] or uv -- see turboci/loop.lua

local WAIT = 10

local seen = {} -- events that were taken and not asked for yet

-- The next event that fits.
local function wait(fits)
  local poll, timer, late = uv.new_poll(core.fd()), uv.new_timer(), false
  poll:start("r", function() end)
  timer:start(WAIT * 1000, 0, function() late = true end)
  local found
  while not found do
    for i, event in ipairs(seen) do
      if fits(event) then found = table.remove(seen, i) break end
    end
    if not found then
      local events = core.take()
      table.move(events, 1, #events, #seen + 1, seen)
      if #events == 0 then uv.run "once" end
      assert(not late, "nothing came for too long")
    end
  end
  poll:close()
  timer:close()
  uv.run "nowait"
  return found
end

local function ended(handle)
  return wait(function(event) return event.type == "done" and event.handle == handle end)
end

-- The next event of a watch that has this field.
local function watched(handle, field)
  while true do
    local message = wait(function(event) return event.type == "message" and event.handle == handle end)
    local event = assert(core.decode("WorkPlanEvent", message.bytes))
    if event[field] then return event[field] end
  end
end

local function call(server, method, request)
  local bytes = assert(core.encode(core.methods[method].request, request))
  local done = ended(core.call(server:address(), method, bytes, WAIT))
  if done.code ~= 0 then return nil, core.codes[done.code], done.message end
  return assert(core.decode(core.methods[method].response, done.bytes))
end

describe("a server", function()
  it("serves calls and streams, and stops", function()
    local server = assert(core.server { log = "error" })
    assert.truthy(server:address():match "^127%.0%.0%.1:%d+$")
    local id = call(server, "CreateWorkPlan", { metadata = { a = "b" } }).work_plan.id
    assert.same({ a = "b" }, call(server, "GetWorkPlan", { id = id }).work_plan.metadata)
    local info = call(server, "GetServerInfo", {})
    assert.equal(core.version, info.version)
    assert.equal(5242880, info.limits.message_bytes_max)

    local watch = core.call(server:address(), "WatchWorkPlan", core.encode("WatchWorkPlanRequest",
      { work_plan_id = id, include_checks = true, include_current = true }))
    assert(call(server, "WriteNodes", { work_plan_id = id, checks = { { id = "c" } } }))
    assert.equal("c", watched(watch, "check_event").check_id)
    core.cancel(watch)
    assert.equal(core.codes.CANCELLED, ended(watch).code)

    local _, code, message = call(server, "GetWorkPlan", { id = "none" })
    assert.equal("NOT_FOUND", code)
    assert.truthy(message:find "none")
    local address = server:address()
    server:stop()
    server:stop()
    assert.has_error(function() server:address() end, "this server is stopped")
    assert.equal(core.codes.UNAVAILABLE, ended(core.call(address, "CreateWorkPlan", "", WAIT)).code)
  end)

  it("dispatches to a host of the same program", function()
    local server <close> = assert(core.server { log = "error" })
    local host <close> = assert(core.host "127.0.0.1:0")
    assert(call(server, "RegisterStageRunner", { runner_id = "r", runner_type = "t", address = host:address() }))
    local id = call(server, "CreateWorkPlan", {}).work_plan.id
    local write = core.call(server:address(), "WriteNodes", core.encode("WriteNodesRequest",
      { work_plan_id = id, stages = { { id = "s", runner_type = "t" } } }), WAIT)
    local run = wait(function(event) return event.type == "call" and event.host == host end)
    assert.equal(0, ended(write).code)
    assert.equal("s", core.decode("RunRequest", run.bytes).stage_id)
    host:reply(run.call, 0, nil, core.encode("RunResponse", { stage_state = "FINAL" }))
    local watch = core.call(server:address(), "WatchWorkPlan", core.encode("WatchWorkPlanRequest",
      { work_plan_id = id, include_stages = true, include_current = true }))
    repeat local event = watched(watch, "stage_event") until event.new_state == "FINAL"
    core.cancel(watch)
    ended(watch)
  end)

  it("refuses to start where it cannot, and says why", function()
    local server <close> = assert(core.server { log = "off" })
    local second, err = core.server { listen = server:address(), log = "off" }
    assert.is_nil(second)
    assert.truthy(err:find(server:address(), 1, true), err)
    second, err = core.server { database = "/no/such/folder/x.db", log = "off" }
    assert.is_nil(second)
    assert.truthy(#err > 0)
  end)

  it("refuses an allow-list with an entry that never matches, and says what is right", function()
    local server, err = core.server { listen = "127.0.0.1:0", database = ":memory:", allow = { "10.1.2.3:80" } }
    assert.is_nil(server)
    assert.matches("10.1.2.3:80", err, 1, true)
    assert.matches("give 10.1.2.3$", err)
  end)

  it("refuses options that are unknown or of a wrong type", function()
    assert.has_error(function() core.server { listn = "x" } end)
    assert.has_error(function() core.server { log = "loud" } end)
    assert.has_error(function() core.server { listen = 1 } end)
    assert.has_error(function() core.server { limits = { no_such_limit = 1 } } end)
    assert.has_error(function() core.server { allow = "x" } end)
    assert.has_error(function() core.server { limits = { message_bytes_max = 1 << 31 } } end)
  end)
end)
