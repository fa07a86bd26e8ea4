-- One stage, many at once after it, and one that brings their results together: turboci run examples/fan_out.lua
--
-- The last stage is a body in Lua. It runs even when a platform fails (when = "final"), and reads how each one went
-- from ctx.results.
local turboci = require "turboci"

local platforms = { "linux", "macos", "windows", "freebsd" }

local plan = turboci.plan { name = "fan-out" }

plan:stage("fetch", { runner = "shell", args = { command = "echo fetching the sources" } })

local built, builds = {}, {}
for i, platform in ipairs(platforms) do
  built[i] = plan:check("built-" .. platform, { kind = "build", options = { platform = platform } })
  builds[i] = plan:stage("build-" .. platform, {
    runner = "shell",
    args = { command = ("echo building for %s; sleep 0.%d"):format(platform, i) },
    after = "fetch",
    retry = { max_attempts = 2, backoff = "1s" },
    timeout = "1m",
    finalizes = built[i],
  })
end

local released = plan:check("released")
builds.when = "final"
plan:stage("release", {
  after = builds,
  finalizes = released,
  run = function(ctx)
    local missing, good = {}, 0
    for _, platform in ipairs(platforms) do
      if ctx.results["built-" .. platform].ok then good = good + 1 else missing[#missing + 1] = platform end
    end
    if good == 0 then return nil, "no platform was built" end
    return { platforms = good, missing = table.concat(missing, " ") }
  end,
})

return plan
