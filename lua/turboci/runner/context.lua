-- What a run function gets: one execution, its progress and its cancellation.
--
-- Progress is sent in order, one call at a time, and never holds up the work: when the server is slow the oldest
-- unsent entry gives way. A server that no longer knows the execution cancels it.
-- Made by turboci.runner for each execution.

local loop = require "turboci.loop"
local util = require "turboci.util"

local M = {}

local UNSENT_MAX = 100 -- what the engine keeps of an attempt
local UPDATE_TIMEOUT = 5

---@class turboci.runner.Context
---@field execution_id string
---@field work_plan_id string
---@field stage_id string
---@field attempt integer from 1
---@field mode "SYNC"|"ASYNC"
---@field args table
---@field checks {id: string, kind: string, options: table}[] assigned to the stage
---@field deadline number? seconds since 1970
---@field client turboci.client.Client of the server that sent the work
---@field cancelled boolean nobody waits for the result any more
---@field cancel_reason string? "cancelled", "deadline", "superseded" or "stopped"
local Context = {}
Context.__index = Context

---@param request table RunRequest or RunAsyncRequest
---@param mode "SYNC"|"ASYNC"
---@param client turboci.client.Client
---@return turboci.runner.Context
function M.new(request, mode, client)
  local options = {}
  for _, entry in ipairs(request.check_options or {}) do
    options[entry.check_id] = entry
  end
  local checks = {}
  for i, id in ipairs(request.assigned_check_ids or {}) do
    local entry = options[id] or {}
    checks[i] = { id = id, kind = entry.kind or "", options = entry.options or {} }
  end
  return setmetatable({
    execution_id = request.execution_id,
    work_plan_id = request.work_plan_id,
    stage_id = request.stage_id,
    attempt = request.attempt_idx,
    mode = mode,
    args = request.args or {},
    checks = checks,
    deadline = request.deadline,
    client = client,
    cancelled = false,
    unsent = {},
    callbacks = {},
  }, Context)
end

---------------------------------------------------------------------------------------------------
-- Progress

local function send(self)
  while #self.unsent > 0 do
    local update = table.remove(self.unsent, 1)
    local _, err = self.client:call("UpdateStageExecution", update, { timeout = UPDATE_TIMEOUT })
    if err and (err.code == "FAILED_PRECONDITION" or err.code == "NOT_FOUND") then
      self.unsent = {}
      self:cancel("superseded")
    end
  end
  self.sending = nil
end

---Tells the server, without waiting.
---@param message string
---@param options {percent: number?, details: table?}? percent: 0 to 100
function Context:progress(message, options)
  options = util.check_options(options, { percent = "number", details = "table" }, "progress")
  if self.cancelled or self.ended then return end
  if #self.unsent >= UNSENT_MAX then table.remove(self.unsent, 1) end
  table.insert(self.unsent, {
    execution_id = self.execution_id,
    message = util.clean_text(util.text_of(message)),
    progress_percent = options.percent and math.floor(math.min(100, math.max(0, options.percent))) or nil,
    details = options.details,
  })
  if not self.sending then self.sending = loop.spawn(send, self) end
end

---Waits until all progress has been sent, or could not be.
function Context:flush()
  while self.sending do
    self.sending:wait()
  end
end

---------------------------------------------------------------------------------------------------
-- Cancellation

---Calls fn(reason), in a task, when the execution is cancelled: now, if it is already.
---@param fn fun(reason: string)
function Context:on_cancel(fn)
  if self.cancelled then
    loop.spawn(fn, self.cancel_reason)
  else
    table.insert(self.callbacks, { fn = fn, scope = loop.current_scope() })
  end
end

---For the runner: nobody wants the result any more. Only the first call counts.
---@param reason string
function Context:cancel(reason)
  if self.cancelled or self.ended then return end
  self.cancelled, self.cancel_reason, self.unsent = true, reason, {}
  for _, entry in ipairs(self.callbacks) do
    if entry.scope then entry.scope:spawn(entry.fn, reason) else loop.spawn(entry.fn, reason) end
  end
end

return M
