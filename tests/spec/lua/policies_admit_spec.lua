-- The shipped policies that say when.
-- Asked about views of one line; what shipped policies do in an engine is tests/spec/policies_spec.lua.

local testing = require "turboci.testing"
local turboci = require "turboci"

local source = os.getenv "TURBOCI_SOURCE" or "."
local policy

local function open(name)
  policy = testing.policy(("%s/policies/%s.lua"):format(source, name))
end

after_each(function()
  if policy then policy:close() end
  policy = nil
end)

local function reason_of(hook, view) return (select(2, policy[hook](policy, view))) end

describe("business_hours", function()
  before_each(function() open "business_hours" end)

  -- 1700000000 is Tuesday, 2023-11-14, 22:13:20 UTC.
  local TUESDAY = 1700000000 - 22 * 3600 - 13 * 60 - 20
  local HOUR, DAY = 3600, 24 * 3600

  local function wait(now, metadata)
    local answer, reason = policy:admit { now = now, plan = { metadata = metadata } }
    return answer and answer.wait or 0, reason
  end

  it("lets stages begin from Monday to Friday, nine to five", function()
    for day = -1, 3 do
      assert.equal(0, (wait(TUESDAY + day * DAY + 9 * HOUR)))
      assert.equal(0, (wait(TUESDAY + day * DAY + 17 * HOUR - 1)))
      assert.is_true(wait(TUESDAY + day * DAY + 17 * HOUR) > 0)
      assert.equal(1, (wait(TUESDAY + day * DAY + 9 * HOUR - 1)))
    end
    local answer, reason = policy:admit { now = TUESDAY + 12 * HOUR }
    assert.is_nil(answer)
    assert.equal("inside business hours", reason)
  end)

  it("waits exactly until the window opens, and says when", function()
    local seconds, reason = wait(1700000000.25)
    assert.equal(DAY - (1700000000.25 - TUESDAY) + 9 * HOUR, seconds)
    assert.equal("opens wed 09:00 UTC+00:00", reason)
    seconds, reason = wait(TUESDAY + 3 * DAY + 17 * HOUR)
    assert.equal(2 * DAY + 16 * HOUR, seconds)
    assert.equal("opens mon 09:00 UTC+00:00", reason)
  end)

  it("holds stages in an engine to the second", function()
    local env = testing.env { world = "virtual", policy = "business_hours", start = TUESDAY + 22 * HOUR }
    local runner = env:mock_runner { type = "test" }
    local workflow = turboci.plan { name = "office" }
    workflow:stage("s", { runner = "test" })
    local plan = env:submit(workflow)
    env:advance(11 * HOUR - 1)
    assert.equal(0, #runner.received)
    assert.stage(plan, "s").explains { kind = "ADMISSION", text = "opens wed 09:00 UTC+00:00" }
    env:advance(1)
    assert.equal(1, #runner.received)
    env:wait(plan)
    assert.equal(TUESDAY + DAY + 9 * HOUR, env:execution(plan, "s").dispatched_at)
    env:stop()
  end)

  it("counts days and hours with the plan's offset from UTC", function()
    assert.equal(0, (wait(TUESDAY + 7 * HOUR, { utc_offset = "+02:00" })))
    assert.equal(0, (wait(TUESDAY + 17 * HOUR, { utc_offset = "-07:30" })))
    local seconds, reason = wait(TUESDAY - HOUR, { utc_offset = "-07:30", hours = "tue 8-9" }) -- it is Monday there
    assert.equal(16.5 * HOUR, seconds)
    assert.equal("opens tue 08:00 UTC-07:30", reason)
  end)

  it("takes other windows from the plan", function()
    local hours = { hours = "Sat 10-14, sun 22:00-02:30" }
    local saturday = TUESDAY + 4 * DAY
    assert.equal(saturday + 10 * HOUR - TUESDAY, (wait(TUESDAY, hours)))
    assert.equal(0, (wait(saturday + 13 * HOUR, hours)))
    assert.equal(0, (wait(saturday + 2 * DAY + 2 * HOUR, hours))) -- Monday morning
    assert.is_true(wait(saturday + 2 * DAY + 2.5 * HOUR, hours) > 0)
    assert.equal(0, (wait(saturday, { hours = "sat-sun 0-24" })))
    assert.equal(0, (wait(TUESDAY - DAY, { hours = "fri-mon 0-24" })))
    assert.equal(DAY, (wait(TUESDAY - DAY, { hours = "tue 0-24" })))
    assert.is_nil((policy:admit { now = saturday, plan = { metadata = { hours = "always" } } }))
  end)

  it("takes its default for what it does not understand, and says so", function()
    for _, hours in ipairs { "", "mon", "mon 9", "mon 9-9", "mon 9-25", "mon 9:75-10", "lun 9-10", "mon 9-10,",
                             "mon--fri 9-10", "mon 9-10-11", "mon +9-10", ("mon 9-10,"):rep(1000) } do
      local seconds, reason = wait(TUESDAY + 10 * HOUR, { hours = hours })
      assert.equal(0, seconds)
      assert.is_truthy(reason:find("`hours` make no sense", 1, true), hours)
    end
    for _, offset in ipairs { "", "two", "+15", "++2", "1:60", ("0"):rep(9000) } do
      local seconds, reason = wait(TUESDAY + 10 * HOUR, { utc_offset = offset })
      assert.equal(0, seconds)
      assert.is_truthy(reason:find("`utc_offset` makes no sense", 1, true), offset)
    end
  end)
end)

describe("fair_share", function()
  before_each(function() open "fair_share" end)

  local function key(metadata)
    local answer = policy:admit { plan = { metadata = metadata } }
    assert.equal(1, #answer.keys)
    return answer.keys[1]
  end

  it("shares by team, four at once", function()
    assert.same({ key = "fair:web", limit = 4 }, key { team = "web" })
    assert.same({ key = "fair:-", limit = 4 }, key {})
    assert.equal("at most 4 at once share fair:web", reason_of("admit", { plan = { metadata = { team = "web" } } }))
  end)

  it("has knobs", function()
    local metadata = { fair_by = "user", user = "ada", team = "web", fair_limit = "10" }
    assert.same({ key = "fair:ada", limit = 10 }, key(metadata))
    assert.same({ key = "fair:-", limit = 2 }, key { fair_by = "user", fair_limit = "2.9" })
  end)

  it("bounds knobs that make no sense, and long values", function()
    assert.equal(1, key({ fair_limit = "0" }).limit)
    assert.equal(1, key({ fair_limit = "-1e999" }).limit)
    assert.equal(1000000, key({ fair_limit = "1e999" }).limit)
    assert.equal(4, key({ fair_limit = "all" }).limit)
    assert.equal("fair:(no name)", key({ team = ("x"):rep(10000) }).key)
    assert.equal("fair:(no name)", key({ team = "web\nops" }).key)
    assert.equal("fair:café", key({ team = "café" }).key)
  end)
end)
