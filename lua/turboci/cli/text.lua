-- Text for people: colours, aligned tables, lines without control characters; and JSON for programs. Pure.

local M = {}

---@class turboci.cli.Painted a text in a colour, as a part of a line
---@field code string
---@field text string

---@param colours boolean
---@return {good: function, bad: function, dim: function, busy: function} each makes a part of a line from a text
function M.style(colours)
  local function paint(code)
    return function(s) return colours and { code = code, text = s } or s end
  end
  return { good = paint "32", bad = paint "31", dim = paint "2", busy = paint "33" }
end

---Any text as it may stand in a line of a terminal: valid UTF-8 without escape sequences, other control characters
---(those of 0x80 to 0x9F too, which some terminals obey) and what turns the direction of writing around. The end of a
---line becomes a sign.
---@param s string
---@return string
function M.plain(s)
  if not s:find "[^ -~]" then return s end
  s = require("turboci.util").valid_utf8(s)
  s = s:gsub("\27%[[0-?]*[ -/]*[@-~]", ""):gsub("\27[%]PX^_][^\7\27]*\7?", ""):gsub("\27[ -/]*[0-~]", "")
  s = s:gsub("\t", "    "):gsub("\r?\n", "\u{2424}"):gsub("[%c\127]", "")
  return (s:gsub("\xC2[\x80-\x9F]", ""):gsub("\xE2\x80[\xAA-\xAE]", ""):gsub("\xE2\x81[\xA6-\xA9]", ""))
end

---The parts of a line, cleaned and in their colours.
---@param parts (string|turboci.cli.Painted)[]
---@return string
function M.render(parts)
  local out = {}
  for i, part in ipairs(parts) do
    out[i] = type(part) == "string" and M.plain(part) or ("\27[%sm%s\27[0m"):format(part.code, M.plain(part.text))
  end
  return table.concat(out)
end

---The first line of a text, and the others; nil when there are none.
---@param s string
---@return string first
---@return string? others
function M.first_line(s)
  local first, others = s:match "^([^\n]*)\n(.*)$"
  return first or s, others
end

---@param s string
---@param max integer
---@return {[integer]: string, cut: integer}
function M.last_lines(s, max)
  local lines = {}
  for line in (s:gsub("\n$", "") .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line
  end
  local from = math.max(1, #lines - max + 1)
  local out = table.move(lines, from, #lines, 1, {})
  out.cut = from - 1
  return out
end

-- First and last code points of what terminals show two cells wide, and of what they show on the character before.
local wide = {
  { 0x1100, 0x115F }, { 0x2E80, 0x303E }, { 0x3041, 0xA4CF }, { 0xA960, 0xA97C }, { 0xAC00, 0xD7A3 },
  { 0xF900, 0xFAFF }, { 0xFE30, 0xFE6F }, { 0xFF01, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1F64F },
  { 0x1F680, 0x1F6FF }, { 0x1F900, 0x1F9FF }, { 0x1FA70, 0x1FAFF }, { 0x20000, 0x3FFFD },
}
local on_top = { { 0x0300, 0x036F }, { 0x1AB0, 0x1AFF }, { 0x200B, 0x200F }, { 0x20D0, 0x20FF }, { 0xFE00, 0xFE0F } }

local function among(ranges, code)
  for _, range in ipairs(ranges) do
    if code <= range[2] then return code >= range[1] end
  end
  return false
end

local function cells(code)
  if code < 0x300 or among(on_top, code) then return code < 0x300 and 1 or 0 end
  return among(wide, code) and 2 or 1
end

---Cells that a text takes on a terminal.
---@param s string
---@return integer
function M.width(s)
  if not s:find("[\x80-\xFF]") or not utf8.len(s) then return #s end
  local width = 0
  for _, code in utf8.codes(s) do
    width = width + cells(code)
  end
  return width
end

---The text in exactly so many cells: padded, or cut.
---@param s string
---@param width integer
---@return string
function M.fit(s, width)
  local length = M.width(s)
  if length <= width then return s .. (" "):rep(width - length) end
  if width < 1 then return "" end
  if not utf8.len(s) then return s:sub(1, width) end
  local used = 0
  for at, code in utf8.codes(s) do
    local more = cells(code)
    if used + more > width - 1 then return s:sub(1, at - 1) .. "…" .. (" "):rep(width - 1 - used) end
    used = used + more
  end
  return s
end

---Rows as aligned columns, two spaces apart, cleaned; the last column is not padded.
---@param rows string[][]
---@return string
function M.columns(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      row[i] = M.plain(cell)
      widths[i] = math.max(widths[i] or 0, M.width(row[i]))
    end
  end
  local lines = {}
  for _, row in ipairs(rows) do
    local padded = {}
    for i, cell in ipairs(row) do
      padded[i] = i < #row and M.fit(cell, widths[i]) or cell
    end
    lines[#lines + 1] = (table.concat(padded, "  "):gsub("%s+$", ""))
  end
  return table.concat(lines, "\n") .. "\n"
end

---The failures of a check's results, joined.
---@param check table
---@return string
function M.failures(check)
  local out = {}
  for _, result in ipairs(check.results) do
    if result.failure then out[#out + 1] = ("%s: %s"):format(result.owner_id, result.failure.message) end
  end
  return table.concat(out, "; ")
end

-- cjson escapes what JSON says; the controls of 0x80 to 0x9F, which JSON allows, are escaped too: it may be shown on a
-- terminal. What is not UTF-8 cannot be JSON.
local function quote(s)
  if not s:find "[\x80-\xFF]" then return require("cjson").encode(s) end
  return (require("cjson").encode(require("turboci.util").valid_utf8(s)):gsub("\xC2([\x80-\x9F])", function(byte)
    return ("\\u%04x"):format(byte:byte())
  end))
end

local function write_json(value, out)
  local kind = type(value)
  if kind == "table" and require("turboci.core").is_list(value) then
    out[#out + 1] = "["
    for i, item in ipairs(value) do
      if i > 1 then out[#out + 1] = "," end
      write_json(item, out)
    end
    out[#out + 1] = "]"
  elseif kind == "table" then
    local names, items = {}, {}
    for key, item in pairs(value) do
      names[#names + 1] = tostring(key)
      items[tostring(key)] = item
    end
    table.sort(names)
    out[#out + 1] = "{"
    for i, name in ipairs(names) do
      out[#out + 1] = (i > 1 and "," or "") .. quote(name) .. ":"
      write_json(items[name], out)
    end
    out[#out + 1] = "}"
  elseif kind == "number" and (value ~= value or value == math.huge or value == -math.huge) then
    out[#out + 1] = ('"%s"'):format(value)
  elseif kind == "number" then
    out[#out + 1] = require("turboci.util").number_text(value)
  elseif kind == "userdata" or kind == "nil" then
    out[#out + 1] = "null"
  elseif kind == "string" then
    out[#out + 1] = quote(value)
  else
    out[#out + 1] = require("cjson").encode(value)
  end
end

---A value as JSON: the same bytes every time, keys sorted; an empty list is [] when it is marked as one, as all are
---that came over the wire (core.list, core.is_list). Nothing that came over the wire makes it fail.
---@param value any
---@return string
function M.json(value)
  local out = {}
  write_json(value, out)
  return table.concat(out)
end

return M
