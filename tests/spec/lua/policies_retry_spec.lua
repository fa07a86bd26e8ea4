-- The shipped policies that retry.
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

local function failures(...)
  local list = {}
  for i, kind in ipairs { ... } do list[i] = { runner = "a", failure = kind } end
  return list
end

local function assert_between(low, high, value)
  assert.is_true(value >= low and value <= high, ("%s is not between %s and %s"):format(value, low, high))
end

describe("retry_backoff", function()
  before_each(function() open "retry_backoff" end)

  local function ask(metadata, ...) return policy:retry { plan = { metadata = metadata }, attempts = failures(...) } end

  it("doubles the pause, from half to the whole of it", function()
    for seed = 1, 20 do
      local attempts = {}
      for i, pause in ipairs { 2, 4, 8, 16 } do
        attempts[i] = { failure = "TIMEOUT" }
        assert_between(pause / 2, pause, policy:retry({ attempts = attempts, seed = seed }).after)
      end
    end
  end)

  it("gives up after five attempts, and says so", function()
    local kinds = { "TIMEOUT", "STALE", "PROTOCOL", "TIMEOUT" }
    local answer, reason = ask({}, table.unpack(kinds))
    assert.is_truthy(answer)
    assert.equal("attempt 5 of 5", reason)
    kinds[5] = "TIMEOUT"
    answer, reason = ask({}, table.unpack(kinds))
    assert.is_nil(answer)
    assert.equal("all 5 attempts are used", reason)
  end)

  it("has knobs", function()
    local metadata = { retry_attempts = "2", retry_first = "10", retry_longest = "12" }
    assert_between(5, 10, ask(metadata, "TIMEOUT").after)
    assert.is_nil((ask(metadata, "TIMEOUT", "TIMEOUT")))
    metadata.retry_attempts = "9"
    assert_between(6, 12, ask(metadata, "TIMEOUT", "TIMEOUT", "TIMEOUT").after)
    assert.is_nil((ask({}, "REPORTED")))
    assert.is_truthy((ask({ retry_reported = "yes" }, "REPORTED")))
  end)

  it("takes its defaults for knobs that make no sense", function()
    local metadata = { retry_attempts = "many", retry_first = "soon", retry_longest = "nan" }
    assert_between(1, 2, ask(metadata, "TIMEOUT").after)
    assert.is_nil((ask({ retry_attempts = "-4" }, "TIMEOUT")))
    assert_between(43200, 86400, ask({ retry_first = "1e999" }, "TIMEOUT").after)
  end)

  it("honours the stage's own retry, and the budget of deliveries", function()
    assert.is_nil((policy:retry { stage = { retry = { max_attempts = 1 } }, attempts = failures("TIMEOUT") }))
    assert.is_truthy((policy:retry { stage = { retry = { max_attempts = 2 } }, attempts = failures("REPORTED") }))
    local kinds = {}
    for i = 1, 19 do kinds[i] = "UNREACHABLE" end
    assert.is_truthy((ask({}, table.unpack(kinds))))
    kinds[20] = "REJECTED"
    assert.is_nil((ask({}, table.unpack(kinds))))
  end)
end)

describe("retry_elsewhere", function()
  before_each(function() open "retry_elsewhere" end)

  it("excludes every runner that has failed it, once", function()
    local attempts = { { runner = "a", failure = "UNREACHABLE" }, { runner = "b", failure = "UNREACHABLE" },
                       { runner = "a", failure = "UNREACHABLE" } }
    local answer, reason = policy:retry { attempts = attempts }
    assert.same({ "a", "b" }, answer.exclude)
    assert.equal("not where it failed", reason)
  end)

  it("excludes no more than a retry may, the latest", function()
    local attempts = {}
    for i = 1, 300 do attempts[i] = { runner = "r" .. i, failure = "TIMEOUT" } end
    local answer = policy:retry { stage = { retry = { max_attempts = 1000 } }, attempts = attempts }
    assert.equal(256, #answer.exclude)
    assert.equal("r300", answer.exclude[1])
  end)

  it("retries when the default does", function()
    assert.is_nil((policy:retry { attempts = failures("REPORTED") }))
    assert.is_nil((policy:retry { attempts = failures("TIMEOUT", "TIMEOUT", "TIMEOUT") }))
    assert.is_truthy((policy:retry { stage = { retry = { max_attempts = 2 } }, attempts = failures("REPORTED") }))
    assert_between(0.5, 1, policy:retry({ attempts = failures("TIMEOUT") }).after)
  end)

  it("waits for another runner no longer than it is told, then goes anywhere", function()
    local attempt = { excluded = 1 }
    assert.is_nil(policy:timeout({}).queue)
    assert.equal(300, policy:timeout({ attempts = failures("TIMEOUT"), attempt = attempt }).queue)
    local plan = { metadata = { elsewhere_wait = "20" } }
    assert.equal(20, policy:timeout({ plan = plan, attempts = failures("TIMEOUT"), attempt = attempt }).queue)
    local attempts = { { runner = "a", failure = "TIMEOUT" }, { failure = "TIMEOUT" } } -- the second found nobody
    local answer, reason = policy:retry { attempts = attempts }
    assert.equal(0, #(answer.exclude or {}))
    assert.equal("nobody else took it: anywhere", reason)
    assert.is_nil(policy:timeout({ attempts = attempts }).queue)
  end)

  it("does not hold out for somebody who does not exist", function()
    local alone = { elsewhere = false }
    local answer, reason = policy:retry { attempts = { { runner = "a", failure = "TIMEOUT" } }, attempt = alone }
    assert.equal(0, #(answer.exclude or {}))
    assert.equal("there is nobody else: anywhere", reason)
    assert.is_nil(policy:timeout({ attempts = failures("TIMEOUT"), attempt = alone }).queue)
    -- The others have left since it was decided to wait for them.
    local left = { elsewhere = false, excluded = 1 }
    assert.equal(0.1, policy:timeout({ attempts = failures("TIMEOUT"), attempt = left }).queue)
  end)

  it("keeps the stage's own timeouts", function()
    local answer = policy:timeout { stage = { timeouts = { execution = 5, stale = 2 } } }
    assert.same({ execution = 5, stale = 2 }, answer)
  end)
end)
