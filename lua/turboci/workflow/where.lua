-- where: finds the line of a user's file that called into the library, so that a message can name it.

local M = {}

-- How the chunk names of this library begin ("@/usr/share/lua/5.4/turboci/"); frames of such chunks are ours.
local library = debug.getinfo(1, "S").source:match "^(.*[/\\])workflow[/\\]where%.lua$"

-- luassert calls the assertions of turboci.testing: whoever asserts is its caller.
local function is_ours(source)
  return library ~= nil and source:sub(1, #library) == library or source:find("/luassert/", 1, true) ~= nil
end

---The file that is being run, while one is: a mistake in a tail call at its end has no line any more.
---@type string?
M.file = nil

---"file:line" of the nearest caller outside the library; when there is none, the file that is being run, or "?".
---@return string
function M.caller()
  local level = 2
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return M.file or "?" end
    if info.currentline > 0 and not is_ours(info.source) then
      local name = info.source:sub(1, 1) == "@" and info.source:sub(2) or info.short_src
      return name .. ":" .. info.currentline
    end
    level = level + 1
  end
end

---Raises `text`, located at `where` (default: the caller outside the library).
---@param text string
---@param where string?
function M.fail(text, where)
  error((where or M.caller()) .. ": " .. text, 0)
end

return M
