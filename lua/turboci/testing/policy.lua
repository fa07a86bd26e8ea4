-- A policy in the hands of a spec: asked about views of one line, without an engine.
--
--     local p = testing.policy "policies/warm_first.lua"
--     assert.equal("b", (p:select { runners = { "a", { id = "b", metadata = { warm = "yes" } } } }))
--     local again = p:retry { attempts = { { runner = "a", failure = "TIMEOUT" } } }
--     assert.same({ after = 2, exclude = { "a" } }, again)
--
-- It runs in the sandbox that the engine uses, with the engine's bounds. What the engine would count as a fault is
-- raised. The form of a view is told in lua/turboci/_meta/core.lua (turboci.core.View).

local options = require "turboci.workflow.options"
local policies = require "turboci.policies"
local where = require "turboci.workflow.where"

---@class turboci.testing.Policy
---@field name string
---@field version string content hash
---@field path string
---@field hooks string[] those it has
---@field cost integer? instructions of the last answer, about
---@field object turboci.core.Policy
local Policy = {}

function Policy.__index(_, key)
  local method = Policy[key]
  if method or key == "cost" or type(key) ~= "string" or key:find("^__") then return method end
  local names = { "name", "version", "path", "hooks", "cost" }
  for name in pairs(Policy) do names[#names + 1] = not name:find("^__") and name or nil end
  where.fail(("policy: there is no '%s'%s"):format(key, options.suggestion(key, names)))
end

---@param path string the file; or the name of a shipped policy, or of one in the folders
---@param given {folders: string[]?, limits: table<string, integer>?}? folders: where its `require` looks, too
---@return turboci.testing.Policy
local function open(path, given)
  if type(path) ~= "string" then where.fail(("policy: expected the path of a file, got %s"):format(type(path))) end
  given = options.check("policy", given, { folders = "table", limits = "table" })
  local folders, problem = policies.folders(given.folders or {})
  if not folders then where.fail("policy: " .. problem) end
  local file, missing = policies.find(path, folders)
  if not file then where.fail("policy: " .. missing) end
  local object, err = require("turboci.core").policy(file, { folders = folders, limits = given.limits })
  if not object then where.fail(err) end
  return setmetatable({
    object = object, name = object.name, version = object.version, path = object.path, hooks = object.hooks,
  }, Policy)
end

---Asks one hook.
---@param hook "select"|"retry"|"timeout"|"priority"|"admit"
---@param view turboci.core.View?
---@return any answer
---@return string? reason
function Policy:ask(hook, view)
  local ok, decision = pcall(self.object.ask, self.object, hook, view)
  if not ok then where.fail((decision:gsub("^bad argument #%d+ to '[^']*' %((.*)%)$", "%1"))) end
  self.cost = decision.cost
  if decision.fault then where.fail(decision.fault) end
  return decision.answer, decision.reason
end

---@param view turboci.core.View
---@return string|{wait: number}|nil answer the runner's id; nil: it waits
---@return string? reason
function Policy:select(view) return self:ask("select", view) end

---@param view turboci.core.View the last of its attempts has just failed
---@return {after: number, exclude: string[]}? answer nil: it gives up
---@return string? reason
function Policy:retry(view) return self:ask("retry", view) end

---@param view turboci.core.View?
---@return {execution: number?, stale: number?, queue: number?}? answer
---@return string? reason
function Policy:timeout(view) return self:ask("timeout", view) end

---@param view turboci.core.View?
---@return integer? answer
---@return string? reason
function Policy:priority(view) return self:ask("priority", view) end

---@param view turboci.core.View?
---@return {keys: {key: string, limit: integer}[]}|{wait: number}|nil answer nil: it may run now
---@return string? reason
function Policy:admit(view) return self:ask("admit", view) end

---Frees it; the collector would too.
function Policy:close()
  self.object:close()
end

return { open = open }
