-- The client and the host of turboci.core, against each other over real sockets: core.call, core.host, core.take.
local core = require "turboci.core"
local uv = require "luv"
debug.getregistry()["turboci.luv"] = debug.getregistry()["turboci.luv"] or uv -- see turboci/loop.lua

local WAIT_MS = 10000 -- nothing below takes long; this only ends a spec that would hang

-- Runs the loop until core.fd() is readable.
local function wait_readable()
  local poll, timer = uv.new_poll(core.fd()), uv.new_timer()
  local readable, late
  poll:start("r", function() readable = true end)
  timer:start(WAIT_MS, 0, function() late = true end)
  while not readable and not late do uv.run "once" end
  poll:close()
  timer:close()
  uv.run "nowait"
  assert(readable, "nothing came for too long")
end

local seen -- events that were taken and not asked for yet

-- The next event of this type (and with these fields); what comes before it is kept for later.
local function wait(event_type, fields)
  while true do
    for i, event in ipairs(seen) do
      local fits = event.type == event_type
      for key, value in pairs(fields or {}) do fits = fits and event[key] == value end
      if fits then return table.remove(seen, i) end
    end
    local events = core.take()
    if #events == 0 then wait_readable() end
    for _, event in ipairs(events) do seen[#seen + 1] = event end
  end
end

describe("a call", function()
  local host, address

  before_each(function()
    seen = {}
    host = assert(core.host "127.0.0.1:0")
    address = host:address()
  end)

  after_each(function()
    host:close(0)
    assert.same({}, seen)
    assert.same({}, core.take())
  end)

  it("brings a request to the host and the response back", function()
    local request = core.encode("RunRequest", { execution_id = "e", args = { x = 1 } })
    local handle = core.call(address, "Run", request, 5)
    local call = wait "call"
    assert.equal(host, call.host)
    assert.equal("/turboci.v1.StageRunner/Run", call.method)
    assert.equal(request, call.bytes)
    assert.truthy(call.timeout > 3 and call.timeout < 5.1, call.timeout) -- gRPC rounds up
    local response = core.encode("RunResponse", { stage_state = "FINAL" })
    assert.is_true(host:reply(call.call, 0, nil, response))
    assert.same({ type = "done", handle = handle, code = 0, message = "", bytes = response }, wait "done")
    assert.is_false(host:reply(call.call, 0, nil, response))
  end)

  it("has no timeout unless one is given", function()
    local handle = core.call(address, "Ping", "")
    local call = wait "call"
    assert.is_nil(call.timeout)
    host:reply(call.call, 0)
    assert.equal("", wait("done", { handle = handle }).bytes)
  end)

  it("brings the host's refusal back, and no bytes", function()
    local handle = core.call(address, "Run", "")
    host:reply(wait("call").call, core.codes.FAILED_PRECONDITION, "not today: é")
    assert.same({ type = "done", handle = handle, code = 9, message = "not today: é" }, wait "done")
  end)

  it("may be of a method that is not ours, by its path", function()
    core.call(address, "/grpc.health.v1.Health/Check", "abc")
    local call = wait "call"
    assert.equal("/grpc.health.v1.Health/Check", call.method)
    host:reply(call.call, core.codes.UNIMPLEMENTED, "no health here")
    assert.equal(core.codes.UNIMPLEMENTED, wait("done").code)
  end)

  it("carries any bytes, a megabyte of them", function()
    local bytes = ("\0\1\255"):rep(350000)
    core.call(address, "Run", bytes)
    local call = wait "call"
    assert.is_true(call.bytes == bytes)
    host:reply(call.call, 0, nil, bytes .. "!")
    assert.is_true(wait("done").bytes == bytes .. "!")
  end)

  it("is one of many: each gets its own answer, in any order", function()
    local expected, calls = {}, {}
    for i = 1, 200 do expected[core.call(address, "Run", "request " .. i)] = "answer to request " .. i end
    for i = 1, 200 do calls[i] = wait "call" end
    for i = #calls, 1, -1 do host:reply(calls[i].call, 0, nil, "answer to " .. calls[i].bytes) end
    for _ = 1, 200 do
      local done = wait "done"
      assert.equal(expected[done.handle], done.bytes)
      expected[done.handle] = nil
    end
    assert.is_nil(next(expected))
  end)

  it("that is cancelled ends CANCELLED, and its host is told that the caller is gone", function()
    local handle = core.call(address, "Run", "")
    local call = wait "call"
    core.cancel(handle)
    assert.equal(core.codes.CANCELLED, wait("done", { handle = handle }).code)
    assert.same({ type = "gone", host = host, call = call.call }, wait "gone")
    assert.is_false(host:reply(call.call, 0, nil, "too late"))
    core.cancel(handle) -- once more is no mistake
    core.cancel(123456789)
  end)

  it("ends DEADLINE_EXCEEDED when its time is up, and its host is told", function()
    local handle = core.call(address, "Run", "", 0.05)
    local call = wait "call"
    assert.truthy(call.timeout < 0.1, call.timeout) -- gRPC rounds up
    assert.equal(core.codes.DEADLINE_EXCEEDED, wait("done", { handle = handle }).code)
    assert.equal(call.call, wait("gone").call)
  end)

  it("answered at the very moment its caller leaves is neither an error nor a gone event", function()
    local handle = core.call(address, "Run", "")
    local call = wait "call"
    core.cancel(handle)
    host:reply(call.call, 0, nil, "") -- whether the cancellation came first is unknown
    wait("done", { handle = handle })
    host:close()
    for _, event in ipairs(core.take()) do assert.equal("gone", event.type) end
  end)

  it("to nobody ends UNAVAILABLE", function()
    host:close(0)
    core.call(address, "Run", "", 5)
    assert.equal(core.codes.UNAVAILABLE, wait("done").code)
  end)

  it("is refused with a raised error when it is misused", function()
    assert.has_error(function() core.call(address, "Rum", "") end,
      "bad argument #2 to 'call' (no method is called 'Rum'; did you mean 'Run'?)")
    assert.has_error(function() core.call(address, "Run", {}) end)
    assert.has_error(function() core.call(address, "Run") end)
    assert.has_error(function() core.call(nil, "Run", "") end)
    assert.has_error(function() core.call(address, "Run", "", -1) end)
    assert.has_error(function() core.call(address, "Run", "", 0 / 0) end)
    assert.has_error(function() core.cancel "x" end)
  end)
end)

describe("a host", function()
  before_each(function() seen = {} end)

  it("listens on a unix socket too", function()
    local path = os.tmpname()
    os.remove(path)
    local host = assert(core.host("unix:" .. path))
    assert.equal("unix:" .. path, host:address())
    core.call(host:address(), "Ping", "x")
    host:reply(wait("call").call, 0, nil, "y")
    assert.equal("y", wait("done").bytes)
    host:close()
  end)

  it("refuses an address that is taken or is none", function()
    local host = assert(core.host "127.0.0.1:0")
    local second, err = core.host(host:address())
    assert.is_nil(second)
    assert.truthy(#err > 0)
    host:close()
    second, err = core.host "no such place at all"
    assert.is_nil(second)
    assert.truthy(#err > 0)
    assert.has_error(function() core.host() end)
  end)

  it("that closes ends its open calls, the ones not yet taken too, with UNAVAILABLE", function()
    local host = assert(core.host "127.0.0.1:0")
    local first = core.call(host:address(), "Run", "1")
    wait "call"
    local second = core.call(host:address(), "Run", "2")
    wait_readable() -- the second call has come, and nobody takes it
    host:close()
    assert.equal(core.codes.UNAVAILABLE, wait("done", { handle = first }).code)
    assert.equal(core.codes.UNAVAILABLE, wait("done", { handle = second }).code)
    assert.same({}, core.take())
  end)

  it("is unusable once closed, and may be closed again", function()
    local host = assert(core.host "127.0.0.1:0")
    host:close()
    host:close(1)
    assert.has_error(function() host:address() end, "this host is closed")
    assert.is_false(host:reply(1, 0)) -- as to a call that has ended: closing the host ended it
    local scoped
    do
      local again <close> = assert(core.host "127.0.0.1:0")
      scoped = again
    end
    assert.has_error(function() scoped:address() end, "this host is closed")
  end)

  it("that is forgotten is closed by the collector", function()
    local host = assert(core.host "127.0.0.1:0")
    local address = host:address()
    local handle = core.call(address, "Run", "")
    wait "call"
    host = nil -- luacheck: ignore
    seen = {}
    collectgarbage()
    collectgarbage()
    assert.equal(core.codes.UNAVAILABLE, wait("done", { handle = handle }).code)
  end)

  it("refuses replies that make no sense", function()
    local host <close> = assert(core.host "127.0.0.1:0")
    assert.has_error(function() host:reply(1, 17) end)
    assert.has_error(function() host:reply(1, -1) end)
    assert.has_error(function() host:reply("x", 0) end)
    assert.has_error(function() host:reply(1, 3, "no", "bytes") end)
    assert.is_false(host:reply(1, 0))
  end)
end)

describe("fd", function()
  it("is readable while take would return something, and only then", function()
    seen = {}
    local host <close> = assert(core.host "127.0.0.1:0")
    local function readable()
      local poll, is = uv.new_poll(core.fd()), false
      poll:start("r", function() is = true end)
      uv.run "nowait"
      poll:close()
      uv.run "nowait"
      return is
    end
    assert.is_false(readable())
    core.call(host:address(), "Run", "")
    wait_readable()
    assert.is_true(readable())
    local events = core.take()
    assert.equal(1, #events)
    assert.is_false(readable())
    host:reply(events[1].call, 0)
    wait "done"
  end)
end)
