-- history: a journal read back as what happened from outside, with its times: which plans came, what clients wrote,
-- which runners came and went, and how each attempt of each stage ended. The engine's own moves are left out, but for
-- what they are compared with.
--
-- 1. Times are the journal's wall clock in microseconds; equal times keep the journal's order (`order`).
-- 2. A record is one step of one plan, so what a client wrote in it is one WriteNodes again, in the same order: nodes
--    get the same places in their plan.
-- 3. A stage's attempts are kept for good, everything else only until it is replayed.
--
-- Used by turboci.replay.

local core = require "turboci.core"

local M = {}

---@class turboci.replay.Attempt
---@field index integer
---@field ready_us integer when it could have been dispatched: created, and its backoff over
---@field dispatched_us integer?
---@field ended_us integer?
---@field order integer? of its end
---@field runner string?
---@field kind string? of its failure
---@field message string? of its failure
---@field accepted_us integer? async: the runner said yes
---@field execution_ms integer? its deadline's length
---@field stale_ms integer?
---@field updates table[] CheckUpdates that its runner gave
---@field awaiting boolean? its stage waited for children
---@field decisions table<string, table> the last of each hook
---@field estimate boolean? replayed: its duration, or its end, is not on record

---@class turboci.replay.Node
---@field kind "check"|"stage"
---@field id string
---@field runner_type string? stage; nil: clients pull it
---@field attempts turboci.replay.Attempt[]?
---@field now turboci.replay.Attempt[]? as replayed
---@field assigned string[] checks a stage owes results to
---@field started_us integer? stage: ATTEMPTING since
---@field waiting turboci.replay.Event[]? stage that clients pull: what they wrote of it
---@field final boolean?
---@field outcome string?

---@class turboci.replay.Plan
---@field id string
---@field metadata table<string, string>
---@field policy string?
---@field created_us integer
---@field settled_us integer?
---@field outcome string?
---@field nodes turboci.replay.Node[] in order of creation
---@field stages table<string, turboci.replay.Node>
---@field events integer those of this plan that are to come
---@field pulls boolean? it has stages that clients pull

---@class turboci.replay.Event
---@field at_us integer
---@field order number
---@field kind "plan"|"write"|"register"|"leave"
---@field plan turboci.replay.Plan?
---@field request table? of WriteNodes, without the plan's id; of RegisterStageRunner, without an address
---@field created turboci.replay.Node[]? by this write
---@field after_us integer? of a write that waits for a stage: since that became ATTEMPTING
---@field runner string?

---@class turboci.replay.History
---@field plans turboci.replay.Plan[] in order of creation
---@field events turboci.replay.Event[] in order
---@field runners table<string, turboci.replay.Runner>
---@field runner_ids string[] in order of their first registration
---@field start_us integer
---@field end_us integer
---@field records integer

---@class turboci.replay.Runner
---@field id string
---@field seen integer[] when it is known to have been there, rising: heartbeats that change nothing are not on record

local TTL_SECONDS = 1000000000 -- replayed registrations last until they left or expired then
local EXPIRY_SLACK_US = 100000 -- timers fire a little late, never early; clients unregister long before

local KEPT = "turboci.check_updates_not_applied" -- in an attempt's details: what was not applied, since it was retried

local Reader = {}
Reader.__index = Reader

-- ---- plans and what clients wrote ----

-- The write of this record: items by kind and node, in order of appearance.
local function item_of(record, node)
  local item = record.items[node]
  if not item then
    item = { id = node.id }
    record.items[node] = item
    local list = node.kind == "check" and record.checks or record.stages
    list[#list + 1] = item
  end
  return item
end

local function settings(item, change)
  if change.kind then item.runner_type = change.kind end
  item.execution_mode, item.args, item.priority = change.mode, change.bytes, change.priority
  if change.retry_max or change.backoff_ms or change.backoff_ms_max then
    item.retry = { max_attempts = change.retry_max or 0, backoff_ms = change.backoff_ms or 0,
      backoff_ms_max = change.backoff_ms_max or 0 }
  end
  if change.execution_ms or change.stale_ms then
    item.timeouts = { execution_ms = change.execution_ms or 0, stale_ms = change.stale_ms or 0 }
  end
end

local function add_node(record, node)
  local plan = record.plan
  plan.nodes[#plan.nodes + 1] = node
  record.created[#record.created + 1] = node
  return item_of(record, node)
end

local function is_pulled(node)
  return node.kind == "stage" and not node.runner_type
end

-- Names of nodes are known only at the end of the record: an edge may lead to one that is created later in it.
local function resolve_edges(record)
  local nodes = record.plan.nodes
  for _, edges in ipairs(record.edges) do
    local node, item, change = edges.node, item_of(record, edges.node), edges.change
    if change.dependencies then
      local list = {}
      for i, edge in ipairs(change.dependencies) do
        local target = nodes[edge.node]
        list[i] = { target_type = target.kind:upper(), target_id = target.id, condition = edge.condition }
      end
      item.dependencies = { predicate = change.dependencies.predicate, dependencies = list }
    end
    if change.assignments then
      item.assignments, node.assigned = {}, {}
      for i, edge in ipairs(change.assignments) do
        item.assignments[i] = { target_check_id = nodes[edge.node].id, goal_state = edge.goal }
        node.assigned[i] = nodes[edge.node].id
      end
    end
  end
end

local function failure_of(change)
  if not change.failed then return nil end
  return { message = change.failure_message or "" }
end

-- ---- one function for each type of change ----

local on = {}

function on.PLAN_CREATED(reader, record, change)
  local plan = { id = record.id, metadata = change.metadata or {}, policy = change.policy, created_us = record.at_us,
    nodes = {}, stages = {}, events = 0 }
  record.plan = plan
  reader.by_key[record.key] = plan
  reader.history.plans[#reader.history.plans + 1] = plan
  reader:leave_now(record)
  reader.open_plans = reader.open_plans + 1
  reader:event(record, { kind = "plan", plan = plan })
end

function on.PLAN_STATE(reader, record, change)
  local settled = change.state == "SETTLED"
  record.plan.settled_us = settled and record.at_us or nil
  record.plan.outcome = change.outcome
  reader.open_plans = reader.open_plans + (settled and -1 or 1)
end

function on.CHECK_CREATED(_, record, change)
  local item = add_node(record, { kind = "check", id = change.id })
  item.state, item.kind, item.options = change.state, change.kind, change.bytes
end

function on.CHECK_UPDATED(_, record, change, node)
  local item = item_of(record, node)
  item.kind, item.options = change.kind, change.bytes
end

function on.CHECK_STATE(_, record, change, node)
  if change.state == "PLANNED" or change.reason == "WRITTEN" then item_of(record, node).state = change.state end
end

function on.CHECK_RESULT(_, record, change, node)
  local stage = change.owner_type == "stage" and record.plan.stages[change.owner_id] or nil
  if stage and stage.final then return end -- the engine's: a result that nobody gave
  local ended = stage and record.ended[stage]
  local failure = failure_of(change)
  if ended then
    ended.updates[#ended.updates + 1] = { check_id = node.id, result_data = change.bytes,
      finalize = change.finalized or false, failure = failure }
    return
  end
  item_of(record, node).result = { owner_type = change.owner_type, owner_id = change.owner_id, data = change.bytes,
    finalize = change.finalized or false, failure = failure }
end

function on.STAGE_CREATED(_, record, change)
  local node = { kind = "stage", id = change.id, runner_type = change.kind, attempts = {}, assigned = {} }
  record.plan.stages[node.id] = node
  record.plan.pulls = record.plan.pulls or is_pulled(node)
  settings(add_node(record, node), change)
end

function on.STAGE_UPDATED(_, record, change, node)
  node.runner_type = change.kind or node.runner_type
  settings(item_of(record, node), change)
end

function on.EDGES(_, record, change, node)
  record.edges[#record.edges + 1] = { node = node, change = change }
end

local by_engine = { DEPENDENCIES_UNSATISFIED = true, CANCELLED = true }

function on.STAGE_STATE(_, record, change, node)
  local last = node.attempts[#node.attempts]
  if change.state == "ATTEMPTING" then
    node.started_us = record.at_us
  elseif change.state == "AWAITING_GROUP" then
    if last then last.awaiting = true end
  elseif change.state == "FINAL" then
    node.final, node.outcome, node.final_us = true, change.outcome, record.at_us
    if change.reason == "WRITTEN" or (is_pulled(node) and not by_engine[change.reason]) then
      item_of(record, node).state = "FINAL"
      if is_pulled(node) and node.started_us then record.anchor = node end
    end
  end
end

local ends = { COMPLETE = true, INCOMPLETE = true }

-- A client's word on a stage that it pulls.
local function pulled_attempt(record, change, node)
  if change.state == "PENDING" then return end
  local item = item_of(record, node)
  local write = item.current_attempt or {}
  item.current_attempt = write
  write.process_uid = change.process_uid or write.process_uid
  write.state = change.state or write.state
  write.failure = failure_of(change) or write.failure
  record.anchor = node
end

local function kept_updates(details)
  local updates = {}
  for i, kept in ipairs(details and details[KEPT] or {}) do
    updates[i] = { check_id = kept.check_id, result_data = kept.data, finalize = true,
      failure = kept.failure and { message = kept.failure } }
  end
  return updates
end

function on.ATTEMPT(_, record, change, node)
  if is_pulled(node) then return pulled_attempt(record, change, node) end
  local attempt = node.attempts[change.attempt]
  if not attempt then
    attempt = { index = change.attempt, ready_us = math.max(record.at_us, change.not_before_us or 0), updates = {},
      decisions = {} }
    node.attempts[change.attempt] = attempt
  end
  if change.execution == "DISPATCHED" then
    attempt.dispatched_us, attempt.runner = record.at_us, change.runner_id
    attempt.execution_ms, attempt.stale_ms = change.execution_ms, change.stale_ms
  end
  if change.accepted and not attempt.accepted_us then attempt.accepted_us = record.at_us end
  if change.decision then attempt.decisions[change.decision.hook] = change.decision end
  if change.bytes then
    local kept = kept_updates(change.bytes)
    if #kept > 0 then attempt.updates = kept end
  end
  if not ends[change.state] then return end
  attempt.ended_us, attempt.order = record.at_us, record.order
  if change.failed then attempt.kind, attempt.message = change.failure_kind, change.failure_message or "" end
  record.ended[node] = attempt
end

-- ---- runners ----

function on.RUNNER(reader, record, change)
  local history = reader.history
  local runner = history.runners[change.id]
  if not runner then
    runner = { id = change.id, seen = {} }
    history.runners[change.id] = runner
    history.runner_ids[#history.runner_ids + 1] = change.id
  end
  reader:settle_gone(record.at_us, change.id)
  if reader.leaving[change.id] then reader:leave(record, change.id) end
  runner.seen[#runner.seen + 1] = record.at_us
  local request = { runner_id = change.id, runner_type = change.kind, supported_modes = change.mode,
    max_concurrent = change.max_concurrent, metadata = change.metadata, ttl_seconds = TTL_SECONDS }
  reader.registered[change.registration_id] = { request = request, ttl_us = (change.ttl_ms or 0) * 1000,
    seen_us = record.at_us }
  reader:event(record, { kind = "register", runner = change.id, request = request })
end

function on.RUNNER_GONE(reader, record, change)
  local known = reader.registered[change.registration_id]
  if not known then return end
  reader.registered[change.registration_id] = nil
  if change.at_us and change.at_us > known.seen_us then -- its last heartbeat
    local seen = reader.history.runners[known.request.runner_id].seen
    seen[#seen + 1], known.seen_us = change.at_us, change.at_us
  end
  known.gone = record
  table.insert(reader.gone, known)
end

-- What became of a runner that went, once all records of that moment are read. One that left when nothing was to be
-- done stays until there is work again: a slower policy may still need it.
function Reader:went(known)
  local id, record = known.request.runner_id, known.gone
  if self.open_plans == 0 then
    self.leaving[id] = true
    return
  end
  local ttl_seconds = known.ttl_us // 1000000
  if ttl_seconds < 1 or record.at_us < known.seen_us + known.ttl_us - EXPIRY_SLACK_US then
    self:event(record, { kind = "leave", runner = id })
    return
  end
  -- It expired: a last heartbeat makes the engine expire it at just that time.
  local last = {}
  for key, value in pairs(known.request) do last[key] = value end
  last.ttl_seconds = ttl_seconds
  local event = self:event(record, { kind = "register", runner = id, request = last })
  event.at_us = math.max(known.seen_us, record.at_us - ttl_seconds * 1000000)
end

-- Those that went before this time; all of them when this one is back already.
function Reader:settle_gone(at_us, id)
  for _, known in ipairs(self.gone) do
    if known.request.runner_id == id then at_us = math.maxinteger end
  end
  while #self.gone > 0 and self.gone[1].gone.at_us < at_us do self:went(table.remove(self.gone, 1)) end
end

function Reader:leave(record, id)
  self.leaving[id] = nil
  self:event(record, { kind = "leave", runner = id })
end

function Reader:leave_now(record)
  for _, id in ipairs(self.history.runner_ids) do
    if self.leaving[id] then self:leave(record, id) end
  end
end

-- ---- reading ----

function Reader:event(record, event, list)
  list = list or self.history.events
  event.at_us, event.order, event.tie = record.at_us, record.order, #list + 1
  list[event.tie] = event
  if event.plan then event.plan.events = event.plan.events + 1 end
  return event
end

function Reader:write(record)
  if #record.edges > 0 then resolve_edges(record) end
  if #record.checks == 0 and #record.stages == 0 then return end
  local event = { kind = "write", plan = record.plan, created = record.created,
    request = { checks = record.checks, stages = record.stages } }
  local anchor = record.anchor
  if anchor and anchor.started_us then
    anchor.waiting = anchor.waiting or {}
    self:event(record, event, anchor.waiting)
    event.after_us = record.at_us - anchor.started_us
  else
    self:event(record, event)
  end
end

function Reader:record(from)
  local history = self.history
  history.records = history.records + 1
  if history.records == 1 then history.start_us = from.at_us end
  history.end_us = from.at_us
  self:settle_gone(from.at_us)
  local record = { key = from.plan_key, id = from.plan_id, at_us = from.at_us, order = history.records,
    plan = self.by_key[from.plan_key], checks = {}, stages = {}, items = {}, created = {}, edges = {}, ended = {} }
  for _, change in ipairs(from.changes) do
    local handler = on[change.type]
    if handler then handler(self, record, change, record.plan and record.plan.nodes[change.node]) end
  end
  if record.plan then self:write(record) end
end

---Reads a journal file; it may be a live server's.
---@param path string
---@param progress fun(records: integer)?
---@return turboci.replay.History? history
---@return string? err
function M.read(path, progress)
  local history = { plans = {}, events = {}, runners = {}, runner_ids = {}, records = 0, start_us = 0, end_us = 0 }
  local reader = setmetatable({ history = history, by_key = {}, registered = {}, leaving = {}, gone = {},
    open_plans = 0 }, Reader)
  local ok, err = core.journal(path, function(record)
    reader:record(record)
    if progress and history.records % 1000 == 0 then progress(history.records) end
  end)
  if not ok then return nil, err end
  reader:settle_gone(math.maxinteger)
  table.sort(history.events, function(a, b)
    if a.at_us ~= b.at_us then return a.at_us < b.at_us end
    return a.tie < b.tie
  end)
  return history
end

return M
