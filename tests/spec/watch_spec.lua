-- Watching: ordered, gap-free, resumable. Both worlds.

local changes = require "turboci.changes"
local testing = require "turboci.testing"
local turboci = require "turboci"

describe("watching:", function()
  local env, runner, plan

  before_each(function()
    env = testing.env()
    runner = env:mock_runner { id = "r", type = "test" }
    local workflow = turboci.plan { name = "watched" }
    workflow:check("c")
    workflow:stage("a", { runner = "test" })
    workflow:stage("b", { runner = "test", mode = "async", after = "a", finalizes = "c" })
    plan = env:submit(workflow)
    env:wait(plan)
  end)
  after_each(function() env:stop() end)

  -- Events without what differs between two watchers: nothing. One line each.
  local function lines(events)
    local out = {}
    for i, event in ipairs(events) do
      local part = event.stage_event or event.check_event
      if part then
        out[i] = ("%d %s %s>%s"):format(event.sequence, part.stage_id or part.check_id, part.old_state, part.new_state)
      else
        out[i] = event.sequence .. " completed"
      end
    end
    return out
  end

  -- A recorder that has seen n events.
  local function watch(request, n)
    local recorder = env:watch(plan, request)
    env:wait(function() return #recorder.events >= n or recorder.ended end)
    env:settle()
    return recorder
  end

  it("events come in order, each once", function()
    local last = 0
    for _, event in ipairs(plan.events.events) do
      assert.is_true(event.sequence > last)
      last = event.sequence
    end
  end)

  it("resuming after a sequence gives exactly the rest", function()
    local all = lines(plan.events.events)
    for _, at in ipairs { 1, #all // 2, #all - 1 } do
      local after = plan.events.events[at].sequence
      local recorder = watch({ after_sequence = after }, #all - at)
      assert.same(table.move(all, at + 1, #all, 1, {}), lines(recorder.events))
      recorder:close()
    end
  end)

  it("without a sequence only what is new comes", function()
    local recorder = watch({}, 0)
    assert(env:write(plan, { checks = { { id = "new" } } }))
    env:wait(function() return #recorder.events == 1 end)
    assert.equal("new", recorder.events[1].check_event.check_id)
  end)

  it("include_current starts with the nodes as they are", function()
    local recorder = watch({ include_current = true }, 4)
    assert.equal(4, #recorder.events)
    for i = 1, 3 do
      local part = recorder.events[i].stage_event or recorder.events[i].check_event
      assert.equal("UNKNOWN", part.old_state)
      assert.equal("FINAL", part.new_state)
    end
    assert.is_truthy(recorder.events[4].completed_event, "the plan as it is: complete")
  end)

  it("attempts and progress are told only to those who ask", function()
    local recorder = watch({ after_sequence = 1, include_progress = false }, 9)
    for _, event in ipairs(recorder.events) do
      local part = event.stage_event
      assert.is_true(not part or part.old_state ~= part.new_state)
    end
    local noticed = 0
    for _, event in ipairs(plan.events.events) do
      local part = event.stage_event
      if part and part.old_state == part.new_state then noticed = noticed + 1 end
    end
    assert.is_true(noticed >= 5)
  end)

  it("filters by id and state", function()
    local recorder = watch({
      after_sequence = 1, include_progress = false, include_checks = false,
      stage_id_filter = { "b" }, stage_state_filter = { "FINAL" },
    }, 1)
    env:settle()
    local seen = {}
    for _, event in ipairs(recorder.events) do
      if event.stage_event then seen[#seen + 1] = event.stage_event.stage_id .. event.stage_event.new_state end
    end
    assert.same({ "bFINAL" }, seen)
  end)

  it("with both include flags false only the end is told", function()
    local recorder = watch({ after_sequence = 1, include_checks = false, include_stages = false }, 1)
    assert.equal(1, #recorder.events)
    assert.same({ checks_completed = 1, stages_completed = 2, has_failures = false },
      recorder.events[1].completed_event)
  end)

  it("the stream stays open after the end", function()
    assert(env:write(plan, { stages = { { id = "more", runner_type = "test" } } }))
    env:wait(plan)
    assert.transitions(plan, "stage", "more", { "PLANNED", "ATTEMPTING", "FINAL" })
    assert.equal(2, plan.events:completions())
    assert.equal(3, #runner.received)
  end)

  it("a view of the plan as it is may be cut anywhere: resuming there loses nothing", function()
    local whole = watch({ include_current = true }, 4).events
    assert.is_true(whole[1].more_current)
    assert.is_false(whole[#whole].more_current)
    for cut = 1, #whole do
      local known, complete = {}, false
      local function learn(event)
        local part = event.stage_event or event.check_event
        if part then known[part.stage_id or part.check_id] = part.new_state end
        complete = complete or event.completed_event ~= nil
      end
      for i = 1, cut do learn(whole[i]) end
      local recorder = watch({ after_sequence = whole[cut].sequence }, 0)
      env:wait(function()
        for _, event in ipairs(recorder.events) do learn(event) end
        return complete
      end)
      assert.same({ a = "FINAL", b = "FINAL", c = "FINAL" }, known)
      recorder:close()
    end
  end)

  it("with omit_unchanged the changes, put together, are the nodes as they were", function()
    local all = watch({ after_sequence = 1 }, #plan.events.events).events
    local parts = watch({ after_sequence = 1, omit_unchanged = true }, #plan.events.events).events
    assert.equal(#all, #parts)
    local nodes, left_out = {}, 0
    for i, event in ipairs(parts) do
      local part = event.stage_event or event.check_event
      local whole = all[i].stage_event or all[i].check_event
      assert.equal(all[i].sequence, event.sequence)
      if part then
        local id, node = part.stage_id or part.check_id, part.stage or part.check
        left_out = left_out + #node.omitted_fields
        nodes[id] = changes.merge(nodes[id], node)
        nodes[id].omitted_fields = {}
        assert.same(whole.stage or whole.check, nodes[id])
      end
    end
    assert.is_true(left_out > 0)
  end)

  it("with omit_unchanged a change costs what changed, not the node", function()
    local fan = turboci.plan { name = "fan" }
    local passes = fan:check "passes"
    for i = 1, 60 do
      fan:stage("t" .. i, { runner = "test", finalizes = passes })
    end
    local wide = env:submit(fan)
    env:wait(wide)
    local recorder = env:watch(wide, { after_sequence = 1, omit_unchanged = true })
    env:wait(function() return recorder.settled end)
    local results = 0
    for _, event in ipairs(recorder.events) do
      local check = event.check_event and event.check_event.check
      if check then
        assert.is_true(#check.results <= 1)
        results = results + #check.results
      end
    end
    assert.equal(60, results)
  end)

  it("of a plan that is not there ends at once", function()
    local stream = env.client:watch { work_plan_id = "nope" }
    local event, err = stream:next()
    assert.is_nil(event)
    assert.equal("NOT_FOUND", err.code)
  end)
end)
