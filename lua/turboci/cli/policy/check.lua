-- turboci policy check: what a server would say of a policy file, without a server. The file is opened in the real
-- sandbox (compiled, run, each hook tried twice), looked through for names that are nobody's (lint.lua), and asked
-- about samples, to show what it answers and costs.

local common = require "turboci.cli.common"

local M = {
  name = "check",
  summary = "Tries a policy file: compile, lint, sample questions",
  example = "turboci policy check policies/warm_first.lua",
}

function M.describe(parser)
  parser:argument("file", "The policy's file."):argname("FILE")
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

-- What the hooks are asked.
local samples = {
  select = {
    plan = plan, stage = stage, attempt = { waited = 3 },
    runners = {
      { id = "a", load = 2, capacity = 4, used = 3, succeeded = 4 },
      { id = "b", load = 1, capacity = 4, metadata = { warm = "yes", weight = "2" }, used = 2, failed = 1 },
      { id = "c" },
    },
  },
  retry = { plan = plan, stage = stage, attempts = { { runner = "a", failure = "TIMEOUT", queued = 1, ran = 600 } } },
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
  if not file then common.fail(2, ("turboci policy check: %s\n  give the path of a policy's file"):format(err)) end
  local text = file:read "a"
  file:close()
  return text
end

local function fail_with(lines)
  common.fail(2, ("turboci policy check: %s\n  policies/README.md tells what a policy is; a server keeps the version "
    .. "that it has"):format(table.concat(lines, "\n  ")))
end

local function lint(path, text)
  local lines = {}
  for i, problem in ipairs(require("turboci.cli.policy.lint").check(text)) do
    lines[i] = ("%s:%d: %s"):format(path, problem.line, problem.text)
  end
  if #lines > 0 then fail_with(lines) end
end

local function ask(policy)
  local answers = {}
  for _, hook in ipairs(policy.hooks) do answers[hook] = policy:ask(hook, samples[hook]) end
  return answers
end

local function print_text(policy, answers)
  print(("%s  version %s  %s"):format(policy.name, policy.version, policy.path))
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
  io.stdout:write(require("turboci.cli.text").columns(rows))
end

---@param args table
---@return integer exit_code
function M.run(args)
  local folders, problem = require("turboci.policies").folders(args.policies)
  if not folders then common.fail(2, "turboci policy check: " .. problem) end
  local text = read(args.file)
  local policy, err = require("turboci.core").policy(args.file, { folders = folders })
  if not policy then fail_with { err } end
  lint(args.file, text)
  local answers = ask(policy)
  if args.json then
    print(require("turboci.cli.text").json {
      name = policy.name, version = policy.version, path = policy.path, hooks = policy.hooks, samples = answers,
    })
  else
    print_text(policy, answers)
  end
  return 0
end

return M
