-- The shipped policy `default`. That it equals the built-in default in C is a property test of engine/script.
-- Asked about views of one line; what shipped policies do in an engine is tests/spec/policies_spec.lua.

local testing = require "turboci.testing"

local source = os.getenv "TURBOCI_SOURCE" or "."
local policy

local function open(name)
  policy = testing.policy(("%s/policies/%s.lua"):format(source, name))
end

after_each(function()
  if policy then policy:close() end
  policy = nil
end)

local function chosen(view) return (policy:select(view)) end

local function failures(...)
  local list = {}
  for i, kind in ipairs { ... } do list[i] = { runner = "a", failure = kind } end
  return list
end

local function assert_between(low, high, value)
  assert.is_true(value >= low and value <= high, ("%s is not between %s and %s"):format(value, low, high))
end

it("every shipped policy says what it is for, under its own name", function()
  for _, name in ipairs {
    "default", "least_loaded", "round_robin", "warm_first", "weighted", "power_of_two", "spread", "retry_backoff",
    "retry_elsewhere", "business_hours", "fair_share",
  } do
    open(name)
    assert.equal(name, policy.name)
    assert.equal(16, #policy.version)
    assert.is_true(#policy.hooks >= 1)
    policy:close()
  end
  policy = nil
end)

describe("default", function()
  before_each(function() open "default" end)

  it("answers select, retry, timeout and priority", function()
    local hooks = table.move(policy.hooks, 1, #policy.hooks, 1, {})
    table.sort(hooks)
    assert.same({ "priority", "retry", "select", "timeout" }, hooks)
  end)

  it("chooses the least loaded, of equals the one used longest ago", function()
    assert.equal("b", chosen { runners = { { id = "a", load = 2 }, { id = "b", load = 1 }, { id = "c", load = 3 } } })
    assert.equal("b", chosen { runners = { { id = "a", used = 9 }, { id = "b", used = 4 }, { id = "c", used = 7 } } })
    assert.equal("a", chosen { runners = { "a", "b" } })
  end)

  it("avoids the runner that failed last, if there is another", function()
    local attempts = failures("TIMEOUT")
    assert.equal("b", chosen { runners = { "a", { id = "b", load = 50 } }, attempts = attempts })
    assert.equal("b", chosen { runners = { { id = "b", load = 50 }, "a" }, attempts = attempts })
    assert.equal("a", chosen { runners = { "a" }, attempts = attempts })
    attempts[2] = { runner = "b", failure = "TIMEOUT" }
    assert.equal("a", chosen { runners = { { id = "a", load = 50 }, "b" }, attempts = attempts })
  end)

  it("retries by kind, each with its budget", function()
    for _, row in ipairs {
      { 1, "REPORTED" },
      { 3, "TIMEOUT" }, { 3, "STALE" }, { 3, "RUNNER_LOST" }, { 3, "ENGINE_RESTART" }, { 3, "PROTOCOL" },
      { 20, "UNREACHABLE" }, { 20, "REJECTED" },
    } do
      local attempts, most, kind = {}, table.unpack(row)
      for i = 1, most do
        attempts[i] = { runner = "a", failure = kind }
        local answer = policy:retry { attempts = attempts }
        assert.equal(i < most, answer ~= nil, kind .. " " .. i)
      end
    end
  end)

  it("gives deliveries and other failures budgets of their own", function()
    local attempts = failures("TIMEOUT", "UNREACHABLE", "REJECTED", "UNREACHABLE", "TIMEOUT")
    assert.is_truthy(policy:retry { attempts = attempts })
    attempts[6] = { failure = "TIMEOUT" }
    assert.is_nil(policy:retry { attempts = attempts })
    attempts[6] = { failure = "UNREACHABLE" }
    assert.is_truthy(policy:retry { attempts = attempts })
  end)

  it("lets the stage's own retry decide alone", function()
    local stage = { retry = { max_attempts = 2 } }
    assert.is_truthy(policy:retry { stage = stage, attempts = failures("REPORTED") })
    assert.is_nil(policy:retry { stage = stage, attempts = failures("UNREACHABLE", "UNREACHABLE") })
    stage = { retry = { backoff = 8 } } -- attempts_max attempts
    assert.is_truthy(policy:retry { stage = stage, attempts = failures("REPORTED", "REPORTED") })
    assert.is_nil(policy:retry { stage = stage, attempts = failures("REPORTED", "REPORTED", "REPORTED") })
  end)

  it("backs off from half to the whole of a pause that doubles, up to the longest", function()
    local stage = { retry = { max_attempts = 100, backoff = 0.75, backoff_max = 10 } }
    local attempts = {}
    for i, pause in ipairs { 0.75, 1.5, 3, 6, 10, 10 } do
      attempts[i] = { failure = "TIMEOUT" }
      local least, most = math.huge, 0
      for seed = 1, 60 do
        local after = policy:retry({ stage = stage, attempts = attempts, seed = seed }).after
        assert_between(pause / 2, pause, after)
        least, most = math.min(least, after), math.max(most, after)
      end
      assert.is_true(most - least > pause / 4)
    end
  end)

  it("never shortens a first backoff that is longer than the longest", function()
    local stage = { retry = { max_attempts = 100, backoff = 90 } } -- backoff_max of the server: 60 s
    assert_between(45, 90, policy:retry({ stage = stage, attempts = failures("TIMEOUT", "TIMEOUT") }).after)
  end)

  it("takes the stage's own timeouts, else the server's", function()
    assert.same({ execution = 3600, stale = 300 }, (policy:timeout {}))
    assert.same({ execution = 7.5, stale = 300 }, (policy:timeout { stage = { timeouts = { execution = 7.5 } } }))
    assert.same({ execution = 3600, stale = 0.001 }, (policy:timeout { stage = { timeouts = { stale = 0.001 } } }))
  end)

  it("takes the stage's own priority", function()
    assert.equal(0, (policy:priority {}))
    assert.equal(-7, (policy:priority { stage = { priority = -7 } }))
  end)
end)
