-- group: reads what `after` and `finalizes` may hold into flat lists of edges. Names stay names here: they are looked
-- up when the plan is written, since a plan may name what it defines further down.

local where = require "turboci.workflow.where"

local M = {}

local conditions = { success = "ON_SUCCESS", final = "ON_FINAL", failure = "ON_FAILURE" }

---@class turboci.workflow.Group made by any{} and all{}
---@field predicate "AND"|"OR"
---@field items table
local Group = {}
Group.__index = Group

---@param predicate "AND"|"OR"
---@param items table
---@return turboci.workflow.Group
function M.new(predicate, items)
  local name = predicate == "OR" and "any" or "all"
  if type(items) ~= "table" or getmetatable(items) then
    where.fail(("%s: expected a list, as in %s { \"a\", \"b\" }"):format(name, name))
  end
  if #items == 0 then where.fail(name .. " {}: the list is empty") end
  return setmetatable({ predicate = predicate, items = items }, Group)
end

---@class turboci.workflow.Edge
---@field name string? a name to look up
---@field node turboci.workflow.Node?
---@field condition string

local function condition_of(what, list, inherited)
  if list.when == nil then return inherited end
  local condition = conditions[list.when]
  if not condition then
    where.fail(("%s: when = %q: expected \"success\", \"final\" or \"failure\""):format(what, tostring(list.when)))
  end
  return condition
end

local function check_keys(what, list)
  local length = #list
  for key in pairs(list) do
    if key ~= "when" and not (math.type(key) == "integer" and key >= 1 and key <= length) then
      where.fail(("%s: unexpected key '%s' in a list of nodes (only `when`)"):format(what, tostring(key)))
    end
  end
end

local add

local function add_list(what, list, condition, edges, is_node, depth)
  check_keys(what, list)
  condition = condition_of(what, list, condition)
  for i = 1, #list do add(("%s[%d]"):format(what, i), list[i], condition, edges, is_node, depth + 1) end
end

add = function(what, item, condition, edges, is_node, depth)
  if type(item) == "string" then
    edges[#edges + 1] = { name = item, condition = condition }
  elseif is_node(item) then
    edges[#edges + 1] = { node = item, condition = condition }
  elseif type(item) == "table" and getmetatable(item) == nil and depth < 2 then
    if depth == 1 and #item ~= 1 then
      where.fail(("%s: expected one node here, as in { \"compile\", when = \"final\" }, got %d"):format(what, #item))
    end
    add_list(what, item, condition, edges, is_node, depth)
  else
    local got = getmetatable(item) == Group and "any or all" or type(item)
    where.fail(("%s: expected the id of a stage or check, or what plan:stage or plan:check returned; got %s")
      :format(what, got))
  end
end

---@param what string "stage 'test': after"
---@param after any
---@param is_node fun(value: any): boolean
---@return {predicate: string, edges: turboci.workflow.Edge[]}
function M.read(what, after, is_node)
  local edges, predicate = {}, "AND"
  if getmetatable(after) == Group then
    predicate = after.predicate
    add_list(what, after.items, "ON_SUCCESS", edges, is_node, 0)
  else
    add(what, after, "ON_SUCCESS", edges, is_node, 0)
  end
  return { predicate = predicate, edges = edges }
end

return M
