-- The rules of the house that a compiler does not check. Knows no files: tests/tidy/floors.lua feeds it the tree,
-- tests/tidy/selftest.lua feeds it planted violations.
--
--   floors   engine rooms include downward only; rooms on one floor never include each other
--   library  SQLite, gRPC, protobuf and Lua are each known to few rooms only
--   purity   engine/core: no clock, randomness, stdio, threads, libraries; of base only what is pure
--   world    a shared spec neither asks which world it is in nor advances a clock
--   sleep    tests wait on events
--   comment  every C file opens by saying what it is for
--   later    no notes to come back to
local tidy = {}

local floor = { base = 1, core = 2, store = 3, rpc = 3, script = 3, app = 4, lua = 5 }

-- Library headers and the rooms that may include them.
local libraries = {
  { "^sqlite3", { store = true } },
  { "^openssl/", { script = true } },
  { "^grpc", { rpc = true } },
  { "^protobuf%-c/", { rpc = true, lua = true } },
  { "%.pb%-c%.h$", { rpc = true, lua = true } },
  { "^lua%.h$", { script = true, lua = true } },
  { "^lauxlib%.h$", { script = true, lua = true } },
  { "^lualib%.h$", { script = true, lua = true } },
}

local core_system_headers = {}
for name in ("errno float inttypes limits math stdalign stdarg stdbool stddef stdint stdlib string"):gmatch "%a+" do
  core_system_headers[name .. ".h"] = true
end
local core_base_headers_banned = { ["base/log.h"] = true, ["base/queue.h"] = true, ["base/clock.h"] = true }

-- Identifiers banned in engine/core, as patterns over a whole identifier.
local core_banned = {
  { "a clock", { "^clock_gettime$", "^clock_getres$", "^gettimeofday$", "^timespec_get$", "^localtime", "^gmtime",
                 "^tci_clock_" } },
  { "randomness", { "^s?rand$", "^rand_r$", "^srandom$", "^[dejlmn]rand48$", "^getrandom$", "^getentropy$",
                    "^arc4random" } },
  { "stdio", { "^v?[sdf]?n?printf$", "^v?asprintf$", "^f?puts$", "^f?putc$", "^putchar$", "^f?open$", "^fread$",
               "^fwrite$", "^fclose$", "^fflush$", "^stdin$", "^stdout$", "^stderr$", "^perror$", "^FILE$" } },
  { "a thread", { "^pthread_", "^thrd_", "^mtx_", "^_Thread_local$", "^_Atomic$", "^atomic_" } },
  { "the environment", { "^getenv$", "^system$", "^exit$" } },
  { "the log", { "^tci_log$" } },
  { "SQLite", { "^sqlite3" } },
  { "gRPC", { "^grpc", "^gpr_" } },
  { "protobuf-c", { "^protobuf_c", "^ProtobufC" } },
  { "Lua", { "^lua_", "^luaL_", "^luaopen_" } },
}
-- Words too common to ban but as a call.
local core_banned_calls = { time = "a clock", clock = "a clock", random = "randomness" }

local function blank(text) return (text:gsub("[^\n]", " ")) end

-- `text` with comments and the insides of string literals blanked; lines keep their numbers.
function tidy.code(text, language)
  local out, at = {}, 1
  local function skip_to(last) -- blanks at..last
    out[#out + 1] = blank(text:sub(at, last))
    at = last + 1
  end
  while at <= #text do
    local two, one, three = text:sub(at, at + 1), text:sub(at, at), text:sub(at, at + 2)
    local long = language == "lua" and (text:match("^%-%-%[(=*)%[", at) or text:match("^%[(=*)%[", at))
    if long then
      local _, last = text:find("]" .. long .. "]", at, true)
      skip_to(last or #text)
    elseif language == "c" and two == "/*" then
      local _, last = text:find("*/", at + 2, true)
      skip_to(last or #text)
    elseif (language == "c" and two == "//") or (language == "lua" and two == "--") or
           ((language == "py" or language == "sh") and one == "#") then
      skip_to((text:find("\n", at, true) or #text + 1) - 1)
    elseif language == "py" and (three == '"""' or three == "'''") then
      local _, last = text:find(three, at + 3, true)
      skip_to(last or #text)
    elseif (one == '"' or one == "'") and language ~= "sh" then
      local last = at + 1
      while last <= #text and text:sub(last, last) ~= one and text:sub(last, last) ~= "\n" do
        last = last + (text:sub(last, last) == "\\" and 2 or 1)
      end
      out[#out + 1] = one .. blank(text:sub(at + 1, math.min(last, #text) - 1)) .. text:sub(last, last)
      at = last + 1
    else
      out[#out + 1] = one
      at = at + 1
    end
  end
  return table.concat(out)
end

local function each_line(text)
  local number = 0
  local next_line = (text .. "\n"):gmatch "([^\n]*)\n"
  return function()
    local line = next_line()
    if not line then return nil end
    number = number + 1
    return number, line
  end
end

-- number, "room/file.h", quoted: bool
local function each_include(file)
  local next_line = each_line(file.text)
  return function()
    for number, line in next_line do
      local open, name = line:match '^%s*#%s*include%s*(["<])([^">]+)[">]'
      if open then return number, name, open == '"' end
    end
  end
end

local function check_floors(file, report)
  local room = file.path:match "^engine/(%w+)/"
  if not room then return end
  if not floor[room] then return report(1, "floors: engine/%s is not a room of the house", room) end
  for line, name in each_include(file) do
    local known = false
    for _, library in ipairs(libraries) do
      if name:match(library[1]) then
        known = true
        if not library[2][room] then report(line, "library: <%s> does not belong in engine/%s", name, room) end
      end
    end
    local other = name:match "^(%w+)/[^/]+%.%w+$"
    if not known and floor[other] and other ~= room and floor[other] >= floor[room] then
      report(line, "floors: engine/%s (floor %d) includes %s (floor %d)", room, floor[room], name, floor[other])
    end
  end
  for line, name, quoted in each_include(file) do
    local other = name:match "^(%w+)/"
    if quoted and not floor[other] and not name:match "%.pb%-c%.h$" then
      report(line, 'floors: #include "%s": ours are included as "room/file.h", libraries with <>', name)
    end
  end
end

local function check_purity(file, report)
  if not file.path:match "^engine/core/" then return end
  for line, name, quoted in each_include(file) do
    if not quoted and not core_system_headers[name] then
      report(line, "purity: the core includes <%s>", name)
    elseif core_base_headers_banned[name] then
      report(line, "purity: the core includes %s", name)
    end
  end
  for line, code in each_line(tidy.code(file.text, "c")) do
    if not code:match "^%s*#%s*include" then
      code = code:gsub("format%s*%(%s*_*printf_*%s*,", "format(,") -- an attribute, not a call
      for identifier in code:gmatch "[%a_][%w_]*" do
        for _, ban in ipairs(core_banned) do
          for _, pattern in ipairs(ban[2]) do
            if identifier:match(pattern) then report(line, "purity: %s (%s) in the core", identifier, ban[1]) end
          end
        end
      end
      for before, identifier in (" " .. code):gmatch "([^%w_])([%a_][%w_]*)%s*%(" do
        if core_banned_calls[identifier] and before ~= "." and before ~= ">" then
          report(line, "purity: %s() (%s) in the core", identifier, core_banned_calls[identifier])
        end
      end
    end
  end
end

-- "virtual", "grpc" or nil: the mark of a spec that runs in one world only.
local function marked_world(text)
  for number, line in each_line(text) do
    if number > 5 then return nil end
    local world = line:match "^%-%- world: (%w+)"
    if world then return world end
  end
end

local function check_world(file, report)
  if not file.path:match "^tests/spec/[%w_]+_spec%.lua$" then return end
  local world = marked_world(file.text)
  if world == "virtual" or world == "grpc" then return end
  if world then report(1, "world: '%s' is neither virtual nor grpc", world) end
  for line, text in each_line(file.text) do
    if text:match "%f[%w_]advance%s*[%(\"'{]" then report(line, "world: a shared spec advances the clock") end
    if text:find("TURBOCI_WORLD", 1, true) or text:match "env%.world" then
      report(line, "world: a shared spec asks which world it is in")
    end
  end
end

local function check_sleep(file, report)
  if not file.path:match "^tests/" then return end
  local language = file.path:match "%.(%w+)$"
  if language == "h" then language = "c" end
  for line, code in each_line(tidy.code(file.text, language)) do
    if language == "sh" then
      if (";" .. code):match "[;&|%(]%s*sleep%s" or code:match "%f[%w]do%s+sleep%s" then
        report(line, "sleep: tests wait on events")
      end
    else
      for identifier in code:gmatch "[%a_][%w_]*" do
        if identifier:match "^u?sleep$" or identifier:match "nanosleep$" or identifier:match "^sleep_" then
          report(line, "sleep: tests wait on events")
        end
      end
    end
  end
  for line, text in each_line(file.text) do
    local runs = text:match "os%.execute" or text:match "io%.popen" or text:match "%f[%w_]system%s*%("
    if runs and text:match "%f[%w]sleep%s+%d" then
      report(line, "sleep: tests wait on events")
    end
  end
end

local function check_comment(file, report)
  if not file.path:match "%.[ch]$" then return end
  local first = file.text:match "^%s*(..)"
  if first ~= "/*" and first ~= "//" then report(1, "comment: a file opens with what it is for") end
end

local function check_later(file, report)
  for line, text in each_line(file.text) do
    for word in text:gmatch "%f[%w_]%u+%f[^%w_]" do
      if word == "TO" .. "DO" or word == "FIX" .. "ME" or word == "X" .. "XX" then
        report(line, "later: %s: do it, or open an issue", word)
      end
    end
  end
end

local checks = { check_floors, check_purity, check_world, check_sleep, check_comment, check_later }

-- files: list of {path = relative to the project, text = ...}. Returns a list of "path:line: rule: what".
function tidy.check(files)
  local found = {}
  for _, file in ipairs(files) do
    local function report(line, format, ...)
      found[#found + 1] = ("%s:%d: " .. format):format(file.path, line, ...)
    end
    for _, check in ipairs(checks) do check(file, report) end
  end
  return found
end

return tidy
