-- What the program ($TURBOCI_BIN) says reaches its reader: whole, clean, in time, or it is no success.

local cjson = require "cjson"

local program = os.getenv "TURBOCI_BIN"
local folder

local function write(name, text)
  local file = assert(io.open(folder .. "/" .. name, "w"))
  file:write(text)
  file:close()
end

local function read(name)
  local file = assert(io.open(folder .. "/" .. name))
  local text = file:read "a"
  file:close()
  return text
end

-- Runs a command of the shell in the folder ($T is the program); its stdout, exit code and stderr. SIGPIPE is not
-- ignored there, even if whoever started the specs ignores it, which children inherit.
local function sh(command)
  write("command.sh", command)
  local _, _, code = os.execute(("cd %s && T=%s timeout 60 env --default-signal=PIPE bash command.sh > out 2> err")
    :format(folder, program))
  return read "out", code, read "err"
end

local function plan(name, body)
  write("w.lua", ("local plan = require('turboci').plan { name = %q }\n%s\nreturn plan\n"):format(name, body))
end

local succeeds = [[plan:stage("s", { runner = "shell", args = { command = "true" } })]]

before_each(function()
  assert(program, "TURBOCI_BIN does not name the turboci program")
  folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
end)

after_each(function() os.execute("rm -rf " .. folder) end)

describe("the program's output", function()
  it("arrives whole on a terminal that is read late", function()
    -- 30 failures of 40 lines each: twenty times what a terminal holds. Nothing is read before the last stage runs.
    plan("late", [[
      local all = {}
      for i = 1, 30 do
        local command = "for n in $(seq 40); do echo \"a line that fails, number $n, and some words\"; done; exit 1"
        all[i] = plan:stage("t" .. i, { runner = "shell", args = { command = command } })
      end
      all.when = "final"
      plan:stage("go", { runner = "shell", after = all, args = { command = "echo go > fifo" } })
    ]])
    local out, code = sh("mkfifo fifo; python3 $TURBOCI_SOURCE/tests/spec/terminal.py fifo $T run -j4 w.lua")
    assert.equal(1, code, out)
    for i = 1, 30 do
      local from = out:find(("t%d FAILED\27[0m: exit code 1"):format(i), 1, true)
      assert.is_truthy(from, ("t%d is not in the ending: %s"):format(i, out:sub(-3000)))
    end
    local _, lines = out:gsub("a line that fails, number %d+, and some words\r\n", "")
    assert.equal(30 * 40, lines)
    assert.matches("late \27%[31mFAILED\27%[0m  31 stages in [^\n]* %(1 succeeded, 30 failed%)\r\n$", out)
    -- Frames were left out, but none was cut: each turns wrapping off and on again.
    local _, opened = out:gsub("\27%[%?7l", "")
    local _, closed = out:gsub("\27%[J\27%[%?7h", "")
    assert.equal(opened, closed)
  end)

  it("arrives whole through a pipe that somebody has made non-blocking, and is read late", function()
    plan("late", [[
      local command = "for n in $(seq 200); do echo $(seq 300); done; exit 1"
      plan:stage("many", { runner = "shell", args = { command = command } })
      plan:stage("go", { runner = "shell", after = { "many", when = "final" }, args = { command = "echo go > fifo" } })
    ]])
    write("nonblock.py", "import os, sys\nos.set_blocking(1, False)\nos.execv(sys.argv[1], sys.argv[1:])\n")
    local out = sh "mkfifo fifo; python3 nonblock.py $T run w.lua | { read -r word < fifo; cat; }"
    assert.matches("late FAILED  2 stages in [^\n]*\n$", out)
  end)

  it("waits for a reader who stands still, and the plan goes on meanwhile", function()
    -- More than the program lets wait before it reads no further; the last stage runs before anything is read.
    plan("still", [[
      local all = {}
      for i = 1, 120 do
        all[i] = plan:stage("t" .. i, { runner = "shell", args = {
          command = "head -c 60000 /dev/zero | tr '\\0' x | fold -w 500; exit 1" } })
      end
      all.when = "final"
      plan:stage("go", { runner = "shell", after = all, args = { command = "echo go > fifo" } })
    ]])
    local out, code = sh "mkfifo fifo; $T run -j4 w.lua --json | { read x < fifo; cat; }; exit ${PIPESTATUS[0]}"
    assert.equal(1, code)
    local ends, last = 0, nil
    for line in out:gmatch "[^\n]+" do
      last = cjson.decode(line)
      if last.type == "stage" and last.state == "FINAL" then ends = ends + 1 end
    end
    assert.equal(121, ends)
    assert.same({ "end", "FAILED", 121 }, { last.type, last.outcome, last.stages })
  end)

  it("has no escape sequences and no forged lines in it", function()
    plan("x\27[2J\nfake SUCCEEDED", [[
      plan:stage("s", { runner = "shell", args = { command = "printf 'said\\033[2J\\n'; exit 1" } })
    ]])
    local out, code = sh "$T run w.lua"
    assert.equal(1, code)
    assert.is_nil(out:find("\27", 1, true))
    assert.is_nil(out:find "\nfake")
    assert.matches("| said\n", out, 1, true)
    assert.matches("x\u{2424}fake SUCCEEDED FAILED", out, 1, true)
  end)

  it("is data with --json, whatever bodies and their children write", function()
    plan("stray", [[
      plan:stage("a", { run = function()
        io.write "raw\n"
        os.execute "echo child"
        io.stdout:write "more\n"
        print "said\27[1m"
      end })
    ]])
    local out, code, err = sh "$T run w.lua --json"
    assert.equal(0, code, err)
    local said
    for line in out:gmatch "[^\n]+" do
      local event = cjson.decode(line)
      if event.type == "output" then said = event.text end
    end
    assert.equal("said\27[1m", said)
    assert.matches("child\n", err, 1, true)
  end)

  it("is no success when it cannot be written", function()
    plan("full", succeeds)
    for _, command in ipairs { "$T run w.lua", "$T run w.lua --json", "$T --help", "$T --version" } do
      local _, code, err = sh(command .. " > /dev/full")
      assert.equal(74, code, command)
      assert.matches("turboci: cannot write to standard output: No space left on device\n", err, 1, true)
    end
  end)

  it("that fails leaves the code of a plan that failed", function()
    plan("full", succeeds:gsub("true", "false"))
    assert.equal(1, select(2, sh "$T run w.lua > /dev/full"))
  end)

  it("stops quietly when its reader has gone", function()
    plan("gone", [[
      local command = "echo one; until [ -e gone ]; do sleep 0.02; done; seq 1000"
      plan:stage("first", { runner = "shell", args = { command = command } })
      plan:stage("never", { runner = "shell", after = "first", args = { command = "sleep 1000" } })
    ]])
    local _, code, err = sh "$T run w.lua | { head -n 1; exec <&-; touch gone; }; exit ${PIPESTATUS[0]}"
    assert.equal(3, code, err)
    assert.equal("", err)
    local _, dead = sh "$T --help | exec true; exit ${PIPESTATUS[0]}"
    assert.is_true(dead == 141 or dead == 0) -- as any program: SIGPIPE, unless all fitted into the pipe
  end)

  it("keeps the lines of a message that has several", function()
    plan("lines", [[plan:stage("s", { run = function() return nil, "first\nsecond\nthird" end })]])
    local out = sh "$T run w.lua"
    assert.matches("s FAILED: first (attempt 1 on ", out, 1, true)
    assert.matches("\n    second\n    third\n", out, 1, true)
    assert.matches("%] s  FAILED in [%d.]+s: first\n%[ *[%d.]+s%] s  second\n", out)
  end)
end)
