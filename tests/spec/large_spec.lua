-- world: virtual
-- TestLargeWorkflow again (see workflow_spec.lua), a hundred times larger.

local large = require "large"
local testing = require "turboci.testing"

describe("large workflows:", function()
  local env

  before_each(function() env = testing.env() end)
  after_each(function() env:stop() end)

  it("five thousand stages in fifty layers all run, each after what it depends on", function()
    large.run(env, 50, 100)
  end)
end)
