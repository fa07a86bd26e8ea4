-- world: grpc
-- Watching a large plan: whoever starts or resumes is told in pieces; nobody else waits for it.

local testing = require "turboci.testing"

describe("watching a large plan:", function()
  local NODES, BATCH, WATCHERS = 10000, 2000, 3
  local env, plan

  before_each(function()
    env = testing.env()
    plan = env:create_plan({}, { include_checks = false, include_stages = false })
    for first = 1, NODES, BATCH do
      local checks = {}
      for i = first, first + BATCH - 1 do
        checks[#checks + 1] = { id = "c" .. i, options = { command = ("x"):rep(100) } }
      end
      assert(env:write(plan, { checks = checks, omit_nodes = true }))
    end
  end)
  after_each(function() env:stop() end)

  -- Watchers who are told of all nodes; each with its own first event and last.
  local function all_told(request)
    local recorders = {}
    for i = 1, WATCHERS do
      recorders[i] = env:watch(plan, request)
    end
    for _, recorder in ipairs(recorders) do
      env:wait(function() return #recorder.events == NODES or recorder.ended end)
      assert.equal(NODES, #recorder.events)
      assert.equal("c1", recorder.events[1].check_event.check_id)
      assert.equal("c" .. NODES, recorder.events[NODES].check_event.check_id)
      recorder:close()
    end
  end

  it("no turn takes long, however many start and resume", function()
    all_told { include_current = true }
    all_told { after_sequence = 1 }
    if os.getenv "TURBOCI_SANITIZED" then return end
    local counters = assert(env.client:get_server_info {}).counters
    assert.is_true(counters.longest_turn_cpu_us < 50000, counters.longest_turn_cpu_us .. " us")
  end)
end)
