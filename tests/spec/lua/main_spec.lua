-- The program `turboci` (engine/lua/main.c): where it finds its Lua, what it hands over, how it ends. Its turboci.cli
-- is replaced through TURBOCI_HOME.
local bin = os.getenv "TURBOCI_BIN"
if not bin then return end -- a build tells; there is nothing to run otherwise

local home

-- Runs the program with this text as turboci/cli.lua; its output and exit code.
local function run(cli, arguments, streams)
  local file = assert(io.open(home .. "/lua/turboci/cli.lua", "w"))
  file:write(cli)
  file:close()
  local command = "TURBOCI_HOME=%s timeout 20 sh -c '%s %s %s'; echo exit $?"
  local out = assert(io.popen(command:format(home, bin, arguments or "", streams or "2>&1")))
  local text = out:read "a"
  out:close()
  local before, code = text:match "^(.*)exit (%d+)\n$"
  return before, tonumber(code)
end

describe("turboci", function()
  before_each(function()
    home = os.tmpname()
    os.remove(home)
    assert(os.execute("mkdir -p " .. home .. "/lua/turboci"))
  end)
  after_each(function() os.execute("rm -rf " .. home) end)

  it("hands its arguments to turboci.cli.main and ends with what that returns", function()
    local cli = [[return { main = function(args)
      io.write(#args, args[1], args[2], args == arg and "same" or "", args[0]) return %s end }]]
    local text, code = run(cli:format "7", [[a "b c"]])
    assert.same({ "2ab csame" .. bin, 7 }, { text, code })
    for value, expected in pairs { ["nil"] = 0, ["true"] = 0, ["false"] = 1, ["0"] = 0 } do
      assert.equal(expected, select(2, run(cli:format(value), "a b")), value)
    end
  end)

  it("has turboci.core inside and finds the libraries of the system", function()
    local text, code = run [[return { main = function()
      for _, name in ipairs { "turboci.core", "luv", "argparse", "cjson", "turboci.util" } do
        assert(type(require(name)) ~= "nil", name)
      end
      io.write(require "turboci.core".version, require "turboci.core".null == require "cjson".null and " null" or "")
    end }]]
    assert.equal(0, code, text)
    assert.truthy(text:match "^%d+%.%d+%.%d+ null$", text)
  end)

  it("shows what raised and where, and ends with 70", function()
    local text, code = run "local function broken() error 'oops' end\nreturn { main = function() broken() end }"
    assert.equal(70, code)
    assert.truthy(text:find("cli.lua:1: oops", 1, true), text)
    assert.truthy(text:find("stack traceback", 1, true), text)
    text, code = run "return { main = function() error({}) end }"
    assert.equal(70, code)
    assert.truthy(text:find("table: ", 1, true), text)
    text, code = run "this is not Lua"
    assert.equal(70, code)
    assert.truthy(text:find("cli.lua:1", 1, true), text)
  end)

  it("opens standard streams that are closed on /dev/null", function()
    local cli = [[return { main = function()
      local file = assert(io.open(arg[1], "w")) -- would be descriptor 1
      io.write "not for the file"
      file:write(io.read "a" == "" and "written" or "input")
      return 5
    end }]]
    for _, closed in ipairs { ">&-", "2>&-", "<&-", "<&- >&- 2>&-" } do
      assert.equal(5, select(2, run(cli, home .. "/file", closed)), closed)
      local file = assert(io.open(home .. "/file"))
      assert.equal("written", file:read "a", closed)
      file:close()
    end
  end)

  it("dies of SIGINT and SIGTERM while nobody handles them", function()
    local cli = [[return { main = function()
      local uv = require "luv"
      uv.kill(uv.os_getpid(), "%s")
      uv.new_timer():start(10000, 0, function() end)
      uv.run()
    end }]]
    assert.equal(130, select(2, run(cli:format "sigint")))
    assert.equal(143, select(2, run(cli:format "sigterm")))
  end)

  it("ends cleanly with handles open, once the loop is shut down", function()
    local text, code = run [[return { main = function()
      local loop, uv = require "turboci.loop", require "luv"
      loop.timer(1000, function() end)
      loop.on_signal("sigusr1", function() end)
      child = uv.spawn("/bin/true", {}, function() error "called back at the end" end)
      pipe = uv.new_pipe(false)
      loop.shutdown()
      return 3
    end }]]
    assert.same({ "", 3 }, { text, code })
  end)

  it("closes what was left open at its end", function()
    local text, code = run [[return { main = function()
      local core = require "turboci.core"
      server = assert(core.server { log = "off" }) -- a global: it lives as long as the state
      local hosts = { assert(core.host "127.0.0.1:0"), assert(core.host "127.0.0.1:0") }
      for i = 1, 20 do core.call(hosts[i % 2 + 1]:address(), "Run", "x") end
      core.call(server:address(), "CreateWorkPlan", "")
      engine = assert(core.virtual())
      local calls = 0
      while calls < 20 do
        for _, event in ipairs(core.take()) do calls = calls + (event.type == "call" and 1 or 0) end
      end
      at_end = setmetatable({}, { __gc = function() core.call("127.0.0.1:1", "Run", "") end }) -- may be too late
      return 3
    end }]]
    assert.equal(3, code, text)
  end)
end)
