-- Which lines of lua/ a process ran: a line hook, loaded before anything else (by LUA_INIT_5_4=@THIS in a stock lua5.4,
-- by cli.lua beside this file in the turboci program).
--
-- When the process ends, a file named by its pid in the folder $TURBOCI_LUA_COVERAGE gets a line for each file of ours:
-- its path from lua/ on, then the numbers of the lines that ran. A process that is killed leaves nothing, and nobody
-- misses it: what it ran before, others ran too. tests/coverage/report.lua reads them.
-- luacheck: ignore 122 (it replaces functions of the standard libraries)
local folder = os.getenv "TURBOCI_LUA_COVERAGE"
if not folder then return end

local getinfo, sethook = debug.getinfo, debug.sethook
local create, resume = coroutine.create, coroutine.resume
local exit = os.exit

local lines_of = {} -- source of a chunk -> lines that ran, or false when it is not ours

local function on_line(_, line)
  local source = getinfo(2, "S").source
  local lines = lines_of[source]
  if lines then
    lines[line] = true
  elseif lines == nil then
    lines_of[source] = source:match "^@.*lua/turboci/.*%.lua$" and { [line] = true } or false
  end
end

local written = false
local function write()
  if written then return end
  written = true
  sethook()
  local stat = io.open "/proc/self/stat"
  local file = stat and io.open(("%s/%d"):format(folder, stat:read "n"), "a") -- a pid may come again
  if not file then return end
  for source, lines in pairs(lines_of) do
    if lines then
      local numbers = {}
      for line in pairs(lines) do numbers[#numbers + 1] = line end
      file:write(source:match "lua/turboci/.*$", " ", table.concat(numbers, " "), "\n")
    end
  end
  file:close()
end

-- A hook belongs to one coroutine.
local function create_hooked(f)
  local co = create(f)
  sethook(co, on_line, "l")
  return co
end

local function results(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

function coroutine.create(f) return create_hooked(f) end

function coroutine.wrap(f)
  local co = create_hooked(f)
  return function(...) return results(resume(co, ...)) end
end

function os.exit(...)
  write()
  return exit(...)
end

-- Closing the state finalises this one last, since it is the oldest.
TURBOCI_LUA_LINES = setmetatable({}, { __gc = write }) -- luacheck: ignore 111
sethook(on_line, "l")
