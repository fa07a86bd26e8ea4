-- turboci policy replay: what a policy would have made of the past. The work is turboci.replay; here it is shown.

local common = require "turboci.cli.common"
local stdout = require("turboci.cli.output").stdout
local stderr = require("turboci.cli.output").stderr

local M = {
  name = "replay",
  summary = "Runs a policy over a database's history and compares",
  example = "turboci policy replay policies/warm_first.lua --db turboci.db",
}

local DECISIONS = 10 -- shown unless told otherwise
local PLANS = 10

local function how_many(word)
  if word == "all" then return math.maxinteger end
  if word == "0" then return 0 end
  return common.count(word)
end

function M.describe(parser)
  parser:argument("file", "The candidate: a policy's file. The history is replayed in virtual time as on a server "
    .. "started with --policy FILE: the candidate decides for all stages but those whose plan names a policy of its "
    .. "own (see --all) or whose runner type has one (--policy-for). Runners take as long, and fail, as they did then. "
    .. "A duration of a stage on a runner that it never ran on is an estimate (its median elsewhere), marked ~; so is "
    .. "that of a run which a deadline cut off then and which has a longer one now. "
    .. "What clients wrote comes when it came then. The whole history is held in memory."):argname("FILE")
  parser:option("--db", "File of the journal; a server may be using it."):argname("PATH"):default("turboci.db")
  parser:option("--policies", "Folder of the policies that plans name, besides FILE's own and the shipped one. May be "
    .. "repeated."):argname("DIR"):count("*")
  parser:option("--policy-for", "The policy of a runner type. May be repeated."):argname("TYPE=NAME"):count("*")
  parser:flag("--all", "FILE decides for plans with a policy of their own, too.")
  parser:option("--plan", "Show this plan only; all are replayed."):argname("ID")
  parser:option("--decisions", "How many of the decisions that differ are shown, or all."):argname("N")
    :default(tostring(DECISIONS))
    :convert(how_many)
  parser:option("--limit", "A limit of the server then, where it was not the default. May be repeated.")
    :argname("NAME=VALUE"):count("*")
  parser:flag("--json", "One JSON object instead of tables.")
end

---------------------------------------------------------------------------------------------------
-- Arguments

local function fail(text, hint)
  common.fail(2, ("turboci policy replay: %s\n  %s"):format(text, hint))
end

local hints = {
  policy = "`turboci policy check FILE` tries a policy; --policies names the folders of others",
  db = "--db names the journal of a server: the file that was given to `turboci serve --db`",
  plan = "`turboci policy replay FILE --db PATH` without --plan lists the plans",
}

local function types_of(words)
  local out = {}
  for _, word in ipairs(words) do
    local runner_type, name = word:match "^([^=]+)=(.+)$"
    if not runner_type then
      fail(("--policy-for %s: expected TYPE=NAME"):format(word), "for example: shell=least_loaded")
    end
    out[runner_type] = name
  end
  return next(out) and out or nil
end

-- A line on a terminal's stderr that says how far it is; nothing elsewhere.
local function progress()
  if not require("turboci.core").terminal(2) then return nil, function() end end
  local util, last = require "turboci.util", 0
  local function show(phase, done, of)
    local now = util.mono()
    if now - last < 0.2 then return end
    last = now
    stderr:write(phase == "read" and ("\r\27[Kreading: %d records"):format(done)
      or ("\r\27[Kreplaying: %d of %d plans"):format(done, of))
  end
  return show, function() stderr:write "\r\27[K" end
end

---------------------------------------------------------------------------------------------------
-- Text

local function duration(seconds)
  if not seconds then return "-" end
  if seconds < 59.995 then return ("%.2fs"):format(seconds) end
  return require("turboci.util").format_duration(seconds)
end

local function change(was, now, format)
  if was == now then return "=" end
  local difference = now - was
  local text = (difference < 0 and "-" or "+") .. format(math.abs(difference))
  if was == 0 then return text end
  return ("%s (%+.1f %%)"):format(text, difference / was * 100)
end

local function count(number)
  return ("%d"):format(number)
end

local function estimated(number)
  return number > 0 and ("~%d"):format(number) or "0"
end

local function figures(result)
  local was, now = result.was, result.now
  local rows = { { "", "WAS", "NOW", "CHANGE" } }
  local function times(title, before, after)
    rows[#rows + 1] = { title, duration(before), duration(after), change(before, after, duration) }
  end
  local function counts(title, before, after)
    rows[#rows + 1] = { title, count(before), count(after), change(before, after, count) }
  end
  times("makespan", was.makespan, now.makespan)
  times("  of a plan, mean", was.plan_makespan.mean, now.plan_makespan.mean)
  times("  of a plan, p95", was.plan_makespan.p95, now.plan_makespan.p95)
  times("queue wait, total", was.wait.total, now.wait.total)
  times("  p50", was.wait.p50, now.wait.p50)
  times("  p95", was.wait.p95, now.wait.p95)
  times("  max", was.wait.max, now.wait.max)
  counts("attempts", was.attempts, now.attempts)
  counts("  retries", was.retries, now.retries)
  local kinds = {}
  for kind in pairs(was.failures) do kinds[kind] = true end
  for kind in pairs(now.failures) do kinds[kind] = true end
  for _, kind in ipairs(require("turboci.util").sorted_keys(kinds)) do
    counts("  failed: " .. kind, was.failures[kind] or 0, now.failures[kind] or 0)
  end
  rows[#rows + 1] = { "  estimated", "-", estimated(now.estimates), "" }
  return rows
end

local function runners(result)
  local rows = { { "RUNNER", "RUNS WAS", "NOW", "BUSY WAS", "NOW", "SHARE WAS", "NOW", "ESTIMATED" } }
  for _, row in ipairs(result.runners) do
    rows[#rows + 1] = { row.runner, count(row.was.executions), count(row.now.executions), duration(row.was.busy),
      duration(row.now.busy), ("%.0f %%"):format(row.was.share * 100), ("%.0f %%"):format(row.now.share * 100),
      estimated(row.now.estimates) }
  end
  return rows
end

-- Those whose makespan changed the most come first; of equals in order of creation.
local function plans(result)
  local rows, order = {}, {}
  for i, row in ipairs(result.plans) do
    order[row] = i
    rows[i] = row
  end
  local function weight(row)
    if not row.now.makespan then return math.huge end
    return math.abs(row.now.makespan - row.was.makespan)
  end
  table.sort(rows, function(a, b)
    if weight(a) ~= weight(b) then return weight(a) > weight(b) end
    return order[a] < order[b]
  end)
  local out = { { "PLAN", "NAME", "MAKESPAN WAS", "NOW", "CHANGE", "OUTCOME WAS", "NOW", "ESTIMATED" } }
  for i = 1, math.min(#rows, PLANS) do
    local row = rows[i]
    local ended = row.now.makespan ~= nil
    out[i + 1] = { row.plan, row.name or "-", duration(row.was.makespan),
      ended and duration(row.now.makespan) or "does not end",
      ended and change(row.was.makespan, row.now.makespan, duration) or "-", row.was.outcome or "-",
      row.now.outcome or "-", estimated(row.estimates) }
  end
  return out, #rows
end

-- "on b, waited 2.00s, failed TIMEOUT, again after 4.00s"
local function side(decision)
  if not decision then return "not run" end
  local parts = {}
  if decision.runner then
    parts[1] = (decision.estimate and "~on " or "on ") .. decision.runner
  else
    parts[1] = decision.ended and "no runner" or "waits for ever"
  end
  if decision.waited then parts[#parts + 1] = "waited " .. duration(decision.waited) end
  if decision.ended and decision.ended ~= "COMPLETE" then
    local after = decision.ran and " after " .. duration(decision.ran) or ""
    parts[#parts + 1] = ("failed %s%s"):format(decision.ended, after)
  end
  if decision.again then
    parts[#parts + 1] = "again after " .. duration(decision.after)
  elseif decision.again == false then
    parts[#parts + 1] = "gave up"
  end
  return table.concat(parts, ", ")
end

local function clock(seconds)
  return os.date("!%H:%M:%S", math.floor(seconds))
end

local function decisions(result, max)
  local rows = { { "TIME (UTC)", "PLAN", "STAGE", "ATTEMPT", "WAS", "NOW", "WHY NOW" } }
  for i = 1, math.min(max, #result.decisions) do
    local row = result.decisions[i]
    rows[i + 1] = { clock(row.at), row.plan, row.stage, count(row.attempt), side(row.was), side(row.now),
      row.now and (row.now.fault or row.now.reason) or "" }
  end
  return rows
end

local function differing(result)
  local parts = {}
  for _, kind in ipairs(require("turboci.util").sorted_keys(result.differing)) do
    parts[#parts + 1] = ("%s %d"):format(kind, result.differing[kind])
  end
  return table.concat(parts, ", ")
end

local function deciders(result)
  local parts = {}
  for _, entry in ipairs(result.decided_by) do
    parts[#parts + 1] = ("%s (%d decisions)"):format(entry.policy
      and entry.policy .. " " .. (entry.version or "") or "the built-in default", entry.decisions)
  end
  return #parts > 0 and table.concat(parts, ", ") or "nobody decided anything"
end

local function plural(number, word)
  return ("%d %s%s"):format(number, word, number == 1 and "" or "s")
end

-- What the reader must know before trusting the figures.
local function notes(result)
  local util, out = require "turboci.util", {}
  if result.unfinished > 0 then
    out[#out + 1] = plural(result.unfinished, "plan") .. " that ended then would not end now; not in the figures"
  end
  if result.open > 0 then
    out[#out + 1] = plural(result.open, "plan") .. " had not ended when the history did: replayed, not compared"
  end
  for _, fault in ipairs(result.faults) do
    out[#out + 1] = ("policy %s failed %s, the built-in default decided: %s"):format(fault.policy,
      plural(fault.faults, "time"), fault.last)
  end
  for _, name in ipairs(util.sorted_keys(result.missing)) do
    out[#out + 1] = ("%s named the policy '%s', which is not in the folders (--policies): %s decided instead")
      :format(plural(result.missing[name], "plan"), name, result.policy.name)
  end
  if result.refused > 0 then
    out[#out + 1] = ("%s of clients would be refused now: %s"):format(plural(result.refused, "write"),
      result.refusal)
  end
  if result.now.estimates > 0 then
    out[#out + 1] = "~ an estimate: the stage never ran there, or did not end (as when its deadline cut it off)"
  end
  return out
end

local function show(result, max)
  local history = result.history
  stdout:line(("history  %s: %s, %s, %s to %s UTC"):format(result.db, plural(history.plans, "plan"),
    plural(history.runners, "runner"), os.date("!%Y-%m-%d %H:%M:%S", math.floor(history.start)),
    os.date("!%Y-%m-%d %H:%M:%S", math.floor(history["end"]))))
  stdout:line("was      ", deciders(result))
  stdout:line(("now      %s %s (%s)"):format(result.policy.name, result.policy.version, result.policy.path))
  stdout:line()
  if result.compared + result.unfinished == 0 then
    stdout:line "no plan had ended: there is nothing to compare"
  else
    stdout:columns(figures(result))
    stdout:line()
    if #result.runners > 0 then
      stdout:columns(runners(result))
      stdout:line()
    end
    local rows, total = plans(result)
    stdout:columns(rows)
    if total > PLANS then stdout:line(("and %d more: --json shows all"):format(total - PLANS)) end
    if #result.decisions == 0 then
      stdout:write "\nno decision differs\n"
    else
      stdout:line()
      stdout:line(("%s (%s)"):format(#result.decisions == 1 and "1 decision differs"
        or #result.decisions .. " decisions differ", differing(result)))
      if max > 0 then stdout:columns(decisions(result, max)) end
      if #result.decisions > max then
        stdout:line(("and %d more: --decisions all shows them"):format(#result.decisions - max))
      end
    end
  end
  local told = notes(result)
  if #told > 0 then stdout:line() end
  for _, note in ipairs(told) do stdout:line("note: ", note) end
end

---@param args table
---@return integer exit_code
function M.run(args)
  local limits, types = common.limits("policy replay", args.limit), types_of(args.policy_for)
  local watch, clear = progress()
  local result, err = require("turboci.replay").run {
    db = args.db, policy = args.file, policies = args.policies, policy_for = types, all = args.all, plan = args.plan,
    limits = limits, progress = watch,
  }
  clear()
  if not result then fail(err.message, hints[err.of]) end
  if args.json then
    stdout:json(result)
  else
    show(result, args.decisions)
  end
  return 0
end

return M
