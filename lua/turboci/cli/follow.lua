-- Following a plan to its end over a stream that may break: reconnects, resumes after the last sequence it saw, and
-- asks for the plan itself after each connect, since it may have settled unseen.
-- Called by run, submit --wait and watch.

local loop = require "turboci.loop"
local util = require "turboci.util"

local M = {}

local BACKOFF, BACKOFF_MAX = 0.1, 2
local CALL_TIMEOUT = 10
local STEADY = 5 -- seconds after which a silent stream counts as working

-- Statuses after which it makes sense to connect again.
local again = {
  UNAVAILABLE = true, CANCELLED = true, DEADLINE_EXCEEDED = true, RESOURCE_EXHAUSTED = true, OUT_OF_RANGE = true,
}

---@class turboci.cli.Follow
---@field client turboci.client.Client
---@field plan_id string
---@field progress turboci.cli.Progress
---@field timeout number seconds without a server before giving up
local Follow = {}
Follow.__index = Follow

---@param client turboci.client.Client
---@param plan_id string
---@param progress turboci.cli.Progress
---@param timeout number
---@return turboci.cli.Follow
function M.new(client, plan_id, progress, timeout)
  return setmetatable({
    client = client, plan_id = plan_id, progress = progress, timeout = timeout, sequence = 0,
    events = 0,
  }, Follow)
end

-- The plan, once it is settled.
local function settled(self)
  local response, err = self.client:call("GetWorkPlan", { id = self.plan_id }, { timeout = CALL_TIMEOUT })
  if not response then return nil, err end
  self.progress:plan(response.work_plan)
  if response.work_plan.state == "SETTLED" then return response.work_plan end
  return nil
end

-- Reads one stream. Returns the settled plan, or nil and why the stream ended.
local function read(self)
  local request = {
    work_plan_id = self.plan_id, include_checks = true, include_stages = true, include_progress = true,
    omit_unchanged = true,
  }
  if self.sequence > 0 then request.after_sequence = self.sequence else request.include_current = true end
  local stream = self.client:watch(request)
  self.stream = stream
  local plan, err = settled(self)
  if not err and self.away_since and not self.back then
    self.progress:notice("connected again")
    self.back = true
  end
  while not plan and not err and not self.stopped do
    local event
    event, err = stream:next()
    if not event then break end
    -- A view of the plan that was cut begins anew: to resume in it would tell again what was told.
    self.sequence = event.more_current and 0 or event.sequence
    self.events = self.events + 1
    self:settle_down()
    self.progress:event(event)
    if event.completed_event then plan, err = settled(self) end
  end
  stream:close()
  return plan, err
end

-- The server is there for good: the next loss starts from the beginning.
function Follow:settle_down()
  self.away_since, self.backoff, self.back = nil, nil, nil
end

---Waits before another try; false: enough. Also the `retry` of turboci.submit.
---@param err turboci.Error?
---@return boolean
function Follow:again(err)
  local now = util.mono()
  if not self.away_since then
    self.away_since = now
    if self.timeout > 0 then
      self.progress:notice(("lost the server (%s); trying again for %s"):format(err and err.message or "stream ended",
        util.format_duration(self.timeout)))
    end
  end
  local left = self.away_since + self.timeout - now
  if left <= 0 or self.stopped then return false end
  self.backoff = math.min((self.backoff or BACKOFF / 2) * 2, BACKOFF_MAX)
  loop.sleep(math.min(self.backoff, left))
  return not self.stopped
end

-- We read too slowly, or too many others read: the server is there and says where to go on. At once if something came,
-- else in a while; never given up.
function Follow:catch_up(came)
  self:settle_down()
  if came then return end
  loop.sleep(BACKOFF_MAX)
end

---Follows to the end. nil, nil: stopped.
---@return table? work_plan settled
---@return turboci.Error? err
function Follow:wait()
  while not self.stopped do
    local started, events = util.mono(), self.events
    local plan, err = read(self)
    if self.stopped then break end
    if util.mono() - started > STEADY then self:settle_down() end
    if plan then
      -- What the watch did not show (it may have been away) is shown now.
      local nodes = self.client:pages("QueryNodes",
        { work_plan_id = self.plan_id, include_checks = true, include_stages = true }, { timeout = CALL_TIMEOUT })
      if nodes then self.progress:nodes(nodes) end
      return plan
    end
    if err and not again[err.code] then return nil, err end
    if err and err.code == "OUT_OF_RANGE" then self.sequence = 0 end
    if err and err.code == "RESOURCE_EXHAUSTED" then
      self:catch_up(self.events > events)
    elseif not self:again(err) and not self.stopped then
      return nil, err or require("turboci.client").error("UNAVAILABLE", "the server ended the watch")
    end
  end
  return nil, nil
end

---Makes wait() return.
function Follow:stop()
  self.stopped = true
  if self.stream then self.stream:close() end
end

return M
