-- The shipped policies in an engine: what they make of runners and stages, and what is said of it. What each answers
-- to which question is tests/spec/lua/policies_*_spec.lua.

local testing = require "turboci.testing"
local turboci = require "turboci"

local FAST = { backoff_ms = 10, backoff_ms_max = 20 }

describe("shipped policies:", function()
  local env

  after_each(function()
    if env then env:stop() end
    env = nil
  end)

  local function start(policy, limits)
    env = testing.env { policies = {}, policy = policy, limits = limits }
  end

  local function runner(id, options)
    local given = { id = id, type = "test" }
    for key, value in pairs(options or {}) do given[key] = value end
    return env:mock_runner(given)
  end

  -- A plan of `count` stages s1, s2, ...; options: of the plan.
  local function submit(count, options)
    options = options or {}
    options.name = options.name or "p"
    local workflow = turboci.plan(options)
    for i = 1, count do workflow:stage("s" .. i, { runner = "test" }) end
    return env:submit(workflow)
  end

  local function received(runners)
    local n = 0
    for _, each in ipairs(runners) do n = n + #each.received end
    return n
  end

  local function wait_received(runners, count)
    env:wait(function() return received(runners) == count end)
  end

  local function loads(runners)
    local list = {}
    for i, each in ipairs(runners) do list[i] = each.load end
    return list
  end

  local function release(runners)
    for _, each in ipairs(runners) do each:release() end
  end

  -- A hook that fails the first attempts (PROTOCOL), and succeeds from then on.
  local function fails(times)
    return function(request)
      if request.attempt_idx <= times then return { stage_state = "PLANNED" } end
    end
  end

  it("default runs a plan like no policy at all", function()
    start("default", FAST)
    runner("a", { on_run = fails(2) })
    local plan = submit(3)
    env:wait(plan)
    for i = 1, 3 do assert.stage(plan, "s" .. i).is_final { outcome = "SUCCEEDED", attempts = 3 } end
    assert.equal("default", env:decisions(plan, "s1", "retry")[1].policy)
    assert.equal(0, env:policy("default").faults)
  end)

  it("least_loaded keeps loads even, and its decisions are on record", function()
    start "least_loaded"
    local runners = { runner("a", { hold = true }), runner("b", { hold = true }), runner("c", { hold = true }) }
    local plan = submit(9)
    wait_received(runners, 9)
    assert.same({ 3, 3, 3 }, loads(runners))
    local decision = env:decisions(plan, "s9", "select")[1]
    assert.equal("least_loaded", decision.policy)
    assert.equal(env:policy("least_loaded").version, decision.version)
    assert.equal("least loaded", decision.reason)
    assert.equal("", decision.fault)
    assert.equal(3, #decision.candidates)
    assert.equal(8, decision.candidates[1].load + decision.candidates[2].load + decision.candidates[3].load)
    release(runners)
    env:wait(plan)
    assert.stage(plan, "s9").explains "least loaded"
  end)

  it("round_robin gives everybody a turn, whatever their load", function()
    start "round_robin"
    local busy = runner("a", { hold = true })
    local rest = { runner "b", runner "c" }
    local workflow = turboci.plan { name = "turns" }
    workflow:stage("s1", { runner = "test" }) -- to a, which holds it
    local held = env:submit(workflow)
    env:wait(function() return #busy.received == 1 end)
    for i = 1, 2 do
      local plan = submit(1, { name = "turn " .. i })
      env:wait(plan)
    end
    assert.equal(1, #rest[1].received)
    assert.equal(1, #rest[2].received)
    local again = submit(1, { name = "turn 4" })
    env:wait(function() return #busy.received == 2 end) -- its turn, busy or not
    busy:release()
    env:wait(again)
    env:wait(held)
  end)

  it("warm_first prefers what is warm for the plan while it has room", function()
    start()
    local cold = runner("cold", { hold = true })
    local warm = runner("warm", { hold = true, metadata = { warm = "website" }, max_concurrent = 2 })
    local plan = submit(3, { policy = "warm_first", metadata = { warm = "website" } })
    wait_received({ cold, warm }, 3)
    assert.same({ 1, 2 }, loads { cold, warm })
    release { cold, warm }
    env:wait(plan)
    assert.equal("warm and least loaded", env:decisions(plan, "s1", "select")[1].reason)
    assert.equal("warm_first", env:plan(plan).policy)
  end)

  it("weighted gives a runner of weight 0 nothing", function()
    start "weighted"
    local none = runner("none", { metadata = { weight = "0" } })
    local some = { runner("one", { metadata = { weight = "1" } }), runner("three", { metadata = { weight = "3" } }) }
    local plan = submit(40)
    env:wait(plan)
    assert.equal(0, #none.received)
    assert.equal(40, received(some))
  end)

  it("power_of_two of two runners keeps them even", function()
    start "power_of_two"
    local runners = { runner("a", { hold = true }), runner("b", { hold = true }) }
    local plan = submit(10)
    wait_received(runners, 10)
    assert.same({ 5, 5 }, loads(runners))
    release(runners)
    env:wait(plan)
  end)

  it("spread fills hosts evenly, however many runners they have", function()
    start "spread"
    local runners = {}
    for i, host in ipairs { "h1", "h1", "h1", "h2" } do
      runners[i] = runner("r" .. i, { hold = true, metadata = { host = host } })
    end
    local plan = submit(6)
    wait_received(runners, 6)
    assert.same({ 1, 1, 1, 3 }, loads(runners))
    release(runners)
    env:wait(plan)
  end)

  it("retry_backoff tries as often as the plan says", function()
    start("retry_backoff", FAST)
    runner("a", { on_run = fails(4) })
    local plan = submit(1, { metadata = { retry_attempts = "5", retry_first = "0.01" } })
    local less = submit(1, { metadata = { retry_attempts = "2", retry_first = "0.01" } })
    env:wait(plan)
    env:wait(less)
    assert.stage(plan, "s1").is_final { outcome = "SUCCEEDED", attempts = 5 }
    assert.stage(less, "s1").is_final { outcome = "FAILED", attempts = 2 }
    assert.equal("all 2 attempts are used", env:decisions(less, "s1", "retry")[2].reason)
  end)

  it("retry_elsewhere waits for another runner, and says so", function()
    start("retry_elsewhere", FAST)
    local other = runner("other", { max_concurrent = 1, hold = true })
    local blocker = submit(1)
    env:wait(function() return #other.received == 1 end)
    local broken = runner("broken", { on_run = fails(100) })
    local plan = submit(1)
    env:wait(function()
      local list = env:executions(plan, "s1")
      return #list == 2 and list[1].runner_id == "broken"
    end)
    env:settle()
    assert.equal(1, #broken.received)
    assert.same({ "broken" }, env:execution(plan, "s1", 2).excluded_runners)
    other:release()
    env:wait(plan)
    env:wait(blocker)
    assert.stage(plan, "s1").is_final { outcome = "SUCCEEDED", attempts = 2, runner = "other" }
    assert.equal("not where it failed", env:decisions(plan, "s1", "retry")[1].reason)
    assert.equal(1, #broken.received)
  end)

  it("retry_elsewhere goes back when nobody else takes it in time", function()
    start("retry_elsewhere", FAST)
    local busy = runner("busy", { max_concurrent = 1, hold = true })
    local blocker = submit(1)
    env:wait(function() return #busy.received == 1 end)
    local broken = runner("broken", { on_run = fails(1) })
    local plan = submit(1, { metadata = { elsewhere_wait = "0.2" } })
    env:wait(plan)
    assert.stage(plan, "s1").is_final { outcome = "SUCCEEDED", attempts = 3, runner = "broken" }
    assert.equal(2, #broken.received)
    assert.execution(plan, "s1", 2).is_recorded { state = "FAILED", failure_kind = "TIMEOUT" }
    assert.equal("nobody else took it: anywhere", env:decisions(plan, "s1", "retry")[2].reason)
    busy:release()
    env:wait(blocker)
  end)

  for _, name in ipairs { "retry_elsewhere", "warm_first" } do
    it(name .. " waits for nobody when there is only one runner", function()
      start(name, FAST)
      local only = runner("only", { on_run = fails(2) })
      runner("stranger", { modes = { "ASYNC" } }) -- takes no part in this
      local plan = submit(1, { metadata = { elsewhere_wait = "3600" } })
      env:wait(plan)
      assert.stage(plan, "s1").is_final { outcome = "SUCCEEDED", attempts = 3, runner = "only" }
      assert.equal(3, #only.received)
      assert.equal("there is nobody else: anywhere", env:decisions(plan, "s1", "retry")[1].reason)
      assert.same({}, env:execution(plan, "s1", 2).excluded_runners or {})
    end)
  end

  it("business_hours holds what is outside, says until when, and lets the rest go on", function()
    start "business_hours"
    local r = runner "r"
    local days = { "mon", "tue", "wed", "thu", "fri", "sat", "sun" }
    local first = submit(1, { metadata = { hours = "always" } })
    env:wait(first)
    local now = env:plan(first).created_at
    local in_two_days = days[(now // 86400 + 3 + 2) % 7 // 1 + 1 | 0]
    local held = submit(1, { metadata = { hours = in_two_days .. " 12-13" } })
    local free = submit(1, { metadata = { hours = "mon-sun 0-24" } })
    env:wait(free)
    env:settle()
    assert.equal(2, #r.received)
    assert.stage(held, "s1").has_state "ATTEMPTING"
    assert.stage(held, "s1").explains { kind = "ADMISSION", text = "opens " .. in_two_days .. " 12:00 UTC+00:00" }
  end)

  it("fair_share lets no team have more than its part", function()
    start "fair_share"
    local r = runner("r", { hold = true })
    local web = submit(5, { metadata = { team = "web", fair_limit = "2" } })
    local ops = submit(1, { metadata = { team = "ops" } })
    env:wait(function() return #r.received == 3 end)
    env:settle()
    assert.equal(3, r.load)
    local waiting
    for i = 1, 5 do
      local execution = env:execution(web, "s" .. i)
      if execution.state == "PENDING" then waiting = "s" .. i
      else assert.same({ "fair:web" }, execution.admission_keys) end
    end
    assert.stage(web, waiting).explains { kind = "ADMISSION", subject = "fair:web" }
    r:release()
    env:wait(web)
    env:wait(ops)
    assert.is_true(r.peak_load <= 3)
  end)
end)
