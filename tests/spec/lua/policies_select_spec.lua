-- The shipped policies that choose runners.
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
local function reason_of(hook, view) return (select(2, policy[hook](policy, view))) end

-- How often each runner is chosen, over many seeds.
local function draw(times, view)
  local counts = {}
  for seed = 1, times do
    view.seed = seed
    local id = chosen(view)
    counts[id] = (counts[id] or 0) + 1
  end
  return counts
end

local function failures(...)
  local list = {}
  for i, kind in ipairs { ... } do list[i] = { runner = "a", failure = kind } end
  return list
end

local function assert_between(low, high, value)
  assert.is_true(value >= low and value <= high, ("%s is not between %s and %s"):format(value, low, high))
end

describe("least_loaded", function()
  before_each(function() open "least_loaded" end)

  it("chooses the least loaded, of equals the one used longest ago, and says so", function()
    local runners = { { id = "a", load = 1, used = 2 }, { id = "b", load = 1, used = 1 }, { id = "c", load = 2 } }
    local answer, reason = policy:select { runners = runners }
    assert.equal("b", answer)
    assert.equal("least loaded", reason)
  end)

  it("goes back to the runner that failed last only if there is no other", function()
    local view = { runners = { "a", { id = "b", load = 9 } }, attempts = failures("STALE") }
    assert.equal("b", chosen(view))
    assert.equal("least loaded, not where it failed last", reason_of("select", view))
    assert.equal("a", chosen { runners = { "a" }, attempts = failures("STALE") })
  end)
end)

describe("round_robin", function()
  before_each(function() open "round_robin" end)

  it("takes the one used longest ago, whatever its load; a new one first", function()
    assert.equal("b", chosen { runners = { { id = "a", used = 5 }, { id = "b", used = 3, load = 90 } } })
    assert.equal("c", chosen { runners = { { id = "a", used = 5 }, { id = "b", used = 3 }, "c" } })
  end)

  it("gives everybody a turn", function()
    local used, seen = { a = 0, b = 0, c = 0 }, {}
    for turn = 1, 9 do
      local runners = {}
      for i, id in ipairs { "a", "b", "c" } do runners[i] = { id = id, used = used[id] } end
      seen[turn] = chosen { runners = runners }
      used[seen[turn]] = turn
    end
    assert.equal("abcabcabc", table.concat(seen))
  end)
end)

describe("warm_first", function()
  before_each(function() open "warm_first" end)

  local function warm(id, value, load) return { id = id, load = load, metadata = { warm = value } } end

  it("prefers warm runners, of these the least loaded", function()
    local view = { runners = { "a", warm("b", "yes", 3), warm("c", "yes", 2) } }
    assert.equal("c", chosen(view))
    assert.equal("warm and least loaded", reason_of("select", view))
  end)

  it("takes a runner that is warm for what the plan says", function()
    local runners = { "a", warm("b", "website", 5), warm("c", "kernel") }
    assert.equal("b", chosen { runners = runners, plan = { metadata = { warm = "website" } } })
    assert.equal("a", chosen { runners = runners, plan = { metadata = { warm = "docs" } } })
    assert.equal("a", chosen { runners = runners })
  end)

  it("takes a cold one rather than wait", function()
    local view = { runners = { { id = "a", load = 1 }, warm("b", "no") } }
    assert.equal("b", chosen(view))
    assert.equal("nobody warm has room: least loaded", reason_of("select", view))
  end)

  it("prefers another runner, cold or not, to the one that failed last", function()
    assert.equal("b", chosen { runners = { warm("a", "yes"), "b" }, attempts = failures("TIMEOUT") })
  end)

  it("retries elsewhere", function()
    assert.same({ "a" }, policy:retry({ attempts = failures("TIMEOUT") }).exclude)
  end)
end)

describe("weighted", function()
  before_each(function() open "weighted" end)

  local function runner(id, weight, load) return { id = id, load = load, metadata = { weight = weight } } end

  it("draws in proportion to the weights, whatever the load", function()
    local counts = draw(800, { runners = { runner("a", "1", 0), runner("b", "3", 50), runner("c", "0.5") } })
    assert_between(110, 250, counts.a) -- 178 expected
    assert_between(460, 610, counts.b) -- 533
    assert_between(50, 130, counts.c) -- 89
  end)

  it("counts no weight, or nonsense, as 1", function()
    local counts = draw(300, { runners = { "a", runner("b", "heavy"), runner("c", "") } })
    for _, id in ipairs { "a", "b", "c" } do assert_between(60, 140, counts[id]) end
  end)

  it("takes a runner of weight 0 only when there is no other", function()
    assert.same({ b = 50 }, draw(50, { runners = { runner("a", "0"), runner("b", "1"), runner("c", "-3") } }))
    assert.equal("c", chosen { runners = { runner("a", "0", 2), runner("c", "0", 1) } })
  end)

  it("bounds absurd weights", function()
    local counts = draw(200, { runners = { runner("a", "1e999"), runner("b", "1000000") } })
    assert_between(60, 140, counts.a)
  end)

  it("gives the same answer to the same question", function()
    local view = { runners = { "a", "b", "c" }, seed = 5 }
    assert.equal(chosen(view), chosen(view))
  end)

  it("does not go back to where it failed last", function()
    assert.same({ b = 30 }, draw(30, { runners = { runner("a", "99"), "b" }, attempts = failures("TIMEOUT") }))
  end)
end)

describe("power_of_two", function()
  before_each(function() open "power_of_two" end)

  it("never takes the busiest of three, and each of the others", function()
    local counts = draw(300, { runners = { { id = "a", load = 0 }, { id = "b", load = 1 }, { id = "c", load = 2 } } })
    assert.is_nil(counts.c)
    assert_between(150, 250, counts.a) -- two pairs of three have it
    assert_between(50, 150, counts.b)
  end)

  it("draws every pair as likely", function()
    local runners = {}
    for i = 1, 4 do runners[i] = { id = tostring(i), load = i } end
    local counts = draw(600, { runners = runners })
    assert_between(240, 360, counts["1"]) -- 3 of 6 pairs
    assert_between(140, 260, counts["2"]) -- 2
    assert_between(50, 150, counts["3"]) -- 1
  end)

  it("takes the only one there is", function()
    assert.equal("a", chosen { runners = { "a" } })
    assert.equal("b", chosen { runners = { "a", "b" }, attempts = failures("TIMEOUT") })
  end)
end)

describe("spread", function()
  before_each(function() open "spread" end)

  local function on(host, id, load, used) return { id = id, load = load, used = used, metadata = { host = host } } end

  it("takes the group with the fewest executions, in it the least loaded", function()
    local view = { runners = { on("h1", "a", 0), on("h1", "b", 3), on("h2", "c", 2), on("h2", "d", 0) } }
    assert.equal("d", chosen(view))
    assert.equal("the least loaded group", reason_of("select", view))
  end)

  it("avoids groups in which the stage has failed", function()
    local runners = { on("h1", "a", 0), on("h1", "b", 0), on("h2", "c", 9) }
    assert.equal("c", chosen { runners = runners, attempts = failures("RUNNER_LOST") })
    local attempts = failures("RUNNER_LOST")
    attempts[2] = { runner = "c", failure = "RUNNER_LOST" }
    assert.equal("a", chosen { runners = runners, attempts = attempts })
    assert.equal("failed in every group: the least loaded",
      reason_of("select", { runners = runners, attempts = attempts }))
  end)

  it("groups by what the plan says", function()
    local runners = {
      { id = "a", load = 0, metadata = { zone = "z1" } }, { id = "b", load = 5, metadata = { zone = "z1" } },
      { id = "c", load = 2, metadata = { zone = "z2" } },
    }
    assert.equal("c", chosen { runners = runners, plan = { metadata = { spread_by = "zone" } } })
    assert.equal("a", chosen { runners = runners }) -- no hosts: each by itself
  end)

  it("of equal groups takes the one used longest ago", function()
    assert.equal("b", chosen { runners = { on("h1", "a", 1, 8), on("h2", "b", 1, 3), on("h3", "c", 1, 9) } })
  end)
end)
