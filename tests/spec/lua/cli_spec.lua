-- The program itself ($TURBOCI_BIN), as a person or a script uses it: arguments, output, exit codes, signals.

local cjson = require "cjson"
local client = require "turboci.client"
local loop = require "turboci.loop"
local uv = require "luv"

local program = os.getenv "TURBOCI_BIN"
local LIMIT = 30 -- seconds; nothing below takes long, this only ends a spec that would hang

local folder, processes

-- Starts the program. Its output is collected; process:wait_for(pattern) waits for a line on stdout.
local Process = {}
Process.__index = Process

local function environment(extra)
  local env = uv.os_environ()
  env.TURBOCI_SERVER, env.NO_COLOR = nil, nil
  for name, value in pairs(extra or {}) do
    env[name] = value
  end
  local list = {}
  for name, value in pairs(env) do
    list[#list + 1] = name .. "=" .. value
  end
  return list
end

local function spawn_program(path, args, env)
  local self = setmetatable({ out = "", err = "", open = 3 }, Process)
  self.pipes = { uv.new_pipe(false), uv.new_pipe(false) }
  local function less()
    self.open = self.open - 1
    if self.wake then self.wake() end
  end
  local pid
  self.handle, pid = uv.spawn(path, {
    args = args, env = environment(env), cwd = folder, stdio = { nil, self.pipes[1], self.pipes[2] },
  }, function(code, signal)
    self.code, self.signal = code, signal
    less()
  end)
  assert(self.handle, pid)
  self.pid = pid
  for i, name in ipairs { "out", "err" } do
    self.pipes[i]:read_start(function(_, bytes)
      if not bytes then return less() end
      self[name] = self[name] .. bytes
      if self.wake then self.wake() end
    end)
  end
  table.insert(processes, self)
  return self
end

local function spawn(args, env)
  return spawn_program(program, args, env)
end

function Process:await(done)
  local timer = loop.timer(LIMIT, function()
    self.late = true
    if self.wake then self.wake() end
  end)
  while not done() and not self.late do
    loop.await(function(resume) self.wake = resume end)
  end
  self.wake = nil
  timer:close()
  assert(done(), "waited in vain; stdout:\n" .. self.out .. "\nstderr:\n" .. self.err)
end

function Process:wait_for(pattern)
  self:await(function() return self.out:match(pattern) or self.open == 0 end)
  return assert(self.out:match(pattern), "ended without it; stdout:\n" .. self.out .. "\nstderr:\n" .. self.err)
end

function Process:ended()
  self:await(function() return self.open == 0 end)
  return self
end

function Process:close()
  if self.code == nil and self.signal == nil then
    uv.kill(self.pid, "sigkill")
    self:ended()
  end
  for _, handle in ipairs { self.handle, self.pipes[1], self.pipes[2] } do
    loop.close(handle)
  end
end

local function turboci(...)
  return spawn({ ... }):ended()
end

local function write(name, text)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

local workflow = [[
local turboci = require "turboci"
local p = ...
local plan = turboci.plan { name = "hello" }
local built, told = plan:check("built"), plan:check("told")
plan:stage("build", {
  runner = "shell", args = { command = "echo building " .. (p.who or "it") .. "; exit " .. (p.code or 0) },
  finalizes = built,
})
plan:stage("tell", { runner = "shell", args = { command = "echo telling" }, after = "build", finalizes = told })
return plan
]]

local function last_line(text)
  return text:match("([^\n]*)\n?$")
end

before_each(function()
  assert(program, "TURBOCI_BIN does not name the turboci program")
  folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/turboci-cli-XXXXXX"))
  processes = {}
end)

after_each(function()
  for i = #processes, 1, -1 do
    processes[i]:close()
  end
  local scan = uv.fs_scandir(folder)
  for name in function() return uv.fs_scandir_next(scan) end do
    uv.fs_unlink(folder .. "/" .. name)
  end
  assert(uv.fs_rmdir(folder))
end)

describe("turboci", function()
  it("shows its verbs and exit codes with --help", function()
    local help = turboci("--help")
    assert.equal(0, help.code)
    for _, verb in ipairs { "run", "serve", "runner", "submit", "watch", "status", "why", "policy", "test" } do
      assert.matches("\n  " .. verb, help.out)
      local own = turboci(verb, "--help")
      assert.equal(0, own.code, verb .. own.err)
      assert.matches("Example: turboci " .. verb, own.out, 1, true)
      assert.matches("[Ee]xit codes", own.out)
    end
    assert.matches("4  the server cannot be reached", help.out)
  end)

  it("shows its version", function()
    assert.matches("^turboci %d+%.%d+%.%d+\n$", turboci("--version").out)
  end)

  local wrong = {
    { "no verb", {}, "Usage: turboci VERB" },
    { "an unknown verb", { "rnu" }, "did you mean 'run'" },
    { "a missing argument", { "run" }, "turboci run --help" },
    { "an unknown option", { "run", "--keep", "x.lua" }, "turboci run --help" },
    { "a number that is none", { "run", "-j", "many", "x.lua" }, "'many' is not a number" },
    { "a parameter without =", { "run", "x.lua", "--", "oops" }, "write key=value" },
    { "a file that is not there", { "run", "missing.lua" }, "missing.lua" },
    { "a limit that does not exist", { "serve", "--limit", "turn_event_max=1" }, "did you mean 'turn_events_max'" },
    { "a limit that is too much", { "serve", "--limit", "message_bytes_max=2147483648" }, "at most 2147483647" },
    { "a host that is allowed and no host", { "serve", "--db", ":memory:", "--allow", "*" }, "without patterns" },
    { "a limit that is no number", { "serve", "--limit", "turn_events_max=x" }, "NAME=VALUE" },
    { "an address that is none", { "serve", "--listen", "nonsense", "--db", "x.db" }, "--listen" },
    { "metadata without =", { "runner", "shell", "--metadata", "warm" }, "expected KEY=VALUE" },
    { "a mode that is none", { "runner", "shell", "--mode", "maybe" }, "sync or async" },
    { "the limits of a plan", { "status", "x", "--limits" }, "give one of them" },
    { "a duration that is none", { "watch", "x", "--reconnect-timeout", "soon" }, "not a duration" },
  }
  for _, case in ipairs(wrong) do
    it("exits 2 for " .. case[1] .. ", and says what to do", function()
      local process = spawn(case[2]):ended()
      assert.equal(2, process.code)
      assert.matches(case[3], process.err, 1, true)
      assert.equal("", process.out)
    end)
  end

  it("exits 4 when the server cannot be reached", function()
    local gone = "unix:" .. folder .. "/nobody"
    for _, args in ipairs {
      { "status", "--server", gone },
      { "watch", "x", "--server", gone, "--reconnect-timeout", "0.2" },
      { "submit", write("w.lua", workflow), "--server", gone },
      { "submit", write("w.lua", workflow), "--server", gone, "--wait", "--reconnect-timeout", "200ms" },
      { "runner", "shell", "--server", gone, "--wait", "0" },
    } do
      local process = spawn(args):ended()
      assert.equal(4, process.code, table.concat(args, " ") .. "\n" .. process.err)
      assert.matches("turboci serve", process.err, 1, true)
    end
  end)
end)

describe("an empty TURBOCI_SERVER", function()
  it("is as good as none", function()
    local process = spawn({ "status" }, { TURBOCI_SERVER = "" }):ended()
    assert.is_nil(process.err:find("secure client channel", 1, true))
    assert.is_truthy(process.code == 0 or process.err:find("127.0.0.1:50051", 1, true), process.err)
  end)
end)

describe("turboci run", function()
  it("runs a workflow, shows it in plain lines in a pipe and exits 0", function()
    local process = turboci("run", write("w.lua", workflow), "--", "who=world")
    assert.equal(0, process.code, process.err)
    assert.matches("build%s+| building world", process.out)
    assert.matches("^hello SUCCEEDED  2 stages in %d+%.%ds$", last_line(process.out))
    assert.is_nil(process.out:find("\27", 1, true))
  end)

  it("runs where TMPDIR is too deep for a socket, or empty", function()
    write("w.lua", workflow)
    local deep = folder .. "/" .. ("d"):rep(100)
    uv.fs_mkdir(deep, 448)
    for _, path in ipairs { deep, "" } do
      local process = spawn({ "run", "w.lua" }, { TMPDIR = path }):ended()
      assert.equal(0, process.code, process.err)
    end
    assert.is_nil(uv.fs_scandir_next(uv.fs_scandir(deep)))
    uv.fs_rmdir(deep)
  end)

  it("finds the modules beside the workflow file, and tells a misspelt name before anything runs", function()
    uv.fs_mkdir(folder .. "/proj", 448)
    write("proj/words.lua", "return { hi = 'hello' }")
    local file = [[
      local words = require "words"
      local plan = require("turboci").plan { name = "p" }
      local build = plan:stage("build", { runner = "shell", args = { command = "echo " .. words.hi } })
      plan:stage("deploy", { runner = "shell", args = { command = "echo deployed" }, after = %s })
      return plan
    ]]
    local process = turboci("run", write("proj/ci.lua", file:format "build"))
    assert.equal(0, process.code, process.err)
    assert.matches("build%s+| hello", process.out)
    process = turboci("run", write("proj/ci.lua", file:format "biuld"))
    assert.equal(2, process.code)
    assert.matches("proj/ci.lua:4: 'biuld' is not defined: did you mean 'build'?", process.err, 1, true)
    assert.equal("", process.out)
    for _, name in ipairs { "words.lua", "ci.lua" } do os.remove(folder .. "/proj/" .. name) end
    uv.fs_rmdir(folder .. "/proj")
  end)

  it("names the file of a mistake in a call that returns its plan", function()
    local process = turboci("run", write("w.lua", 'return require("turboci").plan { polcy = "x" }'))
    assert.equal(2, process.code)
    assert.matches(folder .. "/w.lua: plan: unknown option 'polcy': did you mean 'policy'?", process.err, 1, true)
  end)

  it("exits 1 when a stage fails, shows its output and why others were skipped", function()
    local process = turboci("run", write("w.lua", workflow), "--", "code=3")
    assert.equal(1, process.code)
    assert.matches("build FAILED: exit code 3.-\n  | building it\n", process.out)
    assert.matches("tell SKIPPED: needs build to succeed: FAILED", process.out, 1, true)
    assert.matches("^hello FAILED  2 stages in .*%(1 failed, 1 skipped%)$", last_line(process.out))
  end)

  it("shows what a stage said that ran into its timeout", function()
    local process = turboci("run", write("w.lua", [[
      local plan = require("turboci").plan { name = "slow" }
      plan:stage("s", { runner = "shell", args = { command = "echo still at it; sleep 1000" }, timeout = "300ms",
        retry = { max_attempts = 1 } })
      return plan
    ]]))
    assert.equal(1, process.code)
    assert.matches("s FAILED: .-\n  | still at it\n", process.out)
  end)

  it("writes JSON lines with --json, the end last", function()
    local process = turboci("run", "--json", write("w.lua", workflow), "--", "code=3")
    assert.equal(1, process.code)
    local seen, last = {}, nil
    for line in process.out:gmatch("[^\n]+") do
      last = cjson.decode(line)
      seen[last.type] = (seen[last.type] or 0) + 1
      if last.type == "stage" and last.stage == "build" and last.state == "FINAL" then
        assert.same({ "FAILED", "exit code 3", 3 }, { last.outcome, last.failure.message, last.details.exit_code })
      end
    end
    assert.same({ "end", "hello", "FAILED", 2 }, { last.type, last.name, last.outcome, last.stages })
    assert.equal(2, seen.check)
    assert.is_truthy(seen.output)
  end)

  it("runs stage bodies in Lua", function()
    local process = turboci("run", write("w.lua", [[
      local plan = require("turboci").plan { name = "bodies" }
      local c = plan:check("c")
      plan:stage("sh", { runner = "shell", args = { command = "true" }, finalizes = c })
      plan:stage("body", { after = "sh", run = function(ctx)
        ctx:progress("ok is " .. tostring(ctx.results.c.ok))
      end })
      return plan
    ]]))
    assert.equal(0, process.code, process.out .. process.err)
    assert.matches("| ok is true", process.out, 1, true)
  end)

  it("runs stages of the mode async", function()
    local process = turboci("run", write("w.lua", [[
      local plan = require("turboci").plan { name = "a" }
      plan:stage("s", { runner = "shell", mode = "async", args = { command = "echo hi" }, finalizes = plan:check("c") })
      return plan
    ]]))
    assert.equal(0, process.code, process.out .. process.err)
    assert.matches("| hi", process.out, 1, true)
  end)

  local mistakes = {
    { "not Lua", "return (", "not valid Lua" },
    { "an error", "error('my mistake')", "w.lua:1: my mistake" },
    { "no plan", "return 5", "returns a number, not a plan" },
    { "nothing returned", "", "returns nothing, not a plan" },
    { "an unknown stage", [[local p = require("turboci").plan {}
      p:stage("compile", { runner = "shell", args = {} })
      p:stage("t", { runner = "shell", args = {}, after = "compil" })
      return p]], "did you mean 'compile'" },
    { "an unknown option", [[local p = require("turboci").plan {}
      p:stage("s", { runer = "shell" })]], "w.lua:2: stage 's': unknown option 'runer': did you mean 'runner'" },
    { "a command that the shell runner would refuse", [[local p = require("turboci").plan {}
      p:stage("s", { runner = "shell", args = { comand = "true" } })
      return p]], "w.lua:2: stage 's': args: the shell runner knows no 'comand': did you mean 'command'?" },
    { "a runner that nobody is", [[local p = require("turboci").plan {}
      p:stage("s", { runner = "docker" })
      return p]], "a runner of type 'docker'" },
  }
  for _, case in ipairs(mistakes) do
    it("exits 2 for a workflow file with " .. case[1] .. ", before anything runs", function()
      local process = turboci("run", write("w.lua", case[2]))
      assert.equal(2, process.code, process.out)
      assert.matches(case[3], process.err, 1, true)
      assert.equal("", process.out)
    end)
  end

  it("ends a body that never returns, with its stage's timeout", function()
    for _, waiting in ipairs {
      "loop.queue():pop()",
      "while true do end",
      "coroutine.wrap(function() loop.queue():pop() end)()",
    } do
      local process = turboci("run", write("w.lua", ([[
        local loop = require "turboci.loop"
        local plan = require("turboci").plan { name = "w" }
        plan:stage("s", { run = function() %s end, timeout = "300ms", retry = { max_attempts = 1 } })
        return plan
      ]]):format(waiting)))
      assert.equal(1, process.code, process.err)
      assert.matches("w FAILED", last_line(process.out))
      assert.equal("", process.err)
    end
  end)

  it("fails a stage whose body yields to nobody, leaves the program, or has a helper that fails", function()
    local bodies = {
      { "coroutine.yield()", "w.lua:1: coroutine.yield in a task" },
      { "os.exit(0)", "w.lua:1: os.exit in a workflow" },
      { "loop.spawn(function() error 'oops' end) loop.sleep(1000)", "that the body started failed: w.lua:1: oops" },
      { "loop.timer(0, function() error 'oops' end) loop.sleep(1000)", "a task that the body started failed" },
      { "coroutine.wrap(function() loop.spawn(error, 'oops') end)() loop.sleep(1000)", "started failed: oops" },
    }
    for _, case in ipairs(bodies) do
      write("w.lua", ("local loop, plan = require 'turboci.loop', require('turboci').plan { name = 'w' } "
        .. "plan:stage('s', { run = function() %s end }) return plan"):format(case[1]))
      local process = turboci("run", "w.lua")
      assert.equal(1, process.code, process.err)
      assert.equal("", process.err)
      assert.matches(case[2], process.out:match "s FAILED: [^\n]*", 1, true)
    end
  end)

  it("tells of a helper that fails when its body has returned, and leaves the stage as it is", function()
    local process = turboci("run", write("w.lua", [[
      local loop = require "turboci.loop"
      local plan = require("turboci").plan { name = "w" }
      local failing = loop.queue()
      plan:stage("s", { run = function()
        loop.timer(0, function()
          failing:push(true)
          error("too late", 0)
        end)
      end })
      plan:stage("t", { run = function() failing:pop() end })
      return plan
    ]]))
    assert.equal(0, process.code)
    assert.matches("stage 's' had ended when a task that the body started failed: too late", process.err, 1, true)
  end)

  it("refuses a workflow file that leaves the program", function()
    local process = turboci("run", write("w.lua", "os.exit(0)"))
    assert.equal(2, process.code)
    assert.matches("w.lua:1: os.exit in a workflow", process.err, 1, true)
  end)

  it("makes what a body in Lua prints the output of its stage", function()
    local path = write("w.lua", [[
      print("read")
      local plan = require("turboci").plan { name = "prints" }
      plan:stage("body", { run = function()
        print("one", 2)
        error("no more")
      end })
      return plan
    ]])
    local process = turboci("run", path)
    assert.equal("read\n", process.err)
    assert.matches("body  | one    2\n", process.out, 1, true)
    assert.matches("body FAILED: [^\n]*w.lua:5: no more [^\n]*\n  | one    2\n", process.out)
    for line in turboci("run", "--json", path).out:gmatch("[^\n]+") do
      assert.is_table(cjson.decode(line))
    end
  end)

  it("tells each failed attempt once, and the last one as the stage's end", function()
    local process = turboci("run", write("w.lua", [[
      local plan = require("turboci").plan { name = "again" }
      plan:stage("s", { runner = "shell", args = { command = "exit 9" },
        retry = { max_attempts = 2, backoff = "1ms" } })
      return plan
    ]]))
    local _, told = process.out:gsub("attempt %d failed: exit code 9\n", "")
    assert.equal(1, told, process.out)
    local _, ended = process.out:gsub("s  FAILED in [^\n]*: exit code 9\n", "")
    assert.equal(1, ended, process.out)
  end)

  it("gives the slot of a command that ran into its timeout to the next, without a refusal between", function()
    local process = turboci("run", "-j1", "--json", write("w.lua", [[
      local plan = require("turboci").plan { name = "slots" }
      plan:stage("slow", { runner = "shell", args = { command = "trap 'sleep 0.2; exit' TERM; sleep 1000 & wait" },
        timeout = "200ms", retry = { max_attempts = 1 }, priority = 1 })
      plan:stage("next", { runner = "shell", args = { command = "true" }, retry = { max_attempts = 1 } })
      return plan
    ]]))
    local ends = {}
    for line in process.out:gmatch("[^\n]+") do
      local event = cjson.decode(line)
      if event.type == "stage" and event.state == "FINAL" then ends[event.stage] = event.outcome end
    end
    assert.same({ slow = "FAILED", next = "SUCCEEDED" }, ends, process.out)
  end)

  it("gives a body in Lua the results of many stages with long outputs", function()
    local process = turboci("run", "-j8", write("w.lua", [[
      local plan = require("turboci").plan { name = "many" }
      local all = {}
      for i = 1, 100 do
        all[i] = plan:stage("s" .. i, { runner = "shell", finalizes = plan:check("c" .. i),
          args = { command = "head -c 60000 /dev/zero | tr '\\0' x | fold -w 1000" } })
      end
      plan:stage("sum", { after = all, run = function(ctx)
        local good = 0
        for _, check in pairs(ctx.results) do good = good + (check.ok and 1 or 0) end
        print(good .. " are good")
      end })
      return plan
    ]]))
    assert.equal(0, process.code, last_line(process.out))
    assert.matches("sum%s+| 100 are good\n", process.out)
  end)

  it("keeps the journal with --keep-db, and never overwrites one", function()
    assert.equal(0, turboci("run", "--keep-db", "kept.db", write("w.lua", workflow)).code)
    assert.is_true(uv.fs_stat(folder .. "/kept.db").size > 0)
    local again = turboci("run", "--keep-db", "kept.db", write("w.lua", workflow))
    assert.equal(2, again.code)
    assert.matches("exists already", again.err)
  end)

  local function assert_no_folder_left()
    local scan = uv.fs_scandir(folder)
    for name in function() return uv.fs_scandir_next(scan) end do
      assert.is_nil(name:find("^turboci%-"), name)
    end
  end

  it("leaves no temporary folder behind", function()
    assert.equal(0, spawn({ "run", write("w.lua", workflow) }, { TMPDIR = folder }):ended().code)
    assert_no_folder_left()
  end)

  local forever = [[
    local plan = require("turboci").plan { name = "forever" }
    plan:stage("s", { runner = "shell", args = { command = "%s echo $$ is up; sleep 1000 & wait; wait" } })
    return plan
  ]]

  local function gone(pid)
    local file = io.open("/proc/" .. pid .. "/stat")
    if not file then return true end
    local state = file:read("a"):match("%) (%a)")
    file:close()
    return state == "Z"
  end

  it("stops at Ctrl-C: ends the commands and exits 3", function()
    local process = spawn { "run", write("w.lua", forever:format("")) }
    local pid = process:wait_for("| (%d+) is up")
    uv.kill(process.pid, "sigint")
    assert.equal(3, process:ended().code)
    assert.matches("forever INTERRUPTED", last_line(process.out))
    assert.is_true(gone(pid))
  end)

  it("ends the commands too when its terminal goes away, or its reader", function()
    for _, signal in ipairs { "sighup", "sigpipe" } do
      local process = spawn({ "run", write("w.lua", forever:format("")) }, { TMPDIR = folder })
      local pid = process:wait_for("| (%d+) is up")
      uv.kill(process.pid, signal)
      assert.equal(3, process:ended().code)
      assert.is_true(gone(pid))
      assert_no_folder_left()
    end
  end)

  it("goes on without a terminal when it was started with nohup", function()
    local process = spawn_program("/bin/sh", { "-c", "trap '' HUP; exec \"$0\" run w.lua", program })
    write("w.lua", [[
      local plan = require("turboci").plan { name = "stays" }
      plan:stage("s", { runner = "shell", args = { command = "echo up; until [ -e go ]; do sleep 0.02; done" } })
      return plan
    ]])
    process:wait_for("| up")
    uv.kill(process.pid, "sighup")
    write("go", "")
    assert.equal(0, process:ended().code)
  end)

  it("takes a signal that is sent twice at the same moment for one", function()
    local process = spawn({ "run", write("w.lua", forever:format("")) }, { TMPDIR = folder })
    process:wait_for("| (%d+) is up")
    uv.kill(process.pid, "sigint")
    uv.kill(process.pid, "sigint")
    assert.equal(3, process:ended().code)
    assert.matches("forever INTERRUPTED", last_line(process.out))
    assert_no_folder_left()
  end)

  it("leaves at once at the second Ctrl-C, and takes the commands with it", function()
    local process = spawn({ "run", write("w.lua", forever:format("trap '' TERM;")) }, { TMPDIR = folder })
    local pid = process:wait_for("| (%d+) is up")
    uv.kill(process.pid, "sigint")
    process:await(function() return process.err:find("stopping", 1, true) end)
    uv.kill(process.pid, "sigint")
    assert.equal(3, process:ended().code)
    spawn_program("tail", { "--pid=" .. pid, "-f", "/dev/null" }):ended() -- killed it is, but dying takes a moment
    assert.is_true(gone(pid))
    assert_no_folder_left()
  end)
end)

describe("turboci serve, runner, submit, watch and status", function()
  local function serve(...)
    local process = spawn { "serve", "--listen", "127.0.0.1:0", "--db", "t.db", ... }
    return process, process:wait_for("^listening on (%S+) db t%.db\n")
  end

  it("show a plan that no single message holds", function()
    local server, address = serve()
    local c = client.connect(address)
    local plan = assert(c:create_work_plan { metadata = {} }).work_plan
    for i = 1, 6 do
      assert(c:write_nodes { work_plan_id = plan.id, omit_nodes = true, checks = { {
        id = "large-" .. i, options = { text = ("x"):rep(6 * 1000 * 1000 // (i + 1)) },
      } } })
    end
    local status = turboci("status", plan.id, "--server", address)
    assert.equal(0, status.code, status.err)
    for i = 1, 6 do assert.matches("check  large%-" .. i, status.out) end
    local why = turboci("why", plan.id, "--server", address)
    assert.equal(0, why.code, why.err)
    for i = 1, 6 do assert.matches("check  large%-" .. i, why.out) end
    uv.kill(server.pid, "sigterm")
    assert.equal(0, server:ended().code)
  end)

  it("tell a server that cannot do it now from one that is not there", function()
    local server, address = serve()
    local common = require "turboci.cli.common"
    local unavailable = client.error("UNAVAILABLE", "the store cannot commit: free some disk space")
    local ok, failure = pcall(common.fail_call, "submit the plan", address, unavailable)
    assert.is_false(ok)
    assert.equal(4, failure.code)
    assert.matches("cannot do it now: UNAVAILABLE: the store cannot commit", failure.message, 1, true)
    assert.is_nil(failure.message:find("is it running", 1, true))
    uv.kill(server.pid, "sigterm")
    server:ended()
    ok, failure = pcall(common.fail_call, "submit the plan", address, unavailable)
    assert.is_false(ok)
    assert.equal(4, failure.code)
    assert.matches("is it running?", failure.message, 1, true)
  end)

  it("run a plan over processes of their own", function()
    local server, address = serve()
    local runner = spawn({ "runner", "shell", "--id", "r1", "--metadata", "warm=yes", "--metadata", "note=a=b" },
      { TURBOCI_SERVER = address })
    runner:wait_for("^runner r1 registered at " .. address:gsub("%p", "%%%0") .. ", listening 127%.0%.0%.1:%d+\n")

    local listed = assert(client.connect(address):list_stage_runners {})
    assert.same({ warm = "yes", note = "a=b" }, listed.runners[1].metadata)

    local submitted = turboci("submit", write("w.lua", workflow), "--server", address, "--wait")
    assert.equal(0, submitted.code, submitted.err)
    local id = submitted.out:match("^(%S+)\n")
    assert.matches("^hello SUCCEEDED  2 stages", last_line(submitted.out))

    local failed = turboci("submit", write("w.lua", workflow), "--server", address, "--wait", "--json", "--", "code=1")
    assert.equal(1, failed.code, failed.err)
    assert.equal("plan", cjson.decode(failed.out:match("^[^\n]+")).type)

    local watched = turboci("watch", id, "--server", address)
    assert.equal(0, watched.code, watched.err)
    assert.matches("^hello SUCCEEDED  2 stages", last_line(watched.out))
    -- Late as it is, it tells how long the work took.
    local ended = cjson.decode(last_line(turboci("watch", id, "--server", address, "--json").out))
    local plan = cjson.decode(turboci("status", id, "--server", address, "--json").out).plan
    assert.near(plan.updated_at - plan.created_at, ended.elapsed, 1e-6)

    local status = turboci("status", "--server", address)
    assert.matches("r1%s+shell%s+0/%d+%s+sync,async", status.out)
    status = turboci("status", id, "--server", address)
    assert.matches("stage  build  FINAL  SUCCEEDED  ATTEMPT_COMPLETE  1 COMPLETE", status.out)
    assert.is_table(cjson.decode(turboci("status", id, "--server", address, "--json").out).stages)

    uv.kill(runner.pid, "sigterm")
    assert.equal(0, runner:ended().code)
    assert.matches("no runners", turboci("status", "--server", address).out)
    uv.kill(server.pid, "sigterm")
    assert.equal(0, server:ended().code)
  end)

  it("refuse to submit Lua bodies without --wait", function()
    local process = turboci("submit", write("w.lua", [[
      local plan = require("turboci").plan {}
      plan:stage("body", { run = function() end })
      return plan]]))
    assert.equal(2, process.code)
    assert.matches("add --wait", process.err, 1, true)
  end)

  it("say that a plan goes on when nobody follows it any more", function()
    local _, address = serve()
    local path = write("w.lua", [[
      local plan = require("turboci").plan { name = "waits" }
      plan:stage("s", { runner = "nobody" })
      return plan]])
    local submitted = spawn { "submit", path, "--server", address, "--wait" }
    local id = submitted:wait_for("^(wp%-%w+)\n")
    uv.kill(submitted.pid, "sigint")
    assert.equal(3, submitted:ended().code)
    local follow = ("the plan goes on; `turboci watch %s --server %s` follows it again"):format(id, address)
    assert.matches(follow, submitted.err, 1, true)
    local status = turboci("status", id, "--server", address).out
    assert.matches("^waits  ACTIVE\n", status)
    assert.matches("stage +s +ATTEMPTING .* no runner of type 'nobody'", status)
  end)

  it("exit 2 for a plan that does not exist", function()
    local _, address = serve()
    for _, verb in ipairs { "watch", "status" } do
      local process = turboci(verb, "no-such-plan", "--server", address)
      assert.equal(2, process.code, process.out .. process.err)
      assert.matches("no-such-plan", process.err, 1, true)
    end
  end)

  it("go on over a kill -9 of the server", function()
    local server, address = serve()
    local runner = spawn { "runner", "shell", "--server", address, "--mode", "async", "-j4" }
    runner:wait_for("registered")
    assert.is_true(os.execute("mkfifo " .. folder .. "/gate"))
    local submitted = spawn { "submit", "--server", address, "--wait", write("w.lua", [[
      local plan = require("turboci").plan { name = "survivor" }
      plan:stage("s", { runner = "shell", mode = "async", args = { command = "echo up; read x < ]]
      .. folder .. [[/gate; echo got $x" }, finalizes = plan:check("c") })
      return plan]]) }
    submitted:wait_for("| up")
    uv.kill(server.pid, "sigkill")
    server:ended()
    local again = spawn { "serve", "--listen", address, "--db", "t.db" }
    again:wait_for("^listening")
    local gate = assert(io.open(folder .. "/gate", "w"))
    gate:write("through\n")
    gate:close()
    assert.equal(0, submitted:ended().code, submitted.out .. submitted.err)
    assert.matches("^survivor SUCCEEDED  1 stage in", last_line(submitted.out))
  end)
end)

describe("turboci test", function()
  it("runs specs with busted inside the program, and writes junit", function()
    local spec = write("x_spec.lua", [[
      describe("x", function()
        it("sees this engine", function() assert.is_string(require("turboci.core").version) end)
      end)]])
    local process = turboci("test", spec, "-o", "junit", "-Xoutput", "report.xml")
    assert.equal(0, process.code, process.out .. process.err)
    local file = assert(io.open(folder .. "/report.xml"))
    assert.matches("<testsuite .-tests=['\"]1['\"]", (file:read("a"):gsub("<testsuites.->", "")))
    file:close()
    assert.matches("1 success", turboci("test", spec).out)
  end)

  it("is the program that the grpc world starts, unless TURBOCI_BIN names one", function()
    local spec = write("x_spec.lua", [[
      it("sees a server", function()
        local env = require("turboci.testing").env { world = "grpc" }
        assert.is_string(env.client:get_server_info({}).version)
        env:stop()
      end)]])
    local process = spawn_program("/bin/sh", { "-c", "unset TURBOCI_BIN; exec \"$0\" test " .. spec, program }):ended()
    assert.equal(0, process.code, process.out .. process.err)
  end)

  it("stops the engines that specs have left, also when they fail", function()
    for _, ends in ipairs { "true", "false" } do
      local spec = write("left_spec.lua", ([[
        it("leaves one", function()
          local env = require("turboci.testing").env { world = "grpc" }
          print(("pid %%d."):format(env.world.pid))
          assert.is_true(%s)
        end)]]):format(ends))
      local process = turboci("test", spec)
      assert.equal(ends == "true" and 0 or 1, process.code, process.out)
      local pid = math.tointeger(process.out:match "pid (%d+)%.")
      assert.is_nil(uv.kill(pid, 0))
    end
  end)

  it("is no success when a spec leaves the program, or no test runs", function()
    write("leaves_spec.lua", [[describe("x", function()
      it("leaves", function() os.exit(0) end)
      it("is run nevertheless", function() end)
    end)]])
    local process = turboci("test", "leaves_spec.lua")
    assert.equal(1, process.code)
    assert.matches("1 success / 0 failures / 1 error", process.out, 1, true)
    assert.matches("os.exit in a spec", process.out, 1, true)
    process = turboci("test", "leaves_spec.lua", "--filter=nothing-of-that-name")
    assert.equal(2, process.code)
    assert.matches("no test ran", process.err, 1, true)
    assert.equal(0, turboci("test", "leaves_spec.lua", "--list").code)
  end)

  it("exits 1 when a spec fails", function()
    local process = turboci("test", write("x_spec.lua", [[it("fails", function() assert.is_true(false) end)]]))
    assert.equal(1, process.code)
    assert.matches("1 failure", process.out)
  end)
end)
