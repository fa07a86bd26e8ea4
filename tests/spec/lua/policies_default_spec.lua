-- The shipped policy `default`. That it equals the built-in default in C is a property test of engine/script.
-- Asked about views of one line; what shipped policies do in an engine is tests/spec/policies_spec.lua.

local testing = require "turboci.testing"
local uv = require "luv"

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

local shipped = {
  "default", "least_loaded", "round_robin", "warm_first", "weighted", "power_of_two", "spread", "retry_backoff",
  "retry_elsewhere", "business_hours", "fair_share",
}

local function read_file(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- Opens `text` as the policy `name`, in a folder with nothing else.
local function open_text(name, text)
  local folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/turboci-copy-XXXXXX"))
  local path = ("%s/%s.lua"):format(folder, name)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  file:close()
  local opened, result = pcall(testing.policy, path)
  os.remove(path)
  uv.fs_rmdir(folder)
  policy = assert(opened and result, result)
end

-- The policies that a text of documentation shows: indented blocks from a comment or `return {` to `}`.
local function examples(path)
  local list, block = {}, nil
  for line in (read_file(path) .. "\n"):gmatch "(.-)\n" do
    local code = line:match "^    (.*)$" or line == "" and ""
    local begins = code and (code == "return {" or code:find "^%-%- ")
    block = code and (block or begins and "") and (block or "") .. code .. "\n"
    if block and code == "}" then
      if block:find("\nreturn {\n", 1, true) then list[#list + 1] = block end
      block = nil
    end
  end
  return list
end

it("every shipped policy is called as its file is", function()
  for _, name in ipairs(shipped) do
    open(name)
    assert.equal(name, policy.name)
    assert.equal(16, #policy.version)
    assert.is_true(#policy.hooks >= 1)
    policy:close()
  end
  policy = nil
end)

it("a copy of a shipped policy works under any name as it is", function()
  for _, name in ipairs(shipped) do
    open_text("my_own", read_file(("%s/policies/%s.lua"):format(source, name)))
    assert.equal("my_own", policy.name)
    policy:close()
  end
  policy = nil
end)

it("the policies that the READMEs show are policies, and the first one's version is the one they tell", function()
  local contract = source .. "/policies/README.md"
  local list = examples(contract)
  assert.equal(2, #list)
  open_text("frugal", list[1])
  assert.is_truthy(read_file(contract):find(("policy 'frugal' (%s)"):format(policy.version), 1, true), policy.version)
  assert.equal("b", chosen { runners = { "a", { id = "b", load = 3, capacity = 4 } } })
  policy:close()
  open_text("deploys", list[2])
  assert.same({ { key = "deploy-prod", limit = 2 } }, policy:admit({ plan = { metadata = { target = "prod" } } }).keys)
  assert.is_nil((policy:admit {}))
  policy:close()
  list = examples(source .. "/README.md")
  assert.equal(1, #list)
  open_text("warm_or_wait", list[1])
  assert.is_nil(chosen { runners = { "a" } })
  assert.equal("b", chosen { runners = { "a", { id = "b", metadata = { warm = "yes" } } } })
  assert.equal(600, policy:timeout({}).queue)
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
