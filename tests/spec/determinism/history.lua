-- One history under several policies, into the file HISTORY_DB: what determinism_spec.lua runs in processes of their
-- own (`turboci test`). Everything that policies may do is in it: chance, order of keys, waits, keys, retries, faults.

local testing = require "turboci.testing"
local turboci = require "turboci"

local POLICIES = { "power_of_two", "weighted", "warm_first", "fair_share", "retry_elsewhere", "ordered", "broken" }

it("is made", function()
  local env = testing.env {
    world = "virtual",
    db = assert(os.getenv "HISTORY_DB"),
    seed = tonumber(os.getenv "HISTORY_SEED"),
    policies = "tests/spec/determinism/policies",
    policy = "power_of_two",
    policy_for = { other = "spread" },
    limits = { policy_asks_per_turn = 7, policy_circuit_ms = 500 },
  }
  for i = 1, 6 do
    env:mock_runner {
      id = "r" .. i, type = i % 3 == 0 and "other" or "test", max_concurrent = 2,
      metadata = {
        weight = tostring(i), warm = i == 2 and "yes" or "no", host = "h" .. i % 2, zebra = "z", ant = "a",
      },
      on_run = function(request)
        if request.attempt_idx == 1 and #request.stage_id % 2 == 0 then return env.failure "flaky" end
        if request.attempt_idx == 2 and i == 4 then return env.disconnect() end
      end,
    }
  end
  local plans = {}
  for _, policy in ipairs(POLICIES) do
    local metadata = { team = "t" .. #policy % 3, b = "2", a = "1" }
    local workflow = turboci.plan { name = policy, policy = policy, metadata = metadata }
    for i = 1, 12 do
      workflow:stage(("s"):rep(i), {
        runner = i % 4 == 0 and "other" or "test", retry = { max_attempts = 4 },
        after = i > 8 and { ("s"):rep(i - 8), when = "final" } or nil,
      })
    end
    plans[#plans + 1] = env:submit(workflow)
    env:advance "700ms"
  end
  for _, plan in ipairs(plans) do env:wait(plan) end
  env:stop()
end)
