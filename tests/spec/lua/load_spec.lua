-- turboci.workflow.load: the globals of a workflow file, and the modules beside it.

local load_file = require("turboci.workflow.load").file
local uv = require "luv"

local folder

local function write(name, text)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

local function run(text, ...)
  return assert(load_file(write("ci.lua", text)))(...)
end

local function message_of(text)
  local ok, err = pcall(run, text)
  assert.is_false(ok, "expected an error")
  return err
end

describe("a workflow file", function()
  before_each(function()
    folder = assert(uv.fs_mkdtemp(require("turboci.util").temporary_folder() .. "/turboci-load-XXXXXX"))
    uv.fs_mkdir(folder .. "/lib", 448)
  end)
  after_each(function()
    for _, name in ipairs { "ci.lua", "cjson.lua", "lib/common.lua", "lib/other.lua", "turboci.lua" } do
      os.remove(folder .. "/" .. name)
    end
    uv.fs_rmdir(folder .. "/lib")
    uv.fs_rmdir(folder)
  end)

  it("gets its parameters, and the program's globals", function()
    assert.same({ "x", "string" }, run("local p = ...; return { p, type(p) }", "x"))
  end)

  it("cannot read a global that nobody has set: the line, and the local that was meant", function()
    local err = message_of "local compile = 1\nreturn { after = compiel }"
    assert.is_truthy(err:find(folder .. "/ci.lua:2: 'compiel' is not defined: did you mean 'compile'?", 1, true), err)
    err = message_of "return nowhere"
    assert.is_truthy(err:find("ci.lua:1: 'nowhere' is not defined (", 1, true), err)
  end)

  it("is told so in a body too, when the body runs", function()
    local body = run "return function(ctx) return ctx and misspelt end"
    local ok, err = pcall(body, true)
    assert.is_false(ok)
    assert.is_truthy(err:find("ci.lua:1: 'misspelt' is not defined", 1, true), err)
  end)

  it("keeps the globals that it sets to itself, also those set to nil", function()
    assert.equal(3, run "mine = 3; return mine")
    assert.is_nil(rawget(_G, "mine"))
    assert.is_nil(run "mine = nil; return mine")
    assert.is_nil(run "return _G.mine")
  end)

  it("finds the modules beside it, each loaded once and as strict", function()
    write("lib/common.lua", "count = (rawget(_G, 'no') or 0) + 1; return { other = require 'lib.other', name = ... }")
    write("lib/other.lua", "return { word = 'hi' }")
    assert.same({ "hi", "lib.common", true }, run [[
      local common = require "lib.common"
      return { common.other.word, common.name, common == require "lib.common" and common.other == require "lib.other" }
    ]])
    write("lib/other.lua", "return misspelt")
    local err = message_of 'return require "lib.other"'
    assert.is_truthy(err:find("lib/other.lua:1: 'misspelt' is not defined", 1, true), err)
  end)

  it("is told of a module that is not valid Lua, is nowhere, or requires itself", function()
    write("lib/common.lua", "return return")
    assert.is_truthy(message_of('require "lib.common"'):find("lib/common.lua:1:", 1, true))
    assert.is_truthy(message_of('require "lib.nothing"'):find("lib.nothing", 1, true))
    write("lib/common.lua", "return require 'lib.common'")
    assert.is_truthy(message_of('require "lib.common"'):find("requires itself", 1, true))
  end)

  it("is told the same of a module that failed, however often it requires it", function()
    write("lib/common.lua", "error 'not today'")
    local first, second = table.unpack(run [[
      local _, first = pcall(require, "lib.common")
      local _, second = pcall(require, "lib.common")
      return { first, second }
    ]])
    assert.is_truthy(first:find("lib/common.lua:1: not today", 1, true), first)
    assert.equal(first, second)
  end)

  it("waits for a module that another body is loading", function()
    local loop = require "turboci.loop"
    write("lib/common.lua", "require('turboci.loop').wait_until(function() return _G.load_spec_goes_on end); return {}")
    local body = run "return function() return require 'lib.common' end"
    local first, second = loop.spawn(body), loop.spawn(body)
    loop.spawn(function() rawset(_G, "load_spec_goes_on", true) end)
    local module = first:wait()
    assert.is_table(module)
    assert.equal(module, (second:wait()))
    rawset(_G, "load_spec_goes_on", nil)
  end)

  it("takes nothing beside it for the program's own modules, and takes nothing from the program", function()
    write("turboci.lua", "error 'mine'")
    write("cjson.lua", "return 'mine'")
    assert.equal(require "turboci", run 'return require "turboci"')
    assert.equal("mine", run 'return require "cjson"')
    assert.is_table(require "cjson")
  end)
end)
