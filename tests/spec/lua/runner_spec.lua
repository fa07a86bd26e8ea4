-- turboci.runner against the real engine in this process, and against a server that misbehaves.

local client = require "turboci.client"
local core = require "turboci.core"
local loop = require "turboci.loop"
local runner = require "turboci.runner"
local turboci = require "turboci"

local open = {}

after_each(function()
  for i = #open, 1, -1 do
    open[i]()
  end
  open = {}
end)

local function server(limits)
  local box = assert(core.server { listen = "127.0.0.1:0", log = "error", limits = limits })
  table.insert(open, function() box:stop() end)
  return client.connect(box:address())
end

local function start(options)
  local made = assert(runner.start(options))
  table.insert(open, function() made:stop { cancel = true } end)
  return made
end

-- Submits a plan of one stage "work" that finalizes "done", waits until it has settled, returns stage and check.
local function one_stage(c, options)
  local plan = turboci.plan { name = "one" }
  local done = plan:check("done", { kind = "k", options = { o = 1 } })
  options.runner, options.finalizes = "t", done
  plan:stage("work", options)
  local work_plan = assert(c:submit(plan))
  local stream = c:watch { work_plan_id = work_plan.id, after_sequence = 1 }
  local event = assert(stream:next())
  assert(event.completed_event)
  stream:close()
  local nodes = assert(c:query_nodes { work_plan_id = work_plan.id, include_checks = true, include_stages = true })
  return nodes.stages[1], nodes.checks[1]
end

local function call_runner(made, method, request, timeout)
  local bytes = assert(core.encode(core.methods[method].request, request))
  local done = loop.await(function(resume)
    loop.on_done(core.call(made.address, method, bytes, timeout or 10), nil, resume)
  end)
  return core.codes[done.code], done.message, done.code == 0 and core.decode(core.methods[method].response, done.bytes)
end

for _, mode in ipairs { "sync", "async" } do
  describe("a runner in the mode " .. mode, function()
    it("gives the run function args, checks, attempt and deadline, and finalizes the checks", function()
      local c = server()
      local seen
      start { client = c, type = "t", run = function(ctx)
        seen = ctx
        return { data = { answer = 42 }, details = { note = "n" } }
      end }
      local stage, check = one_stage(c, { mode = mode, args = { x = "y" }, timeout = "1m" })
      assert.same({ "work", 1, mode:upper(), "y" }, { seen.stage_id, seen.attempt, seen.mode, seen.args.x })
      assert.same({ { id = "done", kind = "k", options = { o = 1 } } }, seen.checks)
      assert.is_number(seen.deadline)
      assert.equal("SUCCEEDED", stage.outcome)
      assert.equal("n", stage.attempts[1].details.note)
      assert.same({ "SUCCEEDED", 42 }, { check.outcome, check.results[1].data.answer })
    end)

    it("turns a failure into a failed attempt and a failed check", function()
      local c = server()
      start { client = c, type = "t", run = function() return nil, "it broke" end }
      local stage, check = one_stage(c, { mode = mode })
      assert.same({ "FAILED", "NO_RETRIES_LEFT" }, { stage.outcome, stage.reason })
      assert.same({ "REPORTED", "it broke" }, { stage.attempts[1].failure.kind, stage.attempts[1].failure.message })
      assert.equal("FAILED", check.outcome)
      assert.equal("it broke", check.results[1].failure.message)
    end)

    it("survives an error in the run function, and reports it with its line", function()
      local c = server()
      local made = start { client = c, type = "t", run = function() error("oops") end }
      local stage = one_stage(c, { mode = mode })
      assert.matches("runner_spec.lua:%d+: oops", stage.attempts[1].failure.message)
      assert.equal(0, made.running)
    end)

    it("sends progress in order", function()
      local c = server()
      start { client = c, type = "t", run = function(ctx)
        for i = 1, 5 do
          ctx:progress("step " .. i, { percent = i * 20 })
        end
      end }
      local messages = {}
      for _, entry in ipairs(one_stage(c, { mode = mode }).attempts[1].progress) do
        messages[#messages + 1] = entry.message
      end
      assert.same({ "step 1", "step 2", "step 3", "step 4", "step 5" }, messages)
    end)

    it("sends all of a burst of progress that the engine would keep", function()
      local c = server()
      start { client = c, type = "t", run = function(ctx)
        for i = 1, 100 do
          ctx:progress("step " .. i)
        end
      end }
      local progress = one_stage(c, { mode = mode }).attempts[1].progress
      assert.same({ 100, "step 1", "step 100" }, { #progress, progress[1].message, progress[100].message })
    end)

    it("says that an error was no message when it was none", function()
      local c = server()
      start { client = c, type = "t", run = function() error({}) end }
      local stage = one_stage(c, { mode = mode })
      assert.equal("the run function raised a table value, not a message", stage.attempts[1].failure.message)
    end)

    it("cancels an execution at its deadline", function()
      local c = server()
      local reason
      start { client = c, type = "t", run = function(ctx)
        reason = loop.await(function(resume) ctx:on_cancel(resume) end)
        assert.is_true(ctx.cancelled)
      end }
      local stage = one_stage(c, { mode = mode, timeout = "150ms", retry = { max_attempts = 1 } })
      assert.equal("TIMEOUT", stage.attempts[1].failure.kind)
      if not reason then loop.await(function(resume) loop.timer(1, resume) end) end
      assert.is_truthy(reason == "deadline" or reason == "cancelled" or reason == "superseded", tostring(reason))
    end)

    it("reports a result that cannot be sent as a failure", function()
      local c = server()
      start { client = c, type = "t", run = function() return { data = { f = print } } end }
      local stage = one_stage(c, { mode = mode })
      assert.equal("FAILED", stage.outcome)
    end)
  end)
end

describe("a result", function()
  local result = require "turboci.runner.result"
  local ctx = { checks = { { id = "a" }, { id = "b" } } }

  it("may fail one check without failing the attempt", function()
    local completion = result.completion(ctx, { checks = { a = { failure = "bad" } } })
    assert.is_nil(completion.failure)
    assert.equal("bad", completion.check_updates[1].failure.message)
    assert.is_nil(completion.check_updates[2].failure)
    assert.is_true(completion.check_updates[2].finalize)
  end)

  it("may leave a check open", function()
    local completion = result.completion(ctx, { checks = { a = { data = { x = 1 }, finalize = false } } })
    assert.is_false(completion.check_updates[1].finalize)
    assert.is_nil(completion.check_updates[1].state)
  end)

  local wrong = {
    { "a string", "done", "returned a string" },
    { "an unknown key", { datas = {} }, "did you mean 'data'" },
    { "a check that is not its own", { checks = { c = {} } }, "check 'c'" },
    { "an unknown key in a check", { checks = { a = { dta = {} } } }, "did you mean 'data'" },
  }
  for _, case in ipairs(wrong) do
    it("of " .. case[1] .. " is a failure that says so", function()
      assert.matches(case[3], result.completion(ctx, case[2]).failure.message, 1, true)
    end)
  end
end)

describe("a runner's host", function()
  local function waiting(options)
    local c = server()
    local release
    local made = start {
      client = c, type = "t", max_concurrent = options.max_concurrent, modes = options.modes,
      run = function() loop.await(function(resume) release = resume end) end,
    }
    return made, function() release() end
  end

  it("refuses work beyond max_concurrent, and takes it again when a slot is free", function()
    local made, release = waiting { max_concurrent = 1 }
    loop.run(function()
      local first = loop.spawn(function() return call_runner(made, "Run", { execution_id = "e1", stage_id = "s" }) end)
      loop.wait_until(function() return made.running > 0 end)
      assert.equal("RESOURCE_EXHAUSTED", call_runner(made, "Run", { execution_id = "e2" }))
      local _, _, answer = call_runner(made, "RunAsync", { execution_id = "e3" })
      assert.is_false(answer.accepted)
      local _, _, pong = call_runner(made, "Ping", {})
      assert.same({ "t", 0 }, { pong.runner_type, pong.available_capacity })
      release()
      assert.equal("OK", (first:wait()))
      assert.equal(0, made.running)
    end)
  end)

  -- A runner with one slot: execution e1 was cancelled and has not ended yet, the call for e2 waits for its slot.
  local function one_leaves()
    local release = {}
    local made = start { client = server(), type = "t", max_concurrent = 1, run = function(ctx)
      loop.await(function(resume) release[ctx.execution_id] = resume end)
    end }
    local function call(id)
      local over = {}
      over.handle = core.call(made.address, core.methods.Run.path,
        assert(core.encode(core.methods.Run.request, { execution_id = id })), 10)
      loop.on_done(over.handle, nil, function(event) over.code = core.codes[event.code] end)
      return over
    end
    local first = call "e1"
    loop.wait_until(function() return release.e1 end)
    core.cancel(first.handle)
    loop.wait_until(function() return made.executions.e1.context.cancelled end)
    local second = call "e2"
    loop.wait_until(function() return next(made.waiting) end)
    return made, release, second
  end

  it("waits for the slot of an execution that nobody waits for any more", function()
    loop.run(function()
      local made, release, second = one_leaves()
      assert.equal(1, made.running)
      release.e1()
      loop.wait_until(function() return release.e2 end)
      assert.equal(1, made.running)
      release.e2()
      loop.wait_until(function() return second.code end)
      assert.equal("OK", second.code)
    end)
  end)

  it("forgets a call that waited for a slot when its caller goes too", function()
    loop.run(function()
      local made, release, second = one_leaves()
      core.cancel(second.handle)
      loop.wait_until(function() return not next(made.waiting) end)
      release.e1()
      loop.wait_until(function() return made.running == 0 end)
      assert.equal("OK", (call_runner(made, "Ping", {})))
      assert.is_nil(release.e2)
    end)
  end)

  it("accepts a repeated RunAsync and runs it once", function()
    local made, release = waiting {}
    for _ = 1, 2 do
      local code, text, answer = call_runner(made, "RunAsync",
        { execution_id = "e1", stage_id = "s", attempt_idx = 1 })
      assert.equal("OK", code, text)
      assert.is_true(answer.accepted)
    end
    assert.equal(1, made.running)
    release()
  end)

  it("cancels the execution when the caller is gone", function()
    local c = server()
    local reason
    local made = start { client = c, type = "t", run = function(ctx)
      reason = loop.await(function(resume) ctx:on_cancel(resume) end)
    end }
    assert.equal("DEADLINE_EXCEEDED", call_runner(made, "Run", { execution_id = "e1" }, 0.1))
    loop.run(function()
      loop.wait_until(function() return made.running == 0 end)
    end)
    assert.is_truthy(reason == "cancelled" or reason == "deadline")
  end)

  it("refuses a mode it does not have, an empty execution id, bytes that are no message and unknown methods", function()
    local made = waiting { modes = { "SYNC" } }
    assert.equal("UNIMPLEMENTED", call_runner(made, "RunAsync", { execution_id = "e" }))
    local code, message = call_runner(made, "Run", {})
    assert.same({ "INVALID_ARGUMENT", "execution_id: required" }, { code, message })
    assert.equal("UNIMPLEMENTED", call_runner(made, "GetServerInfo", {}))
    local done = loop.await(function(resume)
      loop.on_done(core.call(made.address, "Run", "\255\255\255", 10), nil, resume)
    end)
    assert.equal("INVALID_ARGUMENT", core.codes[done.code])
  end)
end)

describe("a runner's registration", function()
  it("ends with stop(), which waits for what runs", function()
    local c = server()
    local finished, release = false, nil
    local made = start { client = c, type = "t", run = function()
      loop.await(function(resume) release = resume end)
      finished = true
    end }
    assert.equal(made.id, assert(c:list_stage_runners {}).runners[1].runner_id)
    loop.run(function()
      local call = loop.spawn(function() return call_runner(made, "Run", { execution_id = "e1" }) end)
      loop.wait_until(function() return release ~= nil end)
      local stop = loop.spawn(function() made:stop() end)
      while #assert(c:list_stage_runners {}).runners > 0 do end -- each look is a round trip
      assert.is_false(finished)
      release()
      stop:wait()
      assert.is_true(finished)
      assert.equal("OK", (call:wait()))
    end)
    assert.same({}, assert(c:list_stage_runners {}).runners)
  end)

  it("ends with stop { cancel = true } though a run function never returns", function()
    local entered = loop.queue()
    local stubborn = start { client = server(), type = "t", leave = 0.05, run = function()
      entered:push(true)
      loop.queue():pop()
    end }
    loop.run(function()
      local call = loop.spawn(function() return call_runner(stubborn, "Run", { execution_id = "e1" }) end)
      entered:pop()
      stubborn:stop { cancel = true }
      assert.equal("UNAVAILABLE", (call:wait()))
    end)
  end)

  it("is kept by heartbeats at a third of the ttl", function()
    local calls = {}
    local c = server()
    local counting = client.new { call = function(_, name, request, timeout)
      calls[name] = (calls[name] or 0) + 1
      return c.transport:call(name, request, timeout)
    end }
    start { client = counting, type = "t", ttl = 0.09, run = function() end }
    loop.run(function()
      loop.wait_until(function() return calls.RegisterStageRunner >= 3 end)
    end)
  end)

  it("is tried again each second while the server is away", function()
    local away, notices = false, {}
    local c = server()
    local flaky = client.new { call = function(_, name, request, timeout)
      if away then return nil, client.error("UNAVAILABLE", "away") end
      return c.transport:call(name, request, timeout)
    end }
    start { client = flaky, type = "t", ttl = 0.03, run = function() end, on_notice = function(text)
      notices[#notices + 1] = text
      away = false
    end }
    away = true
    loop.run(function()
      loop.wait_until(function() return #notices >= 2 end)
    end)
    assert.matches("cannot register", notices[1])
    assert.equal("registered again", notices[2])
  end)

  it("fails at once when the server refuses", function()
    local made, err = runner.start { client = server(), type = ("x"):rep(300), run = function() end }
    assert.is_nil(made)
    assert.equal("INVALID_ARGUMENT", err.code)
  end)

  it("fails when there is no server and no patience", function()
    local made, err = runner.start { client = client.connect("127.0.0.1:1"), type = "t", run = function() end }
    assert.is_nil(made)
    assert.equal("UNAVAILABLE", err.code)
  end)

  it("fails when the address cannot be listened on", function()
    local made, err = runner.start { client = server(), type = "t", listen = "nonsense", run = function() end }
    assert.is_nil(made)
    assert.is_string(err)
  end)

  it("rejects unknown options with the nearest name", function()
    local ok, err = pcall(runner.start, { client = {}, type = "t", run = print, max_concurent = 1 })
    assert.is_false(ok)
    assert.matches("did you mean 'max_concurrent'", err)
  end)
end)

describe("an async completion", function()
  -- A server whose CompleteStageExecution answers with these codes, one after the other.
  local function moody(codes)
    local host = assert(core.host("127.0.0.1:0"))
    local seen = { n = 0 }
    loop.on_call(host, function(event)
      local method = core.methods[event.method]
      local code = "OK"
      if method.name == "CompleteStageExecution" then
        seen.n = seen.n + 1
        seen[seen.n] = core.decode(method.request, event.bytes)
        code = codes[seen.n]
      end
      host:reply(event.call, core.codes[code], code ~= "OK" and "moody" or nil, core.encode(method.response, {}))
      if seen.n == #codes and seen.done then seen.done() end
    end)
    table.insert(open, function()
      loop.on_call(host, nil)
      host:close(0)
    end)
    return client.connect(host:address()), host:address(), seen
  end

  local function run_once(codes, run)
    local c, address, seen = moody(codes)
    local made = start { client = c, type = "t", run = run or function() end }
    loop.await(function(resume)
      seen.done = resume
      call_runner(made, "RunAsync",
        { execution_id = "e1", stage_id = "s", attempt_idx = 1, callback_address = address })
    end)
    loop.run(function()
      loop.wait_until(function() return made.running == 0 end)
    end)
    return seen
  end

  it("is sent again, the same, until it is acknowledged", function()
    local seen = run_once { "UNAVAILABLE", "UNAVAILABLE", "OK" }
    assert.equal(3, seen.n)
    assert.same(seen[1], seen[3])
    assert.same({ "e1", "FINAL" }, { seen[3].execution_id, seen[3].stage_state })
  end)

  it("ends when the server refuses it", function()
    assert.equal(1, run_once({ "FAILED_PRECONDITION" }).n)
  end)

  it("becomes a plain failure when the server finds the result invalid", function()
    local seen = run_once({ "INVALID_ARGUMENT", "OK" }, function() return { details = { big = "x" } } end)
    assert.equal(2, seen.n)
    assert.matches("refused the result", seen[2].failure.message)
    assert.is_nil(seen[2].details)
  end)
end)

describe("Lua bodies", function()
  it("run in this process, with the results of what came before", function()
    local c = server()
    local plan = turboci.plan { name = "bodies" }
    local first, second = plan:check("first"), plan:check("second")
    plan:stage("a", { finalizes = first, run = function() return { coverage = 0.9 } end })
    plan:stage("b", { after = "a", finalizes = second, run = function(ctx)
      return { ok = ctx.results.first.ok, coverage = ctx.results.first.data.coverage }
    end })
    local lua = require "turboci.runner.lua"
    local made = assert(lua.start(c, plan))
    table.insert(open, function() made:stop { cancel = true } end)
    local work_plan = assert(c:submit(plan, { body_type = made.type }))
    local stream = c:watch { work_plan_id = work_plan.id, after_sequence = 1 }
    assert(assert(stream:next()).completed_event)
    stream:close()
    local check = assert(c:query_nodes { work_plan_id = work_plan.id, check_ids = { "second" }, include_checks = true })
      .checks[1]
    assert.same({ "SUCCEEDED", true, 0.9 },
      { check.outcome, check.results[1].data.ok, check.results[1].data.coverage })
  end)
end)
