-- A live tree for terminals: a line for each stage below the first stage it comes after, redrawn in place. When it is
-- higher than the screen what goes on comes first, then what went wrong, then what is next. A row never wraps: one that
-- did would be a line that the next frame does not know of. Redraws at most 10 times a second, and never before the
-- last frame has left: a slow terminal sees fewer of them, each whole. The clock on running stages ticks once a second.

local loop = require "turboci.loop"
local model = require "turboci.cli.model"
local output = require "turboci.cli.output"
local text = require "turboci.cli.text"
local util = require "turboci.util"
local DRAW_EVERY, TICK = 0.1, 1

local View = {}
View.__index = View

local function size()
  local width, height = output.terminal()
  if not width or width == 0 or height == 0 then return 80, 24 end -- a terminal that does not say
  return math.max(20, width), math.max(5, height)
end

---------------------------------------------------------------------------------------------------
-- Lines

-- Depth below the first known stage that this one waits for.
local function depth(self, stage, above)
  if self.depths[stage.id] then return self.depths[stage.id] end
  local found = 0
  for _, edge in ipairs(stage.dependencies and stage.dependencies.dependencies or {}) do
    local parent = edge.target_type == "STAGE" and self.progress.model.stage[edge.target_id]
    if parent and above < 20 then
      found = depth(self, parent, above + 1) + 1
      break
    end
  end
  self.depths[stage.id] = found
  return found
end

local function mark(style, stage)
  if stage.outcome == "SUCCEEDED" then return style.good("✓") end
  if stage.outcome == "FAILED" then return style.bad("✗") end
  if stage.outcome == "SKIPPED" or stage.outcome == "CANCELLED" then return style.dim("-") end
  local attempt = model.attempt(stage)
  if attempt and attempt.state == "RUNNING" then return style.busy("●") end
  return style.dim("○")
end

local function state(stage)
  if stage.state == "FINAL" then return stage.outcome end
  local attempt = model.attempt(stage)
  return attempt and attempt.state or "waiting"
end

local function runner_of(stage)
  local attempt = model.attempt(stage)
  return attempt and text.plain(attempt.process_uid) .. (attempt.idx > 1 and " #" .. attempt.idx or "") or ""
end

local STATE, ELAPSED, RUNNER_MAX = 9, 6, 18

-- Widths of the columns id and runner; on a narrow screen the runner goes first.
local function columns(self, stages, width)
  local id, runner = 4, 0
  for _, stage in ipairs(stages) do
    id = math.max(id, text.width(text.plain(stage.id)) + 2 * depth(self, stage, 0))
    runner = math.max(runner, text.width(runner_of(stage)))
  end
  id = math.min(id, math.max(8, width // 3))
  runner = width >= 60 and math.min(runner, RUNNER_MAX) or 0
  return id, runner
end

-- The parts of a stage's line.
local function row(self, stage, width, id_width, runner_width)
  local progress = self.progress
  local elapsed = progress.model:elapsed(stage, util.now())
  local tail = self.last[stage.id] or ""
  if stage.state == "FINAL" then tail = progress.model:why(stage) end
  local parts = { text.fit(("  "):rep(depth(self, stage, 0)) .. text.plain(stage.id), id_width) }
  if width >= 40 then parts[2] = text.fit(state(stage), STATE) end -- else the mark has to do
  parts[#parts + 1] = text.fit(elapsed and util.format_duration(elapsed) or "", ELAPSED)
  if runner_width > 0 then parts[#parts + 1] = text.fit(runner_of(stage), runner_width) end
  local line = table.concat(parts, " ")
  local room = width - text.width(line) - 4
  local last = room > 0 and (text.fit(text.plain(tail), room):gsub("%s+$", "")) or ""
  return { mark(progress.style, stage), " ", line, " ", progress.style.dim(last) }
end

-- What is shown first when not all is: lower comes earlier.
local function rank(stage)
  local attempt = model.attempt(stage)
  if stage.state == "ATTEMPTING" then return attempt and attempt.state ~= "PENDING" and 1 or 3 end
  if stage.outcome == "FAILED" then return 2 end
  return stage.state == "FINAL" and 5 or 4
end

-- The stages for so many lines, in the order of the plan.
local function chosen(stages, room)
  if #stages <= room then return stages end
  local by_rank, taken, out = { {}, {}, {}, {}, {} }, {}, {}
  for _, stage in ipairs(stages) do
    table.insert(by_rank[rank(stage)], stage)
  end
  for _, list in ipairs(by_rank) do
    for _, stage in ipairs(list) do
      if room > 0 then taken[stage] = true end
      room = room - 1
    end
  end
  for _, stage in ipairs(stages) do
    if taken[stage] then out[#out + 1] = stage end
  end
  return out
end

-- The frame: lines in parts.
local function lines(self)
  local width, height = size()
  local all, out = self.progress.model.stages, {}
  local stages = chosen(all, height - 3)
  local id_width, runner_width = columns(self, stages, width)
  for _, stage in ipairs(stages) do
    out[#out + 1] = row(self, stage, width, id_width, runner_width)
  end
  local counts = self.progress.model:counts()
  local done = #all - (counts.OPEN or 0)
  local summary = ("%d of %d stage%s, %s"):format(done, #all, #all == 1 and "" or "s",
    util.format_duration(self.progress:seconds(util.now())))
  local bad = counts.FAILED and (", %d failed"):format(counts.FAILED) or ""
  local title = text.plain(self.progress:title())
  out[#out + 1] = { self.progress.style.dim((text.fit(title .. "  " .. summary .. bad, width - 1):gsub("%s+$", ""))) }
  return out
end

---------------------------------------------------------------------------------------------------
-- Drawing

local function erase(self)
  if self.drawn > 0 then self.progress.out:write(("\27[%dA\27[J"):format(self.drawn)) end
  self.drawn = 0
end

-- Over the last frame, line by line: no flicker, and nothing for a terminal to put into its history.
local function draw(self)
  local now = lines(self)
  for i, parts in ipairs(now) do
    now[i] = text.render(parts)
  end
  local up = self.drawn > 0 and ("\27[%dA"):format(self.drawn) or ""
  -- Without wrapping, also for characters that are wider than we think.
  self.progress.out:write("\27[?7l" .. up .. table.concat(now, "\27[K\n") .. "\27[K\n\27[J\27[?7h")
  self.drawn = #now
end

local function schedule(self, seconds)
  if self.closed or (self.timer and self.due <= util.mono() + seconds) then return end
  if self.timer then self.timer:close() end
  self.due = util.mono() + seconds
  self.timer = loop.timer(seconds, function()
    self.timer = nil
    if self.closed then return end
    if self.progress.out:unwritten() > 0 then return schedule(self, DRAW_EVERY) end
    draw(self)
    schedule(self, TICK)
  end)
end

function View:change(change)
  if change.type == "output" or change.type == "retry" then
    local last = text.last_lines(change.text, 1)
    self.last[change.stage.id] = last[1]
  end
  schedule(self, DRAW_EVERY)
end

function View:notice(line)
  erase(self)
  self.progress.out:line("turboci: ", line)
  draw(self)
end

function View:close()
  if self.closed then return end
  draw(self)
  self.closed = true
  if self.timer then self.timer:close() end
end

return {
  new = function(progress)
    return setmetatable({ progress = progress, last = {}, depths = {}, drawn = 0 }, View)
  end,
}
