-- turboci.loop: tasks, waiting, timers, signals, queues. Needs no engine.

local loop = require "turboci.loop"
local uv = require "luv"

-- Lets everything else have its turn.
local function turn()
  loop.await(function(resume) loop.timer(0, resume) end)
end

describe("loop.run", function()
  it("returns what the function returns, nils included", function()
    assert.same({ 1, nil, 3, n = 3 }, table.pack(loop.run(function() return 1, nil, 3 end)))
  end)

  it("passes arguments on", function()
    assert.equal(7, loop.run(function(a, b) return a + b end, 3, 4))
  end)

  it("raises the error object of the function unchanged", function()
    local thrown = { code = "X" }
    local ok, err = pcall(loop.run, function() error(thrown) end)
    assert.is_false(ok)
    assert.equal(thrown, err)
  end)

  it("is a plain call inside a task", function()
    assert.equal("inner", loop.run(function() return loop.run(function() return "inner" end) end))
  end)
end)

describe("loop.spawn", function()
  it("runs tasks in the order in which they were spawned, interleaved at their waits", function()
    local log = {}
    loop.run(function()
      local tasks = {}
      for _, name in ipairs { "a", "b" } do
        tasks[#tasks + 1] = loop.spawn(function()
          log[#log + 1] = name .. 1
          turn()
          log[#log + 1] = name .. 2
        end)
      end
      for _, task in ipairs(tasks) do
        task:wait()
      end
    end)
    assert.same({ "a1", "b1", "a2", "b2" }, log)
  end)

  it("never loses an error: the pump raises it when nobody waits for the task", function()
    loop.spawn(function() error("lost?") end)
    local ok, err = pcall(turn)
    assert.is_false(ok)
    assert.matches("lost%?", err)
  end)

  it("gives the error to the one who waits for the task", function()
    local ok, err = loop.run(function()
      local task = loop.spawn(function() error({ mine = true }) end)
      return pcall(task.wait, task)
    end)
    assert.is_false(ok)
    assert.is_true(err.mine)
  end)

  it("lets an ended task be waited for again", function()
    local first, second = loop.run(function()
      local task = loop.spawn(function() return "done" end)
      return task:wait(), task:wait()
    end)
    assert.same({ "done", "done" }, { first, second })
  end)
end)

describe("loop.await", function()
  it("pumps when called outside a task", function()
    assert.equal("rung", loop.await(function(resume) loop.timer(0.001, function() resume("rung") end) end))
  end)

  it("takes an answer that comes before it waits", function()
    assert.equal(5, loop.await(function(resume) resume(5) end))
  end)

  it("counts only the first answer", function()
    assert.equal(1, loop.run(function()
      return loop.await(function(resume)
        resume(1)
        resume(2)
      end)
    end))
  end)

  it("works inside a foreign coroutine of a task", function()
    local value = loop.run(function()
      return coroutine.wrap(function()
        return loop.await(function(resume) loop.timer(0, function() resume("there") end) end)
      end)()
    end)
    assert.equal("there", value)
  end)

  it("refuses to wait for what cannot come", function()
    if uv.loop_alive() then return pending("another spec left a handle open") end
    local ok, err = pcall(loop.await, function() end)
    assert.is_false(ok)
    assert.matches("cannot come", err)
  end)
end)

describe("a task", function()
  it("that yields by itself fails, with the place: nobody would go on with it", function()
    local task
    local ok, err = pcall(loop.run, function()
      task = loop.spawn(function() coroutine.yield() end)
      task:wait()
    end)
    assert.is_false(ok)
    assert.matches("loop_spec.lua:%d+: coroutine.yield in a task", err)
  end)
end)

describe("a scope", function()
  local function nothing() error("told of an error that is none", 0) end

  it("is that of the tasks, timers and what they start", function()
    local scope = loop.scope("mine", nothing)
    local seen = {}
    local function look(where) seen[where] = loop.current_scope() and loop.current_scope().value end
    loop.run(function()
      local rang = loop.queue()
      scope:spawn(function()
        look "task"
        loop.spawn(function() look "task of the task" end)
        loop.timer(0, function()
          look "timer"
          rang:push(true)
        end)
      end)
      rang:pop()
      look "outside"
      assert.is_true(scope:call(look, "call"))
      look "after the call"
    end)
    assert.same({ task = "mine", ["task of the task"] = "mine", timer = "mine", call = "mine" }, seen)
  end)

  it("is told of errors that nobody waits for, and they go nowhere else", function()
    local told = {}
    local scope = loop.scope(nil, function(err) table.insert(told, err) end)
    loop.run(function()
      local waited = scope:spawn(function() error("waited for", 0) end)
      assert.has_error(function() waited:wait() end, "waited for")
      scope:spawn(function() error("alone", 0) end)
      turn()
    end)
    assert.same({ "alone" }, told)
  end)

  it("ends its tasks where they wait when it is closed, closing what is to be closed", function()
    local scope, events = loop.scope(nil, nothing), {}
    loop.run(function()
      local task = scope:spawn(function()
        local _ <close> = setmetatable({}, { __close = function() table.insert(events, "closed") end })
        loop.queue():pop()
        table.insert(events, "went on")
      end)
      local late = loop.timer(0, function() end)
      scope:spawn(function() loop.timer(0, function() table.insert(events, "rang") end) end)
      turn()
      scope:close "enough"
      assert.has_error(function() task:wait() end, "enough")
      assert.has_error(function() scope:spawn(table.insert, events, "began"):wait() end, "enough")
      turn()
      late:close()
    end)
    assert.same({ "rang", "closed" }, { events[1], events[2] })
    assert.equal(2, #events)
  end)

  it("lets the others have their turns when a task of it computes and computes, and ends that too", function()
    local create, wrap = coroutine.create, coroutine.wrap
    finally(function() coroutine.create, coroutine.wrap = create, wrap end) -- luacheck: ignore 122
    loop.adopt_coroutines()
    for _, compute in ipairs {
      function() while true do end end,
      function() while true do pcall(function() while true do end end) end end,
      function() coroutine.wrap(function() while true do end end)() end,
    } do
      local scope = loop.scope(nil, nothing)
      loop.run(function()
        local task = scope:spawn(compute)
        loop.timer(0, function() scope:close "enough" end)
        assert.has_error(function() task:wait() end, "enough")
      end)
    end
  end)

  it("keeps the hook of who counts lines", function()
    local create, lines = coroutine.create, 0
    finally(function() coroutine.create = create end) -- luacheck: ignore 122
    coroutine.create = function(fn) -- luacheck: ignore 122
      local co = create(fn)
      debug.sethook(co, function(event) lines = lines + (event == "line" and 1 or 0) end, "l")
      return co
    end
    local scope = loop.scope(nil, nothing)
    loop.run(function()
      local task = scope:spawn(function()
        local n = 0
        while true do n = n + 1 end
      end)
      loop.timer(0, function() scope:close "enough" end)
      assert.has_error(function() task:wait() end, "enough")
    end)
    assert.is_true(lines > 2)
  end)

  it("ends a task that closes it where it waits next, and one that waits in a foreign coroutine", function()
    local scope, went_on = loop.scope(nil, nothing), false
    loop.run(function()
      local own = scope:spawn(function()
        scope:close "by itself"
        turn()
        went_on = true
      end)
      assert.has_error(function() own:wait() end, "by itself")
      local foreign = loop.scope(nil, nothing)
      local task = foreign:spawn(function()
        coroutine.wrap(function()
          foreign:call(function()
            loop.spawn(function() foreign:close "from inside" end)
            loop.queue():pop()
            went_on = true
          end)
        end)()
        turn()
        went_on = true
      end)
      assert.has_error(function() task:wait() end, "from inside")
    end)
    assert.is_false(went_on)
  end)
end)

describe("loop.wait_until", function()
  it("looks again after whatever the loop did, in a task and outside of one", function()
    local n = 0
    loop.timer(0, function() n = n + 1 end)
    loop.wait_until(function() return n == 1 end)
    loop.run(function()
      loop.spawn(function()
        turn()
        n = n + 1
      end)
      loop.wait_until(function() return n == 2 end)
    end)
    assert.equal(2, n)
  end)

  it("raises when nothing can come any more", function()
    assert.has_error(function() loop.wait_until(function() return false end) end)
  end)
end)

describe("loop.timer", function()
  it("does not ring once it is closed", function()
    local rung = false
    local timer = loop.timer(0.001, function() rung = true end)
    timer:close()
    timer:close()
    loop.await(function(resume) loop.timer(0.005, resume) end)
    assert.is_false(rung)
  end)

  it("rings in order of time", function()
    local log = {}
    loop.await(function(resume)
      loop.timer(0.02, resume)
      loop.timer(0.01, function() log[#log + 1] = "second" end)
      loop.timer(0.001, function() log[#log + 1] = "first" end)
    end)
    assert.same({ "first", "second" }, log)
  end)
end)

describe("loop.on_signal", function()
  it("hands the signal to a task", function()
    local handle
    local name = loop.await(function(resume)
      handle = loop.on_signal("sigusr2", resume)
      uv.kill(uv.os_getpid(), "sigusr2")
    end)
    handle:close()
    assert.equal("sigusr2", name)
  end)
end)

describe("loop.queue", function()
  it("gives values in order, waits for them, and ends when closed and empty", function()
    local queue = loop.queue()
    local got = loop.run(function()
      loop.spawn(function()
        queue:push("a")
        queue:push("b")
        turn()
        queue:push("c")
        queue:close()
        queue:push("too late")
      end)
      local all = {}
      for value in function() return queue:pop() end do
        all[#all + 1] = value
      end
      return all
    end)
    assert.same({ "a", "b", "c" }, got)
  end)
end)
