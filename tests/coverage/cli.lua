-- Stands before the program's own turboci.cli (through TURBOCI_HOME) while coverage is measured: starts the line hook,
-- which the program would not load by itself, steps aside and loads the true one.
dofile(os.getenv("LUA_INIT_5_4"):sub(2))

local own = ("%s/lua/?.lua;%s/lua/?/init.lua;"):gsub("%%s", (os.getenv "TURBOCI_HOME"))
local _, last = package.path:find(own, 1, true)
package.path = package.path:sub(last + 1)
return assert(loadfile(assert(package.searchpath("turboci.cli", package.path))))(...)
