-- The testing plan and how it fares: lua5.4 tests/plan_list.lua REPORT_VIRTUAL REPORT_GRPC
--
-- The reports are busted's junit files. Prints a line for each name of tests/plan.lua: name, file, result in each
-- world.
-- Exits 1 when a name has no test in its category's file in a world, when any test of a name failed or is pending,
-- when a spec carries a name that the plan does not have, and when anything else in a report did. Used by ./dev.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/?.lua;" .. package.path
local plan = require "plan"

local worlds = { { name = "virtual", report = arg[1] }, { name = "grpc", report = arg[2] } }

local entities = { lt = "<", gt = ">", amp = "&", quot = '"', apos = "'" }
local function unescape(text) return (text:gsub("&(%a+);", entities)) end

-- Calls each(title, file, result, line) for every test of a report. Returns how many tests were run and how many errors
-- belong to no test (an after_each that raised, a file that does not load).
local function read_report(path, each)
  local file = assert(io.open(path or "", "rb"))
  local text = file:read "a"
  file:close()
  local at, tests = 1, 0
  local inside = {}
  while true do
    local first, last, attributes, closed = text:find("<testcase%s([^<>]*[^<>/])(/?)>", at)
    if not first then break end
    local body = ""
    at = last + 1
    if closed == "" then
      local from, to = text:find("</testcase>", at, true)
      body = text:sub(at, from - 1)
      at = to + 1
    end
    local result = body:find "<failure" and "failed" or body:find "<error" and "failed" or
                   body:find "<skipped" and "pending" or body:find "<pending" and "pending" or "passed"
    inside[#inside + 1] = body
    local title, place = attributes:match "%f[%w]name='([^']*)'", attributes:match "classname='([^']*)'"
    local spec, line = place:match "^(.*):(%d+)$"
    each(unescape(title), spec, result, line)
    tests = tests + 1
  end
  local _, all = text:gsub("<error[>%s/]", "")
  local _, of_tests = table.concat(inside):gsub("<error[>%s/]", "")
  return tests, all - of_tests
end

local rank = { passed = 1, pending = 2, failed = 3 }
local known, complaints = {}, {}
for _, entry in ipairs(plan) do
  entry.file = ("tests/spec/%s_spec.lua"):format(entry.category)
  entry.results = {}
  known[entry.name] = entry
end

for _, world in ipairs(worlds) do
  local tests, stray = read_report(world.report, function(title, file, result, line)
    local named = false
    for name in title:gmatch "#(Test%w+)" do
      local entry = known[name]
      if not entry then
        complaints[#complaints + 1] = ("%s:%s: the plan has no %s"):format(file, line, name)
      else
        named = true
        local at_home = file == entry.file
        local before = entry.results[world.name]
        -- A test elsewhere (one world's own) may break a name, but does not make up for a missing one.
        if (at_home or result ~= "passed") and (not before or rank[result] > rank[before]) then
          entry.results[world.name] = result
        end
      end
    end
    if not named and result ~= "passed" then
      complaints[#complaints + 1] = ("%s:%s: %s (%s): %s"):format(file, line, result, world.name, title)
    end
  end)
  world.tests = tests
  if stray > 0 then
    complaints[#complaints + 1] = ("%s: %d errors outside of tests"):format(world.report, stray)
  end
end

print(("%-36s %-32s %-8s %s"):format("name", "file", "virtual", "grpc"))
local good = 0
for _, entry in ipairs(plan) do
  local virtual, grpc = entry.results.virtual or "missing", entry.results.grpc or "missing"
  print(("%-36s %-32s %-8s %s"):format(entry.name, entry.file, virtual, grpc))
  if virtual == "passed" and grpc == "passed" then good = good + 1 end
end
for _, complaint in ipairs(complaints) do print(complaint) end
print(("plan: %d of %d pass in both worlds (%d tests in virtual, %d in grpc)"):format(good, #plan, worlds[1].tests,
  worlds[2].tests))
os.exit(good == #plan and #complaints == 0)
