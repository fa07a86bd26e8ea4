-- The program: `turboci VERB ...`. Finds the verb, reads its arguments, runs it in the event loop, and turns what
-- happens into an exit code. engine/lua/main.c calls main(arg). Each verb is a module next to this file:
--
--   name, summary, example           for --help
--   describe(parser)                 its arguments (argparse)
--   run(args) -> exit code           in a task of the loop; fails by common.fail
--   raw = true                       gets its arguments unread (`test`)

local common = require "turboci.cli.common"

local M = {}

-- Exit codes. The same for every verb; shown by `turboci --help`.
M.exit_codes = {
  { 0, "it worked: the plan SUCCEEDED" },
  { 1, "the plan FAILED" },
  { 2, "wrong usage, or a mistake in the workflow file" },
  { 3, "the plan was CANCELLED, or the program was interrupted" },
  { 4, "the server cannot be reached" },
  { 70, "a bug in this program; it says where" },
  { 74, "the disk failed under the database; a restart recovers what was acknowledged" },
}

local verbs = { "run", "serve", "runner", "submit", "watch", "status", "test" }

local function verb(name)
  return require("turboci.cli." .. name)
end

local function exit_code_text()
  local lines = { "Exit codes:" }
  for _, entry in ipairs(M.exit_codes) do
    lines[#lines + 1] = ("  %2d  %s"):format(entry[1], entry[2])
  end
  return table.concat(lines, "\n")
end

local function overview()
  local lines = { "Usage: turboci VERB ...", "", "Runs workflows written in Lua.", "", "Verbs:" }
  for _, name in ipairs(verbs) do
    lines[#lines + 1] = ("  %-8s %s"):format(name, verb(name).summary)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "`turboci VERB --help` tells more. --version shows the version."
  lines[#lines + 1] = "Example: turboci run examples/hello.lua"
  lines[#lines + 1] = ""
  lines[#lines + 1] = exit_code_text()
  return table.concat(lines, "\n") .. "\n"
end

-- The arguments of a verb; nil: help was shown.
local function parse(module, words)
  local argparse = require "argparse"
  local parser = argparse("turboci " .. module.name, module.summary .. ".",
    ("Example: %s\n\n%s"):format(module.example, exit_code_text()))
  parser:add_help(false)
  parser:flag("-h --help", "Show this and exit.")
  parser:help_max_width(100)
  module.describe(parser)
  for _, word in ipairs(words) do
    if word == "-h" or word == "--help" then
      io.stdout:write(parser:get_help(), "\n")
      return nil
    end
  end
  local ok, args = parser:pparse(words)
  if not ok then
    common.fail(2, ("turboci %s: %s\n  `turboci %s --help` shows what it takes, for example: %s")
      :format(module.name, args, module.name, module.example))
  end
  return args
end

local function dispatch(words)
  local name = words[1]
  if name == nil or name == "help" or name == "-h" or name == "--help" then
    local out = name and io.stdout or io.stderr
    out:write(overview())
    return name and 0 or 2
  end
  if name == "--version" or name == "version" then
    print("turboci " .. require("turboci.core").version)
    return 0
  end
  local known = false
  for _, candidate in ipairs(verbs) do
    known = known or candidate == name
  end
  if not known then
    local near = require("turboci.util").suggestion(name, verbs)
    common.fail(2, ("turboci: no verb '%s'%s\n  `turboci --help` shows them all"):format(name, near))
  end
  local module = verb(name)
  local rest = table.move(words, 2, #words, 1, {})
  if module.raw then return module.run(rest) end
  local before, after = common.split(rest)
  local args = parse(module, module.takes_parameters and before or rest)
  if not args then return 0 end
  args.parameters = module.takes_parameters and after or nil
  return require("turboci.loop").run(module.run, args)
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
    io.stderr:write(failure and failure.message or "turboci: this is a bug, please report it:\n" .. code, "\n")
    code = failure and failure.code or 70
  end
  io.stdout:flush()
  io.stderr:flush()
  return code
end

return M
