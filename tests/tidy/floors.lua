-- Checks the tree against the rules of tests/tidy/tidy.lua: lua5.4 tests/tidy/floors.lua [PROJECT]
-- Prints one line a violation; exits 1 when there is any, or when there is nothing to check.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;" .. package.path
local tidy = require "tidy"

local project = arg[1] or "."
local folders = "engine lua proto policies tests examples dev .ci CMakeLists.txt"
local kinds = {}
for kind in ("*.c *.h *.lua *.py *.sh *.sql *.def *.proto *.txt dev run"):gmatch "%S+" do
  kinds[#kinds + 1] = ("-name '%s'"):format(kind)
end

local command = ("cd '%s' && find %s -type f \\( %s \\) 2>/dev/null | LC_ALL=C sort"):format(
  project:gsub("'", "'\\''"), folders, table.concat(kinds, " -o "))
local find = assert(io.popen(command))
local files, engine_files = {}, 0
for path in find:lines() do
  local file = assert(io.open(project .. "/" .. path, "rb"))
  files[#files + 1] = { path = path, text = file:read "a" }
  file:close()
  if path:match "^engine/.*%.[ch]$" then engine_files = engine_files + 1 end
end
find:close()

if engine_files == 0 then
  io.stderr:write("tidy: no C files under ", project, "/engine\n")
  os.exit(1)
end
local found = tidy.check(files)
for _, violation in ipairs(found) do print(violation) end
print(("tidy: %d files, %d violations"):format(#files, #found))
os.exit(#found == 0)
