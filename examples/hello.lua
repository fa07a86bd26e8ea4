-- Two commands, one after the other: turboci run examples/hello.lua
local turboci = require "turboci"

local plan = turboci.plan { name = "hello" }
local greeted = plan:check "greeted"
plan:stage("hello", { runner = "shell", args = { command = "echo hello" } })
plan:stage("world", { runner = "shell", args = { command = "echo world" }, after = "hello", finalizes = greeted })

return plan
