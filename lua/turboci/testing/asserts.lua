-- asserts: what specs say about plans, for luassert.
--
--   assert.stage(plan, "compile").is_final { outcome = "SUCCEEDED", attempts = 2, runner = "b" }
--   assert.check(plan, "builds").is_final { outcome = "FAILED", failure = "exit code 2" }
--   assert.stage(plan, "compile").has_state "ATTEMPTING"
--   assert.transitions(plan, "stage", "compile", { "PLANNED", "ATTEMPTING", "FINAL" })

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

local function node_of(subject)
  local env = subject.plan.env
  return env[subject.kind](env, subject.plan, subject.id)
end

local function subject_of(kind)
  return function(state, arguments, level)
    local plan, id = arguments[1], arguments[2]
    if type(plan) ~= "table" or not plan.env or type(id) ~= "string" then
      error(("assert.%s: expected a plan of turboci.testing and an id"):format(kind), (level or 1) + 1)
    end
    rawset(state, "payload", { kind = kind, plan = plan, id = id })
    return state
  end
end

local function subject_in(state, name, level)
  local subject = rawget(state, "payload")
  if type(subject) ~= "table" or not subject.kind then
    error(name .. " follows assert.stage(plan, id) or assert.check(plan, id)", (level or 1) + 2)
  end
  return subject
end

local function say(state, text)
  rawset(state, "failure_message", text)
  return false
end

local function final(state, arguments, level)
  local subject = subject_in(state, "is_final", level)
  local known, what = {}, ("%s '%s'"):format(subject.kind, subject.id)
  for name, fact in pairs(facts[subject.kind]) do known[name] = fact[1] end
  local wanted = options.check("is_final", arguments[1], known)
  local node = node_of(subject)
  if not node then return say(state, what .. ": there is none") end
  local wrong = {}
  if node.state ~= "FINAL" then wrong[1] = ("state: expected FINAL, got %s"):format(tostring(node.state)) end
  for name, value in pairs(wanted) do
    local fact = facts[subject.kind][name]
    local actual = fact[2](node, subject)
    if not (fact[3] or same)(actual, value) then
      wrong[#wrong + 1] = ("%s: expected %s, got %s"):format(name, show(value), show(actual))
    end
  end
  table.sort(wrong)
  if #wrong == 0 then
    rawset(state, "failure_message", what .. " is final as described")
    return true
  end
  return say(state, what .. ": " .. table.concat(wrong, "; ") .. "\n" .. subject.plan.env:explain())
end

local function in_state(state, arguments, level)
  local subject = subject_in(state, "has_state", level)
  local node = node_of(subject)
  rawset(state, "failure_message", ("%s '%s': expected state %s, got %s\n%s"):format(subject.kind, subject.id,
    tostring(arguments[1]), node and tostring(node.state) or "none", subject.plan.env:explain()))
  return node ~= nil and node.state == arguments[1]
end

local function transitions(state, arguments, level)
  local plan, kind, id, wanted = table.unpack(arguments, 1, 4)
  if type(plan) ~= "table" or type(wanted) ~= "table" or not facts[kind] then
    error("assert.transitions: expected a plan, \"stage\" or \"check\", an id and a list of states", (level or 1) + 1)
  end
  local actual = (plan.events or plan):transitions(kind, id)
  rawset(state, "failure_message",
    ("%s '%s': expected transitions %s, got %s"):format(kind, id, show(wanted), show(actual)))
  return same(actual, wanted)
end

local M = {}

---Teaches luassert these assertions. Doing it again is fine.
---@param luassert table
function M.register(luassert)
  luassert:register("modifier", "stage", subject_of "stage")
  luassert:register("modifier", "check", subject_of "check")
  luassert:register("assertion", "final", final)
  luassert:register("assertion", "state", in_state)
  luassert:register("assertion", "transitions", transitions)
end

return M
