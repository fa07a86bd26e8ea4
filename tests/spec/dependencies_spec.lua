-- Dependencies: groups and conditions. Both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"

local any = turboci.any

describe("dependencies:", function()
  local env, runner, workflow

  before_each(function()
    env = testing.env()
    runner = env:mock_runner { id = "r", type = "test" }
    workflow = turboci.plan { name = "dependencies" }
  end)
  after_each(function() env:stop() end)

  -- Stages "good" and "bad" end as they are called, "open" when it is released, and "s" depends on them.
  local function submit(after, hold)
    workflow:check("good-check")
    workflow:check("bad-check")
    workflow:stage("good", { runner = "test", finalizes = "good-check" })
    workflow:stage("bad", { runner = "test", finalizes = "bad-check" })
    workflow:stage("open", { runner = "held" })
    workflow:stage("s", { runner = "test", after = after })
    function runner.on_run(request)
      if request.stage_id == "bad" then return env.failure "bad" end
      return env.success(request)
    end
    local held = env:mock_runner { id = "held", type = "held" }
    if hold then held:hold() end
    return env:submit(workflow), held
  end

  local function outcome_of(after)
    local plan = submit(after)
    env:wait(plan)
    return env:stage(plan, "s").outcome
  end

  for _, row in ipairs {
    -- after, outcome of the stage that has it
    { { "good" }, "SUCCEEDED" },
    { { "bad" }, "SKIPPED" },
    { { "good", when = "final" }, "SUCCEEDED" },
    { { "bad", when = "final" }, "SUCCEEDED" },
    { { "good", when = "failure" }, "SKIPPED" },
    { { "bad", when = "failure" }, "SUCCEEDED" },
    { { "good-check" }, "SUCCEEDED" },
    { { "bad-check" }, "SKIPPED" },
    { { "bad-check", when = "failure" }, "SUCCEEDED" },
    { { "bad-check", when = "final" }, "SUCCEEDED" },
    { { "good", "bad" }, "SKIPPED" },
    { { "good", { "bad", when = "failure" } }, "SUCCEEDED" },
    { any { "good", "bad" }, "SUCCEEDED" },
    { any { "bad", "bad-check" }, "SKIPPED" },
    { any { "bad", { "bad", when = "failure" } }, "SUCCEEDED" },
  } do
    local list = row[1].items or row[1]
    local names = {}
    for i, item in ipairs(list) do names[i] = type(item) == "table" and item[1] .. " on " .. item.when or item end
    local title = ("%s of %s%s"):format(row[1].items and "any" or "all", table.concat(names, ", "),
      list.when and " on " .. list.when or "")
    it(title .. ": " .. row[2], function() assert.equal(row[2], outcome_of(row[1])) end)
  end

  it("any starts with the first that is satisfied, while others are open", function()
    local plan, held = submit(any { "good", "open" }, true)
    env:wait(function() return env:stage(plan, "s").state == "FINAL" end)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED" }
    assert.stage(plan, "open").has_state "ATTEMPTING"
    held:release()
    env:wait(plan)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 1 }
  end)

  it("all gives up with the first that is unsatisfied, while others are open", function()
    local plan, held = submit({ "bad", "open" }, true)
    env:wait(function() return env:stage(plan, "s").state == "FINAL" end)
    assert.stage(plan, "s").is_final { outcome = "SKIPPED", attempts = 0 }
    assert.stage(plan, "open").has_state "ATTEMPTING"
    held:release()
    env:wait(plan)
    assert.stage(plan, "s").is_final { outcome = "SKIPPED" }
  end)

  it("all waits for the last", function()
    local plan, held = submit({ "good", "open" }, true)
    env:wait(function() return env:stage(plan, "good").state == "FINAL" end)
    env:settle()
    assert.stage(plan, "s").has_state "PLANNED"
    assert.same({}, env:executions(plan, "s"))
    held:release()
    env:wait(plan)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED" }
  end)

  it("the wire's own condition is ON_FINAL", function()
    function runner.on_run(request)
      if request.stage_id == "bad" then return env.failure "bad" end
    end
    local plan = env:submit {
      stages = {
        { id = "bad", runner_type = "test" },
        {
          id = "s", runner_type = "test",
          dependencies = { dependencies = { { target_type = "STAGE", target_id = "bad" } } },
        },
      },
    }
    env:wait(plan)
    assert.stage(plan, "bad").is_final { outcome = "FAILED" }
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED" }
    assert.equal("ON_FINAL", env:stage(plan, "s").dependencies.dependencies[1].condition)
  end)

  it("a dependency on what is FINAL already is satisfied at once", function()
    workflow:stage("first", { runner = "test" })
    local plan = env:submit(workflow)
    env:wait(plan)
    local edges = { { target_type = "STAGE", target_id = "first", condition = "ON_SUCCESS" } }
    local group = { dependencies = edges }
    assert(env:write(plan, { stages = { { id = "late", runner_type = "test", dependencies = group } } }))
    env:wait(plan)
    assert.stage(plan, "late").is_final { outcome = "SUCCEEDED" }
    edges[1].condition = "ON_FAILURE"
    assert(env:write(plan, { stages = { { id = "later", runner_type = "test", dependencies = group } } }))
    env:wait(plan)
    assert.stage(plan, "later").is_final { outcome = "SKIPPED" }
  end)

  it("a diamond of two hundred edges runs its last stage once", function()
    workflow:stage("top", { runner = "test" })
    local middle = {}
    for i = 1, 100 do middle[i] = workflow:stage("m" .. i, { runner = "test", after = "top" }) end
    workflow:stage("bottom", { runner = "test", after = middle })
    local plan = env:submit(workflow)
    env:wait(plan)
    assert.equal(102, #runner.received)
    assert.equal("bottom", runner.received[102].stage_id)
    assert.stage(plan, "bottom").is_final { outcome = "SUCCEEDED", attempts = 1 }
  end)
end)
