-- Small helpers shared by the Lua side: nearest names, option tables, durations, clean text, clocks.
-- Pure, but for now() and mono().

local names = require "turboci.workflow.options"

local util = {}

---The candidate that `name` was probably meant to be; nil when none is close.
util.nearest = names.nearest

---": did you mean 'x'?" or, when nothing is close, the list of what there is.
util.suggestion = names.suggestion

---Raises at the caller's level when `options` has a key that is not in `allowed`, or a value of the wrong type.
---@param options table? nil counts as {}
---@param allowed table<string, string|true> name -> Lua type, several joined by "|", or true for any
---@param what string names the function in the message
---@param level integer? 1: the function that called this one; 2 (default): its caller
---@return table options
function util.check_options(options, allowed, what, level)
  level = (level or 2) + 1
  if options == nil then return {} end
  if type(options) ~= "table" then error(what .. ": options must be a table, not a " .. type(options), level) end
  for key, value in pairs(options) do
    local expected = allowed[key]
    if not expected then
      local suggestion = util.suggestion(tostring(key), util.sorted_keys(allowed))
      error(("%s: unknown option '%s'%s"):format(what, tostring(key), suggestion), level)
    end
    if expected ~= true and not ("|" .. expected .. "|"):find("|" .. type(value) .. "|", 1, true) then
      local wanted = expected:gsub("|", " or ")
      error(("%s: option '%s' must be a %s, not a %s"):format(what, key, wanted, type(value)), level)
    end
  end
  return options
end

---@param t table<string, any>
---@return string[]
function util.sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = tostring(key)
  end
  table.sort(keys)
  return keys
end

---"10m", "1.5h", "1h30m", "250ms" or a number of seconds (also as text: "90"), in seconds.
---@param value string|number
---@return number? seconds
---@return string? err
function util.duration(value)
  local milliseconds = names.milliseconds(tonumber(value) or value)
  if milliseconds then return milliseconds / 1000 end
  return nil, ("'%s' is not a duration; write seconds as a number, or text such as \"250ms\", \"10m\", \"1h30m\"")
    :format(tostring(value))
end

---Seconds for people: "0.3s", "12.3s", "4m05s", "2h03m".
---@param seconds number
---@return string
function util.format_duration(seconds)
  if seconds < 0 then seconds = 0 end
  if seconds < 59.95 then return ("%.1fs"):format(seconds) end
  local whole = math.floor(seconds + 0.5)
  if whole < 3600 then return ("%dm%02ds"):format(whole // 60, whole % 60) end
  return ("%dh%02dm"):format(whole // 3600, whole % 3600 // 60)
end

---A number with all its digits: the shortest text that reads back as the same number.
---@param number number
---@return string
function util.number_text(number)
  if math.type(number) == "integer" then return ("%d"):format(number) end
  if number == math.floor(number) and math.abs(number) < 2 ^ 53 then return ("%.0f"):format(number) end
  for digits = 15, 16 do
    local text = ("%." .. digits .. "g"):format(number)
    if tonumber(text) == number then return text end
  end
  return ("%.17g"):format(number)
end

---What tostring says, but for numbers, which keep all their digits.
---@param value any
---@return string
function util.text_of(value)
  return type(value) == "number" and util.number_text(value) or tostring(value)
end

---A moment of the wall clock for people, with its zone: "12:03:05 +0200".
---@param seconds number since 1970
---@return string
function util.clock_text(seconds)
  return os.date("%H:%M:%S %z", math.floor(seconds)) --[[@as string]]
end

---The text with invalid UTF-8, NUL and carriage returns made harmless: what a command prints is arbitrary bytes, a
---string on the wire is not.
---@param text string
---@return string
function util.clean_text(text)
  return util.valid_utf8((text:gsub("\r+\n", "\n"):gsub("[%z\r]", " ")))
end

---The text with each byte that is not UTF-8 replaced by U+FFFD.
---@param text string
---@return string
function util.valid_utf8(text)
  if utf8.len(text) then return text end
  local out, at = {}, 1
  while at <= #text do
    local _, bad = utf8.len(text, at)
    out[#out + 1] = text:sub(at, bad and bad - 1 or -1)
    if not bad then break end
    out[#out + 1], at = "\u{FFFD}", bad + 1
  end
  return table.concat(out)
end

---Where temporary files go: $TMPDIR, or /tmp.
---@return string path
function util.temporary_folder()
  local folder = os.getenv("TMPDIR")
  return folder and folder ~= "" and folder or "/tmp"
end

---Wall clock, seconds since 1970 with microseconds.
---@return number
function util.now()
  local seconds, microseconds = require("luv").gettimeofday()
  return seconds + microseconds / 1e6
end

---Monotonic clock in seconds.
---@return number
function util.mono()
  return require("luv").hrtime() / 1e9
end

return util
