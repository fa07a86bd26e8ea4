-- value: what fits into a google.protobuf.Struct, told at the line that wrote it and not when it is sent.

local where = require "turboci.workflow.where"

local M = {}

local function path_of(path, key)
  if math.type(key) then return ("%s[%s]"):format(path, key) end
  return path .. "." .. tostring(key)
end

local check

local function check_table(path, value, above)
  if above[value] then where.fail(path .. ": a table that contains itself") end
  above[value] = true
  local length = #value
  for key, item in pairs(value) do
    local in_list = math.type(key) == "integer" and key >= 1 and key <= length
    if length > 0 and not in_list then
      where.fail(("%s: a list with the key '%s' in it; use either a list or names"):format(path, tostring(key)))
    elseif length == 0 and type(key) ~= "string" then
      where.fail(("%s: a %s as a key; names are strings"):format(path, type(key)))
    end
    check(path_of(path, key), item, above)
  end
  above[value] = nil
end

check = function(path, value, above)
  local kind = type(value)
  if kind == "table" then
    check_table(path, value, above)
  elseif kind == "function" or kind == "thread" then
    where.fail(("%s: a %s cannot be sent"):format(path, kind))
  elseif kind == "string" and not utf8.len(value) then
    where.fail(path .. ": not valid UTF-8")
  elseif kind == "number" and (value ~= value or value == math.huge or value == -math.huge) then
    where.fail(("%s: %s cannot be sent"):format(path, value ~= value and "NaN" or "an infinite number"))
  end
end

---Raises, with the path of the field, unless `value` is a table with names that can travel as a Struct.
---@param path string
---@param value table
function M.check_struct(path, value)
  if #value > 0 then where.fail(path .. ": expected names, got a list") end
  check(path, value, {})
end

---Texts of a map<string, string>; numbers and booleans become texts.
---@param path string
---@param value table
---@return table<string, string>
function M.texts(path, value)
  local out = {}
  for key, item in pairs(value) do
    if type(key) ~= "string" then where.fail(("%s: a %s as a key; names are strings"):format(path, type(key))) end
    local kind = type(item)
    if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
      where.fail(("%s: expected a string, got %s"):format(path_of(path, key), kind))
    end
    out[key] = require("turboci.util").text_of(item)
  end
  return out
end

---Raises unless `id` can name a node: 1 to 256 bytes of UTF-8 without control characters.
---@param what string "stage", "check"
---@param id any
function M.check_id(what, id)
  if type(id) ~= "string" then where.fail(("%s: expected an id (a string), got %s"):format(what, type(id))) end
  if id == "" then where.fail(what .. ": the id is empty") end
  if #id > 256 then where.fail(("%s: the id has %d bytes; at most 256 are allowed"):format(what, #id)) end
  if not utf8.len(id) then where.fail(what .. ": the id is not valid UTF-8") end
  if id:find "%c" then where.fail(("%s: the id %q has a control character"):format(what, id)) end
end

return M
