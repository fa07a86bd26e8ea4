-- What a node is after an event that tells only what changed (WatchWorkPlanRequest.omit_unchanged), or that left
-- something out for its size: what is named in omitted_fields is as it was. Pure; used by turboci.cli.model.

local M = {}

local PROGRESS_KEPT, PROGRESS_BYTES_KEPT = 100, 65536 -- as much as the engine keeps of an attempt

local plain = { "kind", "options", "args", "dependencies", "assignments" }

---@param node table Check or Stage
---@return table<string, boolean> left the names in its omitted_fields
function M.left_out(node)
  local left = {}
  for _, name in ipairs(node.omitted_fields or {}) do
    left[name] = true
  end
  return left
end

-- Where the item with this number is in a list that rises by it, or where it is to be appended.
local function place(list, key, number)
  if list[number] and list[number][key] == number then return number end
  for i = #list, 1, -1 do
    if list[i][key] == number then return i end
    if list[i][key] < number then break end
  end
  return #list + 1
end

---The item of a list with this id or idx.
---@param list table[]
---@param key "id"|"idx"
---@param number integer
---@return table?
function M.find(list, key, number)
  return list[place(list, key, number)]
end

local function merge_list(before, given, key, merge)
  for _, item in ipairs(given) do
    local at = place(before, key, item[key])
    before[at] = merge and merge(before[at], item) or item
  end
  return before
end

-- Cut now and then, not with each entry.
local function merge_progress(before, given)
  table.move(given, 1, #given, #before + 1, before)
  local first, bytes, all = #before + 1, 0, 0
  for i = #before, 1, -1 do
    all = all + #before[i].message
    if #before - i < PROGRESS_KEPT and all <= PROGRESS_BYTES_KEPT then first, bytes = i, all end
  end
  first = math.min(first, #before) -- the last one in any case
  if #before <= 2 * PROGRESS_KEPT and all - bytes <= PROGRESS_BYTES_KEPT then return before end
  return table.move(before, first, #before, 1, {})
end

---The node as it is now. Takes over lists of `before`, which is not to be used afterwards, so that a change costs what
---changed.
---@param before table? Check or Stage as it was; nil: nothing was known of it
---@param node table the one in the event; changed in place
---@return table node
function M.merge(before, node)
  local left = M.left_out(node)
  if not before or not next(left) then return node end
  for _, name in ipairs(plain) do
    if left[name] then node[name] = before[name] end
  end
  if left["results.data"] then
    for _, result in ipairs(node.results) do
      local old = M.find(before.results, "id", result.id)
      if old and old.id == result.id then result.data = old.data end
    end
  end
  if left.results then node.results = merge_list(before.results, node.results, "id") end
  if left.attempts or left["attempts.details"] or left["attempts.progress"] then
    node.attempts = merge_list(before.attempts, node.attempts, "idx", function(old, new)
      if old and left["attempts.details"] then new.details = old.details end
      if old and left["attempts.progress"] then new.progress = merge_progress(old.progress, new.progress) end
      return new
    end)
  end
  return node
end

return M
