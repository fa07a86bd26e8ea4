-- Nodes put together of what changed, and the model and the follower that live on it.

local changes = require "turboci.changes"
local client = require "turboci.client"
local follow = require "turboci.cli.follow"
local model = require "turboci.cli.model"

local function attempt(idx, state, fields)
  local made = { idx = idx, state = state, process_uid = "r", progress = {} }
  for key, value in pairs(fields or {}) do made[key] = value end
  return made
end

local function stage(id, fields)
  local made = { id = id, state = "ATTEMPTING", outcome = "UNKNOWN", reason = "UNKNOWN", attempts = {},
    assignments = {}, omitted_fields = {} }
  for key, value in pairs(fields) do made[key] = value end
  return made
end

describe("changes:", function()
  it("a node of which nothing is left out replaces what was known", function()
    local node = stage("s", { args = { a = 1 } })
    assert.equal(node, changes.merge(stage("s", { args = { b = 2 } }), node))
    assert.same({ a = 1 }, node.args)
  end)

  it("what is left out of an unknown node stays away", function()
    local node = changes.merge(nil, stage("s", {
      omitted_fields = { "args", "attempts" }, attempts = { attempt(5, "RUNNING") },
    }))
    assert.is_nil(node.args)
    node = changes.merge(node, stage("s", { omitted_fields = { "attempts" }, attempts = { attempt(6, "PENDING") } }))
    assert.same({ 5, 6 }, { node.attempts[1].idx, node.attempts[2].idx })
    assert.equal("PENDING", changes.find(node.attempts, "idx", 6).state)
    assert.is_nil(changes.find(node.attempts, "idx", 4))
  end)

  it("plain fields that are left out are as they were", function()
    local before = { id = "c", kind = "k", options = { x = 1 }, dependencies = { dependencies = {} }, results = {} }
    local node = changes.merge(before, { id = "c", kind = "", results = {}, state = "FINAL",
      omitted_fields = { "kind", "options", "dependencies", "results" } })
    assert.equal("k", node.kind)
    assert.same({ x = 1 }, node.options)
    assert.same({ dependencies = {} }, node.dependencies)
    assert.equal("FINAL", node.state)
  end)

  it("results replace those of the same id, or are new", function()
    local node = { id = "c", results = { { id = 1, data = "a" }, { id = 2, data = "b" } } }
    for _, result in ipairs { { id = 1, data = "A" }, { id = 3, data = "c" } } do
      node = changes.merge(node, { id = "c", results = { result }, omitted_fields = { "results" } })
    end
    assert.same({ { id = 1, data = "A" }, { id = 2, data = "b" }, { id = 3, data = "c" } }, node.results)
  end)

  it("what was left out for its size stays as it was known", function()
    local check = changes.merge({ id = "c", results = { { id = 1, data = "a" } } },
      { id = "c", results = { { id = 1, data = {} }, { id = 2, data = {} } }, omitted_fields = { "results.data" } })
    assert.same({ { id = 1, data = "a" }, { id = 2, data = {} } }, check.results)
    local node = changes.merge(stage("s", { attempts = { attempt(1, "RUNNING", { details = { d = 1 } }) } }),
      stage("s", { attempts = { attempt(1, "COMPLETE", { details = {} }) }, omitted_fields = { "attempts.details" } }))
    assert.equal("COMPLETE", node.attempts[1].state)
    assert.same({ d = 1 }, node.attempts[1].details)
  end)

  it("progress is appended, and kept as long as the engine keeps it", function()
    local node = stage("s", { attempts = { attempt(1, "RUNNING", { details = { d = 1 } }) } })
    for i = 1, 450 do
      node = changes.merge(node, stage("s", {
        omitted_fields = { "attempts", "attempts.details", "attempts.progress" },
        attempts = { attempt(1, "RUNNING", { progress = { { message = tostring(i) } } }) },
      }))
    end
    local progress = node.attempts[1].progress
    assert.equal("450", progress[#progress].message)
    assert.is_true(#progress >= 100 and #progress <= 200)
    assert.same({ d = 1 }, node.attempts[1].details)
  end)

  it("long progress is kept by its bytes", function()
    local node = stage("s", { attempts = { attempt(1, "RUNNING", {}) } })
    for i = 1, 150 do
      node = changes.merge(node, stage("s", {
        omitted_fields = { "attempts.progress" },
        attempts = { attempt(1, "RUNNING", { progress = { { message = (" "):rep(4092) .. ("%4d"):format(i) } } }) },
      }))
      local progress = node.attempts[1].progress
      assert.equal(i, tonumber(progress[#progress].message))
      assert.is_true(#progress >= math.min(i, 16) and #progress <= 32)
    end
    node = changes.merge(node, stage("s", {
      omitted_fields = { "attempts.progress" },
      attempts = { attempt(1, "RUNNING", { progress = { { message = ("x"):rep(200000) } } }) },
    }))
    assert.equal(1, #node.attempts[1].progress) -- the last one in any case
  end)
end)

describe("the model:", function()
  it("tells of changes what it tells of whole nodes", function()
    local function event(node) return { timestamp = 1, stage_event = { stage = node } } end
    local left = { "args", "attempts", "attempts.details", "attempts.progress" }
    local function told(events)
      local plan, out = model.new(), {}
      for _, e in ipairs(events) do
        for _, change in ipairs(plan:event(e)) do
          out[#out + 1] = change.type .. ":" .. (change.text or change.attempt.idx)
        end
      end
      return out
    end
    local one, two = { message = "one", timestamp = 1 }, { message = "two", timestamp = 2 }
    local failed = { failure = { message = "no" } }
    local both = { progress = { one, two }, failure = failed.failure }
    local whole = told {
      event(stage("s", {})),
      event(stage("s", { attempts = { attempt(1, "RUNNING", { progress = { one } }) } })),
      event(stage("s", { attempts = { attempt(1, "RUNNING", { progress = { one, two } }) } })),
      event(stage("s", { attempts = { attempt(1, "INCOMPLETE", both) } })),
      event(stage("s", { attempts = { attempt(1, "INCOMPLETE", failed), attempt(2, "RUNNING") } })),
      event(stage("s", { state = "FINAL", attempts = { attempt(1, "INCOMPLETE", failed), attempt(2, "COMPLETE") } })),
    }
    local parts = told {
      event(stage("s", {})),
      event(stage("s", { omitted_fields = left, attempts = { attempt(1, "RUNNING", { progress = { one } }) } })),
      event(stage("s", { omitted_fields = left, attempts = { attempt(1, "RUNNING", { progress = { two } }) } })),
      event(stage("s", { omitted_fields = left, attempts = { attempt(1, "INCOMPLETE", failed) } })),
      event(stage("s", { omitted_fields = left, attempts = { attempt(2, "RUNNING") } })),
      event(stage("s", { omitted_fields = left, attempts = { attempt(2, "COMPLETE") } })),
      event(stage("s", { omitted_fields = left, state = "FINAL" })),
    }
    assert.same({ "started:1", "output:one", "output:two", "retry:no", "started:2", "ended:2" }, whole)
    assert.same(whole, parts)
  end)
end)

describe("following a plan:", function()
  -- A server whose streams are what the test says: lists of events and how each ends.
  local function serving(streams)
    local requests, settled = {}, false
    local transport = {}
    function transport.call(_, method)
      if method == "QueryNodes" then return { stages = {}, checks = {} } end
      local state = settled and "SETTLED" or "ACTIVE"
      return { work_plan = { id = "p", metadata = {}, state = state, outcome = "SUCCEEDED" } }
    end
    function transport.watch(_, request)
      requests[#requests + 1] = request
      local stream, feed, finish = client.new_stream(function() end)
      local script = assert(streams[#requests], "watched once too often")
      for _, event in ipairs(script) do
        settled = settled or event.completed_event ~= nil
        feed(event)
      end
      finish(script.err)
      return stream
    end
    return client.new(transport), requests
  end

  local function nothing() end
  local silent = { plan = nothing, event = nothing, nodes = nothing, notice = function(_, line) error(line) end }
  local slow = client.error("RESOURCE_EXHAUSTED", "the watcher is too slow")

  it("goes on behind the last event when it was too slow, however often, and tells nobody", function()
    local there, requests = serving {
      { { sequence = 5 }, { sequence = 7 }, err = slow },
      { { sequence = 9 }, err = slow },
      { { sequence = 12 }, err = slow },
      { { sequence = 20, completed_event = {} } },
    }
    local plan = assert(follow.new(there, "p", silent, 0):wait())
    assert.equal("p", plan.id)
    assert.is_true(requests[1].include_current)
    assert.is_true(requests[1].omit_unchanged)
    assert.same({ 7, 9, 12 },
      { requests[2].after_sequence, requests[3].after_sequence, requests[4].after_sequence })
  end)

  it("begins anew when the view of the plan was cut", function()
    local there, requests = serving {
      { { sequence = 5, more_current = true }, err = slow },
      { { sequence = 5, more_current = true }, { sequence = 8, more_current = false }, err = slow },
      { { sequence = 20, completed_event = {} } },
    }
    assert(follow.new(there, "p", silent, 0):wait())
    assert.is_true(requests[2].include_current)
    assert.is_nil(requests[2].after_sequence)
    assert.equal(8, requests[3].after_sequence)
  end)
end)
