-- turboci.core's virtual engine: the real core, codec and store, driven by hand.
local core = require "turboci.core"

local SECOND = 1000000

-- One call that must be answered in its own turn; the other outputs come back as a list.
local function raw(engine, method, bytes)
  local token, others, reply = engine:call(method, bytes), {}, nil
  for _, output in ipairs(engine:take()) do
    if output.type == "reply" and output.token == token then reply = output else others[#others + 1] = output end
  end
  return assert(reply, method .. " got no reply"), others
end

local function call(engine, method, request)
  local reply, others = raw(engine, method, assert(core.encode(core.methods[method].request, request)))
  assert.equal(0, reply.code, reply.message)
  return core.decode(core.methods[method].response, reply.bytes), others
end

local function refused(engine, method, request)
  local reply, others = raw(engine, method, assert(core.encode(core.methods[method].request, request)))
  assert.not_equal(0, reply.code)
  assert.is_nil(reply.bytes)
  assert.same({}, others)
  return core.codes[reply.code], reply.message
end

-- A plan with one check and the stage that finalises it; `runner` is registered for it.
local function start(engine, mode)
  call(engine, "RegisterStageRunner", { runner_id = "r1", runner_type = "build", address = ":50061",
    ttl_seconds = 24 * 3600,
    supported_modes = { mode or "SYNC" }, max_concurrent = 2 })
  local id = call(engine, "CreateWorkPlan", { metadata = { branch = "main" } }).work_plan.id
  local nodes, outputs = call(engine, "WriteNodes", { work_plan_id = id,
    checks = { { id = "passes", state = "PLANNED", kind = "test", options = { strict = true } } },
    stages = { { id = "build", runner_type = "build", execution_mode = mode, args = { n = 3, list = core.list {} },
      assignments = { { target_check_id = "passes", goal_state = "FINAL" } } } },
  })
  return id, outputs, nodes
end

local function stage_of(engine, id)
  return call(engine, "QueryNodes", { work_plan_id = id, include_stages = true }).stages[1]
end

local function response(fields)
  return core.encode("RunResponse", fields or { stage_state = "FINAL",
    check_updates = { { check_id = "passes", state = "FINAL", result_data = { ok = true }, finalize = true } } })
end

describe("a virtual engine", function()
  local engine

  before_each(function() engine = assert(core.virtual()) end)
  after_each(function()
    assert.is_nil(engine:check())
    engine:close()
  end)

  it("takes a plan from its first write to its end", function()
    local id, outputs, nodes = start(engine)
    assert.equal("ATTEMPTING", nodes.stages[1].state)
    assert.equal(1, #outputs)
    local dispatch = outputs[1]
    assert.equal("dispatch", dispatch.type)
    assert.equal("SYNC", dispatch.mode)
    assert.equal("127.0.0.1:50061", dispatch.address)
    assert.equal("/turboci.v1.StageRunner/Run", dispatch.method)
    assert.truthy(dispatch.timeout_us > 0 and dispatch.timeout_us <= 3600 * SECOND)
    local request = assert(core.decode(core.methods[dispatch.method].request, dispatch.bytes))
    assert.equal(dispatch.execution_id, request.execution_id)
    assert.same({ n = 3, list = {} }, request.args)
    assert.same({ { check_id = "passes", kind = "test", options = { strict = true } } }, request.check_options)

    engine:answer(dispatch.execution_id, "SYNC", 0, nil, response())
    assert.same({}, engine:take())
    local stage = stage_of(engine, id)
    assert.same({ "FINAL", "SUCCEEDED", "COMPLETE" }, { stage.state, stage.outcome, stage.attempts[1].state })
    assert.equal("SETTLED", call(engine, "GetWorkPlan", { id = id }).work_plan.state)
  end)

  it("refuses a request that makes no sense, with the path, and a call that makes no sense by raising", function()
    assert.same({ "NOT_FOUND" }, { (refused(engine, "GetWorkPlan", { id = "no such plan" })) })
    local reply = raw(engine, "WriteNodes", "\x0a\x05abc")
    assert.equal("INVALID_ARGUMENT", core.codes[reply.code])
    assert.truthy(reply.message:find "WriteNodesRequest")
    assert.has_error(function() engine:call("WriteNode", "") end,
      "bad argument #1 to 'call' (no method is called 'WriteNode'; did you mean 'WriteNodes'?)")
    assert.has_error(function() engine:call("Run", "") end, "bad argument #1 to 'call' (this is a method of runners)")
    assert.has_error(function() engine:call "WriteNodes" end)
    assert.has_error(function() engine:answer("x", "SINK", 0) end)
    assert.has_error(function() engine:answer("x", "SYNC", 99) end)
    assert.has_error(function() engine:advance(-1) end)
    assert.has_error(function() engine:calls { "WriteNodes" } end)
    assert.has_error(function() engine:calls { { "WriteNodes" } } end)
    engine:answer("no such execution", "SYNC", 0, nil, "")
    engine:answer("no such execution", "ASYNC", 14, "gone")
    engine:unwatch(12345)
    assert.same({}, engine:take())
  end)

  it("runs several requests in one turn with one commit, and answers the refused ones too", function()
    local before = engine:counters()
    local create = core.encode("CreateWorkPlanRequest", {})
    local tokens = engine:calls {
      { "CreateWorkPlan", create }, { "CreateWorkPlan", "\xff" }, { "CreateWorkPlan", create },
    }
    local replies = {}
    for _, output in ipairs(engine:take()) do replies[output.token] = output.code end
    assert.same({ [tokens[1]] = 0, [tokens[2]] = core.codes.INVALID_ARGUMENT, [tokens[3]] = 0 }, replies)
    local after = engine:counters()
    assert.equal(before.turns + 1, after.turns)
    assert.equal(before.commits + 1, after.commits)
    assert.same({}, engine:calls {})
  end)

  it("sends the events of a watch, in order, until it is closed", function()
    local id = call(engine, "CreateWorkPlan", {}).work_plan.id
    local token = engine:call("WatchWorkPlan", core.encode("WatchWorkPlanRequest",
      { work_plan_id = id, include_checks = true }))
    assert.same({}, engine:take())
    local function write(state)
      local _, outputs = call(engine, "WriteNodes", { work_plan_id = id, checks = { { id = "c", state = state } } })
      return outputs
    end
    local last = 0
    for _, step in ipairs { { "PLANNING", "UNKNOWN" }, { "FINAL", "PLANNING" } } do
      local outputs = write(step[1])
      assert.equal("watch", outputs[1].type)
      assert.equal(token, outputs[1].token)
      local event = assert(core.decode("WorkPlanEvent", outputs[1].bytes))
      assert.same({ step[2], step[1] }, { event.check_event.old_state, event.check_event.new_state })
      assert.equal(outputs[1].sequence, event.sequence)
      assert.truthy(event.sequence > last)
      last = event.sequence
    end
    engine:unwatch(token)
    engine:take()
    local _, outputs = call(engine, "WriteNodes", { work_plan_id = id, checks = { { id = "d" } } })
    assert.same({}, outputs)
    local missing = engine:call("WatchWorkPlan", core.encode("WatchWorkPlanRequest", { work_plan_id = "none" }))
    local ended = engine:take()[1]
    assert.same({ missing, core.codes.NOT_FOUND }, { ended.token, ended.code })
  end)

  it("moves its clocks only when told, and runs each timer at its own time", function()
    local mono, wall = engine:now()
    assert.equal(1700000000 * SECOND, wall)
    assert.is_nil(engine:next_due())
    local id, outputs = start(engine)
    local due = assert(engine:next_due())
    assert.truthy(due > 0 and due <= 3600 * SECOND)
    engine:advance(3600 * SECOND - 1)
    assert.equal("ATTEMPTING", stage_of(engine, id).state)
    local mono_later, wall_later = engine:now()
    assert.same({ 3600 * SECOND - 1, 3600 * SECOND - 1 }, { mono_later - mono, wall_later - wall })
    engine:take()
    engine:advance(10 * 3600 * SECOND)
    local execution = call(engine, "GetStageExecution",
      { work_plan_id = id, stage_id = "build", attempt_idx = 1 }).execution
    assert.equal("TIMEOUT", execution.failure.kind)
    assert.equal(1700003600, execution.finished_at)
    assert.truthy(outputs[1].execution_id)
  end)

  it("jumps the wall clock alone", function()
    start(engine)
    local mono, wall = engine:now()
    local due = engine:next_due()
    engine:jump_wall(-5 * SECOND)
    assert.same({ mono, wall - 5 * SECOND }, { engine:now() })
    assert.equal(due, engine:next_due())
  end)

  it("judges nobody before what waited for it is heard", function()
    call(engine, "RegisterStageRunner", { runner_id = "late", runner_type = "build", address = ":50062",
      ttl_seconds = 10 })
    call(engine, "RegisterStageRunner", { runner_id = "gone", runner_type = "build", address = ":50063",
      ttl_seconds = 10 })
    engine:keep_busy(11 * SECOND)
    assert.equal(0, engine:next_due())
    call(engine, "RegisterStageRunner", { runner_id = "late", runner_type = "build", address = ":50062",
      ttl_seconds = 10 })
    engine:settle()
    local runners = call(engine, "ListStageRunners", {}).runners
    assert.equal(1, #runners)
    assert.equal("late", runners[1].runner_id)
    engine:jump_wall(3600 * SECOND) -- a standstill: no lease is shorter for it
    engine:advance(10 * SECOND - 1)
    assert.equal(1, #call(engine, "ListStageRunners", {}).runners)
    engine:advance(1)
    assert.equal(0, #call(engine, "ListStageRunners", {}).runners)
  end)

  it("lets an async call be accepted, reported on and completed", function()
    local id, outputs = start(engine, "ASYNC")
    assert.equal("ASYNC", outputs[1].mode)
    local request = assert(core.decode("RunAsyncRequest", outputs[1].bytes))
    assert.equal("virtual:0", request.callback_address)
    engine:answer(outputs[1].execution_id, "ASYNC", 0, nil, core.encode("RunAsyncResponse", { accepted = true }))
    call(engine, "UpdateStageExecution",
      { execution_id = request.execution_id, message = "half", progress_percent = 50 })
    assert.equal("half", stage_of(engine, id).attempts[1].progress[1].message)
    call(engine, "CompleteStageExecution", { execution_id = request.execution_id, stage_state = "FINAL",
      check_updates = { { check_id = "passes", state = "FINAL", finalize = true } } })
    assert.equal("SUCCEEDED", stage_of(engine, id).outcome)
  end)

  it("tells a failed call from nonsense", function()
    local id, outputs = start(engine)
    engine:answer(outputs[1].execution_id, "SYNC", core.codes.UNKNOWN, "exit code 2")
    local failure = stage_of(engine, id).attempts[1].failure
    assert.same({ "REPORTED", true }, { failure.kind, failure.message:find("exit code 2", 1, true) ~= nil })
    local other = assert(core.virtual())
    id, outputs = start(other)
    other:answer(outputs[1].execution_id, "SYNC", 0, nil, "\xff\xff")
    assert.equal("PROTOCOL", stage_of(other, id).attempts[1].failure.kind)
    other:close()
  end)

  it("cancels the call when the attempt ends without it", function()
    local _, outputs = start(engine)
    engine:advance(3600 * SECOND)
    local cancelled
    for _, output in ipairs(engine:take()) do
      if output.type == "cancel" then cancelled = output.execution_id end
    end
    assert.equal(outputs[1].execution_id, cancelled)
  end)
end)

describe("the same seed", function()
  local function play(seed)
    local engine <close> = assert(core.virtual { seed = seed })
    local all = {}
    local function collect()
      for _, output in ipairs(engine:take()) do all[#all + 1] = output end
    end
    local id, outputs = start(engine)
    all[1] = outputs[1]
    engine:call("GetWorkPlan", core.encode("GetWorkPlanRequest", { id = id }))
    engine:answer(outputs[1].execution_id, "SYNC", core.codes.UNAVAILABLE, "away")
    collect()
    engine:advance(600 * SECOND)
    collect()
    return all
  end

  it("gives the same outputs to the byte, another seed other ones", function()
    local first = play(7)
    assert.truthy(#first > 2)
    assert.same(first, play(7))
    assert.not_same(first, play(8))
  end)
end)

describe("options", function()
  it("are obeyed", function()
    local engine <close> = assert(core.virtual { start = 5.5, callback_address = "10.0.0.1:7",
      limits = { id_bytes_max = 4, execution_timeout_ms = 1000 }, allow = { "10.1.2.3" } })
    assert.equal(5500000, select(2, engine:now()))
    local code, message = refused(engine, "GetWorkPlan", { id = "longer than 4" })
    assert.equal("INVALID_ARGUMENT", code)
    assert.truthy(message:find "id")
    local runner = { runner_id = "r", runner_type = "t", address = "127.0.0.1:1" }
    assert.equal("PERMISSION_DENIED", (refused(engine, "RegisterStageRunner", runner)))
    runner.address = "10.1.2.3:1"
    call(engine, "RegisterStageRunner", runner)
  end)

  it("are refused when they are unknown or of a wrong type, at the caller", function()
    local _, err = pcall(function() core.virtual { sed = 1 } end)
    assert.truthy(err:match "virtual_spec%.lua:%d+: there is no option 'sed'; did you mean 'seed'%?$", err)
    for _, options in ipairs { { seed = "x" }, { seed = 1.5 }, { start = -1 }, { start = 0 / 0 }, { start = "soon" },
      { database = 1 }, { limits = 1 }, { limits = { id_bytes_max = 0 } }, { limits = { id_byte_max = 1 } },
      { limits = { id_bytes_max = "9" } }, { limits = { 1 } }, { allow = "loopback" }, { allow = { 1 } }, { 1 }, 1,
      { policies = 1 }, { policies = { 1 } }, { policy = 1 }, { policy_for = "a" }, { policy_for = { "a" } },
      { policy_for = { build = 1 } }, { shadow = {} } } do
      assert.has_error(function() core.virtual(options) end)
    end
  end)

  it("allow what can be an address of a runner", function()
    local engine, err = core.virtual { allow = { "loopback", "*" } }
    assert.is_nil(engine)
    assert.matches('allow "*" would never match', err, 1, true)
  end)

  it("name policies, which have to be there", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    finally(function() os.execute("rm -r " .. folder) end)
    local file <close> = assert(io.open(folder .. "/first.lua", "w"))
    file:write "return { select = function(ctx) return ctx.runners[1], 'the first' end }\n"
    file:flush()
    local engine <close> = assert(core.virtual { policies = folder, policy = "first", policy_for = { t = "first" } })
    local listed = call(engine, "ListPolicies", {}).policies
    assert.equal(1, #listed)
    assert.same({ "server", "type:t" }, listed[1].attached_to)
    assert.same({ "select" }, listed[1].hooks)
    assert.same({}, call(engine, "ReloadPolicies", {}).changed)
    start(engine)
    assert.equal(1, engine:counters().policy_asks)
    assert.equal(0, engine:counters().policy_faults)
    for options, expected in pairs {
      [{ policies = folder .. "/none" }] = folder .. "/none': No such file or directory",
      [{ policies = { folder }, policy = "fist" }] = "policy 'fist' %(the server's default%).*known are: first",
      [{ policies = { folder }, policy_for = { t = "fist" } }] = "policy 'fist' %(for runner type 't'%)",
      [{ policy = "first" }] = "no policies folder",
      [{ shadow = folder .. "/none.lua" }] = "shadow",
    } do
      local none, err = core.virtual(options)
      assert.is_nil(none)
      assert.truthy(err:find(expected), err)
    end
  end)
end)

describe("a database", function()
  local path
  before_each(function()
    path = os.tmpname()
    os.remove(path)
  end)
  after_each(function() os.execute("rm -f " .. path .. "*") end)

  it("brings everything back after a restart", function()
    local engine <close> = assert(core.virtual { database = path })
    local id, outputs = start(engine)
    assert.equal(1, #outputs)
    assert.is_true(engine:restart())
    assert.is_nil(engine:check())
    engine:settle()
    engine:take()
    local stage = stage_of(engine, id)
    assert.equal("ENGINE_RESTART", stage.attempts[1].failure.kind)
    assert.equal("main", call(engine, "GetWorkPlan", { id = id }).work_plan.metadata.branch)
  end)

  it("that another engine holds is refused", function()
    local engine <close> = assert(core.virtual { database = path })
    local second, err = core.virtual { database = path }
    assert.is_nil(second)
    assert.truthy(err:find(path, 1, true), err)
    assert.is_nil(engine:check())
  end)

  it("in memory does not survive a restart, so there is none", function()
    local engine <close> = assert(core.virtual())
    local ok, err = engine:restart()
    assert.is_nil(ok)
    assert.truthy(err:find ":memory:")
    assert.is_nil(engine:check())
  end)
end)

describe("a closed engine", function()
  it("refuses everything, and may be closed again", function()
    local engine = assert(core.virtual())
    engine:close()
    engine:close()
    for _, name in ipairs { "take", "now", "settle", "next_due", "restart", "counters", "check" } do
      assert.has_error(function() engine[name](engine) end, "this engine is closed")
    end
    assert.has_error(function() engine:call("CreateWorkPlan", "") end, "this engine is closed")
  end)

  it("is what a forgotten one becomes", function()
    for _ = 1, 20 do assert(core.virtual()) end
    collectgarbage()
  end)
end)
