-- Category 7 of the testing plan: what goes wrong, and what comes after it. Both worlds.

local evidence = require "evidence"
local testing = require "turboci.testing"
local turboci = require "turboci"

local CLIENTS = 64

describe("errors:", function()
  local env, workflow

  -- Short backoffs, for retries that need not be waited for; and who has refused work gets none again in a spec's life.
  before_each(function()
    env = testing.env { limits = { backoff_ms = 10, backoff_ms_max = 40, pass_over_ms = 600000 } }
    workflow = turboci.plan { name = "errors" }
  end)
  after_each(function() env:stop() end)

  -- Waits until the runner has its nth request; an async one: until the engine knows that it was accepted.
  local function wait_for_work(plan, runner, n)
    env:wait(function() return runner.received[n] end)
    local request = runner.received[n]
    if request.mode == "ASYNC" then
      env:wait(function()
        return env:execution(plan, request.stage_id, request.attempt_idx).runner_execution_id ~= ""
      end)
    end
    return request
  end

  local function wait_for_attempt(plan, id, index)
    env:wait(function() return env:stage(plan, id).attempts[index] end)
  end

  -- Whatever is said about this execution is refused.
  local function assert_refused(runner, request)
    for _, words in ipairs { env.success(request, { late = true }), env.failure "late" } do
      local _, err = runner:complete(request, words)
      assert.equal("FAILED_PRECONDITION", err and err.code)
    end
    local _, err = runner:progress(request, "late")
    assert.equal("FAILED_PRECONDITION", err and err.code)
  end

  -- A callback that comes when the plan has settled is refused, and changes nothing.
  local function assert_too_late(plan, runner, request)
    local before = evidence.snapshot(plan)
    assert_refused(runner, request)
    assert.same(before, evidence.snapshot(plan))
  end

  it("work on a runner that disconnects is done by another #TestRunnerDisconnect", function()
    local gone = env:mock_runner { id = "gone", type = "test" }
    gone:hold()
    workflow:check("builds")
    workflow:stage("s", { runner = "test", finalizes = "builds" })
    local plan = env:submit(workflow)
    wait_for_work(plan, gone, 1)
    assert.execution(plan, "s").is_recorded { state = "RUNNING", runner = "gone" }
    assert.runner_load(gone, 1)
    local other = env:mock_runner { id = "other", type = "test", hold = true }

    gone:disconnect()
    wait_for_work(plan, other, 1)
    evidence.failed_attempt(plan, "s", 1, { kind = "UNREACHABLE", runner = gone })
    assert.check(plan, "builds").has_state "WAITING"
    assert.runner_load(gone, 0)
    assert.runner_load(other, 1)
    assert.equal(2, other.received[1].attempt_idx)
    assert.is_true(other.received[1].execution_id ~= gone.received[1].execution_id)
    local retried = env:execution(plan, "s", 2)
    assert.is_true(retried.not_before >= retried.created_at)

    local before = evidence.snapshot(plan)
    gone:release() -- its answer comes too late, and by a connection that is no more
    assert.same(before, evidence.snapshot(plan))
    other:release()
    env:wait(plan)
    evidence.ran(plan, "s", { runner = other, attempts = 2 })
    evidence.met(plan, "builds")
    evidence.settled(plan, { runners = { gone, other } })
  end)

  it("async work on a runner that is heard of no more is lost with its registration", function()
    local gone = env:mock_runner { id = "gone", type = "test", auto_complete = false }
    workflow:check("builds")
    workflow:stage("s", { runner = "test", mode = "async", finalizes = "builds" })
    local plan = env:submit(workflow)
    local request = wait_for_work(plan, gone, 1)
    assert(gone:progress(request, "begun"))
    assert.runner_load(gone, 1)
    local other = env:mock_runner { id = "other", type = "test" }
    gone:register { ttl_seconds = 1 } -- its last sign of life
    gone:disconnect()
    env:wait(plan)

    evidence.failed_attempt(plan, "s", 1, { kind = "RUNNER_LOST", runner = gone, mode = "ASYNC" })
    assert.is_nil(gone:info())
    evidence.ran(plan, "s", { runner = other, mode = "ASYNC", attempts = 2 })
    evidence.met(plan, "builds")
    assert_too_late(plan, gone, request)
    gone:register() -- back again, with nothing to do
    evidence.settled(plan, { runners = { gone, other } })
  end)

  it("a call to a runner that is heard of no more is given up with its registration", function()
    local frozen = env:mock_runner { id = "frozen", type = "test", hold = true }
    workflow:check("builds")
    workflow:stage("s", { runner = "test", finalizes = "builds" })
    local plan = env:submit(workflow)
    wait_for_work(plan, frozen, 1)
    local other = env:mock_runner { id = "other", type = "test" }
    frozen:register { ttl_seconds = 1 } -- its last sign of life; the connection stays open
    env:wait(plan)

    evidence.failed_attempt(plan, "s", 1, { kind = "RUNNER_LOST", runner = frozen })
    assert.is_nil(frozen:info())
    env:wait(function() return frozen.received[1].cancelled end)
    local before = evidence.snapshot(plan)
    frozen:release() -- too late
    env:settle()
    assert.same(before, evidence.snapshot(plan))
    evidence.ran(plan, "s", { runner = other, attempts = 2 })
    evidence.met(plan, "builds")
    frozen:register() -- back again, with nothing to do
    evidence.settled(plan, { runners = { frozen, other } })
  end)

  it("an execution without a word of progress is stale, and tried elsewhere #TestStaleExecution", function()
    local silent = env:mock_runner { id = "silent", type = "test", auto_complete = false }
    workflow:check("builds")
    workflow:stage("s", { runner = "test", mode = "async", stale = "500ms", timeout = "1h", finalizes = "builds" })
    local plan = env:submit(workflow)
    local request = wait_for_work(plan, silent, 1)
    assert(silent:progress(request, "begun"))
    assert.execution(plan, "s").is_recorded { state = "RUNNING", runner = "silent", progress = { "begun" } }
    assert.runner_load(silent, 1)
    local other = env:mock_runner { id = "other", type = "test" }
    env:wait(plan)

    evidence.failed_attempt(plan, "s", 1, { kind = "STALE", runner = silent, mode = "ASYNC" })
    local stale = env:execution(plan, "s", 1)
    local heard = stale.progress[1].timestamp
    assert.is_true(stale.finished_at - heard >= 0.495, "given up too early")
    assert.is_true(stale.finished_at < stale.deadline)
    assert.runner_load(silent, 0)
    evidence.ran(plan, "s", { runner = other, mode = "ASYNC", attempts = 2 })
    assert.same({ "s" }, silent:received_stages())
    evidence.met(plan, "builds")
    assert_too_late(plan, silent, request)
    evidence.settled(plan, { runners = { silent, other } })
  end)

  it("a stale execution that nobody takes over fails its stage and its check", function()
    local silent = env:mock_runner { id = "silent", type = "test", auto_complete = false }
    workflow:check("builds")
    workflow:stage("s", {
      runner = "test", mode = "async", stale = "100ms", retry = { max_attempts = 1 }, finalizes = "builds",
    })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.stage(plan, "s").is_final { outcome = "FAILED", reason = "NO_RETRIES_LEFT", failure_kind = "STALE" }
    assert.transitions(plan, "stage", "s", evidence.STAGE)
    assert.check(plan, "builds").is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "no retries left" }
    assert_too_late(plan, silent, silent.received[1])
    evidence.settled(plan, { outcome = "FAILED", runners = { silent } })
  end)

  it("a failed execution is tried again while its budget lasts #TestExecutionRetry", function()
    local runner = env:mock_runner { id = "r", type = "sync" }
    local async = env:mock_runner { id = "a", type = "async", auto_complete = false }
    -- What the stages of `runner` answer, by attempt; where the list ends, success.
    local nonsense = { stage_state = "ATTEMPTING" } -- ends no stage: PROTOCOL
    local answers = {
      default = { nonsense, nonsense },
      ["default-spent"] = { nonsense, nonsense, nonsense, nonsense },
      reported = { env.failure "no" },
    }
    function runner.on_run(request) return answers[request.stage_id][request.attempt_idx] end
    for _, id in ipairs { "own", "own-spent" } do
      workflow:check("check-of-" .. id)
      workflow:stage(id, {
        runner = "async", mode = "async", finalizes = "check-of-" .. id,
        retry = { max_attempts = 3, backoff = "10ms", backoff_max = "20ms" },
      })
    end
    for id in pairs(answers) do workflow:stage(id, { runner = "sync" }) end
    local plan = env:submit(workflow)

    -- The two with a retry of their own: completed with a failure and check updates, again and again.
    for round = 1, 3 do
      for _ = 1, 2 do
        local request
        env:wait(function()
          for _, pending in pairs(async.pending) do
            if pending.attempt_idx == round then request = pending end
          end
          return request
        end)
        local id, good = request.stage_id, request.stage_id == "own" and round == 3
        local words = env.success(request, { attempt = round })
        if not good then words.failure = { message = "flaky " .. round } end
        assert(async:complete(request, words))
        if round < 3 then
          wait_for_attempt(plan, id, round + 1)
          assert.stage(plan, id).has_state "ATTEMPTING"
          -- Retried: what it had to say of the check is kept, and not applied.
          assert.check(plan, "check-of-" .. id).has_state "WAITING"
          assert.same({}, env:check(plan, "check-of-" .. id).results)
          local kept = env:stage(plan, id).attempts[round].details["turboci.check_updates_not_applied"]
          assert.same({ attempt = round }, kept[1].data)
          local superseded = env:execution(plan, id, round)
          assert_refused(async, request)
          assert.same(superseded, env:execution(plan, id, round))
        end
      end
    end
    env:wait(plan)

    evidence.ran(plan, "own", { runner = async, mode = "ASYNC", attempts = 3 })
    evidence.met(plan, "check-of-own", { attempt = 3 })
    assert.stage(plan, "own-spent").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 3, failure = "flaky 3", failure_kind = "REPORTED",
    }
    -- Given up: now its last words count.
    assert.check(plan, "check-of-own-spent").is_final { results = 1, data = { attempt = 3 } }
    for index = 1, 3 do
      for _, id in ipairs { "own", "own-spent" } do
        if id ~= "own" or index < 3 then
          evidence.failed_attempt(plan, id, index, {
            kind = "REPORTED", runner = async, mode = "ASYNC", message = "flaky " .. index,
          })
        end
      end
    end

    evidence.ran(plan, "default", { runner = runner, attempts = 3 })
    for index = 1, 2 do evidence.failed_attempt(plan, "default", index, { kind = "PROTOCOL", runner = runner }) end
    assert.stage(plan, "default-spent").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 3, failure_kind = "PROTOCOL",
    }
    assert.stage(plan, "reported").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 1, failure = "no", failure_kind = "REPORTED",
    }

    local ids = {} -- every attempt is an execution of its own, no earlier than its backoff
    for _, execution in ipairs(env:executions(plan)) do
      if execution.attempt_idx > 1 then assert.is_true(execution.not_before >= execution.created_at) end
    end
    for _, received in ipairs { runner.received, async.received } do
      for _, request in ipairs(received) do
        assert.is_nil(ids[request.execution_id])
        ids[request.execution_id] = true
      end
    end
    assert.equal(7, #runner.received)
    assert.equal(6, #async.received)
    evidence.settled(plan, { outcome = "FAILED", runners = { runner, async } })
  end)

  it("some stages fail, and those that do not need them complete #TestPartialWorkflowFailure", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    function runner.on_run(request)
      if request.stage_id == "build-ui" then return env.failure "syntax error" end
      if request.stage_id == "test-docs" then
        local response = env.success(request)
        response.check_updates[1].failure = { message = "dead link" }
        return response
      end
    end
    for _, part in ipairs { "api", "ui", "docs" } do
      workflow:check(part)
      workflow:stage("build-" .. part, { runner = "test" })
      workflow:stage("test-" .. part, { runner = "test", after = "build-" .. part, finalizes = part })
    end
    workflow:check("packaged")
    workflow:stage("package", { runner = "test", after = { "test-api", "test-ui" }, finalizes = "packaged" })
    workflow:stage("publish", { runner = "test", after = "packaged" })
    workflow:stage("report", { runner = "test", after = { "test-api", "test-ui", "test-docs", when = "final" } })
    local plan = env:submit(workflow)
    env:wait(plan)

    for _, id in ipairs { "build-api", "test-api", "build-docs", "report" } do
      evidence.ran(plan, id, { runner = runner })
    end
    evidence.met(plan, "api")
    evidence.failed_attempt(plan, "build-ui", 1, { kind = "REPORTED", runner = runner, message = "syntax error" })
    assert.stage(plan, "build-ui").is_final { outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 1 }
    assert.stage(plan, "test-docs").is_final { outcome = "FAILED", reason = "CHECK_FAILED", attempts = 1 }
    assert.execution(plan, "test-docs").is_recorded { state = "COMPLETE", runner = "r" }
    for _, id in ipairs { "test-ui", "package", "publish" } do evidence.skipped(plan, id) end
    assert.check(plan, "docs").is_final { outcome = "FAILED", reason = "RESULT_FAILED", failure = "dead link" }
    for _, id in ipairs { "ui", "packaged" } do
      assert.check(plan, id).is_final { outcome = "FAILED", reason = "NO_RESULT", failure = "skipped" }
    end
    assert.in_order(plan, { "build-api", "test-api", "report" })
    assert.in_order(plan, { "build-docs", "test-docs", "report" })
    local received = runner:received_stages()
    table.sort(received)
    assert.same({ "build-api", "build-docs", "build-ui", "report", "test-api", "test-docs" }, received)
    evidence.settled(plan, { outcome = "FAILED", runners = { runner } })
  end)

  it("a callback for an execution that is not there is rejected #TestInvalidCallback", function()
    local runner = env:mock_runner { id = "a", type = "test", auto_complete = false }
    workflow:check("builds")
    workflow:check("other")
    workflow:stage("s", { runner = "test", mode = "async", finalizes = "builds" })
    workflow:stage("sync", { runner = "sync", finalizes = "other" })
    local sync = env:mock_runner { id = "sync", type = "sync" }
    sync:hold()
    local plan = env:submit(workflow)
    local request = wait_for_work(plan, runner, 1)
    wait_for_work(plan, sync, 1)
    local before, id = evidence.snapshot(plan), request.execution_id

    -- Unknown: nonsense, another plan, another attempt, another secret. Empty: not given.
    local last = id:sub(-1)
    local guess = id:sub(1, -2) .. (last == "0" and "1" or "0")
    local next_attempt = id:gsub(":1:", ":2:")
    for _, row in ipairs {
      { "nonsense", "NOT_FOUND" },
      { "elsewhere" .. id, "NOT_FOUND" },
      { next_attempt, "NOT_FOUND" },
      { guess, "NOT_FOUND" },
      { "", "INVALID_ARGUMENT" },
    } do
      local words = env.success(request)
      words.execution_id = row[1]
      local _, err = env.client:complete_stage_execution(words)
      assert.equal(row[2], err and err.code, row[1])
      assert.is_truthy(err.message:find("execution_id", 1, true), err.message)
      _, err = env.client:update_stage_execution { execution_id = row[1], message = "hello" }
      assert.equal(row[2], err and err.code, row[1])
      _, err = env.client:get_stage_execution { execution_id = row[1] }
      assert.equal(row[2], err and err.code, row[1])
    end
    -- Known, but the words are wrong.
    for _, row in ipairs {
      { request, { stage_state = "FINAL", check_updates = { { check_id = "other", finalize = true } } },
        "INVALID_ARGUMENT", "other" },
      { request, { stage_state = "FINAL", check_updates = { { check_id = "nowhere", finalize = true } } },
        "INVALID_ARGUMENT", "nowhere" },
      { request, { stage_state = "ATTEMPTING" }, "INVALID_ARGUMENT", "stage_state" },
      { sync.received[1], { stage_state = "FINAL" }, "FAILED_PRECONDITION", "SYNC" },
    } do
      local words = { execution_id = row[1].execution_id }
      for key, value in pairs(row[2]) do words[key] = value end
      local _, err = env.client:complete_stage_execution(words)
      assert.equal(row[3], err and err.code)
      assert.is_truthy(err.message:find(row[4], 1, true), err.message)
    end

    assert.same(before, evidence.snapshot(plan))
    assert.runner_load(runner, 1)
    assert(runner:complete(request, env.success(request)))
    sync:release()
    env:wait(plan)
    evidence.ran(plan, "s", { runner = runner, mode = "ASYNC" })
    evidence.ran(plan, "sync", { runner = sync })
    for _, check in ipairs { "builds", "other" } do evidence.met(plan, check) end
    evidence.settled(plan, { runners = { runner, sync } })
  end)

  it("a second completion changes nothing, and is refused if it says otherwise #TestDuplicateCompletion", function()
    local runner = env:mock_runner { id = "a", type = "test", auto_complete = false }
    local downstream = env:mock_runner { id = "d", type = "downstream" }
    workflow:check("builds")
    workflow:stage("s", { runner = "test", mode = "async", finalizes = "builds" })
    workflow:stage("next", { runner = "downstream", after = "builds" })
    local plan = env:submit(workflow)
    local request = wait_for_work(plan, runner, 1)
    local function words()
      local fields = env.success(request, { a = 1, b = { "x", "y" }, c = { d = true, e = false } })
      fields.details = { host = "h1", tries = 1 }
      return fields
    end
    assert.is_true(assert(runner:complete(request, words())).acknowledged)
    env:wait(plan)
    local before, events = evidence.snapshot(plan), #plan.events.events

    for _ = 1, 3 do assert.is_true(assert(runner:complete(request, words())).acknowledged) end
    local others = {}
    for i = 1, 5 do others[i] = words() end
    others[1].check_updates[1].result_data.a = 2
    others[2].check_updates[1].failure = { message = "no after all" }
    others[3].check_updates = nil
    others[4].details.tries = 2
    others[5].failure = { message = "no after all" }
    for _, other in ipairs(others) do
      local _, err = runner:complete(request, other)
      assert.equal("FAILED_PRECONDITION", err and err.code)
      assert.is_truthy(err.message:find("COMPLETE", 1, true), err.message)
    end

    assert.same(before, evidence.snapshot(plan))
    assert.equal(events, #plan.events.events)
    assert.same({ "next" }, downstream:received_stages())
    evidence.ran(plan, "s", { runner = runner, mode = "ASYNC" })
    evidence.ran(plan, "next", { runner = downstream })
    evidence.met(plan, "builds", words().check_updates[1].result_data)
    evidence.settled(plan, { runners = { runner, downstream } })
  end)

  it("work that an async runner does not accept goes to another #TestRunnerRejectsWork", function()
    local full = env:mock_runner { id = "full", type = "test" }
    full.on_run_async = function() return { accepted = false } end
    workflow:check("builds")
    workflow:stage("s", { runner = "test", mode = "async", finalizes = "builds" })
    local plan = env:submit(workflow)
    wait_for_attempt(plan, "s", 2)
    -- Refusing is no progress: the attempt was scheduled, and never ran.
    evidence.failed_attempt(plan, "s", 1, {
      kind = "REJECTED", runner = full, mode = "ASYNC", states = { "PENDING", "SCHEDULED", "INCOMPLETE" },
    })
    assert.is_nil(env:execution(plan, "s", 1).started_at)
    assert.stage(plan, "s").has_state "ATTEMPTING"
    assert.check(plan, "builds").has_state "WAITING"
    assert.runner_load(full, 0)

    local other = env:mock_runner { id = "other", type = "test" }
    env:wait(plan)
    evidence.ran(plan, "s", { runner = other, mode = "ASYNC", attempts = 2 })
    evidence.met(plan, "builds")
    assert.same({ "s" }, full:received_stages())
    assert_too_late(plan, full, full.received[1])
    evidence.settled(plan, { runners = { full, other } })
  end)

  it("work that every runner rejects is given up when the budget of deliveries ends", function()
    env:stop()
    env = testing.env { limits = { backoff_ms = 1, pass_over_ms = 10, delivery_attempts_max = 4 } }
    local full = env:mock_runner { id = "full", type = "test" }
    full.on_run_async = function() return { accepted = false } end
    workflow:stage("s", { runner = "test", mode = "async" })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.stage(plan, "s").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 4, failure_kind = "REJECTED",
    }
    assert.equal(4, #full.received)
    evidence.settled(plan, { outcome = "FAILED", runners = { full } })
  end)

  describe("clients that write at once", function()
    -- Runs write(i) for every client, all of them under way together; returns what each got: response or nil, error.
    local function at_once(write)
      local results, ended = {}, 0
      for i = 1, CLIENTS do
        env:spawn(function()
          results[i] = table.pack(write(i))
          ended = ended + 1
        end)
      end
      env:wait(function() return ended == CLIENTS end)
      return results
    end

    local function versions_of(responses)
      local versions = {}
      for i, result in ipairs(responses) do versions[i] = assert(result[1], result[2]).checks[1].version end
      table.sort(versions)
      return versions
    end

    local function from_to(first, last)
      local list = {}
      for n = first, last do list[#list + 1] = n end
      return list
    end

    it("overwrite nothing that they have not seen #TestConcurrentModification", function()
      local plan = env:create_plan()
      assert(env:write(plan, { checks = { { id = "c" } }, stages = { { id = "s", runner_type = "nobody" } } }))
      assert(env:write(plan, { checks = { { id = "c", kind = "second" } } }))

      -- A version that is no more: ABORTED with both versions, and nothing of the write is there.
      local before = evidence.snapshot(plan)
      local version, stage_version = before.plan.version, env:stage(plan, "s").version
      for _, row in ipairs {
        { { checks = { { id = "new" }, { id = "c", kind = "third", expected_version = 1 } } }, 1, 2 },
        { { checks = { { id = "c", kind = "third", expected_version = 7 } } }, 7, 2 },
        { { checks = { { id = "new", expected_version = 5 } } }, 5, 0 },
        { { checks = { { id = "new" } }, stages = { { id = "s", args = { a = 1 }, expected_version = 99 } } },
          99, stage_version },
        { { checks = { { id = "new" } }, expected_plan_version = version - 1 }, version - 1, version },
        { { checks = { { id = "new" } }, expected_plan_version = version + 1 }, version + 1, version },
      } do
        local _, err = env:write(plan, row[1])
        assert.equal("ABORTED", err and err.code)
        for _, number in ipairs { row[2], row[3] } do
          assert.is_truthy(err.message:find("%f[%d]" .. number .. "%f[%D]"), err.message)
        end
      end
      assert.same(before, evidence.snapshot(plan))

      -- All expect the version they have read: one of them is first, the others learn of it.
      local winner, aborted = nil, 0
      for i, result in ipairs(at_once(function(i)
        return env:write(plan, { checks = { { id = "c", options = { by = i }, expected_version = 2 } } })
      end)) do
        if result[1] then
          assert.is_nil(winner)
          winner = i
        else
          assert.equal("ABORTED", result[2].code)
          assert.is_truthy(result[2].message:find("%f[%d]2%f[%D].*%f[%d]3%f[%D]"), result[2].message)
          aborted = aborted + 1
        end
      end
      assert.equal(CLIENTS - 1, aborted)
      assert.same({ by = winner }, env:check(plan, "c").options)
      assert.equal(3, env:check(plan, "c").version)
      assert.equal(version + 1, env:plan(plan).version)

      -- The same for the plan.
      local won = 0
      for _, result in ipairs(at_once(function(i)
        return env:write(plan, { checks = { { id = "p" .. i } }, expected_plan_version = version + 1 })
      end)) do
        won = won + (result[1] and 1 or 0)
      end
      assert.equal(1, won)
      assert.equal(version + 2, env:plan(plan).version)
      assert.equal(2, #env:query(plan).checks)
    end)

    it("and are acknowledged have all written, and the versions have risen by one for each", function()
      local plan = env:create_plan()
      assert(env:write(plan, { checks = { { id = "shared" } } }))
      local version = env:plan(plan).version
      local results = at_once(function(i)
        return env:write(plan, {
          checks = { { id = "shared", options = { ["client-" .. i] = i } }, { id = "own-" .. i, kind = "k" .. i } },
        })
      end)
      assert.same(from_to(2, CLIENTS + 1), versions_of(results))
      assert.equal(CLIENTS + 1, env:check(plan, "shared").version)
      assert.equal(version + CLIENTS, env:plan(plan).version)
      local options = env:check(plan, "shared").options
      for i = 1, CLIENTS do
        assert.equal(i, options["client-" .. i])
        local own = env:check(plan, "own-" .. i)
        assert.equal("k" .. i, own.kind)
        assert.equal(1, own.version)
      end
    end)

    it("and try again until they succeed lose no update", function()
      local plan = env:create_plan()
      assert(env:write(plan, { checks = { { id = "sum", options = { value = 0 } } } }))
      at_once(function(i)
        while true do
          local sum = env:check(plan, "sum")
          local response, err = env:write(plan, {
            checks = { { id = "sum", options = { value = sum.options.value + i }, expected_version = sum.version } },
          })
          if response then return response end
          assert.equal("ABORTED", err.code)
        end
      end)
      assert.equal(CLIENTS * (CLIENTS + 1) // 2, env:check(plan, "sum").options.value)
      assert.equal(CLIENTS + 1, env:check(plan, "sum").version)
    end)
  end)
end)
