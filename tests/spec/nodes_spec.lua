-- Nodes: states, versions, writes. Both worlds.

local testing = require "turboci.testing"

describe("nodes:", function()
  local env, plan

  before_each(function()
    env = testing.env()
    plan = env:create_plan()
  end)
  after_each(function() env:stop() end)

  local function write(nodes)
    return assert(env:write(plan, nodes))
  end

  local function code_of(nodes)
    local _, err = env:write(plan, nodes)
    return err and err.code
  end

  local function after(kind, id, condition)
    return { dependencies = { { target_type = kind, target_id = id, condition = condition } } }
  end

  it("a new check is PLANNING and stays so until somebody says more", function()
    write { checks = { { id = "c", kind = "build" } } }
    env:settle()
    assert.check(plan, "c").has_state "PLANNING"
    write { checks = { { id = "c", state = "PLANNED" } } }
    assert.check(plan, "c").has_state "WAITING"
    assert.equal("build", env:check(plan, "c").kind)
  end)

  it("a check can be finalized straight from PLANNING", function()
    write { checks = { { id = "c", result = { data = { ok = true }, finalize = true } } } }
    env:wait(plan)
    assert.check(plan, "c").is_final { outcome = "SUCCEEDED", results = 1, data = { ok = true } }
    assert.transitions(plan, "check", "c", { "PLANNING", "FINAL" })
  end)

  it("a check whose result is a failure is FAILED", function()
    write { checks = { { id = "c", state = "PLANNED" } } }
    write { checks = { { id = "c", result = { failure = { message = "broken" }, finalize = true } } } }
    env:wait(plan)
    assert.check(plan, "c").is_final { outcome = "FAILED", reason = "RESULT_FAILED", failure = "broken" }
    assert.equal("FAILED", env:plan(plan).outcome)
  end)

  it("a FINAL node takes a write that changes nothing", function()
    write { checks = { { id = "c", kind = "k", options = { a = 1 }, state = "FINAL" } } }
    local before = env:check(plan, "c")
    write { checks = { { id = "c", kind = "k", options = { a = 1 }, state = "FINAL" } } }
    assert.same(before, env:check(plan, "c"))
    assert.equal("FAILED_PRECONDITION", code_of { checks = { { id = "c", options = { a = 2 } } } })
  end)

  it("a write that is refused in its last node changes nothing in its first", function()
    write { checks = { { id = "done", state = "FINAL" } } }
    local version = env:plan(plan).version
    assert.equal("FAILED_PRECONDITION", code_of {
      checks = { { id = "new" }, { id = "done", state = "WAITING" } },
      stages = { { id = "newer" } },
    })
    assert.is_nil(env:check(plan, "new"))
    assert.is_nil(env:stage(plan, "newer"))
    assert.equal(version, env:plan(plan).version)
  end)

  it("versions start at 1 and rise by one with every step", function()
    assert.equal(1, env:plan(plan).version)
    write { checks = { { id = "a" }, { id = "b" } } }
    assert.equal(2, env:plan(plan).version)
    assert.equal(1, env:check(plan, "a").version)
    write { checks = { { id = "a", options = { x = 1 }, kind = "k" } } }
    assert.equal(3, env:plan(plan).version)
    assert.equal(2, env:check(plan, "a").version)
    assert.equal(1, env:check(plan, "b").version)
    write { checks = { { id = "a", kind = "k" } } }
    assert.equal(3, env:plan(plan).version)
    assert.equal(2, env:check(plan, "a").version)
  end)

  it("expected_version makes a write optimistic", function()
    write { checks = { { id = "a" } } }
    write { checks = { { id = "a", kind = "first", expected_version = 1 } }, expected_plan_version = 2 }
    local _, err = env:write(plan, { checks = { { id = "a", kind = "second", expected_version = 1 } } })
    assert.equal("ABORTED", err.code)
    assert.is_truthy(err.message:find("1", 1, true) and err.message:find("2", 1, true), err.message)
    assert.equal("ABORTED", code_of { checks = { { id = "a", kind = "second" } }, expected_plan_version = 2 })
    assert.equal("first", env:check(plan, "a").kind)
  end)

  it("options and args are merged key by key, at the top level only", function()
    local stage = { id = "s", runner_type = "nobody", args = { keep = 1, change = { a = 1, b = 2 } } }
    write { checks = { { id = "c", options = { keep = "x", change = true } } }, stages = { stage } }
    write {
      checks = { { id = "c", options = { change = false, new = { 1, 2 } } } },
      stages = { { id = "s", args = { change = { a = 3 } } } },
    }
    assert.same({ keep = "x", change = false, new = { 1, 2 } }, env:check(plan, "c").options)
    assert.same({ keep = 1, change = { a = 3 } }, env:stage(plan, "s").args)
  end)

  it("dependencies are replaced while the node is planned, and ready nodes start at once", function()
    write { checks = { { id = "gate" } }, stages = { { id = "s", dependencies = after("CHECK", "gate") } } }
    assert.stage(plan, "s").has_state "PLANNED"
    write {
      checks = { { id = "other", state = "FINAL" } },
      stages = { { id = "s", dependencies = after("CHECK", "other") } },
    }
    assert.stage(plan, "s").has_state "ATTEMPTING"
    assert.equal("FAILED_PRECONDITION", code_of { stages = { { id = "s", dependencies = after("CHECK", "gate") } } })
  end)

  it("a stage written FINAL while it is PLANNED is skipped", function()
    write {
      checks = { { id = "gate" } },
      stages = { { id = "s", runner_type = "t", dependencies = after("CHECK", "gate") } },
    }
    write { stages = { { id = "s", state = "FINAL" } } }
    assert.stage(plan, "s").is_final { outcome = "SKIPPED", reason = "WRITTEN", attempts = 0 }
  end)

  it("a check takes the result of the very write in which the last stage that it waited for leaves", function()
    local assigned = { { target_check_id = "c" } }
    write {
      checks = { { id = "gate" }, { id = "c" }, { id = "d" } },
      stages = {
        { id = "s", runner_type = "t", assignments = assigned, dependencies = after("CHECK", "gate") },
        { id = "t", assignments = assigned },
        { id = "deploy", runner_type = "t", dependencies = after("CHECK", "c", "ON_SUCCESS") },
      },
    }
    write { checks = { { id = "c", result = { owner_type = "stage", owner_id = "t", finalize = true } } } }
    write {
      checks = { { id = "c", state = "FINAL", result = { owner_id = "me", failure = { message = "do not deploy" } } } },
      stages = { { id = "s", assignments = { { target_check_id = "d" } } } },
    }
    assert.check(plan, "c").is_final { outcome = "FAILED", results = 2, failure = "do not deploy" }
    assert.stage(plan, "deploy").is_final { outcome = "SKIPPED", attempts = 0 }
  end)

  it("a result in the name of a stage that is not assigned yet is not the one that the stage owes", function()
    local runner = env:mock_runner { id = "r", type = "t", hold = true }
    write {
      checks = { { id = "gate" }, { id = "c" } },
      stages = {
        { id = "first", assignments = { { target_check_id = "c" } } },
        { id = "s", runner_type = "t", dependencies = after("CHECK", "gate") },
      },
    }
    write { checks = { { id = "c", result = { owner_type = "stage", owner_id = "s", finalize = true } } } }
    write { stages = { { id = "s", assignments = { { target_check_id = "c" } } } } }
    write { checks = { { id = "c", result = { owner_type = "stage", owner_id = "first", finalize = true } } } }
    assert.check(plan, "c").has_state "PLANNING"
    write { checks = { { id = "gate", state = "FINAL" } } }
    env:wait(function() return #runner.received == 1 end)
    assert.check(plan, "c").has_state "PLANNING"
    runner:release()
    env:wait_for(plan, "check", "c", "FINAL")
    assert.check(plan, "c").is_final { outcome = "SUCCEEDED", reason = "RESULTS_FINAL", results = 3 }
  end)

  it("omit_nodes leaves the reply empty, and without it the reply has the nodes that were written", function()
    local response = write { checks = { { id = "a" } }, omit_nodes = true }
    assert.same({}, response.checks)
    response = write { checks = { { id = "b" } }, stages = { { id = "s", runner_type = "t" } } }
    assert.equal("b", response.checks[1].id)
    assert.equal("ATTEMPTING", response.stages[1].state)
  end)

  describe("what can be written can be read:", function()
    local function write_fat(count, kilobytes)
      local checks = {}
      for i = 1, count do
        checks[1] = { id = "fat" .. i, kind = "build", options = { text = ("x"):rep(kilobytes * 1024) } }
        assert(env:write(plan, { checks = checks, omit_nodes = true }))
      end
    end

    it("more than one message at once", function()
      write_fat(9, 700)
      local found = assert(env.client:query_nodes { work_plan_id = plan.id, include_checks = true }).checks
      for i = 1, 9 do
        assert.equal("fat" .. i, found[i].id)
        assert.equal(700 * 1024, #found[i].options.text)
      end
    end)

    it("in pages, by count and by bytes", function()
      write_fat(9, 700)
      local request, pages, ids = { work_plan_id = plan.id, include_checks = true, page_size = 6 }, 0, {}
      repeat
        local page = assert(env.client:query_nodes(request))
        assert.is_true(#page.checks <= 5, "a page is over its bytes")
        for _, check in ipairs(page.checks) do ids[#ids + 1] = check.id end
        request.page_token, pages = page.next_page_token, pages + 1
      until page.next_page_token == ""
      assert.equal(2, pages)
      assert.same({ "fat1", "fat2", "fat3", "fat4", "fat5", "fat6", "fat7", "fat8", "fat9" }, ids)
      request.page_token = "nonsense"
      local _, err = env.client:query_nodes(request)
      assert.equal("INVALID_ARGUMENT", err.code)
      assert.is_truthy(err.message:find("page_token", 1, true))
    end)

    it("a node too large for a page comes without what is large, and says so", function()
      write_fat(1, 4000)
      for i = 1, 3 do
        assert(env:write(plan, { omit_nodes = true, checks = { { id = "fat1", result = {
          owner_type = "me", owner_id = tostring(i), data = { text = ("y"):rep(3000000) },
        } } } }))
      end
      local page = assert(env.client:query_nodes { work_plan_id = plan.id, include_checks = true, page_size = 10 })
      local check = page.checks[1]
      assert.same({ "results.data" }, check.omitted_fields)
      assert.equal(3, #check.results)
      assert.equal(4000 * 1024, #check.options.text)
      check = env:check(plan, "fat1")
      assert.same({}, check.omitted_fields)
      assert.equal(3000000, #check.results[3].data.text)
    end)
  end)

  describe("a pulled stage", function()
    local function attempt(fields)
      return env:write(plan, { stages = { { id = "s", current_attempt = fields } } })
    end

    before_each(function()
      write {
        checks = { { id = "c", state = "PLANNED" } },
        stages = { { id = "s", assignments = { { target_check_id = "c", goal_state = "FINAL" } } } },
      }
    end)

    it("is ATTEMPTING with a PENDING attempt and no execution", function()
      local stage = env:stage(plan, "s")
      assert.equal("ATTEMPTING", stage.state)
      assert.equal("PENDING", stage.attempts[1].state)
      assert.same({}, env:executions(plan))
    end)

    it("is claimed, completed and made FINAL by a client", function()
      assert(attempt { process_uid = "me" })
      assert.equal("RUNNING", env:stage(plan, "s").attempts[1].state)
      assert(attempt { process_uid = "me", progress = { message = "half" }, details = { n = 1 } })
      assert(attempt { process_uid = "me", state = "COMPLETE" })
      write { checks = { { id = "c", result = { owner_type = "stage", owner_id = "s", finalize = true } } } }
      write { stages = { { id = "s", state = "FINAL" } } }
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "SUCCEEDED" }
      assert.check(plan, "c").is_final { outcome = "SUCCEEDED" }
      local done = env:stage(plan, "s").attempts[1]
      assert.equal("me", done.process_uid)
      assert.equal("half", done.progress[1].message)
      assert.same({ n = 1 }, done.details)
    end)

    it("belongs to the one who claimed it first", function()
      assert(attempt { process_uid = "me" })
      assert(attempt { process_uid = "me" })
      local _, err = attempt { process_uid = "you" }
      assert.equal("FAILED_PRECONDITION", err.code)
      assert.is_truthy(err.message:find("me", 1, true))
      assert.equal("me", env:stage(plan, "s").attempts[1].process_uid)
    end)

    it("cannot be FINAL before its attempt is over", function()
      assert.equal("FAILED_PRECONDITION", code_of { stages = { { id = "s", state = "FINAL" } } })
      assert(attempt { process_uid = "me" })
      assert.equal("FAILED_PRECONDITION", code_of { stages = { { id = "s", state = "FINAL" } } })
    end)

    it("that fails fails its stage and its check", function()
      assert(attempt { process_uid = "me" })
      assert(attempt { process_uid = "me", state = "INCOMPLETE", failure = { message = "out of paper" } })
      write { stages = { { id = "s", state = "FINAL" } } }
      env:wait(plan)
      assert.stage(plan, "s").is_final { outcome = "FAILED", failure = "out of paper" }
      assert.check(plan, "c").is_final { outcome = "FAILED" }
    end)
  end)

  describe("a query", function()
    before_each(function()
      write {
        checks = { { id = "c1" }, { id = "c2", state = "FINAL" } },
        stages = {
          { id = "s1", runner_type = "t" },
          { id = "s2", runner_type = "t", dependencies = after("CHECK", "c1") },
        },
      }
    end)

    local function ids(request)
      request.work_plan_id = plan.id
      local response = assert(env.client:query_nodes(request))
      local found = {}
      for _, check in ipairs(response.checks) do found[#found + 1] = check.id end
      for _, stage in ipairs(response.stages) do found[#found + 1] = stage.id end
      return found
    end

    it("returns nodes in the order of their creation", function()
      assert.same({ "c1", "c2", "s1", "s2" }, ids { include_checks = true, include_stages = true })
    end)

    it("of neither checks nor stages returns nothing", function()
      assert.same({}, ids { check_ids = { "c1" } })
    end)

    it("leaves unknown ids out", function()
      assert.same({ "s2" }, ids { include_stages = true, stage_ids = { "nope", "s2" } })
    end)

    it("filters by state", function()
      local states = { check_states = { "FINAL" }, stage_states = { "PLANNED" } }
      states.include_checks, states.include_stages = true, true
      assert.same({ "c2", "s2" }, ids(states))
    end)
  end)
end)
