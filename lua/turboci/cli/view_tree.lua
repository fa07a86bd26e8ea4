-- A live tree for terminals: a line for each stage below the first stage it comes after, redrawn in place. When it is
-- higher than the screen only what is going on or went wrong is shown. Redraws at most 10 times a second; the clock on
-- running stages ticks once a second.

local loop = require "turboci.loop"
local model = require "turboci.cli.model"
local text = require "turboci.cli.text"
local util = require "turboci.util"
local uv = require "luv"

local DRAW_EVERY, TICK = 0.1, 1

local View = {}
View.__index = View

local function size(self)
  if not self.tty then
    local ok, tty = pcall(uv.new_tty, 1, false)
    if not ok or not tty then return 80, 24 end
    self.tty = tty
  end
  local width, height = self.tty:get_winsize()
  if not width or width == 0 or height == 0 then return 80, 24 end -- a terminal that does not say
  return math.max(40, width), math.max(5, height)
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

local function row(self, stage, width, id_width)
  local progress = self.progress
  local attempt = model.attempt(stage)
  local elapsed = progress.model:elapsed(stage, util.now())
  local tail = self.last[stage.id] or ""
  if stage.state == "FINAL" then tail = progress.model:why(stage) end
  local parts = {
    text.fit(("  "):rep(depth(self, stage, 0)) .. stage.id, id_width),
    text.fit(state(stage), 10),
    text.fit(elapsed and util.format_duration(elapsed) or "", 7),
    text.fit(attempt and attempt.process_uid .. (attempt.idx > 1 and " #" .. attempt.idx or "") or "", 18),
  }
  local line = table.concat(parts, " ")
  local room = width - utf8.len(line) - 5
  local last = text.fit(text.plain(tail), math.max(1, room))
  return ("%s %s %s"):format(mark(progress.style, stage), line, progress.style.dim(last))
end

local function busy(stage)
  return stage.state == "ATTEMPTING" or stage.outcome == "FAILED"
end

local function lines(self)
  local width, height = size(self)
  local stages, out, id_width = self.progress.model.stages, {}, 8
  for _, stage in ipairs(stages) do
    id_width = math.max(id_width, math.min(width // 3, (utf8.len(stage.id) or 8) + 2 * depth(self, stage, 0)))
  end
  local room = height - 3
  for _, stage in ipairs(stages) do
    if (#stages <= room or busy(stage)) and #out < room then out[#out + 1] = row(self, stage, width, id_width) end
  end
  local counts = self.progress.model:counts()
  local done = #stages - (counts.OPEN or 0)
  out[#out + 1] = self.progress.style.dim(("%s  %d of %d stages, %s"):format(self.progress:title(), done, #stages,
    util.format_duration(util.mono() - self.progress.started)))
  return out
end

---------------------------------------------------------------------------------------------------
-- Drawing

local function erase(self)
  if self.drawn > 0 then self.progress.out:write(("\27[%dA\27[J"):format(self.drawn)) end
  self.drawn = 0
end

local function draw(self)
  erase(self)
  local now = lines(self)
  self.progress.out:write(table.concat(now, "\n"), "\n")
  self.progress.out:flush()
  self.drawn = #now
end

local function schedule(self, seconds)
  if self.closed or (self.timer and self.due <= util.mono() + seconds) then return end
  if self.timer then self.timer:close() end
  self.due = util.mono() + seconds
  self.timer = loop.timer(seconds, function()
    self.timer = nil
    if self.closed then return end
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
  self.progress.out:write("turboci: ", line, "\n")
  draw(self)
end

function View:close()
  if self.closed then return end
  draw(self)
  self.closed = true
  if self.timer then self.timer:close() end
  if self.tty then loop.close(self.tty) end
end

return {
  new = function(progress)
    return setmetatable({ progress = progress, last = {}, depths = {}, drawn = 0 }, View)
  end,
}
