-- What the engine refuses, a row per method and fault: with which code, naming which field, changing nothing.
-- Requests are sent as bytes, since a well-behaved client could not write most of them. Both worlds.

local core = require "turboci.core"
local testing = require "turboci.testing"
local turboci = require "turboci"

-- Stands in for an id in a request that is then spoilt byte by byte: its length must not change.
local MARK = "MARKMARK"
-- The same, 300 bytes long.
local LONG = ("L"):rep(300)

local MEGABYTE = 1024 * 1024

-- A field of bytes, as it is on the wire.
local function field(number, bytes)
  local length, rest = "", #bytes
  while rest > 127 do
    length, rest = length .. string.char(rest % 128 + 128), rest // 128
  end
  return string.char(number * 8 + 2) .. length .. string.char(rest) .. bytes
end

-- A Struct with Structs in it, so many levels deep.
local function nested(levels)
  local struct = ""
  for _ = 1, levels do struct = field(1, field(1, "level") .. field(2, field(5, struct))) end
  return struct
end

describe("refused:", function()
  randomize(false) -- the last test is about what all those before it left behind

  local env, plan, running, rows

  local function bytes_of(method, request)
    return assert(core.encode(core.methods[method].request, request))
  end

  -- Everything a refused request could have changed.
  local function snapshot()
    local runners = env.client:list_stage_runners {}
    for _, runner in ipairs(runners.runners) do runner.last_heartbeat, runner.expires_at = nil, nil end
    return {
      plan = env:plan(plan),
      nodes = env:query(plan),
      executions = env:executions(plan),
      runners = runners,
    }
  end

  -- One plan for all rows: a FINAL stage and check, one that runs, one that waits.
  lazy_setup(function()
    env = testing.env()
    running = env:mock_runner { id = "held", type = "held", modes = { "ASYNC" }, auto_complete = false }
    env:mock_runner { id = "quick", type = "quick" }
    local workflow = turboci.plan { name = "refusals" }
    workflow:check("ended-check")
    workflow:stage("ended", { runner = "quick", finalizes = "ended-check" })
    workflow:stage("running", { runner = "held", mode = "async", after = "ended" })
    workflow:stage("waiting", { runner = "quick", after = "running" })
    workflow:check("open-check", { external = true, after = "running" })
    plan = env:submit(workflow)
    env:wait(function()
      local execution = next(running.pending) and env:execution(plan, "running")
      return execution and execution.runner_execution_id ~= "" -- its acceptance is in, too
    end)
  end)

  lazy_teardown(function() env:stop() end)

  local function refuse(row)
    local before = snapshot()
    local request = type(row.request) == "function" and row.request() or row.request
    local bytes = row.bytes or row.build and row.build() or bytes_of(row.method, request)
    if row.spoil then
      local spoilt
      bytes, spoilt = bytes:gsub(MARK, (row.spoil:gsub("%%", "%%%%")))
      assert.is_true(spoilt > 0, "the row has nothing to spoil")
    end
    local code, message = env:raw(row.path or row.method, bytes)
    assert.equal(row.code, code, message)
    for _, part in ipairs(type(row.says) == "table" and row.says or { row.says }) do
      assert.is_truthy(message:find(part, 1, true), ("expected %q in %q"):format(part, message))
    end
    assert.same(before, snapshot())
    assert.equal(before.plan.version, env:plan(plan).version)
  end

  local function add(method, fault, row)
    row.method, row.fault = method, fault
    rows[#rows + 1] = row
  end

  -- ---- faults that every field of a kind has ----

  -- Per method: requests with MARK in one field, by the name of the field that a refusal must show. `id`: 300 bytes are
  -- too long for it. The field is required when `required`.
  local fields = {
    { "CreateWorkPlan", "metadata", function(v) return { metadata = { branch = v } } end },
    { "CreateWorkPlan", "policy", function(v) return { policy = v } end, id = true },
    { "GetWorkPlan", "id", function(v) return { id = v } end, id = true },
    { "WriteNodes", "work_plan_id", function(v) return { work_plan_id = v } end, id = true },
    { "WriteNodes", "checks[0].id", function(v) return { work_plan_id = plan.id, checks = { { id = v } } } end,
      id = true },
    { "WriteNodes", "checks[0].kind", function(v)
      return { work_plan_id = plan.id, checks = { { id = "c", kind = v } } }
    end },
    { "WriteNodes", "stages[1].id", function(v)
      return { work_plan_id = plan.id, stages = { { id = "x" }, { id = v } } }
    end, id = true },
    { "WriteNodes", "runner_type", function(v)
      return { work_plan_id = plan.id, stages = { { id = "x", runner_type = v } } }
    end, id = true },
    { "WriteNodes", "target_id", function(v)
      local dependencies = { dependencies = { { target_type = "STAGE", target_id = v } } }
      return { work_plan_id = plan.id, stages = { { id = "x", dependencies = dependencies } } }
    end, id = true },
    { "WriteNodes", "target_check_id", function(v)
      return { work_plan_id = plan.id, stages = { { id = "x", assignments = { { target_check_id = v } } } } }
    end, id = true },
    { "WriteNodes", "args", function(v)
      return { work_plan_id = plan.id, stages = { { id = "x", args = { command = v } } } }
    end, struct = true },
    { "QueryNodes", "work_plan_id", function(v) return { work_plan_id = v } end, id = true },
    { "QueryNodes", "stage_ids[0]", function(v) return { work_plan_id = plan.id, stage_ids = { v } } end, id = true },
    { "QueryNodes", "check_ids[0]", function(v) return { work_plan_id = plan.id, check_ids = { v } } end, id = true },
    { "WatchWorkPlan", "work_plan_id", function(v) return { work_plan_id = v } end, id = true },
    { "WatchWorkPlan", "check_id_filter[0]", function(v)
      return { work_plan_id = plan.id, check_id_filter = { v } }
    end, id = true },
    { "WatchWorkPlan", "stage_id_filter[0]", function(v)
      return { work_plan_id = plan.id, stage_id_filter = { v } }
    end, id = true },
    { "RegisterStageRunner", "runner_id", function(v)
      return { runner_id = v, runner_type = "t", address = "localhost:1" }
    end, id = true },
    { "RegisterStageRunner", "runner_type", function(v)
      return { runner_id = "r", runner_type = v, address = "localhost:1" }
    end, id = true },
    { "RegisterStageRunner", "address", function(v)
      return { runner_id = "r", runner_type = "t", address = v .. ":1" }
    end },
    { "RegisterStageRunner", "metadata", function(v)
      return { runner_id = "r", runner_type = "t", address = "localhost:1", metadata = { zone = v } }
    end },
    { "UnregisterStageRunner", "registration_id", function(v) return { registration_id = v } end, id = true },
    { "ListStageRunners", "runner_type", function(v) return { runner_type = v } end, id = true },
    { "UpdateStageExecution", "execution_id", function(v) return { execution_id = v } end },
    { "UpdateStageExecution", "message", function(v)
      return { execution_id = next(running.pending), message = v }
    end },
    { "CompleteStageExecution", "execution_id", function(v) return { execution_id = v, stage_state = "FINAL" } end },
    { "CompleteStageExecution", "check_id", function(v)
      return { execution_id = next(running.pending), stage_state = "FINAL", check_updates = { { check_id = v } } }
    end, id = true },
    { "CompleteStageExecution", "message", function(v)
      return { execution_id = next(running.pending), stage_state = "FINAL", failure = { message = v } }
    end },
    { "GetStageExecution", "execution_id", function(v) return { execution_id = v } end },
    { "GetStageExecution", "stage_id", function(v) return { work_plan_id = plan.id, stage_id = v } end, id = true },
    { "ListStageExecutions", "work_plan_id", function(v) return { work_plan_id = v } end, id = true },
    { "ListStageExecutions", "stage_id", function(v) return { work_plan_id = plan.id, stage_id = v } end, id = true },
    { "ExplainNode", "work_plan_id", function(v) return { work_plan_id = v, stage_id = "ended" } end, id = true },
    { "ExplainNode", "stage_id", function(v) return { work_plan_id = plan.id, stage_id = v } end, id = true },
    { "ExplainNode", "check_id", function(v) return { work_plan_id = plan.id, check_id = v } end, id = true },
  }

  local spoilings = {
    { "invalid UTF-8", "MARK\xff\xfe\xc0\x80" },
    { "an overlong encoding", "MARK\xe0\x80\x80." },
    { "a surrogate", "MARK\xed\xa0\x80." },
  }

  rows = {}

  for _, entry in ipairs(fields) do
    local method, name, build = entry[1], entry[2], entry[3]
    for _, spoiling in ipairs(spoilings) do
      add(method, spoiling[1] .. " in " .. name, {
        request = function() return build(MARK) end, spoil = spoiling[2], code = "INVALID_ARGUMENT", says = name,
      })
    end
    if not entry.struct then -- in the user's own data a NUL is allowed
      add(method, "an embedded NUL in " .. name, {
        request = function() return build(MARK) end, spoil = "MARK\0ARK", code = "INVALID_ARGUMENT", says = name,
      })
    end
    if entry.id then
      add(method, "a control character in " .. name, {
        request = function() return build(MARK) end, spoil = "MARK\nARK", code = "INVALID_ARGUMENT", says = name,
      })
      add(method, "300 bytes in " .. name, {
        request = function() return build(LONG) end, code = "INVALID_ARGUMENT", says = { name, "256" },
      })
    end
  end

  -- ---- empty and missing ----

  local required = {
    GetWorkPlan = "id", WriteNodes = "work_plan_id", QueryNodes = "work_plan_id", WatchWorkPlan = "work_plan_id",
    RegisterStageRunner = "runner_id", UnregisterStageRunner = "registration_id",
    UpdateStageExecution = "execution_id", CompleteStageExecution = "execution_id", GetStageExecution = "execution_id",
    ListStageExecutions = "work_plan_id", ExplainNode = "work_plan_id",
  }
  for method, name in pairs(required) do
    add(method, "an empty request", { bytes = "", code = "INVALID_ARGUMENT", says = name })
  end

  local missing = {
    { "WriteNodes", "id", function() return { work_plan_id = plan.id, checks = { {} } } end },
    { "WriteNodes", "id", function() return { work_plan_id = plan.id, stages = { { id = "x" }, {} } } end },
    { "WriteNodes", "target_id", function()
      local dependencies = { dependencies = { { target_type = "STAGE" } } }
      return { work_plan_id = plan.id, stages = { { id = "x", dependencies = dependencies } } }
    end },
    { "WriteNodes", "target_type", function()
      local dependencies = { dependencies = { { target_id = "ended" } } }
      return { work_plan_id = plan.id, stages = { { id = "x", dependencies = dependencies } } }
    end },
    { "WriteNodes", "target_check_id", function()
      return { work_plan_id = plan.id, stages = { { id = "x", assignments = { {} } } } }
    end },
    { "RegisterStageRunner", "runner_type", function() return { runner_id = "r", address = "localhost:1" } end },
    { "RegisterStageRunner", "address", function() return { runner_id = "r", runner_type = "t" } end },
    { "GetStageExecution", "work_plan_id", function() return { stage_id = "ended" } end },
    { "CompleteStageExecution", "check_id", function()
      return { execution_id = next(running.pending), stage_state = "FINAL", check_updates = { {} } }
    end },
  }
  add("ExplainNode", "no node", {
    request = function() return { work_plan_id = plan.id } end,
    code = "INVALID_ARGUMENT", says = { "stage_id", "check_id" },
  })
  add("ExplainNode", "two nodes", {
    request = function() return { work_plan_id = plan.id, stage_id = "ended", check_id = "ended-check" } end,
    code = "INVALID_ARGUMENT", says = { "stage_id", "check_id" },
  })
  for _, row in ipairs(missing) do
    add(row[1], "no " .. row[2], { request = row[3], code = "INVALID_ARGUMENT", says = row[2] })
  end

  -- ---- unknown ----

  local no_execution = "nobody:1:1:00000000000000000000000000000000"
  local unknown = {
    { "GetWorkPlan", "plan", { id = "nope" }, { "id", "nope" } },
    { "WriteNodes", "plan", { work_plan_id = "nope", checks = { { id = "c" } } }, { "work_plan_id", "nope" } },
    { "QueryNodes", "plan", { work_plan_id = "nope" }, { "work_plan_id", "nope" } },
    { "WatchWorkPlan", "plan", { work_plan_id = "nope" }, { "work_plan_id", "nope" } },
    { "ListStageExecutions", "plan", { work_plan_id = "nope" }, { "work_plan_id", "nope" } },
    { "UnregisterStageRunner", "registration", { registration_id = "nope" }, { "registration_id", "nope" } },
    { "UpdateStageExecution", "execution", { execution_id = no_execution }, "execution_id" },
    { "UpdateStageExecution", "execution of another form", { execution_id = "nope" }, "execution_id" },
    { "CompleteStageExecution", "execution", { execution_id = no_execution, stage_state = "FINAL" }, "execution_id" },
    { "CompleteStageExecution", "execution of another form", { execution_id = "nope", stage_state = "FINAL" },
      "execution_id" },
    { "GetStageExecution", "execution", { execution_id = no_execution }, "execution_id" },
    { "GetStageExecution", "plan", { work_plan_id = "nope", stage_id = "ended" }, { "work_plan_id", "nope" } },
    { "GetStageExecution", "stage", function() return { work_plan_id = plan.id, stage_id = "nope" } end,
      { "stage_id", "nope" } },
    { "GetStageExecution", "attempt", function()
      return { work_plan_id = plan.id, stage_id = "ended", attempt_idx = 9 }
    end, "9" },
    { "ExplainNode", "plan", { work_plan_id = "nope", stage_id = "ended" }, { "work_plan_id", "nope" } },
    { "ExplainNode", "stage", function() return { work_plan_id = plan.id, stage_id = "nope" } end, "nope" },
    { "ExplainNode", "check", function() return { work_plan_id = plan.id, check_id = "nope" } end, "nope" },
    { "UpdateStageExecution", "secret", function()
      return { execution_id = next(running.pending):gsub("%x%x%x%x$", "ffff") }
    end, "execution_id" },
    { "CompleteStageExecution", "secret", function()
      return { execution_id = next(running.pending):gsub("%x%x%x%x$", "ffff"), stage_state = "FINAL" }
    end, "execution_id" },
  }
  add("CreateWorkPlan", "an unknown policy", {
    request = { policy = "nope" }, code = "INVALID_ARGUMENT", says = { "policy", "nope" },
  })
  for _, row in ipairs(unknown) do
    add(row[1], "an unknown " .. row[2], { request = row[3], code = "NOT_FOUND", says = row[4] })
  end

  -- ---- graphs ----

  local function edge(kind, id)
    return { dependencies = { { target_type = kind, target_id = id } } }
  end

  local graphs = {
    { "a stage that depends on itself", { stages = { { id = "a", dependencies = edge("STAGE", "a") } } }, "a" },
    { "a cycle of stages", {
      stages = {
        { id = "a", dependencies = edge("STAGE", "c") },
        { id = "b", dependencies = edge("STAGE", "a") },
        { id = "c", dependencies = edge("STAGE", "b") },
      },
    }, { "cycle", "a", "b", "c" } },
    { "a cycle of checks", {
      checks = {
        { id = "p", state = "PLANNED", dependencies = edge("CHECK", "q") },
        { id = "q", state = "PLANNED", dependencies = edge("CHECK", "p") },
      },
    }, { "cycle", "p", "q" } },
    { "a cycle through a check and its stage", {
      checks = { { id = "p" } },
      stages = { { id = "a", dependencies = edge("CHECK", "p"), assignments = { { target_check_id = "p" } } } },
    }, { "cycle", "p", "a" } },
    { "a cycle with a stage that is there", {
      stages = {
        { id = "waiting", dependencies = edge("STAGE", "new") },
        { id = "new", dependencies = edge("STAGE", "waiting") },
      },
    }, { "cycle", "waiting", "new" } },
    { "a dependency on nothing", { stages = { { id = "a", dependencies = edge("STAGE", "nope") } } }, "nope" },
    { "a dependency on a stage that is a check", {
      stages = { { id = "a", dependencies = edge("STAGE", "ended-check") } },
    }, "ended-check" },
    { "an assignment to nothing", { stages = { { id = "a", assignments = { { target_check_id = "nope" } } } } },
      "nope" },
    { "a check that depends on nothing", { checks = { { id = "p", dependencies = edge("CHECK", "nope") } } }, "nope" },
    { "the same stage twice", { stages = { { id = "twice" }, { id = "twice" } } }, "twice" },
  }
  for _, row in ipairs(graphs) do
    add("WriteNodes", row[1], {
      request = function()
        row[2].work_plan_id = plan.id
        return row[2]
      end, code = "INVALID_ARGUMENT", says = row[3],
    })
  end

  -- ---- states ----

  local states = {
    { "a FINAL check", { checks = { { id = "ended-check", options = { late = true } } } }, { "ended-check", "FINAL" } },
    { "a FINAL check back to WAITING", { checks = { { id = "ended-check", state = "WAITING" } } },
      { "ended-check", "FINAL", "WAITING" } },
    { "a FINAL stage", { stages = { { id = "ended", args = { late = true } } } }, { "ended", "FINAL" } },
    { "a FINAL stage back to PLANNED", { stages = { { id = "ended", state = "PLANNED" } } },
      { "ended", "FINAL", "PLANNED" } },
    { "a FINAL stage among good writes", {
      checks = { { id = "new" } }, stages = { { id = "ended", state = "PLANNED" } },
    }, "ended" },
    { "a new result for a FINAL check", { checks = { { id = "ended-check", result = { finalize = true } } } },
      "ended-check" },
    { "FINAL for a stage that runs", { stages = { { id = "running", state = "FINAL" } } },
      { "running", "ATTEMPTING", "FINAL" } },
    { "ATTEMPTING for a stage that the engine drives", { stages = { { id = "waiting", state = "ATTEMPTING" } } },
      "waiting" },
    { "an attempt of a stage that the engine drives", {
      stages = { { id = "running", current_attempt = { process_uid = "me" } } },
    }, { "running", "current_attempt" } },
    { "new dependencies of a stage that runs", {
      stages = { { id = "running", dependencies = edge("CHECK", "ended-check") } },
    }, { "running", "dependencies" } },
    { "a check back to PLANNING", { checks = { { id = "open-check", state = "PLANNING" } } },
      { "open-check", "PLANNED", "PLANNING" } },
  }
  for _, row in ipairs(states) do
    add("WriteNodes", row[1], {
      request = function()
        row[2].work_plan_id = plan.id
        return row[2]
      end, code = "FAILED_PRECONDITION", says = row[3],
    })
  end

  local versions = {
    { "an old plan version", function() return { expected_plan_version = 1, checks = { { id = "c" } } } end, "1" },
    { "an old check version", function() return { checks = { { id = "open-check", expected_version = 99 } } } end,
      { "open-check", "99" } },
    { "an old stage version", function() return { stages = { { id = "waiting", expected_version = 99 } } } end,
      { "waiting", "99" } },
    { "a version of a stage that is not there", function()
      return { stages = { { id = "new", expected_version = 1 } } }
    end, "new" },
  }
  for _, row in ipairs(versions) do
    add("WriteNodes", row[1], {
      request = function()
        local request = row[2]()
        request.work_plan_id = plan.id
        return request
      end, code = "ABORTED", says = row[3],
    })
  end

  add("CompleteStageExecution", "a state that is no end", {
    request = function() return { execution_id = next(running.pending), stage_state = "PLANNED" } end,
    code = "INVALID_ARGUMENT", says = "stage_state",
  })
  add("CompleteStageExecution", "a check that is not the stage's", {
    request = function()
      local updates = { { check_id = "ended-check", finalize = true } }
      return { execution_id = next(running.pending), stage_state = "FINAL", check_updates = updates }
    end,
    code = "INVALID_ARGUMENT", says = "ended-check",
  })
  add("UpdateStageExecution", "101 percent", {
    request = function() return { execution_id = next(running.pending), progress_percent = 101 } end,
    code = "INVALID_ARGUMENT", says = "progress_percent",
  })
  add("WatchWorkPlan", "a sequence that is still to come", {
    request = function() return { work_plan_id = plan.id, after_sequence = 1000000 } end,
    code = "OUT_OF_RANGE", says = "after_sequence",
  })

  -- ---- bytes ----

  for name, method in pairs(core.methods) do
    if name == method.name and method.service == "TurboCIOrchestrator" then
      add(name, "bytes that are no message", {
        bytes = "\x0a\xff", code = "INVALID_ARGUMENT", says = name .. "Request",
      })
      add(name, "5 MB", {
        -- An unknown field: a message that means nothing, but is too long all the same.
        bytes = "\xfa\x3f" .. string.char(0x80, 0x80, 0xc0, 0x02) .. ("x"):rep(5 * MEGABYTE),
        code = "RESOURCE_EXHAUSTED", says = "5242880",
      })
    end
  end

  -- Field numbers as in the .proto files: WriteNodesRequest.stages = 3, StageWrite.args = 3, and so on.
  local function live() return field(1, next(running.pending)) end
  local deep = {
    { "WriteNodes", "args", function(struct)
      return field(1, plan.id) .. field(3, field(1, "x") .. field(3, struct))
    end },
    { "WriteNodes", "options", function(struct)
      return field(1, plan.id) .. field(2, field(1, "x") .. field(4, struct))
    end },
    { "WriteNodes", "data", function(struct)
      return field(1, plan.id) .. field(2, field(1, "x") .. field(6, field(3, struct)))
    end },
    { "UpdateStageExecution", "details", function(struct) return live() .. field(4, struct) end },
    { "CompleteStageExecution", "details", function(struct) return live() .. "\x10\x28" .. field(5, struct) end },
    { "CompleteStageExecution", "result_data", function(struct)
      return live() .. "\x10\x28" .. field(3, field(1, "x") .. field(3, struct))
    end },
  }
  local structs = { [100] = nested(100), [5000] = nested(5000) }
  for _, row in ipairs(deep) do
    for levels, struct in pairs(structs) do
      add(row[1], ("%d nested levels in %s"):format(levels, row[2]), {
        build = function() return row[3](struct) end,
        code = "INVALID_ARGUMENT", says = { row[2], "message_depth_max" },
      })
    end
  end

  add("NoSuchMethod", "a method that does not exist", {
    path = "/turboci.v1.TurboCIOrchestrator/NoSuchMethod", bytes = "", code = "UNIMPLEMENTED", says = {},
  })
  add("Run", "a method of the other service", {
    path = "/turboci.v1.StageRunner/Run", bytes = "", code = "UNIMPLEMENTED", says = {},
  })

  -- ---- addresses of runners ----

  local addresses = {
    PERMISSION_DENIED = {
      "10.0.0.1:50061", "example.com:50061", "[2001:db8::1]:50061", "192.168.1.7:1", "169.254.169.254:80",
      "unix:/tmp/somebody-elses.sock",
    },
    INVALID_ARGUMENT = {
      "dns:localhost:50061", "dns:///localhost:50061", "xds:///service", "xds:service:1", "http://localhost:50061",
      "https://localhost:50061", "http:50061", "ipv4:127.0.0.1:50061", "ipv6:[::1]:50061", "passthrough:///localhost:1",
      "unix-abstract:socket", "localhost", "localhost:", "localhost:0", ":0", "localhost:65536", "localhost:http",
      "127.0.0.1:1,10.0.0.1:1", "user@localhost:1", "localhost:1/path", "unix:relative.sock", "::1:50061",
      "local host:50061", "127.1:50061/", "localhost%2e:1",
    },
  }
  for code, list in pairs(addresses) do
    for _, address in ipairs(list) do
      add("RegisterStageRunner", "the address " .. address, {
        request = { runner_id = "r", runner_type = "t", address = address }, code = code, says = "address",
      })
    end
  end

  table.sort(rows, function(a, b)
    if a.method ~= b.method then return a.method < b.method end
    return a.fault < b.fault
  end)

  for _, row in ipairs(rows) do
    it(row.method .. ": " .. row.fault, function() refuse(row) end)
  end

  it("nothing of all that has stopped the plan", function()
    assert(running:complete "running")
    assert(env:write(plan, { checks = { { id = "open-check", state = "FINAL" } } }))
    env:wait(plan)
    assert.stage(plan, "waiting").is_final { outcome = "SUCCEEDED" }
  end)
end)
