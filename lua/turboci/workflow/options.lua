-- options: option tables that reject what they do not know, names that are nearly right, and durations.

local where = require "turboci.workflow.where"

local M = {}

-- Edits (insert, remove, replace, swap neighbours) that turn a into b.
local function distance(a, b)
  local before, last = {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local this = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      local best = math.min(last[j] + 1, this[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        best = math.min(best, before[j - 2] + 1)
      end
      this[j] = best
    end
    before, last = last, this
  end
  return last[#b]
end

---The name most like `name`, when one is near enough to be meant. Of equals, the first in the alphabet.
---@param name string
---@param names string[]
---@return string?
function M.nearest(name, names)
  local sorted, found, fewest = table.move(names, 1, #names, 1, {}), nil, math.max(1, #name // 3) + 1
  table.sort(sorted)
  for _, candidate in ipairs(sorted) do
    if math.abs(#candidate - #name) < fewest then
      local edits = distance(name:lower(), candidate:lower())
      if edits < fewest then found, fewest = candidate, edits end
    end
  end
  return found
end

---"; did you mean 'x'?", or the names there are when none is near.
---@param name string
---@param names string[]
---@return string
function M.suggestion(name, names)
  local near = M.nearest(name, names)
  if near then return (": did you mean '%s'?"):format(near) end
  if #names == 0 or #names > 20 then return "" end
  local sorted = table.move(names, 1, #names, 1, {})
  table.sort(sorted)
  return " (there is: " .. table.concat(sorted, ", ") .. ")"
end

local function type_of(value)
  return math.type(value) or type(value)
end

-- One value against a description such as "string", "integer", "number", "string|table", "any".
local function fits(value, description)
  if description == "any" then return true end
  local actual = type_of(value)
  for wanted in description:gmatch "[^|]+" do
    if wanted == actual or wanted == "number" and type(value) == "number" then return true end
    if wanted == "integer" and actual == "float" and math.tointeger(value) then return true end
  end
  return false
end

---Checks an option table against { name = "type|type" }; raises, located at the user's line.
---@param what string names the table in messages: "stage 'compile'"
---@param options any
---@param known table<string, string>
---@return table options
function M.check(what, options, known)
  if options == nil then return {} end
  if type(options) ~= "table" then
    where.fail(("%s: expected a table of options, got %s"):format(what, type(options)))
  end
  local names, keys = {}, {}
  for name in pairs(known) do names[#names + 1] = name end
  for key in pairs(options) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    if type(key) ~= "string" then
      where.fail(("%s: unexpected value at [%s]; options are named"):format(what, tostring(key)))
    end
    if not known[key] then
      where.fail(("%s: unknown option '%s'%s"):format(what, key, M.suggestion(key, names)))
    end
    if not fits(options[key], known[key]) then
      where.fail(("%s: %s: expected %s, got %s"):format(what, key, known[key]:gsub("|", " or "), type_of(options[key])))
    end
  end
  return options
end

local units = { ms = 1, s = 1000, m = 60 * 1000, h = 3600 * 1000, d = 24 * 3600 * 1000 }

---Milliseconds of a duration: a number is seconds, a text is "1h30m", "10m", "2.5s", "250ms".
---@param value number|string
---@return integer? ms nil when it is not a duration
function M.milliseconds(value)
  local ms = 0
  if type(value) == "number" then
    ms = value * 1000
  elseif type(value) == "string" then
    local rest = value:gsub("(%d+%.?%d*)(%a+)", function(amount, unit)
      if not units[unit] then return nil end
      ms = ms + tonumber(amount) * units[unit]
      return ""
    end)
    if rest ~= "" or value == "" then return nil end
  else
    return nil
  end
  if ms ~= ms or ms < 0 or ms > 2 ^ 53 then return nil end
  return math.tointeger(math.floor(ms + 0.5))
end

---A duration of at least a millisecond, or an error that names the option.
---@param what string
---@param value number|string
---@return integer ms
function M.duration(what, value)
  local ms = M.milliseconds(value)
  if not ms or ms < 1 then
    where.fail(("%s: expected a duration such as 90, \"10m\" or \"1h30m\", got %s"):format(what, ("%q"):format(value)))
  end
  return ms
end

return M
