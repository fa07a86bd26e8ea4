-- From what a run function returned to what the engine is told: a RunResponse, or the same fields of a
-- CompleteStageExecutionRequest. Pure.
--
--   true or nothing   success: every assigned check is finalized
--   nil, "text"       failure
--   a table           { data =, checks = { [id] = { data =, failure =, finalize = } }, failure =, details = }
--                     data: the result of every assigned check; failure: a text or { message = };
--                     details: kept with the attempt
-- A failure also fails the checks that have no word of their own, once the engine has given up repeating the stage.

local util = require "turboci.util"

local M = {}

---@class turboci.runner.Result
---@field data table?
---@field checks table<string, {data: table?, failure: string|table?, finalize: boolean?}>?
---@field failure string|{message: string}?
---@field details table?

local fields = { data = "table", checks = "table", failure = "string|table", details = "table" }
local check_fields = { data = "table", failure = "string|table", finalize = "boolean" }

local function failure_of(value)
  if value == nil then return nil end
  local message = type(value) == "table" and value.message or value
  return { message = util.clean_text(util.text_of(message)) }
end

local function problem_in(context, result)
  if type(result) ~= "table" then return ("returned a %s; expected true, nil or a table"):format(type(result)) end
  local ok, err = pcall(util.check_options, result, fields, "result", 1)
  if not ok then return (err:gsub("^.-: ", "", 1)) end
  local assigned, ids = {}, {}
  for i, check in ipairs(context.checks) do
    assigned[check.id], ids[i] = true, check.id
  end
  for id, own in pairs(result.checks or {}) do
    if not assigned[id] then
      return ("gave a result for check '%s', which the stage is not assigned to%s")
        :format(tostring(id), util.suggestion(tostring(id), ids))
    end
    ok, err = pcall(util.check_options, own, check_fields, "check " .. tostring(id), 1)
    if not ok then return (err:gsub("^.-: ", "", 1)) end
  end
  return nil
end

---@param context {checks: {id: string}[]}
---@param result turboci.runner.Result|boolean?
---@param err any with a result of nil or false: the failure
---@return table completion stage_state, check_updates, failure, details
function M.completion(context, result, err)
  if result == true or (result == nil and err == nil) then result = {} end
  if not result then result = { failure = tostring(err or "the run function returned false") } end
  local problem = problem_in(context, result)
  if problem then result = { failure = "the run function " .. problem } end
  local failure = failure_of(result.failure)
  local updates = {}
  for i, check in ipairs(context.checks) do
    local own = result.checks and result.checks[check.id] or {}
    local finalize = own.finalize ~= false
    updates[i] = {
      check_id = check.id,
      state = finalize and "FINAL" or nil,
      finalize = finalize,
      result_data = own.data or result.data,
      failure = failure_of(own.failure) or failure,
    }
  end
  return { stage_state = "FINAL", check_updates = updates, failure = failure, details = result.details }
end

return M
