-- world: grpc
-- (it needs the program)
-- Same events, same policies, same seed: the same journal, byte for byte, in two processes (each has a hash seed, a
-- heap and addresses of its own). The history is determinism/history.lua.

local core = require "turboci.core"

-- The journal of one run, as lines: plan, sequence, bytes; and how many changes of which kind it has.
local function run(seed)
  local db = os.tmpname()
  os.remove(db)
  local program = assert(os.getenv "TURBOCI_BIN", "TURBOCI_BIN does not name the turboci program")
  local output = assert(io.popen(("HISTORY_DB='%s' HISTORY_SEED=%d '%s' test tests/spec/determinism/history.lua 2>&1")
    :format(db, seed, program)))
  local said = output:read "a"
  assert.is_true(output:close(), said)
  local lines, kinds = {}, {}
  assert(core.journal(db, function(record)
    lines[#lines + 1] = ("%d %d %s"):format(record.plan_key, record.sequence, record.bytes:gsub(".", function(c)
      return ("%02x"):format(c:byte())
    end))
    for _, change in ipairs(record.changes) do
      local what = change.type == "POLICY" and "POLICY " .. tostring(change.state) or change.type
      kinds[what] = (kinds[what] or 0) + 1
    end
  end))
  for _, suffix in ipairs { "", ".mark", ".lock", "-wal", "-shm" } do os.remove(db .. suffix) end
  return lines, kinds
end

describe("the same history with the same policies", function()
  it("leaves the same journal in two processes, and another one with another seed", function()
    local one, kinds = run(7)
    local two, other = run(7), run(8)
    assert.is_true((kinds["POLICY OPEN"] or 0) > 1, "no circuit opened")
    assert.is_true(#one > 150, #one)
    for _, what in ipairs { "ATTEMPT", "RUNNER", "POLICY" } do
      local found = 0
      for kind, n in pairs(kinds) do if kind:match("^" .. what) then found = found + n end end
      assert.is_true(found > 0, what)
    end
    for i = 1, math.max(#one, #two) do
      if one[i] ~= two[i] then assert.are.equal(one[i], two[i], "record " .. i) end
    end
    assert.are_not.same(one, other)
  end)
end)
