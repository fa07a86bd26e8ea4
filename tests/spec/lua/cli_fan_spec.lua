-- What the program ($TURBOCI_BIN) does with plans whose nodes grow with every change: it hears of changes only.

local program = os.getenv "TURBOCI_BIN"
local folder

before_each(function()
  assert(program, "TURBOCI_BIN does not name the turboci program")
  folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
end)

after_each(function() os.execute("rm -rf " .. folder) end)

-- Runs a plan; the exit code and all that was said.
local function run(body)
  local file = assert(io.open(folder .. "/w.lua", "w"))
  file:write(("local plan = require('turboci').plan { name = 'fan' }\n%s\nreturn plan\n"):format(body))
  file:close()
  local _, _, code = os.execute(("cd %s && timeout 100 %s run w.lua > out 2>&1"):format(folder, program))
  file = assert(io.open(folder .. "/out"))
  local out = file:read "a"
  file:close()
  return code, out
end

describe("the program follows", function()
  it("hundreds of stages that answer one check", function()
    local code, out = run [[
      local passes = plan:check "passes"
      for i = 1, 700 do
        plan:stage("t" .. i, { finalizes = passes, run = function()
          return { file = ("tests/some/path/test_%d.lua"):format(i), seconds = 0.25, notes = ("x"):rep(100) }
        end })
      end]]
    assert.equal(0, code, out:sub(-1000))
    assert.matches("fan SUCCEEDED  700 stages", out, 1, true)
  end)

  it("a stage that is repeated often and says much each time", function()
    local code, out = run [[
      plan:stage("poll", {
        runner = "shell",
        retry = { max_attempts = 40, backoff = "1ms", backoff_max = "1ms" },
        args = { command = "head -c 60000 /dev/zero | tr '\\0' 'x' | fold -w 600; exit 1" },
      })]]
    assert.equal(1, code, out:sub(-1000))
    assert.matches("attempt 39 failed: exit code 1", out, 1, true)
    assert.matches("fan FAILED  1 stage", out, 1, true)
  end)
end)
