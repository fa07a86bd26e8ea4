-- Where a C file can be changed a little, and how. Knows no files and runs nothing: tests/mutate/mutate.lua does.
--
--   sites.of(text) -> places: list of { name, lines, changes = list of change }
--
-- A place is a function, or a table of 0 and 1 (a state machine). A change is { kind, from, to, with, line, column,
-- what }: the bytes from..to of the text become `with`; lines keep their numbers. The kinds:
--
--   comparison   < to <= or >=, == to !=, and so on        logic       && to ||, || to &&
--   condition    if (a) to if (!(a)), while too            off by one  a constant 3 to 4; + 1 and - 1 to + 0 and - 0
--   transition   a 1 of a table to 0                       assignment  a statement that assigns is dropped
--   emit         a call that tells somebody (a change, an effect, an event, a reply) is dropped
--
-- What is said inside tci_assert() is no behaviour and is left alone.
local sites = {}

local comparisons = {
  ["<"] = { "<=", ">=" }, ["<="] = { "<", ">" }, [">"] = { ">=", "<=" }, [">="] = { ">", "<" },
  ["=="] = { "!=" }, ["!="] = { "==" },
}
local logic = { ["&&"] = "||", ["||"] = "&&" }

local function set(words)
  local out = {}
  for word in words:gmatch "%S+" do out[word] = true end
  return out
end
local assignments = set "= += -= *= /= %= &= |= ^= <<= >>="
local emits = set [[tci_emit tci_effect_add tci_watch_notify tci_refuse tci_attempt_move tci_attempt_progress
  tci_check_finish tci_check_put_result tci_stage_finish completed node_event]]
local keywords = set "if else for while do switch case default return goto break continue"
local openers, closers = set "( [ {", set ") ] }"
local operators = set "<<= >>= ... -> ++ -- << >> <= >= == != && || += -= *= /= %= &= |= ^="

-- ---- tokens ----

-- { text, kind = "name"|"number"|"text"|"sign", from, to, line, column }; comments and preprocessor lines are left out.
local function tokens_of(text)
  local out, at, line, before_line = {}, 1, 1, 0
  local function skip(to)
    for newline in text:sub(at, to):gmatch "()\n" do
      line, before_line = line + 1, at + newline - 1
    end
    at = to + 1
  end
  local function add(kind, to)
    local column = at - before_line
    out[#out + 1] = { text = text:sub(at, to), kind = kind, from = at, to = to, line = line, column = column }
    at = to + 1
  end
  while at <= #text do
    local c = text:sub(at, at)
    if c:match "%s" then
      skip(at)
    elseif text:find("^/%*", at) then
      skip(select(2, text:find("*/", at + 2, true)) or #text)
    elseif text:find("^//", at) then
      skip((text:find("\n", at, true) or #text + 1) - 1)
    elseif c == "#" then
      local last = at
      repeat last = (text:find("\n", last + 1, true) or #text + 1) until text:sub(last - 1, last - 1) ~= "\\"
      skip(last - 1)
    elseif c == '"' or c == "'" then
      local last = at + 1
      while text:sub(last, last) ~= c do last = last + (text:sub(last, last) == "\\" and 2 or 1) end
      add("text", last)
    elseif c:match "[%a_]" then
      add("name", select(2, text:find("^[%w_]+", at)))
    elseif c:match "%d" then
      add("number", select(2, text:find("^[%w.]+", at)))
    elseif operators[text:sub(at, at + 2)] then
      add("sign", at + 2)
    elseif operators[text:sub(at, at + 1)] then
      add("sign", at + 1)
    else
      add("sign", at)
    end
  end
  return out
end

-- Gives each bracket the index of its other half.
local function match_brackets(tokens)
  local open = {}
  for i, token in ipairs(tokens) do
    if openers[token.text] then
      open[#open + 1] = i
    elseif closers[token.text] then
      local first = table.remove(open)
      tokens[first].other, token.other = i, first
    end
  end
end

-- ---- changes ----

local Place = {}
Place.__index = Place

function Place:add(kind, first, last, with, what)
  local from, to = self.tokens[first].from, self.tokens[last].to
  local old = self.text:sub(from, to)
  local lost = select(2, old:gsub("\n", "")) - select(2, with:gsub("\n", ""))
  self.changes[#self.changes + 1] = {
    kind = kind, from = from, to = to, with = with .. ("\n"):rep(lost), line = self.tokens[first].line,
    column = self.tokens[first].column, what = what or ("%s to %s"):format(old, with),
  }
end

-- The integer one above, with the same suffix; nil: no integer.
local function one_more(number)
  local digits, suffix = number:match "^(0[xX]%x+)([uUlL]*)$"
  if not digits then digits, suffix = number:match "^(%d+)([uUlL]*)$" end
  return digits and ("%d%s"):format(math.tointeger(tonumber(digits)) + 1, suffix)
end

function Place:constant(i)
  local tokens, token = self.tokens, self.tokens[i]
  local more = one_more(token.text)
  if not more then return end
  local before, after = tokens[i - 1].text, tokens[i + 1].text
  if before == "{" and after == "}" then return end -- {0}: all of it
  -- The length of an array in its declaration: "char name[33]". A longer one is the same program.
  local declared = before == "[" and tokens[i - 2].kind == "name" and tokens[i - 3].kind == "name"
  if declared and tokens[i - 3].text ~= "return" then return end
  self:add("off by one", i, i, more)
  if (before == "+" or before == "-") and token.text:match "^1[uUlL]*$" then
    self:add("off by one", i, i, "0", ("%s %s to %s 0"):format(before, token.text, before))
  end
end

-- A statement that starts at token i: the index of its ";". nil: none starts here.
function Place:statement(i)
  local tokens = self.tokens
  local before = tokens[i - 1]
  local starts = before.text == ";" or before.text == "{" or before.text == "}" or before.text == "else" or
                 (before.text == ")" and set "if for while switch"[tokens[before.other - 1].text]) or
                 (before.text == ":" and self.labels[i - 1])
  if not starts or keywords[tokens[i].text] then return nil end
  while tokens[i].text ~= ";" do
    if closers[tokens[i].text] then return nil end
    i = (tokens[i].other or i) + 1
  end
  return i
end

function Place:drop(i)
  local tokens = self.tokens
  local last = self:statement(i)
  if not last or last == i then return end
  local old = self.text:sub(tokens[i].from, tokens[last - 1].to):gsub("%s+", " ")
  if emits[tokens[i].text] and tokens[i + 1].text == "(" then
    return self:add("emit", i, last - 1, "", "dropped: " .. old)
  end
  if tokens[i].kind ~= "name" and tokens[i].text ~= "*" and tokens[i].text ~= "(" then return end
  local at, assigns = i, false
  while at < last and not assigns do
    assigns = assignments[tokens[at].text] or ((tokens[at].text == "++" or tokens[at].text == "--") and at == last - 1)
    if not assigns then
      -- "type name" or "type *name": a declaration, which others need; also return, goto, case.
      if tokens[at].kind == "name" and tokens[at + 1].kind == "name" then return end
      if at == i and tokens[at].kind == "name" and tokens[at + 1].text == "*" then return end
      at = (openers[tokens[at].text] and tokens[at].other or at) + 1
    end
  end
  if assigns then self:add("assignment", i, last - 1, "", "dropped: " .. old) end
end

function Place:function_changes(first, last)
  local tokens = self.tokens
  local i = first + 1
  self.labels = {}
  for k = first, last do
    if tokens[k].text == "case" or tokens[k].text == "default" then
      repeat k = k + 1 until tokens[k].text == ":"
      self.labels[k] = true
    end
  end
  local head_end = 0 -- of a for, whose parts are no statements
  while i < last do
    local token = tokens[i]
    if token.text == "tci_assert" then
      i = tokens[i + 1].other
    else
      if token.text == "for" then head_end = tokens[i + 1].other end
      if i > head_end then self:drop(i) end
      for _, with in ipairs(comparisons[token.text] or {}) do self:add("comparison", i, i, with) end
      if logic[token.text] then self:add("logic", i, i, logic[token.text]) end
      if token.kind == "number" then self:constant(i) end
      if token.text == "if" or token.text == "while" then
        local close = tokens[i + 1].other
        local condition = self.text:sub(tokens[i + 2].from, tokens[close - 1].to)
        self:add("condition", i + 2, close - 1, ("!(%s)"):format(condition),
          ("%s (!(%s))"):format(token.text, condition:gsub("%s+", " ")))
      end
    end
    i = i + 1
  end
end

function Place:table_changes(first, last)
  for i = first, last do
    if self.tokens[i].text == "1" then
      self:add("transition", i, i, "0", ("the %d. 1 of the table to 0"):format(#self.changes + 1))
    end
  end
end

---@param text string a C file
function sites.of(text)
  local tokens = tokens_of(text)
  match_brackets(tokens)
  local out, i, start = {}, 1, 1
  while i <= #tokens do
    local token = tokens[i]
    if token.text == "{" then
      local before = tokens[i - 1]
      local last = token.other
      local place = setmetatable({ text = text, tokens = tokens, changes = {} }, Place)
      place.lines = tokens[last].line - tokens[start].line + 1
      if before.text == ")" then
        place.name = tokens[before.other - 1].text
        place:function_changes(i, last)
      elseif before.text == "=" then
        local name, is_bool = i - 2, false
        while tokens[name].text == "]" do name = tokens[name].other - 1 end
        for k = start, name do is_bool = is_bool or tokens[k].text == "bool" end
        place.name = tokens[name].text
        if is_bool then place:table_changes(i, last) end
      end
      if #place.changes > 0 then out[#out + 1] = place end
      i = last
      if before.text == ")" then start = i + 1 end
    elseif openers[token.text] then
      i = token.other
    elseif token.text == ";" then
      start = i + 1
    end
    i = i + 1
  end
  return out
end

-- The text with a change made.
function sites.apply(text, change)
  return text:sub(1, change.from - 1) .. change.with .. text:sub(change.to + 1)
end

return sites
