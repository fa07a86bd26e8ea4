-- The program: `turboci VERB ...`. Finds the verb, reads its arguments, runs it in the event loop, and turns what
-- happens into an exit code. engine/lua/main.c calls main(arg). Each verb is a module next to this file:
--
--   name, summary, example           for --help
--   describe(parser)                 its arguments (argparse)
--   run(args) -> exit code           in a task of the loop; fails by common.fail
--   raw = true                       gets its arguments unread (`test`)
--   subverbs = { "list", ... }       instead of describe and run: each is such a module, VERB/NAME.lua (`policy`)

local common = require "turboci.cli.common"
local output = require "turboci.cli.output"

local M = {}

-- Exit codes. The same for every verb; shown by `turboci --help`.
M.exit_codes = {
  { 0, "it worked: the plan SUCCEEDED" },
  { 1, "the plan FAILED, a server could not take over a policy, or the check of one has findings" },
  { 2, "wrong usage, or a mistake in the workflow or policy file" },
  { 3, "the plan was CANCELLED, or the program was interrupted" },
  { 4, "the server cannot be reached, or cannot do it now" },
  { 70, "a bug in this program; it says where" },
  { 74, "the database could not be written (a restart recovers what was acknowledged), or the output" },
}

local verbs = { "run", "serve", "runner", "submit", "watch", "status", "why", "policy", "test" }

local function verb(name)
  return require("turboci.cli." .. name)
end

-- One of `names`, or the end of the program; `of` is "turboci" or "turboci policy".
local function must_be_one_of(names, name, of)
  for _, candidate in ipairs(names) do
    if candidate == name then return end
  end
  local near = require("turboci.util").suggestion(name, names)
  common.fail(2, ("%s: no verb '%s'%s\n  `%s --help` shows them all"):format(of, name, near, of))
end

local help_words = { help = true, ["-h"] = true, ["--help"] = true }

local function exit_code_text()
  local lines = { "Exit codes:" }
  for _, entry in ipairs(M.exit_codes) do
    lines[#lines + 1] = ("  %2d  %s"):format(entry[1], entry[2])
  end
  return table.concat(lines, "\n")
end

-- Shows the verbs of `of`; on stderr when it was not asked for. Returns the exit code.
local function overview(asked, of, about, names, prefix, hint, example)
  local lines = { ("Usage: %s VERB ..."):format(of), "", about, "", "Verbs:" }
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("  %-8s %s"):format(name, verb(prefix .. name).summary)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = ("`%s VERB --help` tells more.%s"):format(of, hint)
  lines[#lines + 1] = "Example: " .. example
  lines[#lines + 1] = ""
  lines[#lines + 1] = exit_code_text()
  local out = asked and output.stdout or output.stderr
  out:write(table.concat(lines, "\n") .. "\n")
  return asked and 0 or 2
end

-- The arguments of a verb; nil: help was shown.
local function parse(module, title, words)
  local argparse = require "argparse"
  local parser = argparse("turboci " .. title, module.summary .. ".",
    ("Example: %s\n\n%s"):format(module.example, exit_code_text()))
  parser:add_help(false)
  parser:flag("-h --help", "Show this and exit.")
  parser:help_max_width(100)
  module.describe(parser)
  for _, word in ipairs(words) do
    if word == "-h" or word == "--help" then
      output.stdout:write(parser:get_help() .. "\n")
      return nil
    end
  end
  local ok, args = parser:pparse(words)
  if not ok then
    common.fail(2, ("turboci %s: %s\n  `turboci %s --help` shows what it takes, for example: %s")
      :format(title, args, title, module.example))
  end
  return args
end

local function run_verb(module, title, words)
  if module.raw then return module.run(words) end
  local before, after = common.split(words)
  local args = parse(module, title, module.takes_parameters and before or words)
  if not args then return 0 end
  args.parameters = module.takes_parameters and after or nil
  return require("turboci.loop").run(module.run, args)
end

local function run_subverb(module, words)
  local of, name = "turboci " .. module.name, words[1]
  if name == nil or help_words[name] then
    return overview(name, of, module.summary .. ".", module.subverbs, module.name .. ".", "", module.example)
  end
  must_be_one_of(module.subverbs, name, of)
  local rest = table.move(words, 2, #words, 1, {})
  return run_verb(verb(module.name .. "." .. name), module.name .. " " .. name, rest)
end

local function dispatch(words)
  local name = words[1]
  if name == nil or help_words[name] then
    return overview(name, "turboci", "Runs workflows written in Lua.", verbs, "", " --version shows the version.",
      "turboci run examples/hello.lua")
  end
  if name == "--version" or name == "version" then
    output.stdout:line("turboci ", require("turboci.core").version)
    return 0
  end
  must_be_one_of(verbs, name, "turboci")
  local module = verb(name)
  local rest = table.move(words, 2, #words, 1, {})
  if module.subverbs then return run_subverb(module, rest) end
  return run_verb(module, name, rest)
end

---@param words string[] the arguments
---@return integer exit_code
function M.main(words)
  local ok, code = xpcall(dispatch, function(err)
    if common.is_failure(err) then return err end
    return debug.traceback(tostring(err), 2)
  end, table.move(words, 1, #words, 1, {}))
  if not ok then
    local failure = common.is_failure(code) and code
    output.note(failure and failure.message or "turboci: this is a bug, please report it:\n" .. code)
    code = failure and failure.code or 70
  end
  require("turboci.cli.ending").run()
  return output.finish(code)
end

return M
