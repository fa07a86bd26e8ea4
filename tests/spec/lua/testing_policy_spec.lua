-- The policies of testing.env: how they are given, reloaded and asked about. In both worlds.

local testing = require "turboci.testing"
local turboci = require "turboci"
local uv = require "luv"

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

local FIRST = "return { select = function(ctx) return ctx.runners[1], 'the first' end }"
local LAST = "return { select = function(ctx) return ctx.runners[#ctx.runners], 'the last' end }"

for _, world in ipairs { "virtual", os.getenv "TURBOCI_BIN" and "grpc" or nil } do
  describe("testing.env in the world " .. world .. ",", function()
    local folder, env

    before_each(function()
      folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/turboci-env-XXXXXX"))
    end)

    after_each(function()
      if env then env:stop() end
      env = nil
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

    local function start(options)
      options.world = world
      env = testing.env(options)
      for _, id in ipairs { "a", "b" } do env:mock_runner { id = id, type = "test" } end
      for _, id in ipairs { "c", "d" } do env:mock_runner { id = id, type = "other" } end
    end

    -- Which runner a plan of one stage ran on.
    local function runner_of(runner_type, policy)
      local workflow = turboci.plan { name = "p", policy = policy }
      workflow:stage("s", { runner = runner_type or "test" })
      local plan = env:submit(workflow)
      env:wait(plan)
      return env:execution(plan, "s").runner_id, plan
    end

    it("a policy by its file: its folder, and the server's default", function()
      write("first.lua", FIRST)
      start { policy = write("last.lua", LAST) }
      local id, plan = runner_of()
      assert.equal("b", id)
      assert.equal("a", (runner_of("test", "first")))
      assert.same({ "server" }, env:policy("last").attached_to)
      local decision = env:decisions(plan, "s", "select")[1]
      assert.same({ "last", env:policy("last").version, "the last" },
        { decision.policy, decision.version, decision.reason })
      assert.same({}, env:decisions(plan, "s", "retry"))
      assert.is_nil(env:policy "nobody")
    end)

    it("a folder, a default by name, and policies of runner types", function()
      write("first.lua", FIRST)
      write("last.lua", LAST)
      start { policies = folder, policy = "first", policy_for = { other = "last" } }
      assert.equal("a", (runner_of()))
      assert.equal("d", (runner_of "other"))
      assert.same({ "type:other" }, env:policy("last").attached_to)
      assert.equal("c", (runner_of("other", "first")))
    end)

    it("the shipped policies, behind the folders given", function()
      write("least_loaded.lua", LAST)
      start { policies = { folder }, policy = "least_loaded" }
      assert.equal("b", (runner_of()))
      assert.equal("a", (runner_of("test", "round_robin")))
    end)

    it("a shipped policy that only the plan names", function()
      start { policies = {} }
      local _, plan = runner_of("test", "round_robin")
      assert.equal("round_robin", env:plan(plan).policy)
      assert.equal("round_robin", env:decisions(plan, "s", "select")[1].policy)
    end)

    it("reload_policies takes over what has changed, and tells what it cannot take", function()
      write("mine.lua", FIRST)
      start { policies = folder, policy = "mine" }
      assert.same({}, env:reload_policies().changed)
      local before = env:policy("mine").version
      write("mine.lua", "return {\n  select = 1 }")
      local response = env:reload_policies()
      assert.same({}, response.changed)
      assert_contains(env:policy("mine").error, "mine.lua")
      assert.equal(before, env:policy("mine").version)
      assert.equal("a", (runner_of()))
      write("mine.lua", LAST)
      env:reload_policies() -- in the grpc world the server may have been faster
      assert.not_equal(before, env:policy("mine").version)
      assert.equal("", env:policy("mine").error)
      assert.equal("b", (runner_of()))
    end)

    it("refuses policies that are not there, and names what is", function()
      local function refusal(options)
        options.world = world
        return message_of(function() testing.env(options):stop() end)
      end
      assert_contains(refusal { policies = folder .. "/none" }, "testing_policy_spec.lua:", "there is no such folder")
      assert_contains(refusal { policies = folder, policy = "leest_loaded" }, "did you mean 'least_loaded'?")
      assert_contains(refusal { policies = folder, policy_for = { test = "sprad" } }, "did you mean 'spread'?")
      assert_contains(refusal { policy = folder .. "/none.lua" }, "none.lua: no such file")
      assert_contains(refusal { policies = 1 }, "expected string or table")
      local text = refusal { policy = write("broken.lua", "return { selct = function() end }") }
      assert_contains(text:match "^[^\n]*", "testing_policy_spec.lua:", "env: policy 'broken'", "did you mean 'select'")
      start {}
      local plan = turboci.plan { name = "p", policy = "leest_loaded" }
      plan:stage("s", { runner = "test" })
      assert_contains(message_of(function() env:submit(plan) end), "testing_policy_spec.lua:", "leest_loaded")
    end)
  end)
end
