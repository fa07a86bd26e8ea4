-- luacheck runs on Lua 5.1 on Debian; what it checks is Lua 5.4.
std = "lua54"
max_line_length = 120
codes = true
exclude_files = { "build" }

-- EmmyLua stubs declare functions whose parameters nobody uses.
files["lua/turboci/_meta"] = { ignore = { "111", "112", "113", "122", "143", "212", "241" } }
files["tests"] = { std = "+busted" }
files["tests/spec"] = { ignore = { "143/assert" } } -- assert.is_final and the like are added by turboci.testing
