-- turboci.testing: for specs of workflows, runners and of this project itself.
--
--     local env = require("turboci.testing").env()
--     env:mock_runner { type = "shell" }
--     local plan = env:submit(dofile "examples/hello.lua")
--     env:wait(plan)
--     assert.stage(plan, "greet").is_final { outcome = "SUCCEEDED" }
--     env:stop()
--
-- The engine is the real one. In the virtual world (the default) it runs inside the spec, with a clock that only env
-- moves; with TURBOCI_WORLD=grpc, or world = "grpc", it is a server process and everything goes over the network.

local M = {}

---@param options turboci.testing.EnvOptions?
---@return turboci.testing.Env
function M.env(options)
  local found, luassert = pcall(require, "luassert")
  if found then require("turboci.testing.asserts").register(luassert) end
  return require("turboci.testing.env").new(options)
end

---A policy to ask, without an engine: see turboci/testing/policy.lua.
---@param path string the file; or the name of a shipped policy
---@param options {folders: string[]?, limits: table<string, integer>?}?
---@return turboci.testing.Policy
function M.policy(path, options)
  return require("turboci.testing.policy").open(path, options)
end

---What a hook of a mock runner returns for a success, a failure, or to break its connection. Also on every env.
function M.success(...) return require("turboci.testing.mock_runner").success(...) end
function M.failure(...) return require("turboci.testing.mock_runner").failure(...) end
function M.disconnect() return require("turboci.testing.mock_runner").DISCONNECT end

return M
