-- _calendar: days of the week and times of day, and windows made of them (a library: `local calendar = require
-- "_calendar"`). A time of the week is in seconds since Monday 00:00. No leap seconds and no daylight saving: an
-- offset from UTC is all it knows of places.

local M = {}

local DAY = 24 * 3600
local WEEK = 7 * DAY
local days = { "mon", "tue", "wed", "thu", "fri", "sat", "sun" }

-- Seconds since Monday 00:00 of a time in seconds since 1970, which began on a Thursday.
function M.time_of_week(now, offset)
  return (now + (offset or 0) + 3 * DAY) % WEEK
end

-- 1 (Monday) to 7, and the seconds since midnight.
function M.day(now, offset)
  local at = M.time_of_week(now, offset)
  return at // DAY + 1, at % DAY
end

-- "mon 09:00" of a time of the week, to the nearest second.
function M.format(at)
  at = (at + 0.5) // 1 % WEEK | 0
  return ("%s %02d:%02d"):format(days[at // DAY + 1], at % DAY // 3600, at % 3600 // 60)
end

-- A whole number written with one or two digits, or nil.
local function number(text)
  if #text < 1 or #text > 2 then return nil end
  for i = 1, #text do
    local byte = text:byte(i)
    if byte < 48 or byte > 57 then return nil end
  end
  return tonumber(text)
end

-- Seconds of "9", "9:30", "24:00"; nil when it is no time of day.
function M.parse_time(text)
  local colon = text:find ":"
  local hours = number(colon and text:sub(1, colon - 1) or text)
  local minutes = colon and number(text:sub(colon + 1)) or not colon and 0
  if not hours or not minutes or minutes > 59 then return nil end
  local seconds = hours * 3600 + minutes * 60
  if seconds > DAY then return nil end
  return seconds
end

-- Seconds of "+02:00", "-5", "0"; nil when it is no offset from UTC.
function M.parse_offset(text)
  if #text > 10 then return nil end
  local sign = text:sub(1, 1)
  local signed = sign == "+" or sign == "-"
  local seconds = M.parse_time(signed and text:sub(2) or text)
  if not seconds or seconds > 14 * 3600 then return nil end
  return sign == "-" and -seconds or seconds
end

-- "+02:00".
function M.format_offset(offset)
  local minutes = math.abs(offset) // 60 | 0
  return ("%s%02d:%02d"):format(offset < 0 and "-" or "+", minutes // 60, minutes % 60)
end

-- The parts of a text between separators, without blanks around them.
local function split(text, separator)
  local parts, from = {}, 1
  while true do
    local at = text:find(separator, from)
    local first, last = from, at and at - 1 or #text
    while first <= last and text:byte(first) == 32 do first = first + 1 end
    while first <= last and text:byte(last) == 32 do last = last - 1 end
    parts[#parts + 1] = text:sub(first, last)
    if not at then return parts end
    from = at + 1
  end
end

local function day_number(text)
  for i, name in ipairs(days) do
    if text:lower() == name then return i end
  end
end

-- Adds a window for each day of "mon-fri 9-17"; false when it is none.
local function add_windows(text, list)
  local words = split(text, " ")
  if #words ~= 2 then return false end
  local range, hours = split(words[1], "-"), split(words[2], "-")
  if #range > 2 or #hours ~= 2 then return false end
  local first, last = day_number(range[1]), day_number(range[2] or range[1])
  local opens, closes = M.parse_time(hours[1]), M.parse_time(hours[2])
  if not first or not last or not opens or not closes or opens == closes then return false end
  for i = 0, (last - first) % 7 do
    local length = closes - opens
    list[#list + 1] = { from = (first + i - 1) % 7 * DAY + opens, length = length == DAY and DAY or length % DAY }
  end
  return true
end

-- The windows of "mon-fri 09:00-17:00, sat 10-14, sun 22:00-02:00" (the last one ends on Monday); nil when it is none.
function M.parse_windows(text)
  if #text > 200 then return nil end
  local list = {}
  for _, part in ipairs(split(text, ",")) do
    if not add_windows(part, list) then return nil end
  end
  return list
end

-- Seconds until a window is open; 0: one is.
function M.until_open(windows, now, offset)
  local at, least = M.time_of_week(now, offset), WEEK
  for _, window in ipairs(windows) do
    if (at - window.from) % WEEK < window.length then return 0 end
    least = math.min(least, (window.from - at) % WEEK)
  end
  return least
end

return M
