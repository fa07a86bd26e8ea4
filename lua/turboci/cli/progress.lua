-- What a person (or a program) sees of a plan on its way: a live tree on a terminal, plain lines in a pipe, a JSON
-- object a line with --json. The three are views of one model; the ending (tails of what failed, why stages were
-- skipped, the last line) is the same for both kinds of text.
-- Used by run, submit --wait and watch.

local loop = require "turboci.loop"
local model = require "turboci.cli.model"
local output = require "turboci.cli.output"
local text = require "turboci.cli.text"
local util = require "turboci.util"

local M = {}

local TAIL_SHOWN = 40 -- lines of a failed stage's output
local UNWRITTEN_MAX, LOOK_AGAIN = 4194304, 0.05 -- what a slow reader may be behind before the plan is read no further

---@class turboci.cli.Progress
---@field model turboci.cli.Model
---@field view table { change(change), notice(text), draw(), clear(), finish(...) }
local Progress = {}
Progress.__index = Progress

---@class turboci.cli.ProgressOptions
---@field json boolean?
---@field name string? of the plan
---@field plan_id string?

---@param options turboci.cli.ProgressOptions
---@return turboci.cli.Progress
function M.new(options)
  local tty = not options.json and output.terminal() ~= nil
  local style = text.style(tty and not os.getenv("NO_COLOR"))
  local self = setmetatable({
    model = model.new(),
    name = options.name,
    plan_id = options.plan_id,
    started = util.mono(),
    out = output.stdout,
    style = style,
    json = options.json,
  }, Progress)
  local kind = options.json and "json" or tty and os.getenv("TERM") ~= "dumb" and "tree" or "lines"
  self.view = require("turboci.cli.view_" .. kind).new(self)
  return self
end

---What the server says of the plan itself.
---@param work_plan table
function Progress:plan(work_plan)
  self.name = self.name or work_plan.metadata.name
  self.created_at = work_plan.created_at
end

---Seconds since the plan was created, as of `at` (the server's clock); before that is known: since we follow it.
---@param at number?
---@return number
function Progress:seconds(at)
  if self.created_at and at and at > 0 then return math.max(0, at - self.created_at) end
  return util.mono() - self.started
end

local function show(self, changes)
  for _, change in ipairs(changes) do
    self.view:change(change)
  end
end

-- What cannot be written yet waits in memory, up to a bound.
local function make_room(self)
  while not self.hurried and self.out:unwritten() > UNWRITTEN_MAX do
    loop.sleep(LOOK_AGAIN)
  end
end

---Nobody waits for a slow reader from now on: the program is to end.
function Progress:hurry()
  self.hurried = true
end

---Waits while the reader of our output is far behind.
---@param event table WorkPlanEvent
function Progress:event(event)
  make_room(self)
  show(self, self.model:event(event))
end

---@param nodes table QueryNodesResponse
function Progress:nodes(nodes)
  show(self, self.model:nodes(nodes))
end

---Something about the connection, not about the plan.
---@param line string
function Progress:notice(line)
  self.view:notice(line)
end

---The view gives the screen back.
function Progress:close()
  if self.view.close then self.view:close() end
end

-- The output of an attempt: the tail its runner reported, or what came as progress when it never could. And how many
-- lines there were before it.
local function output_of(attempt)
  local details = attempt and attempt.details or {}
  if type(details.output) == "string" then return details.output, math.tointeger(details.lines_before) or 0 end
  local lines = {}
  for _, entry in ipairs(attempt and attempt.progress or {}) do
    lines[#lines + 1] = entry.message
  end
  return table.concat(lines, "\n"), 0
end

local function failed_stage(self, stage)
  local attempt = model.attempt(stage)
  local style, out = self.style, self.out
  local where = ""
  if attempt and attempt.process_uid ~= "" then
    where = (" (attempt %d on %s)"):format(attempt.idx, attempt.process_uid)
  end
  local why, more = text.first_line(self.model:why(stage))
  out:line(style.bad(stage.id .. " FAILED"), ": ", why, where)
  if more then out:lines("    ", more) end
  local said, before = output_of(attempt)
  if said ~= "" then
    local lines = text.last_lines(said, TAIL_SHOWN)
    before = before + lines.cut
    if before > 0 then out:line(style.dim(("  | ... %d line%s before"):format(before, before == 1 and "" or "s"))) end
    for _, line in ipairs(lines) do
      out:line(style.dim("  | "), line)
    end
  end
end

local function ending(self)
  local skipped = {}
  for _, stage in ipairs(self.model.stages) do
    if stage.outcome == "FAILED" then failed_stage(self, stage) end
    if stage.outcome == "SKIPPED" then skipped[#skipped + 1] = stage end
  end
  for _, stage in ipairs(skipped) do
    self.out:line(self.style.dim(("%s SKIPPED: %s"):format(stage.id, self.model:why(stage))))
  end
  for _, check in ipairs(self.model.checks) do
    if check.outcome == "FAILED" then
      local why, more = text.first_line(text.failures(check))
      self.out:line(("check %s FAILED%s"):format(check.id, why ~= "" and ": " .. why or ""))
      if more then self.out:lines("    ", more) end
    end
  end
end

---The plan's name for people.
---@return string
function Progress:title()
  return self.name or self.plan_id or "plan"
end

---The end: failures, skipped stages and one last line.
---@param work_plan table? settled; nil: interrupted
function Progress:finish(work_plan)
  local outcome = work_plan and work_plan.outcome or "INTERRUPTED"
  if work_plan then self:plan(work_plan) end
  local elapsed = self:seconds(work_plan and work_plan.updated_at or util.now())
  local counts = self.model:counts()
  self:close()
  if self.json then return self.view:finish(outcome, elapsed, counts) end
  ending(self)
  local stages = #self.model.stages
  local parts = {}
  for _, name in ipairs { "SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED", "OPEN" } do
    local word = name == "OPEN" and "not finished" or name:lower()
    if counts[name] then parts[#parts + 1] = ("%d %s"):format(counts[name], word) end
  end
  local detail = outcome ~= "SUCCEEDED" and #parts > 0 and (" (%s)"):format(table.concat(parts, ", ")) or ""
  local colour = outcome == "SUCCEEDED" and self.style.good or self.style.bad
  self.out:line(self:title(), " ", colour(outcome),
    ("  %d stage%s in %s%s"):format(stages, stages == 1 and "" or "s", util.format_duration(elapsed), detail))
end

return M
