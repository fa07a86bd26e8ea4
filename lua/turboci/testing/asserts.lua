-- asserts: what specs say about plans, for luassert.
--
--   assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED", attempts = 2, runner = "b" }
--   assert.check(plan, "builds").is_final { outcome = "FAILED", failure = "exit code 2" }
--   assert.stage(plan, "compile").has_state "ATTEMPTING"
--   assert.transitions(plan, "stage", "compile", { "PLANNED", "ATTEMPTING", "FINAL" })
--   assert.transitions(plan, "attempt", "compile", { "PENDING", "SCHEDULED", "RUNNING", "INCOMPLETE" }, 1)
--   assert.execution(plan, "compile").is_recorded { state = "COMPLETE", mode = "SYNC", runner = "b" }
--   assert.in_order(plan, { "compile", "test", "ship" })
--   assert.runner_load(runner, 1)
--   assert.stage(plan, "compile").explains "the policy said wait"

local options = require "turboci.workflow.options"

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function show(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local parts, keys = {}, {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for i, key in ipairs(keys) do
    parts[i] = (math.type(key) and "" or tostring(key) .. " = ") .. show(value[key])
  end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

-- Both: a text that contains the wanted one.
local function contains(actual, wanted)
  return type(actual) == "string" and actual:find(wanted, 1, true) ~= nil
end

local function last_failure(items)
  local last = items[#items]
  return last and last.failure and last.failure.message
end

-- Per kind: what is_final can say, and how to find it out.
local facts = {
  stage = {
    outcome = { "string", function(node) return node.outcome end },
    reason = { "string", function(node) return node.reason end },
    attempts = { "integer", function(node) return #node.attempts end },
    runner = { "string", function(node, subject)
      local execution = subject.plan.env:execution(subject.plan, node.id)
      return execution and execution.runner_id
    end },
    failure = { "string", function(node) return last_failure(node.attempts) end, contains },
    failure_kind = { "string", function(node)
      local attempt = node.attempts[#node.attempts]
      return attempt and attempt.failure and attempt.failure.kind
    end },
  },
  check = {
    outcome = { "string", function(node) return node.outcome end },
    reason = { "string", function(node) return node.reason end },
    results = { "integer", function(node) return #node.results end },
    data = { "table", function(node) return node.results[1] and node.results[1].data or {} end, same },
    failure = { "string", function(node) return last_failure(node.results) end, contains },
  },
}

-- What is_recorded can say of an execution.
local execution_facts = {
  state = { "string", function(execution) return execution.state end },
  attempt = { "integer", function(execution) return execution.attempt_idx end },
  attempt_state = { "string", function(execution) return execution.attempt_state end },
  mode = { "string", function(execution) return execution.execution_mode end },
  runner = { "string", function(execution) return execution.runner_id end },
  runner_type = { "string", function(execution) return execution.runner_type end },
  failure = { "string", function(execution) return execution.failure and execution.failure.message end, contains },
  failure_kind = { "string", function(execution) return execution.failure and execution.failure.kind end },
  progress = { "table", function(execution)
    local messages = {}
    for i, entry in ipairs(execution.progress) do messages[i] = entry.message end
    return messages
  end, same },
}

local function node_of(subject)
  local env = subject.plan.env
  return env[subject.kind](env, subject.plan, subject.id, subject.attempt)
end

local function subject_of(kind)
  return function(state, arguments, level)
    local plan, id = arguments[1], arguments[2]
    if type(plan) ~= "table" or not plan.env or type(id) ~= "string" then
      error(("assert.%s: expected a plan of turboci.testing and an id"):format(kind), (level or 1) + 1)
    end
    rawset(state, "payload", { kind = kind, plan = plan, id = id, attempt = arguments[3] })
    return state
  end
end

local function subject_in(state, name, level)
  local subject = rawget(state, "payload")
  if type(subject) ~= "table" or not facts[subject.kind] then
    error(name .. " follows assert.stage(plan, id) or assert.check(plan, id)", (level or 1) + 2)
  end
  return subject
end

local function say(state, text)
  rawset(state, "failure_message", text)
  return false
end

-- The options of an assertion: those of the facts it knows.
local function options_of(name, given, known_facts)
  local known = {}
  for fact_name, fact in pairs(known_facts) do known[fact_name] = fact[1] end
  return options.check(name, given, known)
end

-- Adds to `wrong` every wanted fact that is otherwise.
local function compare(wanted, known_facts, thing, subject, wrong)
  for name, value in pairs(wanted) do
    local fact = known_facts[name]
    local actual = fact[2](thing, subject)
    if not (fact[3] or same)(actual, value) then
      wrong[#wrong + 1] = ("%s: expected %s, got %s"):format(name, show(value), show(actual))
    end
  end
end

local function judge(state, what, wrong, subject, well)
  table.sort(wrong)
  if #wrong == 0 then
    rawset(state, "failure_message", what .. " " .. well)
    return true
  end
  return say(state, what .. ": " .. table.concat(wrong, "; ") .. "\n" .. subject.plan.env:explain())
end

local function final(state, arguments, level)
  local subject = subject_in(state, "is_final", level)
  local what = ("%s '%s'"):format(subject.kind, subject.id)
  local wanted = options_of("is_final", arguments[1], facts[subject.kind])
  local node = node_of(subject)
  if not node then return say(state, what .. ": there is none") end
  local wrong = {}
  if node.state ~= "FINAL" then wrong[1] = ("state: expected FINAL, got %s"):format(tostring(node.state)) end
  compare(wanted, facts[subject.kind], node, subject, wrong)
  return judge(state, what, wrong, subject, "is final as described")
end

local TIMES = { "created_at", "dispatched_at", "started_at", "finished_at" }
-- How many of them have happened in a state, at least and at most; a terminal state always has the last.
local HAPPENED = {
  PENDING = { 1, 1 }, DISPATCHED = { 2, 2 }, RUNNING = { 3, 3 }, COMPLETE = { 4, 4 }, FAILED = { 1, 4 },
  CANCELLED = { 1, 4 },
}
-- Waits are measured by a clock that never jumps and shown by one that may: they differ by a hair.
local HAIR_S = 0.005

-- What must hold for every execution record, whatever was asked about it.
local function check_times(execution, wrong)
  local least, most = table.unpack(HAPPENED[execution.state] or { 1, 4 })
  local last, last_name = 0, nil
  for i, name in ipairs(TIMES) do
    local at = execution[name]
    if not at and (i <= least or i == 4 and most == 4) then
      wrong[#wrong + 1] = ("%s: missing in state %s"):format(name, execution.state)
    elseif at and i > most then
      wrong[#wrong + 1] = ("%s: there already in state %s"):format(name, execution.state)
    elseif at and at < last then
      wrong[#wrong + 1] = ("%s: before %s"):format(name, last_name)
    end
    if at then last, last_name = at, name end
  end
  if (execution.deadline ~= nil) ~= (execution.dispatched_at ~= nil) then
    wrong[#wrong + 1] = "deadline: comes with dispatched_at, and only then"
  end
  if execution.state == "COMPLETE" and execution.deadline and last > execution.deadline + HAIR_S then
    wrong[#wrong + 1] = "finished_at: after the deadline"
  end
  if execution.not_before and (execution.dispatched_at or math.huge) < execution.not_before - HAIR_S then
    wrong[#wrong + 1] = "dispatched_at: before not_before"
  end
  if (execution.failure ~= nil) ~= (execution.state == "FAILED") then
    wrong[#wrong + 1] = ("failure: %s in state %s"):format(show(execution.failure), execution.state)
  end
end

local function recorded(state, arguments, level)
  local subject = rawget(state, "payload")
  if type(subject) ~= "table" or subject.kind ~= "execution" then
    error("is_recorded follows assert.execution(plan, stage_id, attempt?)", (level or 1) + 1)
  end
  local what = ("execution of stage '%s'"):format(subject.id)
  if subject.attempt then what = what .. (", attempt %d"):format(subject.attempt) end
  local wanted = options_of("is_recorded", arguments[1], execution_facts)
  local execution = node_of(subject)
  if not execution then return say(state, what .. ": there is none") end
  local wrong = {}
  compare(wanted, execution_facts, execution, subject, wrong)
  check_times(execution, wrong)
  return judge(state, what, wrong, subject, "is recorded as described")
end

local function in_state(state, arguments, level)
  local subject = subject_in(state, "has_state", level)
  local node = node_of(subject)
  rawset(state, "failure_message", ("%s '%s': expected state %s, got %s\n%s"):format(subject.kind, subject.id,
    tostring(arguments[1]), node and tostring(node.state) or "none", subject.plan.env:explain()))
  return node ~= nil and node.state == arguments[1]
end

-- What explains can say of an explanation.
local explanation_facts = {
  text = { "string", function(explanation) return explanation.text end, contains },
  kind = { "string", function(explanation) return explanation.kind end },
  subject = { "string", function(explanation) return explanation.subject end },
  attempt = { "integer", function(explanation) return explanation.attempt_idx end },
}

local function explains(state, arguments, level)
  local subject = subject_in(state, "explains", level)
  local wanted = arguments[1]
  if type(wanted) == "string" then wanted = { text = wanted } end
  wanted = options_of("explains", wanted, explanation_facts)
  local lines = {}
  for i, explanation in ipairs(subject.plan.env:why(subject.plan, subject.id, subject.kind).explanations) do
    local wrong = {}
    compare(wanted, explanation_facts, explanation, subject, wrong)
    if #wrong == 0 then
      rawset(state, "failure_message", ("%s '%s' is explained by %s"):format(subject.kind, subject.id, show(wanted)))
      return true
    end
    lines[i] = ("  %s %s (%s)"):format(tostring(explanation.kind), explanation.text, explanation.subject)
  end
  return say(state, ("%s '%s': nothing explains it by %s:\n%s"):format(subject.kind, subject.id, show(wanted),
    table.concat(lines, "\n")))
end

local function transitions(state, arguments, level)
  local plan, kind, id, wanted, attempt = table.unpack(arguments, 1, 5)
  if type(plan) ~= "table" or type(wanted) ~= "table" or not (facts[kind] or kind == "attempt") then
    error("assert.transitions: expected a plan, \"stage\", \"check\" or \"attempt\", an id and a list of states",
      (level or 1) + 1)
  end
  local events = plan.events or plan
  local actual = kind == "attempt" and events:attempt_states(id, attempt) or events:transitions(kind, id)
  local what = kind == "attempt" and ("attempt %d of stage '%s'"):format(attempt or 1, id)
    or ("%s '%s'"):format(kind, id)
  rawset(state, "failure_message", ("%s: expected transitions %s, got %s"):format(what, show(wanted), show(actual)))
  return same(actual, wanted)
end

-- Why `later` did not wait for the end of `earlier`; nil: it did.
local function disorder(plan, earlier, later)
  local ended = plan.events:sequence_of("stage", earlier, "FINAL")
  local started = plan.events:sequence_of("stage", later, "ATTEMPTING")
  if not ended then return ("stage '%s' was never seen FINAL"):format(earlier) end
  if not started then return ("stage '%s' was never seen ATTEMPTING"):format(later) end
  if started < ended then return ("stage '%s' was ATTEMPTING before stage '%s' was FINAL"):format(later, earlier) end
  local before, after = plan.env:execution(plan, earlier), plan.env:execution(plan, later, 1)
  if before and after and after.dispatched_at and after.dispatched_at < before.finished_at then
    return ("stage '%s' was dispatched before stage '%s' had finished"):format(later, earlier)
  end
end

local function in_order(state, arguments, level)
  local plan, ids = arguments[1], arguments[2]
  if type(plan) ~= "table" or not plan.env or type(ids) ~= "table" or #ids < 2 then
    error("assert.in_order: expected a plan of turboci.testing and a list of stages", (level or 1) + 1)
  end
  for i = 2, #ids do
    local wrong = disorder(plan, ids[i - 1], ids[i])
    if wrong then return say(state, wrong .. "\n" .. plan.env:explain()) end
  end
  rawset(state, "failure_message", ("stages %s ran in this order"):format(show(ids)))
  return true
end

local function runner_load(state, arguments, level)
  local runner, wanted = arguments[1], arguments[2]
  if type(runner) ~= "table" or not runner.info or not math.type(wanted) then
    error("assert.runner_load: expected a mock runner and a number", (level or 1) + 1)
  end
  local info = runner:info()
  rawset(state, "failure_message", ("runner '%s': expected load %d, got %s"):format(runner.id, wanted,
    info and tostring(info.current_load) or "none: it is not registered"))
  return info ~= nil and info.current_load == wanted
end

local M = {}

---Teaches luassert these assertions. Doing it again is fine.
---@param luassert table
function M.register(luassert)
  luassert:register("modifier", "stage", subject_of "stage")
  luassert:register("modifier", "check", subject_of "check")
  luassert:register("modifier", "execution", subject_of "execution")
  luassert:register("assertion", "final", final)
  luassert:register("assertion", "state", in_state)
  luassert:register("assertion", "recorded", recorded)
  luassert:register("assertion", "transitions", transitions)
  luassert:register("assertion", "in_order", in_order)
  luassert:register("assertion", "runner_load", runner_load)
  luassert:register("assertion", "explains", explains)
end

return M
