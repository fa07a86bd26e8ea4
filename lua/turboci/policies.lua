-- Where policies are: the folders that a server looks into, and the shipped one behind them all. Used by the program
-- and by turboci.testing.

local uv = require "luv"

debug.getregistry()["turboci.luv"] = debug.getregistry()["turboci.luv"] or uv -- see turboci/loop.lua

local M = {}

-- This library is in LUA/turboci, and the shipped policies are beside LUA: in the source tree, and installed
-- (share/turboci/lua, share/turboci/policies).
local lua_folder = debug.getinfo(1, "S").source:match "^@(.*)turboci[/\\]policies%.lua$"

local function is_folder(path)
  local stat = uv.fs_stat(path)
  return stat ~= nil and stat.type == "directory"
end

---The folder of the policies that come with TurboCI; nil when it is not there.
---@return string?
function M.shipped()
  local folder = lua_folder and uv.fs_realpath(lua_folder == "" and "." or lua_folder)
  folder = folder and folder:match "^(.*)/[^/]+$" .. "/policies"
  return folder and is_folder(folder) and folder or nil
end

---The folders to look into: the given ones in their order, then the shipped one. A name is looked up first to last.
---@param given string[]
---@return string[]? folders
---@return string? err
function M.folders(given)
  local out, seen = {}, {}
  for _, folder in ipairs(given) do
    if not is_folder(folder) then
      local file = uv.fs_stat(folder) and "it is a file: give its folder" or "there is no such folder"
      return nil, ("policies folder '%s': %s"):format(folder, file)
    end
    local real = uv.fs_realpath(folder)
    if not seen[real] then out[#out + 1] = folder end
    seen[real] = true
  end
  local shipped = M.shipped()
  if shipped and not seen[shipped] then out[#out + 1] = shipped end
  return out
end

---Names of the policies in these folders.
---@param folders string[]
---@return string[]
function M.names(folders)
  local names, seen = {}, {}
  for _, folder in ipairs(folders) do
    local scan = uv.fs_scandir(folder)
    for file in function() return scan and uv.fs_scandir_next(scan) end do
      local name = file:match "^([%w-][%w_-]*)%.lua$"
      if name and not seen[name] then names[#names + 1] = name end
      if name then seen[name] = true end
    end
  end
  table.sort(names)
  return names
end

---Whether a policy is named by its file, and not by its name.
---@param policy string
---@return boolean
function M.is_path(policy)
  return policy:find("/", 1, true) ~= nil or policy:match "%.lua$" ~= nil
end

---"policies/warm_first.lua" is "policies" and "warm_first".
---@param path string
---@return string folder
---@return string name
function M.split(path)
  local folder, file = path:match "^(.*)/([^/]*)$"
  folder, file = folder or ".", file or path
  return folder == "" and "/" or folder, (file:gsub("%.lua$", ""))
end

local function is_file(path)
  local stat = uv.fs_stat(path)
  return stat ~= nil and stat.type ~= "directory"
end

-- The file that a path means, which may leave out ".lua".
local function file_of(path)
  if is_file(path) then return path end
  if is_file(path .. ".lua") then return path .. ".lua" end
  return nil, path .. ": no such file"
end

---The file of a policy.
---@param policy string its path, or its name
---@param folders string[] where names are looked up
---@return string? path
---@return string? err
function M.find(policy, folders)
  if M.is_path(policy) then return file_of(policy) end
  for _, folder in ipairs(folders) do
    local path = ("%s/%s.lua"):format(folder, policy)
    if is_file(path) then return path end
  end
  return nil, ("there is no policy '%s'%s"):format(policy, require("turboci.util").suggestion(policy, M.names(folders)))
end

---What a server is told of policies. A policy that is given by its file adds the file's folder, before the others; a
---shadow does not, and comes back as its file.
---@param given {policies: string[]?, policy: string?, policy_for: table<string, string>?, shadow: string?}
---@return {policies: string[], policy: string?, policy_for: table<string, string>?, shadow: string?}? options as
--- core.server wants them
---@return string? err
function M.resolve(given)
  local folders, policy = given.policies or {}, given.policy
  if policy and M.is_path(policy) then
    local file, missing = file_of(policy)
    if not file then return nil, missing end
    local folder
    folder, policy = M.split(policy)
    folders = table.move(folders, 1, #folders, 2, { folder })
  end
  local problem
  folders, problem = M.folders(folders)
  if not folders then return nil, problem end
  local util, names = require "turboci.util", M.names(folders)
  local wanted = { policy }
  for _, runner_type in ipairs(util.sorted_keys(given.policy_for or {})) do
    wanted[#wanted + 1] = given.policy_for[runner_type]
  end
  for _, name in ipairs(wanted) do
    local found = false
    for _, known in ipairs(names) do found = found or known == name end
    if not found then return nil, ("there is no policy '%s'%s"):format(name, util.suggestion(name, names)) end
  end
  local shadow
  if given.shadow then
    shadow, problem = M.find(given.shadow, folders)
    if not shadow then return nil, problem end
  end
  return { policies = folders, policy = policy, policy_for = given.policy_for, shadow = shadow }
end

return M
