-- luacheck runs on Lua 5.1 on Debian; what it checks is Lua 5.4.
std = "lua54"
max_line_length = 120
codes = true
exclude_files = {
  "build",
  -- Bytecode, and what no compiler takes.
  "tests/spec/hostile/_compiled.lua",
  "tests/spec/hostile/load_deep_source.lua",
  "tests/spec/hostile/load_wide_source.lua",
}

-- EmmyLua stubs declare functions whose parameters nobody uses.
files["lua/turboci/_meta"] = { ignore = { "111", "112", "113", "122", "143", "212", "241" } }
files["tests"] = { std = "+busted" }
files["tests/spec"] = { ignore = { "143/assert" } } -- assert.is_final and the like are added by turboci.testing
-- Hostile policies do what nobody should.
files["tests/spec/hostile"] = { ignore = { "111", "113", "121", "122", "142", "143", "2", "3", "4", "5" } }
-- Policies see the globals of their sandbox only.
files["policies"] = {
  std = {
    read_globals = {
      "assert", "error", "ipairs", "pairs", "pcall", "select", "tonumber", "tostring", "type", "require",
      "setmetatable", "getmetatable", "math", "string", "table",
    },
  },
}
