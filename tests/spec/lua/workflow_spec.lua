local workflow = require "turboci.workflow"

local any, all = workflow.any, workflow.all

-- "file:line" of the line that called this, moved by `offset` lines.
local function here(offset)
  local info = debug.getinfo(2, "Sl")
  return info.source:sub(2) .. ":" .. (info.currentline + (offset or 0))
end

local function message_of(fn)
  local ok, err = pcall(fn)
  assert.is_false(ok, "expected an error")
  return err
end

local function assert_contains(text, part)
  assert.is_truthy(text:find(part, 1, true), ("expected %q in:\n%s"):format(part, text))
end

local function new_plan()
  return workflow.plan { name = "p" }
end

-- What plan:stage says to `given`; without anything else wrong.
local function stage_message(given)
  local plan = new_plan()
  if given.runner == nil and given.run == nil then given.runner = "shell" end
  return message_of(function() plan:stage("s", given) end)
end

local function writes_message(define)
  local plan = new_plan()
  define(plan)
  return message_of(function() plan:writes() end)
end

describe("workflow", function()
  it("names the plan's policy, which is not a file", function()
    local plan = workflow.plan { name = "p", policy = "least_loaded" }
    plan:stage("s", { runner = "shell" })
    assert.equal("least_loaded", plan:writes().policy)
    assert.is_nil(workflow.plan({}).policy)
    local line = here(1)
    assert_contains(message_of(function() workflow.plan { policy = "policies/x.lua" } end),
      line .. ": plan: policy: expected the name of a policy")
    assert_contains(message_of(function() workflow.plan { policy = "x.lua" } end), "leave out the folder and .lua")
    assert_contains(message_of(function() workflow.plan { policy = "" } end), "expected the name of a policy")
    assert_contains(message_of(function() workflow.plan { policy = {} } end), "policy: expected string, got table")
    assert_contains(message_of(function() workflow.plan { polcy = "x" } end), "did you mean 'policy'")
  end)

  it("writes the whole plan as messages", function()
    local plan = workflow.plan { name = "build-and-test", metadata = { branch = "main", run = 7 } }
    local builds = plan:check("builds", { kind = "build", options = { strict = true } })
    local passes = plan:check("passes", { kind = "test", after = builds })
    plan:stage("compile", { runner = "shell", args = { command = "make -j2" }, finalizes = builds })
    plan:stage("test", {
      runner = "shell", after = "compile", finalizes = { passes }, mode = "async", priority = 5,
      retry = { max_attempts = 3, backoff = "2s", backoff_max = 60 }, timeout = "1h30m", stale = "250ms",
    })

    local writes = plan:writes()

    assert.same({ name = "build-and-test", branch = "main", run = "7" }, writes.metadata)
    assert.same({
      { id = "builds", state = "PLANNED", kind = "build", options = { strict = true } },
      {
        id = "passes", state = "PLANNED", kind = "test",
        dependencies = {
          predicate = "AND",
          dependencies = { { target_type = "CHECK", target_id = "builds", condition = "ON_SUCCESS" } },
        },
      },
    }, writes.checks)
    assert.same({
      {
        id = "compile", runner_type = "shell", execution_mode = "SYNC", args = { command = "make -j2" },
        assignments = { { target_check_id = "builds", goal_state = "FINAL" } },
      },
      {
        id = "test", runner_type = "shell", execution_mode = "ASYNC", priority = 5,
        assignments = { { target_check_id = "passes", goal_state = "FINAL" } },
        dependencies = {
          predicate = "AND",
          dependencies = { { target_type = "STAGE", target_id = "compile", condition = "ON_SUCCESS" } },
        },
        retry = { max_attempts = 3, backoff_ms = 2000, backoff_ms_max = 60000 },
        timeouts = { execution_ms = 5400000, stale_ms = 250 },
      },
    }, writes.stages)
  end)

  it("keeps Lua bodies beside the messages", function()
    local plan = new_plan()
    local function body() end
    plan:stage("a", { run = body })
    plan:stage("b", { runner = "lua", run = body, after = "a" })

    assert.equal("lua", plan:writes().stages[1].runner_type)
    assert.same({ a = body, b = body }, plan.bodies)
  end)

  it("lets a stage without a runner be pulled when that is said", function()
    local plan = new_plan()
    plan:stage("a", { runner = false })
    assert.is_nil(plan:writes().stages[1].runner_type)
  end)

  it("gives the same messages each time and leaves the plan open for more", function()
    local plan = new_plan()
    plan:stage("a", { runner = "shell" })
    local first = plan:writes()
    assert.same(first, plan:writes())
    plan:stage("b", { runner = "shell", after = "a" })
    assert.equal(2, #plan:writes().stages)
    assert.equal(1, #first.stages)
  end)

  describe("after", function()
    local function dependencies(after)
      local plan = new_plan()
      local a = plan:stage("a", { runner = "shell" })
      plan:stage("b", { runner = "shell" })
      plan:check("c", { external = true })
      plan:stage("s", { runner = "shell", after = type(after) == "function" and after(a) or after })
      local group = plan:writes().stages[3].dependencies
      if not group then return nil end
      local edges = {}
      for i, edge in ipairs(group.dependencies) do
        edges[i] = edge.target_type:lower() .. " " .. edge.target_id .. " " .. edge.condition
      end
      return group.predicate, edges
    end

    local function assert_edges(predicate, edges, after)
      local got_predicate, got_edges = dependencies(after)
      assert.equal(predicate, got_predicate)
      assert.same(edges, got_edges)
    end

    it("takes a name, a node, or a list of both", function()
      assert_edges("AND", { "stage a ON_SUCCESS" }, "a")
      assert_edges("AND", { "stage a ON_SUCCESS" }, function(a) return a end)
      assert_edges("AND", { "stage a ON_SUCCESS", "check c ON_SUCCESS" }, function(a) return { a, "c" } end)
    end)

    it("takes a condition for the list, and for one of its members", function()
      assert_edges("AND", { "stage a ON_FINAL", "stage b ON_FINAL" }, { "a", "b", when = "final" })
      assert_edges("AND", { "stage a ON_FAILURE", "stage b ON_SUCCESS" }, { { "a", when = "failure" }, "b" })
    end)

    it("takes any and all", function()
      assert_edges("OR", { "stage a ON_SUCCESS", "stage b ON_FINAL" }, any { "a", { "b", when = "final" } })
      assert_edges("OR", { "stage a ON_FINAL", "stage b ON_FINAL" }, any { "a", "b", when = "final" })
      assert_edges("AND", { "stage a ON_SUCCESS", "stage b ON_SUCCESS" }, all { "a", "b" })
    end)

    it("counts the same dependency once", function()
      assert_edges("AND", { "stage a ON_SUCCESS" }, function(a) return { a, "a" } end)
      assert_edges("AND", { "stage a ON_SUCCESS", "stage a ON_FINAL" }, { "a", { "a", when = "final" } })
    end)

    it("of nothing is no dependency", function()
      assert.is_nil((dependencies {}))
    end)

    it("may name what is defined further down", function()
      local plan = new_plan()
      plan:stage("b", { runner = "shell", after = "a" })
      plan:stage("a", { runner = "shell" })
      assert.equal("a", plan:writes().stages[1].dependencies.dependencies[1].target_id)
    end)

    it("refuses what is neither name nor node", function()
      assert_contains(stage_message { after = 7 }, "stage 's': after: expected the id of a stage or check")
      assert_contains(stage_message { after = { "a", {} } }, "stage 's': after[2]: expected one node here")
      assert_contains(stage_message { after = { any { "a" } } }, "after[1]: expected the id of a stage or check")
      assert_contains(stage_message { after = { "a", wenn = "final" } }, "unexpected key 'wenn'")
      assert_contains(stage_message { after = { "a", when = "always" } },
        "when = \"always\": expected \"success\", \"final\" or \"failure\"")
      assert_contains(message_of(function() any {} end), "any {}: the list is empty")
      assert_contains(message_of(function() any "a" end), "any: expected a list")
    end)
  end)

  describe("refuses, at the line that made the mistake,", function()
    it("an unknown option, with the nearest name", function()
      local plan = new_plan()
      local err = message_of(function()
        plan:stage("s", { runner = "shell", finalises = "c" })
      end)
      assert.equal(here(-2) .. ": stage 's': unknown option 'finalises': did you mean 'finalizes'?", err)
      assert_contains(message_of(function() plan:check("c", { kin = "x" }) end), "did you mean 'kind'?")
      assert_contains(message_of(function() workflow.plan { nam = "x" } end), "plan: unknown option 'nam'")
      assert_contains(stage_message { retry = { attempts = 3 } }, "stage 's': retry: unknown option 'attempts'")
      assert_contains(stage_message { zzz = 1 }, "unknown option 'zzz' (there is: after, args,")
    end)

    it("an option of the wrong type", function()
      assert_contains(stage_message { args = "make" }, "stage 's': args: expected table, got string")
      assert_contains(stage_message { priority = 1.5 }, "stage 's': priority: expected integer, got float")
      assert_contains(stage_message { run = "x" }, "stage 's': run: expected function, got string")
      assert_contains(stage_message { mode = "SYNC" }, "mode: expected \"sync\" or \"async\"")
      assert_contains(stage_message { timeout = "10 minutes" }, "timeout: expected a duration")
      assert_contains(stage_message { stale = 0 }, "stale: expected a duration")
      assert_contains(stage_message { retry = { max_attempts = 0 } }, "max_attempts: expected 1 or more")
      assert_contains(stage_message { retry = { backoff = -1 } }, "backoff: expected a duration")
      local plan = new_plan()
      assert_contains(message_of(function() plan:stage("s", "shell") end), "expected a table of options, got string")
      assert_contains(message_of(function() workflow.plan { metadata = { a = {} } } end),
        "plan: metadata.a: expected a string, got table")
    end)

    it("arguments that cannot be sent, with their path", function()
      assert_contains(stage_message { args = { a = { b = print } } }, "stage 's': args.a.b: a function cannot be sent")
      assert_contains(stage_message { args = { a = { 1, x = 2 } } }, "args.a: a list with the key 'x' in it")
      assert_contains(stage_message { args = { "make" } }, "stage 's': args: expected names, got a list")
      assert_contains(stage_message { args = { a = { [true] = 1 } } }, "args.a: a boolean as a key")
      assert_contains(stage_message { args = { a = "\xff" } }, "args.a: not valid UTF-8")
      assert_contains(stage_message { args = { a = { 0 / 0 } } }, "args.a[1]: NaN cannot be sent")
      assert_contains(stage_message { args = { a = -math.huge } }, "args.a: an infinite number cannot be sent")
      local loop = {}
      loop.self = loop
      assert_contains(stage_message { args = loop }, "args.self: a table that contains itself")
    end)

    it("a stage without a runner, or with two", function()
      local plan = new_plan()
      assert_contains(message_of(function() plan:stage("s", {}) end), "stage 's': no runner: say runner = \"shell\"")
      assert_contains(message_of(function() plan:stage("s") end), "stage 's': no runner")
      assert_contains(stage_message { runner = "lua" }, "runner = \"lua\" needs a body")
      assert_contains(stage_message { runner = "shell", run = function() end }, "run is a body in Lua")
    end)

    it("an id that cannot be one", function()
      local plan = new_plan()
      for id, part in pairs {
        [""] = "stage: the id is empty",
        [("x"):rep(257)] = "the id has 257 bytes",
        ["a\0b"] = "control character",
        ["\xff"] = "not valid UTF-8",
        [7] = "expected an id (a string), got number",
      } do
        assert_contains(message_of(function() plan:stage(id, { runner = "shell" }) end), part)
      end
    end)

    it("an id that is taken, saying where", function()
      local plan = new_plan()
      plan:stage("a", { runner = "shell" })
      local first = here(-1)
      local err = message_of(function() plan:stage("a", { runner = "shell" }) end)
      assert.equal(here(-1) .. ": stage 'a' is already defined at " .. first, err)
    end)

    it("a call without the colon", function()
      local plan = new_plan()
      assert_contains(message_of(function() plan.stage("a", {}) end), "call it with a colon: plan:stage(id, options)")
    end)
  end)

  describe("refuses, when the plan is written,", function()
    it("an unknown name in after, at the line of the stage that used it", function()
      local used
      local err = writes_message(function(plan)
        plan:stage("compile", { runner = "shell" })
        plan:stage("test", { runner = "shell", after = "compil" })
        used = here(-1)
      end)
      assert.equal(used .. ": stage 'test': after 'compil': did you mean 'compile'?", err)
    end)

    it("an unknown check in finalizes", function()
      assert_contains(writes_message(function(plan)
        plan:check("builds")
        plan:stage("a", { runner = "shell", finalizes = "builds" })
        plan:stage("b", { runner = "shell", finalizes = { "biulds" } })
      end), "stage 'b': finalizes 'biulds': did you mean 'builds'?")
    end)

    it("a stage in finalizes", function()
      assert_contains(writes_message(function(plan)
        local a = plan:stage("a", { runner = "shell" })
        plan:stage("b", { runner = "shell", finalizes = a })
        plan:stage("c", { runner = "shell", finalizes = "a" })
      end), "stage 'b': finalizes stage 'a': only checks are finalized")
    end)

    it("a name that a stage and a check share, until the node is given", function()
      local plan = new_plan()
      local check = plan:check("x")
      plan:stage("x", { runner = "shell", finalizes = "x" })
      plan:stage("good", { runner = "shell", after = check })
      assert.is_true(plan:validate())
      plan:stage("bad", { runner = "shell", after = "x" })
      assert_contains(message_of(function() plan:writes() end),
        "stage 'bad': after 'x': there is a stage and a check of that name")
    end)

    it("a node of another plan", function()
      local other = new_plan():stage("a", { runner = "shell" })
      assert_contains(writes_message(function(plan) plan:stage("b", { runner = "shell", after = other }) end),
        "after stage 'a': it belongs to another plan")
    end)

    it("a cycle, with its path", function()
      local err = writes_message(function(plan)
        plan:stage("start", { runner = "shell" })
        plan:stage("a", { runner = "shell", after = { "start", "c" } })
        plan:stage("b", { runner = "shell", after = "a" })
        plan:stage("c", { runner = "shell", after = "b" })
      end)
      assert_contains(err, "cycle: stage 'a' -> stage 'c' -> stage 'b' -> stage 'a' (each waits for the next)")
    end)

    it("a cycle through a check and the stages that finalize it", function()
      assert_contains(writes_message(function(plan)
        plan:check("done")
        plan:stage("a", { runner = "shell", finalizes = "done", after = "b" })
        plan:stage("b", { runner = "shell", after = "done" })
      end), "cycle: check 'done' -> stage 'a' -> stage 'b' -> check 'done'")
      assert_contains(writes_message(function(plan) plan:stage("a", { runner = "shell", after = "a" }) end),
        "cycle: stage 'a' -> stage 'a'")
    end)

    it("a check that nobody will finalize", function()
      local defined
      local err = writes_message(function(plan)
        plan:check("builds")
        defined = here(-1)
      end)
      assert.equal(defined .. ": check 'builds': no stage finalizes it: name it in a stage's `finalizes`, "
        .. "or say external = true", err)
      local plan = new_plan()
      plan:check("builds", { external = true })
      assert.equal("builds", plan:writes().checks[1].id)
    end)

    it("an empty plan", function()
      assert_contains(writes_message(function() end), "the plan has no stages and no checks")
    end)

    it("all mistakes at once, a line each", function()
      local err = writes_message(function(plan)
        plan:stage("a", { runner = "shell", after = "x" })
        plan:stage("b", { runner = "shell", finalizes = "y" })
      end)
      assert_contains(err, "stage 'a': after 'x'")
      assert_contains(err, "\n")
      assert_contains(err, "stage 'b': finalizes 'y'")
    end)
  end)

  it("takes a chain of twenty thousand stages", function()
    local plan = new_plan()
    for i = 1, 20000 do plan:stage("s" .. i, { runner = "shell", after = i > 1 and "s" .. i - 1 or nil }) end
    assert.equal(20000, #plan:writes().stages)
  end)
end)
