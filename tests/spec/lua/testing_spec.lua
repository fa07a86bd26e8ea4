-- The test library itself: what it says when something is wrong.

local testing = require "turboci.testing"
local turboci = require "turboci"

local function message_of(fn)
  local ok, err = pcall(fn)
  assert.is_false(ok, "expected an error")
  return tostring(err)
end

local function assert_contains(text, ...)
  for _, part in ipairs { ... } do
    assert.is_truthy(text:find(part, 1, true), ("expected %q in:\n%s"):format(part, text))
  end
end

describe("testing.env", function()
  local env

  before_each(function() env = testing.env { world = "virtual" } end)
  after_each(function() env:stop() end)

  local function plan_of(stages)
    local workflow = turboci.plan { name = "p" }
    for id, options in pairs(stages) do workflow:stage(id, options) end
    return env:submit(workflow)
  end

  it("says what every open node waits for when a wait is in vain", function()
    env:mock_runner { id = "other", type = "test", modes = { "ASYNC" } }
    local workflow = turboci.plan { name = "stuck" }
    workflow:check("approved", { external = true })
    workflow:check("built")
    workflow:stage("queued", { runner = "nobody", finalizes = "built" })
    workflow:stage("mode", { runner = "test" })
    workflow:stage("later", { runner = "test", after = "queued" })
    workflow:stage("pulled", { runner = false })
    local plan = env:submit(workflow)
    assert_contains(message_of(function() env:wait(plan) end),
      "testing_spec.lua:", "waited for plan " .. plan.id .. " to settle in vain",
      "stage 'queued': ATTEMPTING", "runners of type 'nobody': none is registered",
      "stage 'later': PLANNED, waits for stage 'queued' ON_SUCCESS (now ATTEMPTING)",
      "stage 'pulled': ATTEMPTING, waits for a client to pull it",
      "check 'approved': WAITING, waits for a client",
      "check 'built': WAITING, waits for the results of stage 'queued'")
  end)

  it("jumps from timer to timer, and not beyond the timeout it was given", function()
    local runner = env:mock_runner { type = "test" }
    function runner.on_run()
      if #runner.received == 1 then return env.failure "flaky" end
    end
    local plan = plan_of { s = { runner = "test", retry = { max_attempts = 2, backoff = "6h", backoff_max = "12h" } } }
    assert_contains(message_of(function() env:wait(plan, { timeout = "1h" }) end), "in vain")
    env:wait(plan)
    assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2 }
  end)

  it("returns what the condition returned", function()
    assert.same({ 1, "two" }, { env:wait(function() return 1, "two" end) })
  end)

  it("raises the error of a hook where the spec waits", function()
    env:mock_runner { id = "r", type = "test", on_run = function() error "oops" end }
    local plan = plan_of { s = { runner = "test" } }
    assert_contains(message_of(function() env:wait(plan) end), "a hook of mock runner 'r' raised:", "oops")
  end)

  it("raises when a hook returns what is no message", function()
    env:mock_runner { id = "r", type = "test", on_run = function() return { stage_stat = "FINAL" } end }
    local plan = plan_of { s = { runner = "test" } }
    assert_contains(message_of(function() env:wait(plan) end), "stage_stat")
  end)

  it("refuses options that it does not know", function()
    assert_contains(message_of(function() testing.env { wrld = "grpc" } end), "unknown option 'wrld'", "'world'")
    assert_contains(message_of(function() testing.env { world = "moon" } end), "expected \"virtual\" or \"grpc\"")
    assert_contains(message_of(function() env:mock_runner { onrun = print } end), "unknown option 'onrun'")
    assert_contains(message_of(function() env:wait(7) end), "expected a plan of this env or a function")
    assert_contains(message_of(function() env:advance "soon" end), "expected a duration")
  end)

  it("raises at the spec's line when a submitted plan is refused", function()
    local message = message_of(function() env:submit { stages = { { id = "" } } } end)
    assert_contains(message, "testing_spec.lua:", "INVALID_ARGUMENT")
    assert_contains(message_of(function() env:mock_runner { id = "r", type = "" } end), "cannot register")
  end)

  it("takes limits", function()
    local small = testing.env { world = "virtual", limits = { id_bytes_max = 8 } }
    local plan = small:create_plan()
    local _, err = small:write(plan, { checks = { { id = "much-too-long" } } })
    small:stop()
    assert.equal("INVALID_ARGUMENT", err.code)
  end)

  it("lets time pass only when told", function()
    local runner = env:mock_runner { type = "test" }
    runner:hold()
    local plan = plan_of { s = { runner = "test", timeout = "1s" } }
    env:settle()
    env:settle()
    assert.stage(plan, "s").has_state "ATTEMPTING"
    assert.equal(1, #env:stage(plan, "s").attempts)
    env:advance(1)
    assert.equal(2, #env:stage(plan, "s").attempts)
  end)

  it("settles only when what is due has happened", function()
    local said = {}
    env.world:after(0, function()
      said[1] = "first"
      env.world:after(0, function() said[2] = "second" end)
    end)
    env.world:after(1, function() said[3] = "later" end)
    env:settle()
    assert.same({ "first", "second" }, said)
  end)

  it("stops twice without harm", function()
    env:stop()
    env:stop()
  end)
end)

describe("testing asserts", function()
  local env, plan

  before_each(function()
    env = testing.env { world = "virtual" }
    env:mock_runner { id = "r", type = "test", on_run = function() return env.failure "exit code 2" end }
    local workflow = turboci.plan { name = "p" }
    workflow:check("c")
    workflow:stage("s", { runner = "test", finalizes = "c" })
    plan = env:submit(workflow)
    env:wait(plan)
  end)
  after_each(function() env:stop() end)

  it("hold when it is so", function()
    assert.stage(plan, "s").is_final {
      outcome = "FAILED", reason = "NO_RETRIES_LEFT", attempts = 1, runner = "r", failure = "code 2",
      failure_kind = "REPORTED",
    }
    assert.check(plan, "c").is_final { outcome = "FAILED", results = 1, failure = "code 2" }
    assert.stage(plan, "s").has_state "FINAL"
    assert.transitions(plan, "stage", "s", { "PLANNED", "ATTEMPTING", "FINAL" })
  end)

  it("fail when it is not, saying how", function()
    assert_contains(message_of(function() assert.stage(plan, "s").is_final { outcome = "SUCCEEDED", attempts = 2 } end),
      "stage 's': attempts: expected 2, got 1; outcome: expected \"SUCCEEDED\", got \"FAILED\"", "exit code 2")
    assert_contains(message_of(function() assert.check(plan, "c").is_final { data = { a = 1 } } end),
      "data: expected { a = 1 }, got {}")
    assert_contains(message_of(function() assert.stage(plan, "nope").is_final {} end), "stage 'nope': there is none")
    assert_contains(message_of(function() assert.stage(plan, "s").has_state "PLANNED" end),
      "expected state PLANNED, got FINAL")
    assert_contains(message_of(function() assert.transitions(plan, "stage", "s", { "FINAL" }) end),
      "expected transitions { \"FINAL\" }, got { \"PLANNED\", \"ATTEMPTING\", \"FINAL\" }")
  end)

  it("refuse what makes no sense", function()
    assert_contains(message_of(function() assert.stage(plan, "s").is_final { outcom = "x" } end),
      "unknown option 'outcom'", "'outcome'")
    assert_contains(message_of(function() assert.stage("p", "s").is_final {} end),
      "expected a plan of turboci.testing")
    assert_contains(message_of(function() assert.transitions(plan, "node", "s", {}) end),
      "assert.transitions: expected")
  end)
end)

if os.getenv "TURBOCI_BIN" then
  describe("testing in the grpc world", function()
    local env

    before_each(function() env = testing.env { world = "grpc", limits = { id_bytes_max = 64 } } end)
    after_each(function() env:stop() end)

    it("has no clock to move", function()
      assert_contains(message_of(function() env:advance "1s" end), "in the virtual world only")
      assert_contains(message_of(function() env:restart() end), "in the virtual world only")
    end)

    it("gives up waiting, saying what is open", function()
      local workflow = turboci.plan { name = "stuck" }
      workflow:stage("s", { runner = "nobody" })
      local plan = env:submit(workflow)
      assert_contains(message_of(function() env:wait(plan, { timeout = 0.05 }) end),
        "in vain", "runners of type 'nobody': none is registered")
    end)

    it("raises the error of a hook where the spec waits", function()
      env:mock_runner { id = "r", type = "test", on_run = function() error "oops" end }
      local workflow = turboci.plan { name = "p" }
      workflow:stage("s", { runner = "test" })
      local plan = env:submit(workflow)
      assert_contains(message_of(function() env:wait(plan) end), "a hook of mock runner 'r' raised:", "oops")
    end)

    it("takes limits", function()
      local _, err = env:write(env:create_plan(), { checks = { { id = ("x"):rep(65) } } })
      assert.equal("INVALID_ARGUMENT", err.code)
    end)

    it("ends with the process and its files gone", function()
      local folder = env.world.folder
      env:stop()
      assert.is_nil(io.open(folder .. "/turboci.db"))
    end)
  end)
end
