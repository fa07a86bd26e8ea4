-- turboci policy check: what a server would say of a policy file, without a server. The file is looked through for
-- names and fields that are nobody's (lint.lua), opened in the real sandbox (compiled, run, each hook tried twice), and
-- asked about samples, to show what it answers and costs.
--
-- Only what the sandbox refuses a server refuses, too: exit code 2. Findings of the lint alone: 1.

local common = require "turboci.cli.common"
local out = require("turboci.cli.output").stdout

local M = {
  name = "check",
  summary = "Tries a policy file: compile, lint, sample questions",
  example = "turboci policy check policies/warm_first.lua",
}

function M.describe(parser)
  parser:argument("file", "The policy's file. Exit code 2: a server would not take it over; 1: it would, but there are "
    .. "findings: names that would be faults and fields that are always nil, in branches that no sample takes.")
    :argname("FILE")
  parser:option("--policies", "Folder where its `require` looks besides its own and the shipped one. May be repeated.")
    :argname("DIR"):count("*")
  parser:flag("--json", "One JSON object instead of text.")
end

local stage = {
  id = "compile", runner_type = "build", args = { command = "make", minutes = 5 }, priority = 1,
  retry = { max_attempts = 5, backoff = 2, backoff_max = 60 }, timeouts = { execution = 600, stale = 60 },
}
local plan = { id = "sample", metadata = { name = "sample", branch = "main" } }
local first_try = { plan = plan, stage = stage, attempt = { waited = 3 } }

local ended = { { runner = "a", failure = "TIMEOUT", queued = 1, ran = 600 } }
local runners = {
  { id = "a", load = 2, capacity = 4, used = 3, succeeded = 4 },
  { id = "b", load = 1, capacity = 4, metadata = { warm = "yes", weight = "2" }, used = 2, failed = 1 },
  { id = "c" },
}

-- What the hooks are asked.
local samples = {
  select = { plan = plan, stage = stage, attempt = { waited = 3 }, runners = runners },
  retry = { plan = plan, stage = stage, attempts = ended },
  timeout = first_try,
  priority = first_try,
  admit = first_try,
}

-- An answer as a policy would write it.
local function show(answer)
  if type(answer) == "string" then return ("%q"):format(answer) end
  if type(answer) ~= "table" then return tostring(answer) end
  local parts = {}
  for _, item in ipairs(answer) do parts[#parts + 1] = show(item) end
  for _, key in ipairs(require("turboci.util").sorted_keys(answer)) do
    if not math.tointeger(tonumber(key)) then parts[#parts + 1] = key .. " = " .. show(answer[key]) end
  end
  return #parts > 0 and "{ " .. table.concat(parts, ", ") .. " }" or "{}"
end

local function read(path)
  local file, err = io.open(path, "r")
  local text
  if file then
    text, err = file:read "a"
    file:close()
  end
  if not text then common.fail(2, ("turboci policy check: %s\n  give the path of a policy's file"):format(err)) end
  return (text:gsub("^\xef\xbb\xbf", "")) -- some editors begin with a byte order mark
end

-- { line =, text = }; where text is no Lua, the sandbox says.
local function lint(text)
  local list = require("turboci.core").list {}
  if not load(text:gsub("^#", "--#"), "=policy", "t", {}) then return list end
  for i, problem in ipairs(require("turboci.cli.policy.lint").check(text)) do list[i] = problem end
  return list
end

local function located(path, findings)
  local lines = {}
  for i, problem in ipairs(findings) do lines[i] = ("%s:%d: %s"):format(path, problem.line, problem.text) end
  return lines
end

local function refuse(args, findings, err)
  local lines = { err }
  for _, line in ipairs(located(args.file, findings)) do lines[#lines + 1] = line end
  if args.json then out:json { error = err, findings = findings } end
  common.fail(2, ("turboci policy check: %s\n  policies/README.md tells what a policy is; a server keeps the version "
    .. "that it has"):format(table.concat(lines, "\n  ")))
end

-- A select that chooses nobody, neither at first nor in a retry.
local function never_chooses(policy, answers)
  local first = answers.select
  if not first or first.fault or type(first.answer) == "string" then return false end
  local second = policy:ask("select", { plan = plan, stage = stage, attempts = ended, runners = runners })
  return not second.fault and type(second.answer) ~= "string"
end

local function ask(policy)
  local answers = {}
  for _, hook in ipairs(policy.hooks) do answers[hook] = policy:ask(hook, samples[hook]) end
  return answers
end

local function print_text(policy, answers)
  out:line(("%s  version %s  %s"):format(policy.name, policy.version, policy.path))
  local rows = {}
  for i, hook in ipairs(policy.hooks) do
    local answer = answers[hook]
    rows[i] = {
      "  " .. hook,
      ("%d instructions"):format(answer.cost),
      answer.fault and "cannot answer the sample: " .. answer.fault or show(answer.answer),
      answer.reason and ("%q"):format(answer.reason) or "",
    }
  end
  out:columns(rows)
end

---@param args table
---@return integer exit_code
function M.run(args)
  local folders, problem = require("turboci.policies").folders(args.policies)
  if not folders then common.fail(2, "turboci policy check: " .. problem) end
  local findings = lint(read(args.file))
  local policy, err = require("turboci.core").policy(args.file, { folders = folders })
  if not policy then refuse(args, findings, err) end
  local answers, warnings = ask(policy), require("turboci.core").list {}
  if never_chooses(policy, answers) then warnings[1] = "select never chooses a runner in any sample" end
  if args.json then
    out:json { name = policy.name, version = policy.version, path = policy.path, hooks = policy.hooks,
      samples = answers, findings = findings, warnings = warnings }
  else
    print_text(policy, answers)
  end
  for _, warning in ipairs(warnings) do common.notice(("warning: %s: %s"):format(args.file, warning)) end
  if #findings == 0 then return 0 end
  common.notice(table.concat(located(args.file, findings), "\n  ")
    .. "\n  a server would take it over; these would be faults, or always nil")
  return 1
end

return M
