-- Every example runs. The commands themselves are not executed here (a mock takes the place of the shell runner), but
-- for what ci.lua is made of, which runs with harmless ones in the program: see the cli specs.

local testing = require "turboci.testing"

local ROOT = os.getenv "TURBOCI_SOURCE" or "."

local function load_example(name, ...)
  return assert(loadfile(("%s/examples/%s.lua"):format(ROOT, name)))(...)
end

describe("examples:", function()
  local env

  before_each(function() env = testing.env() end)
  after_each(function() env:stop() end)

  -- A shell whose commands do nothing; `false` fails, as it does everywhere.
  local function mock_shell()
    local shell = env:mock_runner { id = "shell", type = "shell" }
    function shell.on_run(request)
      if request.args.command == "false" then return env.failure "exit code 1" end
      return env.success(request)
    end
    return shell
  end

  local function position(list, wanted)
    for i, item in ipairs(list) do
      if item == wanted then return i end
    end
    error(wanted .. " is not among " .. table.concat(list, ", "))
  end

  it("hello.lua greets in order", function()
    local shell = mock_shell()
    local plan = env:submit(load_example "hello")
    env:wait(plan)
    assert.same({ "hello", "world" }, shell:received_stages())
    assert.check(plan, "greeted").is_final { outcome = "SUCCEEDED" }
  end)

  it("fan_out.lua builds all platforms at once and brings them together", function()
    local shell = mock_shell()
    shell:hold()
    local plan = env:submit(load_example "fan_out")
    env:wait(function() return #shell.received == 1 end)
    shell:release "fetch"
    env:wait(function() return #shell.received == 5 end)
    shell:release()
    env:wait(plan)
    assert.check(plan, "released").is_final { outcome = "SUCCEEDED", data = { platforms = 4, missing = "" } }
  end)

  it("fan_out.lua releases without the platform that failed", function()
    local shell = mock_shell()
    function shell.on_run(request)
      if request.stage_id == "build-macos" then return env.failure "exit code 2" end
      return env.success(request)
    end
    local plan = env:submit(load_example "fan_out")
    env:wait(plan)
    assert.stage(plan, "build-macos").is_final { outcome = "FAILED", attempts = 2, failure = "exit code 2" }
    assert.check(plan, "built-macos").is_final { outcome = "FAILED" }
    assert.check(plan, "released").is_final { outcome = "SUCCEEDED", data = { platforms = 3, missing = "macos" } }
  end)

  it("async_runner.lua reports progress and completes by callback", function()
    local plan = env:submit(load_example "async_runner")
    env:wait(plan)
    local execution = env:execution(plan, "count")
    assert.equal("ASYNC", execution.execution_mode)
    assert.equal(5, #execution.progress)
    assert.equal("17984 primes below 200000", execution.progress[5].message)
    assert.check(plan, "counted").is_final { outcome = "SUCCEEDED", data = { primes = 17984 } }
    assert.equal("there are 17984 primes below 200000", env:execution(plan, "report").progress[1].message)
  end)

  describe("ci.lua", function()
    local names = { "lint", "configure", "build", "unit", "specs", "modules", "wire" }

    local function commands(changes)
      local all = {}
      for _, name in ipairs(names) do all[name] = changes[name] or "true" end
      return all
    end

    it("runs what can run at the same time at the same time", function()
      local shell = mock_shell()
      shell:hold()
      local plan = env:submit(load_example("ci", commands {}))
      env:wait(function() return #shell.received == 2 end)
      assert.is_true(position(shell:received_stages(), "lint") <= 2)
      assert.is_true(position(shell:received_stages(), "configure") <= 2)
      shell:release "configure"
      env:wait(function() return #shell.received == 3 end)
      shell:release "build"
      env:wait(function() return #shell.received == 7 end)
      assert.stage(plan, "lint").has_state "ATTEMPTING"
      shell:release()
      env:wait(plan)
      for _, id in ipairs { "tidy", "builds", "passes" } do
        assert.check(plan, id).is_final { outcome = "SUCCEEDED" }
      end
      for _, request in ipairs(shell.received) do assert.equal("true", request.args.command) end
    end)

    it("skips the tests when the build fails", function()
      mock_shell()
      local plan = env:submit(load_example("ci", commands { build = "false" }))
      env:wait(plan)
      assert.stage(plan, "build").is_final { outcome = "FAILED", failure = "exit code 1" }
      assert.check(plan, "builds").is_final { outcome = "FAILED" }
      for _, id in ipairs { "unit", "specs", "modules", "wire" } do
        assert.stage(plan, id).is_final { outcome = "SKIPPED", reason = "DEPENDENCIES_UNSATISFIED", attempts = 0 }
      end
      assert.check(plan, "tidy").is_final { outcome = "SUCCEEDED" }
      assert.equal("FAILED", env:plan(plan).outcome)
    end)

    it("fails when one suite fails, and runs the others to their end", function()
      mock_shell()
      local plan = env:submit(load_example("ci", commands { unit = "false" }))
      env:wait(plan)
      assert.stage(plan, "unit").is_final { outcome = "FAILED" }
      assert.stage(plan, "specs").is_final { outcome = "SUCCEEDED" }
      assert.check(plan, "passes").is_final { outcome = "FAILED", results = 4 }
    end)

    it("has real commands by default, and knows their names", function()
      local writes = load_example("ci"):writes()
      assert.equal(#names, #writes.stages)
      for _, stage in ipairs(writes.stages) do assert.is_true(#stage.args.command > 5) end
      assert.has_error(function() load_example("ci", { biuld = "true" }) end, "ci.lua: no command is called biuld")
    end)
  end)
end)
