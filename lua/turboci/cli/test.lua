-- turboci test: busted inside this program, so that specs run on exactly this engine. All arguments are busted's own.

local M = {
  name = "test",
  summary = "Runs specs with busted inside this program",
  example = "turboci test tests/spec -o junit -Xoutput report.xml",
  raw = true,
}

local usage = [[
Usage: turboci test FILE|FOLDER ... [busted options]

Runs specs with busted inside this program. The options most used:
  --filter PATTERN         only tests whose name matches
  --tags TAGS              only tests with these #tags
  -o HANDLER               plainTerminal, utfTerminal, TAP, junit, json
  -Xoutput OPTION          for the handler: -o junit -Xoutput FILE
  --shuffle, --repeat N    in random order, several times
`busted --help` shows them all.

Exit codes: 0 all passed, 1 something failed, 2 wrong usage, or no test ran.
Example: ]]

local Left = {} -- raised by busted's own way out, so that the program's is taken

-- Busted's runner, once a program: leaves by an error of the class Left, and counts the tests that ran.
local function load_runner(counts)
  require("busted.compatibility").exit = function(code) error(setmetatable({ code = code }, Left), 0) end
  local execute = require "busted.execute"
  package.loaded["busted.execute"] = function(busted)
    busted.subscribe({ "test", "end" }, function()
      counts.tests = counts.tests + 1
      return nil, true
    end)
    return execute(busted)
  end
  return require "busted.runner"
end

local no_tests_wanted = { ["--list"] = true, ["-l"] = true, ["--version"] = true }

---@param words string[]
---@return integer exit_code
function M.run(words)
  if #words == 0 or words[1] == "-h" or words[1] == "--help" then
    local output = require "turboci.cli.output"
    local out = #words > 0 and output.stdout or output.stderr
    out:write(usage .. M.example .. "\n")
    return #words > 0 and 0 or 2
  end
  local counts = { tests = 0 }
  local found, runner = pcall(load_runner, counts)
  if not found then
    require("turboci.cli.common").fail(2,
      "turboci test: busted is not installed for Lua 5.4\n  on Debian: apt-get install lua-busted")
  end
  -- A spec that leaves the program, or what it tests, would leave out the tests after it.
  os.exit = function() error("os.exit in a spec: the tests after it would not run", 2) end -- luacheck: ignore 122
  -- busted reads its arguments from the global `arg`, and takes a chunk with a file name for a spec file of its own.
  _G.arg = table.move(words, 1, #words, 1, { [0] = "busted" })
  local chunk = assert(load("local runner = ...; runner({ standalone = false })", "=turboci test"))
  local ok, left = pcall(chunk, runner)
  require("turboci.testing.env").stop_all()
  if not ok and getmetatable(left) ~= Left then error(left, 0) end
  if not ok and left.code ~= 0 then return 1 end
  for _, word in ipairs(words) do
    if no_tests_wanted[word] then return 0 end
  end
  if counts.tests > 0 then return 0 end
  require("turboci.cli.common").fail(2, "turboci test: no test ran: no file has one, or the filters leave none")
end

return M
