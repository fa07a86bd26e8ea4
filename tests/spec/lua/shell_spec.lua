-- turboci.runner.shell: real commands, no engine. Every wait is for an output line or an end.

local loop = require "turboci.loop"
local shell = require "turboci.runner.shell"
local util = require "turboci.util"
local uv = require "luv"

-- The part of a runner's context that the shell uses. on_progress(message) is told of each update.
local function context(args, on_progress)
  local ctx = { args = args, updates = {}, callbacks = {} }
  function ctx.progress(_, message)
    table.insert(ctx.updates, message)
    if on_progress then on_progress(ctx, message) end
  end
  function ctx.on_cancel(_, fn)
    table.insert(ctx.callbacks, fn)
  end
  function ctx.cancel(_, reason)
    for _, fn in ipairs(ctx.callbacks) do
      fn(reason)
    end
  end
  return ctx
end

local function run(args, on_progress)
  local ctx = context(args, on_progress)
  local result, err = loop.run(shell.run, ctx)
  return result, err, ctx
end

-- kill(pid, 0) as a question. A zombie that init has not reaped yet is dead too.
local function alive(pid)
  local file = io.open("/proc/" .. pid .. "/stat")
  if not file then return false end
  local state = file:read("a"):match("%) (%a)")
  file:close()
  return state ~= "Z"
end

-- Killing is at once, dying is not quite: asks until it is so, on the loop.
local function dies(pid)
  local give_up = util.mono() + 5
  while alive(pid) do
    if util.mono() > give_up then return false end
    loop.await(function(resume) loop.timer(0.01, resume) end)
  end
  return true
end

describe("the shell runner", function()
  it("succeeds when the command does, with its output in the details", function()
    local result = run { command = "echo one; echo two >&2; echo three" }
    assert.is_nil(result.failure)
    assert.equal(0, result.details.exit_code)
    assert.equal("one\ntwo\nthree", result.details.output)
    assert.equal(0, result.data.exit_code)
  end)

  it("runs a text that is longer than the system takes as an argument", function()
    local filler = ("# filler\n"):rep(20000)
    local result = run { command = filler .. "echo reached; ls -l /proc/self/fd | grep -c script; exit 3" }
    assert.equal("exit code 3", result.failure)
    assert.equal("reached\n0", result.details.output)
  end)

  it("refuses what no program can be given, before it starts anything", function()
    local long = ("x"):rep(131072)
    for part, args in pairs {
      ["args.command has a zero byte"] = { command = "echo a\0b" },
      ["args.command[2] has a zero byte"] = { command = { "echo", "a\0b" } },
      ["args.command[2] has 131072 bytes"] = { command = { "echo", long } },
      ["args.env: a name is empty"] = { command = "true", env = { [""] = "x" } },
      ["args.env: the name \"A=B\" has '='"] = { command = "true", env = { ["A=B"] = "x" } },
      ["args.env: the name \"A\\0B\" has a zero byte"] = { command = "true", env = { ["A\0B"] = "x" } },
      ["args.env.A has a zero byte"] = { command = "true", env = { A = "a\0b" } },
      ["args.env.A has 131074 bytes"] = { command = "true", env = { A = long } },
      ["args.cwd has a zero byte"] = { command = "true", cwd = "a\0b" },
    } do
      local problem = shell.check(args)
      assert.is_truthy(problem and problem:find(part, 1, true), ("%s: %s"):format(part, tostring(problem)))
      local result, err = run(args)
      assert.is_nil(result)
      assert.equal(problem, err)
    end
    assert.is_nil(shell.check { command = { "echo", ("x"):rep(131071) } })
    assert.is_nil(shell.check { command = ("x"):rep(1000000) })
  end)

  it("fails with the exit code", function()
    local result = run { command = "echo bad; exit 3" }
    assert.equal("exit code 3", result.failure)
    assert.equal(3, result.details.exit_code)
    assert.equal("bad", result.details.output)
  end)

  it("names the signal that killed the command", function()
    local result = run { command = "kill -9 $$" }
    assert.equal("killed by SIGKILL", result.failure)
    assert.equal("SIGKILL", result.details.signal)
    assert.same({ nil, "SIGKILL" }, { result.data.exit_code, result.data.signal })
    assert.is_nil(result.details.exit_code) -- it never came to one
    assert.equal("killed by SIGABRT", run({ command = "kill -ABRT $$" }).failure) -- not by its other name
  end)

  it("runs a list without a shell", function()
    local result = run { command = { "printf", "%s|", "a b", "$HOME", ";" } }
    assert.equal("a b|$HOME|;|", result.details.output)
  end)

  it("adds env to its own environment", function()
    local result = run { command = "echo $EXTRA; echo ${PATH:+kept}", env = { EXTRA = 12 } }
    assert.equal("12\nkept", result.details.output)
    result = run { command = "echo $A $B $C", env = { A = 1700000000.123456, B = 0.1 + 0.2, C = 3.0 } }
    assert.equal("1700000000.123456 0.30000000000000004 3", result.details.output)
  end)

  it("runs in cwd", function()
    assert.equal("/", run({ command = "pwd", cwd = "/" }).details.output)
  end)

  it("gives the command no terminal and no input", function()
    assert.equal("end", run({ command = "cat; echo end" }).details.output)
  end)

  describe("refuses", function()
    local refused = {
      { "no command", {}, "args.command" },
      { "an empty command", { command = " " }, "args.command" },
      { "a list with a number in it", { command = { "echo", 1 } }, "args.command" },
      { "a cwd that is not there", { command = "true", cwd = "/nonexistent" }, "/nonexistent" },
      { "a timeout that is none", { command = "true", timeout = "soon" }, "args.timeout" },
      { "env with a table in it", { command = "true", env = { A = {} } }, "args.env" },
      { "a program that is not there", { command = { "/nonexistent/program" } }, "cannot start" },
    }
    for _, case in ipairs(refused) do
      it(case[1], function()
        local result, err = run(case[2])
        assert.is_nil(result)
        assert.matches(case[3], err, 1, true)
      end)
    end
  end)

  it("keeps the last 200 lines", function()
    local output = run({ command = "seq 1 1000" }).details.output
    assert.equal("801", output:match("^(%d+)\n"))
    assert.equal("1000", output:match("(%d+)$"))
  end)

  it("keeps the last 64 KiB, and cuts endless lines", function()
    local output = run({ command = "head -c 300000 /dev/zero | tr '\\0' x; echo; echo last" }).details.output
    assert.is_true(#output <= 65536)
    assert.is_true(#output > 40000)
    assert.matches("last$", output)
  end)

  it("makes any bytes valid UTF-8 without NUL", function()
    local output = run({ command = "printf 'a\\377b\\000c\\r\\nd'" }).details.output
    assert.is_not_nil(utf8.len(output))
    assert.is_nil(output:find("\0", 1, true))
    assert.matches("^a.*b.*c\nd$", output)
  end)

  it("streams output as it comes", function()
    local first
    local folder = assert(uv.fs_mkdtemp("/tmp/turboci-shell-XXXXXX"))
    local gate = folder .. "/gate"
    assert.is_true(os.execute("mkfifo " .. gate))
    -- The command goes on only when its first line has arrived here.
    local result = run({ command = ("echo first; read line < %s; echo $line"):format(gate) }, function(_, message)
      if first then return end
      first = message
      local file = assert(io.open(gate, "w"))
      file:write("second\n")
      file:close()
    end)
    os.remove(gate)
    uv.fs_rmdir(folder)
    assert.equal("first", first)
    assert.equal("first\nsecond", result.details.output)
  end)

  -- Runs it with a gate: the command's `read` waits until `opens(message)` was true for a message.
  local function run_gated(command, opens)
    local messages, open = {}, false
    local folder = assert(uv.fs_mkdtemp("/tmp/turboci-shell-XXXXXX"))
    assert.is_true(os.execute("mkfifo " .. folder .. "/gate"))
    local result = run({ command = command, cwd = folder }, function(_, message)
      table.insert(messages, message)
      if open or not opens(message) then return end
      open = true
      assert(io.open(folder .. "/gate", "w")):close()
    end)
    os.execute("rm -rf " .. folder)
    return result.details.output, messages
  end

  it("shows an unfinished line before it is finished, and then not again", function()
    local output, messages = run_gated("printf 'wait'; read x < gate; echo; echo done", function(message)
      return message == "wait"
    end)
    assert.equal("wait\ndone", output)
    assert.equal("wait\ndone", table.concat(messages, "\n"))
  end)

  it("takes a line that is written over for what it showed last", function()
    local output = run_gated("printf '10%%\\r40%%\\r'; printf '70%%\\r'; read x < gate; printf '100%%\\r\\nend\\r\\n'",
      function(message) return message == "70%" end)
    assert.equal("100%\nend", output)
    assert.equal("last", run({ command = "printf 'one\\rtwo\\rlast'" }).details.output)
    assert.equal("x", run({ command = "yes '' | tr '\\n' '\\r' | head -c 3000000; echo x" }).details.output)
  end)

  it("sends at most 4 updates a second, and the last lines always", function()
    local started = util.mono()
    local _, _, ctx = run { command = "for i in $(seq 1 60); do echo line $i; done; read -t 0.6 x < /dev/zero; "
      .. "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo more $i; done; echo the end" }
    local seconds = util.mono() - started
    assert.is_true(#ctx.updates <= 4 * seconds + 2, ("%d updates in %.2f s"):format(#ctx.updates, seconds))
    assert.matches("the end$", ctx.updates[#ctx.updates])
    for _, message in ipairs(ctx.updates) do
      local _, lines = message:gsub("^%.%.%. %d+ lines? not shown\n", ""):gsub("\n", "")
      assert.is_true(lines < 20)
    end
  end)

  it("says how many lines an update leaves out, and how many came before the output in the details", function()
    local result, _, ctx = run { command = "seq 300" }
    local shown, left_out = 0, 0
    for _, message in ipairs(ctx.updates) do
      local cut = message:match("^%.%.%. (%d+) lines? not shown\n")
      left_out = left_out + (cut or 0)
      for line in message:gmatch("[^\n]+") do
        if tonumber(line) then shown = shown + 1 end
      end
    end
    assert.equal(300, shown + left_out)
    assert.is_true(left_out > 0)
    assert.equal(100, result.details.lines_before)
    assert.matches("^101\n102\n", result.details.output)
  end)

  it("cuts a line that is too long between characters", function()
    local result = run { command = "i=0; while [ $i -lt 9000 ]; do printf 'x\u{65E5}'; i=$((i+1)); done" }
    assert.is_nil(result.details.output:find("\u{FFFD}", 1, true))
    assert.equal(("x\u{65E5}"):rep(9000), (result.details.output:gsub("\n", "")))
  end)

  it("refuses args that it does not know, with the nearest name", function()
    local result, err = run { command = "true", cwdd = "/" }
    assert.is_nil(result)
    assert.equal("args: the shell runner knows no 'cwdd': did you mean 'cwd'?", err)
    assert.matches("did you mean 'command'", shell.check { comand = "true" }, 1, true)
    assert.matches("args.env: expected", shell.check { command = "true", env = "A=1" }, 1, true)
    assert.is_nil(shell.check { command = "true", cwd = "/made/by/an/earlier/stage" })
  end)

  it("ends a command that takes too long, with all its children", function()
    local result = run { command = "sleep 1000 & echo $!; wait", timeout = "200ms" }
    assert.equal("timed out after 0.2s", result.failure)
    assert.equal("SIGTERM", result.details.signal)
    assert.is_true(dies(result.details.output))
  end)

  it("kills with SIGKILL after 2 seconds what ignores SIGTERM", function()
    local result = run { command = "trap '' TERM; echo up; while :; do sleep 0.1; done", timeout = "100ms" }
    assert.equal("timed out after 0.1s", result.failure)
    assert.equal("SIGKILL", result.details.signal)
    assert.is_true(result.details.duration >= 2)
  end)

  it("ends the process group when the execution is cancelled", function()
    local result = run({ command = "sleep 1000 & echo $!; wait" }, function(ctx) ctx:cancel("cancelled") end)
    assert.equal("cancelled", result.failure)
    assert.is_true(dies(result.details.output))
  end)

  it("names the deadline when that was the reason", function()
    local result = run({ command = "echo up; sleep 1000" }, function(ctx) ctx:cancel("deadline") end)
    assert.equal("the deadline passed", result.failure)
  end)

  it("leaves nothing of the group behind when the command ends by itself", function()
    local result = run { command = "sleep 1000 > /dev/null & echo $!" }
    assert.is_nil(result.failure)
    assert.is_true(dies(result.details.output))
  end)

  it("does not wait for a process that left the group but kept the pipe", function()
    local result = run { command = "setsid sleep 1000 & echo $!" }
    local pid = math.tointeger(tonumber(result.details.output))
    uv.kill(pid, "sigkill")
    assert.is_nil(result.failure)
    assert.is_true(result.details.duration < 100)
  end)
end)
