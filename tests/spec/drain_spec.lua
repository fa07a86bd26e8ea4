-- world: grpc
-- SIGTERM: the server refuses writes, lets sync calls end, and ends well itself.

local testing = require "turboci.testing"
local turboci = require "turboci"

describe("a server that is told to stop", function()
  local env, db

  before_each(function()
    db = os.tmpname()
    os.remove(db)
    env = testing.env { db = db, limits = { drain_timeout_ms = 10000 } }
  end)
  after_each(function()
    env:stop()
    for _, suffix in ipairs { "", "-wal", "-shm", ".lock", ".mark" } do os.remove(db .. suffix) end
  end)

  it("refuses writes, answers reads, and takes the result of the call in flight", function()
    local runner = env:mock_runner { id = "r", type = "test" }
    runner:hold()
    local workflow = turboci.plan { name = "drain" }
    workflow:check("c")
    workflow:stage("a", { runner = "test", finalizes = "c" })
    local plan = env:submit(workflow)
    env:wait(function() return #runner.received == 1 end)

    env.world.process:kill "sigterm"
    env:wait(function() return table.concat(env.world.output, "\n"):find("draining", 1, true) end)
    -- A write that overtakes the signal is still taken; the event it causes asks again.
    local writes, err = 0, nil
    env:wait(function()
      writes = writes + 1
      local _, refused = env:write(plan, { checks = { { id = "c", options = { n = writes } } } })
      err = refused
      return err
    end)
    assert.equal("UNAVAILABLE", err.code)
    assert.stage(plan, "a").has_state "ATTEMPTING"
    assert.is_nil(env.world.exit)

    runner:release()
    env:wait(function() return env.world.exit end)
    assert.same({ code = 0, signal = 0 }, env.world.exit)

    local next_env = testing.env { db = db }
    local found = next_env:query(plan)
    next_env:stop()
    assert.equal("SUCCEEDED", found.stages[1].outcome)
    assert.equal(1, #found.stages[1].attempts)
    assert.equal("SUCCEEDED", found.checks[1].outcome)
  end)

  it("ends at once when nothing is in flight", function()
    env.world.process:kill "sigterm"
    env:wait(function() return env.world.exit end, { timeout = "5s" })
    assert.same({ code = 0, signal = 0 }, env.world.exit)
  end)
end)
