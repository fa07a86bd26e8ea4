-- What the program says, all of it: stdout and stderr go through here, to the writer thread of turboci.core.
--
-- Invariants:
--   1. Nothing is lost and nothing is torn, however slow the reader is; only finish waits for it.
--   2. No text from elsewhere (a name, a message, what a command printed) moves a cursor, forges a line or hides
--      itself: line and note clean what they are given. Colours are parts of a line, made by turboci.cli.text.style;
--      so the only escape sequences that leave are the program's own.
--   3. What could not be written makes no success: see finish.
-- Every verb uses it but `test`, whose words are busted's.

local core = require "turboci.core"
local text = require "turboci.cli.text"

local M = {}

M.EXIT_INTERRUPTED, M.EXIT_UNWRITTEN = 3, 74

---@class turboci.cli.Output
---@field private sink fun(bytes: string)
---@field private waiting (fun(): integer)?
local Output = {}
Output.__index = Output

---@alias turboci.cli.Part string|turboci.cli.Painted

---An output into any function.
---@param sink fun(bytes: string)
---@param unwritten (fun(): integer)? how many bytes it has not passed on
---@return turboci.cli.Output
function M.new(sink, unwritten)
  return setmetatable({ sink = sink, waiting = unwritten }, Output)
end

M.stdout = M.new(function(bytes) core.write(1, bytes) end, core.unwritten)
M.stderr = M.new(function(bytes) core.write(2, bytes) end, core.unwritten)

---As it stands: what has no text of others in it.
---@param bytes string
function Output:write(bytes)
  self.sink(bytes)
end

---One line, whatever is in its parts.
---@param ... turboci.cli.Part
function Output:line(...)
  self.sink(text.render { ... } .. "\n")
end

---A text of several lines, each after `prefix`.
---@param prefix turboci.cli.Part
---@param lines string
function Output:lines(prefix, lines)
  for _, line in ipairs(text.last_lines(lines, math.maxinteger)) do
    self:line(prefix, line)
  end
end

---@param rows string[][]
function Output:columns(rows)
  self.sink(text.columns(rows))
end

---@param value any
function Output:json(value)
  self.sink(text.json(value) .. "\n")
end

---A message for people, on stderr. It may have several lines.
---@param message string
function M.note(message)
  M.stderr:lines("", message)
end

---How many bytes have not left yet.
---@return integer
function Output:unwritten()
  return self.waiting and self.waiting() or 0
end

---Columns and rows of the terminal that stdout is; nil: it is none.
---@return integer? columns 0: it does not say
---@return integer? rows
function M.terminal()
  return core.terminal(1)
end

---For programs that run code of others: what that writes to stdout by itself (io.write, a child, a library) goes to
---stderr from now on, never between the program's own words.
function M.take_stdout()
  io.stdout:flush()
  core.redirect()
  io.stdout:setvbuf "no"
end

---The end: waits until all is written. What could not be is told, and is no success; a reader that has gone knows.
---@param code integer exit code so far
---@return integer code
function M.finish(code)
  local flushed, problem = io.stdout:flush()
  core.drain()
  local kind, message = core.write_error(1)
  if not kind and not flushed then kind, message = "EIO", problem end
  if not kind then return code end
  if kind ~= "EPIPE" then
    M.note("turboci: cannot write to standard output: " .. message)
    core.drain()
  end
  if code ~= 0 then return code end
  return kind == "EPIPE" and M.EXIT_INTERRUPTED or M.EXIT_UNWRITTEN
end

return M
