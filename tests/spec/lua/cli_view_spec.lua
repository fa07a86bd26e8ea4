-- What the program puts on a terminal: text in cells, and the frames of the live tree.

local output = require "turboci.cli.output"
local text = require "turboci.cli.text"
local model = require "turboci.cli.model"
local tree = require "turboci.cli.view_tree"

describe("text for a terminal", function()
  it("has no escape sequences and no control characters", function()
    local cases = {
      ["\27[31mred\27[0m"] = "red",
      ["\27[2J\27[10;10Hmoved"] = "moved",
      ["\27]0;title\7after"] = "after",
      ["\27]8;;http://x\27\\link\27]8;;\27\\"] = "link",
      ["\27Pdevice\27\\control"] = "control",
      ["\27(Bset\27=\27>"] = "set",
      ["\u{9B}2Jeight bits"] = "2Jeight bits",
      ["bell\7 back\8 delete\127"] = "bell back delete",
      ["\xC2\xC2\x9B\x9B2Jnested"] = "\u{FFFD}\u{FFFD}2Jnested",
      ["\27[\27[31m31mnested"] = "31mnested",
      ["one\ntwo\r\nthree"] = "one\u{2424}two\u{2424}three",
      ["\u{202E}drow\u{202C} \u{2066}word\u{2069}"] = "drow word",
      ["bytes \xFF\xFE"] = "bytes \u{FFFD}\u{FFFD}",
      ["a\tb"] = "a    b",
      ["h\u{E9}llo \u{65E5}\u{672C} \u{A0}"] = "h\u{E9}llo \u{65E5}\u{672C} \u{A0}",
    }
    for raw, plain in pairs(cases) do
      assert.equal(plain, text.plain(raw))
    end
  end)

  it("is measured in cells", function()
    assert.equal(5, text.width("hello"))
    assert.equal(5, text.width("h\u{E9}llo"))
    assert.equal(6, text.width("\u{65E5}\u{672C}\u{8A9E}"))
    assert.equal(2, text.width("\u{1F389}"))
    assert.equal(1, text.width("e\u{301}"))
  end)

  it("is cut and padded to exactly the cells there are", function()
    for _, sample in ipairs { "", "ab", "hello world", "h\u{E9}llo w\u{F6}rld", "\u{65E5}\u{672C}\u{8A9E}\u{65E5}",
      "a\u{65E5}b\u{672C}", "e\u{301}e\u{301}e\u{301}" } do
      for width = 0, 14 do
        assert.equal(width, text.width(text.fit(sample, width)), ("%q in %d"):format(sample, width))
      end
    end
    assert.equal("hel\u{2026}", text.fit("hello", 4))
    assert.equal("\u{65E5}\u{2026} ", text.fit("\u{65E5}\u{672C}\u{8A9E}", 4))
  end)
end)

describe("a line", function()
  local function line(...)
    local written = {}
    output.new(function(bytes) table.insert(written, bytes) end):line(...)
    return table.concat(written)
  end

  it("is one line, whatever its parts are", function()
    assert.equal("a\u{2424}fake SUCCEEDED FAILED\n", line("\27[2Ja\nfake SUCCEEDED", " FAILED"))
    assert.equal("\n", line())
  end)

  it("has the program's own colours and no others", function()
    assert.equal("\27[31mbad red\27[0m name\n", line(text.style(true).bad "bad \27[32mred", "\27[32m name"))
    assert.equal("bad name\n", line(text.style(false).bad "bad", " name"))
  end)

  it("keeps the lines of a message and cleans each", function()
    local written = {}
    output.new(function(bytes) table.insert(written, bytes) end):lines("  | ", "one\27[2J\n\ntwo\n")
    assert.equal("  | one\n  | \n  | two\n", table.concat(written))
  end)
end)

describe("JSON", function()
  it("has numbers that read back as they were", function()
    for _, number in ipairs { 0.1, 0.1 + 0.2, 1 / 3, 1e300, 5e-324, -2.5, 2 ^ 53, 1700000000.123456, 12, 3.0 } do
      assert.equal(number, tonumber(text.json(number)), text.json(number))
    end
    assert.equal("0.1", text.json(0.1))
    assert.equal("3", text.json(3.0))
    assert.equal("1000000000000000", text.json(1e15))
  end)

  it("has texts that read back as they were, and moves no cursor", function()
    for _, value in ipairs { "\27[2J\r\n\0", "\u{9B}31m", "h\u{E9}llo \u{65E5}", "\127", "\u{202E}", "\\u009b" } do
      local json = text.json { [value] = value }
      assert.is_nil(json:find "[%c\127]", json)
      assert.is_nil(json:find("\u{9B}", 1, true), json)
      assert.same({ [value] = value }, require("cjson").decode(json))
    end
    assert.equal('"\u{FFFD}"', text.json "\xFF")
  end)
end)

describe("the live tree", function()
  local function stage(id, state, outcome, attempt_state)
    return {
      id = id, state = state, outcome = outcome or "UNKNOWN", reason = "UNKNOWN", assignments = {},
      attempts = attempt_state and { { idx = 1, state = attempt_state, process_uid = "shell", progress = {} } } or {},
    }
  end

  -- The rows of the frame for these stages on a terminal of this size.
  local function frame(stages, width, height, change)
    local written = {}
    local progress = {
      model = model.new(), style = text.style(false),
      out = output.new(function(bytes) table.insert(written, bytes) end),
      title = function() return "the plan" end,
      seconds = function() return 1 end,
    }
    for _, one in ipairs(stages) do
      progress.model:event { timestamp = 1, stage_event = { stage = one } }
    end
    local view = tree.new(progress)
    local terminal = output.terminal
    output.terminal = function() return width, height end
    if change then view:change(change) end
    view:close()
    output.terminal = terminal
    local rows = {}
    for row in table.concat(written):gmatch("([^\n]*)\n") do rows[#rows + 1] = text.plain(row) end
    return rows
  end

  it("has no row wider than the terminal", function()
    local stages = {}
    for i = 1, 10 do
      stages[i] = stage(("\u{65E5}\u{672C}-a-stage-with-a-long-name-%d"):format(i), "ATTEMPTING", nil, "RUNNING")
    end
    local change = { type = "output", stage = stages[1], text = ("\u{65E5}"):rep(200) }
    for _, width in ipairs { 20, 40, 59, 60, 80, 200 } do
      for _, row in ipairs(frame(stages, width, 24, change)) do
        assert.is_true(text.width(row) <= width, ("%d cells of %d: %s"):format(text.width(row), width, row))
      end
    end
  end)

  it("shows all stages when they fit", function()
    local rows = frame({ stage("a", "FINAL", "SUCCEEDED", "COMPLETE"), stage("b", "PLANNED") }, 80, 24)
    assert.matches("^\u{2713} a +SUCCEEDED", rows[1])
    assert.matches("^\u{25CB} b +waiting", rows[2])
    assert.matches("^the plan  1 of 2 stages, ", rows[3])
    assert.equal(3, #rows)
  end)

  it("shows what runs, then what failed, when not all fit", function()
    local stages = {}
    for i = 1, 50 do
      stages[#stages + 1] = stage("done" .. i, "FINAL", "SUCCEEDED", "COMPLETE")
      stages[#stages + 1] = stage("queued" .. i, "ATTEMPTING", nil, "PENDING")
    end
    stages[#stages + 1] = stage("broken", "FINAL", "FAILED", "INCOMPLETE")
    stages[#stages + 1] = stage("runs", "ATTEMPTING", nil, "RUNNING")
    local rows = frame(stages, 80, 10)
    assert.equal(8, #rows)
    local all = table.concat(rows, "\n")
    assert.matches("\n\u{2717} broken +FAILED", all)
    assert.matches("\n\u{25CF} runs +RUNNING", all)
    assert.matches("queued5 ", all, 1, true)
    assert.is_nil(all:find("done", 1, true))
    assert.matches("51 of 102 stages", rows[8], 1, true)
  end)
end)
