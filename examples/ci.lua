-- This project's own CI as a workflow; `./dev demo` runs it: turboci run examples/ci.lua
--
-- The commands are parameters, so that the shape can be tried without the work (tests/spec/lua/examples_spec.lua does):
--     local plan = loadfile "examples/ci.lua" { build = "true", unit = "false" }
--
-- Stages that run at the same time share no files they write: `unit` alone uses ctest, whose notes lie in the build
-- folder, the others call the spec script, whose reports have names of their own.
local turboci = require "turboci"

local commands = {
  lint = "./dev lint",
  configure = "cmake --preset dev",
  build = "cmake --build --preset dev",
  unit = "ctest --preset dev -L unit --no-tests=error",
  specs = "sh tests/run-specs.sh lua5.4 build/dev virtual ci-specs",
  modules = "sh tests/run-specs.sh lua5.4 build/dev virtual ci-modules tests/spec/lua/*_spec.lua",
  wire = "sh tests/run-specs.sh lua5.4 build/dev grpc ci-wire tests/spec/basic_spec.lua",
}

for name, command in pairs((...) and type(...) == "table" and ... or {}) do
  assert(commands[name], "ci.lua: no command is called " .. tostring(name))
  commands[name] = command
end

local plan = turboci.plan { name = "turboci-lite-ci" }
local tidy = plan:check("tidy", { kind = "lint" })
local builds = plan:check("builds", { kind = "build" })
local passes = plan:check("passes", { kind = "test" })

local function stage(name, options)
  options.runner = "shell"
  options.args = { command = commands[name] }
  options.timeout = options.timeout or "15m"
  return plan:stage(name, options)
end

stage("lint", { finalizes = tidy })
stage("configure", {})
stage("build", { after = "configure", finalizes = builds })

-- A suite that fails is not repeated: a test that passes the second time is a bug that hides.
for _, suite in ipairs { "unit", "specs", "modules", "wire" } do
  stage(suite, { after = builds, finalizes = passes })
end

return plan
