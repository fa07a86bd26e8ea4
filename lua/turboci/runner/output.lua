-- Output of a stage on its way to the server: bytes become lines, the lines progress and a tail for the result.
--
-- Invariants:
--   1. At most PER_SECOND progress messages a second, each of the last lines since the one before; it says how many
--      lines it leaves out.
--   2. Memory is bounded by the tail, whatever comes in.
--   3. All of it is valid UTF-8.
--   4. A line that is written over with carriage returns, as progress bars are, is what it showed last.
--   5. A line that is not finished is shown too, after UNFINISHED seconds and, while it changes, from time to time.
-- Used by the shell runner and for what stage bodies in Lua print.

local loop = require "turboci.loop"
local util = require "turboci.util"

local M = {}

local PER_SECOND = 4
local UNFINISHED, UNFINISHED_MAX = 1, 8 -- seconds until an unfinished line is shown; twice as many each time
local UPDATE_LINES, UPDATE_BYTES = 20, 4096 -- of one progress message
local TAIL_LINES, TAIL_BYTES = 200, 65536
local LINE_BYTES = 16384 -- longer ones are cut into several

---------------------------------------------------------------------------------------------------
-- The last lines

local Tail = {}
Tail.__index = Tail

local function new_tail(lines_max, bytes_max)
  return setmetatable({
    lines = {}, first = 1, last = 0, bytes = 0,
    lines_max = lines_max, bytes_max = bytes_max,
  }, Tail)
end

function Tail:add(line)
  self.last = self.last + 1
  self.lines[self.last] = line
  self.bytes = self.bytes + #line + 1
  while self.last - self.first >= self.lines_max or (self.bytes > self.bytes_max and self.first < self.last) do
    self.bytes = self.bytes - #self.lines[self.first] - 1
    self.lines[self.first] = nil
    self.first = self.first + 1
  end
end

function Tail:text()
  return table.concat(self.lines, "\n", self.first, self.last)
end

-- How many lines gave way.
function Tail:cut()
  return self.first - 1
end

---------------------------------------------------------------------------------------------------
-- Output: bytes -> lines -> tail and progress

---@class turboci.runner.Output
local Output = {}
Output.__index = Output

---@param context {progress: fun(self, message: string)}
---@return turboci.runner.Output
function M.new(context)
  return setmetatable({
    context = context,
    partial = "",
    tail = new_tail(TAIL_LINES, TAIL_BYTES),
    unsent = new_tail(UPDATE_LINES, UPDATE_BYTES),
    next_at = 0,
    patience = UNFINISHED,
  }, Output)
end

-- What a terminal shows of a line with carriage returns in it: what came after the last one before its end. And whether
-- the next character begins anew.
local function last_state(line)
  if not line:find("\r", 1, true) then return line, false end
  local last = #line
  while line:byte(last) == 13 do
    last = last - 1
  end
  local state = line:sub(1, last)
  return state:match ".*\r(.*)" or state, last < #line
end

local function send(output)
  if output.unsent.last < output.unsent.first then return end
  local text, cut = output.unsent:text(), output.unsent:cut()
  if cut > 0 then text = ("... %d line%s not shown\n%s"):format(cut, cut == 1 and "" or "s", text) end
  output.context:progress(text)
  output.unsent = new_tail(UPDATE_LINES, UPDATE_BYTES)
  output.next_at = util.mono() + 1 / PER_SECOND
end

-- Shows the unfinished line, unless it is the one that was shown last.
local function show_unfinished(output)
  output.unfinished_timer = nil
  local line = util.clean_text((last_state(output.partial)))
  if output.closed or line == "" or line == output.shown then return end
  output.unsent:add(line)
  output.shown, output.patience = line, math.min(2 * output.patience, UNFINISHED_MAX)
  send(output)
end

local function expect_unfinished(output)
  if output.partial == "" or output.unfinished_timer or output.closed then return end
  output.unfinished_timer = loop.timer(output.patience, function() show_unfinished(output) end)
end

local function schedule(output)
  if output.timer or output.closed then return end
  local wait = output.next_at - util.mono()
  if wait <= 0 then return send(output) end
  output.timer = loop.timer(wait, function()
    output.timer = nil
    if not output.closed then send(output) end
  end)
end

local function add_line(output, line)
  line = util.clean_text((last_state(line)))
  output.tail:add(line)
  if line ~= output.shown then output.unsent:add(line) end
  output.shown, output.patience = nil, UNFINISHED
end

-- How many bytes make a piece of a line that is too long: whole characters, if they are any.
local function piece(line)
  for back = 0, 3 do
    local byte = line:byte(LINE_BYTES + 1 - back) -- of what would come next
    if byte < 0x80 or byte >= 0xC0 then return LINE_BYTES - back end
  end
  return LINE_BYTES
end

-- Adds a line, or what is there of one, in pieces when it is too long; returns what is left, which is short enough.
local function add_pieces(output, line)
  while #line > LINE_BYTES do
    local length = piece(line)
    add_line(output, line:sub(1, length))
    line = line:sub(length + 1)
  end
  return line
end

---@param bytes string in pieces of any size
function Output:add(bytes)
  local text, from = self.partial .. bytes, 1
  local at = text:find("\n", 1, true)
  while at do
    add_line(self, add_pieces(self, (last_state(text:sub(from, at - 1)))))
    from = at + 1
    at = text:find("\n", from, true)
  end
  local state, anew = last_state(text:sub(from))
  self.partial = add_pieces(self, state) .. (anew and "\r" or "")
  schedule(self)
  expect_unfinished(self)
end

---Sends what is left.
function Output:close()
  if self.partial ~= "" then add_line(self, self.partial) end
  self.partial = ""
  if self.timer then self.timer:close() end
  if self.unfinished_timer then self.unfinished_timer:close() end
  send(self) -- the last words are never held back
  self.closed = true
end

---The end of the output, for a result's details: output, and lines_before when there is more than that.
---@param details table it goes in there, unless the details have an output of their own
---@return table details
function Output:details(details)
  if details.output ~= nil then return details end
  details.output = self.tail:text()
  if self.tail:cut() > 0 then details.lines_before = self.tail:cut() end
  return details
end

return M
