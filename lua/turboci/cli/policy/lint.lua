-- lint: names in a policy that are nobody's (neither local, nor a parameter, nor a field, nor a global of the sandbox),
-- and fields that nothing a hook is shown has. The sandbox refuses such a name when a call comes to it, and such a
-- field is nil; this finds them in branches that no sample takes.
--
-- It reads tokens and keeps the blocks that are open, no more: a local is known from its `local` on (also in its own
-- initial value), and those of a `repeat` block stay known after it. Fields are looked at where a parameter is called
-- `ctx`, in loops over its lists, and in locals that are a part of it and are never assigned again. The text is valid
-- Lua.

local M = {}

local function set(words)
  local out = {}
  for word in words:gmatch "%S+" do out[word] = true end
  return out
end

---What a policy finds in its globals. A table: the fields of a library.
M.globals = {
  math = set [[abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad sin
    sqrt tan tointeger type ult]],
  string = set "byte char find format len lower rep reverse sub upper",
  table = set "concat insert move pack remove sort unpack",
}
for name in pairs(set [[assert error getmetatable ipairs pairs pcall require select setmetatable tonumber tostring
  type]]) do
  M.globals[name] = true
end

---What a hook is shown: the fields of each part, and the part that a field is (true: a value, or a table whose names
---are the user's). "+" before a part: a list of it.
M.shapes = {
  ctx = { hook = true, now = true, random = true, defaults = "defaults", plan = "plan", stage = "stage",
    attempt = "attempt", attempts = "+ended", runners = "+runner", failure = "failure" },
  defaults = { attempts_max = true, delivery_attempts_max = true, backoff = true, backoff_max = true, execution = true,
    stale = true },
  plan = { id = true, metadata = true, policy = true, created = true },
  stage = { id = true, runner_type = true, mode = true, priority = true, args = true, args_omitted = true,
    retry = "retry", timeouts = "timeouts", created = true },
  retry = { max_attempts = true, backoff = true, backoff_max = true },
  timeouts = { execution = true, stale = true },
  attempt = { index = true, waited = true, excluded = true, elsewhere = true },
  ended = { index = true, runner = true, failure = "failure", queued = true, ran = true, ended = true },
  failure = { kind = true, message = true },
  runner = { id = true, type = true, load = true, capacity = true, free = true, metadata = true, registered = true,
    used = true, last_used = true, succeeded = true, failed = true, last_failed = true },
}

local titles = { ctx = "the context", ended = "an attempt that has ended", attempt = "an attempt", runner = "a runner" }

-- What people reach for, and what there is instead.
local instead = {
  ["math.random"] = "ctx.random()",
  ["os.time"] = "ctx.now",
  ["os.clock"] = "ctx.now",
  print = "the second return value: a reason",
  next = "pairs",
}

local keywords = set [[and break do else elseif end false for function goto if in local nil not or repeat return then
  true until while]]

-- ---- tokens ----

-- The end of a long bracket that opens at `at`; nil: there is none.
local function long_end(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at, true)
  return last or #text
end

local function skip_quoted(text, at)
  local quote = text:sub(at, at)
  at = at + 1
  while at <= #text and text:sub(at, at) ~= quote do
    at = at + (text:sub(at, at) == "\\" and 2 or 1)
  end
  return at
end

-- kind ("name", "keyword", "symbol", "value"), text, line: a token at a time.
local function tokens(text)
  local at, line = 1, 1
  local function pass(last)
    for _ in text:sub(at, last):gmatch "\n" do line = line + 1 end
    at = last + 1
  end
  return function()
    while true do
      local blank = text:match("^%s+()", at)
      if blank then pass(blank - 1) end
      if text:sub(at, at + 1) ~= "--" then break end
      pass(long_end(text, at + 2) or (text:find("\n", at, true) or #text + 1) - 1)
    end
    if at > #text then return nil end
    local begun, first = line, text:sub(at, at)
    local word = text:match("^[%a_][%w_]*", at)
    if word then
      at = at + #word
      return keywords[word] and "keyword" or "name", word, begun
    end
    local last = (first == "'" or first == '"') and skip_quoted(text, at) or long_end(text, at)
    local number = not last and (text:match("^0[xX][%x%.pP]+", at) or text:match("^%.?%d[%w%.]*", at))
    if number then last = at + #number - 1 end
    if last then
      pass(last)
      return "value", "", begun
    end
    local symbol = text:match("^%.%.%.?", at) or text:match("^[=~<>]=", at) or text:match("^::", at) or first
    at = at + #symbol
    return "symbol", symbol, begun
  end
end

local function read_tokens(text)
  local list = {}
  for kind, word, line in tokens(text) do list[#list + 1] = { kind = kind, text = word, line = line } end
  return list
end

local opening, closing = { ["{"] = true, ["("] = true, ["["] = true }, { ["}"] = true, [")"] = true, ["]"] = true }

-- ---- blocks ----

---@class turboci.cli.policy.Linter
local Linter = {}
Linter.__index = Linter

function Linter:open(kind)
  self.stack[#self.stack + 1] = { kind = kind, names = {} }
end

function Linter:top()
  return self.stack[#self.stack]
end

function Linter:close()
  if #self.stack > 1 then self.stack[#self.stack] = nil end
end

---@param shape string? what it is of M.shapes
function Linter:declare(name, shape)
  self:top().names[name] = shape and not self.assigned[name] and shape or true
end

-- false: it is no local; true: it is; a text: and that is its shape.
function Linter:is_local(name)
  for i = #self.stack, 1, -1 do
    if self.stack[i].names[name] then return self.stack[i].names[name] end
  end
  return false
end

function Linter:text(offset)
  local token = self.list[self.at + offset]
  return token and token.text
end

-- The names from the next token on, with commas between them (and <attributes>): a local's, a for's, parameters.
-- Returns them.
function Linter:declare_list()
  local names = {}
  while self.list[self.at + 1] and self.list[self.at + 1].kind == "name" do
    self.at = self.at + 1
    names[#names + 1] = self:text(0)
    self:declare(self:text(0))
    if self:text(1) == "<" then self.at = self.at + 3 end
    if self:text(1) ~= "," then break end
    self.at = self.at + 1
  end
  return names
end

local function ends_statement(token)
  return token.kind == "name" or token.text == ";"
    or token.kind == "keyword" and token.text ~= "and" and token.text ~= "or"
end

-- for _, runner in ipairs(ctx.runners) do
function Linter:begin_for()
  local names = self:declare_list()
  if #names ~= 2 or self:text(1) ~= "in" or self:text(3) ~= "(" then return end
  if self:text(2) ~= "ipairs" and self:text(2) ~= "pairs" then return end
  local shape, after = self:follow(self.at + 4)
  if shape and shape:sub(1, 1) == "+" and self.list[after] and self.list[after].text == ")" then
    self:declare(names[2], shape:sub(2))
  end
end

function Linter:begin_local()
  local names = self:declare_list()
  if #names == 1 and self:text(1) == "=" then
    local shape, after = self:follow(self.at + 2)
    local token = self.list[after]
    if shape and (not token or ends_statement(token)) then self:declare(names[1], shape) end
  end
end

function Linter:begin_function(is_local)
  if is_local then
    self.at = self.at + 1
    self:declare(self:text(0))
  end
  local has_self = false
  while self:text(1) and self:text(1) ~= "(" do -- function a.b:c(
    self.at = self.at + 1
    if self:text(0) == ":" then has_self = true end
    if self.list[self.at].kind == "name" then self:use() end
  end
  self.at = self.at + 1
  self:open "block"
  if has_self then self:declare "self" end
  for _, name in ipairs(self:declare_list()) do
    if name == "ctx" then self:declare(name, "ctx") end
  end
  while self:text(1) and self:text(0) ~= ")" do self.at = self.at + 1 end
end

local heads = { ["for"] = true, ["while"] = true, ["if"] = true, ["elseif"] = true }

function Linter:keyword(word)
  if word == "local" then
    if self:text(1) == "function" then
      self.at = self.at + 1
      self:begin_function(true)
    else
      self:begin_local()
    end
  elseif word == "function" then
    self:begin_function(false)
  elseif heads[word] then
    if word == "elseif" then self:close() end
    self:open "head"
    if word == "for" then self:begin_for() end
  elseif (word == "do" or word == "then") and self:top().kind == "head" then
    self:top().kind = "block"
  elseif word == "do" or word == "repeat" then
    self:open "block"
  elseif word == "else" then
    self:close()
    self:open "block"
  elseif word == "end" then
    self:close()
  elseif word == "until" then
    local names = self:top().names
    self:close()
    for name in pairs(names) do self:declare(name) end
  end
end

-- ---- names ----

function Linter:known_names()
  local names = {}
  for name in pairs(M.globals) do names[#names + 1] = name end
  for _, block in ipairs(self.stack) do
    for name in pairs(block.names) do names[#names + 1] = name end
  end
  return names
end

function Linter:report(name, what, names)
  local hint = instead[name] and (": use " .. instead[name])
  if not hint then
    local word = name:match "[^.]*$"
    local near = #word > 2 and require("turboci.util").nearest(word, names)
    hint = near and (": did you mean '%s'?"):format(near) or ""
  end
  self.problems[#self.problems + 1] = { line = self.list[self.at].line, text = what:format(name) .. hint }
end

-- From a name, along what is behind it: its shape (nil: none that is known), and the token after it. `visit` gets the
-- places and the shapes of the fields on the way.
function Linter:follow(at, visit)
  local token = self.list[at]
  local shape = token and token.kind == "name" and self:is_local(token.text)
  if type(shape) ~= "string" then return nil, at end
  at = at + 1
  while self.list[at] do
    local text = self.list[at].text
    if text == "." then
      local fields = M.shapes[shape]
      if visit and fields then visit(at + 1, shape) end
      shape = fields and fields[self.list[at + 1].text]
    elseif text == "[" and shape:sub(1, 1) == "+" then
      local depth = 0
      repeat
        local here = self.list[at].text
        if opening[here] then depth = depth + 1 elseif closing[here] then depth = depth - 1 end
        at = at + 1
      until depth == 0 or not self.list[at]
      at, shape = at - 2, shape:sub(2)
    else
      return (text ~= "[" and text ~= "(" and text ~= ":") and shape or nil, at
    end
    at = at + 2
    if type(shape) ~= "string" then return nil, at end
  end
  return shape, at
end

-- Fields behind a local that is shown to hooks.
function Linter:fields()
  self:follow(self.at, function(at, shape)
    local field = self.list[at].text
    if M.shapes[shape][field] then return end
    local util, title = require "turboci.util", titles[shape] or "the " .. shape
    self.problems[#self.problems + 1] = { line = self.list[at].line, field = true,
      text = ("'%s': %s has no such field; it is always nil%s"):format(field, title,
        util.suggestion(field, util.sorted_keys(M.shapes[shape]))) }
  end)
end

-- The name at hand stands for a value: a local's, or a global's.
function Linter:use()
  local name, before, after = self:text(0), self:text(-1), self:text(1)
  if before == "." or before == ":" or before == "::" or before == "goto" then return end
  if self:top().kind == "{" and after == "=" and (before == "{" or before == "," or before == ";") then return end
  if self:is_local(name) then return self:fields() end
  local global = M.globals[name]
  if not global then
    local full = after == "." and instead[name .. "." .. (self:text(2) or "")] and name .. "." .. self:text(2) or name
    return self:report(full, "'%s' is neither a local nor something that a policy has", self:known_names())
  end
  local field = after == "." and self:text(2)
  if type(global) == "table" and field and not global[field] then
    local names = {}
    for known in pairs(global) do names[#names + 1] = known end
    self:report(name .. "." .. field, "policies have no '%s'", names)
  end
end

-- Names that are assigned after their `local`: what they are then is not known.
local function assigned_names(list)
  local names = {}
  for i, token in ipairs(list) do
    local before = i > 1 and list[i - 1].text
    local follows = before == "local" or before == "." or before == "{" or before == "for"
    local assigned = token.kind == "name" and list[i + 1] and list[i + 1].text == "="
    if assigned and not follows then names[token.text] = true end
  end
  return names
end

---The names and fields that are nobody's, in the order of their lines.
---@param text string of the file; valid Lua
---@return {line: integer, text: string, field: boolean?}[]
function M.check(text)
  if text:sub(1, 1) == "#" then text = "--" .. text end
  local list = read_tokens(text)
  local self = setmetatable({ list = list, at = 1, stack = {}, problems = {}, assigned = assigned_names(list) }, Linter)
  self:open "block"
  while self.at <= #self.list do
    local token = self.list[self.at]
    if token.kind == "keyword" then
      self:keyword(token.text)
    elseif token.kind == "name" then
      self:use()
    elseif opening[token.text] then
      self:open(token.text)
    elseif closing[token.text] then
      self:close()
    end
    self.at = self.at + 1
  end
  return self.problems
end

return M
