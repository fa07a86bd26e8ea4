-- core.policy and testing.policy: a policy file, asked about views made of tables.

local core = require "turboci.core"
local testing = require "turboci.testing"
local uv = require "luv"

local folder

before_each(function()
  folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/turboci-policy-XXXXXX"))
end)

after_each(function()
  local scan = uv.fs_scandir(folder)
  for name in function() return uv.fs_scandir_next(scan) end do uv.fs_unlink(folder .. "/" .. name) end
  assert(uv.fs_rmdir(folder))
end)

local function write(name, text)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

-- The one policy of a spec: the hooks are its text.
local function policy(hooks)
  return testing.policy(write("p.lua", "return {\n" .. hooks .. "\n}"))
end

local function message_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok, "expected an error")
  return tostring(err)
end

local function assert_contains(text, ...)
  for _, part in ipairs { ... } do
    assert.is_truthy(text:find(part, 1, true), ("expected %q in:\n%s"):format(part, text))
  end
end

describe("core.policy", function()
  it("opens a file and says what it is", function()
    local path = write("mine.lua", "return { retry = function() end, select = function() end }")
    local opened <close> = assert(core.policy(path))
    assert.same({ "mine", path, { "select", "retry" } }, { opened.name, opened.path, opened.hooks })
    assert.matches("^%x+$", opened.version)
    assert.equal(16, #opened.version)
    local again = assert(core.policy(path))
    assert.equal(opened.version, again.version)
    again:close()
    again:close()
    assert_contains(message_of(again.ask, again, "select", {}), "this policy is closed")
    assert.is_nil(again.name)
  end)

  it("returns nil and file:line for what a server would not take", function()
    for text, part in pairs {
      ["return {\n  select = function(ctx) retrun 1 end }"] = "p.lua:2:",
      ["return {\n  selekt = function() end }"] = "did you mean 'select'",
      ["return {}"] = "p.lua",
      ["return { select = function(ctx)\n return prnt end }"] = "p.lua:2:",
      ["return { name = 'q', select = function() end }"] = "'q'",
    } do
      local opened, err = core.policy(write("p.lua", text))
      assert.is_nil(opened, text)
      assert_contains(err, part)
    end
    local opened, err = core.policy(folder .. "/missing.lua")
    assert.is_nil(opened)
    assert_contains(err, "missing.lua")
  end)

  it("finds what a policy requires in its own folder, then in those given", function()
    write("_lib.lua", "return { answer = 7 }")
    local outside = write("p.lua", "local lib = require '_lib'\nreturn { priority = function() return lib.answer end }")
    local elsewhere = assert(uv.fs_mkdtemp(folder .. "-XXXXXX"))
    finally(function()
      os.remove(elsewhere .. "/p.lua")
      uv.fs_rmdir(elsewhere)
    end)
    assert(os.rename(outside, elsewhere .. "/p.lua"))
    local opened, err = core.policy(elsewhere .. "/p.lua")
    assert.is_nil(opened)
    assert_contains(err, "_lib")
    opened = assert(core.policy(elsewhere .. "/p.lua", { folders = { folder } }))
    assert.equal(7, opened:ask("priority", {}).answer)
  end)

  it("refuses a hook that does not exist, or that the policy does not have", function()
    local opened = assert(core.policy(write("p.lua", "return { priority = function() end }")))
    assert_contains(message_of(opened.ask, opened, "selct", {}), "did you mean 'select'")
    assert_contains(message_of(opened.ask, opened, "retry", {}), "policy 'p' has no hook 'retry'")
    assert_contains(message_of(core.policy, "p.lua", { folder = {} }), "did you mean 'folders'")
    assert_contains(message_of(core.policy, 7), "string expected")
  end)
end)

describe("testing.policy", function()
  it("asks select: a runner by its id, nil or a wait", function()
    local p = policy [[
      select = function(ctx)
        local wanted = ctx.stage.args.want
        if wanted == "nap" then return { wait = 2.5 }, "a nap" end
        for _, r in ipairs(ctx.runners) do
          if r.id == wanted then return r, "it is the one" end
        end
      end]]
    local answer, reason = p:select { runners = { "a", "b" }, stage = { args = { want = "b" } } }
    assert.same({ "b", "it is the one" }, { answer, reason })
    assert.is_true(p.cost > 0)
    answer, reason = p:select { runners = { "a" }, stage = { args = { want = "b" } } }
    assert.same({ nil, nil }, { answer, reason })
    answer, reason = p:select { runners = { "a" }, stage = { args = { want = "nap" } } }
    assert.same({ wait = 2.5 }, answer)
    assert.equal("a nap", reason)
  end)

  it("asks the other hooks", function()
    local p = policy [[
      retry = function(ctx)
        local last = ctx.attempts[#ctx.attempts]
        if ctx.failure.kind == "REPORTED" then return nil, ctx.failure.message end
        return { after = 2 ^ #ctx.attempts, exclude = { last.runner } }
      end,
      timeout = function(ctx) return { execution = ctx.stage.args and ctx.stage.args.s or 1, queue = 0.5 } end,
      priority = function(ctx) return ctx.plan.metadata.branch == "main" and 10 or nil end,
      admit = function(ctx)
        if ctx.plan.metadata.night then return { wait = 60 } end
        return ctx.plan.metadata.key and { key = ctx.plan.metadata.key, limit = 2 }
      end]]
    local failed = { { runner = "b" }, { runner = "a", failure = "TIMEOUT" } }
    assert.same({ after = 4, exclude = { "a" } }, (p:retry { attempts = failed }))
    local answer, reason = p:retry { attempts = { { failure = { message = "exit code 2" } } } }
    assert.same({ nil, "exit code 2" }, { answer, reason })
    assert.same({ execution = 90, queue = 0.5 }, (p:timeout { stage = { args = { s = 90 } } }))
    assert.equal(10, (p:priority { plan = { metadata = { branch = "main" } } }))
    assert.is_nil((p:priority()))
    assert.same({ keys = { { key = "prod", limit = 2 } } }, (p:admit { plan = { metadata = { key = "prod" } } }))
    assert.same({ wait = 60 }, (p:admit { plan = { metadata = { night = "y" } } }))
    assert.is_nil((p:admit {}))
  end)

  it("shows a policy all that the view says", function()
    local p = policy [[
      select = function(ctx)
        local r, a, s = ctx.runners[1], ctx.attempts[1], ctx.stage
        if s.id ~= "S" then return r end
        local facts = {
          ctx.hook, ctx.now, ctx.plan.id, ctx.plan.metadata.branch, ctx.plan.policy, ctx.plan.created,
          s.id, s.runner_type, s.mode, s.priority, s.args.list[2], s.retry.max_attempts, s.retry.backoff,
          s.retry.backoff_max, s.timeouts.execution, s.timeouts.stale, s.created, ctx.attempt.index, ctx.attempt.waited,
          #ctx.attempts, a.index, a.runner, a.failure.kind, a.failure.message, a.queued, a.ran, a.ended,
          r.id, r.type, r.load, r.capacity, r.free, r.metadata.os, r.registered, r.used, r.last_used, r.succeeded,
          r.failed, r.last_failed,
        }
        local text = {}
        for i, fact in ipairs(facts) do
          if type(fact) == "number" then fact = string.format("%.6g", fact) end
          text[i] = tostring(fact)
        end
        return r, table.concat(text, " ")
      end]]
    p:close()
    p = testing.policy(folder .. "/p.lua", { limits = { policy_reason_bytes_max = 1000 } })
    local _, reason = p:select {
      now = 5000,
      plan = { id = "P", metadata = { branch = "main" }, policy = "mine", created = 1000 },
      stage = {
        id = "S", runner_type = "build", mode = "ASYNC", priority = -3, args = { list = { 1, "two" } },
        retry = { max_attempts = 9, backoff = 0.25, backoff_max = 30 }, timeouts = { execution = 600, stale = 60 },
        created = 2000,
      },
      attempt = { waited = 30 },
      attempts = {
        { runner = "a", failure = { kind = "STALE", message = "silent" }, queued = 5, ran = 40, ended = 4900 },
      },
      runners = {
        { id = "R", load = 1, capacity = 4, metadata = { os = "bsd" }, registered = 3000, used = 7, last_used = 4000,
          succeeded = 3, failed = 2, last_failed = true },
        "other",
      },
    }
    assert.equal("select 5000 P main mine 1000 S build ASYNC -3 two 9 0.25 30 600 60 2000 2 30 "
      .. "1 1 a STALE silent 5 40 4900 R build 1 4 3 bsd 3000 7 4000 3 2 true", reason)
  end)

  it("answers the same question the same way, and other seeds otherwise", function()
    local p = policy "select = function(ctx) return ctx.runners[ctx.random(#ctx.runners)] end"
    local runners, seen = {}, {}
    for i = 1, 100 do runners[i] = "r" .. i end
    for seed = 1, 20 do
      local first = p:select { runners = runners, seed = seed }
      assert.equal(first, (p:select { runners = runners, seed = seed }))
      seen[first] = true
    end
    local count = 0
    for _ in pairs(seen) do count = count + 1 end
    assert.is_true(count > 10, "20 seeds chose among " .. count)
  end)

  it("forgets one view before the next", function()
    local p = policy [[select = function(ctx)
      local r = ctx.runners[1]
      return r, tostring(r.metadata.warm) .. " " .. r.load .. " " .. tostring(ctx.plan.metadata.x)
    end]]
    for i = 1, 50 do
      local _, reason = p:select {
        runners = { { id = "a", load = i, metadata = { warm = "w" .. i } } }, plan = { metadata = { x = "x" .. i } },
      }
      assert.equal(("w%d %d x%d"):format(i, i, i), reason)
      collectgarbage()
    end
  end)

  it("raises a fault as the spec's, with the policy's line", function()
    local p = policy "select = function(ctx)\n if ctx.plan.metadata.bad then error('no good') end\n end"
    assert_contains(message_of(function() p:select { runners = { "a" }, plan = { metadata = { bad = "y" } } } end),
      "policy_spec.lua:", "p.lua:3: no good")
    p = policy "priority = function(ctx) return ctx.plan.metadata.bad and 'high' or 1 end"
    assert_contains(message_of(function() p:priority { plan = { metadata = { bad = "y" } } } end), "priority",
      "got a string")
    assert.equal(1, (p:priority {}))
  end)

  it("knows the shipped ones by their names", function()
    assert.equal("least_loaded", testing.policy("least_loaded").name)
    assert_contains(message_of(testing.policy, "leest_loaded"), "policy_spec.lua:", "did you mean 'least_loaded'")
    assert_contains(message_of(testing.policy, folder .. "/nobody.lua"), "nobody.lua: no such file")
    assert_contains(message_of(function() return testing.policy("least_loaded"):selct {} end), "policy_spec.lua:",
      "did you mean 'select'")
    assert.is_nil(testing.policy("least_loaded").cost)
    assert_contains(message_of(testing.policy, {}), "expected the path of a file")
  end)

  local hooks = [[select = function() end, retry = function() end, admit = function() end]]
  local wrong = {
    { "select", { runer = {} }, "view: there is no 'runer'; did you mean 'runners'?" },
    { "select", {}, "view.runners: select is asked when somebody has room" },
    { "select", { runners = "a" }, "view.runners: expected a list, got a string" },
    { "select", { runners = { a = 1 } }, "view.runners: expected a list, got a table with other keys" },
    { "select", { runners = { {} } }, "view.runners[1]: it needs an id" },
    { "select", { runners = { "a", { id = "a" } } }, "view.runners[2]: the same id again" },
    { "select", { runners = { { id = "a", load = "1" } } }, "view.runners[1].load: expected an integer, got a string" },
    { "select", { runners = { { id = "a", load = 2, capacity = 2 } } }, "load 2 of 2" },
    { "select", { runners = { { id = "a", capcity = 2 } } }, "did you mean 'capacity'" },
    { "select", { runners = { { id = "a", succeeded = 30, failed = 3 } } }, "its last 32" },
    { "select", { runners = { { id = "a", failed = 3, last_failed = false } } }, "none has succeeded" },
    { "select", { runners = { { id = "a", metadata = { x = 1 } } } }, "expected names with strings" },
    { "admit", { now = -1 }, "view.now: expected seconds, from 0 up" },
    { "admit", { now = 0 / 0 }, "view.now: expected seconds, from 0 up" },
    { "admit", { seed = 1.5 }, "view.seed: expected an integer" },
    { "admit", { stage = { mode = "sync" } }, "expected \"SYNC\" or \"ASYNC\"" },
    { "admit", { stage = { args = { 1, 2 } } }, "view.stage.args: expected named values, got a list" },
    { "admit", { stage = { args = { f = print } } }, "view.stage.args.f" },
    { "admit", { stage = { retry = { attempts = 3 } } }, "view.stage.retry: there is no 'attempts'" },
    { "admit", { plan = { metadata = "x" } }, "expected a table of strings" },
    { "admit", { attempt = { index = 3 } }, "view.attempt: there is no 'index'" },
    { "admit", { attempts = { { failure = "TIMOUT" } } }, "did you mean 'TIMEOUT'" },
    { "admit", { attempts = { { failure = 4 } } }, "view.attempts[1].failure: expected a kind" },
    { "retry", {}, "view.attempts: retry is asked about the last of them" },
    { "retry", { attempts = {} }, "view.attempts: retry is asked about the last of them" },
    { "admit", "x", "view: expected a table, got a string" },
  }
  for _, case in ipairs(wrong) do
    it("refuses a view: " .. case[3], function()
      local p = policy(hooks)
      assert_contains(message_of(function() p:ask(case[1], case[2]) end), "policy_spec.lua:", case[3])
    end)
  end
end)
