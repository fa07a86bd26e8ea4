-- Text for people: colours, aligned tables, lines without control characters. Pure.

local M = {}

---@param colours boolean
---@return {good: function, bad: function, dim: function, bold: function, busy: function}
function M.style(colours)
  local function paint(code)
    return function(s)
      if not colours then return s end
      return ("\27[%sm%s\27[0m"):format(code, s)
    end
  end
  return { good = paint "32", bad = paint "31", dim = paint "2", bold = paint "1", busy = paint "33" }
end

---Output of commands as it may go to a terminal: no escape sequences, no other control characters.
---@param s string
---@return string
function M.plain(s)
  s = s:gsub("\27%[[%d;?]*[%a]", ""):gsub("\27%][^\7\27]*\7?", "")
  return (s:gsub("\t", "    "):gsub("[%c\127]", ""))
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

---Columns of the width of a terminal cell each; UTF-8 counted by code points.
---@param s string
---@param width integer
---@return string
function M.fit(s, width)
  local length = utf8.len(s) or #s
  if length <= width then return s .. (" "):rep(width - length) end
  if width <= 1 then return "" end
  return s:sub(1, utf8.offset(s, width) - 1) .. "…"
end

---Rows as aligned columns, two spaces apart; the last column is not padded.
---@param rows string[][]
---@return string
function M.columns(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, utf8.len(cell) or #cell)
    end
  end
  local lines = {}
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      cells[i] = i < #row and M.fit(cell, widths[i]) or cell
    end
    lines[#lines + 1] = (table.concat(cells, "  "):gsub("%s+$", ""))
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

---A value as JSON. Nothing that came over the wire makes it fail.
---@param value any
---@return string
function M.json(value)
  local cjson = require "cjson"
  local function convert(item)
    local kind = type(item)
    if kind == "table" then
      local out = {}
      for key, inner in pairs(item) do
        out[key] = convert(inner)
      end
      return out
    elseif kind == "userdata" then
      return cjson.null
    elseif kind == "number" and (item ~= item or item == math.huge or item == -math.huge) then
      return tostring(item)
    end
    return item
  end
  return cjson.encode(convert(value))
end

return M
