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
