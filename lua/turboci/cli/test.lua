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

Exit codes: 0 all passed, 1 something failed, 2 wrong usage.
Example: ]]

---@param words string[]
---@return integer exit_code
function M.run(words)
  if #words == 0 or words[1] == "-h" or words[1] == "--help" then
    local output = require "turboci.cli.output"
    local out = #words > 0 and output.stdout or output.stderr
    out:write(usage .. M.example .. "\n")
    return #words > 0 and 0 or 2
  end
  local found, runner = pcall(require, "busted.runner")
  if not found then
    require("turboci.cli.common").fail(2,
      "turboci test: busted is not installed for Lua 5.4\n  on Debian: apt-get install lua-busted")
  end
  -- busted reads its arguments from the global `arg`, and takes a chunk with a file name for a spec file of its own.
  _G.arg = table.move(words, 1, #words, 1, { [0] = "busted" })
  local chunk = assert(load("local runner = ...; runner({ standalone = false })", "=turboci test"))
  local exit = os.exit
  os.exit = function(...) -- luacheck: ignore 122
    require("turboci.testing.env").stop_all()
    exit(...)
  end
  chunk(runner) -- leaves the program itself when something failed
  os.exit = exit -- luacheck: ignore 122
  require("turboci.testing.env").stop_all()
  return 0
end

return M
