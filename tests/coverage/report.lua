-- One table of what the tests ran, and whether it is enough: lua5.4 tests/coverage/report.lua SUMMARY LUA_FOLDER
--
-- SUMMARY is gcovr's --json-summary of engine/; LUA_FOLDER has what tests/coverage/lua_lines.lua wrote. The Lua lines
-- that never ran go to lua.txt beside SUMMARY. Exits 1 below a threshold. Run by ./dev coverage in the project's root.
local json = require "cjson"

local summary_path, lua_folder = arg[1], arg[2]

-- Percent of lines, of branches. A row's name is a folder; "lua" stands for lua/turboci without the stubs in _meta.
local thresholds = {
  ["engine/core"] = { lines = 95, branches = 90 },
  ["engine"] = { lines = 85 },
  ["lua"] = { lines = 85 },
}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

local function run(command)
  local out = {}
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do out[#out + 1] = line end
  assert(pipe:close(), command .. ": failed")
  return out
end

-- ---- counting ----

local rows = {}

local function count(name, kind, covered, total)
  local row = rows[name] or { name = name, lines = { 0, 0 }, branches = { 0, 0 } }
  rows[name] = row
  row[kind][1], row[kind][2] = row[kind][1] + covered, row[kind][2] + total
end

for _, file in ipairs(json.decode(read(summary_path)).files) do
  for _, name in ipairs { file.filename:match "^engine/%w+", "engine" } do
    count(name, "lines", file.line_covered, file.line_total)
    count(name, "branches", file.branch_covered, file.branch_total)
  end
end

-- The lines of a Lua file that can run: those with an instruction. The return that ends every function and what sets up
-- its varargs are the compiler's own.
local function active_lines(path)
  local active, last = {}, nil
  local function add() -- the instruction before, which turned out not to be the last one
    if last then active[last] = true end
  end
  for _, text in ipairs(run(("luac5.4 -l -p '%s'"):format(path))) do
    local line, name = text:match "^\t%d+\t%[(%d+)%]\t(%u%w*)"
    if line and name ~= "VARARGPREP" then
      add()
      last = tonumber(line)
    elseif text:match "^function <" then
      last = nil
    end
  end
  return active
end

local ran = {}
for _, file in ipairs(run(("find '%s' -type f"):format(lua_folder))) do
  for text in read(file):gmatch "[^\n]+" do
    local path, numbers = text:match "^(%S+) (.*)$"
    ran[path] = ran[path] or {}
    for number in numbers:gmatch "%d+" do ran[path][tonumber(number)] = true end
  end
end

local missing = {}
for _, path in ipairs(run "find lua -name '*.lua' -not -path '*/_meta/*' | LC_ALL=C sort") do
  local covered, total, never = 0, 0, {}
  for line in pairs(active_lines(path)) do
    total = total + 1
    if ran[path] and ran[path][line] then
      covered = covered + 1
    else
      never[#never + 1] = line
    end
  end
  count(path:match "^lua/turboci/%l+/" and path:match "^lua/turboci/%l+" or "lua/turboci", "lines", covered, total)
  count("lua", "lines", covered, total)
  table.sort(never)
  if #never > 0 then
    missing[#missing + 1] = ("%s: %d of %d lines: %s\n"):format(path, #never, total, table.concat(never, " "))
  end
end
local list = assert(io.open(summary_path:gsub("[^/]*$", "lua.txt"), "w"))
list:write(table.concat(missing))
list:close()

-- ---- the table ----

local names = {}
for name in pairs(rows) do names[#names + 1] = name end
table.sort(names)

local bad = false

local function cell(row, kind)
  local covered, total = row[kind][1], row[kind][2]
  if total == 0 then return "" end
  local percent = covered * 100 / total
  local text = ("%.1f %% of %d"):format(percent, total)
  local threshold = thresholds[row.name] and thresholds[row.name][kind]
  if not threshold then return text end
  local good = percent >= threshold
  bad = bad or not good
  return ("%s (%s %d)"):format(text, good and "at least" or "BELOW", threshold)
end

print(("%-22s %-32s %s"):format("", "lines", "branches"))
for _, name in ipairs(names) do
  print((("%-22s %-32s %s"):format(name, cell(rows[name], "lines"), cell(rows[name], "branches")):gsub("%s+$", "")))
end
for name in pairs(thresholds) do
  if not rows[name] then
    print(name .. ": nothing was measured")
    bad = true
  end
end
os.exit(not bad)
