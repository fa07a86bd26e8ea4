-- turboci policy and turboci why, and the policy options of serve and run: arguments, output, exit codes.

local cjson = require "cjson"
local lint = require "turboci.cli.policy.lint"
local policies = require "turboci.policies"
local process = require "process"
local runners = require "turboci.runner"
local testing = require "turboci.testing"
local uv = require "luv"

local folder, hosted

before_each(function()
  folder, hosted = process.new_folder(), {}
end)

after_each(function()
  for _, runner in ipairs(hosted) do runner:stop { cancel = true } end
  process.clean(folder)
end)

local function write(name, text)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

local function turboci(...)
  local started = process.start { ... }
  started.code = started:ended().code
  return started
end

local function serve(...)
  return process.serve { folder = folder, args = { ... } }
end

local function host(server, id, run)
  local runner = assert(runners.start { client = server.client, id = id, type = "test", ttl = 3600, run = run })
  hosted[#hosted + 1] = runner
  return runner
end

local function settle(server, plan_id)
  local follower = process.follow(server, plan_id, 1)
  follower:wait_settled()
  follower:close()
end

local function new_plan(server, stages, checks, policy)
  local plan = assert(server.client:create_work_plan { metadata = { name = "p" }, policy = policy }).work_plan
  assert(server.client:write_nodes { work_plan_id = plan.id, stages = stages, checks = checks })
  return plan.id
end

describe("turboci policy", function()
  it("shows its verbs, each with its own help", function()
    local help = turboci("policy", "--help")
    assert.equal(0, help.code, help.err)
    for _, verb in ipairs { "list", "reload", "check", "replay" } do
      assert.matches("\n  " .. verb, help.out)
      local own = turboci("policy", verb, "--help")
      assert.equal(0, own.code, own.err)
      assert.matches("Usage: turboci policy " .. verb, own.out, 1, true)
      assert.matches("Example: turboci policy " .. verb, own.out, 1, true)
    end
    assert.matches("Example: turboci policy", help.out, 1, true)
    local bare = turboci("policy")
    assert.same({ 2, "" }, { bare.code, bare.out })
    assert.matches("Usage: turboci policy VERB", bare.err, 1, true)
  end)

  local wrong = {
    { "an unknown verb", { "policy", "lst" }, "did you mean 'list'" },
    { "a missing file", { "policy", "check" }, "turboci policy check --help" },
    { "a file that is not there", { "policy", "check", "missing.lua" }, "missing.lua" },
    { "a folder that is not there", { "policy", "check", "x.lua", "--policies", "nowhere" }, "no such folder" },
    { "a folder that is none", { "serve", "--policies", "/dev/null" }, "give its folder" },
    { "a policy that is not there", { "serve", "--policy", "leest_loaded" }, "did you mean 'least_loaded'" },
    { "a type without its policy", { "serve", "--policy-for", "shell" }, "expected TYPE=NAME" },
    { "a type's policy that is not there", { "serve", "--policy-for", "shell=sprad" }, "did you mean 'spread'" },
    { "a policy file that is not there", { "serve", "--policy", "nosuch.lua" }, "serve: nosuch.lua: no such file" },
    { "a candidate that is not there", { "policy", "replay", "nosuch.lua" }, "replay: nosuch.lua: no such file" },
    { "a shadow file that is not there", { "serve", "--shadow", "nosuch.lua" }, "serve: nosuch.lua: no such file" },
    { "a shadow that is not there", { "serve", "--shadow", "leest_loaded" }, "did you mean 'least_loaded'" },
    { "a missing plan", { "why" }, "turboci why --help" },
  }
  for _, case in ipairs(wrong) do
    it("exits 2 for " .. case[1] .. ", and says what to do", function()
      local done = turboci(table.unpack(case[2]))
      assert.equal(2, done.code, done.out)
      assert.matches(case[3], done.err, 1, true)
      assert.equal("", done.out)
    end)
  end

  it("exits 4 when the server cannot be reached", function()
    local gone = "unix:" .. folder .. "/nobody"
    for _, words in ipairs { { "policy", "list" }, { "policy", "reload" }, { "why", "x" }, { "why", "x", "y" } } do
      table.move({ "--server", gone }, 1, 2, #words + 1, words)
      local done = turboci(table.unpack(words))
      assert.equal(4, done.code, done.err)
      assert.matches("turboci serve", done.err, 1, true)
    end
  end)
end)

describe("turboci policy check", function()
  local good = [[
    return {
      select = function(ctx) return ctx.runners[#ctx.runners], "the last" end,
      retry = function() return nil end,
    }]]

  it("says what a good policy is, answers and costs", function()
    local done = turboci("policy", "check", write("good.lua", good))
    assert.equal(0, done.code, done.err)
    assert.matches("^good  version %x+  " .. folder:gsub("%p", "%%%0") .. "/good.lua\n", done.out)
    assert.matches('\n  select +%d+ instructions +"c" +"the last"\n', done.out)
    assert.matches("\n  retry +%d+ instructions +nil\n", done.out)
    local json = cjson.decode(turboci("policy", "check", "--json", folder .. "/good.lua").out)
    assert.same({ "good", { "select", "retry" }, "c" }, { json.name, json.hooks, json.samples.select.answer })
  end)

  it("takes a file that begins with a byte order mark, and finds its faults all the same", function()
    local done = turboci("policy", "check", write("marked.lua", "\xef\xbb\xbf" .. good))
    assert.equal(0, done.code, done.err)
    local text = "\xef\xbb\xbfreturn { retry = function(ctx) if ctx.now < 0 then return ctx.nwo end end }"
    assert.equal(1, turboci("policy", "check", write("marked.lua", text)).code)
  end)

  it("passes every shipped policy", function()
    local shipped = assert(policies.shipped())
    local names = policies.names { shipped }
    assert.is_true(#names > 5)
    for _, name in ipairs(names) do
      local done = turboci("policy", "check", ("%s/%s.lua"):format(shipped, name))
      assert.equal(0, done.code, done.err)
    end
  end)

  local bad = {
    { "a syntax error", "return {\n  select = function(ctx) retrun 1 end\n}", "bad.lua:2:" },
    { "an unknown hook", "return { selct = function() end }", "did you mean 'select'" },
    { "a global that is not there", "return {\n priority = function() return prnt end }", "bad.lua:2:" },
    { "a typo that a sample takes, too", "return { priority = function(ctx)\n return ctx.plan.id .. bset end }",
      "bad.lua:2: 'bset' is neither a local nor something that a policy has" },
    { "an answer that differs", "local n = 0\nreturn { priority = function() n = n + 1 return n end }", "bad.lua" },
    { "an endless loop", "return { select = function() while true do end end }", "bad.lua" },
  }
  for _, case in ipairs(bad) do
    it("exits 2 for " .. case[1] .. ", with its line", function()
      local done = turboci("policy", "check", write("bad.lua", case[2]))
      assert.equal(2, done.code, done.out)
      assert.matches(case[3], done.err, 1, true)
      assert.equal("", done.out)
    end)
  end

  local odd = {
    { "a typo",
      "return {\n  priority = function(ctx)\n    local best\n    if ctx.plan.id == 'x' then return bset end\n  end }",
      "odd.lua:4: 'bset' is neither a local nor something that a policy has: did you mean 'best'?" },
    { "random numbers of the machine", "return { admit = function(ctx)\n if ctx.plan.id == 'x' then "
      .. "return math.random() end end }", "odd.lua:2: policies have no 'math.random': use ctx.random()" },
    { "a field that is not there", "return { admit = function(ctx)\n if ctx.plan.id == 'x' then "
      .. "return ctx.stage.arg end end }",
      "odd.lua:2: 'arg': the stage has no such field; it is always nil: did you mean 'args'?" },
  }
  for _, case in ipairs(odd) do
    it("exits 1 for " .. case[1] .. " in a branch that no sample takes: a server would take it over", function()
      local path = write("odd.lua", case[2])
      local done = turboci("policy", "check", path)
      assert.equal(1, done.code, done.err)
      assert.matches(case[3], done.err, 1, true)
      assert.matches("a server would take it over; these would be faults", done.err, 1, true)
      assert.matches("^odd  version %x+", done.out)
      local json = cjson.decode(turboci("policy", "check", "--json", path).out)
      assert.equal(1, #json.findings)
      assert.equal("odd", json.name)
    end)
  end

  it("prints JSON for a bad file, too, with what the lint found in it", function()
    local path = write("bad.lua", "return { selct = function()\n  return prnt end }")
    local done = turboci("policy", "check", "--json", path)
    assert.equal(2, done.code)
    local json = cjson.decode(done.out)
    assert.matches("did you mean 'select'", json.error, 1, true)
    assert.equal(2, json.findings[1].line)
    assert.matches('"findings":[]', turboci("policy", "check", "--json", write("bad.lua", "retrn")).out, 1, true)
  end)

  it("warns of a select that never chooses a runner", function()
    local done = turboci("policy", "check", write("never.lua", "return { select = function() return nil end }"))
    assert.equal(0, done.code)
    assert.matches("never.lua: select never chooses a runner in any sample", done.err, 1, true)
    done = turboci("policy", "check", write("later.lua", "return { select = function(ctx)\n"
      .. "if #ctx.attempts > 0 then return ctx.runners[1] end end }"))
    assert.same({ 0, "" }, { done.code, done.err })
  end)

  it("looks into the folders it is given for what the policy requires", function()
    assert(uv.fs_mkdir(folder .. "/lib", 448))
    finally(function()
      os.remove(folder .. "/lib/_nice.lua")
      uv.fs_rmdir(folder .. "/lib")
    end)
    write("lib/_nice.lua", "return { level = 3 }")
    local path = write("uses.lua", "local nice = require '_nice'\n"
      .. "return { priority = function() return nice.level end }")
    local done = turboci("policy", "check", path)
    assert.equal(2, done.code)
    assert.matches("_nice", done.err, 1, true)
    done = turboci("policy", "check", path, "--policies", folder .. "/lib")
    assert.equal(0, done.code, done.err)
  end)
end)

describe("the lint of policies", function()
  local function lines_of(text)
    local out = {}
    for i, problem in ipairs(lint.check(text)) do
      out[i] = ("%d %s"):format(problem.line, problem.text:match "'(.-)'")
    end
    return out
  end

  it("knows locals, parameters, fields, labels and loops", function()
    assert.same({}, lines_of [==[
      local a, b <const>, c = 1, 0x1F, [[ bset ]]
      local function f(x, ...) return x, ... end
      local t = { select = 1, [a] = b; other = c, f }
      function t.go(one) return one end
      function t:went(two) return self, two end
      for i = 1, 10 do t.x = i end
      for k, v in pairs(t) do t[k] = v goto done end
      ::done::
      repeat local stop = f(1) until stop
      while a do if b then local d = a; a = d elseif c then local e = c; b = e else local g = 1; c = g end end
      -- nobody --[[ nobody ]]
      --[[ nobody
      nobody ]]
      return { name = "x", admit = function(ctx) return ctx.now, 'it\'s "nobody"', "no\\", 1e5, .5 .. "" end }]==])
  end)

  it("finds what is nobody's, in its line", function()
    assert.same({ "1 x", "2 y", "4 i", "6 inner", "8 d", "9 late", "11 z" }, lines_of [[
local a = x
local t = { y, y = 1 }
for i = 1, 2 do end
t[1] = i
do local inner = 1; a = inner end
a = inner
if a then local d = 1; t[1] = d
else t[1] = d end
a = late; local late
function t.f(p)
  return function() z = p end
end]])
  end)

  it("knows the fields of the libraries, unless the name is a local's", function()
    assert.same({ "1 math.flor", "2 string.gsub", "3 os.time" }, lines_of [[
local a = math.floor(1) + math.flor(1)
local b = string.gsub("a", "b", "c")
local c = os.time()
local math = { flor = 1 }
return math.flor]])
  end)

  it("knows the fields of what hooks are shown, where it sees what something is", function()
    assert.same({ "3 runers", "4 metdata", "5 lod", "6 knd", "9 backof", "13 falure" }, lines_of [[
return {
  select = function(ctx)
    local a, stage = ctx.runers, 1
    local plan = ctx.plan; a = plan.metdata.x
    for _, r in ipairs(ctx.runners) do a = r.load + r.lod end
    a = ctx.attempts[#ctx.attempts].failure.knd, ctx.attempts[1].failure.kind
    stage = ctx.stage.args.anything.goes, plan.metadata.too
    local t = { runers = 1, stage = stage }
    return ctx.runners[1].id, ctx.stage.retry.backof, t.anything
  end,
  retry = function(ctx)
    local own = ctx.plan or {}; own.x = own.anything
    return ctx.falure.kind
  end,
  timeout = function(other) local ctx = other.x return other.anything, ctx.anything end,
}]])
  end)

  it("does not know what a local is that is assigned again, or a parameter of another name", function()
    assert.same({}, lines_of [[
local function own(c) return c.anything end
return { select = function(ctx)
  local best = ctx.runners[1]
  for _, r in ipairs(ctx.runners) do best = { runner = r, weight = best.weight } end
  return own(best)
end }]])
  end)

  it("agrees with the sandbox about the fields of what hooks are shown", function()
    local walk = write("walk.lua", [[
      local function names(view)
        local out = {}
        for name in pairs(view) do out[#out + 1] = name end
        return table.concat(out, " ")
      end
      local parts = { ctx = function(ctx) return ctx end, plan = function(ctx) return ctx.plan end,
        stage = function(ctx) return ctx.stage end, retry = function(ctx) return ctx.stage.retry end,
        timeouts = function(ctx) return ctx.stage.timeouts end, attempt = function(ctx) return ctx.attempt end,
        ended = function(ctx) return ctx.attempts[1] end, failure = function(ctx) return ctx.attempts[1].failure end,
        runner = function(ctx) return ctx.runners[1] end, defaults = function(ctx) return ctx.defaults end }
      local function ask(ctx)
        local part = parts[ctx.plan.metadata.part]
        return nil, part and names(part(ctx))
      end
      return { select = ask, retry = ask }]])
    local p = testing.policy(walk, { limits = { policy_reason_bytes_max = 1000 } })
    for part, fields in pairs(lint.shapes) do
      local view = { plan = { metadata = { part = part }, policy = "x" },
        stage = { retry = { max_attempts = 1, backoff = 1, backoff_max = 1 }, timeouts = { execution = 1, stale = 1 },
          args = { x = 1 } },
        attempts = { { runner = "a", failure = { kind = "TIMEOUT", message = "m" }, queued = 1, ran = 1 } } }
      local seen = part ~= "runner" and select(2, p:retry(view)) or ""
      view.runners = { { id = "a", load = 1, capacity = 2, metadata = { x = "y" }, used = 1, last_used = 1 } }
      seen = seen .. " " .. select(2, p:select(view))
      for name in seen:gmatch "%S+" do assert.is_truthy(fields[name], part .. "." .. name) end
      for name in pairs(fields) do
        assert.is_true(name == "args_omitted" or (" " .. seen .. " "):find(" " .. name .. " ", 1, true) ~= nil,
          part .. "." .. name)
      end
    end
  end)

  it("agrees with the sandbox about what there is", function()
    local lines = {}
    for name, fields in pairs(lint.globals) do
      lines[#lines + 1] = ("assert(%s ~= nil)"):format(name)
      for field in pairs(type(fields) == "table" and fields or {}) do
        lines[#lines + 1] = ("assert(%s.%s ~= nil, '%s.%s')"):format(name, field, name, field)
      end
    end
    local text = "return { admit = function()\n" .. table.concat(lines, "\n") .. "\nend }"
    assert.same({}, lint.check(text))
    local p = testing.policy(write("all.lua", text))
    assert.is_nil((p:admit()))
    -- The other way around: Lua's own globals and library fields that the lint does not know are not there.
    lines = {}
    for name, value in pairs(_G) do
      local known = lint.globals[name]
      if type(value) == "table" and known then
        for field in pairs(value) do
          if not known[field] then lines[#lines + 1] = ("%s.%s"):format(name, field) end
        end
      elseif not known and type(value) == "function" and debug.getinfo(value, "S").what == "C" then
        lines[#lines + 1] = name
      end
    end
    assert.is_true(#lines > 10)
    for i, name in ipairs(lines) do
      p = testing.policy(write(("g%d.lua"):format(i), ([[return { admit = function(ctx)
        if ctx.plan.id == "x" and %s ~= nil then error("it is there") end
      end }]]):format(name)))
      local ok, err = pcall(p.admit, p, { plan = { id = "x" } })
      assert.is_true(ok or not err:find("it is there", 1, true), name)
      p:close()
    end
  end)
end)

describe("turboci serve --policies", function()
  it("decides by the default, the type's and the plan's policy, and lists them", function()
    write("first.lua", "return { select = function(ctx) return ctx.runners[1], 'the first' end }")
    write("last.lua", "return { select = function(ctx) return ctx.runners[#ctx.runners], 'the last' end }")
    local server = serve("--policies", folder, "--policy", "first", "--policy-for", "other=last")
    host(server, "a", function() return true end)
    host(server, "b", function() return true end)
    local listed = turboci("policy", "list", "--server", server.address)
    assert.equal(0, listed.code, listed.err)
    assert.matches("NAME +VERSION +HOOKS +CALLS +P50 +P99 +FAULTS +ATTACHED TO +STATE", listed.out)
    assert.matches("\nfirst +%x+ +select +0 +%- +%- +0 +server +ok\n", listed.out)
    assert.matches("\nlast +%x+ +select +0 +%- +%- +0 +type:other +ok\n", listed.out)
    assert.matches("\nleast_loaded ", listed.out)
    local default = new_plan(server, { { id = "s", runner_type = "test" } })
    local own = new_plan(server, { { id = "s", runner_type = "test" } }, nil, "last")
    settle(server, default)
    settle(server, own)
    local why = turboci("why", default, "s", "--server", server.address)
    assert.equal(0, why.code, why.err)
    assert.matches("^stage s\n  stage 's' is FINAL, SUCCEEDED", why.out)
    assert.matches("select  first@%x+  chose a of a %(load 0%), b %(load 0%)\n", why.out)
    assert.matches("chose runner 'a' of 2 candidates: the first\n", why.out) -- the reason is told once
    local text = turboci("why", default, "s", "--json", "--server", server.address).out
    assert.matches('"excluded_runners":[]', text, 1, true)
    assert.matches('"attached_to":[]', turboci("policy", "list", "--json", "--server", server.address).out, 1, true)
    assert.matches('"changed":[]', turboci("policy", "reload", "--json", "--server", server.address).out, 1, true)
    why = cjson.decode(turboci("why", own, "s", "--json", "--server", server.address).out)
    assert.same({ own, "stage", "s" }, { why.plan, why.kind, why.id })
    assert.same({ "b", "last", "the last" },
      { why.decisions[1].runner_id, why.decisions[1].policy, why.decisions[1].reason })
    local json = cjson.decode(turboci("policy", "list", "--json", "--server", server.address).out)
    for _, info in ipairs(json.policies) do
      if info.name == "first" then assert.equal(1, info.calls) end
    end
    assert.matches("\nfirst +%x+ +select +1 +%d+%.%d µs +%d+%.%d µs +0 +server +ok\n",
      turboci("policy", "list", "--server", server.address).out)
  end)

  it("takes the default policy by its file", function()
    local server = serve("--policy", write("mine.lua", "return { priority = function() return 1 end }"))
    assert.matches("\nmine +%x+ +priority .- server +ok\n", turboci("policy", "list", "--server", server.address).out)
  end)

  it("asks a shadow too, and does not do what it says", function()
    write("first.lua", "return { select = function(ctx) return ctx.runners[1] end }")
    local shadow = write("last.lua", "return { select = function(ctx) return ctx.runners[#ctx.runners] end }")
    local server = serve("--policies", folder, "--policy", "first", "--shadow", shadow)
    host(server, "a", function() return true end)
    host(server, "b", function() return true end)
    local plan = new_plan(server, { { id = "s", runner_type = "test" } })
    settle(server, plan)
    assert.matches("first@%x+  chose a of ", turboci("why", plan, "s", "--server", server.address).out)
    assert.matches("\nlast +%x+ +select +1 [^\n]* shadow +ok\n",
      turboci("policy", "list", "--server", server.address).out)
    assert.equal(1, server.client:get_server_info({}).counters.shadow_differs)
    server:wait_for("shadow", "err") -- it is told unless --log says otherwise
  end)

  it("takes a shadow by its name", function()
    local server = serve("--shadow", "round_robin")
    assert.matches("\nround_robin [^\n]* shadow +ok\n", turboci("policy", "list", "--server", server.address).out)
  end)

  it("says that there is no default policy when there is none", function()
    local server = serve()
    assert.matches("no default policy", turboci("policy", "list", "--server", server.address).out, 1, true)
  end)

  it("reload says what changed, and exits 1 with file:line for what it cannot take over", function()
    write("mine.lua", "return { priority = function() return 1 end }")
    local server = serve("--policies", folder, "--policy", "mine")
    local done = turboci("policy", "reload", "--server", server.address)
    assert.same({ 0, "nothing has changed\n", "" }, { done.code, done.out, done.err })
    write("mine.lua", "return {\n  priority = function() retrun 1 end }")
    done = turboci("policy", "reload", "--server", server.address)
    assert.equal(1, done.code, done.out)
    assert.matches("policy mine is not taken over: [^\n]*mine.lua:2:", done.err)
    assert.matches("version %x+ runs on", done.err)
    local listed = turboci("policy", "list", "--server", server.address).out
    assert.matches("\nmine [^\n]*its file is not taken over: [^\n]*mine.lua:2:", listed)
    done = turboci("policy", "reload", "--json", "--server", server.address)
    assert.equal(1, done.code)
    assert.is_table(cjson.decode(done.out).policies)
  end)

  it("a plan's policy that is not there is refused, by its name", function()
    local server = serve()
    local path = write("w.lua", [[
      local plan = require("turboci").plan { name = "w", policy = "leest_loaded" }
      plan:stage("s", { runner = "test" })
      return plan]])
    local done = turboci("submit", path, "--server", server.address)
    assert.equal(2, done.code)
    assert.matches("leest_loaded", done.err, 1, true)
  end)
end)

describe("turboci run --policies", function()
  local function workflow(policy)
    return write("w.lua", ([[
      local plan = require("turboci").plan { name = "w", policy = %s }
      plan:stage("s", { runner = "shell", args = { command = "true" } })
      return plan]]):format(policy and ("%q"):format(policy) or "nil"))
  end

  it("runs a workflow with its own policy, a shipped one", function()
    local done = turboci("run", workflow "least_loaded")
    assert.equal(0, done.code, done.out .. done.err)
  end)

  it("runs a workflow under the policy of the command line", function()
    local path = write("never.lua", "return { timeout = function() return { queue = 0.001 } end,\n"
      .. "admit = function() return { wait = 3600 }, 'never' end, retry = function() end }")
    local done = turboci("run", "--policy", path, workflow())
    assert.equal(1, done.code, done.out .. done.err)
    done = turboci("run", "--policies", folder, "--policy-for", "shell=never", workflow())
    assert.equal(1, done.code, done.out .. done.err)
    done = turboci("run", "--policies", folder, workflow "never")
    assert.equal(1, done.code, done.out .. done.err)
  end)

  it("refuses a policy's name that is none", function()
    local done = turboci("run", workflow "policies/x.lua")
    assert.equal(2, done.code)
    assert.matches("w.lua:1: plan: policy: expected the name of a policy", done.err, 1, true)
  end)
end)

describe("turboci why", function()
  it("without a stage: what each open node waits for", function()
    local server = serve()
    host(server, "r", function(ctx)
      ctx:on_cancel(process.wake)
      process.wait(function() return ctx.cancelled end, "the end")
    end)
    local plan = new_plan(server, {
      { id = "runs", runner_type = "test", assignments = { { target_check_id = "done", goal_state = "FINAL" } } },
      { id = "queued", runner_type = "nobody" },
      { id = "later", runner_type = "test", dependencies = {
        predicate = "AND", dependencies = { { target_type = "STAGE", target_id = "queued" } },
      } },
    }, { { id = "done", state = "PLANNED" } })
    local done = turboci("why", plan, "--server", server.address)
    assert.equal(0, done.code, done.err)
    assert.matches("stage  queued  ATTEMPTING  no runner of type 'nobody'", done.out, 1, true)
    assert.matches("stage  later   PLANNED     waits for stage 'queued'", done.out, 1, true)
    assert.matches("check  done    WAITING     waits for the result of stage 'runs'", done.out, 1, true)
    local json = cjson.decode(turboci("why", plan, "--json", "--server", server.address).out)
    assert.equal(4, #json.nodes)
    assert.same({ "stage", "queued", "NO_RUNNER" }, { json.nodes[2].kind, json.nodes[2].id, json.nodes[2].cause.kind })
    done = turboci("why", plan, "done", "--server", server.address)
    assert.matches("^check done\n  check 'done' is WAITING\n  %- waits for the result of stage 'runs'", done.out)
    done = turboci("why", plan, "quued", "--server", server.address)
    assert.equal(2, done.code)
    assert.matches("did you mean 'queued'", done.err, 1, true)
    done = turboci("why", "no-such-plan", "--server", server.address)
    assert.equal(2, done.code)
    assert.matches("no-such-plan", done.err, 1, true)
  end)

  it("of a settled plan: what went wrong, or that nothing did", function()
    local server = serve()
    host(server, "r", function(ctx)
      if ctx.stage_id == "bad" then return nil, "exit code 2" end
      return true
    end)
    local plan = new_plan(server, {
      { id = "good", runner_type = "test" },
      { id = "bad", runner_type = "test" },
      { id = "later", runner_type = "test", dependencies = { predicate = "AND", dependencies = {
        { target_type = "STAGE", target_id = "bad", condition = "ON_SUCCESS" },
      } } },
    })
    settle(server, plan)
    local done = turboci("why", plan, "--server", server.address)
    assert.equal(0, done.code, done.err)
    assert.matches("^stage  bad    FAILED   attempt 1 failed on runner 'r' [^\n]*exit code 2\n"
      .. "stage  later  SKIPPED  was skipped because of stage 'bad'[^\n]*\n$", done.out)
    plan = new_plan(server, { { id = "good", runner_type = "test" } })
    settle(server, plan)
    assert.matches("nothing went wrong", turboci("why", plan, "--server", server.address).out, 1, true)
    assert.matches('"faults":[],"nodes":[]', turboci("why", plan, "--json", "--server", server.address).out, 1, true)
  end)

  it("of a settled plan: whose policy could not decide", function()
    write("fails.lua", "return { select = function(ctx)\n"
      .. "  if ctx.plan.metadata.name == 'p' then error 'boom' end\nend }")
    local server = serve("--policies", folder, "--policy", "fails")
    host(server, "r", function() return true end)
    local plan = new_plan(server, { { id = "s", runner_type = "test" } })
    settle(server, plan)
    local done = turboci("why", plan, "--server", server.address)
    assert.equal(0, done.code, done.err)
    assert.matches("^nothing waits and nothing failed, but policies could not decide\n"
      .. "stage  s  select  policy 'fails' could not decide, the built%-in default did: [^\n]*fails.lua:2: boom\n$",
      done.out)
    local json = cjson.decode(turboci("why", plan, "--json", "--server", server.address).out)
    assert.same({ "s", "fails", "select" }, { json.faults[1].id, json.faults[1].policy, json.faults[1].hook })
  end)
end)
