-- world: a history once more, in virtual time, under other policies. The engine is the real one; what came from outside
-- comes again at its time, and its runners answer as they did then (answers.lua).
--
-- 1. Nothing here depends on the machine: no clock, one seed, ties broken by the order on record. The same history and
--    the same policies give the same replay.
-- 2. What clients wrote comes when it came then, even where they had waited for a result; only a client's word on a
--    stage that it pulled comes as long after that stage's start as it did then.
-- 3. A plan that is over is taken out of the world's memory; the engine forgets it by itself.
--
-- Used by turboci.replay.

local core = require "turboci.core"
local answers = require "turboci.replay.answers"

local M = {}

-- Limits that were not the history's: what came then comes again, however large.
local LIMITS = {
  runner_ttl_ms_max = 1000000000000,
  reply_bytes_max = 1000000000,
  turn_reply_bytes_max = 1000000000,
  message_bytes_max = 1000000000,
  message_arena_bytes_max = 1000000000000,
  nodes_per_plan_max = 1000000000,
  runners_max = 1000000000,
  watchers_max = 1000000000,
}
local IDLE_US = 7 * 24 * 3600 * 1000000 -- of waiting after the last thing that happened: it is over
local IDLE_TURNS = 100000
local LATE = math.huge -- of equal times the ends on record go first

---@class turboci.replay.World
local World = {}
World.__index = World

-- ---- what is to come: a heap by time, then by order ----

local function before(a, b)
  if a.at_us ~= b.at_us then return a.at_us < b.at_us end
  if a.order ~= b.order then return a.order < b.order end
  return a.number < b.number
end

function World:later(at_us, order, fn)
  self.number = self.number + 1
  local heap, at = self.heap, #self.heap + 1
  local timer = { at_us = at_us, order = order or LATE, number = self.number, fn = fn }
  while at > 1 and before(timer, heap[at // 2]) do
    heap[at] = heap[at // 2]
    at = at // 2
  end
  heap[at] = timer
end

local function pop(heap)
  local first, last = heap[1], table.remove(heap)
  local len, at = #heap, 1
  if len == 0 then return first end
  while true do
    local child = 2 * at
    if child > len then break end
    if child < len and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], last) then break end
    heap[at] = heap[child]
    at = child
  end
  heap[at] = last
  return first
end

-- ---- the engine ----

function World:now_us()
  local _, wall_us = self.engine:now()
  return wall_us
end

-- Takes what the last turns let out; replies are kept by token.
function World:take()
  for _, output in ipairs(self.engine:take()) do
    if output.type == "reply" then
      self.replies[output.token] = output
    elseif output.type == "dispatch" then
      self:dispatch(output)
    elseif output.type == "cancel" then
      self.calls[output.execution_id] = nil
    elseif output.type == "watch" then
      self:watched(output)
    end
  end
end

---@return table? response
---@return string? err
function World:call(method, request)
  local names = core.methods[method]
  local token = self.engine:call(method, assert(core.encode(names.request, request)))
  self:take()
  local reply = self.replies[token]
  self.replies[token] = nil
  if not reply then return nil, "no reply" end
  if reply.code ~= 0 then return nil, reply.message end
  return core.decode(names.response, reply.bytes)
end

-- ---- what clients and runners did then ----

local on = {}

function on.plan(self, event)
  local plan = event.plan
  local policy, response = not self.all and plan.policy or nil, nil
  if policy then
    response = self:call("CreateWorkPlan", { metadata = plan.metadata, policy = policy })
    if not response then self.missing[policy] = (self.missing[policy] or 0) + 1 end
  end
  response = response or assert(self:call("CreateWorkPlan", { metadata = plan.metadata }))
  plan.now_id, plan.now_nodes, plan.now_created_us = response.work_plan.id, {}, self:now_us()
  self.plans[plan.now_id] = plan
  local pulled = {}
  for _, node in ipairs(plan.nodes) do
    if node.kind == "stage" and not node.runner_type then pulled[#pulled + 1] = node.id end
  end
  plan.token = self.engine:call("WatchWorkPlan", assert(core.encode("WatchWorkPlanRequest", {
    work_plan_id = plan.now_id, include_stages = #pulled > 0, stage_id_filter = pulled,
    stage_state_filter = #pulled > 0 and { "ATTEMPTING" } or nil,
  })))
  self.watches[plan.token] = plan
  self:take()
end

function World:write(event)
  local plan, request, settled_us = event.plan, event.request, event.plan.now_settled_us
  request.work_plan_id, request.omit_nodes = plan.now_id, true
  plan.writing, plan.now_settled_us = event.created, nil
  local response, err = self:call("WriteNodes", request)
  plan.writing = nil
  if not response or #event.created == 0 then plan.now_settled_us = plan.now_settled_us or settled_us end
  if response then
    for _, node in ipairs(event.created) do plan.now_nodes[#plan.now_nodes + 1] = node end
  else
    self.refused = self.refused + 1
    self.refusal = self.refusal or err
  end
  self:done(plan)
end

on.write = World.write

function on.register(self, event)
  local id = event.runner
  if not self.addresses[id] then
    self.hosts = self.hosts + 1
    self.addresses[id] = ("127.%d.%d.%d:1"):format(self.hosts // 65536, self.hosts // 256 % 256, self.hosts % 256)
  end
  event.request.address = self.addresses[id]
  self.registrations[id] = assert(self:call("RegisterStageRunner", event.request)).registration_id
end

function on.leave(self, event)
  local registration = self.registrations[event.runner]
  self.registrations[event.runner] = nil
  if registration then self:call("UnregisterStageRunner", { registration_id = registration }) end
end

-- ---- what runners say ----

local function failure_text(message)
  return (message or ""):gsub("^[%u_]+: ", "")
end

-- Of a sync run: status, message, RunResponse.
local function run_response(answer)
  if answer.how == "unreachable" then return core.codes.UNAVAILABLE, failure_text(answer.message) end
  if answer.how == "rejected" then return core.codes.RESOURCE_EXHAUSTED, failure_text(answer.message) end
  if answer.how == "late" then return core.codes.DEADLINE_EXCEEDED, failure_text(answer.message) end
  if answer.how == "protocol" then return core.codes.OK, nil, "\255" end
  return core.codes.OK, nil, assert(core.encode("RunResponse", {
    stage_state = answer.awaiting and "AWAITING_GROUP" or "FINAL", check_updates = answer.updates,
    failure = answer.how == "reported" and { message = answer.message } or nil,
  }))
end

function World:answer(id, code, message, bytes)
  local mode = self.calls[id].mode
  self.happened_us = self:now_us()
  self.engine:answer(id, mode, code, message, code == 0 and bytes or nil)
  self:take()
end

function World:run_sync(id, answer, now_us)
  if answer.how == "never" then return end
  self:later(now_us + answer.after_us, answer.order, function()
    if not self.calls[id] then return end
    self:answer(id, run_response(answer))
    self.calls[id] = nil
  end)
end

local early = { unreachable = true, rejected = true, late = true, protocol = true }

-- Signs of life until then, so that nobody is called silent who was not; `falls_silent`: the last one just then.
function World:keep_alive(id, at_us, until_us, every_us, falls_silent)
  local next_us = at_us + every_us
  if next_us >= until_us then
    if not falls_silent or until_us <= at_us then return end
    next_us = until_us
  end
  self:later(next_us, nil, function()
    if not self.calls[id] then return end
    self:call("UpdateStageExecution", { execution_id = id })
    self:keep_alive(id, next_us, until_us, every_us, falls_silent)
  end)
end

function World:run_async(id, answer, now_us, stale_ms)
  if early[answer.how] then
    self:later(now_us + answer.after_us, answer.order, function()
      if not self.calls[id] then return end
      if answer.how == "rejected" then
        self:answer(id, 0, nil, assert(core.encode("RunAsyncResponse", { accepted = false })))
      else
        self:answer(id, run_response(answer))
      end
      self.calls[id] = nil
    end)
    return
  end
  if not answer.accept_us then return end
  local end_us = answer.how ~= "never" and now_us + answer.after_us or math.maxinteger
  self:later(now_us + answer.accept_us, nil, function()
    if not self.calls[id] then return end
    self:answer(id, 0, nil, assert(core.encode("RunAsyncResponse", { accepted = true })))
    local silent_us = answer.silent_us and now_us + answer.silent_us or end_us
    self:keep_alive(id, now_us + answer.accept_us, silent_us, math.max(1000, stale_ms * 500),
      answer.silent_us ~= nil)
  end)
  if answer.how == "never" then return end
  self:later(end_us, answer.order, function()
    if not self.calls[id] then return end
    self.calls[id] = nil
    self.happened_us = end_us
    self:call("CompleteStageExecution", { execution_id = id,
      stage_state = answer.awaiting and "AWAITING_GROUP" or "FINAL", check_updates = answer.updates,
      failure = answer.how == "reported" and { message = answer.message } or nil })
  end)
end

function World:dispatch(output)
  local id, now_us = output.execution_id, self:now_us()
  local plan_id, place, index = id:match "^(.*):(%d+):(%d+):%x+$"
  local plan = self.plans[plan_id]
  local stage = plan.now_nodes[place + 1] or plan.writing[place + 1 - #plan.now_nodes]
  local attempt = self.engine:attempt(plan_id, place + 1, math.tointeger(index))
  local answer = self.answers:next(stage, attempt.runner_id, output.mode, now_us, attempt.execution_ms or 0)
  stage.estimates = stage.estimates or {}
  stage.estimates[math.tointeger(index)] = answer.estimate
  self.calls[id] = { mode = output.mode }
  self.happened_us = now_us
  if output.mode == "SYNC" then
    self:run_sync(id, answer, now_us)
  else
    self:run_async(id, answer, now_us, attempt.stale_ms)
  end
end

-- ---- plans that are over ----

function World:watched(output)
  local plan = self.watches[output.token]
  if not plan then return end
  local event = assert(core.decode("WorkPlanEvent", output.bytes))
  if event.completed_event then
    plan.now_settled_us = self:now_us()
    self.settled[#self.settled + 1] = plan
  elseif event.stage_event then
    local node = plan.stages[event.stage_event.stage_id]
    if node.now_started_us then return end
    node.now_started_us = self:now_us()
    for _, write in ipairs(node.waiting or {}) do
      self:later(node.now_started_us + write.after_us, write.order, function() self:write(write) end)
    end
    node.waiting = nil
  end
end

local function microseconds(seconds)
  return seconds and math.floor(seconds * 1000000 + 0.5) or nil
end

local function replayed(execution, estimate)
  local attempt = {
    index = execution.attempt_idx,
    ready_us = math.max(microseconds(execution.created_at), microseconds(execution.not_before) or 0),
    dispatched_us = microseconds(execution.dispatched_at),
    ended_us = microseconds(execution.finished_at),
    runner = execution.runner_id ~= "" and execution.runner_id or nil,
    estimate = estimate or false,
  }
  if execution.failure then attempt.kind, attempt.message = execution.failure.kind, execution.failure.message end
  attempt.decisions = {}
  for _, decision in ipairs(execution.decisions) do
    attempt.decisions[decision.hook] = { policy = decision.policy ~= "" and decision.policy or nil,
      reason = decision.reason ~= "" and decision.reason or nil,
      fault = decision.fault ~= "" and decision.fault or nil }
  end
  return attempt
end

-- Takes out what the comparison needs, and lets go of the rest.
function World:harvest(plan)
  if plan.harvested or not plan.now_id then return end
  plan.harvested = true
  self.left = self.left - 1
  for _, node in ipairs(plan.now_nodes) do node.now = node.kind == "stage" and {} or nil end
  local executions = assert(self:call("ListStageExecutions", { work_plan_id = plan.now_id })).executions
  for _, execution in ipairs(executions) do
    local node = plan.stages[execution.stage_id]
    node.now[execution.attempt_idx] = replayed(execution, (node.estimates or {})[execution.attempt_idx])
  end
  local response = assert(self:call("QueryNodes", { work_plan_id = plan.now_id, include_stages = true }))
  for _, stage in ipairs(response.stages) do
    local node = plan.stages[stage.id]
    node.now_outcome = stage.state == "FINAL" and stage.outcome or nil
    self.answers:forget(node)
    for _, attempt in ipairs(node.attempts) do attempt.updates = nil end
  end
  local work_plan = assert(self:call("GetWorkPlan", { id = plan.now_id })).work_plan
  plan.now_outcome = work_plan.state == "SETTLED" and work_plan.outcome or nil
  self.engine:unwatch(plan.token)
  self.watches[plan.token] = nil
  self:take()
end

-- One of the plan's events is over.
function World:done(plan)
  plan.events = plan.events - 1
  if plan.now_settled_us and plan.events == 0 then self.settled[#self.settled + 1] = plan end
end

function World:harvest_settled()
  while #self.settled > 0 do
    local plan = table.remove(self.settled, 1)
    if plan.events == 0 and plan.now_settled_us and not plan.harvested then
      self:harvest(plan)
      if self.progress then self.progress(self.total - self.left, self.total) end
    end
  end
end

-- ---- the run ----

function World:start_event(event)
  if event.plan and event.kind ~= "write" then event.plan.events = event.plan.events - 1 end
  on[event.kind](self, event)
end

-- Moves time to the next thing that happens, of the engine or ours; false: nothing is left.
function World:step(event)
  local now_us = self:now_us()
  local timer = self.heap[1]
  local own_us = math.min(timer and timer.at_us or math.maxinteger, event and event.at_us or math.maxinteger)
  local due = self.engine:next_due()
  local engine_us = due and now_us + due or math.maxinteger
  local next_us = math.min(own_us, engine_us)
  if next_us == math.maxinteger then return false end
  if own_us == math.maxinteger then -- only the engine's timers are left: how long is it worth waiting?
    self.idle_turns = self.idle_turns + 1
    if engine_us > self.happened_us + IDLE_US or self.idle_turns > IDLE_TURNS then return false end
  else
    self.idle_turns = 0
  end
  if next_us > now_us then self.engine:advance(next_us - now_us) else self.engine:settle() end
  self:take()
  return true
end

-- The next of ours that is due now, in order; nil: none.
function World:due(event)
  local now_us, timer = self:now_us(), self.heap[1]
  timer = timer and timer.at_us <= now_us and timer or nil
  event = event and event.at_us <= now_us and event or nil
  if timer and event and event.order < timer.order then return "event" end
  return timer and "timer" or event and "event" or nil
end

function World:run()
  local events, at = self.history.events, 1
  while self.left > 0 do
    local due = self:due(events[at])
    if due == "timer" then
      pop(self.heap).fn()
    elseif due == "event" then
      self:start_event(events[at])
      events[at] = false
      at = at + 1
    elseif not self:step(events[at]) then
      break
    end
    self:harvest_settled()
  end
  self.end_us = self:now_us()
  for _, plan in ipairs(self.history.plans) do self:harvest(plan) end
end

---@class turboci.replay.WorldOptions
---@field policies string[]? folders
---@field policy string? name of the server's default
---@field policy_for table<string, string>?
---@field all boolean? the default decides for plans with a policy of their own, too
---@field limits table<string, integer>?
---@field progress fun(plans: integer, of: integer)?

---@class turboci.replay.Replay
---@field refused integer writes that the engine refuses now
---@field refusal string? the first one's text
---@field missing table<string, integer> plans by a policy of their own that is not there
---@field policies table[] PolicyInfo: what became of them
---@field end_us integer

---Replays a history; its plans and stages get their `now`.
---@param history turboci.replay.History
---@param options turboci.replay.WorldOptions
---@return turboci.replay.Replay? replay
---@return string? err
function M.run(history, options)
  local limits = {}
  for name, value in pairs(options.limits or {}) do limits[name] = value end
  for name, value in pairs(LIMITS) do limits[name] = value end
  local engine, err = core.virtual { start = history.start_us / 1000000, limits = limits, policies = options.policies,
    policy = options.policy, policy_for = options.policy_for }
  if not engine then return nil, err end
  local world = setmetatable({
    history = history, engine = engine, answers = answers.new(history), all = options.all,
    progress = options.progress, total = #history.plans, left = #history.plans, heap = {}, number = 0, replies = {},
    plans = {}, calls = {}, watches = {}, settled = {}, registrations = {}, addresses = {}, hosts = 0, refused = 0,
    missing = {}, happened_us = history.end_us, idle_turns = 0,
  }, World)
  engine:jump_wall(history.start_us - world:now_us())
  local _ <close> = engine
  world:run()
  local infos = assert(world:call("ListPolicies", {})).policies
  return { refused = world.refused, refusal = world.refusal, missing = world.missing, policies = infos,
    end_us = world.end_us }
end

return M
