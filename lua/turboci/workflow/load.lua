-- load: a workflow file becomes a function. It has globals of its own, which are strict, and finds the modules beside
-- it.
--
-- 1. To read a global that nobody has set is an error at that line: a misspelt variable must not become a missing
--    dependency. What the file sets is its own; the program's globals are there to read.
-- 2. require looks in the folder of the file first, wherever the program is run. What it finds there is loaded once,
--    with the same globals. Only "turboci" and what is below it always come from the program.
-- Used by the program for workflow files.

local options = require "turboci.workflow.options"

local M = {}

-- The names of the local variables of the function at this level: one of them may have been meant.
local function locals_at(level)
  local names, i = {}, 1
  while true do
    local name = debug.getlocal(level + 1, i)
    if not name then return names end
    if name:match "^[%a_]" then names[#names + 1] = name end
    i = i + 1
  end
end

-- The globals of one workflow file and of its modules.
local function new_globals()
  local declared = {}
  local globals = setmetatable({}, {
    __index = function(_, name)
      local value = _G[name]
      if value ~= nil or declared[name] then return value end
      local near = type(name) == "string" and options.nearest(name, locals_at(2))
      local hint = near and (": did you mean '%s'?"):format(near)
        or " (a local variable is known only below its `local` line)"
      error(("'%s' is not defined%s"):format(tostring(name), hint), 2)
    end,
    __newindex = function(self, name, value)
      declared[name] = true
      rawset(self, name, value)
    end,
  })
  return globals
end

-- The path of a module in a folder, or nil.
local function find(folder, name)
  local path = name:gsub("%.", "/")
  return (package.searchpath(path, folder .. "/?.lua;" .. folder .. "/?/init.lua", ""))
end

-- require for the file in this folder.
local function require_beside(folder, globals)
  local loaded, loading = {}, {} -- loading: path -> the coroutine that loads it
  local function beside(name)
    local path = type(name) == "string" and not (name .. "."):find("^turboci%.") and find(folder, name)
    if not path then return require(name) end
    if loaded[path] ~= nil then return loaded[path] end
    local chunk, err = loadfile(path, "t", globals)
    if not chunk then error(("the module '%s' is not valid Lua:\n  %s"):format(name, err), 2) end
    if loading[path] == coroutine.running() then
      error(("the module '%s' requires itself, perhaps by way of others"):format(name), 2)
    elseif loading[path] then -- another body does, and its module waits for something
      require("turboci.loop").wait_until(function() return not loading[path] end)
      return beside(name)
    end
    loading[path] = coroutine.running()
    local ok, value = pcall(chunk, name, path)
    loading[path] = nil -- also when it failed: the next one to require it is told the same
    if not ok then error(value, 0) end
    loaded[path] = value == nil and true or value
    return loaded[path]
  end
  return beside
end

---Compiles a workflow file. It gets its parameters as arguments of the function that is returned.
---@param path string
---@return (fun(...): any)? chunk nil: it cannot be read, or is not valid Lua
---@return string? err
function M.file(path)
  local globals = new_globals()
  local folder = path:match "^(.*)/[^/]*$" or "."
  rawset(globals, "require", require_beside(folder == "" and "/" or folder, globals))
  return loadfile(path, "t", globals)
end

return M
